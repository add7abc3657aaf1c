//! Qubes of another machine: two labs, each a machine, and a real sshd between them. Numbers are those of the cases in
//! `docs/remote.md`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{DOM0, Lab};
use rustix::process::Signal;

use crate::common::machines::{Machines, descendants, kill};
use crate::common::{Said, eventually, eventually_within, full, run, talk, within_deadline};

const ECHO: &str = "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN:$QREXEC_SERVICE_FULL_NAME\"\n";
/// What a default sshd has, of which a lab's own is more generous.
const DEFAULT_SSHD: &str = "MaxSessions 10";

fn lines(said: &Said) -> Vec<&str> {
    said.stderr.lines().collect()
}

/// Cases 1, 2, 3, 4, 5, 7, 22.
#[test]
fn a_service_of_another_machine_is_called() {
    within_deadline(|| {
        let services = [
            ("test.Echo", ECHO),
            ("test.Redirected", ECHO),
            ("test.Seven", "#!/bin/sh\nprintf '1\\n2\\n3\\n' >&2; exit 7\n"),
            ("test.Lost", "#!/bin/sh\nexit 255\n"),
            ("test.Killed", "#!/bin/sh\nkill -9 $$\n"),
            ("test.Count", "#!/bin/sh\nwc -c\n"),
            ("test.Unlisted", ECHO),
            ("test.Variables", "#!/bin/sh\nenv\n"),
        ];
        let Some(machines) = Machines::start(&services, &[]) else { return };
        let said = machines.call("test.Echo+a+b", b"");
        assert_eq!((said.code, said.text().as_str()), (0, "here-work:test.Echo+a+b\n"), "{said:?}");
        let said = machines.call("test.Seven", b"");
        assert_eq!((said.code, said.stderr.as_str()), (7, "1\n2\n3\n"), "{said:?}");
        let said = machines.call("test.Lost", b"");
        assert_eq!((said.code, said.stderr.contains("qrexec-remote")), (255, false), "{said:?}");
        assert_eq!(machines.call("test.Killed", b"").code, 137);
        assert_eq!(machines.call("test.None", b"").code, 127);
        let said = machines.call("test.Count", &[0; 100_000]);
        assert_eq!((said.code, said.text().trim()), (0, "100000"));
        assert_eq!(machines.call("test.Unlisted", b"").code, 126);
        let log = |lab: &Lab| {
            fs::read_to_string(lab.layout().log(DOM0).join("daemon-relay.log")).unwrap_or_default()
        };
        eventually("the far log", || {
            log(&machines.there).contains("qrexec: test.Unlisted+: here-work (by relay) -> far: denied")
        });
        let near = machines.here.layout().log(DOM0).join("daemon-work.log");
        eventually("the near log", || {
            fs::read_to_string(&near).unwrap_or_default().contains("qrexec: test.Unlisted+: work -> far")
        });
        // Unknown to the other machine.
        assert_eq!(run(&machines.here, "mail", &["qrexec-client-vm", "far", "test.Echo"], b"").code, 126);
        for target in ["far2", "@default"] {
            let said = run(&machines.here, "work", &["qrexec-client-vm", target, "test.Redirected+x"], b"");
            assert_eq!((said.code, said.text().as_str()), (0, "here-work:test.Redirected+x\n"), "{said:?}");
        }
        let variables = machines.call("test.Variables", b"").text();
        assert!(
            !variables.contains("SSH_") && !variables.contains(&machines.here.plan().token),
            "{variables}"
        );
    });
}

