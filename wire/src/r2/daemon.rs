//! The end in dom0.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::frame::{put, text};
use super::ids::{Ids, Lease};
use super::kept::Kept;
use super::{
    BLOB_LEN, Blob, Breach, Decoder, MAX_COMMAND, MAX_KEPT, MAX_KEPT_BY_ALL, MAX_WAITING, Message,
    TO_AGENT_BODY, ty,
};
use crate::header::Header as LocalHeader;
use crate::small_map::SmallMap;

/// A local client's name within the daemon; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub u64);

/// Why a client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// All numbers are in use.
    #[error("256 calls at once: there are no more numbers for clients")]
    Ids,
    /// The agent does not read, and too many bytes wait for it.
    #[error("the agent does not read what it is told")]
    Unread,
    /// The command has no NUL at its end, or another one, or is too long.
    #[error("the command is malformed")]
    Malformed,
}

/// What the caller of the daemon's end has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonOutput {
    /// There are bytes for this client, see [`DaemonMux::pending`].
    ToClient(ClientKey),
    /// Input of this client may be read again.
    Resumed(ClientKey),
    /// This client has ended: send it these bytes, then close its connection.
    Over(ClientKey, Vec<u8>),
    /// More came for this client than may be kept: close its connection.
    Flooded(ClientKey),
    /// A program of the VM asks for a service.
    Trigger(Blob),
}

#[derive(Debug)]
struct MuxedClient {
    key: ClientKey,
    lease: Lease,
    kept: Kept,
    said_xoff: bool,
    held: bool,
    input_ended: bool,
}

/// The daemon's end of the link.
#[derive(Debug, Default)]
pub struct DaemonMux {
    decoder: Decoder,
    ids: Ids,
    by_id: SmallMap<u8, MuxedClient>,
    by_key: SmallMap<ClientKey, u8>,
    kept: usize,
    out: Kept,
    outputs: VecDeque<DaemonOutput>,
}

impl DaemonMux {
    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<DaemonOutput> {
        self.outputs.pop_front()
    }

    /// Bytes for the link.
    pub fn outgoing(&self) -> &[u8] {
        self.out.pending()
    }

    /// So many bytes of [`DaemonMux::outgoing`] were sent.
    pub fn sent(&mut self, n: usize) {
        self.out.take(n);
    }

