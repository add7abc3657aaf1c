//! What the compiler does not check in the sources: where `unsafe` may be, and that protocol and policy do no I/O.

use std::fs;
use std::path::{Path, PathBuf};

use crate::code::without_tests;
use crate::steps::{Failure, root};

/// The only folders in which a file may open `unsafe`, each such file being named in `docs/safety.md`.
const UNSAFE_ROOMS: &[&str] = &["ring/", "engine/", "windows/"];

/// Crates that forbid it altogether.
const SAFE_CRATES: &[&str] = &[
    "wire",
    "daemon/policy",
    "agent",
    "agent/core",
    "daemon",
    "daemon/core",
    "cli",
    "cli/copy",
    "cli/remote",
    "cli/lab",
    "cli/usb-sim",
    "perf/bench",
];

/// Crates that only compute: no files, no network, no processes, no clock, no environment.
const PURE_CRATES: &[&str] = &["wire/src/", "daemon/policy/src/", "agent/core/src/", "daemon/core/src/"];

/// What is done in one place for all, and where. Tests may do it themselves.
const ONE_PLACE: &[(&str, &str, &str)] = &[
    ("epoll::create(", "engine/sys/src/reactor.rs", "sys::reactor::Reactor"),
    ("net::bind(", "engine/sys/src/unix.rs", "sys::unix::Bound"),
    ("UnixListener::bind(", "engine/sys/src/unix.rs", "sys::unix::Bound"),
    ("Header::new(ty::HELLO", "wire/src/handshake.rs", "wire::handshake::hello"),
    ("framed(ty::HELLO", "wire/src/handshake.rs", "wire::handshake::hello"),
    ("libc::fork()", "engine/sys/src/process/fork.rs", "sys::process::fork_keeping"),
    ("timerfd_create(", "engine/sys/src/timer.rs", "sys::timer::Timer"),
    ("libc::signalfd(", "engine/sys/src/process/signals.rs", "sys::process::Signals"),
    ("libc::posix_spawn(", "engine/sys/src/process/spawn.rs", "sys::process::spawn"),
    ("getpgrp()", "engine/sys/src/process/begin.rs", "sys::process::group"),
    ("libc::getpw", "engine/src/exec/account.rs", "engine::exec::Account"),
    ("/run/systemd/journal/", "engine/src/exec/stderr_log.rs", "engine::exec::StderrLog"),
    ("seccompiler::apply_filter", "engine/sys/src/confine/filter.rs", "sys::confine"),
];

/// Names that say nothing where each program and each room has its own: a search for one finds them all.
const HOMONYMS: &[(&str, &str)] = &[
    ("struct Args ", "the program's name in front"),
    ("enum Args ", "the program's name in front"),
    ("struct Client ", "whose client"),
    ("enum Client ", "whose client"),
    ("fn serve(", "what is done, as `accept_requests`"),
];

/// The one place that may be called so: the server's end of a data link.
const SERVES: &str = "engine/src/datalink.rs";

/// What a pure crate must not name: what reaches the system, and groups of names among which that could hide. Which other
/// crates it may use, `layering` says.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::time",
    "std::env",
    "std::thread",
    "std::os",
    "std::ffi",
    "std::path",
    "std::{",
    "std as ",
    "std::*",
    "println!",
    "libc::",
    "rustix::",
    "tracing::",
];

pub(crate) fn check() -> Result<Vec<String>, Failure> {
    let root = root();
    let safety = fs::read_to_string(root.join("docs/safety.md"))
        .map_err(|error| format!("docs/safety.md: {error}"))?;
    let mut complaints = Vec::new();
    for name in SAFE_CRATES {
        let text = fs::read_to_string(root.join(name).join("src/lib.rs"))
            .map_err(|error| format!("{name}: {error}"))?;
        if !text.contains("#![forbid(unsafe_code)]") {
            complaints.push(format!("{name}/src/lib.rs does not forbid unsafe code"));
        }
    }
    for path in rust_files(&root)? {
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
        complaints.extend(unsafe_complaint(&name, &text, &safety));
        complaints.extend(impure_complaint(&name, &text));
        complaints.extend(second_places(&name, &text));
        complaints.extend(homonyms(&name, &text));
        complaints.extend(sentence_complaint(&name, &text));
    }
    complaints.extend(forgotten_tests(&root)?);
    Ok(complaints)
}

