#![forbid(unsafe_code)]
//! One turn of the pump: everything that can move moves once, then it is checked what has ended.
//!
//! This file has what concerns both directions: the two transfers of a turn, which a driver may make together, and
//! when the call is over.

use std::os::fd::{AsFd, OwnedFd};

use ring::{Channel, Link, Spans, Spin};
use wire::stream::Role;

use super::call::Call;
use super::driver::{Driver, PLACES, Transfer};
use super::ending::{Cost, Ending, Failure, Lost, Outcome};
use super::gate::Gate;
use super::local::Local;
use super::placement;
use super::receiver::{Arrivals, Heard, Messages, Receiver, Sink, Writing};
use super::report;
use super::sender::{OneSocket, Outward, Sender, Source};
use crate::meter::Meter;
use crate::process::Neighbour;

/// How many bytes a service may still send after the local program that read them has ended.
const UNREAD: u64 = 1 << 20;

/// The result of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Something moved; there may be more.
    Moved,
    /// Nothing can move now.
    Idle,
    /// The call is complete.
    Done,
}

/// The processes at the local end, as far as they are known.
struct Neighbours {
    child: Option<Neighbour>,
    source: Option<Neighbour>,
    sink: Option<Neighbour>,
}

impl Neighbours {
    /// The local process, or else the processes at the other ends of pipes.
    fn find(local: &Local, sender: &Sender, receiver: &Receiver) -> Neighbours {
        if !placement::is_wanted() {
            return Neighbours { child: None, source: None, sink: None };
        }
        if local.is_process() {
            return Neighbours { child: local.neighbour(), source: None, sink: None };
        }
        let ends = [sender.local_end(), receiver.local_end()];
        let [source, sink] = ends.map(|end| end.and_then(Neighbour::at_pipe));
        Neighbours { child: None, source, sink }
    }
}

/// One running call.
pub(super) struct Pump {
    role: Role,
    pub(super) link: Link,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) local: Local,
    exit_on_client_eof: bool,
    exit_on_service_eof: bool,
    pub(super) spin: Spin,
    pub(super) sleeps: u64,
    neighbours: Neighbours,
    meter: Option<Meter>,
}

impl Pump {
    pub(super) fn new(channel: Channel, call: Call) -> Result<Pump, Failure> {
        Self::adopt(channel, call).map_err(Failure::during("preparing local descriptors"))
    }

    fn adopt(channel: Channel, call: Call) -> std::io::Result<Pump> {
        let Call { role, version, .. } = call;
        let is_service = role == Role::Service;
        let is_one = match (&call.sink, &call.source) {
            (Some(a), Some(b)) => is_same_file(a, b),
            _ => false,
        };
        // A caller's own sockets are shared with its shell: they are closed, not shut down.
        let shut = is_service || call.child.is_some() || is_one;
        let (err_source, err_sink) = if is_service { (call.stderr, None) } else { (None, call.stderr) };
        let (producer, consumer, link) = channel.split();
        let one_socket = OneSocket::new(call.one_socket, call.sink.as_ref())?;
        let sink = Sink::new(call.sink, shut, call.filter_sink && call.usbip.is_none())?;
        let err_sink = Sink::new(err_sink, false, call.filter_stderr)?;
        let messages = Messages::new(role, version);
        let [out, into] = match call.usbip {
            Some(rules) => Gate::pair(rules, role).map(Some),
            None => [None, None],
        };
        let receiver = Receiver::new(consumer, &link, messages, sink, err_sink, call.splice, into);
        let outward = Outward {
            role,
            version,
            source: Source::new(call.source, shut)?,
            err_source: Source::new(err_source, false)?,
            log: call.log_stderr,
            prefix: call.prefix,
            one_socket,
            gate: out,
        };
        let sender = Sender::new(producer, outward);
        let local = Local::new(call.child, call.outlived);
        let mut spin = Spin::new(link.is_far()).before_a_start();
        if is_one {
            spin.takes_turns();
        }
        Ok(Pump {
            role,
            neighbours: Neighbours::find(&local, &sender, &receiver),
            sender,
            receiver,
            local,
            exit_on_client_eof: call.exit_on_client_eof,
            exit_on_service_eof: call.exit_on_service_eof,
            spin,
            sleeps: 0,
            meter: call.meter,
            link,
        })
    }

