//! A C header of this system, against which a crate's bindings are held. Shared by the tests of the three crates.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use xenevtchn_sys::load::Signature;

/// The preprocessed header, and the C program that asserts things about it.
pub(crate) struct Header {
    name: &'static str,
    text: String,
    source: String,
}

impl Header {
    /// `None`, with a line, where there is no C compiler or no such header.
    pub(crate) fn find(name: &'static str) -> Option<Header> {
        let found = cc(&["-E", "-P"], &format!("#include <{name}>\n"));
        match found.filter(|output| output.status.success()) {
            Some(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let source = format!("#include <stddef.h>\n#include <{name}>\n");
                Some(Header { name, text, source })
            }
            None => {
                println!("skipped: no C compiler, or no {name} (Debian: libxen-dev)");
                None
            }
        }
    }

    /// Both have the same functions, and each has the same type in both.
    pub(crate) fn has_exactly(&mut self, prefixes: &[&str], functions: &[Signature], structs: &[&str]) {
        let mut theirs = self.functions(prefixes);
        let mut ours: Vec<String> = functions.iter().map(|function| function.name.to_owned()).collect();
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs, "functions of {}", self.name);
        for Signature { name, args, ret } in functions {
            let args: Vec<String> = args.iter().map(|ty| in_c(ty, structs)).collect();
            let ret = if ret.is_empty() { "void".to_owned() } else { in_c(ret, structs) };
            let function = format!("{ret} ({})", args.join(", "));
            self.holds(&format!("__builtin_types_compatible_p(__typeof__({name}), {function})"));
        }
    }

    /// `expression` is true in C.
    pub(crate) fn holds(&mut self, expression: &str) {
        let words = expression.replace('"', "'");
        self.source.push_str(&format!("_Static_assert({expression}, \"{words}\");\n"));
    }

    /// Compiles what was said.
    pub(crate) fn agrees(self) {
        let output = cc(&["-std=gnu11", "-fsyntax-only"], &self.source).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Whether it is compared at all: a wrong assertion fails.
    pub(crate) fn notices_a_difference(name: &'static str) {
        let Some(mut header) = Header::find(name) else { return };
        header.holds("sizeof(int) == 1");
        let output = cc(&["-std=gnu11", "-fsyntax-only"], &header.source).unwrap();
        assert!(!output.status.success());
    }

    /// Names with these prefixes in front of a bracket.
    fn functions(&self, prefixes: &[&str]) -> Vec<String> {
        let mut names = Vec::new();
        for (at, _) in self.text.match_indices('(') {
            let before = self.text[..at].trim_end();
            let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
            let name = &before[start..];
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

/// A Rust type of the bindings, in C.
fn in_c(ty: &str, structs: &[&str]) -> String {
    if let Some(inner) = ty.strip_prefix("*mut ") {
        return format!("{} *", in_c(inner, structs));
    }
    if let Some(inner) = ty.strip_prefix("*const ") {
        return format!("const {} *", in_c(inner, structs));
    }
    match ty {
        "c_int" => "int".to_owned(),
        "c_uint" => "unsigned int".to_owned(),
        "c_char" => "char".to_owned(),
        "c_void" => "void".to_owned(),
        "u32" => "uint32_t".to_owned(),
        "usize" => "size_t".to_owned(),
        name if structs.contains(&name) => format!("struct {name}"),
        name => name.to_owned(),
    }
}

fn cc(options: &[&str], source: &str) -> Option<Output> {
    let mut command = Command::new("cc");
    command.args(options).args(["-x", "c", "-"]);
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().ok()?;
    child.stdin.take()?.write_all(source.as_bytes()).ok()?;
    child.wait_with_output().ok()
}

/// Asserts size, alignment and places of members of a C structure, as this crate has them.
#[allow(unused_macros, reason = "one of the libraries has no structures")]
macro_rules! same_layout {
    ($header:expr, $ours:ty, $theirs:literal, $($member:ident $c:literal),* $(,)?) => {
        $header.holds(&format!("sizeof({}) == {}", $theirs, size_of::<$ours>()));
        $header.holds(&format!("_Alignof({}) == {}", $theirs, align_of::<$ours>()));
        $( $header.holds(&format!("offsetof({}, {}) == {}", $theirs, $c, std::mem::offset_of!($ours, $member))); )*
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use same_layout;
