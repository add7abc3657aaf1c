//! Control messages on a byte link: a vchan or a unix stream, never blocking.
//!
//! [`Framed`] cuts what arrives into messages and queues what is to be sent; [`ByteLink`] is what it
//! needs of the transport. A caller's loop is always the same: [`Framed::arm`] before it sleeps,
//! [`Framed::on_ready`] when the descriptor woke it, then [`Framed::next`] until it gives nothing.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use wire::error::PeerError;
use wire::frame::{Decoder, Frame};
use wire::header::HEADER_LEN;

/// Bytes that may wait in a link's out-queue. A peer that does not read loses its link beyond this; the longest
/// control message fits many times.
pub const MAX_QUEUED: usize = 1 << 20;

/// Bytes taken from the transport at once: one full control ring of upstream.
const READ_SIZE: usize = 4096;

/// Why a link cannot be used any more. Each of these ends the link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer broke the protocol.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The shared ring or its doorbell failed.
    #[error(transparent)]
    Ring(#[from] ring::Error),
    /// The unix stream failed.
    #[error("socket: {0}")]
    Socket(#[from] Errno),
    /// The peer does not read what is sent to it.
    #[error("the peer does not read: {MAX_QUEUED} bytes wait to be sent")]
    Overflow,
}

/// A non-blocking stream of bytes with a descriptor to sleep on.
pub trait ByteLink: AsFd {
    /// Copies the bytes that are there, at most `buffer.len()`. 0: none now; [`is_open`](Self::is_open) tells whether
    /// more can come.
    ///
    /// # Errors
    /// The link is broken for good.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LinkError>;
    /// Takes as many of `bytes` as there is room for; 0 means no room now.
    ///
    /// # Errors
    /// The link is broken for good.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, LinkError>;
    /// Tells the peer about the bytes that were written.
    ///
    /// # Errors
    /// The link is broken for good.
    fn flush(&mut self) -> Result<(), LinkError>;
    /// Bytes that [`write`](Self::write) would take at once now, as far as is known.
    ///
    /// # Errors
    /// The link is broken for good.
    fn room(&mut self) -> Result<usize, LinkError>;
    /// To be called when the descriptor was reported ready.
    ///
    /// # Errors
    /// The link is broken for good.
    fn on_ready(&mut self) -> Result<(), LinkError>;
    /// To be called before sleeping: whether data are waited for, and how many bytes of room (0: none). `true`: they
    /// are there already, do not sleep.
    ///
    /// # Errors
    /// The link is broken for good.
    fn arm(&mut self, data: bool, room: usize) -> Result<bool, LinkError>;
    /// Whether the descriptor must be polled for writing too.
    fn wants_out(&self) -> bool;
    /// Whether the peer is still there. What it sent before it went can still be read.
    fn is_open(&self) -> bool;
}

impl ByteLink for ring::Channel {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LinkError> {
        Ok(ring::Channel::read(self, buffer)?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        none_if_closed(ring::Channel::write(self, bytes))
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        Ok(ring::Channel::flush(self)?)
    }

    fn room(&mut self) -> Result<usize, LinkError> {
        none_if_closed(self.writable())
    }

    fn on_ready(&mut self) -> Result<(), LinkError> {
        Ok(ring::Channel::on_ready(self)?)
    }

    fn arm(&mut self, data: bool, room: usize) -> Result<bool, LinkError> {
        Ok(self.arm_for(data.then_some(0), room)?)
    }

    fn wants_out(&self) -> bool {
        ring::Channel::wants_out(self)
    }

    fn is_open(&self) -> bool {
        ring::Channel::is_open(self)
    }
}

/// Room is 0 if the peer has closed. The read that finds no more bytes reports the close, since bytes from before may
/// still be waiting.
fn none_if_closed(result: Result<usize, ring::Error>) -> Result<usize, LinkError> {
    match result {
        Err(ring::Error::Closed) => Ok(0),
        other => Ok(other?),
    }
}

/// A connected unix stream socket. Its flags are left as they are: every call says `MSG_DONTWAIT`.
#[derive(Debug)]
pub struct UnixLink {
    socket: OwnedFd,
    open: bool,
    wants_out: bool,
}

impl UnixLink {
    /// Takes a connected stream socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, open: true, wants_out: false }
    }

    /// Gives the socket back.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for UnixLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl ByteLink for UnixLink {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, LinkError> {
        if buffer.is_empty() || !self.open {
            return Ok(0);
        }
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => {
                    self.open = false;
                    return Ok(0);
                }
                Ok((count, _)) => return Ok(count),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, LinkError> {
        loop {
            match rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => return Ok(count),
                // No room. If the peer is gone, the read reports it, as on a vchan.
                Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    fn room(&mut self) -> Result<usize, LinkError> {
        // A stream socket does not tell its room; the caller handles short writes.
        Ok(usize::MAX)
    }

    fn on_ready(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    fn arm(&mut self, _data: bool, room: usize) -> Result<bool, LinkError> {
        self.wants_out = room > 0;
        Ok(false)
    }

    fn wants_out(&self) -> bool {
        self.wants_out
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

/// Messages in, messages out, on a [`ByteLink`].
#[derive(Debug)]
pub struct Framed<T> {
    link: T,
    decoder: Decoder,
    out: VecDeque<Vec<u8>>,
    /// How many bytes of the first queued message are sent already.
    sent: usize,
    queued: usize,
    ended: bool,
}

impl<T: ByteLink> Framed<T> {
    /// Frames `link`; a message whose body is longer than `max_body` bytes ends it.
    #[must_use]
    pub fn new(link: T, max_body: usize) -> Self {
        let decoder = Decoder::new(max_body);
        Self { link, decoder, out: VecDeque::new(), sent: 0, queued: 0, ended: false }
    }

    /// Queues one whole message, header included. It leaves with the next [`flush`](Self::flush) or
    /// [`arm`](Self::arm).
    ///
    /// # Errors
    /// [`LinkError::Overflow`] if the peer has left more than [`MAX_QUEUED`] bytes unread.
    pub fn send(&mut self, message: Vec<u8>) -> Result<(), LinkError> {
        let queued = self.queued.saturating_add(message.len());
        if queued > MAX_QUEUED {
            return Err(LinkError::Overflow);
        }
        if !message.is_empty() {
            self.queued = queued;
            self.out.push_back(message);
        }
        Ok(())
    }

    /// Writes as much as there is room for, and tells the peer.
    ///
    /// # Errors
    /// The link is broken for good.
    pub fn flush(&mut self) -> Result<(), LinkError> {
        let mut wrote = false;
        while let Some(message) = self.out.front() {
            // A header is written in one piece, because upstream's programs read it in one piece.
            if self.sent == 0 && self.link.room()? < HEADER_LEN.min(message.len()) {
                break;
            }
            let rest = message.get(self.sent..).unwrap_or_default();
            let count = self.link.write(rest)?.min(rest.len());
            if count == 0 {
                break;
            }
            wrote = true;
            let done = count == rest.len();
            self.queued = self.queued.saturating_sub(count);
            self.sent = if done { 0 } else { self.sent.saturating_add(count) };
            if done {
                self.out.pop_front();
            }
        }
        if wrote { self.link.flush() } else { Ok(()) }
    }

    /// To be called when the descriptor was reported ready, before [`next`](Self::next).
    ///
    /// # Errors
    /// The link is broken for good.
    pub fn on_ready(&mut self) -> Result<(), LinkError> {
        self.link.on_ready()?;
        self.flush()
    }

    /// The next whole message, or `None` if there is none yet. After `None`, [`is_open`](Self::is_open)
    /// tells whether more can come.
    ///
    /// # Errors
    /// The peer broke the protocol, or the link is broken for good.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at None, this goes on")]
    pub fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        let mut buffer = [0_u8; READ_SIZE];
        loop {
            // Bytes are read only when no whole message is left over, so that at most one message and one read are in
            // memory.
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            // Asked before reading: bytes that the peer wrote before it closed must not be missed.
            let open = self.link.is_open();
            let count = self.link.read(&mut buffer)?;
            if count == 0 {
                if open && !self.link.is_open() {
                    // It closed after `is_open` was asked, and may have written before that.
                    continue;
                }
                self.ended |= !open;
                return Ok(None);
            }
            self.decoder.push(buffer.get(..count).unwrap_or_default());
        }
    }

    /// Sends what can be sent and prepares to sleep. `true`: there is something to do already, do not sleep.
    ///
    /// # Errors
    /// The link is broken for good.
    pub fn arm(&mut self) -> Result<bool, LinkError> {
        self.flush()?;
        if self.ended {
            return Ok(false);
        }
        // At the start of a message, less room than a header is not worth waking for.
        let room = match self.out.front() {
            None => 0,
            Some(message) if self.sent == 0 => HEADER_LEN.min(message.len()),
            Some(_) => 1,
        };
        self.link.arm(true, room)
    }

    /// Whether the descriptor must be polled for writing too.
    #[must_use]
    pub fn wants_out(&self) -> bool {
        self.link.wants_out()
    }

    /// Whether more messages can come. Turns false only when all that was sent has been given out.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.ended
    }

    /// Whether the peer has begun a message that is not complete, from when on it has a limited time.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.decoder.is_mid_message()
    }

    /// Bytes that wait to be handed to the transport.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The transport.
    pub fn get_ref(&self) -> &T {
        &self.link
    }

    /// Gives the transport back; what was queued or half received is dropped.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.link
    }
}

impl<T: AsFd> AsFd for Framed<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use wire::header::Header;

    fn message(ty: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Header { ty, len: body.len() as u32 }.to_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    fn pair(max_body: usize) -> (Framed<UnixLink>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Framed::new(UnixLink::new(ours.into()), max_body), theirs)
    }

    #[test]
    fn messages_are_cut_out_of_any_pieces() {
        let (mut framed, mut peer) = pair(100);
        let bytes = [message(0x300, b"abcd"), message(0x200, b"")].concat();
        for byte in &bytes[..bytes.len() - 1] {
            peer.write_all(&[*byte]).unwrap();
        }
        let frame = framed.next().unwrap().unwrap();
        assert_eq!((frame.ty, &frame.body[..]), (0x300, &b"abcd"[..]));
        assert!(framed.next().unwrap().is_none() && framed.is_mid_message());
        peer.write_all(&bytes[bytes.len() - 1..]).unwrap();
        assert_eq!(framed.next().unwrap().unwrap().ty, 0x200);
        assert!(framed.next().unwrap().is_none() && framed.is_open() && !framed.is_mid_message());
    }

    #[test]
    fn what_was_sent_before_the_end_is_not_lost() {
        let (mut framed, mut peer) = pair(100);
        peer.write_all(&message(0x211, &[1; 8])).unwrap();
        drop(peer);
        framed.send(message(0x203, &[0; 32])).unwrap();
        framed.flush().unwrap();
        assert_eq!(framed.next().unwrap().unwrap().ty, 0x211);
        assert!(framed.next().unwrap().is_none() && !framed.is_open());
    }

    #[test]
    fn too_long_a_body_ends_the_link() {
        let (mut framed, mut peer) = pair(16);
        peer.write_all(&message(0x200, &[0; 17])).unwrap();
        assert!(matches!(framed.next(), Err(LinkError::Peer(_))));
    }

    #[test]
    fn a_peer_that_does_not_read_overflows() {
        let (mut framed, _peer) = pair(16);
        let mut sent = 0;
        let error = loop {
            match framed.send(message(0x202, &[0; 4096])) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            framed.flush().unwrap();
            assert!(sent < 10_000);
        };
        assert!(matches!(error, LinkError::Overflow));
        assert!(!framed.arm().unwrap() && framed.wants_out());
    }

    #[test]
    fn a_header_waits_for_its_room_on_a_vchan() {
        let folder = tempfile::tempdir().unwrap();
        let transport = |own| ring::Transport::new(ring::Kind::Shm, own, folder.path());
        let sizes = ring::Sizes { left: 4096, right: 4096 };
        let mut listener = transport(1).listen(0, 512, sizes).unwrap();
        let mut connector = transport(0).connect(1, 512).unwrap();
        assert!(connector.poll().unwrap().is_none());
        let server = listener.accept().unwrap().expect("the client waits");
        let client = connector.poll().unwrap().expect("the server was there");
        let (mut ours, mut theirs) = (Framed::new(server, 4096), Framed::new(client, 4096));
        // Leaves five bytes of the ring: not enough for another header.
        ours.send(message(1, &[0; 4096 - HEADER_LEN - 5])).unwrap();
        ours.send(message(2, b"second")).unwrap();
        assert!(!ours.arm().unwrap());
        assert_eq!(ours.queued(), HEADER_LEN + 6);
        assert_eq!(theirs.next().unwrap().unwrap().ty, 1);
        assert!(theirs.next().unwrap().is_none() && !theirs.is_mid_message());
        theirs.arm().unwrap();
        ours.on_ready().unwrap();
        assert_eq!(ours.queued(), 0);
        drop(ours);
        theirs.on_ready().unwrap();
        assert_eq!(theirs.next().unwrap().unwrap().body, b"second");
        assert!(theirs.next().unwrap().is_none() && !theirs.is_open());
    }

    #[test]
    fn queued_messages_leave_whole_and_in_order() {
        let (mut framed, mut peer) = pair(16);
        let total: Vec<u8> = (0..200_u32).flat_map(|n| message(n, &[n as u8; 3000])).collect();
        for n in 0..200_u32 {
            framed.send(message(n, &[n as u8; 3000])).unwrap();
        }
        let mut got = Vec::new();
        let mut buffer = [0; 50_000];
        while got.len() < total.len() {
            framed.arm().unwrap();
            let count = peer.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(got, total);
        framed.arm().unwrap();
        assert!(framed.queued() == 0 && !framed.wants_out());
    }
}
