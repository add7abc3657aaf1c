//! The small services, each called as it is in use, and `qvm-connect-tcp`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::{self, DEADLINE, EXE, Said, call, eventually, lab, run, within_deadline};
use lab::{Builder, DOM0, Lab};
use rustix::process::{Pid, Signal, kill_process};

const TO_DOM0: &str = "* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n";

#[test]
fn the_date_has_one_form_and_with_any_argument_the_other() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        for (argument, len) in [("", 26), ("+nanoseconds", 36), ("+xyz", 36)] {
            let said = call(&lab, "work", "vault", &format!("qubes.GetDate{argument}"), b"");
            assert_eq!((said.code, said.stdout.len()), (0, len), "{said:?}");
            assert!(
                said.text().ends_with("+00:00\n") && said.text().contains(',') == (len == 36),
                "{said:?}"
            );
        }
    });
}

#[test]
fn a_randomized_time_is_within_three_minutes() {
    within_deadline(|| {
        let lab = lab().policy(TO_DOM0).service(DOM0, "qubes.GetRandomizedTime", EXE).start().unwrap();
        let said = call(&lab, "work", DOM0, "qubes.GetRandomizedTime", b"");
        let text = said.text();
        let (seconds, digits) = text.trim_end().split_once('.').unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        // The call itself may take a while on a busy machine.
        assert!(seconds.parse::<u64>().unwrap().abs_diff(now) <= 180 + 60, "{said:?}");
        assert!(digits.len() == 9 && digits.bytes().all(|byte| byte.is_ascii_digit()), "{said:?}");
    });
}

#[test]
fn a_clock_that_is_right_is_not_touched_and_nonsense_is_refused_with_the_reason() {
    within_deadline(|| {
        let lab = lab().service("vault", "qubes.SetDateTime", EXE).start().unwrap();
        let now = call(&lab, "work", "vault", "qubes.GetDate", b"").stdout;
        let set = |text: &[u8]| call(&lab, "work", "vault", "qubes.SetDateTime", text);
        let said = set(&now);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
        for (text, why) in [
            ("2021-11-30T13:07:59+00:00\n", "older than this program"),
            ("2026-11-30T13:07:59+01:00\n", "not in UTC"),
            ("garbage\n", "expected 26 or 36 bytes, got 8"),
            ("2026-13-30T13:07:59+00:00\n", "no date"),
        ] {
            let said = set(text.as_bytes());
            assert!(said.code == 1 && said.stderr.contains(why), "{said:?}");
            let said = run(&lab, "work", &["qubes-sync-clock"], text.as_bytes());
            assert!(said.code == 1 && said.stderr.contains(why), "{said:?}");
        }
    });
}

#[test]
fn a_line_for_the_log_is_answered_when_it_is_there() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        let builder = lab().env("QUBES_SYSLOG", path.to_str().unwrap());
        let lab = builder.service("vault", "qubes.Log", EXE).start().unwrap();
        let said = call(&lab, "work", "vault", "qubes.Log", b"<3>bad\x1b[2J\n\nplain\n");
        assert_eq!((said.code, said.text().as_str()), (0, "OK\nOK\nOK\n"), "{said:?}");
        let next = || {
            let mut bytes = [0; 200];
            let len = log.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        };
        assert_eq!(next(), "<11>qubes.Log(work): bad_[2J");
        assert_eq!(next(), "<14>qubes.Log(work): plain");
        drop(log);
        std::fs::remove_file(path).unwrap();
        let said = call(&lab, "work", "vault", "qubes.Log", b"lost\n");
        assert_eq!((said.code, said.text().as_str()), (1, "OK\n"), "{said:?}");
    });
}

/// What a qube has to say to `qubesd` arrives there in its own form, and nothing of the answer goes back.
#[test]
fn a_qubes_word_is_passed_on_to_qubesd() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qubesd.misc.sock")).unwrap();
        let (heard, words) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut request = String::new();
                client.read_to_string(&mut request).unwrap();
                let answer = if request.contains("NotifyTools") { &b"2\0no"[..] } else { b"0\0secret" };
                client.write_all(answer).unwrap();
                heard.send(request.replace('\0', "|")).unwrap();
            }
        });
        let mut builder = lab().policy(TO_DOM0);
        for name in ["qubes.NotifyUpdates", "qubes.FeaturesRequest", "qubes.NotifyTools"] {
            let dir = folder.path().display();
            builder =
                builder.script(DOM0, name, &format!("#!/bin/sh\nQREXEC_QUBESD_DIR={dir} exec {name}\n"));
        }
        let lab = builder.start().unwrap();
        for (name, word, code, request) in [
            ("qubes.NotifyUpdates", "3\n", 0, "qubes.NotifyUpdates+ work name dom0|3"),
            ("qubes.FeaturesRequest", "unread", 0, "qubes.FeaturesRequest+ work name dom0|"),
            ("qubes.NotifyTools", "", 1, "qubes.NotifyTools+ work name dom0|"),
        ] {
            let said = call(&lab, "work", DOM0, name, word.as_bytes());
            assert_eq!((said.code, said.text().as_str()), (code, ""), "{said:?}");
            assert_eq!(words.recv().unwrap(), request);
        }
        let said = call(&lab, "work", DOM0, "qubes.NotifyUpdates", b"many");
        assert!(said.code == 1 && words.try_recv().is_err(), "{said:?}");
    });
}

