//! Calls to the VM that have a port here: how many each source has of them.

use std::collections::BTreeMap;

use wire::names::{DomainId, Port};
use wire::shares::{Shares, TooManyCalls};

/// As many as there are ports for, if nobody says less.
const MOST: usize = 1 << 16;

/// The calls, by their ports, and whose they are.
#[derive(Debug)]
pub(super) struct Served {
    shares: Shares,
    ports: BTreeMap<Port, DomainId>,
}

impl Default for Served {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Served {
    /// None yet, and so many at most.
    pub(super) fn new(max: usize) -> Self {
        Self { shares: Shares::new(max), ports: BTreeMap::new() }
    }

    /// Reserves a place for a call of `source`, and a port for it with `reserve`.
    pub(super) fn begin<E: From<TooManyCalls>>(
        &mut self,
        source: DomainId,
        reserve: impl FnOnce() -> Result<Port, E>,
    ) -> Result<Port, E> {
        self.shares.take(source)?;
        let port = reserve().inspect_err(|_| self.shares.give_back(source))?;
        self.ports.insert(port, source);
        Ok(port)
    }

    /// The call on this port has ended.
    pub(super) fn end(&mut self, port: Port) {
        if let Some(source) = self.ports.remove(&port) {
            self.shares.give_back(source);
        }
    }

    /// No message will tell when they end, so they are forgotten.
    pub(super) fn forget(&mut self) {
        self.shares.clear();
        self.ports.clear();
    }
}
