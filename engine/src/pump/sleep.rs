#![forbid(unsafe_code)]
//! Going to sleep: what is waited for, and what a wake-up means.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ring::Channel;
use rustix::event::{PollFd, PollFlags, poll};
use wire::header::HEADER_LEN;
use wire::stream::{Kind, Role};

use super::Stop;
use super::driver::{
    CHILD, Driver, ERR_SINK, ERR_SOURCE, LINK, PLACES, REQUEST, Ready, SINK, SOURCE, Wants, timespec,
};
use super::ends::{Sink, Source};
use super::inbound::Head;
use super::one_socket::OneSocket;
use super::receive::Arrivals;
use super::turn::Pump;

/// How often to look whether a terminal's input is for us. Whoever is brought to the front is not told.
const FOR_OTHERS: Duration = Duration::from_secs(1);

impl Pump {
    /// Sleeps until something can move, unless it already can. `false`: `limit` has passed and nothing has.
    pub(super) fn sleep(&mut self, driver: &mut dyn Driver, limit: Option<Duration>) -> Result<bool, Stop> {
        let room = self.wants_room();
        // Looked at before what has arrived: a peer closes behind its last bytes, so what is not there then never comes.
        // The other way round, bytes and end that come in between would be taken for an end without them.
        let dead = !self.channel.is_open();
        tracing::trace!("the peer is {}, and what has it left?", if dead { "gone" } else { "there" });
        let data = match self.arrivals()? {
            Arrivals::Movable => return Ok(true),
            Arrivals::Starved(have) => Some(have),
            Arrivals::Blocked => None,
        };
        let began = Instant::now();
        let looks = if dead { 0 } else { self.patience.looks(self.moved()) };
        if self.look_on(driver, looks, data, room)? {
            self.patience.found(began.elapsed());
            return Ok(true);
        }
        if !dead && self.channel.arm_for(data, room)? {
            return Ok(true);
        }
        self.sleeps += 1;
        let link = self.link_events(dead);
        let wants = self.wants(link, room > 0);
        if wants.iter().all(Option::is_none) {
            return Err(Stop::Lost("the link is gone and nothing else is left to wait for".into()));
        }
        let looked = Instant::now();
        let until = if self.source.is_for_others() {
            Some(limit.unwrap_or(FOR_OTHERS).min(FOR_OTHERS))
        } else {
            limit
        };
        let ready = driver.wait(&wants, until).map_err(Stop::local("waiting"))?;
        self.source.look_again();
        self.patience.slept(looks, looked - began, looked.elapsed());
        self.woken(&ready)?;
        Ok(limit.is_none() || ready.iter().any(|events| !events.is_empty()))
    }