    // ---- turns ------------------------------------------------------------------------------

    /// Sends what comes before anything that the peer sends: a service without stderr sends its end.
    pub(super) fn begin(&mut self) -> Result<(), Ending> {
        self.sender.begin();
        if self.role == Role::Service {
            self.sender.send_end_of_stderr(&mut self.link)?;
        }
        Ok(())
    }

    pub(super) fn turn(&mut self, driver: &mut dyn Driver) -> Result<Turn, Ending> {
        let mut moved = self.transfer(driver)?;
        self.show();
        self.look_at_neighbour();
        // Its stdin, which other processes may hold and answer, is closed only after its last bytes were read.
        if !self.sender.has_last_words(&mut self.link)? && self.local.ends()? {
            self.receiver.close_sink();
            moved = true;
        }
        moved |= self.hear()?;
        self.look_at_reader()?;
        // The other ends of closed descriptors must see that before the peer is sent the end of a stream.
        self.let_go(driver);
        moved |= self.send_rest()?;
        self.let_go(driver);
        if self.is_done() {
            return Ok(if self.has_said_all() { Turn::Done } else { Turn::Idle });
        }
        if !moved && !self.link.is_open() && matches!(self.arrivals()?, Arrivals::Starved(_)) {
            self.on_link_closed()?;
        }
        Ok(if moved { Turn::Moved } else { Turn::Idle })
    }

    /// The two transfers of the turn, both in place: ring → sink and source → ring.
    fn transfer(&mut self, driver: &mut dyn Driver) -> Result<bool, Ending> {
        let (mut drain, mut fill) = (Spans::new(), Spans::new());
        let (news, writing) = self.receiver.offer(&mut self.link, &mut drain)?;
        let reading = self.sender.offer(&mut self.link, &mut fill)?;
        if writing.is_none() && reading.is_none() {
            return Ok(news);
        }
        let [drained, filled] = driver.transfer([
            writing.map(|writing| writing.transfer(&drain)),
            reading.map(|(_, fd)| Transfer::Fill(fd, &fill)),
        ]);
        let (offered, asked) = (drain.bytes(), fill.bytes());
        let place = writing.map(Writing::place);
        let reading = reading.map(|(reading, _)| reading);
        if let (Some(result), Some(place)) = (drained, place) {
            self.receiver.delivered(&mut self.link, place, offered, result)?;
        }
        if let (Some(result), Some(reading)) = (filled, reading) {
            self.sender.publish(&mut self.link, reading, asked, result)?;
        }
        Ok(true)
    }

    /// Has the receiver handle what is no payload, and the sender react to it.
    fn hear(&mut self) -> Result<bool, Ending> {
        let heard = self.receiver.hear(&mut self.link)?;
        match heard {
            Heard::End if self.exit_on_client_eof => self.sender.stop_reading(),
            Heard::Exit => self.sender.fall_silent(),
            Heard::End | Heard::Something | Heard::Nothing => {}
        }
        Ok(heard != Heard::Nothing)
    }

    /// Has the sender send what is no plain transfer, up to the exit code.
    fn send_rest(&mut self) -> Result<bool, Ending> {
        let moved = self.sender.rest(&mut self.link)?;
        if self.exit_on_service_eof && self.sender.has_ended() {
            self.receiver.stop();
        }
        Ok(match self.code() {
            Some(code) => moved | self.sender.send_exit_code(&mut self.link, code)?,
            None => moved,
        })
    }

    /// What the bytes that have arrived are waiting for.
    pub(super) fn arrivals(&mut self) -> Result<Arrivals, Ending> {
        self.receiver.arrivals(&mut self.link)
    }

