//! A program of dom0 on the local socket: one message, then its input as it is; what it gets has headers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use engine::reactor::Interest;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use wire::header::{HEADER_LEN, Header};
use wire::r2::MAX_COMMAND;

/// What it has said so far of what it wants.
#[derive(Debug)]
pub(super) enum Stage {
    /// Not all of it.
    Asking(Vec<u8>),
    /// It is served.
    Served,
    /// It is over, and gets what is left.
    Ending { rest: Vec<u8>, written: usize },
}

/// What it wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) ty: u32,
    pub(super) body: Vec<u8>,
    /// Input that came with it.
    pub(super) input: Vec<u8>,
}

/// A connected program.
#[derive(Debug)]
pub(super) struct MuxedClient {
    socket: OwnedFd,
    pub(super) stage: Stage,
    /// Until when it has to ask.
    pub(super) until: Instant,
    /// What it is watched for.
    pub(super) reads: bool,
    pub(super) writes: bool,
}

/// What a read or a write came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes; none read: the end.
    Bytes(usize),
    /// Not now.
    Later,
    /// Never again.
    Gone,
}

fn moved(result: Result<usize, Errno>) -> Moved {
    match result {
        Ok(n) => Moved::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Moved::Later,
        Err(_) => Moved::Gone,
    }
}

impl MuxedClient {
    pub(super) fn new(socket: OwnedFd, until: Instant) -> Self {
        Self { socket, stage: Stage::Asking(Vec::new()), until, reads: true, writes: false }
    }

    pub(super) fn interest(&self) -> Interest {
        match (self.reads, self.writes) {
            (true, true) => Interest::ReadWrite,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::Hangup,
        }
    }

    pub(super) fn is_served(&self) -> bool {
        matches!(self.stage, Stage::Served)
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Moved {
        moved(recv(&self.socket, buffer, RecvFlags::DONTWAIT).map(|(n, _)| n))
    }

    pub(super) fn write(&self, bytes: &[u8]) -> Moved {
        moved(send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
    }

    /// Its request, once it is whole.
    ///
    /// # Errors
    /// It is longer than any request.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<Option<Request>, u32> {
        let Stage::Asking(said) = &mut self.stage else { return Ok(None) };
        said.extend_from_slice(bytes);
        let Some((header, rest)) = said.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let Header { ty, len } = Header::from_bytes(*header);
        let wanted = usize::try_from(len).ok().filter(|len| *len <= MAX_COMMAND).ok_or(len)?;
        let Some((body, input)) = rest.split_at_checked(wanted) else { return Ok(None) };
        let request = Request { ty, body: body.to_vec(), input: input.to_vec() };
        self.stage = Stage::Served;
        Ok(Some(request))
    }

    /// Writes what is left of one that is over; `true`: it can be closed.
    pub(super) fn write_rest(&mut self) -> bool {
        let Self { socket, stage: Stage::Ending { rest, written }, .. } = self else { return false };
        loop {
            let bytes = rest.get(*written..).unwrap_or_default();
            if bytes.is_empty() {
                return true;
            }
            match moved(send(&*socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
                Moved::Bytes(n) => *written = written.saturating_add(n),
                Moved::Later => return false,
                Moved::Gone => return true,
            }
        }
    }

    /// Bytes that are left of one that is over.
    pub(super) fn rest(&self) -> usize {
        match &self.stage {
            Stage::Ending { rest, written } => rest.len().saturating_sub(*written),
            Stage::Asking(_) | Stage::Served => 0,
        }
    }
}

impl AsFd for MuxedClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use wire::r2::ty;

    #[test]
    fn a_request_ends_where_its_header_says_and_input_begins() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut client = MuxedClient::new(ours.into(), Instant::now());
        let header = Header::new(ty::CLIENT_EXEC, 4).to_bytes();
        assert_eq!(client.hear(&header[..5]), Ok(None));
        assert_eq!(client.hear(&header[5..]), Ok(None));
        let request = client.hear(b"u:x\0input").unwrap().unwrap();
        assert_eq!((request.body.as_slice(), request.input.as_slice()), (&b"u:x\0"[..], &b"input"[..]));
        assert!(client.is_served());

        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut client = MuxedClient::new(ours.into(), Instant::now());
        assert_eq!(client.hear(&Header::new(ty::CLIENT_EXEC, 65_536).to_bytes()), Err(65_536));
    }
}
