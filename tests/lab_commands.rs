//! What a command in a lab begins with: signals, a terminal, limits; and where a lab is looked for.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, EXE, within_deadline};
use engine::process::begin_on_terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// With namespaces where the system has them, and without.
const MODES: [&[&str]; 2] = [&[], &["--no-namespace"]];
/// What takes longer does not come.
const LOST: Duration = Duration::from_secs(20);

/// A lab whose folder of labs is a folder of this test.
fn qrexec_lab(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(EXE);
    command.args(args).env("XDG_RUNTIME_DIR", home).env_remove("QUBES_LAB_NO_NAMESPACE");
    command
}

fn said(home: &Path, args: &[&str]) -> Output {
    qrexec_lab(home, args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `run` with these further arguments.
fn run(home: &Path, mode: &[&str], more: &[&str]) -> Output {
    said(home, &[&["run"], mode, more].concat())
}

#[test]
fn a_command_starts_with_no_signal_blocked() {
    within_deadline(|| {
        let blocked = ["grep", "SigBlk", "/proc/self/status"];
        let none = "SigBlk:\t0000000000000000\n";
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let output = run(home.path(), mode, &[&["--"], &blocked[..]].concat());
            assert_eq!(text(&output.stdout), none, "{output:?}");
            assert!(said(home.path(), &[&["up"], mode].concat()).status.success());
            let output = said(home.path(), &[&["exec", "work"], &blocked[..]].concat());
            assert_eq!(text(&output.stdout), none, "{output:?}");
            assert!(said(home.path(), &["down"]).status.success());
        }
    });
}

/// To the kernel the memory of a call is a file.
#[test]
fn a_limit_for_files_ends_no_call() {
    within_deadline(|| {
        let home = tempfile::tempdir().unwrap();
        let service = home.path().join("say");
        std::fs::write(&service, "#!/bin/sh\nexec seq 1 20000\n").unwrap();
        std::fs::set_permissions(&service, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let service = format!("vault:test.Say={}", service.display());
        for script in [
            "ulimit -f 10; qrexec-client-vm vault test.Say | tail -n 1",
            "ulimit -f 1000; qrexec-client-vm vault test.Say | tail -n 1",
        ] {
            let output = run(home.path(), &[], &["--service", &service, "--", "sh", "-c", script]);
            assert_eq!(text(&output.stdout), "20000\n", "{output:?}");
        }
        // Too little for any memory at all: an error with words, and no signal.
        let script = "ulimit -f 1; qrexec-client-vm vault test.Say; echo $?";
        let output = run(home.path(), &[], &["--service", &service, "--", "sh", "-c", script]);
        assert_eq!(text(&output.stdout), "125\n", "{output:?}");
        assert!(text(&output.stderr).contains("ulimit -f"), "{output:?}");
    });
}

#[test]
fn a_runtime_folder_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return common::skipped("only root can give a folder away");
    }
    within_deadline(|| {
        let home = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(home.path(), Some(54_321), None).unwrap();
        for args in [&["up"][..], &["run", "--", "true"], &["status"], &["exec", "work", "true"], &["down"]] {
            let output = said(home.path(), args);
            assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
            assert!(text(&output.stderr).contains("belongs to user 54321"), "{args:?}: {output:?}");
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing was left there");
    });
}

#[test]
fn a_lab_below_another_runtime_folder_is_pointed_to() {
    within_deadline(|| {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = format!("far-{}", std::process::id());
        assert!(said(there.path(), &["up", "--name", &name]).status.success());
        let place = format!("XDG_RUNTIME_DIR={} finds it", there.path().display());
        for args in [&["exec", "--name", &name, "work", "true"][..], &["down", "--name", &name]] {
            let output = said(here.path(), args);
            assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
            assert!(text(&output.stderr).contains(&place), "{args:?}: {output:?}");
        }
        let output = said(here.path(), &["status"]);
        assert_eq!(text(&output.stdout), "no lab is running\n");
        assert!(text(&output.stderr).contains(&place), "{output:?}");
        // Its folder lost, it is still known.
        let root = there.path().join("qrexec-lab").join(&name);
        std::fs::rename(&root, there.path().join("lost")).unwrap();
        assert!(text(&said(here.path(), &["status"]).stderr).contains("whose folder is gone"), "{output:?}");
        std::fs::rename(there.path().join("lost"), &root).unwrap();
        assert!(said(there.path(), &["down", "--name", &name]).status.success());
    });
}

/// A lab that stays holds nothing that its caller had open: neither a lock nor a pipe whose reader waits for its end.
#[test]
fn a_lab_that_stays_lets_go_of_what_its_caller_had_open() {
    within_deadline(|| {
        let home = tempfile::tempdir().unwrap();
        let lock = home.path().join("lock");
        let script = format!("exec 9>{}; flock 9; {EXE} up >/dev/null", lock.display());
        let mut command = Command::new("bash");
        command
            .args(["-c", &script])
            .env("XDG_RUNTIME_DIR", home.path())
            .env_remove("QUBES_LAB_NO_NAMESPACE");
        assert!(command.status().unwrap().success());
        let free = std::fs::File::open(&lock).unwrap().try_lock();
        assert!(said(home.path(), &["down"]).status.success());
        free.expect("the lock of a caller that is gone");
    });
}

/// A person at a terminal, and a program that was started there.
struct Person {
    seat: std::fs::File,
    /// Held open, so that what the program said last can be read after its end.
    _stage: OwnedFd,
    seen: String,
    program: Child,
}

impl Person {
    fn starts(mut command: Command) -> Person {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let seat = openpt(flags).unwrap();
        unlockpt(&seat).unwrap();
        let stage = ioctl_tiocgptpeer(&seat, flags).unwrap();
        tcsetwinsize(&seat, Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let end = || Stdio::from(stage.try_clone().unwrap());
        begin_on_terminal(command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "dumb"));
        let program = command.spawn().unwrap();
        Person { seat: seat.into(), _stage: stage, seen: String::new(), program }
    }

    fn types(&mut self, text: &str) {
        self.seat.write_all(text.as_bytes()).unwrap();
    }

    /// Whether `word` is shown within `limit`; what was shown before it is forgotten.
    fn sees_within(&mut self, word: &str, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            if let Some(at) = self.seen.find(word) {
                self.seen.drain(..at + word.len());
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            if poll(&mut [PollFd::new(&self.seat, PollFlags::IN)], Some(&left)).unwrap() == 0 {
                return false;
            }
            let mut buffer = [0; 4096];
            let n = self.seat.read(&mut buffer).unwrap();
            self.seen.push_str(&text(&buffer[..n]));
        }
    }

    fn sees(&mut self, word: &str) {
        assert!(self.sees_within(word, LOST), "{word:?} is not in {:?}", self.seen);
    }

    fn ends(mut self) -> Option<i32> {
        self.program.wait().unwrap().code()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

const SHELL: [&str; 4] = ["bash", "--norc", "--noprofile", "-i"];

/// ^C ends what runs in front of a shell, and not the shell.
fn uses_a_shell(person: &mut Person) {
    // Said by the one that the key is to end: it is in front by then.
    person.types("PS1=; sh -c 'echo be\"\"gan; exec sleep 1000'\n");
    person.sees("began");
    assert!(!person.seen.contains("no job control"), "{:?}", person.seen);
    person.types("\x03");
    // The shell may throw away what was typed just before it noticed.
    let back = (0..50).any(|_| {
        person.types("echo ba''ck\n");
        person.sees_within("back", Duration::from_millis(400))
    });
    assert!(back, "^C did not reach the program in front: {:?}", person.seen);
    // A job of its own, as shells without job control have none.
    person.types("sleep 1000 & jobs | grep -c Run''ning; kill %1\n");
    person.sees("1");
}

#[test]
fn a_shell_in_a_lab_that_stays_has_a_terminal() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            assert!(said(home.path(), &[&["up"], mode].concat()).status.success());
            let mut person =
                Person::starts(qrexec_lab(home.path(), &[&["exec", "work"], &SHELL[..]].concat()));
            uses_a_shell(&mut person);
            person.types("stty size; exit 7\n");
            person.sees("33 99");
            let seat = person.seat.try_clone().unwrap();
            assert_eq!(person.ends(), Some(7));
            assert!(tcgetattr(&seat).unwrap().local_modes.contains(LocalModes::ECHO), "left as it was");
            assert!(said(home.path(), &["down"]).status.success());
        }
    });
}

