//! Protocol 1: both ends against any bytes. The pieces in which they come do not matter, what is kept is bounded, nothing
//! is told about a client that is over, and what an end sends the other one takes.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use wire::r2::{
    AgentMux, AgentOutput, Breach, ClientKey, DaemonMux, DaemonOutput, Decoder, MAX_KEPT_BY_ALL, Stream,
    WaitStatus, ty,
};

fuzz_target!(|data: &[u8]| {
    let (seed, bytes) = fuzz::split(data);
    let bytes = fuzz::stretched(bytes, seed);
    assert_eq!(agent(&bytes, 0).0, agent(&bytes, seed | 1).0);
    assert_eq!(daemon(&bytes, 0).0, daemon(&bytes, seed | 1).0);
    // The agent's words at a daemon that began what the agent was told to begin.
    let (_, said) = agent(&bytes, seed);
    let mut other = begun();
    assert_eq!(other.handle_bytes(&said), Ok(()));
    let (_, said) = daemon(&bytes, seed);
    let mut decoder = Decoder::default();
    decoder.push(&said);
    while decoder.next().expect("ours are well formed").is_some() {}
    assert!(!decoder.is_mid_message());
});

fn agent(bytes: &[u8], seed: u8) -> (Result<(), Breach>, Vec<u8>) {
    let mut agent = AgentMux::default();
    let (mut said, mut over) = (Vec::new(), BTreeSet::new());
    let mut result = Ok(());
    for piece in fuzz::pieces(bytes, seed) {
        result = agent.handle_bytes(piece);
        while let Some(output) = agent.poll_output() {
            match output {
                AgentOutput::Start(key, command) => {
                    assert!(!command.contains(&0) && !over.contains(&key));
                    // Some are quick, some slow, some go on.
                    match command.len() % 3 {
                        0 => agent.fail(key, 127),
                        1 => agent.reaped(key, WaitStatus::exited(0)),
                        _ => agent.read(key, Stream::Stdout, &command),
                    }
                }
                AgentOutput::Connect(key, None) => agent.fail(key, 255),
                AgentOutput::Input(key) => {
                    let half = agent.pending(key).len() / 2;
                    agent.wrote(key, half);
                    agent.blocked(key);
                }
                AgentOutput::Over(key, _) => assert!(over.insert(key)),
                AgentOutput::JustStart(_)
                | AgentOutput::Connect(..)
                | AgentOutput::Resumed(_)
                | AgentOutput::Flooded(_) => {}
            }
        }
        assert!(agent.clients().count() <= 256 && agent.held() <= MAX_KEPT_BY_ALL + bytes.len() + 65_535);
        assert!(agent.clients().all(|key| !over.contains(&key)));
        said.extend_from_slice(agent.outgoing());
        agent.sent(agent.outgoing().len());
        if result.is_err() {
            break;
        }
    }
    (result, said)
}

/// A daemon with five clients.
fn begun() -> DaemonMux {
    let mut daemon = DaemonMux::default();
    for key in 0..5 {
        daemon.begin(ClientKey(key), ty::CLIENT_EXEC, b"DEFAULT:x\0", "joe").expect("room");
    }
    daemon
}

fn daemon(bytes: &[u8], seed: u8) -> (Result<(), Breach>, Vec<u8>) {
    let mut daemon = begun();
    let (mut said, mut over, mut next) = (Vec::new(), BTreeSet::new(), 5);
    let mut result = Ok(());
    for piece in fuzz::pieces(bytes, seed) {
        result = daemon.handle_bytes(piece);
        while let Some(output) = daemon.poll_output() {
            match output {
                DaemonOutput::ToClient(key) => {
                    let half = daemon.pending(key).len() / 2;
                    daemon.wrote(key, half);
                    daemon.blocked(key);
                    if key.0 % 2 == 1 {
                        daemon.client_gone(key);
                    }
                }
                DaemonOutput::Over(key, _) | DaemonOutput::Flooded(key) => {
                    assert!(over.insert(key));
                    let begun = daemon.begin(ClientKey(next), ty::CLIENT_CONNECT, b"1 2 3\0", "joe");
                    assert_eq!(begun, Ok(()));
                    next += 1;
                }
                DaemonOutput::Trigger(blob) => assert!(blob.words().iter().all(|word| fuzz::is_plain(word))),
                DaemonOutput::Resumed(_) => {}
            }
        }
        assert!(daemon.clients().count() <= 256 && daemon.held() <= MAX_KEPT_BY_ALL + bytes.len() + 65_535);
        said.extend_from_slice(daemon.outgoing());
        daemon.sent(daemon.outgoing().len());
        if result.is_err() {
            break;
        }
    }
    (result, said)
}
