//! Decisions from somebody else: the policy daemon on its socket, or a program,
//! `PROGRAM -- SOURCE TARGET SERVICE`, whose output is the answer.
//!
//! Both work beside this daemon's loop, which they never hold up. A program is killed, and a
//! connection closed, when the question is of no interest any more.
//!
//! Older ones are asked in their own form ([`super::request_form`]), and make the call themselves.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use daemon_core::CallId;
use daemon_core::question::{Question, Verdict};
use engine::process::{Child, Program, spawn};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use wire::escape::Escaped;
use wire::names::DomainId;

use super::request_form::{Form, Owner, USAGE, Undecided, Way};
use crate::answer::{self, MAX_ANSWER};

/// Programs that run at once. A question to the user may take long; further ones wait their turn, and
/// only calls of the same VM do.
const MAX_RUNNING: usize = 64;

/// Older programs that run on, because they carry the call that they made: as many as the C daemon has at once.
const MAX_CARRYING: usize = 256;

/// What a program's process is waited for with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its output.
    Output,
    /// Its end.
    End,
}

/// A program that decides.
#[derive(Debug, Clone)]
pub struct PolicyProgram {
    file: CString,
    /// The name that it is called by.
    called: CString,
    /// It is one of ours, so it can be told of a requested source.
    ours: bool,
}

impl PolicyProgram {
    /// The program at `path`. It is known as ours if it is the executable of this process.
    ///
    /// # Errors
    /// A path with a NUL in it.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = CString::new(path.as_os_str().as_bytes())?;
        Ok(Self { called: file.clone(), file, ours: is_own_executable(path) })
    }

    /// The program that is installed at `path`, with this daemon. Should it be another one after all, it does not
    /// understand what it is told of a requested source, and that denies.
    ///
    /// # Errors
    /// A path with a NUL in it.
    pub fn installed(path: &Path) -> io::Result<Self> {
        Ok(Self { ours: true, ..Self::at(path)? })
    }

    /// The executable of this process, under the name of the policy program.
    ///
    /// # Errors
    /// The system does not tell which executable that is.
    pub fn own() -> io::Result<Self> {
        let program = Self::at(&std::env::current_exe()?)?;
        Ok(Self { called: c"qrexec-policy-exec".to_owned(), ours: true, ..program })
    }
}

/// Whether this process runs what is at `path`, under whatever name.
fn is_own_executable(path: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    file(path).is_some_and(|there| file(Path::new("/proc/self/exe")) == Some(there))
}

/// The questions that are with somebody, and those that wait for their turn.
#[derive(Debug)]
pub struct Programs {
    owner: Owner,
    socket: Option<PathBuf>,
    program: Option<PolicyProgram>,
    /// The forms that were understood last.
    socket_form: Form,
    program_form: Form,
    running: BTreeMap<CallId, Running>,
    /// The first that asked is the next. How it is to be asked comes behind how it was asked in vain.
    waiting: BTreeMap<CallId, (Question, Vec<Way>)>,
}

/// One question that somebody works on.
#[derive(Debug)]
struct Running {
    /// `None` for a connection.
    child: Option<Child>,
    output: Option<OwnedFd>,
    said: Vec<u8>,
    status: Option<i32>,
    /// Nobody waits for the answer any more; only the process has still to be reaped.
    cancelled: bool,
    question: Question,
    /// How it was asked in vain; the last one is how it is asked now.
    ways: Vec<Way>,
}

impl Programs {
    /// Asks the policy daemon on `socket`; where that is not there or talks nonsense, the program;
    /// where there is none, nobody, and every question is denied.
    #[must_use]
    pub fn new(owner: Owner, socket: Option<PathBuf>, program: Option<PolicyProgram>) -> Self {
        let (socket_form, program_form) = (Form::Answers, Form::Answers);
        let (running, waiting) = (BTreeMap::new(), BTreeMap::new());
        Self { owner, socket, program, socket_form, program_form, running, waiting }
    }

    /// Takes a question; [`Programs::start_next`] then asks as many as may be asked at once.
    pub fn ask(&mut self, id: CallId, question: Question) {
        let program = Way::Program(self.program_form);
        let way = if self.socket.is_some() { Way::Socket(self.socket_form) } else { program };
        self.waiting.insert(id, (question, vec![way]));
    }

    /// Asks a question that waits, if it is its turn. An error is the verdict.
    pub fn start_next(&mut self) -> Option<(CallId, Result<(), Verdict>)> {
        let carrying = self.running.values().filter(|running| running.carries()).count();
        if self.running.len().saturating_sub(carrying) >= MAX_RUNNING || carrying >= MAX_CARRYING {
            return None;
        }
        let (id, (question, ways)) = self.waiting.pop_first()?;
        let started = self.start(question, ways).map(|running| {
            self.running.insert(id, running);
        });
        Some((id, started.map_err(|error| Verdict::deny(format!("the policy program: {error}")))))
    }