/// Case 4, second half, and 17: what the key of a link cannot do.
#[test]
fn a_key_makes_calls_and_nothing_else() {
    within_deadline(|| {
        let Some(machines) = Machines::start(&[("test.Echo", ECHO)], &[]) else { return };
        let long = "a".repeat(32);
        for command in [
            "qrexec-remote 1 dom0 far test.Echo".to_owned(),
            "qrexec-remote 1 relay far test.Echo".to_owned(),
            "qrexec-remote 1 x;id far test.Echo".to_owned(),
            "qrexec-remote 1 -h far test.Echo".to_owned(),
            format!("qrexec-remote 1 {long} far test.Echo"),
            "qrexec-remote 1 work far".to_owned(),
            "qrexec-remote 1 work far test.Echo more".to_owned(),
            "qrexec-remote 1 work @dispvm test.Echo".to_owned(),
            "qrexec-remote far there".to_owned(),
            "touch it".to_owned(),
            "sh".to_owned(),
        ] {
            for way in [&["-S", "m0"][..], &["-S", "none"]] {
                let said = machines.ssh(&[way, &["there", &command]].concat());
                assert!(matches!(said.code, 125 | 126), "{command}: {said:?}");
                assert!(!said.text().contains("test.Echo"), "{command}: {said:?}");
            }
        }
        let nothing = machines.ssh(&["-S", "none", "-T", "there"]);
        assert_eq!((nothing.code, nothing.stdout.len()), (125, 0), "{nothing:?}");
        assert_ne!(machines.ssh(&["-S", "none", "-s", "there", "sftp"]).code, 0);
        let terminal = machines.ssh(&["-S", "none", "-tt", "there"]);
        assert!(terminal.code != 0 && terminal.stderr.contains("PTY"), "{terminal:?}");
        let forward =
            machines.ssh(&["-S", "none", "-o", "ClearAllForwardings=no", "-W", "127.0.0.1:1", "there"]);
        assert!(forward.code != 0 && forward.stderr.contains("forwarding failed"), "{forward:?}");
        for way in ["-L", "-R"] {
            let words =
                ["-S", "none", "-o", "ClearAllForwardings=no", "-o", "ExitOnForwardFailure=yes", "-N", way];
            let place = machines.here.layout().home("relay").join("hole");
            let hole = match way {
                "-L" => format!("{}:/run/x", place.display()),
                _ => "127.0.0.1:0:127.0.0.1:1".to_owned(),
            };
            if way == "-R" {
                assert_ne!(machines.ssh(&[&words[..], &[&hole, "there"]].concat()).code, 0, "{way}");
                continue;
            }
            let mut command = machines.here.command("relay", ["ssh", "-F", "config"]).unwrap();
            command.args(words).args([&hole, "there"]).current_dir(machines.link()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            eventually("ssh listens", || place.exists());
            // The other side refuses what comes through it: the connection ends without a byte.
            let mut stream = std::os::unix::net::UnixStream::connect(&place).unwrap();
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            assert!(bytes.is_empty());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
}

/// Cases 8 and 9.
#[test]
fn bytes_and_ends_come_through() {
    within_deadline(|| {
        let services = [
            ("test.Half", "#!/bin/sh\nexec 1>&-; head -c 5 >/dev/null; exit 5\n"),
            ("test.Cat", "#!/bin/sh\nexec cat\n"),
            ("test.Much", "#!/bin/sh\nhead -c 8388608 /dev/zero; echo end >&2; exit 3\n"),
            ("test.Deaf", "#!/bin/sh\nexec 0<&-; sleep 0.2; echo done\n"),
        ];
        let Some(machines) = Machines::start(&services, &[]) else { return };
        let mut call = machines.begin("test.Half");
        let mut output = call.stdout.take().unwrap();
        // The end of stdout comes while stdin is open and the service runs.
        assert_eq!(output.read(&mut [0; 1]).unwrap(), 0);
        assert!(call.try_wait().unwrap().is_none());
        call.stdin.take().unwrap().write_all(b"12345").unwrap();
        assert_eq!(call.wait().unwrap().code(), Some(5));

        // No two stretches of these are the same.
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.to_le_bytes()
        };
        let count = if full() { 64 << 20 } else { 8 << 20 };
        let bytes: Vec<u8> = (0..count / 8).flat_map(|_| next()).collect();
        let said = machines.call("test.Cat", &bytes);
        assert_eq!((said.code, said.stdout == bytes), (0, true));

        for round in 0..if full() { 100 } else { 10 } {
            let mut call = machines.begin("test.Much");
            drop(call.stdin.take());
            let mut output = call.stdout.take().unwrap();
            if round % 2 == 1 {
                // The exit code is ready long before these bytes are taken.
                eventually("the service has ended", || machines.far_calls() == 0 || round > 1);
            }
            let mut got = Vec::new();
            output.read_to_end(&mut got).unwrap();
            assert_eq!((got.len(), call.wait().unwrap().code()), (8 << 20, Some(3)));
        }
        // A service that does not read: the writer goes on, as with a local one.
        let said = machines.call("test.Deaf", &vec![0; 4 << 20]);
        assert_eq!((said.code, said.text().as_str()), (0, "done\n"), "{said:?}");
    });
}

/// Cases 10 and 11: as many at once as there are, and a default sshd that takes ten a connection.
#[test]
fn a_crowd_finds_places() {
    within_deadline(|| {
        let services = [("test.Echo", ECHO), ("test.Sleep", "#!/bin/sh\nsleep 3\n")];
        let Some(machines) = Machines::start(&services, &[DEFAULT_SSHD]) else { return };
        let close = ["qrexec-remote", "close", "there"];
        assert_eq!(run(&machines.here, "relay", &close, b"").code, 0);
        eventually("the connection has ended", || machines.masters().is_empty());
        let count = if full() { 100 } else { 30 };
        for said in machines.crowd(count, "test.Echo") {
            assert_eq!((said.code, said.text().as_str()), (0, "here-work:test.Echo+\n"), "{said:?}");
        }
        assert!(!machines.sshd_log().contains("MaxStartups"));
        let count = if full() { 100 } else { 15 };
        for said in machines.crowd(count, "test.Sleep") {
            assert_eq!(said.code, 0, "{said:?}");
        }
    });
}

/// Cases 12, 13, 15, 16: what is lost is lost with one line, and the next call finds a new way.
#[test]
fn a_lost_connection_is_said_once() {
    within_deadline(|| {
        let services = [("test.Echo", ECHO), ("test.Cat", "#!/bin/sh\necho there; exec cat\n")];
        let Some(machines) = Machines::start(&services, &[]) else { return };
        let lost = ["qrexec-remote: the connection to there is lost"];
        let breaks: [(&str, &dyn Fn()); 3] = [
            ("master", &|| machines.masters().into_iter().for_each(|pid| kill(pid, Signal::KILL))),
            ("sshd", &|| descendants(machines.sshd()).into_iter().for_each(|pid| kill(pid, Signal::KILL))),
            ("far", &|| machines.far_commands().into_iter().for_each(|pid| kill(pid, Signal::KILL))),
        ];
        for (what, cut) in breaks {
            let mut call = machines.begin("test.Cat");
            let mut greeting = [0; 6];
            call.stdout.as_mut().unwrap().read_exact(&mut greeting).unwrap();
            cut();
            let at = Instant::now();
            let output = call.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(255), "{what}");
            assert!(at.elapsed() < Duration::from_secs(5), "{what}: {:?}", at.elapsed());
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(text.lines().collect::<Vec<_>>(), lost, "{what}");
            assert_eq!(machines.call("test.Echo", b"").code, 0, "{what}");
        }

        // No sshd, and no connection left: many calls make one attempt.
        kill(machines.sshd(), Signal::TERM);
        machines.masters().into_iter().for_each(|pid| kill(pid, Signal::KILL));
        eventually("all are gone", || machines.masters().is_empty());
        let said = machines.call("test.Echo", b"");
        assert_eq!((said.code, lines(&said)), (255, vec!["qrexec-remote: there cannot be reached"]));
        assert!(machines.crowd(20, "test.Echo").iter().all(|said| said.code == 255));

        // Another key, as if another machine were there.
        let key = machines.there.layout().root().join("sshd/host_key");
        let known = fs::read(machines.link().join("known_hosts")).unwrap();
        fs::remove_file(&key).unwrap();
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        machines.there.restart_sshd(&[]).unwrap();
        let said = machines.call("test.Echo", b"");
        assert_eq!((said.code, lines(&said)), (255, vec!["qrexec-remote: there cannot be reached"]));
        let log = fs::read_to_string(machines.link().join("log")).unwrap();
        assert!(log.contains("SHA256:"), "{log}");
        assert_eq!(fs::read(machines.link().join("known_hosts")).unwrap(), known);
    });
}

/// Case 14: a line that says nothing any more.
#[test]
fn a_silent_line_is_given_up() {
    within_deadline(|| {
        let services = [("test.Cat", "#!/bin/sh\necho there; exec cat\n")];
        let Some(machines) = Machines::start(&services, &[]) else { return };
        let path = machines.link().join("config");
        let config = fs::read_to_string(&path).unwrap();
        let quick = config.replace("Interval 15", "Interval 1").replace("CountMax 3", "CountMax 1");
        fs::write(&path, quick).unwrap();
        assert_eq!(run(&machines.here, "relay", &["qrexec-remote", "close", "there"], b"").code, 0);
        let mut call = machines.begin("test.Cat");
        call.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        descendants(machines.sshd()).into_iter().for_each(|pid| kill(pid, Signal::STOP));
        let at = Instant::now();
        let output = call.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(255));
        assert!(at.elapsed() < Duration::from_secs(10), "{:?}", at.elapsed());
        descendants(machines.sshd()).into_iter().for_each(|pid| kill(pid, Signal::KILL));
    });
}

/// Case 18: with upstream's programs at either end.
#[test]
fn plain_streams_work_both_ways() {
    within_deadline(|| {
        let services = [
            ("test.Echo", ECHO),
            ("test.Seven", "#!/bin/sh\nprintf '1\\n2\\n3\\n' >&2; exit 7\n"),
            ("test.Count", "#!/bin/sh\nwc -c\n"),
            ("test.Unlisted", ECHO),
        ];
        let Some(machines) = Machines::start(&services, &[]) else { return };
        // As the script of upstream's documentation does it.
        for dashes in [&["--"][..], &[]] {
            let words = [
                &["-S", "m0", "there", "qrexec-client-vm", "--source-qube=work"],
                dashes,
                &["far", "test.Echo+1"],
            ];
            let said = machines.ssh(&words.concat());
            assert_eq!((said.code, said.text().as_str()), (0, "here-work:test.Echo+1\n"), "{said:?}");
        }
        fs::write(machines.link().join("settings"), "frames = false\n").unwrap();
        let said = machines.call("test.Echo+a+b", b"");
        assert_eq!((said.code, said.text().as_str()), (0, "here-work:test.Echo+a+b\n"), "{said:?}");
        let said = machines.call("test.Seven", b"");
        assert_eq!((said.code, said.stderr.as_str()), (7, "1\n2\n3\n"), "{said:?}");
        assert_eq!(machines.call("test.Count", &[0; 100_000]).text().trim(), "100000");
        assert_eq!(machines.call("test.Unlisted", b"").code, 126);
    });
}

/// Case 19: a far side that breaks the rules of the frames.
#[test]
fn a_far_side_that_lies_ends_the_call() {
    within_deadline(|| {
        let Some(machines) = Machines::start(&[], &[]) else { return };
        let keys = machines.there.layout().root().join("sshd/authorized_keys");
        let line = fs::read_to_string(&keys).unwrap();
        let key = &line[line.find(" ssh-").unwrap()..];
        let hello = "\\000\\003\\000\\000\\004\\000\\000\\000\\001\\000\\000\\000";
        let out = "\\221\\001\\000\\000\\003\\000\\000\\000abc";
        for (bytes, why) in [
            ("Welcome\\n".to_owned(), "what answers is not qrexec-remote"),
            (
                format!("{hello}{out}\\221\\001\\000\\000\\001\\000\\001\\000x"),
                "a frame of 65537 bytes, at most 65536 are allowed",
            ),
            (format!("{hello}\\231\\001\\000\\000\\000\\000\\000\\000"), "a frame of unknown type 0x199"),
            (format!("{hello}\\223\\001\\000\\000\\003\\000\\000\\000abc"), "an exit code of 3 bytes"),
            (
                format!("{hello}\\223\\001\\000\\000\\004\\000\\000\\000\\000\\000\\000\\000x"),
                "bytes behind the exit code",
            ),
        ] {
            let script = machines.there.layout().root().join("liar");
            // The session's greeting, then the call's.
            let greeting = if bytes.starts_with(hello) { hello } else { "" };
            fs::write(
                &script,
                format!("#!/bin/sh\nprintf '{greeting}{bytes}'; printf '{out}{out}'; sleep 5\n"),
            )
            .unwrap();
            fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            fs::write(&keys, format!("restrict,command=\"{}\"{key}", script.display())).unwrap();
            run(&machines.here, "relay", &["qrexec-remote", "close", "there"], b"");
            let said = machines.call("test.Any", b"");
            let line = format!("qrexec-remote: there: {why}");
            assert_eq!((said.code, lines(&said)), (255, vec![line.as_str()]));
            assert!(said.text().is_empty() || said.text() == "abc", "{said:?}");
        }
    });
}

/// Cases 23 and 24, and calls the other way through sessions that wait.
#[test]
fn machines_are_joined_once_and_call_both_ways() {
    within_deadline(|| {
        let Some(machines) = Machines::start(&[("test.Echo", ECHO)], &[]) else { return };
        let tree = || {
            let output = Command::new("sh")
                .args(["-c", "cat config known_hosts qubes"])
                .current_dir(machines.link())
                .output();
            output.unwrap().stdout
        };
        let (before, keys) = (tree(), machines.there.layout().root().join("sshd/authorized_keys"));
        let admitted = fs::read(&keys).unwrap();
        machines.there.admit("relay", &["here-work".to_owned()], &[]).unwrap();
        machines.here.join("here", "relay", "far", "far", (&machines.there, "there")).unwrap();
        assert_eq!((tree(), fs::read(&keys).unwrap()), (before, admitted));

        // An invitation with another host's key leaves nothing.
        let relay = |argv: &[&str]| run(&machines.here, "relay", argv, b"");
        let config = fs::read_to_string(machines.link().join("config")).unwrap();
        let value =
            |name: &str| config.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let own = relay(&["qrexec-remote", "key"]).text();
        let (kind, data) = own.trim().split_once(' ').unwrap();
        let wrong =
            format!("qrexec-remote,1,other,{},127.0.0.1,{},{kind},{data}", value("User"), value("Port"));
        let said = relay(&["qrexec-remote", "join", &wrong, "--qube", "far9"]);
        assert_eq!((said.code, lines(&said)), (255, vec!["qrexec-remote: other cannot be reached"]));
        assert!(!machines.link().with_file_name("other").exists());

        // The other way: the near relay keeps sessions open.
        fs::write(machines.link().join("sources"), "* there-\n").unwrap();
        let environment = machines.here.environment("relay").unwrap();
        let set = environment.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let text: String =
            set.map(|(name, value)| format!("{}={}\n", name.display(), value.display())).collect();
        fs::write(machines.link().join("environment"), text).unwrap();
        let mut waiter =
            machines.here.command("relay", ["qrexec-remote", "wait", "there"]).unwrap().spawn().unwrap();
        let back = machines.there.layout().home("relay").join(".config/qrexec-remote/here");
        let places = back.join("waiting");
        let ready = || fs::read_dir(&places).map_or(0, Iterator::count);
        eventually_within(Duration::from_secs(20), "sessions wait", || ready() == 4);
        fs::write(back.join("qubes"), "desk work\n").unwrap();
        let service = machines.there.layout().services("relay").join("qubesair.SSHProxy");
        symlink(machines.there.layout().bin().join("qubesair.SSHProxy"), service).unwrap();
        let mut command = machines.there.command("relay", ["qubesair.SSHProxy", "desk+test.Echo+x"]).unwrap();
        command.env("QREXEC_REMOTE_DOMAIN", "far");
        // Its policy has no line for a qube of the other machine: the answer is dom0's over here.
        let said = talk(command, b"");
        assert_eq!(said.code, 126, "{said:?}");
        let log = machines.here.layout().log(DOM0).join("daemon-relay.log");
        eventually("the refusal", || fs::read_to_string(&log).unwrap_or_default().contains("there-far"));
        eventually_within(Duration::from_secs(20), "the session is replaced", || ready() == 4);
        waiter.kill().unwrap();
        waiter.wait().unwrap();

        let (ssh, sshd) = (machines.masters(), machines.sshd());
        assert!(!ssh.is_empty());
        let alive = move |pid: &i32| Path::new(&format!("/proc/{pid}")).exists();
        drop(machines);
        eventually("ssh and sshd have ended", || !alive(&sshd) && !ssh.iter().any(alive));
    });
}
