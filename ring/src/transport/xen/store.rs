#![forbid(unsafe_code)]
//! A connection to xenstore: one request at a time, and events for what is watched.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::deadline::Deadline;
use super::store_messages::{Decoder, Message, Request, failure, full};
use crate::error::Error;
use sys::unix;

/// How long xenstore may take for one answer. It waits for nobody, but it is one process for all domains: with 64
/// calls beginning at once in an emulated machine, five seconds were seen to be too short.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where xenstored listens in its own domain, if it runs in this one.
const SOCKET: &str = "/run/xenstored/socket";
/// The kernel's connection, in any domain.
const DEVICE: &str = "/dev/xen/xenbus";

pub(super) struct Store {
    fd: OwnedFd,
    decoder: Decoder,
    /// Events since the last look, by the token of their watch. Only whether there were any is of use: xenstored drops
    /// an event that equals one which was not read yet.
    changes: BTreeMap<u32, u32>,
}

/// The token of the one watch of a connection that has no other.
const ONLY: u32 = 1;

impl Store {
    pub(super) fn open() -> Result<Store, Error> {
        let fd = match unix::connect_nonblocking(Path::new(SOCKET)) {
            Ok(fd) => fd,
            Err(_) => {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::open(DEVICE, flags, Mode::empty())
                    .map_err(|e| Error::io(format!("connecting to xenstore at {DEVICE}"))(e.into()))?
            }
        };
        Ok(Store::over(fd))
    }

    pub(super) fn over(fd: OwnedFd) -> Store {
        Store { fd, decoder: Decoder::default(), changes: BTreeMap::new() }
    }

    /// The value of a key. `None`: it does not exist, or this domain may not read it; both may change.
    pub(super) fn read(&mut self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.ask(Request::Read(path)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(Error::io(format!("reading {path} from xenstore"))(error)),
        }
    }

    /// Writes a key that only its owner, this domain, can write and only `reader` beside it can read.
    pub(super) fn publish(&mut self, path: &str, value: u32, own: u32, reader: u32) -> Result<(), Error> {
        self.ask(Request::Write(path, &value.to_string()))
            .and_then(|_| self.ask(Request::Restrict(path, own, reader)))
            .map(drop)
            .map_err(Error::io(format!("writing {path} to xenstore")))
    }

    /// Makes a key that every domain may read, unless that was done already. Two processes may do so at once.
    pub(super) fn publish_to_all(&mut self, path: &str, own: u32) -> Result<(), Error> {
        let wanted = format!("r{own}\0");
        if self.ask(Request::Permissions(path)).is_ok_and(|found| found == wanted.as_bytes()) {
            return Ok(());
        }
        self.ask(Request::Write(path, "1"))
            .and_then(|_| self.ask(Request::Open(path, own)))
            .map(drop)
            .map_err(Error::io(format!("writing {path} to xenstore")))
    }

