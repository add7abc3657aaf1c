//! Clients, services and configurations that do what they should not: everybody else goes on, and within the deadline.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{self, Said, call, eventually, lab, leftovers, run, within_deadline};
use lab::Lab;
use rustix::fs::{CWD, FileType, mknodat};

const CAT: &str = "#!/bin/sh\nexec cat\n";

/// More than the 256 that the C programs can hold.
const CONNECTIONS: usize = 300;

/// How long the last processes may take to go.
const GONE: Duration = Duration::from_secs(10);

fn assert_works(lab: &Lab) {
    let said = call(lab, "work", "vault", "test.Cat", b"through");
    assert_eq!((said.text().as_str(), said.code), ("through", 0), "{said:?}");
}

/// The sockets that anybody of the machine can reach.
fn sockets(lab: &Lab) -> [std::path::PathBuf; 2] {
    [lab.layout().agent_socket("work"), lab.layout().daemon_socket("vault")]
}

#[test]
fn three_hundred_silent_connections_keep_nobody_out() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        for socket in sockets(&lab) {
            let connections: Vec<_> =
                (0..CONNECTIONS).map(|_| UnixStream::connect(&socket).unwrap()).collect();
            assert_works(&lab);
            drop(connections);
        }
        assert_works(&lab);
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

#[test]
fn rubbish_costs_only_its_sender() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        let header = |ty: u32, len: u32| [ty.to_le_bytes(), len.to_le_bytes()].concat();
        let every: Vec<u8> = (0..=255).collect();
        let final_rubbish = [header(0x213, u32::MAX), header(0x200, u32::MAX), vec![0xff; 64], every];
        for socket in sockets(&lab) {
            // Half a header, and an announcement that is not kept: they wait for the rest, alone.
            let patient = [vec![0x13], header(0x213, 200)].map(|bytes| say(&socket, &bytes));
            for rubbish in &final_rubbish {
                let mut sender = say(&socket, rubbish);
                let mut heard = Vec::new();
                // What the daemon says first may be lost with the connection; its end is never late.
                let _ = sender.read_to_end(&mut heard);
                assert!(heard.len() <= 12, "{heard:?}");
            }
            assert_works(&lab);
            drop(patient);
        }
    });
}

#[test]
fn a_flood_of_rubbish_fills_no_log() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        let [socket, _] = sockets(&lab);
        const FLOOD: u64 = 3000;
        let begun = Instant::now();
        for _ in 0..FLOOD {
            // A header of a kind that nobody sends here: one line in the log.
            let mut sender = say(&socket, &0x200_u64.to_le_bytes());
            let _ = sender.read_to_end(&mut Vec::new());
        }
        assert_works(&lab);
        let allowed = 1000 + 100 * (begun.elapsed().as_secs() + 1) + 100;
        let log = std::fs::read_to_string(lab.layout().log("work").join("agent.log")).unwrap();
        let lines = log.lines().count() as u64;
        assert!(log.contains("broke the rules") && lines <= allowed, "{lines} lines, {allowed} allowed");
    });
}