#[test]
fn a_shell_in_a_lab_of_its_own_has_the_callers_terminal_and_gives_it_back() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let script = format!(
                "{EXE} run {} -- {}; read line; echo \"read $line\"",
                mode.join(" "),
                SHELL.join(" ")
            );
            let mut command = Command::new("sh");
            command
                .args(["-c", &script])
                .env("XDG_RUNTIME_DIR", home.path())
                .env_remove("QUBES_LAB_NO_NAMESPACE");
            let mut person = Person::starts(command);
            uses_a_shell(&mut person);
            person.types("exit\n");
            person.sees("exit");
            let read = (0..50).any(|_| {
                person.types("some''thing\n");
                person.sees_within("read some", Duration::from_millis(400))
            });
            assert!(read, "the terminal was left to a shell that is gone: {:?}", person.seen);
            assert_eq!(person.ends(), Some(0));
        }
    });
}

/// A key of the terminal reaches the command and is its business; the lab does not end because of it.
#[test]
fn a_command_may_live_through_an_interrupt_from_the_terminal() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let script = "trap 'echo once' INT; sh -c 'echo ready; exec sleep 1000'; sleep 2; echo done";
            let args = [&["run"], mode, &["--", "sh", "-c", script]].concat();
            let mut person = Person::starts(qrexec_lab(home.path(), &args));
            person.sees("ready");
            person.types("\x03");
            person.sees("once");
            person.sees("done");
            assert!(!person.seen.contains("once"), "heard twice");
            assert_eq!(person.ends(), Some(0));
        }
    });
}

