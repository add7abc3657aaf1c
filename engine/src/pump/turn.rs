#![forbid(unsafe_code)]
//! One turn of the pump: what can move, moves once; what has ended, ends.

use std::io;

use ring::{Channel, Patience, Spans};
use wire::stream::{Kind, Outgoing, Role};

use super::driver::{Driver, ERR_SINK, ERR_SOURCE, PLACES, SINK, SOURCE, Transfer};
use super::ends::{Sink, Source, same_file};
use super::inbound::{Head, Inbound};
use super::loan::{self, Loans};
use super::one_socket::OneSocket;
use super::receive::Arrivals;
use super::{Call, Cost, Outcome, Outlived, PIPE, StderrCopy, Stop, TRANSFER};
use crate::process::{Child, Neighbour};

/// What a turn achieved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Something moved; there may be more.
    Moved,
    /// Nothing can move now.
    Idle,
    /// The call is complete.
    Done,
}

/// Everything about one running call.
pub(super) struct Pump {
    pub(super) channel: Channel,
    pub(super) role: Role,
    pub(super) inbound: Inbound,
    pub(super) outgoing: Outgoing,
    pub(super) sink: Sink,
    pub(super) err_sink: Sink,
    pub(super) source: Source,
    pub(super) err_source: Source,
    pub(super) log: Option<StderrCopy>,
    pub(super) prefix: Vec<u8>,
    pub(super) child: Option<Child>,
    /// Its descriptor said so: time to ask.
    pub(super) child_may_have_ended: bool,
    /// The client's stdin has ended, or its service has: nothing more arrives for the sink.
    pub(super) in_ended: bool,
    pub(super) exit_on_client_eof: bool,
    pub(super) exit_on_service_eof: bool,
    pub(super) one_socket: Option<OneSocket>,
    pub(super) loans: Loans,
    /// The peer takes nothing any more.
    pub(super) cut: bool,
    pub(super) outcome: Outcome,
    /// Payload that arrived when nobody was there to take it, stderr aside.
    pub(super) unread: u64,
    /// There never was anybody to take payload.
    pub(super) is_mute: bool,
    pub(super) sleeps: u64,
    pub(super) patience: Patience,
    /// stderr was read last: stdout comes first now.
    pub(super) err_was_read: bool,
    outlived: Option<Outlived>,
    /// Who is at the local end, once that was looked for.
    neighbour: Option<Option<Neighbour>>,
}

impl Pump {
    pub(super) fn new(channel: Channel, call: Call) -> io::Result<Pump> {
        let service = call.role == Role::Service;
        let one_socket = match (&call.stdin, &call.stdout) {
            (Some(a), Some(b)) => same_file(a, b),
            _ => false,
        };
        // A caller's own sockets are shared with its shell: they are closed, not shut down.
        let shut = service || call.child.is_some() || one_socket;
        let (err_in, err_out) = if service { (call.stderr, None) } else { (None, call.stderr) };
        let is_mute = call.stdin.is_none();
        let request = OneSocket::new(call.single_socket, call.stdin.as_ref())?;
        let mut sink = Sink::new(call.stdin, shut, call.filter_stdout)?;
        if let Some(pipe) = channel.lendable().and_then(loan::pipe_size).filter(|_| call.splice) {
            sink.lend(pipe);
        }
        Ok(Pump {
            one_socket: request,
            inbound: Inbound::new(call.role, call.version),
            outgoing: Outgoing::new(call.role, call.version),
            sink,
            err_sink: Sink::new(err_out, false, call.filter_stderr)?,
            source: Source::new(call.stdout, shut)?,
            err_source: Source::new(err_in, false)?,
            log: call.log_stderr,
            prefix: call.prefix,
            child: call.child,
            child_may_have_ended: false,
            in_ended: false,
            exit_on_client_eof: call.exit_on_client_eof,
            exit_on_service_eof: call.exit_on_service_eof,
            loans: Loans::default(),
            cut: false,
            outcome: Outcome::default(),
            unread: 0,
            is_mute,
            sleeps: 0,
            patience: Patience::new(channel.is_far()),
            err_was_read: false,
            outlived: call.outlived,
            neighbour: None,
            role: call.role,
            channel,
        })
    }

