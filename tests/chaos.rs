//! kill -9 of any process at any moment of a bulk transfer: the other side ends quickly and says why, and everyone else
//! is served on.

use std::io::{Read, Write};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::Duration;

use crate::common::{
    Pattern, call, extras, full, lab, leftovers, readable_within, wait_within, within_deadline,
};
use lab::{Lab, Part, Process};
use rustix::process::{Pid, Signal, kill_process};

/// How long whoever depends on a killed process may take to notice and end.
const NOTICED: Duration = Duration::from_secs(1);

/// How long the rest of a call may take to clean up.
const GONE: Duration = Duration::from_secs(5);

const CAT: &str = "#!/bin/sh\nexec cat\n";

fn rounds() -> u64 {
    if full() { 200 } else { 25 }
}

/// A transfer that would never end by itself.
struct Endless {
    call: Child,
    stdout: ChildStdout,
    stderr: ChildStderr,
    feeder: std::thread::JoinHandle<()>,
}

impl Endless {
    fn start(lab: &Lab) -> Self {
        let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.Cat"]).unwrap();
        let mut call =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = call.stdin.take().unwrap();
        // Ends when the call does: then nobody reads.
        let feeder = std::thread::spawn(move || while stdin.write_all(&[0x5a; 64 << 10]).is_ok() {});
        let (stdout, stderr) = (call.stdout.take().unwrap(), call.stderr.take().unwrap());
        Self { call, stdout, stderr, feeder }
    }

    /// Reads so many bytes of the answer.
    fn advance(&mut self, bytes: u64) {
        let got =
            std::io::copy(&mut Read::by_ref(&mut self.stdout).take(bytes), &mut std::io::sink()).unwrap();
        assert_eq!(got, bytes, "the transfer ended by itself");
    }

    /// The call's exit code, if it ends within [`NOTICED`], and what it says about it.
    fn end(mut self) -> (i32, String) {
        let drain = std::thread::spawn(move || {
            let mut rest = self.stdout;
            let _ = std::io::copy(&mut rest, &mut std::io::sink());
        });
        let code = wait_within(&mut self.call, NOTICED).unwrap();
        let mut reason = String::new();
        self.stderr.read_to_string(&mut reason).unwrap();
        drain.join().unwrap();
        self.feeder.join().unwrap();
        (code, reason)
    }
}

fn kill(process: &Process) {
    kill_process(Pid::from_raw(process.pid).unwrap(), Signal::KILL).unwrap();
}

/// An agent or a daemon, rather than a process of one call.
fn resident(lab: &Lab, process: &Process) -> Option<(String, Part)> {
    if extras(lab).contains(process) {
        return None;
    }
    match process.program.as_str() {
        "qrexec-agent" => Some((process.vm.clone(), Part::Agent)),
        // Its arguments end with id, name of the VM and user.
        "qrexec-daemon" => {
            let name = process.args.iter().rev().nth(1)?.to_str()?;
            Some((name.to_owned(), Part::Daemon))
        }
        _ => None,
    }
}

fn assert_serves(lab: &Lab, round: u64) {
    let said = call(lab, "work", "vault", "test.Cat", b"alive");
    assert_eq!((said.code, said.text().as_str()), (0, "alive"), "round {round}: {said:?}");
}

fn round(lab: &Lab, round: u64, chance: &mut Pattern) {
    let mut transfer = Endless::start(lab);
    transfer.advance(1 + chance.number() % (8 << 20));
    let mut processes = lab.processes();
    processes.sort_by_key(|process| process.pid);
    let index = chance.number() as usize % processes.len();
    let victim = processes.swap_remove(index);
    let resident = resident(lab, &victim);
    let what = format!("round {round}: {} of {}", victim.program, victim.vm);
    kill(&victim);
    match resident {
        // A call outlives the agents and daemons that introduced it.
        Some((vm, part)) => {
            transfer.advance(16 << 20);
            lab.restart(&vm, part).unwrap_or_else(|error| panic!("{what}: {error}"));
            transfer.advance(1 << 20);
            transfer.call.kill().unwrap();
            assert_eq!(transfer.end().0, 137, "{what}");
        }
        None if victim.pid == transfer.call.id() as i32 => assert_eq!(transfer.end().0, 137, "{what}"),
        None => {
            let (code, reason) = transfer.end();
            if victim.program == "qrexec-agent" {
                assert_eq!(code, 255, "{what}: {reason}");
                assert!(!reason.trim().is_empty(), "{what}: no reason given");
            } else {
                assert_eq!(code, 137, "{what}: {reason}");
            }
        }
    }
    assert_eq!(leftovers(lab, GONE), [], "{what}");
    assert_serves(lab, round);
    // That call's own processes may still be there: killed in the next round, they would end nothing.
    assert_eq!(leftovers(lab, GONE), [], "{what}");
}

#[test]
fn any_process_may_be_killed_at_any_moment() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        let mut chance = Pattern::new(20_240_607);
        for number in 0..rounds() {
            round(&lab, number, &mut chance);
        }
        lab.down().unwrap();
    });
}

/// A stopped peer is not a dead one: the call waits, others are served, and it goes on where it was.
#[test]
fn a_stopped_peer_stops_only_its_own_call() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        let mut transfer = Endless::start(&lab);
        transfer.advance(1 << 20);
        let peer = extras(&lab).into_iter().find(|p| p.vm == "vault" && p.program == "qrexec-agent").unwrap();
        let peer = Pid::from_raw(peer.pid).unwrap();
        kill_process(peer, Signal::STOP).unwrap();
        assert_serves(&lab, 0);
        // Longer than any limit that a running call could meet.
        let stall = Duration::from_secs(if full() { 11 } else { 0 });
        assert!(!readable_within(&transfer.stderr, stall), "somebody complained");
        kill_process(peer, Signal::CONT).unwrap();
        transfer.advance(16 << 20);
        transfer.call.kill().unwrap();
        assert_eq!(transfer.end().0, 137);
        assert_eq!(leftovers(&lab, GONE), []);
    });
}
