//! Releases R1 and R2: programs written for them, their wire, their way to make a call. Numbers are those of the cases in
//! docs/r2.md.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{self, Said, code, eventually, run, talk, wait_within, within_deadline};
use lab::{Age, Builder, DOM0, Lab, Part};
use rustix::process::{Pid, Signal, kill_process};
use wire::r2::Blob;

/// The example of the first text about services: its files as that text gives them, but for the folders.
const ADD_CLIENT: &str = "#!/bin/sh
echo $1 $2
exec cat >&2 # more correct: exec cat >&$SAVED_FD_1, but do not scare the reader
";
const ADD_CLIENT_SAVED: &str = "#!/bin/sh
echo $1 $2
exec cat >&$SAVED_FD_1
";
const ADD_SERVER: &str = "#!/bin/sh
read arg1 arg2
echo $(($arg1+$arg2))
";

/// One second is what the old programs' users may wait.
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn lab_of(age: Age) -> Builder {
    common::lab().age(age)
}

/// The lab of the example. Its service file has one line: a command, as all had then.
pub(crate) fn adding(age: Age) -> Builder {
    lab_of(age)
        .program("work", "our_test_add_client", ADD_CLIENT)
        .program("work", "saved_client", ADD_CLIENT_SAVED)
        .program("vault", "our_test_add_server", ADD_SERVER)
        .script("vault", "test.Add", "our_test_add_server\n")
}

pub(crate) fn program(lab: &Lab, name: &str) -> String {
    lab.layout().programs("work").join(name).to_str().unwrap().to_owned()
}

fn assert_said(said: &Said, code: i32, stdout: &str, stderr: &str) {
    assert_eq!((said.code, said.text().as_str(), said.stderr.as_str()), (code, stdout, stderr));
}

fn user(lab: &Lab, command: &str) -> String {
    format!("{}:{command}", lab.plan().user)
}

/// `qrexec-client -d VM` in dom0.
fn dom0(lab: &Lab, words: &[&str], input: &[u8]) -> Said {
    run(lab, DOM0, &[&["qrexec-client", "-d"], words].concat(), input)
}

/// A client of the time that a test plays step by step: section 4 of what is known about R2.
pub(crate) struct OldClient {
    pub(crate) streams: [UnixStream; 3],
    ident: String,
}

impl OldClient {
    fn connect(lab: &Lab, vm: &str) -> Self {
        let folder = lab.layout().old_api(vm);
        // What the agent makes last; the lab has not waited for it.
        eventually("the FIFO", || folder.join("qrexec-agent").exists());
        let mut numbers = Vec::new();
        let streams = std::array::from_fn(|_| {
            let mut stream = UnixStream::connect(folder.join("qrexec_agent_fdpass")).unwrap();
            stream.set_read_timeout(Some(common::DEADLINE)).unwrap();
            let mut number = [0; 4];
            stream.read_exact(&mut number).unwrap();
            numbers.push(i32::from_ne_bytes(number).to_string());
            stream
        });
        Self { streams, ident: numbers.join(" ") }
    }

    fn blob(&self, target: &str, service: &str) -> [u8; 128] {
        Blob::new(service, target, &self.ident).unwrap().to_bytes()
    }

    pub(crate) fn ask(lab: &Lab, target: &str, service: &str) -> Self {
        Self::ask_from(lab, "work", target, service)
    }

    pub(crate) fn ask_from(lab: &Lab, vm: &str, target: &str, service: &str) -> Self {
        let client = Self::connect(lab, vm);
        write_fifo(lab, vm, &client.blob(target, service));
        client
    }

    pub(crate) fn read_all(&mut self) -> String {
        let mut text = String::new();
        self.streams[0].read_to_string(&mut text).unwrap();
        text
    }
}

fn write_fifo(lab: &Lab, vm: &str, bytes: &[u8]) {
    let fifo = lab.layout().old_api(vm).join("qrexec_agent");
    std::fs::OpenOptions::new().write(true).open(fifo).unwrap().write_all(bytes).unwrap();
}

fn last_line(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().lines().last().unwrap_or_default().to_owned()
}

// ---- A: programs of R1 and R2 ------------------------------------------------------------------

/// Cases 1 and 2, on either link.
#[test]
fn the_first_example_adds() {
    for age in [Age::R2, Age::R2Api] {
        within_deadline(move || {
            let lab = adding(age).start().unwrap();
            let client = program(&lab, "our_test_add_client");
            let words = ["qrexec_client_vm", "vault", "test.Add", &client, "11", "22"];
            let said = run(&lab, "work", &words, b"");
            assert_eq!((said.code, said.text().as_str()), (0, ""), "{age:?}: {said:?}");
            assert_eq!(said.stderr, "33\n", "{age:?}");
            let client = program(&lab, "saved_client");
            let said = run(&lab, "work", &["qrexec-client-vm", "vault", "test.Add", &client, "1", "2"], b"");
            assert_said(&said, 0, "3\n", "");
            lab.down().unwrap();
        });
    }
}