    /// Removes a key with all that is below it. It is no error if there is no such key.
    pub(super) fn remove(&mut self, path: &str) -> Result<(), Error> {
        match self.ask(Request::Remove(path)) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                Err(Error::io(format!("removing {path} from xenstore"))(error))
            }
            _ => Ok(()),
        }
    }

    /// The descriptor becomes readable when something changes there. For a connection with no other watch.
    pub(super) fn watch(&mut self, path: &str) -> Result<(), Error> {
        let watched = self.ask(Request::Watch(path, ONLY)).map(drop);
        watched.map_err(Error::io(format!("watching {path} in xenstore")))
    }

    /// Whether anything has changed since the last call. Takes what has arrived, and does not wait. Not to be called
    /// while a request is unanswered: the answer would be dropped.
    pub(super) fn changed(&mut self) -> Result<bool, Error> {
        while self.heard().map_err(Error::io("reading from xenstore"))?.is_some() {}
        Ok(!self.take_changes().is_empty())
    }

    /// What has arrived of events since the last call, by token: how many.
    pub(super) fn take_changes(&mut self) -> BTreeMap<u32, u32> {
        std::mem::take(&mut self.changes)
    }

    /// Sends a request whose answer [`Store::heard`] will give, and never waits. Only one at a time: Linux keeps the
    /// body of a request in the open file until it has sent it, so that a second one would overwrite the first.
    pub(super) fn begin(&mut self, request: Request<'_>) -> io::Result<()> {
        self.send(request, Deadline::after(Duration::ZERO))
    }

    /// The answer to the request that was begun, if it has arrived. Never waits.
    pub(super) fn heard(&mut self) -> io::Result<Option<io::Result<Vec<u8>>>> {
        self.receive()?;
        while let Some(message) = self.next()? {
            match message {
                Message::Changed(token) => self.count(token),
                Message::Failed(name) => return Ok(Some(Err(failure(&name)))),
                Message::Reply { body, .. } => return Ok(Some(Ok(body))),
            }
        }
        Ok(None)
    }

    fn ask(&mut self, request: Request<'_>) -> io::Result<Vec<u8>> {
        let deadline = Deadline::after(PATIENCE);
        self.send(request, deadline)?;
        loop {
            match self.next()? {
                Some(Message::Changed(token)) => self.count(token),
                Some(Message::Failed(name)) => return Err(failure(&name)),
                Some(Message::Reply { ty, body }) if ty == request.ty() => return Ok(body),
                Some(Message::Reply { .. }) => return Err(io::Error::other("an answer to another request")),
                None => {
                    self.wait(PollFlags::IN, deadline)?;
                    self.receive()?;
                }
            }
        }
    }

    fn next(&mut self) -> io::Result<Option<Message>> {
        self.decoder.next().map_err(|_| io::Error::other("a message that is too long"))
    }

    fn count(&mut self, token: u32) {
        let events = self.changes.entry(token).or_default();
        *events = events.saturating_add(1);
    }

    /// One request, one `write`: Linux takes one and drops a second that is in it.
    fn send(&mut self, request: Request<'_>, deadline: Deadline) -> io::Result<()> {
        let message = request.encode()?;
        let mut message = &message[..];
        while !message.is_empty() {
            match rustix::io::write(&self.fd, message) {
                Ok(n) => message = message.get(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                // Linux refuses a watch by itself: this error takes the place of xenstore's, and no answer comes.
                // Linux reports an error name that it does not know as EINVAL, and the only such name here is the
                // quota's.
                Err(Errno::NOSPC | Errno::TOOBIG) => return Err(full()),
                Err(Errno::INVAL) if matches!(request, Request::Watch(..)) => return Err(full()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what has arrived.
    fn receive(&mut self) -> io::Result<()> {
        let mut bytes = [0u8; 1024];
        match rustix::io::read(&self.fd, &mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.decoder.push(bytes.get(..n).unwrap_or_default());
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn wait(&self, what: PollFlags, deadline: Deadline) -> io::Result<()> {
        let left = deadline.left().map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.fd, what)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A key that does not exist, or may not be read: which of the two errors comes depends on the xenstore and on who may
/// read the folder.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES))
}

impl AsFd for Store {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A connection to somebody who answers each request, whatever it is, by the next of `answers`.
    fn answered_by(answers: Vec<Vec<u8>>) -> Store {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let mut header = [0; 16];
                theirs.read_exact(&mut header).unwrap();
                let len = u32::from_ne_bytes(header[12..].try_into().unwrap());
                theirs.read_exact(&mut vec![0; len as usize]).unwrap();
                theirs.write_all(&answer).unwrap();
            }
            // Stays until it is asked once more, which it does not answer.
            let _ = theirs.read(&mut [0]);
        });
        Store::over(ours.into())
    }

    fn message(ty: u32, body: &[u8]) -> Vec<u8> {
        let words = [ty, 0, 0, body.len() as u32];
        words.iter().flat_map(|word| word.to_ne_bytes()).chain(body.iter().copied()).collect()
    }

    const EVENT: u32 = 15;
    const ERROR: u32 = 16;

    #[test]
    fn events_may_come_before_answers_and_are_kept() {
        let event = message(EVENT, b"/a\0w\0");
        let mut store = answered_by(vec![
            [event.clone(), message(4, b"OK\0")].concat(),
            [message(2, b"17"), event.clone(), event].concat(),
        ]);
        store.watch("/a").unwrap();
        assert!(store.changed().unwrap() && !store.changed().unwrap());
        assert_eq!(store.read("/a").unwrap().unwrap(), b"17");
        assert!(store.changed().unwrap());
    }

    #[test]
    fn what_is_not_there_and_what_is_not_for_us_are_the_same() {
        let mut store = answered_by(vec![
            message(ERROR, b"ENOENT\0"),
            message(ERROR, b"EACCES\0"),
            message(ERROR, b"ENOENT\0"),
            message(ERROR, b"EIO\0"),
        ]);
        assert!(store.read("a").unwrap().is_none() && store.read("a").unwrap().is_none());
        store.remove("a").unwrap();
        assert!(store.read("a").is_err());
    }

    #[test]
    fn quota_and_strange_answers_are_errors() {
        let mut store = answered_by(vec![message(ERROR, b"ENOSPC\0"), message(2, b"x")]);
        let error = store.publish("a", 1, 2, 3).unwrap_err().to_string();
        assert_eq!(error, format!("writing a to xenstore: {}", full()));
        assert!(store.remove("a").is_err());
        // The other side is gone by now.
        assert!(store.read("a").is_err());
    }

    #[test]
    fn a_watch_that_linux_refuses_is_answered_by_its_write() {
        // A device on which every write says ENOSPC and no answer ever comes.
        let mut store =
            Store::over(std::fs::File::options().read(true).write(true).open("/dev/full").unwrap().into());
        let error = store.watch("/a").unwrap_err().to_string();
        assert_eq!(error, format!("watching /a in xenstore: {}", full()));
        assert_eq!(store.begin(Request::Watch("/a", 1)).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
    }

    #[test]
    fn a_key_for_all_is_made_once_and_made_right_if_it_was_half_done() {
        // There already, and as it should be: no further question, which nobody would answer.
        answered_by(vec![message(3, b"r5\0")]).publish_to_all("k", 5).unwrap();
        for found in [message(ERROR, b"ENOENT\0"), message(3, b"n5\0")] {
            let ok = |ty| message(ty, b"OK\0");
            let mut store = answered_by(vec![found, ok(11), ok(14), message(2, b"the fourth")]);
            store.publish_to_all("k", 5).unwrap();
            assert_eq!(store.read("k").unwrap().unwrap(), b"the fourth");
        }
    }

    #[test]
    fn events_are_known_by_the_watch_they_are_of() {
        let events = [b"/a\x003\0", b"/b\x004\0", b"/a\x003\0"].map(|body| message(EVENT, body)).concat();
        let mut store = answered_by(vec![[events, message(2, b"17")].concat()]);
        store.read("/a").unwrap();
        assert_eq!(store.take_changes(), BTreeMap::from([(3, 2), (4, 1)]));
        assert!(store.take_changes().is_empty());
    }
}
