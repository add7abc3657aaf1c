#![forbid(unsafe_code)]
//! Whether the domain at the other end of one channel is still there.
//!
//! A process that ends tells its peer, however it ends: the kernel clears its live byte and sends an event when its
//! pages are unmapped. A domain that is destroyed tells nobody, and the hypervisor still knows it for as long as one
//! of its pages is mapped here. The sign is a key of that domain in xenstore that can no longer be read (see
//! [`super::liveness`]). In a VM the agent watches for all calls together and tells those concerned (see
//! [`super::domain_monitor`]); in dom0, and where no agent of this project runs, or none at the moment, each channel
//! does it by itself. None of this delays the data, and no answer is ever waited for: xenstore may be slow, and a
//! daemon serves others meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use sys::reactor::{Interest, Reactor};
use sys::timer::Timer;

use super::liveness::{self, Lookout, Sight};
use super::store::Store;
use super::{DOM0, PERIOD, domain_monitor};
use crate::error::Error;
use crate::xendev::{self, Asker};

/// A watch that xenstore allows to dom0 only: it fires when any domain ends.
const RELEASE: &str = "@releaseDomain";

pub(super) struct DomainWatch {
    own: u32,
    peer: u32,
    /// How many pages of the peer are mapped here, once there are some: the agent counts them.
    pages: Option<u32>,
    source: Source,
    /// The key by which the server was found: used if its domain has no better one.
    server: Option<Lookout>,
    /// Ready when any of these is, or anything that was added.
    either: Reactor<()>,
    /// What was opened while this process could still open something. `Some`: it no longer can.
    reserve: Option<Reserve>,
}

/// What is needed to watch the peer without the agent.
struct Reserve {
    /// Asks the hypervisor.
    asker: Option<Asker>,
    /// Used when the agent is gone.
    store: Option<Store>,
    timer: Option<Timer>,
}

/// Who tells when the peer's domain is gone.
enum Source {
    /// The agent says so.
    Agent(OwnedFd),
    /// Nobody any more: the peer is dom0, and the agent is gone.
    Nobody,
    /// This process watches the peer's key, and the timer says when to ask the hypervisor too.
    Own { timer: Timer, lookout: Option<Lookout> },
}

impl DomainWatch {
    /// `None`: nothing needs to be watched. The peer is dom0, and no agent tells whether this VM was restored.
    pub(super) fn new(own: u32, peer: u32) -> Result<Option<DomainWatch>, Error> {
        let agent = if own == DOM0 { None } else { domain_monitor::ask(peer).ok() };
        if announces(own, agent.is_some()) {
            liveness::announce(own)?;
        }
        let source = match agent {
            Some(agent) => Source::Agent(agent),
            None if peer == DOM0 => return Ok(None),
            None => alone(own, peer)?,
        };
        let either = Reactor::new().map_err(failed)?;
        let domain_watch =
            DomainWatch { own, peer, pages: None, source, server: None, either, reserve: None };
        domain_watch.watch_source()?;
        Ok(Some(domain_watch))
    }