    /// Payload bytes moved so far, both ways.
    pub(super) fn moved(&self) -> u64 {
        self.outcome.bytes_in + self.outcome.bytes_out
    }

    /// Widens the local pipes of a call that moves much.
    pub(super) fn grow(&mut self) {
        let (tx, rx) = (self.channel.tx().size(), self.channel.rx().size());
        if let Some(fd) = self.source.pollable() {
            fd.grow((4 * tx).min(PIPE));
        }
        if let Some(fd) = self.sink.pollable().filter(|_| !self.sink.lends()) {
            fd.grow((4 * rx).min(PIPE));
        }
    }

    /// Goes where the process runs that most of this call's bytes come from or go to. A hint that fails is none.
    pub(super) fn join_neighbour(&mut self) {
        let neighbour = match self.neighbour {
            Some(known) => known,
            None => *self.neighbour.insert(self.find_neighbour()),
        };
        let _ = neighbour.map(Neighbour::join);
    }

    fn find_neighbour(&self) -> Option<Neighbour> {
        if let Some(child) = &self.child {
            return Neighbour::in_tree(child.pid().unsigned_abs());
        }
        let busy = if self.outcome.bytes_out > self.outcome.bytes_in {
            self.source.pollable()
        } else {
            self.sink.pollable()
        };
        busy.and_then(Neighbour::at_pipe)
    }

    /// Gives back memory that an idle call does not need.
    pub(super) fn trim(&mut self) -> Result<(), Stop> {
        crate::process::trim_heap();
        self.give_back()?;
        Ok(self.channel.tx().trim().map_err(ring::Error::from)?)
    }

    pub(super) fn turn(&mut self, driver: &mut dyn Driver) -> Result<Turn, Stop> {
        let mut moved = self.take_headers()?;
        moved |= self.transfer(driver)?;
        moved |= self.look_at_child()?;
        moved |= self.inbound_rest()?;
        self.look_at_reader()?;
        // Whoever is at the other end of what has closed must see that before the peer hears of an end.
        self.let_go(driver);
        moved |= self.outbound_rest()?;
        self.let_go(driver);
        if self.is_done() {
            // A service's last word must leave this process; a client has heard it and owes nothing.
            let said = self.role == Role::Client || self.cut || self.channel.drained();
            return Ok(if said { Turn::Done } else { Turn::Idle });
        }
        if !moved && !self.channel.is_open() && matches!(self.arrivals()?, Arrivals::Starved(_)) {
            self.on_link_closed()?;
        }
        Ok(if moved { Turn::Moved } else { Turn::Idle })
    }

    /// What comes before anything that the peer says: a service without error output has ended it.
    pub(super) fn begin(&mut self) -> Result<(), Stop> {
        if self.role == Role::Service && !self.err_source.is_open() {
            self.send_eof(Kind::Stderr)?;
        }
        Ok(())
    }

    /// Has the driver forget descriptors that are closed: an armed poll keeps a pipe open for its other end.
    fn let_go(&self, driver: &mut dyn Driver) {
        let mut open = [true; PLACES];
        open[SOURCE] = self.source.is_open();
        open[ERR_SOURCE] = self.err_source.is_open();
        open[SINK] = self.sink.is_open();
        open[ERR_SINK] = self.err_sink.is_open();
        driver.let_go(&open);
    }

    // ---- both ways, in place ----------------------------------------------------------------