    /// A client's request: [`ty::CLIENT_EXEC`] or [`ty::CLIENT_CONNECT`], with its text and NUL. `DEFAULT` in it
    /// stands for `user`.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn begin(&mut self, key: ClientKey, what: u32, body: &[u8], user: &str) -> Result<(), NoRoom> {
        let (ty, body) = self.request(what, body, user)?;
        let lease = self.ids.take().ok_or(NoRoom::Ids)?;
        put(self.out.as_vec(), ty, lease.id, &body);
        if ty == ty::JUST_EXEC {
            // The agent keeps nothing for such a client, and sends nothing about it.
            put(self.out.as_vec(), ty::CLIENT_END, lease.id, &[]);
            self.ids.give_back(lease);
            self.outputs.push_back(DaemonOutput::Over(key, Vec::new()));
            return Ok(());
        }
        let client = MuxedClient {
            key,
            lease,
            kept: Kept::default(),
            said_xoff: false,
            held: false,
            input_ended: false,
        };
        self.by_key.insert(key, lease.id);
        self.by_id.insert(lease.id, client);
        Ok(())
    }

    fn request(&self, what: u32, body: &[u8], user: &str) -> Result<(u32, Vec<u8>), NoRoom> {
        let ty = match what {
            ty::CLIENT_EXEC => ty::EXEC,
            ty::CLIENT_JUST_EXEC => ty::JUST_EXEC,
            ty::CLIENT_CONNECT => ty::CONNECT_EXISTING,
            _ => return Err(NoRoom::Malformed),
        };
        text(what, body).map_err(|_| NoRoom::Malformed)?;
        let mut command = Vec::new();
        match body.strip_prefix(b"DEFAULT:") {
            Some(rest) if ty != ty::CONNECT_EXISTING => {
                command.extend_from_slice(user.as_bytes());
                command.push(b':');
                command.extend_from_slice(rest);
            }
            _ => command.extend_from_slice(body),
        }
        if command.len() > MAX_COMMAND {
            return Err(NoRoom::Malformed);
        }
        if self.out.len() > MAX_WAITING {
            return Err(NoRoom::Unread);
        }
        Ok((ty, command))
    }

    fn client(&mut self, key: ClientKey) -> Option<&mut MuxedClient> {
        let id = self.by_key.get(&key)?;
        self.by_id.get_mut(id)
    }

    /// Whether input of this client may be read and sent now.
    pub fn may_read(&self, key: ClientKey) -> bool {
        let client = self.by_key.get(&key).and_then(|id| self.by_id.get(id));
        self.out.is_empty() && client.is_some_and(|client| !client.held && !client.input_ended)
    }

    /// The client has written these bytes; no bytes mean the end of its input.
    pub fn read(&mut self, key: ClientKey, bytes: &[u8]) {
        let Some(client) = self.client(key) else { return };
        if client.input_ended {
            return;
        }
        client.input_ended = bytes.is_empty();
        let id = client.lease.id;
        if bytes.is_empty() {
            put(self.out.as_vec(), ty::INPUT, id, &[]);
        }
        for chunk in bytes.chunks(TO_AGENT_BODY) {
            put(self.out.as_vec(), ty::INPUT, id, chunk);
        }
    }

    /// The client is gone.
    pub fn client_gone(&mut self, key: ClientKey) {
        let Some(id) = self.by_key.get(&key).copied() else { return };
        if let Some(client) = self.forget(id) {
            put(self.out.as_vec(), ty::CLIENT_END, id, &[]);
            self.ids.give_up(client.lease);
        }
    }

    /// The bytes to be written to this client.
    pub fn pending(&self, key: ClientKey) -> &[u8] {
        let client = self.by_key.get(&key).and_then(|id| self.by_id.get(id));
        client.map(|client| client.kept.pending()).unwrap_or_default()
    }

    /// So many of them were written.
    pub fn wrote(&mut self, key: ClientKey, n: usize) {
        let Some(client) = self.client(key) else { return };
        let n = client.kept.take(n);
        let resumes = client.kept.is_empty() && core::mem::take(&mut client.said_xoff);
        let id = client.lease.id;
        self.kept = self.kept.saturating_sub(n);
        if resumes {
            put(self.out.as_vec(), ty::XON, id, &[]);
        }
    }

    /// This client takes nothing more now.
    pub fn blocked(&mut self, key: ClientKey) {
        let Some(client) = self.client(key) else { return };
        if !client.kept.is_empty() && !client.said_xoff {
            client.said_xoff = true;
            let id = client.lease.id;
            put(self.out.as_vec(), ty::XOFF, id, &[]);
        }
    }

    /// Bytes came from the link.
    ///
    /// # Errors
    /// The agent broke the protocol: the link is to be closed.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Breach> {
        self.decoder.push(bytes);
        while let Some(message) = self.decoder.next()? {
            self.message(message)?;
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Breach> {
        let Message { ty, client: id, body } = message;
        if ty == ty::TRIGGER {
            if let Ok(blob) = <[u8; BLOB_LEN]>::try_from(body.as_slice()) {
                self.outputs.push_back(DaemonOutput::Trigger(Blob::from_bytes(blob)));
            }
            return Ok(());
        }
        if !matches!(ty, ty::STDOUT | ty::STDERR | ty::EXIT_CODE | ty::XOFF | ty::XON) {
            return Err(Breach::Type(ty));
        }
        let Some(client) = self.by_id.get_mut(&id) else {
            // The agent sent this before it received CLIENT_END.
            if ty == ty::EXIT_CODE {
                self.ids.ended(id);
            }
            return Ok(());
        };
        let (lease, key) = (client.lease, client.key);
        self.ids.heard(lease);
        match ty {
            ty::XOFF => client.held = true,
            ty::XON => {
                client.held = false;
                self.outputs.push_back(DaemonOutput::Resumed(key));
            }
            ty::STDOUT => self.keep_for_client(id, ty::TO_CLIENT_STDOUT, &body),
            ty::STDERR => self.keep_for_client(id, ty::TO_CLIENT_STDERR, &body),
            _ => {
                self.keep_for_client(id, ty::TO_CLIENT_EXIT_CODE, &body);
                if let Some(client) = self.forget(id) {
                    put(self.out.as_vec(), ty::CLIENT_END, id, &[]);
                    self.ids.give_back(client.lease);
                    self.outputs.push_back(DaemonOutput::Over(key, client.kept.into_rest()));
                }
            }
        }
        Ok(())
    }

    fn keep_for_client(&mut self, id: u8, ty: u32, body: &[u8]) {
        let Some(client) = self.by_id.get_mut(&id) else { return };
        let key = client.key;
        let before = client.kept.len();
        let header = LocalHeader::new(ty, u32::try_from(body.len()).unwrap_or(u32::MAX));
        client.kept.push(&header.to_bytes());
        client.kept.push(body);
        let kept = client.kept.len();
        self.kept = self.kept.saturating_add(kept.saturating_sub(before));
        if kept <= MAX_KEPT && self.kept <= MAX_KEPT_BY_ALL {
            self.outputs.push_back(DaemonOutput::ToClient(key));
            return;
        }
        if let Some(client) = self.forget(id) {
            put(self.out.as_vec(), ty::CLIENT_END, id, &[]);
            self.ids.give_up(client.lease);
            self.outputs.push_back(DaemonOutput::Flooded(key));
        }
    }

    fn forget(&mut self, id: u8) -> Option<MuxedClient> {
        let client = self.by_id.remove(&id)?;
        self.by_key.remove(&client.key);
        self.kept = self.kept.saturating_sub(client.kept.len());
        Some(client)
    }

    /// Clients that are served.
    pub fn clients(&self) -> impl Iterator<Item = ClientKey> {
        self.by_key.keys().copied()
    }

    /// Bytes that are held, for the bounds that tests prove.
    pub fn held(&self) -> usize {
        self.by_id.values().map(|client| client.kept.len()).sum::<usize>() + self.decoder.held()
    }
}
