//! Ends the program when it is told to, or when a measurement hangs. What it started ends with its lab.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::PROGRAM;
use crate::failure::Failure;
use crate::status;

/// No run takes as long as this, except one of very many bytes, which has a second more for each of these.
const LIMIT: Duration = Duration::from_secs(60);
const BYTES_A_SECOND: u64 = 16 << 20;

/// Watches over the program as long as it lives.
#[derive(Debug)]
pub(super) struct Guard {
    alive: Sender<()>,
}

impl Guard {
    /// `folder` is removed before the program is ended; `bytes` is what one run moves.
    pub(super) fn start(folder: &Path, bytes: u64) -> Result<Self, Failure> {
        let mut signals =
            Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(Failure::during("listening to signals"))?;
        let owned = folder.to_owned();
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                leave(&owned, signal.saturating_add(128));
            }
        });
        let (alive, heard) = mpsc::channel();
        let owned: PathBuf = folder.to_owned();
        let limit = LIMIT + Duration::from_secs(bytes / BYTES_A_SECOND);
        thread::spawn(move || {
            loop {
                match heard.recv_timeout(limit) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!("{PROGRAM}: a measurement hangs: not done in {} seconds", limit.as_secs());
                        leave(&owned, status::TROUBLE);
                    }
                }
            }
        });
        Ok(Self { alive })
    }

    /// Something was done: time begins anew.
    pub(super) fn alive(&self) {
        // The other end is there as long as we are.
        let _ = self.alive.send(());
    }
}

fn leave(folder: &Path, status: i32) -> ! {
    let _ = std::fs::remove_dir_all(folder);
    std::process::exit(status);
}
