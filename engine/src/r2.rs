#![forbid(unsafe_code)]
//! Protocol 1 over a vchan: what the drivers of both ends have in common.

use std::os::fd::{AsFd, BorrowedFd};

use ring::Channel;
use wire::r2::{AgentMux, Breach, DaemonMux, HEADER_LEN};

use crate::link::{ByteLink, LinkError};

/// Most bytes taken from the link before other descriptors are handled. A ring holds no more.
const BATCH: usize = 4096;

/// Local programs are read only if there is at least this much room: with less there would be many small messages.
const WORTH: usize = 256;

/// One end of the protocol, without I/O.
pub trait End {
    /// Handles bytes from the link.
    ///
    /// # Errors
    /// The other side broke the protocol.
    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Breach>;
    /// The bytes to be sent.
    fn outgoing(&self) -> &[u8];
    /// So many of them were sent.
    fn sent(&mut self, n: usize);
}

macro_rules! end {
    ($($end:ty),*) => {$(
        impl End for $end {
            fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Breach> {
                <$end>::handle_bytes(self, bytes)
            }
            fn outgoing(&self) -> &[u8] {
                <$end>::outgoing(self)
            }
            fn sent(&mut self, n: usize) {
                <$end>::sent(self, n);
            }
        }
    )*};
}
end!(AgentMux, DaemonMux);

/// Why a link cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum Over {
    /// The other side broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Breach(#[from] Breach),
    /// The transport failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The other side closed it.
    #[error("the other side closed the link")]
    Closed,
}

/// A link, with the end that is spoken on it.
#[derive(Debug)]
pub struct Muxed<E> {
    /// The end on this side.
    pub end: E,
    link: Channel,
}

impl<E: End> Muxed<E> {
    /// Speaks `end` on this link.
    pub fn new(end: E, link: Channel) -> Self {
        Self { end, link }
    }

    /// To be called when the descriptor was reported ready.
    ///
    /// # Errors
    /// The link is over.
    pub fn on_ready(&mut self) -> Result<(), Over> {
        Ok(ByteLink::on_ready(&mut self.link)?)
    }

    /// Takes what has arrived, as much of it as one turn may take. `true`: there may be more.
    ///
    /// # Errors
    /// The link has ended. What came before that was handled already.
    pub fn receive(&mut self) -> Result<bool, Over> {
        // Asked before reading: bytes that the other side wrote before it closed must not be missed.
        let open = ByteLink::is_open(&self.link);
        let mut buffer = [0_u8; BATCH];
        let count = ByteLink::read(&mut self.link, &mut buffer)?;
        if count == 0 {
            return if open { Ok(false) } else { Err(Over::Closed) };
        }
        self.end.handle_bytes(buffer.get(..count).unwrap_or_default())?;
        Ok(true)
    }

    /// Sends as much as there is room for.
    ///
    /// # Errors
    /// The link is over.
    pub fn flush(&mut self) -> Result<(), Over> {
        loop {
            let bytes = self.end.outgoing();
            if bytes.is_empty() {
                break;
            }
            let count = ByteLink::write(&mut self.link, bytes)?;
            if count == 0 {
                break;
            }
            self.end.sent(count);
        }
        Ok(ByteLink::flush(&mut self.link)?)
    }

    /// How many data the next message may have: 0 while other bytes wait to be sent, or if there is too little room.
    ///
    /// # Errors
    /// The link is over.
    pub fn room(&mut self, most: usize) -> Result<usize, Over> {
        if !self.end.outgoing().is_empty() {
            return Ok(0);
        }
        let room = ByteLink::room(&mut self.link)?.saturating_sub(HEADER_LEN);
        Ok(if room < WORTH { 0 } else { room.min(most) })
    }

    /// Sends what can be sent and prepares to sleep; `waits`: there are data that wait for room. `true`: do not sleep.
    ///
    /// # Errors
    /// The link is over.
    pub fn arm(&mut self, waits: bool) -> Result<bool, Over> {
        self.flush()?;
        let room = match (self.end.outgoing().is_empty(), waits) {
            (false, _) => 1,
            (true, true) => WORTH + HEADER_LEN,
            (true, false) => 0,
        };
        Ok(ByteLink::arm(&mut self.link, true, room)?)
    }

    /// Whether the descriptor must be polled for writing too.
    pub fn wants_out(&self) -> bool {
        ByteLink::wants_out(&self.link)
    }
}

impl<E> AsFd for Muxed<E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}
