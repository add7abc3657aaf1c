//! Programs that start targets and make disposables, one for each call that needs it.
//!
//! `HELPER start QUBE` or `HELPER disposable TEMPLATE` prints the name under which the target is found as
//! soon as it runs. The second one stays, and removes the disposable when its standard input ends: when the
//! call is over, and also when this daemon dies, however it does.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use daemon_core::{CallId, Preparation};
use engine::process::{Child, Program, own_executable, spawn};
use engine::reactor::{Interest, Reactor};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use wire::names::Target;

use super::Limits;
use super::peers::forget;
use super::token::Token;
use crate::policy_source::environment;

/// The name by which this executable is the helper.
const HELPER: &std::ffi::CStr = c"qrexec-vm-helper";
/// Longest name that a helper may print.
const MAX_NAME: usize = 256;

/// Why a target does not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotUp {
    /// Nothing was said of a program that starts qubes.
    #[error("nothing here starts qubes")]
    NoHelper,
    #[error("{0} qubes are being started already")]
    Starting(usize),
    #[error("{0} disposables are there already")]
    Disposables(usize),
    #[error(transparent)]
    Start(#[from] io::Error),
    /// The program said so, or nothing.
    #[error("the target could not be started")]
    Failed,
}

impl From<Errno> for NotUp {
    fn from(error: Errno) -> Self {
        Self::Start(error.into())
    }
}

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
    /// What it was started for is there, or will never be.
    done: bool,
    /// It keeps a disposable, and ends when that is removed.
    disposable: bool,
}

impl Helpers {
    /// Whether one more may be started.
    ///
    /// Counted are those whose calls are over as well: what one of them makes or has yet to remove is there all the same.
    pub(super) fn room_for(&self, what: &Preparation, limits: &Limits) -> Result<(), NotUp> {
        let starting = self.running.values().filter(|helper| !helper.done).count();
        if starting >= limits.starting {
            return Err(NotUp::Starting(starting));
        }
        let disposables = self.running.values().filter(|helper| helper.disposable).count();
        if matches!(what, Preparation::Disposable(_)) && disposables >= limits.disposables {
            return Err(NotUp::Disposables(disposables));
        }
        Ok(())
    }

    /// Starts a helper.
    pub(super) fn start(
        &mut self,
        reactor: &Reactor<Token>,
        id: CallId,
        what: &Preparation,
    ) -> Result<(), NotUp> {
        let (verb, name) = match what {
            Preparation::Start(qube) => (c"start", qube),
            Preparation::Disposable(template) => (c"disposable", template),
        };
        let file = c_string(own_executable().into_os_string().into_vec())?;
        let args = [HELPER.to_owned(), verb.to_owned(), c_string(name.as_str().into())?];
        let (stdin, lifeline) = pipe_with(PipeFlags::CLOEXEC)?;
        let (output, stdout) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Only our end is non-blocking: the program gets an ordinary pipe.
        rustix::io::ioctl_fionbio(&stdout, false)?;
        let env = environment();
        let streams = [stdin.as_fd(), stdout.as_fd(), rustix::stdio::stderr()];
        let child = spawn(&Program { file: &file, args: &args, env: &env, streams })?;
        let disposable = matches!(what, Preparation::Disposable(_));
        let (lifeline, said) = (Some(lifeline), Vec::new());
        let helper = Helper { child, lifeline, output: None, said, done: false, disposable };
        reactor.add(&helper.child, Token::HelperEnd(id), Interest::Read)?;
        let helper = self.running.entry(id).or_insert(helper);
        reactor.add(&output, Token::HelperOutput(id), Interest::Read)?;
        helper.output = Some(output);
        Ok(())
    }

    /// The helper may end; a disposable is removed with that.
    pub(super) fn release(&mut self, reactor: &Reactor<Token>, id: CallId) {
        let Some(helper) = self.running.get_mut(&id) else { return };
        helper.lifeline = None;
        if let Some(output) = helper.output.take() {
            forget(reactor, &output);
        }
    }

    /// Reads what a helper says. `Some`: that was all, and the target is to be found under this name.
    pub(super) fn read(&mut self, reactor: &Reactor<Token>, id: CallId) -> Option<Result<Target, NotUp>> {
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
        helper.done = true;
        let name = helper.said.strip_suffix(b"\n").and_then(|name| std::str::from_utf8(name).ok());
        let target = name.and_then(|name| Target::new(name).ok()).filter(|name| name.keyword().is_none());
        Some(target.ok_or(NotUp::Failed))
    }

    /// A helper has ended, or seems to have.
    pub(super) fn reap(&mut self, reactor: &Reactor<Token>, id: CallId) {
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

fn c_string(bytes: Vec<u8>) -> io::Result<CString> {
    Ok(CString::new(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_and_what_is_there_is_bounded() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let streams = [null.as_fd(), null.as_fd(), rustix::stdio::stderr()];
        let mut helpers = Helpers::default();
        let add = |helpers: &mut Helpers, id, done, disposable| {
            let args = [c"true".to_owned()];
            let child = spawn(&Program { file: c"/bin/true", args: &args, env: &[], streams }).unwrap();
            let helper = Helper { child, lifeline: None, output: None, said: Vec::new(), done, disposable };
            helpers.running.insert(CallId(id), helper);
        };
        let qube = Target::new("vault").unwrap();
        let [start, make] = [Preparation::Start(qube.clone()), Preparation::Disposable(qube)];
        let limits = Limits { services: 0, starting: 2, disposables: 3, served: 0 };
        let room = |helpers: &Helpers| [&start, &make].map(|what| helpers.room_for(what, &limits).is_ok());
        add(&mut helpers, 1, true, true);
        add(&mut helpers, 2, false, true);
        add(&mut helpers, 3, true, false);
        assert_eq!(room(&helpers), [true, true]);
        add(&mut helpers, 4, true, true);
        assert_eq!(room(&helpers), [true, false]);
        add(&mut helpers, 5, false, false);
        assert_eq!(room(&helpers), [false, false]);
        helpers.running.values_mut().for_each(|helper| drop(helper.child.wait()));
    }
}
