//! What administrators find in the logs.

mod common;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{EXE, call, lab, leftovers, within_deadline};

/// The log of an agent that cannot start, with this in its environment.
fn words(args: &[&str], env: &[(&str, &str)], journal: bool) -> String {
    let (ours, theirs) = std::io::pipe().unwrap();
    let theirs = OwnedFd::from(theirs);
    let mut command = Command::new(EXE);
    std::os::unix::process::CommandExt::arg0(&mut command, "qrexec-agent");
    command.args(args).env_remove("QREXEC_LOG").env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
    command.env("QREXEC_TRANSPORT", "nonsense").envs(env.iter().copied()).stdin(Stdio::null());
    if journal {
        let stat = rustix::fs::fstat(&theirs).unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino));
    }
    let mut child = command.stderr(theirs).spawn().unwrap();
    drop(command);
    let mut text = String::new();
    let mut ours = ours;
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    text
}

#[test]
fn levels_are_words_for_people_and_numbers_for_the_journal() {
    let text = words(&[], &[], false);
    assert!(text.trim_start().starts_with("ERROR no way to reach dom0"), "{text:?}");
    let text = words(&[], &[], true);
    assert!(text.starts_with("<3>no way to reach dom0"), "{text:?}");
    // A variable that came from somebody else's service means nothing.
    let text = words(&[], &[("JOURNAL_STREAM", "1:1")], false);
    assert!(text.trim_start().starts_with("ERROR"), "{text:?}");
}

#[test]
fn the_option_comes_before_the_variables() {
    let off = [("QREXEC_LOG", "off")];
    assert_eq!(words(&[], &off, false), "");
    assert_eq!(words(&[], &[("RUST_LOG", "off")], false), "");
    assert_ne!(words(&[], &[("QREXEC_LOG", "error"), ("RUST_LOG", "off")], false), "");
    assert_ne!(words(&["--log-level=error"], &off, false), "");
}

#[test]
fn each_call_has_its_line() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Three", "#!/bin/sh\ncat\nexit 3\n").start().unwrap();
        assert_eq!(call(&lab, "work", "vault", "test.Three+x", b"payload").code, 3);
        assert_eq!(leftovers(&lab, Duration::from_secs(10)), []);
        let read = |vm: &str, name: &str| std::fs::read_to_string(lab.layout().log(vm).join(name)).unwrap();
        let log = read("vault", "agent.log");
        let line = log.lines().find(|line| line.contains("exit code")).unwrap_or_else(|| panic!("{log}"));
        for part in ["test.Three+x work", "exit code 3", "7 bytes in", "7 bytes out", " s"] {
            assert!(line.contains(part), "{line:?}: {part:?}");
        }
        let log = read("dom0", "daemon-work.log");
        let decided = log
            .lines()
            .any(|line| ["test.Three+x", "work", "vault", "allowed"].iter().all(|part| line.contains(part)));
        assert!(decided, "{log}");
        assert!(!log.contains("payload"));
    });
}
