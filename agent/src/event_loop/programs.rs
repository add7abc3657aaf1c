//! Programs of this VM that ask for services.

use std::time::Instant;

use agent_core::ClientId;
use engine::step;

use super::{ACCEPT_BATCH, Agent, Watched};
use crate::client::{ClientConnection, Heard};

impl Agent {
    pub(super) fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = &self.listener else { return };
            let Some(socket) = self.accept_pause.accept(listener, now) else { return };
            // The system always gives an answer; if it ever failed, the program would count as an unknown user's.
            let user = engine::unix::peer_uid(&socket).unwrap_or(u32::MAX);
            if self.client_slots.are_free(user) {
                self.admit(ClientConnection::new(socket, user, now));
            }
        }
    }

    fn admit(&mut self, client: ClientConnection) {
        match self.watch(Watched::Client(client)) {
            // Its request has usually arrived already.
            Ok(key) => self.on_watched(key),
            Err(error) => tracing::error!("cannot watch a client: {error}"),
        }
    }

    pub(super) fn on_client(&mut self, key: u64) {
        let Some(Watched::Client(client)) = self.watched.get_mut(&key) else { return };
        match client.hear() {
            Heard::Nothing => return,
            Heard::Request(request) => {
                step::reached("request");
                let user = client.user();
                request.iter().for_each(|request| self.board.asks(key, user, request));
                self.core.handle_request(ClientId(key), request, self.control.is_busy());
            }
            Heard::Gone => self.client_gone(key),
            Heard::Wrong(why) => {
                tracing::warn!("a client broke the rules: {why}");
                self.client_gone(key);
            }
        }
        self.act();
    }

    pub(super) fn client_gone(&mut self, key: u64) {
        let last = match self.forget(key) {
            Some(Watched::Client(client)) => client.last_word(),
            _ => None,
        };
        self.board.gone(key, last);
        self.core.handle_client_gone(ClientId(key));
    }
}
