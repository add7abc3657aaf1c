//! Decisions from a program: `PROGRAM -- SOURCE TARGET SERVICE`, whose output is the answer.
//!
//! The programs run beside the daemon's loop, which they never hold up, and are killed when their
//! question is of no interest any more. The form of the command line is that of R4.1 and later.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use engine::process::{Child, Program, spawn};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use wire::escape::Escaped;

use crate::answer::{self, MAX_ANSWER};
use crate::core::CallId;
use crate::question::{Question, Verdict};

/// Programs that run at once. A question to the user may take long; further ones wait their turn, and
/// only calls of the same VM do.
const MAX_RUNNING: usize = 64;

/// What a program's process is waited for with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its output.
    Output,
    /// Its end.
    End,
}

/// The questions that are with a program, and those that wait for one.
#[derive(Debug)]
pub struct Programs {
    file: CString,
    running: BTreeMap<CallId, Running>,
    waiting: VecDeque<(CallId, Question)>,
}

/// One process.
#[derive(Debug)]
struct Running {
    child: Child,
    output: Option<OwnedFd>,
    said: Vec<u8>,
    status: Option<i32>,
    /// Nobody waits for the answer any more; only the process has still to be reaped.
    cancelled: bool,
}

impl Programs {
    /// Asks the program at `path`.
    ///
    /// # Errors
    /// A path with a NUL in it.
    pub fn new(path: &Path) -> io::Result<Self> {
        let file = CString::new(path.as_os_str().as_bytes())?;
        Ok(Self { file, running: BTreeMap::new(), waiting: VecDeque::new() })
    }

    /// Takes a question; [`Programs::start_next`] then starts programs for as many as may run.
    pub fn ask(&mut self, id: CallId, question: Question) {
        self.waiting.push_back((id, question));
    }

    /// Starts a program for a question that waits, if one may be started. An error is the verdict.
    pub fn start_next(&mut self) -> Option<(CallId, Result<(), Verdict>)> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        let (id, question) = self.waiting.pop_front()?;
        let started = self.start(&question).map(|running| {
            self.running.insert(id, running);
        });
        Some((id, started.map_err(|error| Verdict::deny(format!("the policy program: {error}")))))
    }

    /// The descriptors of a program that was started: its output and its end.
    #[must_use]
    pub fn descriptors(&self, id: CallId) -> Option<[(Readiness, BorrowedFd<'_>); 2]> {
        let running = self.running.get(&id)?;
        let output = running.output.as_ref()?;
        Some([(Readiness::Output, output.as_fd()), (Readiness::End, running.child.as_fd())])
    }

    /// The descriptor of one kind, as long as it is open.
    #[must_use]
    pub fn descriptor(&self, id: CallId, readiness: Readiness) -> Option<BorrowedFd<'_>> {
        let running = self.running.get(&id)?;
        match readiness {
            Readiness::Output => running.output.as_ref().map(AsFd::as_fd),
            Readiness::End => Some(running.child.as_fd()),
        }
    }

    /// Nobody wants to know any more: the question is dropped, or its program killed.
    pub fn cancel(&mut self, id: CallId) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        if let Some(running) = self.running.get_mut(&id) {
            running.cancelled = true;
            running.kill();
        }
    }

    /// Kills a program that cannot be watched, and sees its end.
    pub fn abandon(&mut self, id: CallId) {
        if let Some(mut running) = self.running.remove(&id) {
            running.kill();
            if let Err(error) = running.child.wait() {
                tracing::warn!("waiting for the policy program: {error}");
            }
        }
    }

    /// Reads what a program says. `true`: it has said all, the descriptor is to be closed with
    /// [`Programs::close_output`].
    pub fn read(&mut self, id: CallId) -> bool {
        self.running.get_mut(&id).is_none_or(Running::read)
    }

    /// Closes a program's output.
    pub fn close_output(&mut self, id: CallId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.output = None;
        }
    }

    /// Looks whether a program has ended. `true`: its descriptor need not be watched any more.
    pub fn reap(&mut self, id: CallId) -> bool {
        let Some(running) = self.running.get_mut(&id) else { return true };
        if running.status.is_none() {
            running.status = running.child.try_wait().unwrap_or(Some(-1));
        }
        running.status.is_some()
    }

    /// The verdict of a program that has said all and has ended. `None` while it has not; a verdict
    /// of `None` inside if nobody waits for it.
    pub fn finished(&mut self, id: CallId) -> Option<Option<Verdict>> {
        let running = self.running.get(&id)?;
        let status = running.status.filter(|_| running.output.is_none())?;
        let running = self.running.remove(&id)?;
        Some((!running.cancelled).then(|| running.verdict(status)))
    }

    fn start(&self, question: &Question) -> io::Result<Running> {
        if let Some(source) = &question.requested_source {
            // The program's command line has no place for it; it decides about the real source.
            tracing::debug!("the policy program is not told of the requested source {source}");
        }
        let words = ["--", question.source.as_str(), question.target.as_str(), question.service.as_str()];
        let mut args = vec![self.file.clone()];
        for word in words {
            args.push(CString::new(word)?);
        }
        let null = std::fs::File::open("/dev/null")?;
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Only our end is non-blocking: the program gets an ordinary pipe.
        rustix::io::ioctl_fionbio(&input, false)?;
        let env = environment();
        let child = spawn(&Program {
            file: &self.file,
            args: &args,
            env: &env,
            streams: [null.as_fd(), input.as_fd(), rustix::stdio::stderr()],
        })?;
        Ok(Running { child, output: Some(output), said: Vec::new(), status: None, cancelled: false })
    }
}

impl Running {
    fn read(&mut self) -> bool {
        let Some(output) = &self.output else { return true };
        let mut buffer = [0_u8; MAX_ANSWER];
        loop {
            match rustix::io::read(output, &mut buffer) {
                Ok(0) => return true,
                Ok(count) => self.said.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
            if self.said.len() >= MAX_ANSWER {
                self.kill();
                return true;
            }
        }
    }

    fn kill(&self) {
        if let Err(error) = self.child.signal(Signal::KILL) {
            tracing::warn!("killing the policy program: {error}");
        }
    }

    fn verdict(self, status: i32) -> Verdict {
        if status != 0 && self.said.len() < MAX_ANSWER {
            return Verdict::deny(format!("the policy program ended with {status}"));
        }
        match answer::parse(&self.said) {
            Ok(answer) => {
                for key in answer.unknown {
                    tracing::warn!("the policy program's answer has an unknown key {}", Escaped::new(&key));
                }
                answer.verdict
            }
            Err(error) => Verdict::deny(format!("the policy program: {error}")),
        }
    }
}

/// This process's environment in the form that a new process gets it.
fn environment() -> Vec<CString> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let mut entry: OsString = name;
            entry.push("=");
            entry.push(value);
            CString::new(entry.into_vec()).ok()
        })
        .collect()
}
