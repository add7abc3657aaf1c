//! Callers at a terminal: what it shows of a service's output, and that it is left as it was.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use crate::common::{self, lab, within_deadline};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// A pseudoterminal: the side that a person sits at, and the side that programs are given.
fn terminal() -> (OwnedFd, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&outer).unwrap();
    unlockpt(&outer).unwrap();
    let name = ptsname(&outer, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inner = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty()).unwrap();
    (outer, File::from(inner))
}

/// File status flags and terminal settings, as text to compare.
fn state(file: &File) -> String {
    let flags = rustix::fs::fcntl_getfl(file).unwrap();
    format!("{flags:?} {:?}", rustix::termios::tcgetattr(file).unwrap())
}

fn on_terminal(mut command: Command, inner: &File) -> std::process::Child {
    let copy = || Stdio::from(inner.as_fd().try_clone_to_owned().unwrap());
    command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap()
}

#[test]
fn the_callers_terminal_is_left_as_it_was() {
    within_deadline(|| {
        let lab = lab()
            .policy("test.No * @anyvm @anyvm deny\n* * @anyvm @anyvm allow\n")
            .script("vault", "test.Exit", "#!/bin/sh\necho here\nexit $1\n")
            .script("vault", "test.Die", "#!/bin/sh\nkill -KILL $$\n")
            .script("vault", "test.Wait", "#!/bin/sh\necho here $1\nexec cat\n")
            .start()
            .unwrap();
        let (outer, inner) = terminal();
        let before = state(&inner);
        let start = |service: &str| {
            // Whoever runs the tests in the background may have them ignore what a terminal sends.
            let words = ["env", "--default-signal=INT", "qrexec-client-vm", "vault", service];
            on_terminal(lab.command("work", words).unwrap(), &inner)
        };
        for (service, code) in [
            ("test.Exit+0", 0),
            ("test.Exit+3", 3),
            ("test.No", 126),
            ("test.Missing", 127),
            ("test.Die", 137),
        ] {
            let mut child = start(service);
            assert_eq!(common::code(child.wait().unwrap()), code);
            assert_eq!(state(&inner), before, "after {service}");
        }
        let mut screen = BufReader::new(File::from(outer));
        for (name, signal) in [("INT", Signal::INT), ("TERM", Signal::TERM), ("KILL", Signal::KILL)] {
            let mut child = start(&format!("test.Wait+{name}"));
            // Earlier calls have left their words on the screen.
            let mut line = String::new();
            while line != format!("here {name}\r\n") {
                line.clear();
                screen.read_line(&mut line).unwrap();
            }
            kill_process(Pid::from_child(&child), signal).unwrap();
            child.wait().unwrap();
            assert_eq!(state(&inner), before, "after {name}");
        }
    });
}

/// What a terminal has been told to show since the last time.
fn shown(outer: &OwnedFd) -> String {
    rustix::fs::fcntl_setfl(outer, rustix::fs::fcntl_getfl(outer).unwrap() | OFlags::NONBLOCK).unwrap();
    let (mut text, mut block) = (Vec::new(), [0; 4096]);
    loop {
        match rustix::io::read(outer, &mut block) {
            Err(Errno::AGAIN) => return String::from_utf8(text).unwrap(),
            read => text.extend_from_slice(&block[..read.unwrap()]),
        }
    }
}

/// What somebody types is for whoever is in front; a call in the background goes on without it.
#[test]
fn a_call_in_the_background_goes_on_whoever_types() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Late", "#!/bin/sh\necho the answer\nexit 3\n").start().unwrap();
        let (outer, inner) = terminal();
        rustix::io::write(&outer, b"typed for the shell\n").unwrap();
        // Whose terminal it is, and a group for each job, so that the call is in the background.
        let script = "set -m; qrexec-client-vm vault test.Late & wait $!; echo \"code $?\"";
        let words = ["setsid", "-c", "-w", "sh", "-c", script];
        let status = on_terminal(lab.command("work", words).unwrap(), &inner).wait().unwrap();
        let shown = shown(&outer);
        assert!(
            status.success() && shown.contains("the answer\r\n") && shown.contains("code 3\r\n"),
            "{shown}"
        );
        // It is still there for whoever reads it.
        let mut line = [0; 64];
        let count = rustix::io::read(&inner, &mut line).unwrap();
        assert_eq!(&line[..count], b"typed for the shell\n");
    });
}

const ESCAPES: &str = "#!/bin/sh\nprintf 'out\\033[2J\\n'\nprintf 'err\\033[2J\\n' >&2\n";

#[test]
fn escapes_are_filtered_where_a_terminal_shows_them_and_nowhere_else() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Escape", ESCAPES).start().unwrap();
        let (outer, inner) = terminal();
        let ends = |stdout: bool, stderr: bool, words: &[&str]| {
            let mut command = lab.command("work", words).unwrap();
            let terminal = || Stdio::from(inner.as_fd().try_clone_to_owned().unwrap());
            let end = |wanted: bool| if wanted { terminal() } else { Stdio::piped() };
            let output =
                command.stdin(Stdio::null()).stdout(end(stdout)).stderr(end(stderr)).output().unwrap();
            let shown = shown(&outer);
            assert!(output.status.success(), "{output:?}, on the terminal {shown:?}");
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (shown, text(output.stdout), text(output.stderr))
        };
        let plain = ["qrexec-client-vm", "vault", "test.Escape"];
        let (raw_out, raw_err) = ("out\x1b[2J\n", "err\x1b[2J\n");
        let said = |words: (String, String, String), shown: &[&str], stdout: &str, stderr: &str| {
            // The two streams may come in either order.
            assert!(shown.iter().all(|line| words.0.contains(line)), "{words:?}");
            assert_eq!(words.0.len(), shown.iter().map(|line| line.len()).sum::<usize>(), "{words:?}");
            assert_eq!((words.1.as_str(), words.2.as_str()), (stdout, stderr));
        };
        said(ends(true, true, &plain), &["out_[2J\r\n", "err_[2J\r\n"], "", "");
        said(ends(true, false, &plain), &["out_[2J\r\n"], "", raw_err);
        said(ends(false, true, &plain), &["err_[2J\r\n"], raw_out, "");
        said(ends(false, false, &plain), &[], raw_out, raw_err);
        // What goes to a program goes to no terminal, whatever its own output is.
        let program = [&plain[..], &["/bin/sh", "-c", "exec cat >&$SAVED_FD_1"]].concat();
        said(ends(true, true, &program), &["out\x1b[2J\r\n", "err_[2J\r\n"], "", "");
        let unfiltered = ["qrexec-client-vm", "--no-filter-escape-chars-stdout", "vault", "test.Escape"];
        said(ends(true, true, &unfiltered), &["out\x1b[2J\r\n", "err_[2J\r\n"], "", "");
    });
}
