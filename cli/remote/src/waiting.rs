//! Sessions that wait for calls the other way: a machine that nobody can connect to keeps some open to one that it can
//! connect to.
//!
//! The machine that connects runs `qrexec-remote wait LINK`. Each of its idle sessions is, at the other end, a process that
//! offers it to one call there, as [`crate::idle`] tells. That call writes its request as a line, and frames follow, as in
//! every session, only that the far side is the one that connected.

use std::time::Duration;

use cli::failure::Failure;
use cli::status;
use engine::say;
use wire::remote::request::{self, Command};

use crate::beside::beside;
use crate::bytes::Input;
use crate::link::Link;
use crate::{far, log, master};

/// So many sessions wait at once.
const SESSIONS: usize = 4;
/// Pauses before a lost connection is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keeps sessions of `link` waiting, for ever.
pub fn keep(link: &Link) -> i32 {
    let workers: Result<Vec<_>, _> = (0..SESSIONS).map(|_| worker(link.clone())).collect();
    match workers {
        Ok(workers) => {
            for worker in workers {
                let _ = worker.join();
            }
            status::TROUBLE
        }
        Err(failure) => failure.report("qrexec-remote"),
    }
}

/// Holds one place among the sessions: when a call takes the session, the next one is opened at once.
fn worker(link: Link) -> Result<std::thread::JoinHandle<()>, Failure> {
    beside(move || {
        let mut pause = PAUSES.0;
        loop {
            match wait_for_call(&link) {
                Ok(()) => pause = PAUSES.0,
                Err(failure) => {
                    say::error(format_args!("qrexec-remote: {}", failure.message));
                    std::thread::sleep(pause); // nobody tells when the other machine is there again
                    pause = pause.saturating_mul(2).min(PAUSES.1);
                }
            }
        }
    })
}

/// Opens a session and waits for a call on it, which is then served beside us.
fn wait_for_call(link: &Link) -> Result<(), Failure> {
    let session = master::open(link, request::ACCEPT)?;
    log::follow(link, session.stderr)?;
    let mut input = Input::new(session.from);
    let line = input.line().map_err(|_| master::gone(link.name()))?;
    let Ok(Command::Call(request)) = request::parse(&line) else {
        return Err(master::lost(format!("{}: what came is no call", link.name())));
    };
    let link = link.clone();
    let call = move || {
        let control = session.control;
        far::run_call(&link, &request, &mut input, &session.to);
        drop(control);
    };
    beside(call).map(drop)
}
