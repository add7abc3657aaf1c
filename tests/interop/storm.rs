//! Sixteen calls at a time. The peer's programs lose some; a mixture must not lose more than they do alone, and whatever
//! is lost, our own processes of the call end and say why.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lab::{DOM0, Lab, Process};

use super::mixture::{Mixture, Peer};
use crate::common::{ended_within, extras, full, talk, within};

const ABREAST: usize = 16;

/// A call that has not ended by then hangs, and counts as lost.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long our own processes of a lost call may go on: whoever waits for a data link waits for 120 s.
const GONE: Duration = Duration::from_secs(130);

/// Of the peer's own programs alone as many calls again, so that chance counts for less.
const ALONE: usize = 2;

fn calls() -> usize {
    if full() { 500 } else { 64 }
}

/// Why calls were lost, and how many of each.
#[derive(Default)]
struct Losses(BTreeMap<String, usize>);

impl Losses {
    fn add(&mut self, reason: String) {
        *self.0.entry(reason).or_default() += 1;
    }

    fn total(&self) -> usize {
        self.0.values().sum()
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        for (reason, count) in &self.0 {
            write!(f, "; {count} × {reason}")?;
        }
        Ok(())
    }
}

/// One call that says what only it can say.
///
/// # Errors
/// Why it did not come back whole.
fn works(lab: &Lab, number: usize) -> Result<(), String> {
    let word = format!("word{number}\n");
    let inner = lab.command("work", ["qrexec-client-vm", "vault", "test.Cat"]).unwrap();
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let said = talk(command, word.as_bytes());
    match said.code {
        0 if said.text() == word => Ok(()),
        124 => Err(format!("no answer within {PATIENCE:?}")),
        code => {
            let line = said.stderr.lines().next().unwrap_or_default();
            // Numbers of calls and processes would make every reason another one.
            let line: String = line.chars().filter(|c| !c.is_ascii_digit()).take(100).collect();
            Err(format!("exit code {code}, {} bytes, {line:?}", said.stdout.len()))
        }
    }
}

/// Whether a process of the lab is one of ours, rather than the peer's or started by it.
fn is_ours(process: &Process, peer: &Peer) -> bool {
    let program = process.args.first().map(Path::new);
    process.program.starts_with("qrexec-") && !program.is_some_and(|program| program.starts_with(&peer.0))
}

/// Waits for the end of our own processes, and gives what our agent and our daemons had to warn of.
fn end_of_ours(lab: &Lab, peer: &Peer, mixture: Mixture) -> Vec<String> {
    for process in extras(lab).into_iter().filter(|process| is_ours(process, peer)) {
        assert!(ended_within(process.pid, GONE), "{mixture}: {process:?} goes on");
    }
    let logs = [
        ("qrexec-agent", "vault", "agent.log"),
        ("qrexec-agent", "work", "agent.log"),
        ("qrexec-daemon", DOM0, "daemon-vault.log"),
    ];
    let ours = logs.iter().filter(|(program, ..)| !mixture.is_peers(program));
    let texts = ours.map(|(_, vm, name)| std::fs::read_to_string(lab.layout().log(vm).join(name)).unwrap());
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|line| [" WARN ", "ERROR "].iter().any(|level| line.contains(level))).collect()
}

/// Makes all the calls; what was lost.
fn storm(peer: &Peer, mixture: Mixture) -> Losses {
    let (lab, _folder) = mixture.start(peer);
    let (next, losses) = (Mutex::new(0..calls()), Mutex::new(Losses::default()));
    std::thread::scope(|scope| {
        for _ in 0..ABREAST {
            scope.spawn(|| {
                while let Some(number) = { next.lock().unwrap().next() } {
                    if let Err(reason) = works(&lab, number) {
                        losses.lock().unwrap().add(reason);
                    }
                }
            });
        }
    });
    let losses = losses.into_inner().unwrap();
    let told = end_of_ours(&lab, peer, mixture);
    println!("{losses} of {} lost: {mixture}", calls());
    told.iter().for_each(|line| println!("    {line}"));
    lab.down().unwrap();
    losses
}

/// How many are lost, at most so many calls' patience later.
fn lost(peer: &Peer, mixture: Mixture) -> usize {
    let (peer, total) = (peer.clone(), Arc::new(Mutex::new(0)));
    let counter = total.clone();
    within(Duration::from_secs(600), move || *counter.lock().unwrap() = storm(&peer, mixture).total());
    *total.lock().unwrap()
}

/// What chance alone may add to a count of this mean: three times its standard deviation, and that of the count that it
/// is compared with.
fn with_chance(mean: f64) -> f64 {
    mean + 3.0 * (2.0 * mean).sqrt()
}

#[test]
fn sixteen_at_a_time() {
    let Some(peer) = Peer::from_env() else { return };
    let rounds = if full() { ALONE } else { 1 };
    let alone = (0..rounds).map(|_| lost(&peer, Mixture::of_peer())).sum::<usize>() as f64 / rounds as f64;
    // A lost call takes its time, so that only a full run goes through all of them.
    let chosen = |mixture: &Mixture| *mixture != Mixture::of_peer() && (full() || mixture.is_ours());
    for mixture in Mixture::all().filter(chosen) {
        let lost = lost(&peer, mixture) as f64;
        // These three make a call between VMs; any of ours among them is enough to lose none.
        let three = ["qrexec-agent", "qrexec-daemon", "qrexec-client-vm"];
        let all_of_peer = three.iter().all(|program| mixture.is_peers(program));
        let bearable = if all_of_peer { with_chance(alone.max(1.0)) } else { 0.0 };
        assert!(lost <= bearable, "{mixture}: {lost} of {} lost, {alone} by the peer alone", calls());
    }
}
