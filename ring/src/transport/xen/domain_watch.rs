#![forbid(unsafe_code)]
//! Whether the domain at the other end of one channel is still there.
//!
//! A process that ends tells its peer, however it ends: the kernel clears its live byte and sends an event when its
//! pages are unmapped. A domain that is destroyed tells nobody, and the hypervisor goes on knowing it for as long as we
//! map a page of it. What tells is a key of its own that is not to be read any more (see [`super::liveness`]). In a VM the
//! agent watches for all calls together and tells those concerned (see [`super::domain_monitor`]); in dom0, and where no agent of
//! ours runs or none runs just now, each channel does it for itself. Nothing of this is on the way of the data, and no
//! answer is ever waited for: xenstore may be slow, and a daemon serves others meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use sys::reactor::Reactor;
use sys::timer::Timer;

use super::liveness::{self, Lookout, Sight};
use super::store::Store;
use super::{DOM0, PERIOD, domain_monitor, watch};
use crate::error::Error;
use crate::xendev::{self, Asker};

/// What xenstore lets dom0, and nobody else, watch for the end of any domain.
const RELEASE: &str = "@releaseDomain";

pub(super) struct DomainWatch {
    own: u32,
    peer: u32,
    /// Pages of the peer's that are mapped here, once there are some: the agent counts them.
    pages: Option<u32>,
    source: Source,
    /// The key that led us to the server: of use if its domain has no better one.
    server: Option<Lookout>,
    /// Ready when any of these is, or anything that was added.
    either: Reactor,
    /// What was opened while this process could still open something; from then on there is nothing else.
    reserve: Option<Reserve>,
}

/// What is needed to look for oneself.
struct Reserve {
    /// Asks the hypervisor.
    asker: Option<Asker>,
    /// For when the agent is gone.
    store: Option<Store>,
    timer: Option<Timer>,
}

/// Who would know.
enum Source {
    /// The agent says so.
    Agent(OwnedFd),
    /// Nobody does any more, and nobody needs to.
    Nobody,
    /// We look at the peer's key, and a timer says when to ask the hypervisor too.
    Own { timer: Timer, lookout: Option<Lookout> },
}

impl DomainWatch {
    /// `None`: the peer is dom0, whose end is the machine's, and no agent tells whether this VM was restored.
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

    /// Opens what will be needed once this process can open nothing any more. Xenstore hears nothing of it.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let (mut store, mut spare) = (None, None);
        if matches!(self.source, Source::Agent(_)) && self.peer != DOM0 {
            store = Store::open().ok();
            spare = Some(Timer::every(PERIOD).map_err(failed)?);
        }
        self.reserve = Some(Reserve { asker: Asker::new().ok(), store, timer: spare });
        Ok(())
    }

    /// Looks for itself from now on, with what there is in reserve if nothing can be opened.
    fn alone(&mut self) -> Result<Source, Error> {
        let Some(Reserve { store, timer, .. }) = &mut self.reserve else { return alone(self.own, self.peer) };
        let timer = timer.take().ok_or(Errno::MFILE).map_err(failed)?;
        let lookout = store.take().and_then(|store| look_out_by(store, self.own, self.peer));
        Ok(Source::Own { timer, lookout })
    }

    /// Makes the descriptor ready when `fd` is, too, for as long as that is open.
    pub(super) fn watch_too(&self, fd: impl AsFd) -> Result<(), Error> {
        watch(&self.either, fd, 0).map_err(failed)
    }

    /// Goes on with the watch by which the server was found. A server of upstream's tells of its domain's end by no
    /// other key; one of ours takes this one back when it has its client, and its domain has another.
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

    /// So many pages of the peer's are mapped from now on.
    pub(super) fn maps(&mut self, pages: usize) {
        self.pages = u32::try_from(pages).ok();
        self.count();
    }

    fn count(&self) {
        if let (Source::Agent(agent), Some(pages)) = (&self.source, self.pages) {
            domain_monitor::count(agent, pages);
        }
    }

    /// To be asked when the descriptor is ready and nothing that was added is.
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
                // The agent is gone; the call goes on without it.
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
                    // Xenstore is looked for again at the next tick.
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

    /// Turns to the agent, if there is one again; else asks the hypervisor, and looks after xenstore.
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
            watch(&self.either, &again, 0).map_err(failed)?;
            *lookout = Some(again);
        }
        Ok(false)
    }

    /// An agent that has come back, for who can still connect to it.
    fn ask_agent(&self) -> Option<OwnedFd> {
        self.reserve.is_none().then(|| domain_monitor::ask(self.peer).ok())?
    }

    /// The old source leaves the epoll instance with its last descriptor.
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

/// Dom0 may read every key, so the domain's own number serves, which nobody but the toolstack removes; and it may hear
/// of the end of any domain, should the keys stay. `None`: xenstore is not to be had now.
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

/// Whether whoever opens a channel makes its VM's key itself, whoever its peer is: a client in dom0, too, takes a server's
/// `event-channel`, which goes soon, for that VM's life unless there is this key. An agent made it before it listened.
fn announces(own: u32, has_agent: bool) -> bool {
    own != DOM0 && !has_agent
}

/// A descriptor that is ready when `fd` is, or the domain watch: for whoever has the domain watch only for a while.
pub(super) fn either(fd: impl AsFd, domain_watch: Option<&DomainWatch>) -> Result<Reactor, Error> {
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
