#![forbid(unsafe_code)]
//! What a `libvchan_t` is: a vchan in one of its states, behind one descriptor.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use ring::layout::{Orders, PAGE};
use ring::{Connector, Error, Kind, Listener, Sizes, Transport};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sys::reactor::Interest;

use crate::failure::Failure;
use crate::link::{Amount, Link};
use crate::memory::{Source, Target};
use crate::pollable::Pollable;

/// Answers of `libvchan_is_open`.
const DISCONNECTED: i32 = 0;
const CONNECTED: i32 = 1;
const WAITING: i32 = 2;

/// The state of a `libvchan_t`.
pub(crate) struct Vchan {
    pollable: Pollable,
    state: State,
    /// Whether transfers wait for data or room.
    blocking: bool,
    /// The background thread is waiting on behalf of this vchan.
    writer_out: bool,
}

enum State {
    /// A server whose client has not come.
    Waiting(Offer),
    /// A client whose server has not come.
    Connecting(Connector),
    Open(Box<Link>),
    /// The peer broke the protocol, or a system call failed.
    Broken,
}

/// A server's vchan before its client has connected: what is written is kept for the client, as much as its ring will
/// hold.
struct Offer {
    listener: Listener,
    staged: Vec<u8>,
    rings: Orders,
}

fn number(value: i32) -> Result<u32, Failure> {
    u32::try_from(value).map_err(|_| Failure::Invalid)
}

impl Vchan {
    fn new(pollable: Pollable, state: State) -> Vchan {
        Vchan { pollable, state, blocking: true, writer_out: false }
    }

    /// A server on `port` for the one client `domain`.
    pub(crate) fn listen(
        domain: i32,
        port: i32,
        read_min: usize,
        write_min: usize,
    ) -> Result<Vchan, Failure> {
        let transport = Transport::from_env()?;
        let least = if transport.kind() == Kind::Socket { PAGE } else { 0 };
        let min = Sizes { left: read_min.max(least), right: write_min.max(least) };
        let rings = Orders::choose(min)?;
        let listener = transport.listen(number(domain)?, number(port)?, min)?;
        let mut pollable = Pollable::new()?;
        pollable.watch(listener.as_fd(), Some(Interest::Read))?;
        Ok(Vchan::new(pollable, State::Waiting(Offer { listener, staged: Vec::new(), rings })))
    }

    /// A client of `port` of the server `domain`, as soon as that is there.
    pub(crate) fn connect(domain: i32, port: i32) -> Result<Vchan, Failure> {
        let connector = Transport::from_env()?.connect(number(domain)?, number(port)?)?;
        let channel = connector.connect_within(Duration::MAX)?;
        let mut vchan = Vchan::new(Pollable::new()?, State::Broken);
        vchan.open(Link::new(channel))?;
        Ok(vchan)
    }

    /// Begins to connect. The descriptor becomes readable when [`Vchan::finish`] should be called.
    pub(crate) fn connect_async(domain: i32, port: i32) -> Result<Vchan, Failure> {
        let connector = Transport::from_env()?.connect(number(domain)?, number(port)?)?;
        let mut pollable = Pollable::new()?;
        pollable.watch(connector.as_fd(), Some(Interest::Read))?;
        let mut vchan = Vchan::new(pollable, State::Connecting(connector));
        if vchan.step()? {
            vchan.pollable.kick()?;
        }
        Ok(vchan)
    }

    /// Goes on connecting. `true`: connected, or was before; transfers then wait for the peer if `blocking`.
    pub(crate) fn finish(&mut self, blocking: bool) -> Result<bool, Failure> {
        let connected = match self.state {
            State::Connecting(_) => self.checked(Self::step)?,
            // A kick is left as it is: it may stand for bytes that came at once, and waking for nothing does no harm.
            State::Open(_) => true,
            State::Waiting(_) => return Err(Failure::Invalid),
            State::Broken => return Err(Failure::Closed),
        };
        if connected {
            self.blocking = blocking;
        }
        Ok(connected)
    }

    /// One step toward the server.
    fn step(&mut self) -> Result<bool, Failure> {
        let State::Connecting(connector) = &mut self.state else {
            return Err(Failure::Invalid);
        };
        let Some(channel) = connector.poll()? else {
            self.pollable.after(connector.retry_after())?;
            return Ok(false);
        };
        self.pollable.after(None)?;
        self.pollable.watch(connector.as_fd(), None)?;
        self.open(Link::new(channel))?;
        Ok(true)
    }