    /// Gives back the lent pages that their reader has taken.
    pub(super) fn give_back(&mut self) -> Result<(), Ending> {
        self.receiver.give_back(&mut self.link)
    }

    /// Has the driver release descriptors that are closed: a poll that is still armed would keep a pipe open.
    fn let_go(&self, driver: &mut dyn Driver) {
        let mut open = [true; PLACES];
        self.sender.note_open(&mut open);
        self.receiver.note_open(&mut open);
        driver.let_go(&open);
    }

    // ---- size and speed ---------------------------------------------------------------------

    /// Payload bytes moved so far, both directions together.
    pub(super) fn moved(&self) -> u64 {
        self.receiver.received() + self.sender.sent()
    }

    /// Shows how much was moved: two writes to memory.
    fn show(&self) {
        self.meter.iter().for_each(|meter| meter.show(self.receiver.received(), self.sender.sent()));
    }

    /// Sleeps so far.
    pub(super) fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// Widens the local pipes of a call that moves much.
    pub(super) fn grow(&mut self) {
        self.sender.grow();
        self.receiver.grow();
    }

    /// Returns memory that an idle call does not need.
    pub(super) fn trim(&mut self) -> Result<(), Ending> {
        crate::process::trim_heap();
        crate::process::trim_stack();
        self.give_back()?;
        self.sender.trim()
    }

    /// Moves to the processor of the process that most of this call's bytes come from or go to. It is only a hint, so
    /// errors are ignored.
    pub(super) fn join_neighbour(&mut self) {
        let sends_more = self.sender.sent() > self.receiver.received();
        let Neighbours { child, source, sink } = &mut self.neighbours;
        let busy = if sends_more { source } else { sink };
        let _ = child.as_mut().or(busy.as_mut()).map(Neighbour::join);
    }

    /// A call that has become one socket has no neighbour: the process that asked for it only waits for its end. From
    /// then on two kernels answer each other.
    fn look_at_neighbour(&mut self) {
        if self.neighbours.child.is_some() && self.sender.has_gone_over() {
            self.spin.takes_turns();
            self.neighbours = Neighbours { child: None, source: None, sink: None };
        }
    }

    // ---- when the call is over --------------------------------------------------------------

    /// A service's exit code, once it is known: that of its process, or 0 for a socket that has ended.
    pub(super) fn code(&self) -> Option<i32> {
        if self.role != Role::Service {
            return None;
        }
        if self.local.is_process() {
            return self.local.code();
        }
        (self.receiver.has_ended() || !self.receiver.takes()).then_some(0)
    }

    fn is_done(&self) -> bool {
        match self.role {
            Role::Service => self.sender.exit_sent(),
            Role::Client => {
                self.receiver.code().is_some() && self.receiver.is_delivered() && !self.local.is_running()
            }
        }
    }

    /// A service's exit code must have left this process; a client that has received it has nothing more to send.
    fn has_said_all(&mut self) -> bool {
        self.role == Role::Client || self.sender.is_cut() || self.link.drained(self.sender.producer())
    }

    /// The peer has closed and everything it left has been read.
    fn on_link_closed(&mut self) -> Result<(), Ending> {
        if self.receiver.code().is_none() && !self.sender.exit_sent() {
            return Err(Lost::Closed.into());
        }
        self.sender.cut_off();
        Ok(())
    }

    /// Ends a client's call if what its service sends has no reader: the service would never find out, and might go on
    /// for ever. What a local program leaves unread when it ends is allowed, up to a limit.
    fn look_at_reader(&mut self) -> Result<(), Ending> {
        if self.role != Role::Client || self.receiver.code().is_some() {
            return Ok(());
        }
        let unread = self.receiver.unread();
        let (ending, limit) = if !self.local.is_process() {
            (self.undelivered(), 0)
        } else if !self.local.is_running() && !self.sender.may_say_more() {
            (Ending::Unread, UNREAD)
        } else {
            return Ok(());
        };
        if unread <= limit || matches!(ending, Ending::Complete) {
            return Ok(());
        }
        // The exit code may be behind data that nobody reads; at most a ring of such data is passed over to find it.
        let looked = unread > limit + self.receiver.consumer().size() as u64;
        if !looked && self.arrivals()? == Arrivals::Movable { Ok(()) } else { Err(ending) }
    }

