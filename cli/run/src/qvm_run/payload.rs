//! What is asked of a qube for a command: a service, and what it reads first.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use cli::failure::Failure;

use crate::vmexec;

/// Longest service with argument that every way carries: a user's name, the source and the words around them leave room
/// for no more in one message.
const MAX_SERVICE: usize = 4000;

/// Longest text that fits one word of a command line of Linux, which is how the client gets it.
const MAX_TEXT: usize = (128 << 10) - 1;

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A line for a shell.
    Line(OsString),
    /// A program and its arguments.
    Words(Vec<OsString>),
    /// A service.
    Service(String),
    /// A script of this machine, and its arguments.
    Script(PathBuf, Vec<OsString>),
}

impl What {
    pub(super) fn of(
        words: Vec<OsString>,
        service: bool,
        no_shell: bool,
        script: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        if let Some(script) = script {
            return Ok(Self::Script(script, words));
        }
        let wrong = || Failure::usage("a command is needed");
        match (words.as_slice(), service) {
            ([], _) => Err(wrong()),
            ([name], true) => name
                .to_str()
                .map(|name| Self::Service(name.into()))
                .ok_or_else(|| Failure::usage("the service's name is not text")),
            (_, true) => {
                Err(Failure::usage("a service takes no words: its argument is behind a '+' in its name"))
            }
            // An argument that is one empty word cannot be said.
            ([word], false) if word.is_empty() => Err(wrong()),
            ([line], false) if !no_shell => Ok(Self::Line(line.clone())),
            _ => Ok(Self::Words(words)),
        }
    }

    pub(super) fn script(&self) -> Option<&Path> {
        match self {
            Self::Script(path, _) => Some(path),
            _ => None,
        }
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        let join = |words: &[OsString]| {
            words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        match self {
            Self::Line(line) => line.to_string_lossy().into_owned(),
            Self::Words(words) => join(words),
            Self::Service(name) => name.clone(),
            Self::Script(path, words) => format!("{} {}", path.display(), join(words)).trim_end().to_owned(),
        }
    }
}

/// What a qube can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// It has `qubes.VMExec`.
    pub(super) vmexec: bool,
    /// Its shell is that of Windows.
    pub(super) windows: bool,
    /// Root has services of its own.
    pub(super) root: bool,
    /// A new disposable is to wait for its session itself.
    pub(super) waits: bool,
}

impl Default for Abilities {
    /// What every qube of today has.
    fn default() -> Self {
        Self { vmexec: true, windows: false, root: false, waits: false }
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// With its argument, or a `+` and nothing behind it.
    pub(super) service: String,
    /// What it reads before all else.
    pub(super) first: Vec<u8>,
}

impl Payload {
    pub(super) fn new(what: &What, can: Abilities) -> Result<Self, Failure> {
        let payload = match what {
            What::Service(name) if name.contains('+') => Self { service: name.clone(), first: Vec::new() },
            What::Service(name) => Self { service: format!("{name}+"), first: Vec::new() },
            What::Line(line) => Self::shell(line, can),
            What::Words(words) if can.vmexec => Self::words(words, can),
            What::Words(words) => Self::shell(&quoted(words), can),
            What::Script(_, words) => {
                let call = ["sh", "-s", "--"].map(OsString::from).into_iter().chain(words.iter().cloned());
                Self::words(&call.collect::<Vec<_>>(), can)
            }
        };
        if payload.service.len() > MAX_SERVICE {
            return Err(Failure::trouble(format!(
                "the command's words are {} bytes long as an argument, and {MAX_SERVICE} are possible: put it into a \
                 file and use --script",
                payload.service.len()
            )));
        }
        if payload.first.len() > MAX_TEXT {
            return Err(Failure::trouble(format!(
                "the command is {} bytes long, and {MAX_TEXT} are possible: put it into a file and use --script",
                payload.first.len()
            )));
        }
        Ok(payload)
    }

    fn words(words: &[OsString], can: Abilities) -> Self {
        let name = match (can.waits, can.root) {
            (true, _) => "qubes.VMExecGUI",
            (_, true) => "qubes.VMRootExec",
            _ => "qubes.VMExec",
        };
        Self { service: format!("{name}+{}", vmexec::encode(words)), first: Vec::new() }
    }

    fn shell(line: &OsStr, can: Abilities) -> Self {
        let service = match (can.waits, can.root) {
            (true, _) => "qubes.VMShell+WaitForSession",
            (_, true) => "qubes.VMRootShell+",
            _ => "qubes.VMShell+",
        };
        let first = if can.windows { windows(line) } else { replaced(line) };
        Self { service: service.into(), first }
    }
}

/// The line as the only command that the shell reads from its input: in quotes, so that no comment, open quote or `&` of
/// it can make the shell take what comes behind, the caller's data, for commands.
fn replaced(line: &OsStr) -> Vec<u8> {
    [b"exec bash -c ", quote(line).as_slice(), b" || exit 127\n"].concat()
}

fn windows(line: &OsStr) -> Vec<u8> {
    let mut line = line.as_bytes();
    while let Some(rest) = line.strip_suffix(b"\n") {
        line = rest;
    }
    [line, b"& exit\n"].concat()
}

/// One word for any shell of unix.
fn quote(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            _ => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

fn quoted(words: &[OsString]) -> OsString {
    OsString::from_vec(words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(&b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, can: Abilities) -> (String, String) {
        let payload = Payload::new(&What::Line(text.into()), can).unwrap();
        (payload.service, String::from_utf8(payload.first).unwrap())
    }

    #[test]
    fn a_line_is_the_only_command_that_the_shell_reads() {
        let sent = |text| line(text, Abilities::default());
        let service = "qubes.VMShell+".to_owned();
        assert_eq!(
            sent("echo a #note"),
            (service.clone(), "exec bash -c 'echo a #note' || exit 127\n".into())
        );
        assert_eq!(sent("echo 'x'").1, "exec bash -c 'echo '\\''x'\\''' || exit 127\n");
        let windows = Abilities { windows: true, ..Abilities::default() };
        assert_eq!(line("dir\n\n", windows), (service, "dir& exit\n".into()));
        let root = Abilities { root: true, ..Abilities::default() };
        assert_eq!(line("id", root).0, "qubes.VMRootShell+");
    }

    #[test]
    fn words_need_no_shell_where_the_qube_can_do_without() {
        let words = What::Words(vec!["echo".into(), "it's".into()]);
        let payload = Payload::new(&words, Abilities::default()).unwrap();
        assert_eq!((payload.service.as_str(), payload.first.len()), ("qubes.VMExec+echo+it-27s", 0));
        let old = Abilities { vmexec: false, ..Abilities::default() };
        let payload = Payload::new(&words, old).unwrap();
        assert_eq!(
            payload.first,
            br"exec bash -c ''\''echo'\'' '\''it'\''\'\'''\''s'\''' || exit 127
"
        );
        let waits = Abilities { waits: true, ..Abilities::default() };
        assert_eq!(Payload::new(&words, waits).unwrap().service, "qubes.VMExecGUI+echo+it-27s");
    }

    #[test]
    fn what_is_too_long_names_the_limit() {
        let long = What::Words(vec!["x".repeat(5000).into()]);
        let failure = Payload::new(&long, Abilities::default()).unwrap_err();
        assert!(failure.message.contains("4000") && failure.message.contains("--script"), "{failure:?}");
        let long = What::Line("x".repeat(200_000).into());
        assert!(Payload::new(&long, Abilities::default()).unwrap_err().message.contains("131071"));
    }
}