/// Case 2: a client that does it step by step, twice at once, each with its own answer.
#[test]
fn a_client_of_the_time_asks_by_fifo() {
    for age in [Age::R2, Age::R2Api] {
        within_deadline(move || {
            let lab = adding(age).start().unwrap();
            let mut clients =
                [OldClient::ask(&lab, "vault", "test.Add"), OldClient::ask(&lab, "vault", "test.Add")];
            clients[1].streams[1].write_all(b"5 6\n").unwrap();
            clients[0].streams[1].write_all(b"1 2\n").unwrap();
            assert_eq!(clients[1].read_all(), "11\n", "{age:?}");
            assert_eq!(clients[0].read_all(), "3\n", "{age:?}");
            lab.down().unwrap();
        });
    }
}

/// Case 3: what is no request is dropped with a line, and the next one works.
#[test]
fn what_is_no_request_of_the_time_costs_no_other() {
    within_deadline(|| {
        let lab = adding(Age::R2Api).start().unwrap();
        let bad = OldClient::connect(&lab, "work");
        let blob = bad.blob("vault", "test.Add");
        for bytes in [
            &blob[..127],
            &[&blob[..], b"\0"].concat()[1..],
            &Blob::new("a", "b", "1 2 3").unwrap().to_bytes(),
        ] {
            write_fifo(&lab, "work", bytes);
            let mut good = OldClient::ask(&lab, "vault", "test.Add");
            good.streams[1].write_all(b"20 22\n").unwrap();
            assert_eq!(good.read_all(), "42\n");
        }
        let log = std::fs::read_to_string(lab.layout().log("work").join("agent.log")).unwrap();
        assert!(log.contains("are dropped"), "{log}");
        lab.down().unwrap();
    });
}

/// Case 4: with the variable the program's error output is a socket, and goes to dom0.
#[test]
fn the_error_output_is_passed_on_where_that_is_wanted() {
    within_deadline(|| {
        let lab = adding(Age::R2)
            .program("work", "show", "#!/bin/sh\nfor n in 0 1 2; do test -S /dev/fd/$n && echo socket $n >> $HOME/seen; done; echo old >&$SAVED_FD_2\n")
            .start()
            .unwrap();
        let show = program(&lab, "show");
        let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.Add", &show]).unwrap();
        command.env("PASS_LOCAL_STDERR", "");
        assert_said(&talk(command, b""), 0, "", "old\n");
        let seen = lab.layout().home("work").join("seen");
        assert_eq!(std::fs::read_to_string(&seen).unwrap(), "socket 0\nsocket 1\nsocket 2\n");
        std::fs::remove_file(&seen).unwrap();
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "test.Add", &show], b"");
        assert_eq!(said.text(), "");
        assert_eq!(std::fs::read_to_string(&seen).unwrap(), "socket 0\nsocket 1\n");
        lab.down().unwrap();
    });
}

// ---- C: the wire -------------------------------------------------------------------------------

/// Cases 5 and 6.
#[test]
fn dom0_runs_commands() {
    within_deadline(|| {
        let lab = lab_of(Age::R2).start().unwrap();
        let said = dom0(&lab, &["work", &user(&lab, "cat; echo e >&2; exit 3")], b"hello\n");
        assert_said(&said, 3, "hello\n", "e\n");
        assert_said(&dom0(&lab, &["work", "DEFAULT:echo hi"], b""), 0, "hi\n", "");
        assert_eq!(dom0(&lab, &["work", &user(&lab, "kill -9 $$")], b"").code, 137);
        assert_eq!(dom0(&lab, &["work", &user(&lab, "QUBESRPC test.None dom0")], b"").code, 127);
        assert_eq!(dom0(&lab, &["work", "no colon"], b"").code, 125);
        // Started, and left alone.
        let mark = lab.layout().home("work").join("mark");
        let gate = lab.layout().home("work").join("gate");
        rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        let command = user(&lab, &format!("cat {}; echo done > {}", gate.display(), mark.display()));
        assert_said(&dom0(&lab, &["work", "-e", &command], b""), 0, "", "");
        assert!(!mark.exists());
        drop(std::fs::OpenOptions::new().write(true).open(&gate).unwrap());
        eventually("the command to go on", || last_line(&mark) == "done");
        let local = dom0(
            &lab,
            &["work", "-l", "echo up; cat >&2", &user(&lab, "read word; echo $word and down")],
            b"",
        );
        assert_said(&local, 0, "", "up and down\n");
        lab.down().unwrap();
    });
}