    /// How a client's call without a local program ends once the service has sent everything.
    fn undelivered(&self) -> Ending {
        let missed = self.role == Role::Client && !self.local.is_process() && self.receiver.unread() > 0;
        if missed && self.receiver.is_mute() {
            Failure::Mute.into()
        } else if missed && self.receiver.has_lost_reader() {
            Ending::Unread
        } else {
            Ending::Complete
        }
    }

    /// Whether a client only waits for the end of a service whose output has no reader.
    pub(super) fn is_unheard(&self) -> bool {
        let waits = self.role == Role::Client && !self.local.is_process() && !self.receiver.has_ended();
        waits && self.receiver.has_lost_reader() && !self.sender.may_say_more()
    }

    /// Whether the reader of lent pages has to be looked at from time to time.
    pub(super) fn awaits_reader(&self) -> bool {
        self.receiver.awaits_reader()
    }

    /// Closes everything, waits for the local process (which is never killed), and reports the result.
    pub(super) fn finish(self, mut driver: Box<dyn Driver>, ending: Ending) -> Outcome {
        let ending = if matches!(ending, Ending::Complete) { self.undelivered() } else { ending };
        // Includes what was moved after the last transfer.
        self.show();
        let Pump { role, link, mut sender, mut receiver, local, sleeps, .. } = self;
        let counters = link.counters();
        let mut outcome = Outcome {
            ending,
            remote: receiver.code(),
            local: None,
            bytes_in: receiver.received(),
            bytes_out: sender.sent(),
            cost: Cost {
                syscalls: driver.syscalls() + counters.rings + counters.wakes,
                sleeps,
                rings: counters.rings,
                wakes: counters.wakes,
                copied: counters.copied,
                engine: driver.name(),
            },
        };
        receiver.close();
        sender.close();
        // If they were released only by dropping the io_uring instance, that would happen some time later.
        driver.let_go(&[false; PLACES]);
        // The client may be about to send, which must not fail before it has received the code. It receives the code
        // in any case.
        let hears_out =
            role == Role::Service && sender.exit_sent() && !sender.is_cut() && !receiver.has_lent();
        let (producer, _request) = sender.into_parts();
        let mut channel = Channel::joined(producer, receiver.into_consumer(), link);
        if hears_out {
            let _ = report::hear_out(&mut channel);
        }
        drop(channel);
        drop(driver);
        outcome.local = local.wait();
        outcome
    }
}

/// Whether two descriptors are of the same open socket or file.
fn is_same_file(a: &OwnedFd, b: &OwnedFd) -> bool {
    let id = |fd: &OwnedFd| rustix::fs::fstat(fd.as_fd()).ok().map(|s| (s.st_dev, s.st_ino));
    id(a).is_some() && id(a) == id(b)
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

    /// Other processes may hold a service's stdin and answer its end: their answer must not come before the service's
    /// last bytes. The service's end may be noticed before these are read, since a turn reads its stdout or its
    /// stderr.
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
        call.sink = Some(OwnedFd::from(stdin));
        call.source = Some(OwnedFd::from(stdout));
        call.stderr = Some(OwnedFd::from(stderr));
        call.child = Some(child);
        let mut pump = Pump::new(channel, call).unwrap();
        let mut driver = Poll::default();
        while pump.turn(&mut driver).unwrap() == Turn::Moved {}
        std::io::Write::write_all(&mut &begin, b"\n").unwrap();
        poll(&mut [PollFd::new(&end, PollFlags::IN)], None).unwrap();
        pump.sleep(&mut driver, None).unwrap();
        while pump.receiver.takes() {
            pump.turn(&mut driver).unwrap();
        }
        assert_eq!(pump.sender.sent(), "last words\n".len() as u64);
        assert_eq!(pump.local.code(), Some(3));
    }
}
