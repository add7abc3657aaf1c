//! `qrexec-client-vm.exe`: asks the agent for a service of another qube, and connects to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, OwnedHandle};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wire::control::{EXEC_LEN, Endpoint};
use wire::names::Ident;
use wire::stream::Role;
use wire::trigger::Trigger;
use wire::version::Version;

use crate::codes;
use crate::link::{LinkError, greet, meet};
use crate::pump::{self, PumpSource, PumpStreams};
use crate::sys::account::Account;
use crate::sys::event::{Event, wait_for};
use crate::sys::pipe;
use crate::sys::process::{Process, Starting};
use crate::sys::vchan::VchanLibrary;
use crate::words::{BadWords, Wanted};

/// How long the service may take to connect, as on Linux.
const WAIT: Duration = Duration::from_secs(120);
/// Size of the data rings, as in every release.
const RINGS: usize = 64 << 10;
/// The buffer of a pipe.
const PIPE: u32 = 64 << 10;
/// `ERROR_PIPE_BUSY`: all ends of the agent's pipe are taken.
const BUSY: i32 = 231;
/// How long to wait for a free end at a time, in milliseconds.
const BUSY_MILLIS: u32 = 5000;
/// `SECURITY_IDENTIFICATION`: the process that owns the pipe's name may identify this user, but not act as this user.
const IDENTIFY: u32 = 0x0001_0000;

/// Why no exit code came from the service.
#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error(transparent)]
    Words(#[from] BadWords),
    #[error("the request is too long: {0}")]
    TooLong(#[from] wire::error::TooLong),
    #[error("no agent: {0}")]
    NoAgent(io::Error),
    #[error("the request is refused")]
    Refused,
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("cannot start the program: {0}")]
    Start(io::Error),
}

impl ClientError {
    fn code(&self) -> i32 {
        match self {
            Self::Words(_) | Self::TooLong(_) | Self::NoAgent(_) => codes::TROUBLE,
            Self::Refused | Self::Link(LinkError::Withdrawn) => codes::REFUSED,
            Self::Link(_) => codes::LOST,
            Self::Start(error) => codes::of_start(error.raw_os_error()),
        }
    }
}

/// Runs the program, with its command line as Windows passes it. Returns its exit status.
fn main(command_line: &str, folder: &Path) -> i32 {
    match call(command_line, folder) {
        Ok(code) => code & 0xFF,
        Err(error) => {
            eprintln!("qrexec-client-vm: {error}");
            error.code()
        }
    }
}

fn call(command_line: &str, folder: &Path) -> Result<i32, ClientError> {
    let wanted = Wanted::parse(command_line)?;
    let version = if wanted.source.is_some() { Version::V4 } else { Version::V3 };
    let ident = Ident::new(Ident::SOCKET).map_err(|_| BadWords::Usage)?;
    let trigger = Trigger { source: wanted.source, target: wanted.target, service: wanted.service, ident };
    let mut agent = open_pipe().map_err(ClientError::NoAgent)?;
    agent.write_all(&trigger.encode(version)?).map_err(ClientError::NoAgent)?;
    let mut answer = [0; EXEC_LEN];
    // The agent closes the pipe if the request is refused.
    agent.read_exact(&mut answer).map_err(|_| ClientError::Refused)?;
    let endpoint = Endpoint::from_bytes(answer);
    let library = VchanLibrary::load(folder).map_err(LinkError::from)?;
    let mut vchan = library.offer(endpoint.domain.0, endpoint.port.0, RINGS).map_err(LinkError::from)?;
    let wake = Arc::new(Event::new().map_err(LinkError::from)?);
    let allowed = promise(agent, &wake);
    let until = Instant::now() + WAIT;
    let go_on = || allowed.load(Ordering::SeqCst);
    meet(&mut vchan, &wake, until, go_on)?;
    let version = greet(&mut vchan, &wake, until, go_on)?;
    let (program, streams) = match &wanted.program {
        None => (None, own_streams().map_err(LinkError::from)?),
        Some(line) => {
            let (program, streams) = start(line)?;
            (Some(program), streams)
        }
    };
    let code = pump::run(&mut vchan, &wake, (Role::Client, version), streams)?;
    drop(vchan);
    if let Some(program) = program {
        use std::os::windows::io::AsRawHandle;
        wait_for(&[program.as_raw_handle()], None).map_err(LinkError::from)?;
    }
    Ok(code)
}

fn open_pipe() -> io::Result<File> {
    loop {
        match File::options().read(true).write(true).security_qos_flags(IDENTIFY).open(pipe::TRIGGER) {
            Err(error) if error.raw_os_error() == Some(BUSY) => pipe::wait_for_trigger(BUSY_MILLIS)?,
            opened => return opened,
        }
    }
}

/// Becomes false when the agent withdraws its answer: it closes the pipe when dom0 withdraws a call.
fn promise(mut agent: File, wake: &Arc<Event>) -> Arc<AtomicBool> {
    let allowed = Arc::new(AtomicBool::new(true));
    let (ours, wake) = (allowed.clone(), wake.clone());
    std::thread::spawn(move || {
        // The agent sends nothing more, so this returns when it closes the pipe.
        let _ = agent.read(&mut [0]);
        ours.store(false, Ordering::SeqCst);
        wake.set();
    });
    allowed
}

/// This process's own streams, for the service.
fn own_streams() -> io::Result<PumpStreams> {
    let stdin = copy(&io::stdin())?;
    Ok(PumpStreams {
        sink: Some(copy(&io::stdout())?),
        stderr_sink: Some(copy(&io::stderr())?),
        source: Some(PumpSource { handle: stdin, nothing_is_end: true }),
        ..Default::default()
    })
}

fn copy(stream: &impl AsHandle) -> io::Result<OwnedHandle> {
    stream.as_handle().try_clone_to_owned()
}

/// Starts the local program that is connected to the service.
fn start(line: &str) -> Result<(Process, PumpStreams), ClientError> {
    let pipe = || pipe::anonymous(PIPE).map_err(ClientError::Start);
    let ((stdin, sink), (source, stdout)) = (pipe()?, pipe()?);
    let stderr = copy(&io::stderr()).map_err(ClientError::Start)?;
    let starting = Starting {
        line,
        account: &Account::Own,
        streams: Some([stdin, stdout, stderr]),
        variables: &[],
        left_alone: false,
    };
    let program = starting.start().map_err(ClientError::Start)?;
    let streams = PumpStreams {
        sink: Some(sink),
        stderr_sink: Some(copy(&io::stderr()).map_err(ClientError::Start)?),
        source: Some(PumpSource { handle: source, nothing_is_end: false }),
        ..Default::default()
    };
    Ok((program, streams))
}

/// Runs the program with the command line that Windows passes.
#[must_use]
pub fn run() -> i32 {
    match crate::install::folder() {
        Ok(folder) => main(&crate::sys::process::command_line(), &folder),
        Err(error) => {
            eprintln!("qrexec-client-vm: {error}");
            codes::TROUBLE
        }
    }
}
