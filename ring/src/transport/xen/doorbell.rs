#![forbid(unsafe_code)]
//! An event channel as a doorbell, and the watch for the end of the domain that it leads to.

use std::os::fd::{AsFd, BorrowedFd};

use super::domain_watch::DomainWatch;
use super::ring_share::Place;
use crate::error::Error;
use crate::link::{Bell, Habits};
use crate::xendev::{self, EventChannel};

pub(super) struct Doorbell {
    event: EventChannel,
    domain_watch: Option<DomainWatch>,
    _place: Option<Place>,
}

impl Doorbell {
    /// `place` is held for as long as the channel.
    pub(super) fn new(
        event: EventChannel,
        domain_watch: Option<DomainWatch>,
        place: Option<Place>,
    ) -> Result<Doorbell, Error> {
        domain_watch.as_ref().map_or(Ok(()), |domain_watch| domain_watch.watch_too(&event))?;
        Ok(Doorbell { event, domain_watch, _place: place })
    }
}

impl Bell for Doorbell {
    fn fd(&self) -> BorrowedFd<'_> {
        self.domain_watch.as_ref().map_or(self.event.as_fd(), AsFd::as_fd)
    }

    fn ring(&mut self) -> Result<bool, Error> {
        self.event.notify().map(|()| true)
    }

    /// If there was an event, nothing else is looked at now: whatever else there is makes the descriptor ready again.
    fn acknowledge(&mut self) -> Result<bool, Error> {
        match &mut self.domain_watch {
            Some(domain_watch) if !self.event.take()? => Ok(!domain_watch.is_peer_gone()?),
            Some(_) => Ok(true),
            None => self.event.take().map(|_| true),
        }
    }

    fn settle(&mut self) -> Result<Habits, Error> {
        self.domain_watch.as_mut().map_or(Ok(()), DomainWatch::settle)?;
        let requests = xendev::requests();
        Ok(Habits { watches: true, ioctls: requests.unwrap_or_default(), unknown: requests.is_none() })
    }

    fn is_stream(&self) -> bool {
        false
    }

    fn is_far(&self) -> bool {
        true
    }

    fn wants_in(&mut self) -> bool {
        true
    }

    fn wants_out(&self) -> bool {
        false
    }
}
