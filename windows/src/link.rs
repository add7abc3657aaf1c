//! Messages on the control link, and meeting on a data link.

use std::collections::VecDeque;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::time::Instant;

use wire::error::PeerError;
use wire::frame::{Decoder, Frame};
use wire::handshake::Handshake;
use wire::header::MAX_LOCAL_BODY;
use wire::version::Version;

use crate::sys::event::{Event, wait_for};
use crate::sys::vchan::{Presence, Vchan, VchanError};

/// Bytes that may wait for a daemon that does not read.
pub(crate) const MAX_QUEUED: usize = 1 << 20;

/// Why a link is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// There is no channel.
    #[error(transparent)]
    Vchan(#[from] VchanError),
    /// A function of Windows failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side broke the protocol.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The other side closed the link.
    #[error("the other side closed the link")]
    Closed,
    /// The other side does not connect, or sends nothing, for too long.
    #[error("the other side is late")]
    Late,
    /// The other side does not read.
    #[error("the other side does not read")]
    Full,
    /// The call was withdrawn.
    #[error("the call was taken back")]
    Withdrawn,
}

/// A channel that carries messages.
#[derive(Debug)]
pub(crate) struct MessageLink {
    pub(crate) vchan: Vchan,
    decoder: Decoder,
    queue: VecDeque<u8>,
}

impl MessageLink {
    pub(crate) fn new(vchan: Vchan) -> Self {
        Self { vchan, decoder: Decoder::new(MAX_LOCAL_BODY), queue: VecDeque::new() }
    }

    /// The next complete message, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            let presence = self.vchan.presence();
            let count = self.vchan.read(&mut buffer)?;
            match (count, presence) {
                (0, Presence::Closed) => return Err(LinkError::Closed),
                (0, _) => return Ok(None),
                (count, _) => self.decoder.push(buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Whether a message has begun and is not complete.
    pub(crate) fn is_mid_message(&self) -> bool {
        self.decoder.is_mid_message()
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        if self.queue.len().saturating_add(message.len()) > MAX_QUEUED {
            return Err(LinkError::Full);
        }
        self.queue.extend(message);
        self.flush()
    }

    /// Writes as much as there is room for.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        while !self.queue.is_empty() {
            let count = self.vchan.write(self.queue.as_slices().0)?;
            if count == 0 {
                return Ok(());
            }
            self.queue.drain(..count);
        }
        Ok(())
    }

    /// How many bytes are queued.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }
}

/// Waits until the other side has connected.
pub(crate) fn meet(
    vchan: &mut Vchan,
    wake: &Event,
    until: Instant,
    go_on: impl Fn() -> bool,
) -> Result<(), LinkError> {
    loop {
        match vchan.presence() {
            Presence::Connected => {
                vchan.met();
                return Ok(());
            }
            // It has connected and closed again; what it wrote before still counts.
            Presence::Closed if vchan.ready() == 0 => return Err(LinkError::Closed),
            Presence::Closed => return Ok(()),
            Presence::Waiting => {}
        }
        rest(vchan, wake, until, &go_on)?;
    }
}

/// Exchanges HELLOs and returns the version of both. On a data link neither side waits for the other's before it sends
/// its own.
pub(crate) fn greet(
    vchan: &mut Vchan,
    wake: &Event,
    until: Instant,
    go_on: impl Fn() -> bool,
) -> Result<Version, LinkError> {
    let mut handshake = Handshake::new(Version::OURS);
    let hello = handshake.hello();
    let mut unsent: &[u8] = &hello;
    let mut buffer = [0; 64];
    loop {
        let sent = vchan.write(unsent)?;
        unsent = unsent.get(sent..).unwrap_or_default();
        let presence = vchan.presence();
        let wanted = handshake.wanted().min(buffer.len());
        let count = vchan.read(buffer.get_mut(..wanted).unwrap_or_default())?;
        if let Some(version) = handshake.feed(buffer.get(..count).unwrap_or_default())?
            && unsent.is_empty()
        {
            return Ok(version);
        }
        if count == 0 && sent == 0 {
            if presence == Presence::Closed {
                return Err(LinkError::Closed);
            }
            rest(vchan, wake, until, &go_on)?;
        }
    }
}

/// Sleeps until something has changed.
fn rest(vchan: &Vchan, wake: &Event, until: Instant, go_on: &impl Fn() -> bool) -> Result<(), LinkError> {
    if !go_on() {
        return Err(LinkError::Withdrawn);
    }
    let handles = [vchan.event(), wake.as_raw_handle()];
    wait_for(&handles, Some(until))?.map(drop).ok_or(LinkError::Late)
}
