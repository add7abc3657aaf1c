//! What administrators find in the logs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{
    self, EXE, call, eventually, folder, lab, leftovers, program, run, wait_within, within_deadline,
};

/// The log of an agent that cannot start, with this in its environment.
fn words(args: &[&str], env: &[(&str, &str)], journal: bool) -> String {
    let (ours, theirs) = std::io::pipe().unwrap();
    let theirs = OwnedFd::from(theirs);
    let mut command = Command::new(EXE);
    command.arg0("qrexec-agent");
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
        for part in ["test.Three+x work", "exit code 3", "7 bytes in", "7 bytes out", " s, port "] {
            assert!(line.contains(part), "{line:?}: {part:?}");
        }
        assert!(has_time(line), "{line:?}");
        // What joins the lines of one call.
        let port = line.rsplit(' ').next().unwrap().to_owned();
        // The agent is heard of by dom0 after its program has ended.
        for daemon in ["daemon-work.log", "daemon-vault.log"] {
            eventually("the daemons' lines", || about(&read("dom0", daemon), "test.Three") == 1);
        }
        let log = read("dom0", "daemon-work.log");
        let port = format!(", port {port}");
        has(&log, &["qrexec: test.Three+x: work -> vault: allowed to vault by ", ", ended after ", &port]);
        assert!(log.lines().all(has_time), "{log}");
        for file in ["dom0", "work", "vault"]
            .map(|vm| std::fs::read_dir(lab.layout().log(vm)).unwrap())
            .into_iter()
            .flatten()
        {
            let path = file.unwrap().path();
            assert!(!std::fs::read_to_string(&path).unwrap().contains("payload"), "{}", path.display());
        }
        // The daemon of the target knows who called.
        has(&read("dom0", "daemon-vault.log"), &["qrexec: test.Three+x: work -> vault: ended after ", &port]);
    });
}

/// Whether a line of a log file says when it was written: a moment ago.
fn has_time(line: &str) -> bool {
    let time = line.split(' ').next().and_then(|word| humantime::parse_rfc3339(word).ok());
    time.and_then(|time| time.elapsed().ok()).is_some_and(|ago| ago < common::DEADLINE)
}