    /// Looks so many times whether something can move, giving way in between. `true`: something can.
    fn look_on(
        &mut self,
        driver: &mut dyn Driver,
        looks: u32,
        data: Option<usize>,
        room: usize,
    ) -> Result<bool, Stop> {
        if looks == 0 || self.channel.is_stream() {
            return Ok(false);
        }
        // The peer may wait for what is there already.
        self.channel.flush()?;
        if room > 0 && self.channel.is_coming(data, room)? {
            return Ok(true);
        }
        for _ in 0..looks {
            rustix::thread::sched_yield();
            // Who waits for a local process has only given way to it.
            let waits_for_peer = room > 0 || self.outcome.bytes_in > self.outcome.bytes_out;
            let there = if waits_for_peer {
                self.channel.is_coming(data, room)?
            } else {
                self.channel.is_there(data, room)?
            };
            if there {
                return Ok(true);
            }
            let wants = self.wants(None, room > 0);
            let ready = driver.look(&wants).map_err(Stop::local("waiting"))?;
            if ready.iter().any(|events| !events.is_empty()) {
                self.woken(&ready)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the bytes that have arrived, the latest included, are waiting for.
    pub(super) fn arrivals(&mut self) -> Result<Arrivals, Stop> {
        let ready = self.channel.readable()?;
        let starved = match self.inbound.head() {
            Head::Empty => self.inbound.next_header(ready).is_none(),
            Head::Data(_) => self.inbound.pieces(ready).next().is_none(),
            Head::Exit { at, want } => at + want > ready,
            Head::Skip => ready == 0,
            Head::Eof(_) => false,
        };
        Ok(match self.inbound.head() {
            _ if starved => Arrivals::Starved(ready),
            Head::Data(Kind::Stderr) if self.err_sink.is_stuck() && self.err_sink.spill_room() == 0 => {
                Arrivals::Blocked
            }
            Head::Data(Kind::Stdin | Kind::Stdout) if self.sink.is_stuck() => Arrivals::Blocked,
            _ => Arrivals::Movable,
        })
    }

    /// Room that something waits for, in bytes; 0 for none.
    fn wants_room(&mut self) -> usize {
        let ended = |source: &Source, kind| !source.is_open() && self.outgoing.is_open(kind);
        let eof = ended(&self.source, self.role.sends())
            || (self.role == Role::Service && ended(&self.err_source, Kind::Stderr));
        if self.cut {
            0
        } else if !self.prefix.is_empty() || self.has_readable() {
            self.useful_room()
        } else if eof {
            HEADER_LEN
        } else if self.role == Role::Service && self.is_last_word() {
            HEADER_LEN + 4
        } else {
            0
        }
    }

    fn link_events(&mut self, dead: bool) -> Option<PollFlags> {
        let mut events = PollFlags::empty();
        if !dead && self.channel.wants_in() {
            events |= PollFlags::IN;
        }
        if self.channel.wants_out() {
            events |= PollFlags::OUT;
        }
        (!events.is_empty()).then_some(events)
    }

    /// While room is waited for, a readable source would only keep waking us.
    fn wants(&self, link: Option<PollFlags>, waits_for_room: bool) -> Wants<'_> {
        let source = |s: &'_ Source| !waits_for_room && s.is_open();
        let sink_events = |s: &Sink| if s.is_blocked() { PollFlags::OUT } else { PollFlags::empty() };
        let mut wants: Wants<'_> = [None; PLACES];
        wants[LINK] = link.map(|events| (self.channel.as_fd(), events));
        wants[SOURCE] =
            self.source.pollable().filter(|_| source(&self.source)).map(|fd| (fd.as_fd(), PollFlags::IN));
        wants[ERR_SOURCE] = self
            .err_source
            .pollable()
            .filter(|_| source(&self.err_source))
            .map(|fd| (fd.as_fd(), PollFlags::IN));
        wants[SINK] = self.sink.pollable().map(|fd| (fd.as_fd(), sink_events(&self.sink)));
        wants[ERR_SINK] = self.err_sink.pollable().map(|fd| (fd.as_fd(), sink_events(&self.err_sink)));
        wants[CHILD] = self
            .child
            .as_ref()
            .filter(|_| self.outcome.local.is_none())
            .map(|child| (child.as_fd(), PollFlags::IN));
        // Only a process can ask.
        wants[REQUEST] = self
            .one_socket
            .as_ref()
            .filter(|_| self.child.is_some() && self.outcome.local.is_none())
            .and_then(OneSocket::pollable)
            .map(|fd| (fd, PollFlags::IN));
        wants
    }

    fn woken(&mut self, ready: &Ready) -> Result<(), Stop> {
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        if !ready[LINK].is_empty() {
            self.channel.on_ready()?;
        }
        for (source, place) in [(&mut self.source, SOURCE), (&mut self.err_source, ERR_SOURCE)] {
            if !ready[place].is_empty() {
                source.set_ready(true);
            }
        }
        for (sink, place) in [(&mut self.sink, SINK), (&mut self.err_sink, ERR_SINK)] {
            if ready[place].intersects(gone) {
                sink.lose_reader();
            } else if ready[place].contains(PollFlags::OUT) {
                sink.set_blocked(false);
            }
        }
        if !ready[CHILD].is_empty() {
            self.child_may_have_ended = true;
            // Its last words came before its end, perhaps after the look at them.
            self.source.has_ended_behind();
            self.err_source.has_ended_behind();
        }
        if !ready[REQUEST].is_empty() {
            self.look_for_request()?;
        }
        Ok(())
    }
}

/// Sleeps until the link's descriptor is ready, or `limit` has passed, and takes the wake-up.
pub(super) fn wait_for_link(channel: &mut Channel, limit: Option<Duration>) -> Result<(), ring::Error> {
    let out = if channel.wants_out() { PollFlags::OUT } else { PollFlags::empty() };
    let limit = limit.map(timespec);
    match poll(&mut [PollFd::new(&*channel, PollFlags::IN | out)], limit.as_ref()) {
        Ok(0) => Ok(()),
        Ok(_) => channel.on_ready(),
        Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(ring::Error::io("waiting for the link")(error.into())),
    }
}