    /// The turn's two transfers: ring → sink and source → ring.
    fn transfer(&mut self, driver: &mut dyn Driver) -> Result<bool, Stop> {
        let layout = self.layout()?;
        let from_err = self.is_turn_of_stderr();
        let head = self.inbound.head();
        let (tx, rx) = self.channel.halves();

        let mut drain = Spans::new();
        let sink = match head {
            Head::Data(Kind::Stderr) => &mut self.err_sink,
            _ => &mut self.sink,
        };
        let lends = sink.lends();
        let to = sink.writable().filter(|_| !sink.filter && matches!(head, Head::Data(_)));
        if let Some(fd) = to {
            let mut limit = fd.write_limit().min(TRANSFER);
            for (at, len) in self.inbound.pieces(rx.known_ready()) {
                let len = len.min(limit);
                if len == 0 || !rx.spans(at, len, &mut drain) {
                    break;
                }
                limit -= len;
            }
        }

        let mut fill = Spans::new();
        let source = if from_err { &self.err_source } else { &self.source };
        let from = source.readable().filter(|_| layout.is_some());
        if let (Some(_), Some(layout)) = (from, layout) {
            for (at, len) in layout.slots() {
                if !tx.spans(at, len, &mut fill) {
                    break;
                }
            }
        }

        let transfers = [
            to.filter(|_| !drain.is_empty())
                .map(|fd| if lends { Transfer::Lend(fd, &drain) } else { Transfer::Drain(fd, &drain) }),
            from.filter(|_| !fill.is_empty()).map(|fd| Transfer::Fill(fd, &fill)),
        ];
        if transfers.iter().all(Option::is_none) {
            return Ok(false);
        }
        let (offered, asked) = (drain.bytes(), fill.bytes());
        let [drained, filled] = driver.transfer(transfers);
        if let Some(result) = drained {
            self.after_drain(head == Head::Data(Kind::Stderr), offered, result)?;
        }
        if let (Some(result), Some(layout)) = (filled, layout) {
            self.after_fill(from_err, layout, asked, result)?;
        }
        Ok(true)
    }

    fn after_drain(&mut self, err: bool, offered: usize, result: io::Result<usize>) -> Result<(), Stop> {
        let sink = if err { &mut self.err_sink } else { &mut self.sink };
        match result {
            Ok(n) => {
                sink.after_write(n < offered);
                self.outcome.bytes_in += n as u64;
                let lends = sink.lends();
                let ring = self.inbound.took(n);
                if lends { self.lend(n, ring) } else { self.release(ring) }
            }
            Err(e) => sink.on_error(e).map_err(Stop::local("writing what the other side sent")),
        }
    }

    // ---- endings ----------------------------------------------------------------------------

    /// The process's exit closes its stdin, which others may hold and answer: only behind its last words. What they write
    /// is still drained.
    fn look_at_child(&mut self) -> Result<bool, Stop> {
        if self.outcome.local.is_some() || !self.child_may_have_ended || self.has_last_words()? {
            return Ok(false);
        }
        let Some(child) = &mut self.child else { return Ok(false) };
        self.child_may_have_ended = false;
        match child.try_wait() {
            Ok(None) => Ok(false),
            Ok(Some(code)) => {
                self.outcome.local = Some(code);
                self.sink.close();
                Ok(true)
            }
            Err(e) => Err(Stop::local("waiting for the local process")(e)),
        }
    }

    fn is_done(&self) -> bool {
        match self.role {
            Role::Service => self.outgoing.exit_sent(),
            Role::Client => {
                let flushed = !self.sink.is_open() && !self.err_sink.is_open();
                let local = self.child.is_none() || self.outcome.local.is_some();
                self.outcome.remote.is_some() && flushed && local
            }
        }
    }

    /// The peer has closed and everything it left has been read.
    fn on_link_closed(&mut self) -> Result<(), Stop> {
        if self.outcome.remote.is_some() || self.outgoing.exit_sent() {
            self.cut_off();
            return Ok(());
        }
        Err(Stop::Lost("the other side closed the link before the call was complete".into()))
    }

