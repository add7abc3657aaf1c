#![forbid(unsafe_code)]
//! The shared words of page 0 behind a trait, and the notify protocol: whom to ring, and when not to sleep.
//!
//! Everything that orders memory between the two sides is in this file and in [`crate::producer`] /
//! [`crate::consumer`]'s index halves, written against [`Page`] so that loom runs the very same code.
//!
//! # Who waits for whom
//!
//! A side that wants to sleep sets a bit in the *other* side's notify byte, fences, and looks again.
//! A side that has published an index fences and looks at its *own* notify byte. Each does a store,
//! a `SeqCst` fence and a load of what the other stored: at least one of the two loads sees the other's
//! store, so either the sleeper sees the new index or the publisher sees the request and rings.

use crate::layout::offset;

/// A free-running index in page 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    LeftCons = offset::LEFT_CONS as isize,
    LeftProd = offset::LEFT_PROD as isize,
    RightCons = offset::RIGHT_CONS as isize,
    RightProd = offset::RIGHT_PROD as isize,
}

/// A byte-sized flag in page 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flag {
    CliLive = offset::CLI_LIVE as isize,
    SrvLive = offset::SRV_LIVE as isize,
    CliNotify = offset::CLI_NOTIFY as isize,
    SrvNotify = offset::SRV_NOTIFY as isize,
}

/// Which end of the channel this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    /// The byte in which the peer says what it wants to be woken for.
    pub(crate) fn own_notify(self) -> Flag {
        match self {
            Side::Client => Flag::CliNotify,
            Side::Server => Flag::SrvNotify,
        }
    }

    pub(crate) fn own_live(self) -> Flag {
        match self {
            Side::Client => Flag::CliLive,
            Side::Server => Flag::SrvLive,
        }
    }

    pub(crate) fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// The words both sides share. Values read are untrusted, always.
pub(crate) trait Page {
    /// Acquire load: bytes written before the peer published this index are visible after it.
    fn index(&self, word: Word) -> u32;
    /// Release store: what was done to the ring before is visible to whoever acquires the index.
    fn publish(&self, word: Word, value: u32);
    /// Acquire load of a flag.
    fn flag(&self, flag: Flag) -> u8;
    /// Release store of a flag.
    fn set_flag(&self, flag: Flag, value: u8);
    /// Atomic or.
    fn set_bits(&self, flag: Flag, bits: u8);
    /// Atomic clear; returns what was there before.
    fn take_bits(&self, flag: Flag, bits: u8) -> u8;
    /// Full fence.
    fn fence(&self);
}

/// After publishing: whether the peer waits for this. Clears the request, so that it is answered once.
pub(crate) fn must_ring(page: &impl Page, side: Side, bits: u8) -> bool {
    page.fence();
    let own = side.own_notify();
    page.flag(own) & bits != 0 && page.take_bits(own, bits) & bits != 0
}

/// Before sleeping for `bits`: looks, asks the peer to ring, looks again. `true`: do not sleep.
///
/// Without the second look, what the peer published between the first one and the request would wake nobody.
pub(crate) fn arm<E>(
    page: &impl Page,
    side: Side,
    bits: u8,
    mut is_there: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    if is_there()? {
        return Ok(true);
    }
    ask(page, side, bits);
    is_there()
}

fn ask(page: &impl Page, side: Side, bits: u8) {
    let other = side.other().own_notify();
    if page.flag(other) & bits != bits {
        page.set_bits(other, bits);
    }
    page.fence();
}
