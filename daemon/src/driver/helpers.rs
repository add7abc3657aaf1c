//! Programs that start targets and make disposables, one for each call that needs it.
//!
//! `HELPER start QUBE` or `HELPER disposable TEMPLATE` prints the name under which the target is found as
//! soon as it runs. The second one stays, and removes the disposable when its standard input ends: when the
//! call is over, and also when this daemon dies, however it does.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use engine::process::{Child, Program, spawn};
use engine::reactor::{Interest, Reactor};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use wire::names::Target;

use super::peers::forget;
use super::token::Token;
use crate::core::{CallId, Preparation};
use crate::policy_source::environment;

/// The name by which this executable is the helper.
const HELPER: &std::ffi::CStr = c"qrexec-vm-helper";
/// Longest name that a helper may print.
const MAX_NAME: usize = 256;

/// The helpers that run.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    running: BTreeMap<CallId, Helper>,
}

#[derive(Debug)]
struct Helper {
    child: Child,
    /// Its standard input; `None` once it is released.
    lifeline: Option<OwnedFd>,
    /// `None` once it has said what it has to say.
    output: Option<OwnedFd>,
    said: Vec<u8>,
}

impl Helpers {
    /// Starts a helper.
    pub(super) fn start(&mut self, reactor: &Reactor, id: CallId, what: &Preparation) -> io::Result<()> {
        let (verb, name) = match what {
            Preparation::Start(qube) => (c"start", qube),
            Preparation::Disposable(template) => (c"disposable", template),
        };
        let file = CString::new(std::env::current_exe()?.as_os_str().as_bytes())?;
        let args = [HELPER.to_owned(), verb.to_owned(), CString::new(name.as_str())?];
        let (stdin, lifeline) = pipe_with(PipeFlags::CLOEXEC)?;
        let (output, stdout) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Only our end is non-blocking: the program gets an ordinary pipe.
        rustix::io::ioctl_fionbio(&stdout, false)?;
        let env = environment();
        let streams = [stdin.as_fd(), stdout.as_fd(), rustix::stdio::stderr()];
        let child = spawn(&Program { file: &file, args: &args, env: &env, streams })?;
        let helper = Helper { child, lifeline: Some(lifeline), output: None, said: Vec::new() };
        reactor.add(&helper.child, Token::HelperEnd(id).encode(), Interest::Read)?;
        let helper = self.running.entry(id).or_insert(helper);
        reactor.add(&output, Token::HelperOutput(id).encode(), Interest::Read)?;
        helper.output = Some(output);
        Ok(())
    }

    /// The helper may end; a disposable is removed with that.
    pub(super) fn release(&mut self, reactor: &Reactor, id: CallId) {
        let Some(helper) = self.running.get_mut(&id) else { return };
        helper.lifeline = None;
        if let Some(output) = helper.output.take() {
            forget(reactor, &output);
        }
    }

    /// Reads what a helper says. `Some`: that was all, and the target is to be found under this name.
    pub(super) fn read(&mut self, reactor: &Reactor, id: CallId) -> Option<Result<Target, String>> {
        let helper = self.running.get_mut(&id)?;
        let output = helper.output.as_ref()?;
        let mut buffer = [0_u8; MAX_NAME];
        let ended = match rustix::io::read(output, &mut buffer) {
            Ok(count) => {
                helper.said.extend_from_slice(buffer.get(..count).unwrap_or_default());
                count == 0
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        };
        if !ended && !helper.said.contains(&b'\n') && helper.said.len() <= MAX_NAME {
            return None;
        }
        if let Some(output) = helper.output.take() {
            forget(reactor, &output);
        }
        let name = helper.said.strip_suffix(b"\n").and_then(|name| std::str::from_utf8(name).ok());
        let target = name.and_then(|name| Target::new(name).ok()).filter(|name| name.keyword().is_none());
        Some(target.ok_or_else(|| "the target could not be started".to_owned()))
    }

    /// A helper has ended, or seems to have.
    pub(super) fn reap(&mut self, reactor: &Reactor, id: CallId) {
        let Some(helper) = self.running.get_mut(&id) else { return };
        match helper.child.try_wait() {
            Ok(None) => return,
            Ok(Some(0)) => {}
            Ok(Some(status)) => tracing::warn!("the program that starts targets ended with {status}"),
            Err(error) => tracing::warn!("waiting for the program that starts targets: {error}"),
        }
        forget(reactor, &helper.child);
        if helper.output.is_none() {
            self.running.remove(&id);
        } else {
            // Its last words have still to be read.
            helper.lifeline = None;
        }
    }
}