fn say(socket: &Path, bytes: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn assert_said(said: &Said, code: i32, stdout: &str) {
    assert_eq!((said.code, said.text().as_str()), (code, stdout), "{said:?}");
}

#[test]
fn services_may_ignore_any_of_their_streams() {
    within_deadline(|| {
        let lab = lab()
            .script("vault", "test.NeverReads", "#!/bin/sh\necho out\nexit 3\n")
            .script("vault", "test.NeverWrites", "#!/bin/sh\ncat >/dev/null\nexit 4\n")
            .script("vault", "test.ClosesStdin", "#!/bin/sh\nexec <&-\necho out\nexit 5\n")
            .script("vault", "test.ClosesStdout", "#!/bin/sh\nexec >&-\ncat >&2\nexit 6\n")
            .script("vault", "test.ClosesAll", "#!/bin/sh\nexec <&- >&- 2>&-\nexit 7\n")
            .start()
            .unwrap();
        let input = vec![b'x'; 2 << 20];
        assert_said(&call(&lab, "work", "vault", "test.NeverReads", &input), 3, "out\n");
        assert_said(&call(&lab, "work", "vault", "test.NeverWrites", &input), 4, "");
        assert_said(&call(&lab, "work", "vault", "test.ClosesStdin", &input), 5, "out\n");
        let said = call(&lab, "work", "vault", "test.ClosesStdout", &input);
        assert_eq!((said.code, said.stdout.len(), said.stderr.len()), (6, 0, input.len()));
        assert_said(&call(&lab, "work", "vault", "test.ClosesAll", &input), 7, "");
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

#[test]
fn a_child_that_keeps_stderr_delays_the_exit_code_and_no_more() {
    within_deadline(|| {
        let keeps = "#!/bin/sh\n(read word <\"$HOME/gate\"; echo \"$word\" >&2) &\necho out\nexit 4\n";
        let lab = lab().script("vault", "test.Keeps", keeps).start().unwrap();
        let gate = lab.layout().home("vault").join("gate");
        mknodat(CWD, &gate, FileType::Fifo, 0o600.into(), 0).unwrap();
        // The gate opens only once somebody reads it: the service has long ended then.
        let opener = std::thread::spawn(move || std::fs::write(gate, "late\n").unwrap());
        let said = call(&lab, "work", "vault", "test.Keeps", b"");
        assert_said(&said, 4, "out\n");
        assert_eq!(said.stderr, "late\n");
        opener.join().unwrap();
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

/// What a configuration must not say, and what the log says about it.
const WRONG: [(&str, &str); 22] = [
    ("rubbish\n", "line 1: there is no '=' after the key"),
    ("[section]\n", "line 1: sections are not supported"),
    (" wait-for-session=false\n", "line 1: it begins with a blank"),
    ("=true\n", "line 1: it does not begin with a letter"),
    ("# fine\n-wait=true\n", "line 2: it does not begin with a letter"),
    ("1st=true\n", "line 1: it does not begin with a letter"),
    ("wait-for-session=maybe\n", "line 1: the value is neither"),
    ("wait-for-session=\n", "line 1: the value is neither"),
    ("wait-for-session=2\n", "line 1: the value has the wrong type"),
    ("wait-for-session='true'\n", "line 1: the value has the wrong type"),
    ("exit-on-client-eof=1\n", "line 1: the value has the wrong type"),
    ("force-user=true\n", "line 1: the value has the wrong type"),
    ("force-user=root\n", "line 1: the value is neither"),
    ("force-user='root\n", "line 1: the string has no end"),
    ("force-user=\"root\"\n", "line 1: strings are written in single quotes"),
    ("force-user='''root'''\n", "line 1: strings are written in single quotes"),
    ("force-user='root' 'joan'\n", "line 1: there is more behind the value"),
    ("wait-for-session=true false\n", "line 1: there is more behind the value"),
    ("wait-for-session=01\n", "line 1: there is more behind the value"),
    ("exit-on-client-eof=true\nexit-on-client-eof=true\n", "line 2: this key was there before"),
    (
        "skip-service-descriptor=true\nforce-user='root'\n",
        "force-user does not go with skip-service-descriptor",
    ),
    ("wait-for-session=fa\0lse\n", "line 1: it contains a NUL byte"),
];

/// What the agent of `vault` has logged, once this is there: its lines may come after the exit code.
fn logged(lab: &Lab, what: &[&str]) -> String {
    let path = lab.layout().log("vault").join("agent.log");
    let read = || std::fs::read_to_string(&path).unwrap();
    eventually(&format!("{what:?} in the log"), || has_line(&read(), what));
    read()
}

/// Whether all of these are in one line.
fn has_line(log: &str, parts: &[&str]) -> bool {
    log.lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn every_error_of_a_configuration_fails_its_call_only() {
    within_deadline(|| {
        let mut builder = lab().script("vault", "test.Cat", CAT);
        for (number, (text, _)) in WRONG.iter().enumerate() {
            let name = format!("test.Wrong.{number}.");
            builder = builder.script("vault", &name, CAT).config("vault", &name, text);
        }
        let lab = builder.start().unwrap();
        for (number, (text, why)) in WRONG.iter().enumerate() {
            let name = format!("test.Wrong.{number}.");
            let said = call(&lab, "work", "vault", &name, b"x");
            assert_eq!((said.code, said.text().as_str()), (125, ""), "{text:?}: {said:?}");
            logged(&lab, &[&name, why]);
        }
        assert_works(&lab);
    });
}

/// A folder, a link that leads to itself, a file that nobody may read. What is there and cannot be read is not what is not there.
#[test]
fn a_configuration_that_cannot_be_read_fails_its_call_only() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).script("vault", "test.Folder", CAT);
        let lab = lab.script("vault", "test.Loop", CAT).script("vault", "test.Dangling", CAT);
        let lab = lab.script("vault", "test.Other", CAT).script("vault", "test.Secret", CAT).start().unwrap();
        let place = |name: &str| lab.layout().config("vault").join(name);
        std::fs::create_dir(place("test.Folder")).unwrap();
        symlink("test.Loop", place("test.Loop")).unwrap();
        symlink("nowhere", place("test.Dangling")).unwrap();
        for name in ["test.Folder", "test.Loop"] {
            assert_said(&call(&lab, "work", "vault", name, b"x"), 125, "");
            logged(&lab, &[place(name).to_str().unwrap(), name]);
        }
        // Root may read everything.
        if !rustix::process::geteuid().is_root() {
            std::fs::write(place("test.Secret"), "").unwrap();
            std::fs::set_permissions(place("test.Secret"), PermissionsExt::from_mode(0o000)).unwrap();
            assert_said(&call(&lab, "work", "vault", "test.Secret", b"x"), 125, "");
        }
        // What is read and cannot be done is no better: the call does not run as somebody else instead.
        std::fs::write(place("test.Other"), "force-user='no-such-user-here'\n").unwrap();
        assert_said(&call(&lab, "work", "vault", "test.Other", b"x"), 125, "");
        logged(&lab, &["cannot run as user no-such-user-here", "test.Other"]);
        // A link to nothing is nothing.
        assert_said(&call(&lab, "work", "vault", "test.Dangling", b"x"), 0, "x");
        assert_works(&lab);
    });
}

/// A FIFO that nobody writes into: whoever waited for it would keep the call for ever.
#[test]
fn a_configuration_that_is_a_fifo_fails_its_call_only() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).script("vault", "test.Fifo", CAT).start().unwrap();
        let place = lab.layout().config("vault").join("test.Fifo");
        mknodat(CWD, &place, FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_said(&call(&lab, "work", "vault", "test.Fifo", b"x"), 125, "");
        logged(&lab, &[place.to_str().unwrap()]);
        assert_works(&lab);
    });
}

#[test]
fn keys_that_do_not_count_are_told_and_passed_over() {
    within_deadline(|| {
        // With its key each of these would end with 0 and without its last word.
        let lasting = "#!/bin/sh\ncat >/dev/null\necho last\nexit 3\n";
        let keys = [
            ("test.Client", "exit-on-client-eof"),
            ("test.Service", "exit-on-service-eof"),
            ("test.Skip", "skip-service-descriptor"),
        ];
        let mut builder = lab().script("vault", "test.New", CAT);
        for (name, key) in keys {
            let script =
                if name == "test.Service" { "#!/bin/sh\nexec >&-\ncat >&2\nexit 3\n" } else { lasting };
            builder = builder.script("vault", name, script).config("vault", name, &format!("{key}=true\n"));
        }
        let fine = "# a comment\nunknown-key=1\r\nwait-for-session=false # not this\nnewer.key = 'x'\n";
        let lab = builder.config("vault", "test.New", fine).start().unwrap();
        assert_said(&call(&lab, "work", "vault", "test.New", b"x"), 0, "x");
        logged(&lab, &["WARN", "test.New: line 2: unknown key unknown-key ignored"]);
        let log = logged(&lab, &["WARN", "test.New: line 4: unknown key newer.key ignored"]);
        assert_eq!(log.matches("unknown key").count(), 2, "{log}");
        for (name, key) in keys {
            let said = call(&lab, "work", "vault", name, b"x");
            let expected = if name == "test.Service" { ("", "x") } else { ("last\n", "") };
            assert_eq!((said.code, said.text().as_str(), said.stderr.as_str()), (3, expected.0, expected.1));
            logged(&lab, &["WARN", &format!("{key}=true is for sockets"), name]);
        }
    });
}

#[test]
fn names_with_every_byte_reach_policy_as_harmless_ones() {
    within_deadline(|| {
        let told = "#!/bin/sh\necho $QREXEC_SERVICE_FULL_NAME\n";
        let lab = lab().script("vault", "test.Cat", CAT).script("vault", "test._Cat", told).start().unwrap();
        for byte in 1..=255_u8 {
            if byte.is_ascii_alphanumeric() || b"-._+".contains(&byte) {
                continue;
            }
            let name = [b"test.", &[byte][..], b"Cat"].concat();
            let name = std::os::unix::ffi::OsStringExt::from_vec(name);
            let name: std::ffi::OsString = name;
            let command = lab
                .command("work", ["qrexec-client-vm".as_ref(), "vault".as_ref(), name.as_os_str()])
                .unwrap();
            let said = common::talk(command, b"");
            assert_eq!((said.code, said.text().as_str()), (0, "test._Cat+\n"), "{byte:#x}: {said:?}");
        }
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "test.Cat"], b"x");
        assert_said(&said, 0, "x");
    });
}
