//! The end in the VM.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::frame::{put, text};
use super::kept::Kept;
use super::{
    Blob, Breach, Decoder, Handles, MAX_KEPT, MAX_KEPT_BY_ALL, MAX_WAITING, Message, TO_DAEMON_BODY,
    WaitStatus, ty,
};
use crate::small_map::SmallMap;

/// An output stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Error output.
    Stderr,
}

/// A client's name within the agent; unlike its number on the link it is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub u64);

/// What the caller of the agent's end has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentOutput {
    /// Start a command for this client: pass on its output by [`AgentMux::read`], and report when it has ended.
    Start(CallKey, Vec<u8>),
    /// Start a command without streams.
    JustStart(Vec<u8>),
    /// Use these sockets of a caller as this client's streams; `None`: the ident is malformed.
    Connect(CallKey, Option<Handles>),
    /// There are bytes for this client's input, or its end, see [`AgentMux::pending`].
    Input(CallKey),
    /// This client's output may be read again.
    Resumed(CallKey),
    /// This client has ended. Close its streams; these last bytes still go to its input.
    Over(CallKey, Vec<u8>),
    /// More was sent for this client than may be kept. Close its streams.
    Flooded(CallKey),
}

/// One client with streams.
#[derive(Debug)]
struct MuxedClient {
    id: u8,
    input: Kept,
    input_ended: bool,
    /// Its input has no reader any more: bytes for it are dropped.
    deaf: bool,
    /// This side has sent XOFF.
    said_xoff: bool,
    /// The daemon has sent XOFF.
    held: bool,
    ended: [bool; 2],
    status: Option<WaitStatus>,
}

/// The agent's end of the link.
#[derive(Debug, Default)]
pub struct AgentMux {
    decoder: Decoder,
    by_id: SmallMap<u8, CallKey>,
    clients: SmallMap<CallKey, MuxedClient>,
    next_key: u64,
    kept: usize,
    out: Kept,
    outputs: VecDeque<AgentOutput>,
}

impl AgentMux {
    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<AgentOutput> {
        self.outputs.pop_front()
    }

    /// Bytes for the link.
    pub fn outgoing(&self) -> &[u8] {
        self.out.pending()
    }

    /// So many bytes of [`AgentMux::outgoing`] were sent.
    pub fn sent(&mut self, n: usize) {
        self.out.take(n);
    }

    /// Bytes came from the link.
    ///
    /// # Errors
    /// The daemon broke the protocol: the link is to be closed.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), Breach> {
        self.decoder.push(bytes);
        while let Some(message) = self.decoder.next()? {
            self.message(message)?;
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Breach> {
        let Message { ty, client: id, body } = message;
        match ty {
            ty::EXEC => {
                let command = text(ty, &body)?.to_vec();
                let key = self.begin(id, None)?;
                self.outputs.push_back(AgentOutput::Start(key, command));
            }
            ty::JUST_EXEC => self.outputs.push_back(AgentOutput::JustStart(text(ty, &body)?.to_vec())),
            ty::CONNECT_EXISTING => {
                let handles = Handles::parse(text(ty, &body)?);
                // No process was started here, so there is none to wait for.
                let key = self.begin(id, Some(WaitStatus::exited(0)))?;
                self.outputs.push_back(AgentOutput::Connect(key, handles));
            }
            ty::INPUT | ty::CLIENT_END | ty::XOFF | ty::XON => {
                // A client that has just ended gets nothing more.
                if let Some(key) = self.by_id.get(&id).copied() {
                    self.about(key, ty, &body);
                }
            }
            other => return Err(Breach::Type(other)),
        }
        Ok(())
    }

    fn about(&mut self, key: CallKey, ty: u32, body: &[u8]) {
        match ty {
            ty::INPUT => self.input(key, body),
            ty::CLIENT_END => {
                let rest = self.forget(key);
                self.outputs.extend(rest.map(|rest| AgentOutput::Over(key, rest)));
            }
            _ => {
                if let Some(client) = self.clients.get_mut(&key) {
                    client.held = ty == ty::XOFF;
                }
                if ty == ty::XON {
                    self.outputs.push_back(AgentOutput::Resumed(key));
                }
            }
        }
    }

    fn begin(&mut self, id: u8, status: Option<WaitStatus>) -> Result<CallKey, Breach> {
        if self.by_id.contains_key(&id) {
            return Err(Breach::InUse(id));
        }
        let key = CallKey(self.next_key);
        self.next_key = self.next_key.wrapping_add(1);
        let client = MuxedClient {
            id,
            input: Kept::default(),
            input_ended: false,
            deaf: false,
            said_xoff: false,
            held: false,
            ended: [false; 2],
            status,
        };
        self.by_id.insert(id, key);
        self.clients.insert(key, client);
        Ok(key)
    }

    fn input(&mut self, key: CallKey, body: &[u8]) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        // The end may be sent more than once.
        if client.deaf || client.input_ended {
            return;
        }
        client.input_ended = body.is_empty();
        client.input.push(body);
        self.kept = self.kept.saturating_add(body.len());
        if client.input.len() > MAX_KEPT || self.kept > MAX_KEPT_BY_ALL {
            self.outputs.push_back(AgentOutput::Flooded(key));
            self.fail(key, 255);
        } else {
            self.outputs.push_back(AgentOutput::Input(key));
        }
    }