/// Files of `tests` that are no part of its one test program, so that cargo would not run what is in them.
fn forgotten_tests(root: &Path) -> Result<Vec<String>, Failure> {
    let folder = root.join("tests");
    let main =
        fs::read_to_string(folder.join("main.rs")).map_err(|error| format!("tests/main.rs: {error}"))?;
    let entries = fs::read_dir(&folder).map_err(|error| format!("tests: {error}"))?;
    let modules = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| {
        path.join("mod.rs").exists() || path.extension().is_some_and(|extension| extension == "rs")
    });
    let names = modules.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    let forgotten =
        names.filter(|name| !["main", "tested"].contains(&name.as_str()) && !has_module(&main, name));
    Ok(forgotten
        .map(|name| format!("tests/main.rs has no module {name}, so nobody runs its tests"))
        .collect())
}

fn has_module(source: &str, name: &str) -> bool {
    source.lines().any(|line| line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) == Some(name))
}

fn unsafe_complaint(name: &str, text: &str, safety: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("#![allow(unsafe_code)]"))?;
    if !UNSAFE_ROOMS.iter().any(|room| name.starts_with(room)) {
        return Some(format!("{name} opens unsafe code outside of {}", UNSAFE_ROOMS.join(" and ")));
    }
    if !line.contains("//") {
        return Some(format!("{name} opens unsafe code without a reason on the same line"));
    }
    (!safety.contains(name)).then(|| format!("{name} opens unsafe code and is not in docs/safety.md"))
}

/// Tests may do as they like.
fn impure_complaint(name: &str, text: &str) -> Option<String> {
    let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
    if is_test || !PURE_CRATES.iter().any(|folder| name.starts_with(folder)) {
        return None;
    }
    let code = without_tests(text);
    let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let line = lines.find(|line| IMPURE.iter().any(|word| line.contains(word)))?;
    Some(format!("{name} is in a pure crate and says `{}`", line.trim()))
}

/// The lines of what is installed, without comments: tests, and tools that are not installed, may do as they like.
fn installed_code(name: &str, text: &str) -> Vec<String> {
    let apart = ["xtask/", "perf/", "tests/", "benches/"];
    let is_apart = apart.iter().any(|folder| name.starts_with(folder));
    if is_apart || name.contains("/tests/") || name.ends_with("tests.rs") {
        return Vec::new();
    }
    let code = without_tests(text);
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect()
}

/// Names that others have already.
fn homonyms(name: &str, text: &str) -> Vec<String> {
    let lines = installed_code(name, text);
    let is_said = |what: &str| name != SERVES && lines.iter().any(|line| line.contains(what));
    let said = HOMONYMS.iter().filter(|(what, _)| is_said(what));
    said.map(|(what, instead)| format!("{name} says `{}`; call it by {instead}", what.trim())).collect()
}

/// An error that is a `String`: nobody who gets it can tell one from another. Types have the sentence as their `Display`.
fn sentence_complaint(name: &str, text: &str) -> Option<String> {
    let lines = if name.ends_with("fuzzing.rs") { Vec::new() } else { installed_code(name, text) };
    let is_error = |line: &&String| {
        line.contains("Result<") && [", String>", ", &'static str>"].iter().any(|end| is_last(line, end))
    };
    let line = lines.iter().find(is_error)?;
    Some(format!("{name} has a sentence for an error, not a type: `{}`", line.trim()))
}

