#![forbid(unsafe_code)]
//! One question a second for a whole VM: which of the domains that its calls are with are still there?
//!
//! The agent keeps a [`Warden`]. A channel connects to its socket and writes the domain's number, four bytes, low half
//! first; a byte comes back when that domain is gone, and the connection's end means that the agent is. Xenstore is
//! asked, which forgets a domain when it dies, and first the hypervisor, which keeps what is left of it for as long as
//! anybody maps a page of it. While nobody is connected, nothing happens at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll;

use super::store::Store;
use super::vigil::{PERIOD, set, timer, watch};
use super::wire::Request;
use crate::error::Error;
use crate::unix;
use crate::xendev;

/// Where the warden listens, unless `QREXEC_PEERS_SOCKET` says otherwise.
const SOCKET: &str = "/var/run/qubes/qrexec-peers";
/// Every user's calls may ask.
const MODE: u32 = 0o666;
/// Calls that are told at once. One that finds no place asks for itself.
const MAX_GUESTS: usize = 4096;
/// Domains that are asked for, each once a second.
const MAX_DOMAINS: usize = 256;
/// What is taken from the epoll instance at a time.
const BATCH: usize = 64;

const DOOR: u64 = 0;
const TIMER: u64 = 1;
const STORE: u64 = 2;
const FIRST_GUEST: u64 = 3;