/// Case 8: both ways at once, through a command and through a caller.
#[test]
fn every_byte_arrives_both_ways() {
    within_deadline(|| {
        let lab = lab_of(Age::R2)
            .script("vault", "test.Echo", "exec cat\n")
            .program("work", "both", "#!/bin/sh\ncat <&$SAVED_FD_0 & exec cat >&$SAVED_FD_1\n")
            .start()
            .unwrap();
        let bytes: Vec<u8> = (0..4_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let said = dom0(&lab, &["work", &user(&lab, "cat")], &bytes);
        assert!(said.code == 0 && said.stdout == bytes, "{} bytes, {}", said.stdout.len(), said.stderr);
        let both = program(&lab, "both");
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "test.Echo", &both], &bytes);
        assert!(said.code == 0 && said.stdout == bytes, "{} bytes, {}", said.stdout.len(), said.stderr);
        lab.down().unwrap();
    });
}

/// Case 7: a client that does not read, a command that does not, and others beside them.
#[test]
fn a_slow_one_stops_nobody_else() {
    within_deadline(|| {
        let lab = lab_of(Age::R2).start().unwrap();
        let client = |command: &str| {
            let words = ["qrexec-client".to_owned(), "-d".into(), "work".into(), user(&lab, command)];
            let mut command = lab.command(DOM0, words).unwrap();
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let size = 3 << 20;
        // Nobody reads this one's output yet.
        let mut slow = client(&format!("head -c {size} /dev/zero"));
        // And this one does not read its input yet.
        let gate = lab.layout().home("work").join("gate");
        let mut deaf = client(&format!("while ! test -e {}; do sleep 0.05; done; wc -c", gate.display()));
        let mut stdin = deaf.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&vec![7; size]).unwrap());
        for n in 0..20 {
            let said = dom0(&lab, &["work", &user(&lab, &format!("echo {n}"))], b"");
            assert_said(&said, 0, &format!("{n}\n"), "");
        }
        std::fs::write(gate, b"").unwrap();
        let mut text = String::new();
        deaf.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text.trim(), size.to_string());
        writer.join().unwrap();
        let mut all = Vec::new();
        slow.stdout.take().unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), size);
        assert_eq!((code(slow.wait().unwrap()), code(deaf.wait().unwrap())), (0, 0));
        lab.down().unwrap();
    });
}

/// Case 9: a service that ends early, and half-closing.
#[test]
fn ends_are_half_ends() {
    within_deadline(|| {
        let lab = lab_of(Age::R2)
            .script("vault", "test.Early", "echo first; exit 5\n")
            .script("vault", "test.Count", "wc -c\n")
            .start()
            .unwrap();
        let mut early = OldClient::ask(&lab, "vault", "test.Early");
        assert_eq!(early.read_all(), "first\n");
        // What it goes on writing is dropped: nothing hangs.
        early.streams[1].write_all(&vec![0; 2 << 20]).unwrap();
        let mut count = OldClient::ask(&lab, "vault", "test.Count");
        count.streams[1].write_all(&[1; 70_000]).unwrap();
        count.streams[1].shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(count.read_all().trim(), "70000");
        lab.down().unwrap();
    });
}

/// Case 10: a client that is killed leaves its process alone, and what that says later reaches nobody.
#[test]
fn a_killed_client_takes_nobody_along() {
    within_deadline(|| {
        let lab = lab_of(Age::R2).start().unwrap();
        let gate = lab.layout().home("work").join("gate");
        let mark = lab.layout().home("work").join("mark");
        let script = format!(
            "echo begun; while ! test -e {}; do sleep 0.05; done; trap '' PIPE; echo late; echo over > {}",
            gate.display(),
            mark.display()
        );
        let words = ["qrexec-client".to_owned(), "-d".into(), "work".into(), user(&lab, &script)];
        let mut command = lab.command(DOM0, words).unwrap();
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut begun = [0; 6];
        client.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        client.kill().unwrap();
        client.wait().unwrap();
        std::fs::write(gate, b"").unwrap();
        eventually("the process to end by itself", || last_line(&mark) == "over");
        for n in 0..30 {
            let said = dom0(&lab, &["work", &user(&lab, &format!("echo {n}; exit {n}"))], b"");
            assert_said(&said, n, &format!("{n}\n"), "");
        }
        lab.down().unwrap();
    });
}