/// Whether a `Result` of this line ends so. A map of strings within it does not.
fn is_last(line: &str, end: &str) -> bool {
    let Some((_, result)) = line.split_once("Result<") else { return false };
    let mut depth = 1_usize;
    for (at, byte) in result.bytes().enumerate() {
        match byte {
            b'<' => depth = depth.saturating_add(1),
            b'>' if depth == 1 => return result.get(..=at).is_some_and(|result| result.ends_with(end)),
            b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A second place for what has one.
fn second_places(name: &str, text: &str) -> Vec<String> {
    let lines = installed_code(name, text);
    let is_said = |what: &str| lines.iter().any(|line| line.contains(what));
    let others = ONE_PLACE.iter().filter(|(what, place, _)| *place != name && is_said(what));
    others.map(|(what, _, instead)| format!("{name} says `{what}`: {instead} does that for all")).collect()
}

/// All Rust files of the repository; build output and hidden folders left out.
pub(crate) fn rust_files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name();
            let kind = entry.file_type().map_err(|error| format!("{}: {error}", path.display()))?;
            let hidden = name.as_encoded_bytes().starts_with(b".");
            if kind.is_dir() && !hidden && name != "target" {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED: &str = "#![allow(unsafe_code)] // the mapping\nfn f() {}";

    #[test]
    fn unsafe_needs_a_room_a_reason_and_an_entry() {
        assert!(unsafe_complaint("ring/src/a.rs", OPENED, "see ring/src/a.rs").is_none());
        assert!(unsafe_complaint("ring/src/a.rs", OPENED, "").is_some());
        assert!(unsafe_complaint("cli/src/a.rs", OPENED, "cli/src/a.rs").is_some());
        assert!(unsafe_complaint("ring/src/a.rs", "#![allow(unsafe_code)]", "ring/src/a.rs").is_some());
        assert!(unsafe_complaint("ring/src/a.rs", "fn f() {}", "").is_none());
    }

    #[test]
    fn a_module_is_what_is_declared_and_not_what_is_talked_about() {
        assert!(has_module("mod call;\nmod lab;", "lab"));
        assert!(!has_module("// mod lab;\nmod lab_commands;\n#[cfg(none)] mod lab;", "lab"));
    }

    #[test]
    fn what_has_a_place_is_not_done_in_another() {
        let makes = "let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;";
        assert_eq!(second_places("ring/src/a.rs", makes).len(), 1);
        assert!(second_places("engine/sys/src/reactor.rs", makes).is_empty());
        assert!(second_places("ring/tests/a.rs", makes).is_empty());
        assert!(second_places("ring/src/a.rs", &format!("// {makes}\n#[cfg(test)]\n{makes}")).is_empty());
        assert_eq!(second_places("ring/src/a.rs", &format!("#[cfg(test)]\nuse b;\n{makes}")).len(), 1);
        assert_eq!(second_places("agent/src/a.rs", "UnixListener::bind(path)").len(), 1);
    }

    #[test]
    fn an_error_is_a_type() {
        let complaint = |line: &str| sentence_complaint("agent/src/a.rs", line);
        assert!(complaint("fn f(a: &str) -> Result<(), String> {").is_some());
        assert!(complaint("fn f() -> Result<Option<Map<String, u8>>, &'static str>;").is_some());
        assert!(complaint("fn f() -> Result<BTreeMap<String, String>, Error> {").is_none());
        assert!(complaint("fn f() -> io::Result<String> {").is_none());
        assert!(complaint("#[cfg(test)]\nfn f() -> Result<(), String> {}").is_none());
        assert!(sentence_complaint("cli/copy/src/a.rs", "-> Result<(), String>").is_some());
    }

    #[test]
    fn a_name_is_had_once() {
        assert_eq!(homonyms("cli/src/a.rs", "struct Args {\nfn serve() {}").len(), 2);
        assert!(
            homonyms("cli/src/a.rs", "struct LintArgs {\n    Client(u8),\nfn serve_while() {").is_empty()
        );
        assert!(homonyms(SERVES, "pub fn serve(").is_empty());
    }

    #[test]
    fn pure_crates_name_no_system() {
        assert!(impure_complaint("wire/src/a.rs", "use std::fs;").is_some());
        assert!(impure_complaint("wire/src/a.rs", "// unlike std::fs\n#[cfg(test)]\nuse std::fs;").is_none());
        assert!(impure_complaint("engine/src/a.rs", "use std::fs;").is_none());
        assert!(impure_complaint("agent/core/src/lib.rs", "use std::{collections::BTreeMap, fs};").is_some());
        assert!(impure_complaint("daemon/core/src/call.rs", "tracing::info!(\"\")").is_some());
        assert!(impure_complaint("daemon/core/src/tests/stage.rs", "use std::time::Duration;").is_none());
        assert!(impure_complaint("daemon/src/driver/mod.rs", "use std::time::Instant;").is_none());
    }
}