    /// Takes the client if it has come.
    fn accept(&mut self) -> Result<bool, Failure> {
        let State::Waiting(offer) = &mut self.state else {
            return Ok(true);
        };
        let Some(mut channel) = offer.listener.accept()? else {
            return Ok(false);
        };
        self.pollable.watch(offer.listener.as_fd(), None)?;
        let staged = std::mem::take(&mut offer.staged);
        // A client that is gone already reads nothing; the next call reports it.
        match channel.write(&staged) {
            Ok(_) | Err(Error::Closed) => channel.flush()?,
            Err(other) => return Err(other.into()),
        }
        self.open(Link::new(channel))?;
        Ok(true)
    }

    fn open(&mut self, mut link: Link) -> Result<(), Failure> {
        tend(&mut self.pollable, &mut link)?;
        self.state = State::Open(Box::new(link));
        // The thread was waiting for the client, who has come: it is woken again as soon as there is something to
        // send.
        self.writer_out = false;
        Ok(())
    }

    /// Waits for the client to connect, and accepts it.
    fn meet(&mut self) -> Result<(), Failure> {
        while let State::Waiting(offer) = &self.state {
            sleep_on(&offer.listener)?;
            self.checked(Self::accept)?;
        }
        Ok(())
    }

    /// As [`Vchan::accept`], during another call: the caller must still be told that the client has connected.
    fn notice(&mut self) -> Result<(), Failure> {
        if matches!(self.state, State::Waiting(_)) && self.checked(Self::accept)? {
            self.pollable.kick()?;
        }
        Ok(())
    }

    /// Runs `step`. A fatal failure breaks the vchan for good.
    fn checked<R>(&mut self, step: impl FnOnce(&mut Vchan) -> Result<R, Failure>) -> Result<R, Failure> {
        let result = step(self);
        if matches!(result, Err(Failure::Fatal(_))) {
            self.ruin();
        }
        result
    }

    /// Breaks the vchan for good. The descriptor becomes readable, so that a caller that polls finds out.
    pub(crate) fn ruin(&mut self) {
        // If one of these fails as well, the vchan is broken all the same, and the next call says so.
        let _ = match &self.state {
            State::Waiting(offer) => self.pollable.watch(offer.listener.as_fd(), None),
            State::Connecting(connector) => self.pollable.watch(connector.as_fd(), None),
            State::Open(link) => self.pollable.watch(link.as_fd(), None),
            State::Broken => Ok(()),
        };
        let _ = self.pollable.after(None);
        self.state = State::Broken;
        let _ = self.pollable.kick();
    }

    /// Runs `work` on the connected vchan.
    fn on_link<R>(&mut self, work: impl FnOnce(&mut Link) -> Result<R, Failure>) -> Result<R, Failure> {
        self.checked(|vchan| {
            let State::Open(link) = &mut vchan.state else {
                return Err(match vchan.state {
                    State::Broken => Failure::Closed,
                    _ => Failure::NotYet,
                });
            };
            let result = work(link);
            tend(&mut vchan.pollable, link)?;
            result
        })
    }

    /// `libvchan_write` and `libvchan_send`.
    pub(crate) fn write(&mut self, from: &Source<'_>, amount: Amount) -> Result<usize, Failure> {
        self.notice()?;
        let mut staged = 0;
        if let State::Waiting(offer) = &mut self.state {
            staged = offer.stage(from, amount)?;
            if staged == from.len() {
                return Ok(staged);
            }
            self.meet()?;
        }
        let (blocking, rest) = (self.blocking, from.after(staged));
        self.on_link(|link| link.write(&rest, amount, blocking)).map(|n| staged + n)
    }

    /// `libvchan_read` and `libvchan_recv`.
    pub(crate) fn read(&mut self, to: &mut Target<'_>, amount: Amount) -> Result<usize, Failure> {
        if let State::Waiting(offer) = &self.state {
            if amount == Amount::All && to.len() > offer.rings.left.bytes() {
                return Err(Failure::Invalid);
            }
            if to.len() == 0 {
                return Ok(0);
            }
            self.meet()?;
        }
        let blocking = self.blocking;
        self.on_link(|link| link.read(to, amount, blocking))
    }

    /// Whether the peer has connected.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// `libvchan_wait`: returns when the descriptor was readable, and makes it unreadable.
    pub(crate) fn wait(&mut self) -> Result<(), Failure> {
        let kicked = self.pollable.calm()?;
        match &self.state {
            State::Waiting(offer) => {
                sleep_on(&offer.listener)?;
                // A stranger who connected and was refused has woken the caller for nothing, which a caller must
                // expect anyway.
                self.checked(Self::accept).map(drop)
            }
            State::Connecting(_) => Err(Failure::NotYet),
            State::Open(_) => self.on_link(|link| link.wait(kicked)),
            State::Broken if kicked => Ok(()),
            State::Broken => Err(Failure::Closed),
        }
    }

    /// `libvchan_is_open`.
    pub(crate) fn is_open(&mut self) -> Result<i32, Failure> {
        self.notice()?;
        Ok(match &self.state {
            State::Waiting(_) | State::Connecting(_) => WAITING,
            State::Open(link) if link.is_open() => CONNECTED,
            State::Open(_) | State::Broken => DISCONNECTED,
        })
    }