/// A server of one machine: says what it was told first, then sends it back.
fn server() -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, words) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).unwrap();
            client.write_all(&bytes).unwrap();
            let _ = heard.send(bytes);
        }
    });
    (port, words)
}

fn with_tcp() -> Builder {
    lab().service("vault", "qubes.ConnectTCP", "/dev/tcp/127.0.0.1").config(
        "vault",
        "qubes.ConnectTCP",
        include_str!("../dist/rpc-config/qubes.ConnectTCP"),
    )
}

/// `qvm-connect-tcp` once it is bound: the port here.
fn connect_tcp(lab: &Lab, options: &[&str], words: &str) -> (Child, u16) {
    let mut command = lab.command("work", [&["qvm-connect-tcp"], options, &[words]].concat()).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim_end_matches("'...\n").rsplit(':').next().unwrap().parse();
    (child, port.unwrap_or_else(|_| panic!("{line:?}")))
}

fn talk(port: u16, words: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(words).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    // A call that is refused may end as a reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn a_port_of_another_qube_is_a_port_here_until_that_is_told_to_end() {
    within_deadline(|| {
        let (port, heard) = server();
        let lab = with_tcp().start().unwrap();
        let (mut child, local) = connect_tcp(&lab, &["--foreground"], &format!("0:vault:{port}"));
        for word in [&b"ping"[..], b"another"] {
            assert_eq!(talk(local, word), word);
            assert_eq!(heard.recv().unwrap(), word);
        }
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::TERM).unwrap();
        assert_eq!(common::wait_within(&mut child, DEADLINE), Some(0));
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, local)).is_err());
        let (mut once, local) =
            connect_tcp(&lab, &["--foreground", "--accept-once"], &format!("0:vault:{port}"));
        assert_eq!(talk(local, b"x"), b"x");
        assert_eq!(common::wait_within(&mut once, DEADLINE), Some(0));
    });
}

#[test]
fn in_the_background_it_is_bound_before_its_caller_goes_on() {
    within_deadline(|| {
        let (port, _heard) = server();
        let lab = with_tcp().start().unwrap();
        let said = run(&lab, "work", &["qvm-connect-tcp", &format!("0:vault:{port}")], b"");
        assert_eq!(said.code, 0, "{said:?}");
        let text = said.text();
        let mut lines = text.lines();
        let local =
            lines.next().unwrap().trim_end_matches("'...").rsplit(':').next().unwrap().parse().unwrap();
        let process: i32 = lines.next().unwrap().strip_prefix("process ").unwrap().parse().unwrap();
        assert_eq!(talk(local, b"x"), b"x");
        kill_process(Pid::from_raw(process).unwrap(), Signal::TERM).unwrap();
        eventually("the port to be free", || TcpStream::connect((Ipv4Addr::LOCALHOST, local)).is_err());
    });
}

#[test]
fn a_refusal_closes_a_connection_and_not_the_port() {
    within_deadline(|| {
        let lab = lab().policy("* * @anyvm @anyvm deny\n").start().unwrap();
        let (mut child, local) = connect_tcp(&lab, &["--foreground"], "0:vault:1");
        for _ in 0..2 {
            assert_eq!(talk(local, b"x"), b"");
        }
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
        assert_eq!(common::wait_within(&mut child, DEADLINE), Some(0));
        for words in ["vault:", "nonsense:vault:1", "::0"] {
            assert_eq!(run(&lab, "work", &["qvm-connect-tcp", words], b"").code, 1, "{words}");
        }
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = other.local_addr().unwrap().port();
        let said = run(&lab, "work", &["qvm-connect-tcp", &format!("{taken}:vault:1")], b"");
        assert!(said.code == 1 && said.stderr.contains("another program has it"), "{said:?}");
    });
}

/// The link alone is half of the service: without its configuration the server hears a line that is not the caller's.
#[test]
fn the_services_configuration_keeps_the_first_line_clean() {
    within_deadline(|| {
        let (port, heard) = server();
        let bare = lab().service("vault", "qubes.ConnectTCP", "/dev/tcp/127.0.0.1").start().unwrap();
        call(&bare, "work", "vault", &format!("qubes.ConnectTCP+{port}"), b"data");
        assert_eq!(heard.recv().unwrap(), format!("qubes.ConnectTCP+{port} work\0data").as_bytes());
        let lab = with_tcp().start().unwrap();
        let said: Said = call(&lab, "work", "vault", &format!("qubes.ConnectTCP+{port}"), b"data");
        assert_eq!((heard.recv().unwrap(), said.stdout), (b"data".to_vec(), b"data".to_vec()));
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        for bad in [format!("+0{port}"), String::new(), format!("+127.0.0.1+{port}"), format!("+{closed}")] {
            let said = call(&lab, "work", "vault", &format!("qubes.ConnectTCP{bad}"), b"");
            assert_eq!(said.code, 125, "{bad}: {said:?}");
        }
        assert!(heard.recv_timeout(Duration::from_millis(1)).is_err());
    });
}
