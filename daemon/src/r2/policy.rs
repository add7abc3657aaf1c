//! The policy program: it decides about one request of the VM and makes the connection, by clients of this daemon.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use engine::process::{Child, Program, own_executable, spawn};
use engine::reactor::{Interest, Reactor};
use rustix::fs::{Mode, OFlags};

use crate::policy_source::environment;

use super::token::Token;

/// Programs that decide at once. Those that have made their connection do not count.
const MOST_DECIDING: usize = 10;
/// Requests that wait for their turn.
const MOST_WAITING: usize = 1024;

/// A request of the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) target: String,
    pub(super) service: String,
    pub(super) ident: String,
}

struct Running {
    child: Child,
    /// `None` once a client has taken the request over.
    ident: Option<String>,
}

/// The requests that are being decided about.
pub(super) struct Policy {
    /// The program, or ours.
    program: Option<PathBuf>,
    source: String,
    waiting: VecDeque<Request>,
    running: BTreeMap<u64, Running>,
    last: u64,
}

impl Policy {
    /// Programs for requests of `source`.
    pub(super) fn new(program: Option<PathBuf>, source: &str) -> Self {
        let (waiting, running) = (VecDeque::new(), BTreeMap::new());
        Self { program, source: source.to_owned(), waiting, running, last: 0 }
    }

    /// Decides about a request some time. `Err`: there are too many, it is to be refused.
    pub(super) fn ask(&mut self, request: Request) -> Result<(), Request> {
        if self.waiting.len() >= MOST_WAITING {
            return Err(request);
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Starts programs for those whose turn it is. Gives requests that have to be refused, since there is none.
    pub(super) fn start(&mut self, reactor: &Reactor<Token>) -> Vec<String> {
        let mut refused = Vec::new();
        while self.running.values().filter(|running| running.ident.is_some()).count() < MOST_DECIDING {
            let Some(request) = self.waiting.pop_front() else { break };
            let ident = request.ident.clone();
            if let Err(error) = self.begin(reactor, request) {
                tracing::error!("the policy program does not start: {error}");
                refused.push(ident);
            }
        }
        refused
    }

    fn begin(&mut self, reactor: &Reactor<Token>, request: Request) -> io::Result<()> {
        let (file, mut args) = match &self.program {
            Some(path) => (path.clone(), vec![path.as_os_str().as_encoded_bytes().to_vec()]),
            None => (own_executable(), vec![b"qrexec-policy".to_vec(), b"--".to_vec()]),
        };
        let words = [self.source.clone(), request.target, request.service, request.ident.clone()];
        args.extend(words.map(String::into_bytes));
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
        let args: Vec<CString> = args.into_iter().map(text).collect::<io::Result<_>>()?;
        let file = text(file.as_os_str().as_encoded_bytes().to_vec())?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let streams = [null.as_fd(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let child = spawn(&Program { file: &file, args: &args, env: &environment(), streams })?;
        self.last = self.last.wrapping_add(1);
        reactor.add(&child, Token::Policy(self.last), Interest::Read)?;
        self.running.insert(self.last, Running { child, ident: Some(request.ident) });
        Ok(())
    }

    /// A client has taken this request over.
    pub(super) fn connected(&mut self, ident: &str) {
        for running in self.running.values_mut() {
            if running.ident.as_deref() == Some(ident) {
                running.ident = None;
            }
        }
    }

    /// A program may have ended. Gives the request that it has left without an answer.
    pub(super) fn reap(&mut self, reactor: &Reactor<Token>, number: u64) -> Option<String> {
        let running = self.running.get_mut(&number)?;
        if matches!(running.child.try_wait(), Ok(None)) {
            return None;
        }
        let running = self.running.remove(&number)?;
        let _ = reactor.remove(&running.child);
        running.ident
    }

    /// The link is gone: nobody waits for an answer.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.running.values_mut().for_each(|running| running.ident = None);
    }
}