    /// `libvchan_data_ready`. 0 for a broken vchan, since callers take anything but 0 for a reason to read.
    pub(crate) fn data_ready(&mut self) -> Result<usize, Failure> {
        self.notice()?;
        Ok(self.on_link(|link| Ok(link.data_ready()?)).unwrap_or(0))
    }

    /// `libvchan_buffer_space`.
    pub(crate) fn buffer_space(&mut self) -> Result<usize, Failure> {
        self.notice()?;
        if let State::Waiting(offer) = &self.state {
            return Ok(offer.room());
        }
        Ok(self.on_link(|link| Ok(link.buffer_space()?)).unwrap_or(0))
    }

    /// `libvchan_fd_for_select`: the same number from the first call to the last.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.pollable.as_fd().as_raw_fd()
    }

    /// What the background thread should wait for now, if anything. When it is ready the thread asks again.
    pub(crate) fn errand(&mut self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.writer_out = self.has_errand();
        match &self.state {
            State::Waiting(offer) if self.writer_out => Some((offer.listener.as_fd(), PollFlags::IN)),
            State::Open(link) if self.writer_out => Some((link.as_fd(), PollFlags::OUT)),
            _ => None,
        }
    }

    fn has_errand(&self) -> bool {
        match &self.state {
            State::Waiting(offer) => !offer.staged.is_empty(),
            State::Open(link) => link.has_backlog(),
            State::Connecting(_) | State::Broken => false,
        }
    }

    /// Whether bytes wait to be sent and the background thread does not know it yet.
    pub(crate) fn wants_writer(&self) -> bool {
        !self.writer_out && self.has_errand()
    }

    /// What the background thread waited for may be ready: moves what can be moved now.
    pub(crate) fn run_errand(&mut self) {
        // The program's next call reports a failure.
        let _ = match &self.state {
            State::Open(_) => self.on_link(Link::carry),
            _ => self.notice(),
        };
    }

    /// To be called before the vchan is dropped.
    pub(crate) fn linger(&mut self) {
        if let State::Open(link) = &mut self.state {
            link.linger();
        }
    }
}

impl Offer {
    fn room(&self) -> usize {
        self.rings.right.bytes() - self.staged.len()
    }

    /// Keeps bytes for the client, as many as its ring will hold. Of [`Amount::All`]: all or none.
    fn stage(&mut self, from: &Source<'_>, amount: Amount) -> Result<usize, Failure> {
        let n = match amount {
            Amount::All if from.len() > self.rings.right.bytes() => return Err(Failure::Invalid),
            Amount::All if from.len() > self.room() => 0,
            Amount::All => from.len(),
            Amount::Some => from.len().min(self.room()),
        };
        self.staged.extend_from_slice(&from.to_vec(n));
        Ok(n)
    }
}

/// Makes the descriptor readable if the caller has missed something, and watches the right events from now on.
fn tend(pollable: &mut Pollable, link: &mut Link) -> Result<(), Error> {
    if link.settle()? {
        pollable.kick()?;
    }
    let interest = link.interest();
    pollable.watch(link.as_fd(), interest)
}

/// Waits until `fd` is readable.
fn sleep_on(fd: &impl AsFd) -> Result<(), Failure> {
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::io("waiting for the vchan client")(errno.into()).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program itself may meet the client that the writer waits for, which then waits for nothing.
    #[test]
    fn the_writer_is_sent_again_behind_a_client_that_the_program_met() {
        let folder = tempfile::tempdir().unwrap();
        let ours = Transport::new(Kind::Socket, 1, folder.path());
        let rings = Sizes::both(4096);
        let listener = ours.listen(2, 513, rings).unwrap();
        let mut pollable = Pollable::new().unwrap();
        pollable.watch(listener.as_fd(), Some(Interest::Read)).unwrap();
        let offer = Offer { listener, staged: Vec::new(), rings: Orders::choose(rings).unwrap() };
        let mut server = Vchan::new(pollable, State::Waiting(offer));
        server.blocking = false;
        assert_eq!(server.write(&Source::of(b"early"), Amount::Some).unwrap(), 5);
        assert!(server.wants_writer() && server.errand().is_some() && !server.wants_writer());
        let mut connector = Transport::new(Kind::Socket, 2, folder.path()).connect(1, 513).unwrap();
        let mut client = None;
        while server.is_open().unwrap() == WAITING {
            client = client.or(connector.poll().unwrap());
        }
        let chunk = [7; 4096];
        while matches!(server.write(&Source::of(&chunk), Amount::Some), Ok(1..)) {}
        assert!(server.has_errand(), "the client reads nothing");
        assert!(server.wants_writer());
        drop(client);
    }
}