    /// The descriptors of a question that was asked: the answer's and, of a program, its end's.
    pub fn descriptors(&self, id: CallId) -> impl Iterator<Item = (Readiness, BorrowedFd<'_>)> {
        let both = [Readiness::Output, Readiness::End];
        both.into_iter().filter_map(move |readiness| Some((readiness, self.descriptor(id, readiness)?)))
    }

    /// The descriptor of one kind, as long as it is open.
    #[must_use]
    pub fn descriptor(&self, id: CallId, readiness: Readiness) -> Option<BorrowedFd<'_>> {
        let running = self.running.get(&id)?;
        match readiness {
            Readiness::Output => running.output.as_ref().map(AsFd::as_fd),
            Readiness::End => running.child.as_ref().map(AsFd::as_fd),
        }
    }

    /// Nobody wants to know any more: the question is dropped, or its program killed. One that makes the call itself
    /// may have made it, and a disposable for it, which goes with the call: it is left to its own end.
    pub fn cancel(&mut self, id: CallId) {
        self.waiting.remove(&id);
        if let Some(running) = self.running.get_mut(&id) {
            running.cancelled = true;
            if !running.carries() {
                running.kill();
            }
        }
    }

    /// Kills a program that cannot be watched, and sees its end.
    pub fn abandon(&mut self, id: CallId) {
        if let Some(mut running) = self.running.remove(&id) {
            running.kill();
            if let Some(Err(error)) = running.child.as_mut().map(Child::wait) {
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
        if let (None, Some(child)) = (running.status, &mut running.child) {
            running.status = child.try_wait().unwrap_or(Some(-1));
        }
        running.status.is_some()
    }

    /// The verdict of somebody who has said all and has ended. `None` while that is not so; a verdict
    /// of `None` inside if nobody waits for it, or if the question waits for the program now because
    /// the policy daemon talked nonsense.
    pub fn finished(&mut self, id: CallId) -> Option<Option<Verdict>> {
        let running = self.running.get(&id)?;
        let status = running.status.filter(|_| running.output.is_none())?;
        let running = self.running.remove(&id)?;
        if running.cancelled {
            return Some(None);
        }
        let way = running.way();
        Some(match running.verdict(status) {
            Ok(verdict) => {
                self.understood(&running.ways, &verdict);
                Some(verdict)
            }
            Err(why) => match self.next_way(&running.ways, why.silent) {
                Some(next) => {
                    if way.is_some_and(|way| matches!(way, Way::Socket(_)) && matches!(next, Way::Program(_)))
                    {
                        tracing::warn!("the policy daemon: {}; asking the policy program", why.reason);
                    }
                    let ways = running.ways.into_iter().chain([next]).collect();
                    self.waiting.insert(id, (running.question, ways));
                    None
                }
                None => Some(Verdict::deny(format!("the policy program: {}", why.reason))),
            },
        })
    }

    /// Who is asked next, and how, after this was in vain.
    fn next_way(&self, ways: &[Way], silent: bool) -> Option<Way> {
        let last = *ways.last()?;
        let program = self.program.as_ref();
        let knows_both = match last {
            Way::Socket(_) => true,
            Way::Program(_) => program.is_some_and(|program| !program.ours),
        };
        let other = last.otherwise();
        if silent && knows_both && !ways.contains(&other) {
            return Some(other);
        }
        let from_socket = matches!(last, Way::Socket(_)) && program.is_some();
        from_socket.then_some(Way::Program(self.program_form))
    }

    /// Remembers the form in which somebody gave a verdict, so that the next question need not be asked twice. A program
    /// that refuses in silence would do so in any form.
    fn understood(&mut self, ways: &[Way], verdict: &Verdict) {
        match ways.last() {
            Some(Way::Socket(form)) => self.socket_form = *form,
            Some(Way::Program(Form::Answers)) => self.program_form = Form::Answers,
            Some(Way::Program(Form::Connects)) if *verdict == Verdict::Made => {
                self.program_form = Form::Connects
            }
            _ => {}
        }
    }

    fn start(&self, question: Question, mut ways: Vec<Way>) -> io::Result<Running> {
        if let (Some(&Way::Socket(form)), Some(socket)) = (ways.last(), &self.socket) {
            match connect(socket, &question, (form == Form::Connects).then_some(self.owner.id)) {
                Ok(connection) => return Ok(Running::new(None, connection, question, ways)),
                Err(error) if self.program.is_none() => return Err(error),
                Err(error) => tracing::info!("the policy daemon: {error}; asking the policy program"),
            }
            ways.push(Way::Program(self.program_form));
        }
        match (&self.program, ways.last()) {
            (Some(program), Some(way)) => {
                let (child, output) = program.start(&question, &self.owner, way.form())?;
                Ok(Running::new(Some(child), output, question, ways))
            }
            _ => Err(io::Error::other("there is none")),
        }
    }
}

/// Asks the policy daemon; what can be read then is its answer. One that makes the call itself wants to know for which
/// `domain`.
fn connect(socket: &Path, question: &Question, domain: Option<DomainId>) -> io::Result<OwnedFd> {
    let connection = engine::unix::connect_nonblocking(socket)?;
    let Question { source, target, service, ident, .. } = question;
    let mut request = domain.map(|id| format!("domain_id={id}\nprocess_ident={ident}\n")).unwrap_or_default();
    request.push_str(&format!("source={source}\nintended_target={target}\nservice_and_arg={service}\n"));
    if let Some(source) = &question.requested_source {
        request.push_str(&format!("requested_source={source}\n"));
    }
    request.push('\n');
    // A new connection has room for more than any request.
    match rustix::io::retry_on_intr(|| rustix::io::write(&connection, request.as_bytes()))? {
        sent if sent == request.len() => Ok(connection),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

impl PolicyProgram {
    /// Its process, and what it says.
    fn start(&self, question: &Question, owner: &Owner, form: Form) -> io::Result<(Child, OwnedFd)> {
        let mut args = vec![self.called.clone()];
        match owner.foreign(question) {
            Some(source) if self.ours => args.push(CString::new(format!("--requested-source={source}"))?),
            // Upstream's command line has no place for it, and what it would decide is another question: whether the
            // relay itself may call.
            Some(source) => {
                return Err(io::Error::other(format!("it cannot be told of the requested source {source}")));
            }
            None => {}
        }
        let (id, ident) = (owner.id.to_string(), question.ident.to_string());
        let [source, target] = [question.source.as_str(), question.target.as_str()];
        let service = question.service.as_str();
        let words: &[&str] = match form {
            Form::Answers => &["--", source, target, service],
            Form::Connects => &["--", &id, source, target, service, &ident],
        };
        for word in words {
            args.push(CString::new(*word)?);
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
        Ok((child, output))
    }
}

impl Running {
    fn new(child: Option<Child>, output: OwnedFd, question: Question, ways: Vec<Way>) -> Self {
        // A connection has no end beside that of its answer.
        let status = child.is_none().then_some(0);
        Self { child, output: Some(output), said: Vec::new(), status, cancelled: false, question, ways }
    }

    fn way(&self) -> Option<Way> {
        self.ways.last().copied()
    }

    /// Whether it may still carry a call that it has made.
    fn carries(&self) -> bool {
        self.cancelled && self.way() == Some(Way::Program(Form::Connects))
    }

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
        if let Some(Err(error)) = self.child.as_ref().map(|child| child.signal(Signal::KILL)) {
            tracing::warn!("killing the policy program: {error}");
        }
    }

    /// What was decided, or why that cannot be told.
    fn verdict(&self, status: i32) -> Result<Verdict, Undecided> {
        let said = self.said.strip_suffix(b"\n").unwrap_or(&self.said);
        match self.way() {
            // What it prints would be an answer to another question: one of our words is in the place of another.
            Some(Way::Program(Form::Connects)) => match status {
                0 => return Ok(Verdict::Made),
                USAGE => return Err(Undecided::ended(status, said)),
                _ => return Ok(Verdict::deny(format!("by the policy program, which ended with {status}"))),
            },
            Some(Way::Socket(Form::Connects)) if said == b"result=allow" => return Ok(Verdict::Made),
            _ => {}
        }
        // Upstream's program ends with 1 where it denies.
        if status != 0 && !(status == 1 && said == b"result=deny") && self.said.len() < MAX_ANSWER {
            return Err(Undecided::ended(status, said));
        }
        if self.child.is_none() && said.is_empty() {
            return Err(Undecided { reason: "the answer is empty".to_owned(), silent: true });
        }
        let answer = answer::parse(&self.said).map_err(Undecided::because)?;
        for key in answer.unknown {
            tracing::warn!("the policy program's answer has an unknown key {}", Escaped::new(&key));
        }
        Ok(answer.verdict)
    }
}

/// This process's environment in the form that a new process gets it.
pub(crate) fn environment() -> Vec<CString> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let mut entry: OsString = name;
            entry.push("=");
            entry.push(value);
            CString::new(entry.into_vec()).ok()
        })
        .collect()
}
