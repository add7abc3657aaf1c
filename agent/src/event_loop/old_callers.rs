//! Programs that ask as in R1 and R2, while the link to dom0 has a current protocol.

use std::time::Instant;

use agent_core::ClientId;
use engine::reactor::Interest;
use wire::control::Endpoint;

use super::token::{FIRST_KEY, Token};
use super::{Agent, Error, Watched};
use crate::r2::caller::{self, Errors};
use crate::r2::entrance::{Caller, Entrance};

/// Most requests that wait for dom0, together with the calls made from them.
const MOST: usize = 1024;

/// A program that has asked.
pub(super) struct OldCaller {
    caller: Caller,
    label: String,
}

impl Agent {
    /// Accepts programs of R1 and R2, if they may ask.
    pub(super) fn open_entrance(&mut self) -> Result<(), Error> {
        let Some(folder) = self.r2_folder.clone() else { return Ok(()) };
        let entrance =
            Entrance::open(&folder).map_err(|source| Error::Listener { path: folder.clone(), source })?;
        self.reactor.add(entrance.fifo(), Token::Fifo, Interest::Read)?;
        self.reactor.add(entrance.socket(), Token::PassedDescriptors, Interest::Read)?;
        self.entrance = Some(entrance);
        Ok(())
    }

    /// Drops connections that were not used for a request, and accepts others while there is room.
    pub(super) fn tend_entrance(&mut self, now: Instant) {
        if let Some(entrance) = &mut self.entrance {
            entrance.on_time(now);
            entrance.adjust(&self.reactor, Token::PassedDescriptors, now);
        }
    }

    /// Passes their requests on, each as a current request with a number of its own.
    pub(super) fn hear_old_callers(&mut self) {
        let requests = self.entrance.as_mut().map(Entrance::requests).unwrap_or_default();
        for asked in requests {
            let label = asked.blob.shown();
            if self.old_callers.len() >= MOST {
                tracing::warn!("{label}: refused: too many requests wait");
                continue;
            }
            let key = self.next_key;
            self.next_key = self.next_key.wrapping_add(1).max(FIRST_KEY);
            self.old_callers.insert(key, OldCaller { caller: asked.caller, label });
            let request = caller::trigger(&asked.blob);
            self.core.handle_request(ClientId(key), request, self.control.is_busy());
            self.act();
        }
    }

    /// Its request is allowed: a process moves its bytes.
    pub(super) fn serve_old_caller(&mut self, key: u64, endpoint: Endpoint) {
        let Some(OldCaller { caller, label }) = self.old_callers.remove(&key) else { return };
        let (streams, errors) = Errors::of(caller);
        let ground = (self.confinement, self.files);
        let child = caller::start(&self.transport, &streams, endpoint, &label, ground);
        let watched = child.and_then(|child| Ok(self.watch(Watched::Old(key, child))?));
        // If it cannot be watched, its error output is closed, which the program notices when it writes.
        let _ = self.watch(Watched::Errors(errors));
        if let Err(error) = watched {
            tracing::error!("{label}: {error}");
            self.core.handle_client_gone(ClientId(key));
        }
    }
}
