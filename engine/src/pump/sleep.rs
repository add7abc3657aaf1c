#![forbid(unsafe_code)]
//! Going to sleep: what is waited for, and what a wake-up means.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::driver::{CHILD, Driver, LINK, PLACES, Ready, Wants};
use super::ending::{Ending, Failure, Lost};
use super::receiver::Arrivals;
use super::turn::Pump;

/// How often to look whether a terminal's input is for this program: no event tells when it comes to the foreground.
const FOR_OTHERS: Duration = Duration::from_secs(1);

/// What is expected of the link.
#[derive(Clone, Copy)]
struct Wish {
    /// Data beyond this many bytes that are there already.
    data: Option<usize>,
    /// This many bytes of room; 0 for none.
    room: usize,
}

impl Pump {
    /// Sleeps until something can move, unless it already can. `false`: `limit` has passed without any event.
    pub(super) fn sleep(&mut self, driver: &mut dyn Driver, limit: Option<Duration>) -> Result<bool, Ending> {
        let room = self.sender.wants_room(self.code().is_some());
        // Asked before looking at what has arrived: a peer closes after its last bytes, so bytes that are not there
        // then never come. In the other order, bytes and close that come in between would be taken for a close without
        // bytes.
        let dead = !self.link.is_open();
        // A test waits for this line, to act between the two looks.
        tracing::trace!("the peer is {}, and what has it left?", if dead { "gone" } else { "there" });
        let data = match self.arrivals()? {
            Arrivals::Movable => return Ok(true),
            Arrivals::Starved(have) => Some(have),
            Arrivals::Blocked => None,
        };
        let wish = Wish { data, room };
        let began = Instant::now();
        let moved = self.moved();
        let looks = if dead { 0 } else { self.spin.looks(moved) };
        if self.look_on(driver, looks, wish)? {
            self.spin.found(began.elapsed());
            return Ok(true);
        }
        if !dead && self.arm(wish)? {
            return Ok(true);
        }
        self.sleeps += 1;
        let link = self.link_events(dead);
        let wants = self.wants(link, room > 0);
        if wants.iter().all(Option::is_none) {
            return Err(Lost::Alone.into());
        }
        let looked = Instant::now();
        let until = if self.sender.is_for_others() {
            Some(limit.unwrap_or(FOR_OTHERS).min(FOR_OTHERS))
        } else {
            limit
        };
        let ready = driver.wait(&wants, until).map_err(Failure::during("waiting"))?;
        self.sender.look_again();
        self.spin.slept(looks, looked - began, looked.elapsed());
        self.woken(&ready)?;
        Ok(limit.is_none() || ready.iter().any(|events| !events.is_empty()))
    }

    /// Looks so many times whether something can move, with `sched_yield` in between. `true`: something can.
    fn look_on(&mut self, driver: &mut dyn Driver, looks: u32, wish: Wish) -> Result<bool, Ending> {
        if looks == 0 || self.link.is_stream() {
            return Ok(false);
        }
        // The peer may be waiting for bytes that are in the ring already.
        self.link.flush(self.sender.producer(), self.receiver.consumer())?;
        let waits_for_room = wish.room > 0;
        if waits_for_room && self.is_coming(wish)? {
            return Ok(true);
        }
        for _ in 0..looks {
            rustix::thread::sched_yield();
            // A pump that waits for a local process only lets that process run.
            let waits_for_peer = waits_for_room || self.receiver.received() > self.sender.sent();
            let there = if waits_for_peer { self.is_coming(wish)? } else { self.is_there(wish)? };
            if there {
                return Ok(true);
            }
            let wants = self.wants(None, waits_for_room);
            let ready = driver.look(&wants).map_err(Failure::during("waiting"))?;
            if ready.iter().any(|events| !events.is_empty()) {
                self.woken(&ready)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn arm(&mut self, Wish { data, room }: Wish) -> Result<bool, ring::Error> {
        self.link.arm_for(self.sender.producer(), self.receiver.consumer(), data, room)
    }

    fn is_there(&mut self, Wish { data, room }: Wish) -> Result<bool, ring::Error> {
        self.link.is_there(self.sender.producer(), self.receiver.consumer(), data, room)
    }

    fn is_coming(&mut self, Wish { data, room }: Wish) -> Result<bool, ring::Error> {
        self.link.is_coming(self.sender.producer(), self.receiver.consumer(), data, room)
    }

    fn link_events(&mut self, dead: bool) -> Option<PollFlags> {
        let mut events = PollFlags::empty();
        if !dead && self.link.wants_in() {
            events |= PollFlags::IN;
        }
        if self.link.wants_out() {
            events |= PollFlags::OUT;
        }
        (!events.is_empty()).then_some(events)
    }

    fn wants(&self, link: Option<PollFlags>, waits_for_room: bool) -> Wants<'_> {
        let mut wants: Wants<'_> = [None; PLACES];
        wants[LINK] = link.map(|events| (self.link.as_fd(), events));
        wants[CHILD] = self.local.pollable().map(|fd| (fd, PollFlags::IN));
        self.sender.add_wants(&mut wants, waits_for_room, self.local.is_running());
        self.receiver.add_wants(&mut wants);
        wants
    }

    fn woken(&mut self, ready: &Ready) -> Result<(), Ending> {
        if !ready[LINK].is_empty() {
            self.link.on_ready()?;
        }
        let process_may_have_ended = !ready[CHILD].is_empty();
        if process_may_have_ended {
            self.local.woken();
        }
        self.receiver.woken(ready);
        self.sender.woken(ready, process_may_have_ended)
    }
}