#[test]
fn usb_devices_of_a_lab_are_listed_attached_and_detached() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let lab = |args: &[&str]| said(home.path(), args);
            let devices = ["--usb", "vault:1-1=stick", "--usb", "vault:2-1.4=keyboard"];
            let output = lab(&[&["up", "-q"], mode, &devices[..]].concat());
            assert!(output.status.success(), "{output:?}");
            let users = || {
                let output = lab(&["usb", "list"]);
                assert!(output.status.success(), "{output:?}");
                let lines = text(&output.stdout);
                let words = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
                lines.lines().map(|line| (words(line)[0].clone(), words(line)[4].clone())).collect::<Vec<_>>()
            };
            let both = |stick: &str, keyboard: &str| {
                [("vault:1-1", stick), ("vault:2-1.4", keyboard)]
                    .map(|(device, user)| (device.to_owned(), user.to_owned()))
            };
            assert_eq!(users(), both("-", "-"));
            for device in ["vault:1-1", "vault:2-1.4"] {
                let output = lab(&["usb", "attach", "work", device]);
                assert!(output.status.success(), "{output:?}");
            }
            assert_eq!(users(), both("work", "work"));
            let again = lab(&["usb", "attach", "work", "vault:1-1"]);
            assert!(again.status.code() == Some(1) && text(&again.stderr).contains("already"), "{again:?}");
            assert!(lab(&["usb", "detach", "work", "vault:1-1"]).status.success());
            common::eventually("the export has it back", || users() == both("-", "work"));
            let twice = lab(&["usb", "detach", "work", "vault:1-1"]);
            assert!(
                twice.status.code() == Some(125) && text(&twice.stderr).contains("has no device"),
                "{twice:?}"
            );
            assert!(lab(&["usb", "detach", "work"]).status.success());
            common::eventually("the export has both back", || users() == both("-", "-"));
            let output = lab(&["usb", "attach", "work", "vault:9-9"]);
            assert!(
                output.status.code() == Some(1) && text(&output.stderr).contains("No such device"),
                "{output:?}"
            );
            assert!(lab(&["down"]).status.success());
        }
    });
}

#[test]
fn a_lab_without_usb_says_how_to_get_it() {
    within_deadline(|| {
        let home = tempfile::tempdir().unwrap();
        assert!(said(home.path(), &["up", "-q"]).status.success());
        let output = said(home.path(), &["usb", "list"]);
        assert!(output.status.code() == Some(125) && text(&output.stderr).contains("--usb"), "{output:?}");
        assert!(said(home.path(), &["down"]).status.success());
        let output = said(home.path(), &["up", "-q", "--usb", "nobody:1-1=stick"]);
        assert!(!output.status.success() && text(&output.stderr).contains("nobody"), "{output:?}");
    });
}
