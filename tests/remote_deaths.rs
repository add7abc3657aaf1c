//! Calls to another machine whose processes are killed: none hangs, and none ends with 0 without all of its bytes. And
//! copies of files, which promise more.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::machines::{Machines, descendants, kill};
use crate::common::{DEADLINE, eventually, full, wait_within, within, within_deadline};
use crate::filecopy::{in_home, write};

/// What each call moves both ways.
const SIZE: usize = 6 << 20;

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The `ssh` of the link.
    Master,
    /// sshd's process of the connection.
    Sshd,
    /// The far command of the call.
    FarCommand,
    /// The call's process at the near relay.
    NearRelay,
    /// The process that keeps sessions ready, without which calls go on.
    Pool,
}

const VICTIMS: [Victim; 5] =
    [Victim::Master, Victim::Sshd, Victim::FarCommand, Victim::NearRelay, Victim::Pool];

impl Victim {
    fn pids(self, machines: &Machines) -> Vec<i32> {
        match self {
            Self::Master => machines.masters(),
            Self::Sshd => descendants(machines.sshd()),
            Self::FarCommand => machines.far_commands(),
            Self::NearRelay => machines.near_relays(),
            Self::Pool => machines.pools(),
        }
    }
}

/// Times that only the round decides.
fn moment(round: u64) -> Duration {
    let mut state = round.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state ^= state >> 29;
    Duration::from_micros(state % 150_000)
}

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 251 + at) as u8).collect()
}

/// What came out of a call, which gets all its bytes and ends within a time.
fn outcome(mut call: Child, limit: Duration) -> (i32, Vec<u8>, String) {
    let (mut stdin, mut stdout, mut stderr) =
        (call.stdin.take().unwrap(), call.stdout.take().unwrap(), call.stderr.take().unwrap());
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&bytes());
    });
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        stdout.read_to_end(&mut got).map(|_| got).unwrap()
    });
    let listener = std::thread::spawn(move || {
        let mut said = String::new();
        let _ = stderr.read_to_string(&mut said);
        said
    });
    let Some(code) = wait_within(&mut call, limit) else {
        let _ = call.kill();
        panic!("a call hangs");
    };
    writer.join().unwrap();
    (code, reader.join().unwrap(), listener.join().unwrap())
}

#[test]
fn killed_at_any_moment_no_call_hangs_or_lies() {
    let rounds: u64 = if full() { 100 } else { 10 };
    within(DEADLINE.max(Duration::from_secs(6 * rounds)), move || {
        let services = [("test.Cat", "#!/bin/sh\nexec cat\n")];
        let Some(machines) = Machines::start(&services, &[]) else { return };
        let whole = bytes();
        let (mut broken, mut good) = (0, 0);
        for round in 0..rounds {
            let victim = VICTIMS[usize::try_from(round).unwrap() % VICTIMS.len()];
            let call = machines.begin("test.Cat");
            let start = Instant::now();
            while start.elapsed() < moment(round) {
                std::thread::yield_now();
            }
            for pid in victim.pids(&machines) {
                kill(pid, Signal::KILL);
            }
            let (code, got, said) = outcome(call, Duration::from_secs(30));
            if code == 0 {
                assert!(got == whole, "round {round}, {victim:?}: 0 with {} bytes", got.len());
                good += 1;
            } else {
                assert!(whole.starts_with(&got), "round {round}, {victim:?}: other bytes");
                assert!(said.lines().count() <= 1, "round {round}, {victim:?}: {said}");
                broken += 1;
            }
            // The one after it finds a new way, and its own bytes only.
            let (code, got, said) = outcome(machines.begin("test.Cat"), Duration::from_secs(30));
            assert!(
                code == 0 && got == whole,
                "round {round}, behind {victim:?}: {code}, {}, {said}",
                got.len()
            );
        }
        eprintln!("{good} calls were whole, {broken} were not and said so");
        assert!(broken > 0, "nobody was hit");
        eventually("no call is left", || machines.far_calls() == 0);
    });
}

/// Calls one after the other use a session again, whatever the one before left in it.
#[test]
fn a_session_is_used_again_and_has_nothing_of_the_call_before() {
    within_deadline(|| {
        let services = [
            ("test.Cat", "#!/bin/sh\nexec cat\n"),
            ("test.Deaf", "#!/bin/sh\necho deaf\n"),
            ("test.Words", "#!/bin/sh\necho out; echo err >&2; exit 9\n"),
        ];
        let Some(machines) = Machines::start(&services, &["LogLevel VERBOSE"]) else { return };
        assert_eq!(machines.call("test.Cat", b"1").text(), "1");
        eventually("sessions are ready", || machines.far_commands().len() >= 2);
        for round in 0..20_u32 {
            let said = machines.call("test.Deaf", &[b'x'; 200_000]);
            assert_eq!((said.code, said.text().as_str()), (0, "deaf\n"), "{said:?}");
            let said = machines.call("test.Words", b"unread");
            assert_eq!(
                (said.code, said.text().as_str(), said.stderr.as_str()),
                (9, "out\n", "err\n"),
                "{said:?}"
            );
            let text = format!("{round}");
            assert_eq!(machines.call("test.Cat", text.as_bytes()).text(), text);
            assert_eq!(machines.call("test.None", b"").code, 127);
        }
        // Eighty calls, a few sessions.
        assert!(machines.far_commands().len() <= 6, "{:?}", machines.far_commands());
        let opened = machines.sshd_log().matches("Starting session").count();
        assert!((1..40).contains(&opened), "{opened} sessions for 80 calls");
    });
}

/// `qvm-copy` and `qvm-move` to a qube of another machine, with what they promise of the end.
#[test]
fn files_are_copied_to_another_machine() {
    within_deadline(|| {
        let Some(machines) = Machines::start(&[], &[]) else { return };
        let (work, far) = (machines.here.layout().home("work"), machines.there.layout().home("far"));
        let arrived = far.join("QubesIncoming/here-work");
        write(&work.join("d/f"), "content");
        fs::write(work.join("d/large"), bytes()).unwrap();
        let said = in_home(&machines.here, "work", &["qvm-copy", "--to", "far", "d"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stderr.contains("2 files, 1 folder") && said.stderr.contains("of far"), "{said:?}");
        assert!(fs::read(arrived.join("d/large")).unwrap() == bytes());
        assert_eq!(fs::read_to_string(arrived.join("d/f")).unwrap(), "content");

        // There already: refused with its reason, and nothing is removed.
        let said = in_home(&machines.here, "work", &["qvm-move", "--to", "far", "d"]);
        assert_eq!(said.code, 17, "{said:?}");
        assert!(work.join("d/large").exists());

        // The connection goes in the middle: what was not confirmed stays.
        fs::create_dir(work.join("e")).unwrap();
        for name in 0..24 {
            fs::write(work.join(format!("e/{name}")), bytes()).unwrap();
        }
        let mut command = machines.here.command("work", ["qvm-move", "--to", "far", "e"]).unwrap();
        command.current_dir(&work).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut mover = command.spawn().unwrap();
        eventually("files arrive", || arrived.join("e/3").exists());
        machines.masters().into_iter().for_each(|pid| kill(pid, Signal::KILL));
        let code = wait_within(&mut mover, Duration::from_secs(30)).expect("qvm-move hangs");
        assert_ne!(code, 0);
        for name in 0..24 {
            let (here, there) = (work.join(format!("e/{name}")), arrived.join(format!("e/{name}")));
            let whole = fs::read(there).is_ok_and(|there| there == bytes());
            assert!(here.exists() || whole, "{name} is lost");
        }
    });
}
