//! A command inside a lab, seen from the terminal that waits for it.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use engine::process::{Signals, group};
use engine::reactor::{self, Event, Interest, Reactor};
use engine::say;
use rustix::process::Signal;
use rustix::termios::isatty;

use super::control::{Answer, Bytes, ControlClient, Request, Run};
use super::terminal::{Front, Terminal};
use super::{Error, Lab};

/// Signals that end a command, and with it the lab it has for itself; and the one that tells of a window's size.
const SIGNALS: [Signal; 5] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::WINCH];

/// How long a signalled command may take for its own cleaning up.
const GRACE: Duration = Duration::from_secs(1);

/// What is waited for while a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signal,
    Answer,
    Typed,
    Shown,
}

impl reactor::Named for Token {
    const ALL: &'static [Self] = &[Self::Signal, Self::Answer, Self::Typed, Self::Shown];
}

/// The caller's signals as events. To be made before the lab, so that a signal during the start is not lost.
pub(super) struct Foreground {
    signals: Signals,
    reactor: Reactor<Token>,
    /// The command has the caller's terminal: what is typed there reaches it without us.
    shared: bool,
    terminal: Option<Terminal>,
    told: Option<(i32, Instant)>,
}

impl Foreground {
    pub(super) fn new() -> Result<Self, Error> {
        let made = || -> io::Result<Self> {
            let (signals, reactor) = (Signals::block(&SIGNALS)?, Reactor::new()?);
            let made = Self { signals, reactor, shared: false, terminal: None, told: None };
            made.reactor.add(&made.signals, Token::Signal, Interest::Read)?;
            Ok(made)
        };
        made().map_err(|error| Error::io("cannot watch for signals", error))
    }

    /// Runs `argv` in `vm` on the caller's streams, in the caller's folder; returns its exit code.
    ///
    /// A signal goes on to the command. After [`GRACE`] this returns 128 + n whatever the command does; what ends the
    /// connection then ends the command.
    pub(super) fn run(mut self, lab: &Lab, vm: &str, argv: Vec<std::ffi::OsString>) -> Result<i32, Error> {
        let _front = Front::remember();
        let early = self.signals.take_next().ok().flatten();
        let mut client = self.begin(lab, vm, argv)?;
        if let Some(number) = early {
            self.pass_on(&mut client, number)?;
        }
        self.reactor
            .add(&client, Token::Answer, Interest::Read)
            .map_err(|error| Error::io("cannot watch the command", error))?;
        let ended = self.await_end(&mut client);
        if let Some(terminal) = &mut self.terminal {
            terminal.show_the_rest();
        }
        // Only now: what follows is printed on a terminal that is as it was.
        self.terminal = None;
        match ended? {
            Answer::Exited(code) => Ok(code),
            Answer::Failed { code, why } => {
                say::error(format_args!("qrexec-lab: {why}"));
                Ok(code)
            }
            Answer::Ready | Answer::Ended(_) => Err(Error::new("the lab answers nonsense")),
        }
    }

    fn begin(&mut self, lab: &Lab, vm: &str, argv: Vec<std::ffi::OsString>) -> Result<ControlClient, Error> {
        let trouble = |error: io::Error| Error::io("cannot make a terminal for the command", error);
        let mut stage = None;
        if lab.plan().stay {
            let made = Terminal::like_the_callers().map_err(trouble)?;
            if let Some((terminal, end)) = made {
                self.watch_terminal(&terminal).map_err(trouble)?;
                (self.terminal, stage) = (Some(terminal), Some(end));
            }
        } else {
            self.shared = true;
        }
        let run = Run {
            vm: vm.to_owned(),
            argv: argv.into_iter().map(Bytes::from).collect(),
            env: std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: std::env::current_dir().ok(),
            group: group().map_or(0, |group| group.as_raw_nonzero().get()),
            terminal: stage.is_some(),
        };
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        match &stage {
            None => lab.begin(run, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
            Some(end) => {
                let errors = if isatty(&stderr) { end.as_fd() } else { stderr.as_fd() };
                lab.begin(run, [end.as_fd(), end.as_fd(), errors])
            }
        }
    }

    fn watch_terminal(&self, terminal: &Terminal) -> io::Result<()> {
        self.reactor.add(io::stdin(), Token::Typed, Interest::Read)?;
        Ok(self.reactor.add(terminal, Token::Shown, Interest::Read)?)
    }

    fn await_end(&mut self, client: &mut ControlClient) -> Result<Answer, Error> {
        let mut events: Vec<Event<Token>> = Vec::new();
        loop {
            let left = self.told.map(|(_, until)| until.saturating_duration_since(Instant::now()));
            self.reactor
                .wait(left, &mut events)
                .map_err(|error| Error::io("cannot wait for the command", error))?;
            for event in &events {
                match event.token {
                    Token::Answer => return client.answer(),
                    Token::Signal => self.take_signals(client)?,
                    Token::Typed => self.carry_typed(),
                    Token::Shown => self.carry_shown()?,
                }
            }
            if let Some((code, _)) = self.told.filter(|(_, until)| *until <= Instant::now()) {
                return Ok(Answer::Exited(code));
            }
        }
    }

    fn take_signals(&mut self, client: &mut ControlClient) -> Result<(), Error> {
        while let Ok(Some((number, typed))) = self.signals.take_next_from() {
            if number == Signal::WINCH.as_raw() {
                if let Some(terminal) = &self.terminal {
                    terminal.resize();
                }
                continue;
            }
            // A key of the terminal that both are in front of: the command has it already, and knows what it means.
            let key = typed && (number == Signal::INT.as_raw() || number == Signal::QUIT.as_raw());
            if !(key && self.shared) {
                self.pass_on(client, number)?;
            }
        }
        Ok(())
    }

    fn pass_on(&mut self, client: &mut ControlClient, number: i32) -> Result<(), Error> {
        client.send(&Request::Signal(number), &[])?;
        self.told.get_or_insert((128 + number, Instant::now() + GRACE));
        Ok(())
    }

    fn carry_typed(&mut self) {
        let Some(terminal) = &mut self.terminal else { return };
        if terminal.take_typed() {
            // No more is read than the command takes.
            if terminal.is_behind() {
                let _ = self.reactor.modify(io::stdin(), Token::Typed, Interest::Hangup);
                let _ = self.reactor.modify(&*terminal, Token::Shown, Interest::ReadWrite);
            }
        } else {
            let _ = self.reactor.remove(io::stdin());
        }
    }

    fn carry_shown(&mut self) -> Result<(), Error> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        if terminal.is_behind() {
            terminal.pass_typed();
            if !terminal.is_behind() {
                let _ = self.reactor.modify(io::stdin(), Token::Typed, Interest::Read);
                let _ = self.reactor.modify(&*terminal, Token::Shown, Interest::Read);
            }
        }
        let open = terminal.show().map_err(|error| Error::io("cannot write to the terminal", error))?;
        if !open {
            let _ = self.reactor.remove(&*terminal);
        }
        Ok(())
    }
}
