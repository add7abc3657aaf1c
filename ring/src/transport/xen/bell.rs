#![forbid(unsafe_code)]
//! An event channel as a doorbell, and word of the end of the domain that it leads to.

use std::os::fd::{AsFd, BorrowedFd};

use super::share::Place;
use super::vigil::Vigil;
use crate::error::Error;
use crate::link::{Bell, Habits};
use crate::xendev::{self, EventChannel};

pub(super) struct Doorbell {
    event: EventChannel,
    vigil: Option<Vigil>,
    _place: Option<Place>,
}

impl Doorbell {
    /// `place` is held for as long as the channel.
    pub(super) fn new(
        event: EventChannel,
        vigil: Option<Vigil>,
        place: Option<Place>,
    ) -> Result<Doorbell, Error> {
        vigil.as_ref().map_or(Ok(()), |vigil| vigil.watch_too(&event))?;
        Ok(Doorbell { event, vigil, _place: place })
    }
}

impl Bell for Doorbell {
    fn fd(&self) -> BorrowedFd<'_> {
        self.vigil.as_ref().map_or(self.event.as_fd(), AsFd::as_fd)
    }

    fn ring(&mut self) -> Result<bool, Error> {
        self.event.notify().map(|()| true)
    }

    /// An event, if there is one, is all that woke us: whatever else there is makes the descriptor ready again.
    fn acknowledge(&mut self) -> Result<bool, Error> {
        match &mut self.vigil {
            Some(vigil) if !self.event.take()? => Ok(!vigil.is_peer_gone()?),
            Some(_) => Ok(true),
            None => self.event.take().map(|_| true),
        }
    }

    fn settle(&mut self) -> Result<Habits, Error> {
        self.vigil.as_mut().map_or(Ok(()), Vigil::settle)?;
        Ok(Habits { watches: true, ioctls: &xendev::LASTING, unknown: false })
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