    /// The bytes to be written to this client's input.
    pub fn pending(&self, key: CallKey) -> &[u8] {
        self.clients.get(&key).map(|client| client.input.pending()).unwrap_or_default()
    }

    /// Whether all of its input was written, so that it is to be closed.
    pub fn input_is_over(&self, key: CallKey) -> bool {
        self.clients.get(&key).is_some_and(|client| client.input_ended && client.input.is_empty())
    }

    /// So much of [`AgentMux::pending`] was written.
    pub fn wrote(&mut self, key: CallKey, n: usize) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let n = client.input.take(n);
        self.kept = self.kept.saturating_sub(n);
        if client.input.is_empty() && core::mem::take(&mut client.said_xoff) {
            put(self.out.as_vec(), ty::XON, client.id, &[]);
        }
    }

    /// Its input takes nothing more now.
    pub fn blocked(&mut self, key: CallKey) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        if !client.input.is_empty() && !client.input_ended && !client.said_xoff {
            client.said_xoff = true;
            put(self.out.as_vec(), ty::XOFF, client.id, &[]);
        }
    }

    /// Its input has no reader any more. Its output continues.
    pub fn input_closed(&mut self, key: CallKey) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.deaf = true;
            let all = client.input.len();
            self.wrote(key, all);
        }
    }

    /// Whether output of this client may be read and sent now.
    pub fn may_read(&self, key: CallKey) -> bool {
        self.out.is_empty() && self.clients.get(&key).is_some_and(|client| !client.held)
    }

    /// It has written these bytes; no bytes mean that the stream has ended.
    pub fn read(&mut self, key: CallKey, stream: Stream, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let id = client.id;
        let (ty, ended) = match (stream, &mut client.ended) {
            (Stream::Stdout, [ended, _]) => (ty::STDOUT, ended),
            (Stream::Stderr, [_, ended]) => (ty::STDERR, ended),
        };
        if core::mem::replace(ended, bytes.is_empty()) {
            *ended = true;
            return;
        }
        if bytes.is_empty() {
            put(self.out.as_vec(), ty, id, &[]);
            return self.settle(key);
        }
        for chunk in bytes.chunks(TO_DAEMON_BODY) {
            put(self.out.as_vec(), ty, id, chunk);
        }
    }

    /// Its process has ended.
    pub fn reaped(&mut self, key: CallKey, status: WaitStatus) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.status = client.status.or(Some(status));
            self.settle(key);
        }
    }

    /// It cannot be started: both streams end, and this is its exit code.
    pub fn fail(&mut self, key: CallKey, code: i32) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.status = Some(WaitStatus::exited(code));
            self.read(key, Stream::Stdout, &[]);
            self.read(key, Stream::Stderr, &[]);
        }
    }

    /// Sends the exit code, once both streams have ended.
    fn settle(&mut self, key: CallKey) {
        let Some(MuxedClient { id, ended: [true, true], status: Some(status), .. }) = self.clients.get(&key)
        else {
            return;
        };
        put(self.out.as_vec(), ty::EXIT_CODE, *id, &status.to_bytes());
        let rest = self.forget(key).unwrap_or_default();
        self.outputs.push_back(AgentOutput::Over(key, rest));
    }

    fn forget(&mut self, key: CallKey) -> Option<Vec<u8>> {
        let client = self.clients.remove(&key)?;
        self.by_id.remove(&client.id);
        let rest = client.input.into_rest();
        self.kept = self.kept.saturating_sub(rest.len());
        Some(rest)
    }

    /// Passes a request on. `false`: too many bytes wait for the daemon already.
    pub fn trigger(&mut self, blob: &Blob) -> bool {
        let fits = self.out.len() < MAX_WAITING;
        if fits {
            let out = self.out.as_vec();
            // The length is 0, as old agents send it; the receiver knows how many bytes follow.
            put(out, ty::TRIGGER, 0, &[]);
            out.extend_from_slice(&blob.to_bytes());
        }
        fits
    }

    /// Clients with streams.
    pub fn clients(&self) -> impl Iterator<Item = CallKey> {
        self.clients.keys().copied()
    }

    /// Bytes that are held, for the bounds that tests prove.
    pub fn held(&self) -> usize {
        self.clients.values().map(|client| client.input.len()).sum::<usize>() + self.decoder.held()
    }
}
