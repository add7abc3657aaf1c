//! Each agent with each fork server: calls run in the session that the server belongs to, a burst of them too.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use lab::Lab;

use super::mixture::{Mixture, Peer, script};
use crate::common::{EXE, Said, call, within_deadline};

const PROGRAM: &str = "qrexec-fork-server";
/// More than upstream's server queues.
const BURST: usize = 24;

#[test]
fn each_agent_with_each_fork_server() {
    let Some(peer) = Peer::from_env() else { return };
    if !peer.0.join(PROGRAM).exists() {
        return println!("skipped: the peer has no {PROGRAM}");
    }
    for mixture in [Mixture::of_ours(), Mixture::with_agent_of_peer()] {
        for peers_server in [false, true] {
            println!("{mixture}, {} server", if peers_server { "peer's" } else { "our" });
            let peer = peer.clone();
            within_deadline(move || {
                let folder = tempfile::tempdir().unwrap();
                let folder = folder.path();
                let lab = mixture.lab(&peer, folder).script("vault", "test.Session", SERVICE);
                let_agents_know_the_server(folder);
                let lab = lab.start().unwrap();
                let from =
                    if peers_server { peer.0.join(PROGRAM) } else { folder.join("ours").join(PROGRAM) };
                start_server(&lab, &from, folder);
                calls_are_in_the_session(&lab);
                lab.down().unwrap();
            });
        }
    }
}

/// `none` where the call is in no session.
const SERVICE: &str = "#!/bin/sh\necho ${SESSION-none}\ncat\nexit 4\n";

/// Tells whatever agent the lab has where the server is, instead of that there is none.
fn let_agents_know_the_server(folder: &Path) {
    std::fs::create_dir(folder.join("ours")).unwrap();
    for program in [PROGRAM, "qrexec-agent"] {
        symlink(EXE, folder.join("ours").join(program)).unwrap();
    }
    let agent = folder.join("qrexec-agent");
    let mut real = folder.join("ours").join("qrexec-agent");
    if agent.exists() {
        real = folder.join("peers-agent");
        std::fs::rename(&agent, &real).unwrap();
    }
    let text = format!(
        "#!/bin/sh\nfor arg; do shift; [ \"$arg\" = --no-fork-server ] || set -- \"$@\" \"$arg\"; done\n\
         exec '{}' --fork-server-socket='{}/session.%s' \"$@\"\n",
        real.display(),
        folder.display()
    );
    script(&agent, &text);
}

/// Goes into the background as soon as it listens; it ends with the lab, to which it belongs.
fn start_server(lab: &Lab, program: &Path, folder: &Path) {
    let socket = folder.join(format!("session.{}", lab.plan().user));
    let mut server = lab.command("vault", [program, &socket]).unwrap();
    server.env("SESSION", "mine").stdin(Stdio::null());
    assert!(server.status().unwrap().success());
}

fn calls_are_in_the_session(lab: &Lab) {
    let in_session = |said: &Said| (said.code, said.text()) == (4, "mine\nin".to_owned());
    let calls = || call(lab, "work", "vault", "test.Session", b"in");
    let first = calls();
    assert!(in_session(&first), "{first:?}");
    std::thread::scope(|scope| {
        let burst: Vec<_> = (0..BURST).map(|_| scope.spawn(calls)).collect();
        for one in burst {
            let said = one.join().unwrap();
            assert!(in_session(&said), "{said:?}");
        }
    });
}
