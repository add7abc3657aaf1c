//! Programs of dom0: letting them in, moving their bytes, ending them.

use std::os::fd::AsFd;
use std::time::Instant;

use engine::r2::Over;
use engine::reactor::Event;
use wire::r2::{ClientKey, TO_AGENT_BODY, TO_AGENT_RING, ty};

use super::{BATCH, Daemon, Link, MOST_RESTS, REQUEST_LIMIT};
use crate::r2::client::{Moved, MuxedClient, Request, Stage};
use crate::r2::token::Token;

impl Daemon {
    pub(super) fn new_key(&mut self) -> ClientKey {
        let key = ClientKey(self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        key
    }

    pub(super) fn accept(&mut self, now: Instant) {
        for _ in 0..BATCH {
            let socket = match self.front.as_ref().map(|front| front.socket.accept()) {
                Some(Ok(Some(socket))) => socket,
                Some(Err(error)) => return tracing::error!("cannot take a client: {error}"),
                Some(Ok(None)) | None => return,
            };
            let key = self.new_key();
            let client = MuxedClient::new(socket, now + REQUEST_LIMIT);
            if self.reactor.add(&client, Token::Client(key), client.interest()).is_ok() {
                self.clients.insert(key, client);
            }
        }
    }

    pub(super) fn on_client(&mut self, key: ClientKey, event: &Event<Token>) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        match &client.stage {
            Stage::Asking(_) => self.hear_request(key),
            Stage::Ending { .. } => {
                if event.hangup || client.write_rest() {
                    self.close(key);
                }
            }
            Stage::Served => {
                if event.hangup {
                    // Gone, not only at the end of its input.
                    return self.close(key);
                }
                if event.writable && client.writes {
                    self.write(key);
                }
                let Some(client) = self.clients.get_mut(&key) else { return };
                if event.readable && client.reads {
                    self.ready.push_back(key);
                    self.watch(key, |client| client.reads = false);
                }
            }
        }
    }

    pub(super) fn hear_request(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let mut buffer = [0_u8; 4096];
        let bytes = match client.read(&mut buffer) {
            Moved::Bytes(n @ 1..) => buffer.get(..n).unwrap_or_default(),
            Moved::Later => return,
            Moved::Bytes(_) | Moved::Gone => return self.close(key),
        };
        match client.hear(bytes) {
            Ok(None) => {}
            Ok(Some(request)) => self.begin(key, &request),
            Err(len) => {
                tracing::warn!("a client asks with {len} bytes");
                self.close(key);
            }
        }
    }

    pub(super) fn begin(&mut self, key: ClientKey, request: &Request) {
        let Link::Up { muxed, .. } = &mut self.link else {
            tracing::warn!("a client is refused: there is no agent");
            return self.close(key);
        };
        if let Err(why) = muxed.end.begin(key, request.ty, &request.body, &self.setup.default_user) {
            tracing::warn!("a client is refused: {why}");
            return self.close(key);
        }
        if !request.input.is_empty() {
            muxed.end.read(key, &request.input);
        }
        if let (ty::CLIENT_CONNECT, Some((0, ident))) = (request.ty, request.body.split_last()) {
            self.policy.connected(&String::from_utf8_lossy(ident));
        }
        self.act();
    }

    /// Reads clients in turn, as long as there is room for what they say.
    pub(super) fn read_clients(&mut self) -> Result<(), Over> {
        for _ in 0..BATCH {
            let Link::Up { muxed, .. } = &mut self.link else { return Ok(()) };
            muxed.flush()?;
            let room = muxed.room(TO_AGENT_BODY)?;
            if room == 0 {
                return Ok(());
            }
            let Some(key) = self.ready.pop_front() else { return Ok(()) };
            let Some(client) = self.clients.get(&key) else { continue };
            if !muxed.end.may_read(key) {
                self.held.push(key);
                continue;
            }
            let mut buffer = [0_u8; TO_AGENT_RING];
            let buffer = buffer.get_mut(..room).unwrap_or_default();
            match client.read(buffer) {
                Moved::Bytes(0) => {
                    // Watched on: its hang-up is told then.
                    muxed.end.read(key, &[]);
                }
                Moved::Bytes(n) => {
                    muxed.end.read(key, buffer.get(..n).unwrap_or_default());
                    self.ready.push_back(key);
                }
                Moved::Later => self.watch(key, |client| client.reads = true),
                Moved::Gone => self.close(key),
            }
        }
        Ok(())
    }

    /// Writes to a client what there is for it.
    pub(super) fn write(&mut self, key: ClientKey) {
        let (Link::Up { muxed, .. }, Some(client)) = (&mut self.link, self.clients.get(&key)) else { return };
        loop {
            let bytes = muxed.end.pending(key);
            if bytes.is_empty() {
                return self.watch(key, |client| client.writes = false);
            }
            match client.write(bytes) {
                Moved::Bytes(n) => muxed.end.wrote(key, n),
                Moved::Later => {
                    muxed.end.blocked(key);
                    return self.watch(key, |client| client.writes = true);
                }
                Moved::Gone => return self.close(key),
            }
        }
    }

    pub(super) fn watch(&mut self, key: ClientKey, change: impl FnOnce(&mut MuxedClient)) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let before = client.interest();
        change(client);
        if client.interest() != before
            && self.reactor.modify(&*client, Token::Client(key), client.interest()).is_err()
        {
            self.close(key);
        }
    }

    /// The call is over: the client gets the rest and is closed.
    pub(super) fn finish(&mut self, key: ClientKey, rest: Vec<u8>) {
        let kept: usize = self.clients.values().map(MuxedClient::rest).sum();
        let Some(client) = self.clients.get_mut(&key) else { return };
        if kept.saturating_add(rest.len()) > MOST_RESTS {
            tracing::warn!("a client does not read its answer: it is closed");
            return self.close(key);
        }
        client.stage = Stage::Ending { rest, written: 0 };
        if client.write_rest() {
            return self.close(key);
        }
        self.watch(key, |client| (client.reads, client.writes) = (false, true));
    }

    pub(super) fn close(&mut self, key: ClientKey) {
        if let Some(client) = self.clients.remove(&key) {
            let _ = self.reactor.remove(client.as_fd());
        }
        if let Link::Up { muxed, .. } = &mut self.link {
            muxed.end.client_gone(key);
        }
    }
}
