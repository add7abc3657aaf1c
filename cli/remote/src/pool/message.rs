//! What a call and the pool say to each other: two bytes at a time, the second one is the number of a connection, and a
//! session's descriptors where the first one says so.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::session::Session;

/// One message.
#[derive(Debug)]
pub(super) enum Message {
    /// A call wants a session.
    Want,
    /// There is none now; if the call opens one by itself, let it be one of this connection. A session that is given back
    /// meanwhile follows.
    Nothing(u8),
    /// Here is one, of this connection.
    Take(u8, Session),
    /// A call has opened a session of this connection by itself.
    Own(u8),
    /// A call moves many bytes.
    Bulk,
    /// A call is over, and its session can have the next one.
    Back(u8, Session),
}

const WANT: u8 = b'w';
const NOTHING: u8 = b'n';
const TAKE: u8 = b't';
const OWN: u8 = b'o';
const BULK: u8 = b'b';
const BACK: u8 = b'r';

/// The descriptors of a session.
const FDS: usize = 4;

impl Message {
    fn parts(&self) -> ([u8; 2], Option<&Session>) {
        match self {
            Self::Want => ([WANT, 0], None),
            Self::Nothing(master) => ([NOTHING, *master], None),
            Self::Take(master, session) => ([TAKE, *master], Some(session)),
            Self::Own(master) => ([OWN, *master], None),
            Self::Bulk => ([BULK, 0], None),
            Self::Back(master, session) => ([BACK, *master], Some(session)),
        }
    }
}

/// Says it without waiting: whoever does not listen is passed over.
pub(super) fn send(socket: &OwnedFd, message: &Message) -> io::Result<()> {
    let (bytes, session) = message.parts();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = session.map(Session::descriptors);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)? {
        2 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Hears the next one; `None` at the end of the conversation.
///
/// # Errors
/// Nothing is there now (`WouldBlock`), or what came is no message.
pub(super) fn receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    let mut bytes = [0; 2];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?.bytes,
        }
    };
    let fds: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let session = <[OwnedFd; FDS]>::try_from(fds).ok().map(Session::of_descriptors);
    match (got, bytes) {
        (0, _) => Ok(None),
        (2, [WANT, _]) => Ok(Some(Message::Want)),
        (2, [NOTHING, master]) => Ok(Some(Message::Nothing(master))),
        (2, [TAKE, master]) => Ok(Some(Message::Take(master, session.ok_or_else(wrong)?))),
        (2, [OWN, master]) => Ok(Some(Message::Own(master))),
        (2, [BULK, _]) => Ok(Some(Message::Bulk)),
        (2, [BACK, master]) => Ok(Some(Message::Back(master, session.ok_or_else(wrong)?))),
        _ => Err(wrong()),
    }
}
