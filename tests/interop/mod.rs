//! Our programs mixed with other implementations of the same four, in every one of the sixteen mixtures, over the
//! socket transport.
//!
//! `QREXEC_PEER_DIR` names the folder with the other `qrexec-agent`, `qrexec-client-vm`, `qrexec-daemon` and
//! `qrexec-client`. Without it there is nothing to mix with, and the tests say so.

mod fork_server;
mod mixture;
mod storm;

use std::io::Write;
use std::os::unix::net::UnixListener;

use crate::common::{Pattern, Said, call, full, run, within_deadline};
use lab::{DOM0, Lab};
use mixture::{Mixture, Peer};

/// Bytes of a large transfer: many times what rings and buffers hold.
const LARGE: usize = 16 << 20;

/// Runs `test` in a lab of every mixture, as often as the run is to be thorough.
fn in_every_mixture(test: fn(&Lab, Mixture)) {
    let Some(peer) = Peer::from_env() else { return };
    let rounds = if full() { 20 } else { 1 };
    for mixture in Mixture::all() {
        println!("{mixture}");
        let peer = peer.clone();
        within_deadline(move || {
            let (lab, _folder) = mixture.start(&peer);
            for _ in 0..rounds {
                test(&lab, mixture);
            }
            lab.down().unwrap();
        });
    }
}

fn assert_said(mixture: Mixture, said: &Said, code: i32, stdout: &str) {
    assert_eq!((said.code, said.text().as_str()), (code, stdout), "{mixture}: {said:?}");
}

#[test]
fn calls_between_machines() {
    in_every_mixture(|lab, mixture| {
        let every: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        for input in [&b""[..], b"x", &every[..4096], &every] {
            let said = call(lab, "work", "vault", "test.Cat", input);
            assert_eq!(said.code, 0, "{mixture}: {}", said.stderr);
            assert!(said.stdout == input, "{mixture}: {} bytes became {}", input.len(), said.stdout.len());
        }
        for code in [0, 1, 77, 255] {
            let said = call(lab, "work", "vault", &format!("test.Exit+{code}"), b"");
            assert_said(mixture, &said, code, "");
        }
        assert_said(mixture, &call(lab, "work", "vault", "test.Signal+TERM", b""), 143, "");
        let said = call(lab, "work", "vault", "test.Who+a+b", b"");
        assert_said(mixture, &said, 0, "work|test.Who+a+b|a+b|a+b\n");
        assert!(said.stderr.contains("complaint"), "{mixture}: {said:?}");
        assert_said(mixture, &call(lab, "work", "vault", "test.Missing", b""), 127, "");
        let refused = call(lab, "work", "vault", "test.No", b"");
        assert_said(mixture, &refused, 126, "");
        assert!(refused.stderr.contains("Request refused"), "{mixture}: {refused:?}");
    });
}

#[test]
fn local_programs_at_the_callers_end() {
    in_every_mixture(|lab, mixture| {
        let sum = lab.layout().programs("work").join("sum");
        let said = run(lab, "work", &["qrexec-client-vm", "vault", "test.Add", sum.to_str().unwrap()], b"");
        assert_said(mixture, &said, 0, "3\n");
    });
}

#[test]
fn calls_from_dom0() {
    in_every_mixture(|lab, mixture| {
        let user = &lab.plan().user;
        let client = |args: &[&str], input: &[u8]| {
            run(lab, DOM0, &[&["qrexec-client", "-d", "vault"], args].concat(), input)
        };
        let said = client(&[&format!("{user}:cat; echo note >&2; exit 9")], b"through");
        assert_said(mixture, &said, 9, "through");
        assert!(said.stderr.contains("note"), "{mixture}: {said:?}");
        assert_said(mixture, &client(&["DEFAULT:QUBESRPC test.Cat dom0"], b"service"), 0, "service");
        assert_said(mixture, &client(&["DEFAULT:QUBESRPC test.Missing dom0"], b""), 127, "");
        assert_said(mixture, &client(&["-E", "DEFAULT:exit 3"], b""), 0, "");
        // The call ends at once, the command is never waited for.
        assert_said(mixture, &client(&["-e", "DEFAULT:sleep 1000"], b""), 0, "");
        let copy = lab.layout().home(DOM0).join("copy");
        let local = format!("cat >{}", copy.display());
        assert_said(mixture, &client(&["-l", &local, "DEFAULT:echo remote"], b""), 0, "");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), "remote\n", "{mixture}");
    });
}

#[test]
fn calls_to_dom0() {
    in_every_mixture(|lab, mixture| {
        let said = call(lab, "work", "dom0", "test.Dom0+arg", b"in\n");
        assert_said(mixture, &said, 5, "work name arg in\n");
        let said = call(lab, "work", "@adminvm", "test.Dom0+arg", b"in\n");
        assert_said(mixture, &said, 5, "work keyword arg in\n");
        assert_said(mixture, &call(lab, "work", "dom0", "test.Missing", b""), 127, "");
    });
}

#[test]
fn socket_services() {
    in_every_mixture(|lab, mixture| {
        let path = lab.layout().services("vault").join("test.Socket");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let service = std::thread::spawn(move || answer_once(&listener));
        let said = call(lab, "work", "vault", "test.Socket+x", b"from the caller");
        assert_said(mixture, &said, 0, "from the service");
        assert_eq!(service.join().unwrap(), b"test.Socket+x work\0from the caller", "{mixture}");
        std::fs::remove_file(path).unwrap();
    });
}

/// Takes one call, hears it to its end, and answers.
fn answer_once(listener: &UnixListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut heard = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
    stream.write_all(b"from the service").unwrap();
    heard
}

#[test]
fn large_transfers() {
    in_every_mixture(|lab, mixture| {
        let mut pattern = Pattern::new(1);
        let input: Vec<u8> = (0..LARGE / 8).flat_map(|_| pattern.number().to_le_bytes()).collect();
        let said = call(lab, "work", "vault", "test.Cat", &input);
        assert_eq!(said.code, 0, "{mixture}: {}", said.stderr);
        assert!(said.stdout == input, "{mixture}: {} bytes became {}", input.len(), said.stdout.len());
    });
}

#[test]
fn the_peers_folder_is_complete() {
    let Some(peer) = Peer::from_env() else { return };
    for program in mixture::PROGRAMS {
        assert!(peer.0.join(program).exists(), "{program}");
    }
}
