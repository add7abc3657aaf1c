//! Ends the program when it is told to, or when a measurement hangs. What it started ends with its lab.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use engine::say;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::PROGRAM;
use cli::failure::Failure;
use cli::status;
use lab::processes;

/// How long a program may do something else than runs: start and end labs, write results.
const BETWEEN: Duration = Duration::from_secs(120);

/// One run of a case.
#[derive(Debug)]
pub(super) struct Run {
    /// What it is, for a message.
    pub(super) what: String,
    /// No such run takes so long.
    pub(super) limit: Duration,
    /// If it hangs, the clients of the lab with this token are ended, so that only this run has failed.
    pub(super) expendable: Option<String>,
}

/// Watches over the program as long as it lives.
#[derive(Debug)]
pub(super) struct Guard {
    begun: Sender<Run>,
}

impl Guard {
    /// `folder` is removed before the program is ended.
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        let mut signals =
            Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(Failure::during("listening to signals"))?;
        let owned = folder.to_owned();
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                leave(&owned, signal.saturating_add(128));
            }
        });
        let (begun, heard) = mpsc::channel();
        let owned: PathBuf = folder.to_owned();
        thread::spawn(move || {
            let mut run = Run { what: PROGRAM.to_owned(), limit: BETWEEN, expendable: None };
            loop {
                match heard.recv_timeout(run.limit) {
                    Ok(begun) => run = begun,
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => match run.expendable.take() {
                        Some(token) => end_clients(&token),
                        None => {
                            let seconds = run.limit.as_secs();
                            say::error(format_args!(
                                "{PROGRAM}: {}: it hangs, not done in {seconds} seconds",
                                run.what
                            ));
                            leave(&owned, status::TROUBLE);
                        }
                    },
                }
            }
        });
        Ok(Self { begun })
    }

    /// Something else has begun, and with it its time.
    pub(super) fn begin(&self, run: Run) {
        // The other end is there as long as we are.
        let _ = self.begun.send(run);
    }
}

/// Ends every client of a lab, so that what waits for one fails.
fn end_clients(token: &str) {
    for process in processes(token).iter().filter(|process| process.program == "qrexec-client-vm") {
        if let Some(pid) = Pid::from_raw(process.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn leave(folder: &Path, status: i32) -> ! {
    let _ = std::fs::remove_dir_all(folder);
    std::process::exit(status);
}