/// Asks the agent of this VM to tell when `domain` is gone.
pub(super) fn ask(domain: u32) -> io::Result<OwnedFd> {
    let fd = unix::connect_nonblocking(&socket())?;
    match rustix::io::write(&fd, &domain.to_le_bytes())? {
        4 => Ok(fd),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn socket() -> PathBuf {
    std::env::var_os("QREXEC_PEERS_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from)
}

pub(in crate::transport) struct Warden {
    events: OwnedFd,
    door: OwnedFd,
    path: PathBuf,
    identity: unix::Identity,
    /// No descriptor was to be had for a guest: the door is not watched until the next tick.
    shut: bool,
    timer: OwnedFd,
    ticking: bool,
    guests: BTreeMap<u64, Guest>,
    next: u64,
    knows: fn(u32) -> bool,
    open_store: fn() -> Result<Store, Error>,
    store: Option<Store>,
    /// The domain that xenstore is asked for, and those that come next.
    questions: VecDeque<u32>,
}

struct Guest {
    fd: OwnedFd,
    domain: Option<u32>,
}

impl Warden {
    pub(in crate::transport) fn new() -> Result<Warden, Error> {
        Warden::at(&socket(), xendev::knows, Store::open)
    }

    fn at(
        path: &Path,
        knows: fn(u32) -> bool,
        open_store: fn() -> Result<Store, Error>,
    ) -> Result<Warden, Error> {
        let (door, identity) = unix::listen_identified(path, MODE)
            .map_err(Error::io(format!("listening at {}", path.display())))?;
        let watched = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
            let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let timer = timer(Duration::ZERO)?;
            watch(&events, &door, DOOR)?;
            watch(&events, &timer, TIMER)?;
            Ok((events, timer))
        };
        let (events, timer) = watched().map_err(|error| Error::io("watching for calls")(error.into()))?;
        Ok(Warden {
            events,
            door,
            path: path.to_owned(),
            identity,
            shut: false,
            timer,
            ticking: false,
            guests: BTreeMap::new(),
            next: FIRST_GUEST,
            knows,
            open_store,
            store: None,
            questions: VecDeque::new(),
        })
    }

    /// To be called when the descriptor is ready; never blocks.
    pub(in crate::transport) fn on_ready(&mut self) {
        let mut ready = Vec::with_capacity(BATCH);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Interrupted, it is called again: what was ready stays so.
        let _ = epoll::wait(&self.events, rustix::buffer::spare_capacity(&mut ready), Some(&now));
        for event in ready {
            match event.data.u64() {
                DOOR => self.admit(),
                TIMER => self.tick(),
                STORE => self.hear(),
                guest => self.listen(guest),
            }
        }
    }

    fn admit(&mut self) {
        loop {
            match unix::accept(&self.door) {
                Ok(None) => return,
                // Who is turned away asks for itself.
                Ok(Some(_)) if self.guests.len() >= MAX_GUESTS => {}
                Ok(Some(fd)) => {
                    if watch(&self.events, &fd, self.next).is_ok() {
                        self.guests.insert(self.next, Guest { fd, domain: None });
                        self.next += 1;
                        self.tick_every(PERIOD);
                    }
                }
                Err(_) => {
                    self.shut = epoll::delete(&self.events, &self.door).is_ok();
                    return self.tick_every(PERIOD);
                }
            }
        }
    }

    /// A guest says once which domain it means; whatever else it says, it goes.
    fn listen(&mut self, id: u64) {
        let domains = self.domains();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let mut number = [0u8; 5];
        match rustix::io::read(&guest.fd, &mut number) {
            Ok(4) if guest.domain.is_none() => {
                let [a, b, c, d, _] = number;
                let domain = u32::from_le_bytes([a, b, c, d]);
                if domains.contains(&domain) || domains.len() < MAX_DOMAINS {
                    guest.domain = Some(domain);
                    return;
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            _ => {}
        }
        self.guests.remove(&id);
    }

    fn domains(&self) -> BTreeSet<u32> {
        self.guests.values().filter_map(|guest| guest.domain).collect()
    }

    /// Asks for each domain, one after the other, unless xenstore still owes answers.
    fn tick(&mut self) {
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
        if self.shut {
            self.shut = watch(&self.events, &self.door, DOOR).is_err();
        }
        if self.guests.is_empty() && !self.shut {
            self.tick_every(Duration::ZERO);
            self.forget_store();
        } else if self.questions.is_empty() {
            let (there, gone): (Vec<u32>, Vec<u32>) =
                self.domains().into_iter().partition(|one| (self.knows)(*one));
            gone.into_iter().for_each(|domain| self.tell(domain));
            self.questions = there.into();
            self.put_question();
        }
    }

    /// Puts the first question. A store that cannot be asked is opened again at the next tick.
    fn put_question(&mut self) {
        let Some(domain) = self.questions.front() else { return };
        let begun = match &mut self.store {
            Some(store) => store.begin(Request::IsIntroduced(*domain)),
            none => (self.open_store)().map_err(io::Error::other).and_then(|store| {
                watch(&self.events, &store, STORE)?;
                none.insert(store).begin(Request::IsIntroduced(*domain))
            }),
        };
        if begun.is_err() {
            self.forget_store();
        }
    }

    fn hear(&mut self) {
        let Some(store) = &mut self.store else { return };
        let answer = match store.heard() {
            Ok(None) => return,
            Ok(Some(answer)) => answer,
            Err(_) => return self.forget_store(),
        };
        let domain = self.questions.pop_front();
        if let (Some(gone), Ok(b"F" | b"F\0")) = (domain, answer.as_deref()) {
            self.tell(gone);
        }
        self.put_question();
    }

    fn tell(&mut self, gone: u32) {
        self.guests.retain(|_, guest| {
            let concerned = guest.domain == Some(gone);
            if concerned {
                // Who is not there any more needs not be told.
                let _ = rustix::io::write(&guest.fd, &[1]);
            }
            !concerned
        });
    }

    fn forget_store(&mut self) {
        self.store = None;
        self.questions.clear();
    }

    /// A timer that runs goes on as it does: guests who come all the time must not keep it from ending.
    fn tick_every(&mut self, period: Duration) {
        let wanted = !period.is_zero();
        if wanted != self.ticking {
            // It fails for impossible times and for what is no timer.
            let _ = set(&self.timer, period);
            self.ticking = wanted;
        }
    }
}

impl AsFd for Warden {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // A stale file is replaced by the next warden.
        let _ = unix::withdraw(&self.path, self.identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, poll};

    /// Domains from 100 on are gone, from 200 on without a trace.
    fn store() -> Result<Store, Error> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let mut header = [0; 16];
            while theirs.read_exact(&mut header).is_ok() {
                let mut body = vec![0; header[12].into()];
                theirs.read_exact(&mut body).unwrap();
                header[12] = 2;
                theirs.write_all(&header).unwrap();
                theirs.write_all(if body.len() > 3 { b"F\0" } else { b"T\0" }).unwrap();
            }
        });
        Ok(Store::over(ours.into()))
    }

    fn guest(path: &Path, number: &[u8]) -> UnixStream {
        let mut guest = UnixStream::connect(path).unwrap();
        guest.write_all(number).unwrap();
        guest
    }

    fn run_until(warden: &mut Warden, done: impl Fn(&Warden) -> bool) {
        let start = Instant::now();
        while !done(warden) {
            assert!(start.elapsed() < Duration::from_secs(20));
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            poll(&mut [PollFd::new(&warden.events, PollFlags::IN)], Some(&limit)).unwrap();
            warden.on_ready();
        }
    }

    #[test]
    fn calls_with_a_domain_that_is_gone_are_told_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers");
        let mut warden = Warden::at(&path, |domain| domain < 200, store).unwrap();
        let [mut dying, mut gone, mut here] =
            [100u32, 200, 7].map(|number| guest(&path, &number.to_le_bytes()));
        run_until(&mut warden, |w| w.domains().len() == 3);
        run_until(&mut warden, |w| w.guests.len() == 1);
        assert_eq!((dying.read(&mut [0; 2]).unwrap(), gone.read(&mut [0; 2]).unwrap()), (1, 1));
        here.set_nonblocking(true).unwrap();
        assert_eq!(here.read(&mut [0; 2]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(here);
        run_until(&mut warden, |w| !w.ticking);
        assert!(warden.guests.is_empty() && warden.store.is_none());
        drop(warden);
        assert!(!path.exists());
    }

    #[test]
    fn who_speaks_otherwise_is_turned_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers");
        let mut warden = Warden::at(&path, |domain| domain < 200, store).unwrap();
        for words in [&b"abc"[..], b"abcde"] {
            let next = warden.next;
            let mut rude = guest(&path, words);
            run_until(&mut warden, |w| w.next > next && w.guests.is_empty());
            assert!(matches!(rude.read(&mut [0; 2]), Ok(0) | Err(_)));
        }
        let mut twice = guest(&path, &7u32.to_le_bytes());
        run_until(&mut warden, |w| w.domains().len() == 1);
        twice.write_all(&8u32.to_le_bytes()).unwrap();
        run_until(&mut warden, |w| w.guests.is_empty());
    }
}
