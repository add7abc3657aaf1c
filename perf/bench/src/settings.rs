//! What is to be measured, and how often and how large.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lab::Transport;

/// What the caller's ends of a call are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Ends {
    /// Pipes of the usual size.
    Pipe,
    /// Files.
    File,
    /// Stream sockets.
    Socket,
}

/// A minimum for the rings of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Buffer(pub(super) Option<(String, u64)>);

impl Buffer {
    /// What `--buffer-size` is given, in bytes; `None`: the option is left away.
    pub(super) fn size(&self) -> Option<u64> {
        self.0.as_ref().map(|(_, bytes)| *bytes)
    }
}

impl fmt::Display for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("default", |(text, _)| text))
    }
}

/// How measurements are made.
#[derive(Clone)]
pub(super) struct Settings {
    /// Programs are compared with others'.
    pub(super) compares: bool,
    /// How often each case is run, at most.
    pub(super) runs: u32,
    /// How long all runs together may take, after which a case is run no more than [`Settings::FEWEST`] times.
    pub(super) budget: Option<Duration>,
    /// Bytes of one transfer.
    pub(super) size: u64,
    pub(super) buffers: Vec<Buffer>,
    /// The caller's ends of transfers.
    pub(super) ends: Vec<Ends>,
    /// What carries the bytes; `None`: what there is between this VM and the target.
    pub(super) transport: Option<Transport>,
    /// Rounds of one run of ping-pong.
    pub(super) rounds: u32,
    /// Calls of one run.
    pub(super) calls: u32,
    /// Calls that are under way at a time.
    pub(super) abreast: Vec<u32>,
    /// Files of one copy.
    pub(super) files: u32,
    /// The length of a large file that is copied.
    pub(super) large: u64,
    /// How long a camera is read.
    pub(super) camera: Duration,
    /// A folder that is copied too.
    pub(super) tree: Option<PathBuf>,
    /// Calls that are open at once in the scenario `scale`.
    pub(super) idle_calls: usize,
    pub(super) quick: bool,
    /// What the names of cases must have one of; empty: all are run.
    pub(super) case: Vec<String>,
    /// Additional environment of all programs.
    pub(super) environment: Vec<(String, String)>,
}

impl Settings {
    /// Runs without which a median is none.
    pub(super) const FEWEST: u32 = 3;

    /// Default for the number of runs.
    pub(super) const RUNS: u32 = 5;

    /// Default for all runs together, a minute with what is around them.
    pub(super) const BUDGET: Duration = Duration::from_secs(40);
}