/// Case 12: refused, unknown, no policy, and a policy program that dies.
#[test]
fn whoever_is_refused_reads_the_end() {
    within_deadline(|| {
        let lab = adding(Age::R2).old_policy("test.Add", "work vault deny\n").start().unwrap();
        for (target, service) in
            [("vault", "test.Add"), ("nowhere", "test.Add"), ("vault", "test.None"), ("vault", "a b$")]
        {
            let begun = Instant::now();
            assert_eq!(OldClient::ask(&lab, target, service).read_all(), "", "{target} {service}");
            assert!(begun.elapsed() < 10 * SOON, "{:?}", begun.elapsed());
        }
        lab.down().unwrap();
    });
}

/// Cases 14 and 15: where the policy sends a call, and what the service is told.
#[test]
fn the_policy_redirects_and_dom0_serves() {
    within_deadline(|| {
        let lab = lab_of(Age::R2)
            .vm("work")
            .vm("vault")
            .vm("mail")
            .script("mail", "test.Who", "echo $QUBES_LAB_VM for $QREXEC_REMOTE_DOMAIN: $#\n")
            .script(DOM0, "test.Dom0", "echo dom0 for $QREXEC_REMOTE_DOMAIN: $#\n")
            .old_policy("test.Who", "anyvm anyvm allow,target=mail\n")
            .old_policy("test.Dom0", "work dom0 allow\n")
            .start()
            .unwrap();
        assert_eq!(OldClient::ask(&lab, "vault", "test.Who").read_all(), "mail for work: 0\n");
        assert_eq!(OldClient::ask(&lab, "dom0", "test.Dom0").read_all(), "dom0 for work: 0\n");
        lab.down().unwrap();
    });
}

/// Case 22: agent or daemon killed: whoever is in a call sees its end, and calls work again.
#[test]
fn a_lost_link_ends_its_calls_and_comes_back() {
    within_deadline(|| {
        let lab = lab_of(Age::R2).script("vault", "test.Wait", "echo begun; cat\n").start().unwrap();
        for part in [Part::Agent, Part::Daemon] {
            let words = ["qrexec-client", "-d", "work", &user(&lab, "echo begun; cat")].map(str::to_owned);
            let mut client = lab
                .command(DOM0, words)
                .unwrap()
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut begun = [0; 6];
            client.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
            let mut caller = OldClient::ask(&lab, "vault", "test.Wait");
            caller.streams[0].read_exact(&mut begun).unwrap();
            let name = if part == Part::Agent { "qrexec-agent" } else { "qrexec-daemon" };
            for process in lab.processes().into_iter().filter(|process| process.program == name) {
                if last_words(process.pid).contains("work") {
                    kill_process(Pid::from_raw(process.pid).unwrap(), Signal::KILL).unwrap();
                }
            }
            assert_eq!(wait_within(&mut client, 10 * SOON), Some(255), "{part:?}");
            assert_eq!(caller.read_all(), "", "{part:?}");
            lab.restart("work", part).unwrap();
            assert_said(&dom0(&lab, &["work", &user(&lab, "echo again")], b""), 0, "again\n", "");
            let mut caller = OldClient::ask(&lab, "vault", "test.Wait");
            caller.streams[0].read_exact(&mut begun).unwrap();
        }
        lab.down().unwrap();
    });
}

fn last_words(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Case 11: as many at once as there are numbers; the one beyond is refused, and none of the others dies.
#[test]
fn as_many_at_once_as_there_are_numbers() {
    // The agent of protocol 1 has four descriptors for each.
    if rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.is_some_and(|most| most < 2048) {
        return common::skipped("256 calls at once on one link of R2: no 2,048 descriptors");
    }
    within_deadline(|| {
        let lab = lab_of(Age::R2).start().unwrap();
        let socket = lab.layout().daemon_socket("work");
        let ask = |command: &str| {
            let body = [user(&lab, command).as_bytes(), b"\0"].concat();
            let header = wire::header::Header::new(wire::r2::ty::CLIENT_EXEC, body.len() as u32);
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.set_read_timeout(Some(common::DEADLINE)).unwrap();
            stream.write_all(&[&header.to_bytes()[..], &body].concat()).unwrap();
            stream
        };
        let mut all: Vec<UnixStream> = (0..256).map(|_| ask("read word; echo $word")).collect();
        let mut refused = ask("echo no");
        assert_eq!(refused.read(&mut [0; 16]).unwrap(), 0);
        for (n, stream) in all.iter_mut().enumerate() {
            stream.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        for (n, stream) in all.iter_mut().enumerate() {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let text = format!("{n}\n");
            assert_eq!(answer.get(8..8 + text.len()), Some(text.as_bytes()), "{n}");
            assert!(answer.ends_with(&[4, 0, 0, 0, 0, 0, 0, 0]), "{n}: its exit code is 0");
        }
        lab.down().unwrap();
    });
}