    /// Closes everything, waits for the local process (which is never killed), and reports.
    pub(super) fn finish(mut self, mut driver: Box<dyn Driver>, stop: Option<Stop>) -> Outcome {
        match stop {
            Some(Stop::Lost(why)) => self.outcome.lost = Some(why),
            Some(Stop::Failed(why)) => self.outcome.failed = Some(why),
            Some(Stop::Unread) => self.outcome.unread = true,
            None => {}
        }
        let counters = self.channel.counters();
        self.outcome.cost = Cost {
            syscalls: driver.syscalls() + counters.rings + counters.wakes,
            sleeps: self.sleeps,
            rings: counters.rings,
            copied: counters.copied,
            wakes: counters.wakes,
            engine: driver.name(),
        };
        self.sink.close();
        self.err_sink.close();
        self.source.close();
        self.err_source.close();
        // A ring that is dropped lets go of them only some time later.
        driver.let_go(&[false; PLACES]);
        if self.role == Role::Service && self.outgoing.exit_sent() && !self.cut && !self.loans.is_open() {
            // The client may be about to send, and must not fail before it has heard the code. It has, whatever comes.
            let _ = super::report::hear_out(&mut self.channel);
        }
        drop(self.channel);
        drop(driver);
        if let (Some(child), None) = (&mut self.child, self.outcome.local) {
            self.outcome.local = child.try_wait().unwrap_or_default();
            if self.outcome.local.is_none() {
                self.outlived.into_iter().for_each(Outlived::happens);
                self.outcome.local = child.wait().ok();
            }
        }
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use ring::{Kind as TransportKind, Sizes, Transport};
    use rustix::event::{PollFd, PollFlags, poll};
    use wire::version::Version;

    use super::super::driver::Poll;
    use super::*;
    use crate::process::{Program, spawn};

    const LIMIT: Duration = Duration::from_secs(10);

    /// Both ends of a data link.
    fn meet(folder: &std::path::Path) -> (Channel, Channel) {
        let listener =
            Transport::new(TransportKind::Shm, 1, folder).listen(2, 513, Sizes::both(1 << 16)).unwrap();
        let connector = Transport::new(TransportKind::Shm, 2, folder).connect(1, 513).unwrap();
        let client = std::thread::spawn(move || connector.connect_within(LIMIT).unwrap());
        (listener.accept_within(LIMIT).unwrap(), client.join().unwrap())
    }

    /// Others may hold a service's stdin and answer its end: nobody may hear them before the service's last words. Its end
    /// may be seen before these are read, since a turn reads its stdout or its stderr.
    #[test]
    fn a_services_stdin_closes_behind_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let (_client, channel) = meet(folder.path());
        let ([stdin, theirs], [stdout, words], [stderr, errors]) = {
            let pair = || UnixStream::pair().map(|(ours, theirs)| [ours, theirs]).unwrap();
            (pair(), pair(), pair())
        };
        let script = "read begin; echo last words; exit 3";
        let args = ["sh", "-c", script].map(|arg| std::ffi::CString::new(arg).unwrap());
        let streams = [theirs.as_fd(), words.as_fd(), errors.as_fd()];
        let child = spawn(&Program { file: c"/bin/sh", args: &args, env: &[], streams }).unwrap();
        let end = child.as_fd().try_clone_to_owned().unwrap();
        let begin = stdin.try_clone().unwrap();
        let mut call = Call::new(Role::Service, Version::OURS);
        call.stdin = Some(OwnedFd::from(stdin));
        call.stdout = Some(OwnedFd::from(stdout));
        call.stderr = Some(OwnedFd::from(stderr));
        call.child = Some(child);
        let mut pump = Pump::new(channel, call).unwrap();
        let mut driver = Poll::default();
        while pump.turn(&mut driver).unwrap() == Turn::Moved {}
        std::io::Write::write_all(&mut &begin, b"\n").unwrap();
        poll(&mut [PollFd::new(&end, PollFlags::IN)], None).unwrap();
        pump.sleep(&mut driver, None).unwrap();
        while pump.sink.is_open() {
            pump.turn(&mut driver).unwrap();
        }
        assert_eq!(pump.outcome.bytes_out, "last words\n".len() as u64);
        assert_eq!(pump.outcome.local, Some(3));
    }
}
