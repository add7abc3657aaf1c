//! Bulk file copy through calls whose processes are killed, or that end badly: nothing is lost, nothing is half there, and
//! nobody waits for who is gone.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, Part};
use rustix::process::{Pid, Signal, getpgid, kill_process};

use crate::common::{DEADLINE, extras, full, lab, leftovers, within, within_deadline};
use crate::filecopy::{arrived, config, home, in_home, write};

/// Files of a copy, and how large each is.
const FILES: usize = 8;
const SIZE: usize = 1 << 20;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    /// `qvm-move`, which makes the call itself.
    Sender,
    /// The call's process in the target, which is the receiver.
    Receiver,
    /// `qrexec-client-vm`, beside which `qfile-agent` sends.
    ClientVm,
    /// The target's agent. Its calls' processes go on.
    Agent,
}

const VICTIMS: [Victim; 4] = [Victim::Sender, Victim::Receiver, Victim::ClientVm, Victim::Agent];

fn begin(lab: &Lab, victim: Victim) -> Child {
    let agent = lab.layout().bin().join("qfile-agent").display().to_string();
    let by_program = ["qrexec-client-vm", "vault", "qubes.Filecopy", &agent, "d"];
    let own = ["qvm-move", "--to", "vault", "d"];
    let argv = if victim == Victim::ClientVm { &by_program[..] } else { &own };
    let work = home(lab, "work");
    let mut command = lab.command("work", argv).unwrap();
    command.current_dir(&work).env("TMPDIR", work.join("tmp"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The process to kill, if there is one now.
fn find(lab: &Lab, victim: Victim, sender: &Child) -> Option<Pid> {
    let leads = |pid: &Pid| getpgid(Some(*pid)) == Ok(*pid);
    let of_vault = |process: &lab::Process| process.vm == "vault";
    match victim {
        Victim::Sender | Victim::ClientVm => Pid::from_raw(sender.id() as i32),
        Victim::Receiver => {
            extras(lab).into_iter().find(of_vault).and_then(|process| Pid::from_raw(process.pid))
        }
        Victim::Agent => {
            let agents = lab.processes().into_iter().filter(of_vault);
            let agents = agents.filter(|process| process.program == "qrexec-agent");
            agents.filter_map(|process| Pid::from_raw(process.pid)).find(leads)
        }
    }
}

/// Every file is here, or all of it is there.
fn nothing_is_lost(lab: &Lab, content: &str, round: &str) {
    for name in 0..FILES {
        let here = home(lab, "work").join(format!("d/{name}"));
        match fs::read_to_string(arrived(lab).join(format!("d/{name}"))) {
            Ok(text) => assert!(text == content, "{round}: {name} is half there"),
            Err(_) => assert!(here.exists(), "{round}: {name} is lost"),
        }
    }
}

/// Whoever is killed at whatever moment, before the two have met as well: a final name has all of its content, the other
/// side ends within a second and says why, and what was not confirmed stays.
#[test]
fn killed_at_any_moment_nothing_is_lost_and_nobody_waits() {
    let rounds = if full() { 200 } else { 16 };
    within(DEADLINE.max(Duration::from_secs(3 * rounds)), move || {
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        let content = "x".repeat(SIZE);
        let (mut begun, mut longest) = (0, [Duration::ZERO; VICTIMS.len()]);
        for number in 0..rounds {
            let which = number as usize % VICTIMS.len();
            let victim = VICTIMS[which];
            for name in 0..FILES {
                write(&work.join(format!("d/{name}")), &content);
            }
            fs::create_dir_all(work.join("tmp")).unwrap();
            let mut sender = begin(&lab, victim);
            // The moment is what is tried; no event of it can be waited for. Every other time it is before or about the
            // meeting of the two.
            let latest = if number % 8 < 4 { 6_000 } else { 50_000 };
            std::thread::sleep(Duration::from_micros(number * 7_919 % latest));
            let round = format!("round {number}, {victim:?}");
            let pid = find(&lab, victim, &sender);
            begun += u64::from(arrived(&lab).exists() && pid.is_some());
            let killed = Instant::now();
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::KILL);
            }
            let ended = sender.wait().unwrap();
            let left = leftovers(&lab, Duration::from_secs(5));
            assert!(left.is_empty(), "{round}: {left:?} goes on");
            longest[which] = longest[which].max(killed.elapsed());
            let mut said = String::new();
            sender.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            if matches!(victim, Victim::Receiver | Victim::Agent) && !ended.success() {
                assert!(!said.is_empty(), "{round}: no reason");
            }
            nothing_is_lost(&lab, &content, &round);
            assert_eq!(fs::read_dir(work.join("tmp")).unwrap().count(), 0, "{round}");
            if victim == Victim::Agent {
                lab.restart("vault", Part::Agent).unwrap();
            }
            let _ = fs::remove_dir_all(arrived(&lab));
        }
        println!("longest until all had ended, of {VICTIMS:?}: {longest:?}; {begun} in the middle");
        assert!(begun > rounds / 4, "{begun} of {rounds} were killed in the middle");
        // Who waits for the disk does so until it has answered; else it is a few milliseconds.
        assert!(longest.iter().all(|longest| *longest < Duration::from_secs(2)), "{longest:?}");
    });
}

/// A receiver that lies about what it has got: a move removes nothing.
#[test]
fn a_move_whose_checksum_differs_removes_nothing() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        write(&home(&lab, "work").join("f"), "content");
        // It takes the file and the end mark: a header with a name of two bytes, seven bytes, a header.
        let liar = "#!/bin/sh\nhead -c 73 >/dev/null\nhead -c 16 /dev/zero\n";
        fs::write(lab.layout().services("vault").join("qubes.Filecopy"), liar).unwrap();
        fs::remove_file(config(&lab)).unwrap();
        let said = in_home(&lab, "work", &["qvm-move", "--to", "vault", "f"]);
        assert!(said.code == 1 && said.stderr.contains("checksum"), "{said:?}");
        assert!(said.stderr.contains("nothing was removed"), "{said:?}");
        assert!(home(&lab, "work").join("f").exists());
    });
}

/// A receiver that never answers is waited for, which is said; an interrupt ends both sides.
#[test]
fn an_interrupt_ends_a_copy_that_nobody_answers() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        write(&home(&lab, "work").join("f"), "content");
        let service = "#!/bin/sh\nhead -c 73 >/dev/null\nread line\n";
        fs::write(lab.layout().services("vault").join("qubes.Filecopy"), service).unwrap();
        fs::remove_file(config(&lab)).unwrap();
        let mut command = lab.command("work", ["qvm-copy", "--to", "vault", "f"]).unwrap();
        command.current_dir(home(&lab, "work"));
        let mut sender = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = sender.stderr.take().unwrap();
        let mut said = String::new();
        let mut bytes = [0; 1000];
        while !said.contains("waiting until it is on the other side's disk") {
            let len = stderr.read(&mut bytes).unwrap();
            assert!(len > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&bytes[..len]));
        }
        kill_process(Pid::from_raw(sender.id() as i32).unwrap(), Signal::INT).unwrap();
        assert!(!sender.wait().unwrap().success());
        assert!(leftovers(&lab, Duration::from_secs(5)).is_empty(), "the receiver goes on");
    });
}