    /// Opens what will be needed once this process can open nothing any more. Nothing is said to xenstore for that.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let (mut store, mut spare) = (None, None);
        if matches!(self.source, Source::Agent(_)) && self.peer != DOM0 {
            store = Store::open().ok();
            spare = Some(Timer::every(PERIOD).map_err(failed)?);
        }
        self.reserve = Some(Reserve { asker: Asker::new().ok(), store, timer: spare });
        Ok(())
    }

    /// From now on this process watches by itself, with what it holds in reserve if it can open nothing.
    fn alone(&mut self) -> Result<Source, Error> {
        let Some(Reserve { store, timer, .. }) = &mut self.reserve else { return alone(self.own, self.peer) };
        let timer = timer.take().ok_or(Errno::MFILE).map_err(failed)?;
        let lookout = store.take().and_then(|store| look_out_by(store, self.own, self.peer));
        Ok(Source::Own { timer, lookout })
    }

    /// Makes the descriptor ready when `fd` is, too, for as long as that is open.
    pub(super) fn watch_too(&self, fd: impl AsFd) -> Result<(), Error> {
        self.either.add(fd, (), Interest::Read).map_err(failed)
    }

    /// Keeps the watch by which the server was found. It is the only sign of a domain's end if the server is
    /// upstream's; one of this project removes its key once it has its client, and its domain has another key.
    pub(super) fn keep(&mut self, store: Store, key: String) -> Result<(), Error> {
        if self.peer == DOM0 {
            return Ok(());
        }
        let mut server = Lookout::go_on(store, key, liveness::of(self.peer));
        if server.look().is_ok() {
            self.watch_too(&server)?;
            self.server = Some(server);
        }
        Ok(())
    }

    /// To be called when so many pages of the peer have been mapped.
    pub(super) fn maps(&mut self, pages: usize) {
        self.pages = u32::try_from(pages).ok();
        self.count();
    }

    fn count(&self) {
        if let (Source::Agent(agent), Some(pages)) = (&self.source, self.pages) {
            domain_monitor::count(agent, pages);
        }
    }

    /// To be called when the descriptor is ready and nothing that was added is.
    pub(super) fn is_peer_gone(&mut self) -> Result<bool, Error> {
        match self.server.as_mut().map(Lookout::look) {
            Some(Ok(Sight::Gone)) => return Ok(true),
            Some(Ok(Sight::Nothing)) | None => {}
            Some(Ok(Sight::Void) | Err(_)) => self.server = None,
        }
        let mut word = [0u8; 1];
        match &mut self.source {
            Source::Agent(agent) => match rustix::io::read(agent, &mut word) {
                Ok(1) if word == [domain_monitor::RESTORED] => Err(Error::Restored),
                Ok(1) if word == [domain_monitor::FULL] => Err(Error::TooManyPages { domain: self.peer }),
                Ok(1) => Ok(true),
                Err(Errno::AGAIN | Errno::INTR) => Ok(false),
                // The agent is gone, and the call continues without it.
                _ if self.peer == DOM0 => self.turn_to(Source::Nobody).map(|()| false),
                _ => {
                    let source = self.alone()?;
                    self.turn_to(source).map(|()| false)
                }
            },
            Source::Nobody => Ok(false),
            Source::Own { lookout, timer } => {
                let sight = lookout.as_mut().map(Lookout::look);
                if matches!(sight, Some(Err(_))) {
                    // The connection to xenstore is opened again at the next tick.
                    *lookout = None;
                }
                if matches!(sight, Some(Ok(Sight::Gone))) {
                    Ok(true)
                } else {
                    Ok(timer.take() && self.on_tick()?)
                }
            }
        }
    }

    /// Asks the agent, if one runs again; else asks the hypervisor, and xenstore.
    fn on_tick(&mut self) -> Result<bool, Error> {
        if let (true, Some(agent)) = (self.own != DOM0, self.ask_agent()) {
            return self.turn_to(Source::Agent(agent)).map(|()| false);
        }
        let is_known = match &self.reserve {
            Some(reserve) => reserve.asker.as_ref().is_none_or(|asker| asker.knows(self.peer)),
            None => xendev::knows(self.peer),
        };
        if !is_known {
            return Ok(true);
        }
        let Source::Own { lookout, .. } = &mut self.source else { return Ok(false) };
        if let Some(lookout) = lookout {
            return Ok(lookout.tick().is_ok_and(|sight| sight == Sight::Gone));
        }
        if self.reserve.is_none()
            && let Some(again) = look_out(self.own, self.peer)
        {
            self.either.add(&again, (), Interest::Read).map_err(failed)?;
            *lookout = Some(again);
        }
        Ok(false)
    }

    /// Connects to an agent that runs again, if this process can still connect to anything.
    fn ask_agent(&self) -> Option<OwnedFd> {
        self.reserve.is_none().then(|| domain_monitor::ask(self.peer).ok())?
    }

    /// The old source was never shared, so closing its descriptors takes them out of the epoll instance.
    fn turn_to(&mut self, source: Source) -> Result<(), Error> {
        self.source = source;
        self.count();
        self.watch_source()
    }

    fn watch_source(&self) -> Result<(), Error> {
        match &self.source {
            Source::Nobody => Ok(()),
            Source::Agent(agent) => self.watch_too(agent),
            Source::Own { timer, lookout } => {
                self.watch_too(timer)?;
                lookout.as_ref().map_or(Ok(()), |lookout| self.watch_too(lookout))
            }
        }
    }
}

impl AsFd for DomainWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }
}

fn alone(own: u32, peer: u32) -> Result<Source, Error> {
    Ok(Source::Own { timer: Timer::every(PERIOD).map_err(failed)?, lookout: look_out(own, peer) })
}

/// Dom0 may read every key, so it watches the domain's own number, which only the toolstack removes; and it is told of
/// the end of any domain, in case the keys stay. `None`: xenstore cannot be reached now.
fn look_out(own: u32, peer: u32) -> Option<Lookout> {
    look_out_by(Store::open().ok()?, own, peer)
}

fn look_out_by(store: Store, own: u32, peer: u32) -> Option<Lookout> {
    let mut lookout = match own {
        DOM0 => Lookout::new(store, format!("/local/domain/{peer}/domid"), Some(RELEASE)),
        _ => Lookout::new(store, liveness::of(peer), None),
    };
    lookout.look().ok().map(|_| lookout)
}

/// Whether a process that opens a channel makes the key of its own VM. It does so whoever the peer is: a client in
/// dom0, too, would take a server's `event-channel`, which is removed soon, for the sign that the VM lives, unless it
/// finds this key. An agent made the key before it listened.
fn announces(own: u32, has_agent: bool) -> bool {
    own != DOM0 && !has_agent
}

/// A descriptor that is ready when `fd` is, or the domain watch: for those who hand the domain watch on later.
pub(super) fn either(fd: impl AsFd, domain_watch: Option<&DomainWatch>) -> Result<Reactor<()>, Error> {
    let fds: Vec<BorrowedFd<'_>> =
        [Some(fd.as_fd()), domain_watch.map(AsFd::as_fd)].into_iter().flatten().collect();
    Reactor::of(&fds).map_err(failed)
}

fn failed(error: Errno) -> Error {
    Error::io("watching over the peer's domain")(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vm_has_its_key_before_its_first_channel() {
        assert!(announces(5, false), "whoever the peer is");
        assert!(!announces(5, true) && !announces(DOM0, false));
    }
}
