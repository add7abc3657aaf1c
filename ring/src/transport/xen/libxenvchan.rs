#![forbid(unsafe_code)]
//! The transport `libxenvchan`: Xen's own C library carries the bytes, so that this project can be compared with it.
//!
//! As with a socket, this process sees no shared memory: both rings are private memory, and bytes move between them
//! and the library by `libxenvchan_read` and `libxenvchan_write`, which copy. No event tells a client that its server
//! has come, so it tries ten times a second. Nothing watches whether the peer's domain still exists.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sys::reactor::Reactor;

use crate::channel::{Channel, announce_client, halves, initialise};
use crate::consumer::Consumer;
use crate::error::Error;
use crate::layout::{CLOSED, Orders, Sizes};
use crate::link::{Bell, Habits};
use crate::page::{Page, Side};
use crate::producer::Producer;
use crate::region::Region;
use crate::xenvchan::{Library, Vchan, WAITING};

/// Time between two attempts to find a server.
const RETRY: Duration = Duration::from_millis(100);
/// Staging, each way, in bytes: the comparison is with the library's own rings.
const STAGING: usize = 64 << 10;
/// Most bytes moved by one call of the library.
const PIECE: usize = 64 << 10;

/// A server that waits for its client.
pub(in crate::transport) struct LibraryListener {
    vchan: Option<Vchan>,
    events: Reactor<()>,
}

impl LibraryListener {
    pub(in crate::transport) fn new(peer: u32, port: u32, orders: Orders) -> Result<LibraryListener, Error> {
        let path = c_string(format!("data/vchan/{peer}/{port}"))?;
        let vchan = Library::load()?.listen(peer, &path, orders.left.bytes(), orders.right.bytes());
        let vchan =
            vchan.ok_or_else(|| Error::io("libxenvchan_server_init")(std::io::Error::last_os_error()))?;
        let events = vchan.events()?;
        Ok(LibraryListener { vchan: Some(vchan), events })
    }

    pub(in crate::transport) fn accept(&mut self) -> Result<Option<Channel>, Error> {
        let vchan = self.vchan.take().ok_or(Error::Closed)?;
        if is_ready(&self.events) {
            vchan.take_event();
        }
        if vchan.state() == WAITING {
            self.vchan = Some(vchan);
            return Ok(None);
        }
        channel(vchan).map(Some)
    }
}

impl AsFd for LibraryListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// A client that looks for its server.
pub(in crate::transport) struct LibraryConnector {
    library: Library,
    peer: u32,
    path: CString,
    /// Never ready: no event comes before the server does.
    nothing: Reactor<()>,
}

impl LibraryConnector {
    pub(in crate::transport) fn new(own: u32, server: u32, port: u32) -> Result<LibraryConnector, Error> {
        let path = c_string(format!("/local/domain/{server}/data/vchan/{own}/{port}"))?;
        let nothing = Reactor::new().map_err(|error| Error::io("waiting for libxenvchan")(error.into()))?;
        Ok(LibraryConnector { library: Library::load()?, peer: server, path, nothing })
    }

    pub(in crate::transport) fn poll(&mut self) -> Result<Option<Channel>, Error> {
        self.library.join(self.peer, &self.path).map(channel).transpose()
    }

    pub(in crate::transport) fn retry_after(&self) -> Option<Duration> {
        Some(RETRY)
    }
}

impl AsFd for LibraryConnector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.nothing.as_fd()
    }
}

fn channel(vchan: Vchan) -> Result<Channel, Error> {
    let events = vchan.events()?;
    let region = Arc::new(Region::private(Orders::choose(Sizes::both(STAGING))?)?);
    initialise(&region);
    announce_client(&region);
    let (fill, drain) = halves(&region, Side::Server);
    let buffer = vec![0; PIECE];
    let bell =
        Staging { vchan, events, region: region.clone(), fill, drain, buffer, blocked: false, cut: false };
    Ok(Channel::new(region, Side::Client, Box::new(bell)))
}

fn c_string(text: String) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Config("a path with a NUL".into()))
}

fn is_ready(events: &Reactor<()>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&now)) == Ok(1)
}

/// Moves bytes between private rings and the library.
struct Staging {
    vchan: Vchan,
    events: Reactor<()>,
    region: Arc<Region>,
    /// What arrives goes in here.
    fill: Producer,
    /// What leaves comes from here.
    drain: Consumer,
    buffer: Vec<u8>,
    /// The library took less than there was.
    blocked: bool,
    /// The peer is gone.
    cut: bool,
}

impl Staging {
    fn push(&mut self) -> Result<(), Error> {
        self.blocked = false;
        loop {
            let ready = self.drain.ready()?.min(self.buffer.len());
            if ready == 0 || self.cut {
                return Ok(());
            }
            self.drain.get(0, &mut self.buffer[..ready]);
            match usize::try_from(self.vchan.write(&self.buffer[..ready])) {
                Err(_) => self.cut = true,
                Ok(0) => {
                    self.blocked = true;
                    return Ok(());
                }
                Ok(n) => self.drain.release(n.min(ready)),
            }
        }
    }

    /// `false`: nothing more will come.
    fn pull(&mut self) -> Result<bool, Error> {
        loop {
            let room = self.fill.room()?.min(self.buffer.len());
            if room == 0 {
                return Ok(true);
            }
            match usize::try_from(self.vchan.read(&mut self.buffer[..room])) {
                Err(_) => return Ok(false),
                Ok(0) => return Ok(true),
                Ok(n) => {
                    self.fill.put(0, &self.buffer[..n.min(room)]);
                    self.fill.commit(n.min(room));
                }
            }
        }
    }
}

impl Bell for Staging {
    fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn ring(&mut self) -> Result<bool, Error> {
        self.push()?;
        Ok(!self.cut)
    }

    fn acknowledge(&mut self) -> Result<bool, Error> {
        if is_ready(&self.events) {
            self.vchan.take_event();
        }
        let open = self.pull()?;
        if !open {
            self.region.set_flag(Side::Server.own_live(), CLOSED);
        }
        self.push()?;
        Ok(open)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn wants_in(&mut self) -> bool {
        true
    }

    fn settle(&mut self) -> Result<Habits, Error> {
        // When it is closed it connects to xenstore, among other things.
        Ok(Habits { unknown: true, ..Habits::default() })
    }

    fn wants_out(&self) -> bool {
        self.blocked && !self.cut
    }
}
