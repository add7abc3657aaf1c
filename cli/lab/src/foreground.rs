//! A command inside a lab, seen from the terminal that waits for it.

use std::io;
use std::time::{Duration, Instant};

use engine::process::Signals;
use engine::reactor::{Event, Interest, Reactor};
use engine::say;
use rustix::process::{Signal, getpgrp};

use super::control::{Answer, Bytes, Client, Request, Run};
use super::{Error, Lab};

/// Signals that end a command, and with it the lab it has for itself.
const SIGNALS: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// How long a signalled command may take for its own cleaning up.
const GRACE: Duration = Duration::from_secs(1);

const SIGNAL: u64 = 0;
const ANSWER: u64 = 1;

/// The caller's signals as events. To be made before the lab, so that a signal during the start is not lost.
pub(super) struct Foreground {
    signals: Signals,
    reactor: Reactor,
}

impl Foreground {
    pub(super) fn new() -> Result<Self, Error> {
        let made = || -> io::Result<Self> {
            let made = Self { signals: Signals::block(&SIGNALS)?, reactor: Reactor::new()? };
            made.reactor.add(&made.signals, SIGNAL, Interest::Read)?;
            Ok(made)
        };
        made().map_err(|error| Error::io("cannot watch for signals", error))
    }

    /// Runs `argv` in `vm` on the caller's streams, in the caller's folder; returns its exit code.
    ///
    /// A signal goes on to the command. After [`GRACE`] this returns 128 + n whatever the command does; what ends the
    /// connection then ends the command.
    pub(super) fn run(mut self, lab: &Lab, vm: &str, argv: Vec<std::ffi::OsString>) -> Result<i32, Error> {
        let run = Run {
            vm: vm.to_owned(),
            argv: argv.into_iter().map(Bytes::from).collect(),
            env: std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: std::env::current_dir().ok(),
            group: getpgrp().as_raw_nonzero().get(),
        };
        let mut client = lab.begin(run)?;
        self.reactor
            .add(&client, ANSWER, Interest::Read)
            .map_err(|error| Error::io("cannot watch the command", error))?;
        self.await_end(&mut client)
    }

    fn await_end(&mut self, client: &mut Client) -> Result<i32, Error> {
        let mut told: Option<(i32, Instant)> = None;
        let mut events: Vec<Event> = Vec::new();
        loop {
            let left = told.map(|(_, until)| until.saturating_duration_since(Instant::now()));
            self.reactor
                .wait(left, &mut events)
                .map_err(|error| Error::io("cannot wait for the command", error))?;
            if events.iter().any(|event| event.token == ANSWER) {
                return match client.answer()? {
                    Answer::Exited(code) => Ok(code),
                    Answer::Failed { code, why } => {
                        say::error(format_args!("qrexec-lab: {why}"));
                        Ok(code)
                    }
                    Answer::Ready => Err(Error::new("the lab answers nonsense")),
                };
            }
            while let Ok(Some(number)) = self.signals.take_next() {
                client.send(&Request::Signal(number), &[])?;
                told.get_or_insert((128 + number, Instant::now() + GRACE));
            }
            if let Some((code, _)) = told.filter(|(_, until)| *until <= Instant::now()) {
                return Ok(code);
            }
        }
    }
}