/// How many lines have this in them.
fn about(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

/// One line has all of these in it.
fn has(log: &str, parts: &[&str]) {
    assert!(log.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?} in {log}");
}

#[test]
fn calls_of_dom0_and_to_dom0_have_their_line_too() {
    within_deadline(|| {
        let allow = "* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n";
        let lab = lab().policy(allow).script("dom0", "test.Four", "#!/bin/sh\ncat\necho x\nexit 4\n");
        let lab = lab.start().unwrap();
        let read = || std::fs::read_to_string(lab.layout().log("dom0").join("daemon-work.log")).unwrap();
        assert_eq!(call(&lab, "work", "dom0", "test.Four", b"payload").code, 4);
        let command = ["qrexec-client", "-d", "work", "DEFAULT:echo secret"];
        assert_eq!(run(&lab, "dom0", &command, b"").code, 0);
        eventually("both lines", || about(&read(), "ended after") == 2);
        let log = read();
        has(
            &log,
            &[
                "qrexec: test.Four+: work -> dom0: allowed to dom0 by ",
                ", exit code 4, 7 bytes in, 9 bytes out, port ",
            ],
        );
        has(&log, &["qrexec: a command: dom0 -> work: ended after ", " s, port "]);
        assert_eq!((about(&log, "test.Four"), about(&log, "a command")), (1, 1), "{log}");
        // A qube that is not there is @default to the policy, and the one line of the call says so.
        assert_eq!(call(&lab, "work", "nobody", "test.Four", b"").code, 126);
        eventually("its line", || about(&read(), "work -> nobody") > 0);
        has(&read(), &["qrexec: test.Four+: work -> nobody: denied: ", " (no such qube, taken as @default)"]);
        assert_eq!((about(&read(), "nobody"), about(&read(), "no such qube")), (1, 1), "{}", read());
        assert!(!log.contains("secret") && !log.contains("payload"));
    });
}

/// Where there is no room for messages any more, programs still end as they should.
#[test]
fn a_full_disk_changes_no_exit_code() {
    within_deadline(|| {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let root = folder();
        for (args, code) in [
            (&["qrexec-client-vm", "vault", "test.Echo"][..], 125),
            (&["qrexec-client-vm"], 2),
            (&["qrexec-client-vm", "--help"], 0),
            (&["qrexec-client", "-d", "vault", "DEFAULT:true"], 125),
            (&["qrexec-client", "-d"], 2),
            (&["qrexec-agent", "--nonsense"], 2),
            (&["qrexec-daemon"], 2),
            (&["qubes-rpc-multiplexer"], 2),
            (&["qubes-rpc-multiplexer", "test.None", "work"], 127),
            (&["qrexec-policy-eval", "--nonsense"], 2),
        ] {
            let mut command = program(root.path(), "3", args);
            let status = command.stdout(full()).stderr(full()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{args:?}");
        }
        let lab = lab().policy("* * * * deny\n").start().unwrap();
        let mut refused = lab.command("work", ["qrexec-client-vm", "vault", "test.Echo"]).unwrap();
        let refused = refused.stdin(Stdio::null()).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(refused.code(), Some(126));
    });
}

/// Makes the daemon write one line: a client that does not say what it should.
fn line(socket: &Path) {
    let mut client = UnixStream::connect(socket).unwrap();
    client.write_all(&[0xff; 64]).unwrap();
    // Closed with bytes that it did not read, which is an error here.
    let _ = client.read_to_end(&mut Vec::new());
}

#[test]
fn a_flood_does_not_silence_a_daemon_in_the_background() {
    within_deadline(|| {
        let root = folder();
        let root = root.path();
        let start = |own, args: &[&str]| {
            program(root, own, args).stderr(File::create(root.join("log")).unwrap()).spawn().unwrap()
        };
        let mut agent = start("3", &["qrexec-agent"]);
        let mut parent = start("0", &["qrexec-daemon", "3", "work"]);
        assert_eq!(wait_within(&mut parent, Duration::from_secs(60)), Some(0));
        let (socket, log) = (root.join("qrexec.work"), root.join("qrexec.work.log"));
        let daemon = UnixStream::connect(&socket).unwrap();
        let daemon = rustix::net::sockopt::socket_peercred(&daemon).unwrap().pid;
        (0..1200).for_each(|_| line(&socket));
        eventually("the first line after the flood", || {
            line(&socket);
            std::fs::read_to_string(&log).unwrap().contains("log lines were suppressed")
        });
        rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    });
}

/// What a VM makes a service of dom0 say looks like what it is, and takes no line of another VM's.
#[test]
fn error_output_in_dom0_is_marked_escaped_and_bounded() {
    within_deadline(|| {
        let allow = "* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n";
        let says = "#!/bin/sh\ncat >&2\n";
        let floods = "#!/bin/sh\nyes a-line | head -n 5000 >&2\n";
        let lab = lab().policy(allow).script("dom0", "test.Says", says).script("dom0", "test.Floods", floods);
        let lab = lab.script("work", "test.Echo", "#!/bin/sh\ncat\n").start().unwrap();
        let read = || std::fs::read_to_string(lab.layout().log("dom0").join("daemon-work.log")).unwrap();
        let forged = "2026-01-01T00:00:00.000Z  INFO vault -> dom0: test.Forged: allowed";
        let said = format!("{forged}\n\x1b[2J\n\n{}\nno end", "x".repeat(300));
        assert_eq!(call(&lab, "work", "dom0", "test.Says+a", said.as_bytes()).code, 0);
        eventually("the last word", || read().contains("test.Says+a for work: no end"));
        let log = read();
        has(&log, &[&format!("test.Says+a for work: {forged}")]);
        has(&log, &["test.Says+a for work: \\x1b[2J"]);
        has(&log, &[&format!("for work: {}", "x".repeat(256))]);
        has(&log, &[&format!("for work: {}", "x".repeat(44))]);
        assert!(log.lines().all(has_time) && !log.contains('\x1b'), "{log}");

        for _ in 0..3 {
            assert_eq!(call(&lab, "work", "dom0", "test.Floods", b"").code, 0);
        }
        assert_eq!(call(&lab, "vault", "work", "test.Echo", b"").code, 0);
        eventually("the line of another VM", || read().contains("qrexec: test.Echo+: vault -> work"));
        let lines = about(&read(), "a-line");
        // A burst and, while the flood lasts, a hundred a second.
        assert!((500..3000).contains(&lines), "{lines} lines");
    });
}

/// What a service leaves running in dom0 may go on to speak when the call is over.
#[test]
fn what_a_service_of_dom0_leaves_running_is_heard() {
    within_deadline(|| {
        let allow = "* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n";
        let service = "#!/bin/sh\nmkfifo \"$HOME/go\"\n(exec <&- >&-; read x <\"$HOME/go\"; echo later >&2) &\necho now >&2\n";
        let lab = lab().policy(allow).script("dom0", "test.Leaves", service).start().unwrap();
        let read = || std::fs::read_to_string(lab.layout().log("dom0").join("daemon-work.log")).unwrap();
        assert_eq!(call(&lab, "work", "dom0", "test.Leaves", b"").code, 0);
        eventually("the end of the call", || read().contains("ended after"));
        assert_eq!(about(&read(), "test.Leaves+ for work: now"), 1);
        std::fs::write(lab.layout().home("dom0").join("go"), "\n").unwrap();
        eventually("a late word", || about(&read(), "test.Leaves+ for work: later") == 1);
        assert_eq!(leftovers(&lab, Duration::from_secs(10)), []);
    });
}

/// A log that is full is left as it is, and one line says so.
#[test]
fn a_log_has_a_largest_size() {
    within_deadline(|| {
        let root = folder();
        let root = root.path();
        let log = root.join("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        // Room for a few lines.
        file.set_len((64 << 20) - 1000).unwrap();
        let mut agent = program(root, "3", &["qrexec-agent"]).stderr(Stdio::null()).spawn().unwrap();
        let mut daemon =
            program(root, "0", &["qrexec-daemon", "-D", "3", "work"]).stderr(file).spawn().unwrap();
        let socket = root.join("qrexec.work");
        eventually("the daemon", || UnixStream::connect(&socket).is_ok());
        let size = || std::fs::metadata(&log).unwrap().len();
        eventually("the end of the log", || {
            line(&socket);
            size() > 64 << 20
        });
        let full = size();
        (0..20).for_each(|_| line(&socket));
        for child in [&mut agent, &mut daemon] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(size(), full);
        let text = std::fs::read(&log).unwrap();
        let text = String::from_utf8_lossy(&text[(64 << 20) - 1000..]).into_owned();
        assert_eq!(about(&text, "this log is full"), 1, "{text}");
    });
}
