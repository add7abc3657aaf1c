//! What this daemon tells `qrexec-top`, and how it knows what services of dom0 move.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use daemon_core::{CallId, Moved};
use engine::meter::{Meter, Meters};
use engine::reactor::Reactor;
use engine::top_socket::TopSocket;
use rustix::fs::Gid;
use wire::names::DomainId;

use super::Driver;
use super::token::Token;

/// Where the daemon of this domain tells it.
fn path(folder: &Path, id: DomainId) -> PathBuf {
    folder.join(format!("{}{id}", wire::top::SOCKETS))
}

/// The meters of services in dom0.
#[derive(Debug, Default)]
pub(super) struct Metered {
    meters: Meters,
    calls: BTreeMap<CallId, Meter>,
}

impl Metered {
    /// For the process that is about to be forked for this call.
    pub(super) fn begin(&mut self, id: CallId) -> Option<Meter> {
        let meter = self.meters.take()?;
        self.calls.insert(id, meter);
        Some(meter)
    }

    /// That process has ended, or there was none; what it moved.
    pub(super) fn end(&mut self, id: CallId) -> Option<Moved> {
        let meter = self.calls.remove(&id)?;
        let moved = meter.read();
        self.meters.give_back(meter);
        moved.map(Moved::from)
    }

    fn so_far(&self, id: CallId) -> Option<Moved> {
        self.calls.get(&id)?.read().map(Moved::from)
    }
}

/// Listens for those who want to know, the group of the folder among them. Without it, calls are as ever.
pub(super) fn listen(reactor: &Reactor<Token>, folder: &Path, id: DomainId) -> Option<TopSocket> {
    let path = path(folder, id);
    let group = std::fs::metadata(folder).ok().map(|folder| Gid::from_raw(folder.gid()));
    let listening = TopSocket::open(&path, group, reactor, Token::Top);
    listening.inspect_err(|error| tracing::warn!("nothing for qrexec-top: {}: {error}", path.display())).ok()
}

impl Driver {
    pub(super) fn tell_top(&mut self) {
        let (core, metered, now) = (&self.core, &self.metered, self.epoch.elapsed());
        if let Some(top) = &mut self.top {
            top.answer(Instant::now(), |_| core.top(now, |id| metered.so_far(id)).encode());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_own_numbers_until_its_end() {
        let mut metered = Metered::default();
        let meter = metered.begin(CallId(1)).unwrap();
        metered.begin(CallId(2)).unwrap().show(7, 8);
        assert_eq!(metered.so_far(CallId(1)), None);
        meter.show(1, 2);
        assert_eq!(metered.so_far(CallId(1)), Some(Moved { bytes_in: 1, bytes_out: 2 }));
        assert_eq!(metered.end(CallId(1)), Some(Moved { bytes_in: 1, bytes_out: 2 }));
        assert_eq!((metered.so_far(CallId(1)), metered.end(CallId(1))), (None, None));
        assert_eq!(metered.end(CallId(2)), Some(Moved { bytes_in: 7, bytes_out: 8 }));
    }
}
