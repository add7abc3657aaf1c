//! Sixteen calls at a time. The peer's programs lose some; a mixture must not lose more than they do alone.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cli::lab::Lab;

use crate::common::{full, talk, within_deadline};
use crate::mixture::{Mixture, Peer};

const ABREAST: usize = 16;

/// A call that has not ended by then hangs, and counts as lost. Whoever waits for a data link waits for 120 s.
const PATIENCE: Duration = Duration::from_secs(15);

fn calls() -> usize {
    if full() { 500 } else { 64 }
}

/// One call that says what only it can say; whether it came back whole.
fn works(lab: &Lab, number: usize) -> bool {
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
    said.code == 0 && said.text() == word
}

/// Makes all the calls and counts the lost ones.
fn storm(peer: &Peer, mixture: Mixture, lost: &AtomicUsize) {
    let (lab, _folder) = mixture.start(peer);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..ABREAST {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= calls() {
                        break;
                    }
                    if !works(&lab, number) {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    lab.down().unwrap();
}

#[test]
fn sixteen_at_a_time() {
    let Some(peer) = Peer::from_env() else { return };
    let storm = |mixture| {
        let (peer, lost) = (peer.clone(), Arc::new(AtomicUsize::new(0)));
        let counter = lost.clone();
        within_deadline(move || storm(&peer, mixture, &counter));
        let lost = lost.load(Ordering::Relaxed);
        println!("{lost} of {} lost: {mixture}", calls());
        lost
    };
    let alone = storm(Mixture::of_peer());
    // A lost call takes its time, so that only a full run goes through all of them.
    let chosen = |mixture: &Mixture| *mixture != Mixture::of_peer() && (full() || mixture.is_ours());
    for mixture in Mixture::all().filter(chosen) {
        let lost = storm(mixture);
        // Chance alone makes two runs of the peer's own programs differ.
        let bearable = if mixture.is_ours() { 0 } else { alone.max(calls() / 16) };
        assert!(lost <= bearable, "{mixture}: {lost} of {} lost, {alone} by the peer alone", calls());
    }
}
