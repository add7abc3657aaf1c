//! A call's session, and the call's side of the conversation with the pool.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cli::failure::Failure;
use engine::process::own_executable;
use engine::unix;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use wire::remote::request;

use super::message::{self, Message};
use super::socket;
use crate::link::Link;
use crate::master;
use crate::session::Session;

/// A call that has moved so much is a bulk call.
const MUCH: u64 = 4 << 20;
/// How long a pool may take to answer; it has nothing else to do.
const ANSWER: Duration = Duration::from_secs(1);

/// A session of a call.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) session: Session,
    master: u8,
    meter: Arc<Meter>,
}

/// Counts what a call moves, and tells the pool when that is much.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pool: Option<OwnedFd>,
    moved: AtomicU64,
}

impl Meter {
    pub(crate) fn moved(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self.moved.fetch_add(bytes, Ordering::Relaxed);
        let now = before.saturating_add(bytes);
        if before < MUCH
            && now >= MUCH
            && let Some(pool) = &self.pool
        {
            // Only other calls have something of it.
            let _ = message::send(pool, &Message::Bulk);
        }
    }
}

impl Place {
    /// A session that waits for a call, or a new one.
    ///
    /// # Errors
    /// The far side cannot be reached, or takes no more calls: status 255.
    pub(crate) fn open(link: &Link) -> Result<Self, Failure> {
        let mut pool = connect(link);
        if pool.is_none() {
            start(link);
        }
        let place = |(master, session), pool| Self {
            session,
            master,
            meter: Arc::new(Meter { pool, moved: AtomicU64::new(0) }),
        };
        let mut first = 0;
        match pool.as_ref().map(want) {
            Some(Ok(Message::Take(master, session))) => return Ok(place((master, session), pool)),
            Some(Ok(Message::Nothing(master))) => first = master,
            _ => pool = None,
        }
        let found = master::open_unless(link, request::READY, first, |pause| {
            if pool.is_none() {
                pool = connect(link).filter(|pool| message::send(pool, &Message::Want).is_ok());
            }
            // What is given back meanwhile comes by itself.
            match pool.as_ref().filter(|pool| has_news(pool, pause)).map(message::receive) {
                Some(Ok(Some(Message::Take(master, session)))) => Some((master, session)),
                Some(Ok(Some(_))) => None,
                Some(_) => {
                    pool = None;
                    None
                }
                None if pool.is_none() => {
                    std::thread::sleep(pause); // time is what is waited for: nobody tells when a place becomes free
                    None
                }
                None => None,
            }
        })?;
        if let Some(said) = pool.as_ref().map(|pool| message::send(pool, &Message::Own(found.0)))
            && said.is_err()
        {
            pool = None;
        }
        Ok(place(found, pool))
    }

    /// For whoever moves the call's bytes.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// Lets the next call have the session: nothing of this one is on its way, neither here nor there.
    pub(crate) fn give_back(self) {
        if let Some(pool) = &self.meter.pool {
            // A pool that is gone has no calls to give it to.
            let _ = message::send(pool, &Message::Back(self.master, self.session));
        }
    }
}

fn connect(link: &Link) -> Option<OwnedFd> {
    unix::connect_nonblocking(&socket(link)).ok()
}

/// Asks for a session, and hears the first answer.
fn want(pool: &OwnedFd) -> io::Result<Message> {
    message::send(pool, &Message::Want)?;
    if !has_news(pool, ANSWER) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    message::receive(pool)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn has_news(pool: &OwnedFd, within: Duration) -> bool {
    let limit = Timespec::try_from(within).ok();
    poll(&mut [PollFd::new(pool, PollFlags::IN)], limit.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Starts the pool, unless it is there or somebody else is at it: whoever has the lock is, and the pool has it as its
/// standard input. Without one, calls go on.
fn start(link: &Link) {
    let Some(lock) = lock(link) else { return };
    let Some(folder) = link.folder().parent() else { return };
    let mut command = Command::new(own_executable());
    command.arg0("qrexec-remote").arg("--dir").arg(folder).arg("pool").arg(link.name()).current_dir("/");
    let _ = command.stdin(lock).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn();
}

fn lock(link: &Link) -> Option<File> {
    let path = link.file("pool.lock");
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
}
