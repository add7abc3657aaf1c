//! The process of one call: it meets its caller, starts the service, and pumps.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wire::command::{Command, CommandError, CommandKind, ServiceCall};
use wire::control::ExecParams;
use wire::escape::Escaped;
use wire::stream::Role;
use wire::version::Version;

use crate::link::{LinkError, greet};
use crate::pump::{self, PumpSource, PumpStreams};
use crate::service_file::{BadServiceFile, MAX_FILE, ServiceLine};
use crate::service_name::{BadFileName, file_name};
use crate::sys::account::{Account, NotLoggedOn};
use crate::sys::event::Event;
use crate::sys::pipe;
use crate::sys::process::{Process, Starting};
use crate::sys::vchan::{Vchan, VchanLibrary};
use crate::{codes, hand_over, log};

/// How long the caller may take to come, as on Linux.
const WAIT: Duration = Duration::from_secs(120);
/// The buffer of a pipe.
const PIPE: u32 = 64 << 10;
/// Most characters of a command line in the log.
const SHOWN: usize = 200;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the command is not UTF-8")]
    Encoding,
    #[error(transparent)]
    Name(#[from] BadFileName),
    #[error("there is no service {0}")]
    NoService(String),
    #[error(transparent)]
    File(#[from] BadServiceFile),
    #[error("service file: {0}")]
    Read(io::Error),
    #[error(transparent)]
    User(#[from] NotLoggedOn),
    #[error("cannot start it: {0}")]
    Start(io::Error),
    #[error("no pipe: {0}")]
    Pipe(io::Error),
}

impl StartError {
    fn code(&self) -> i32 {
        match self {
            Self::NoService(_) | Self::Name(_) => codes::NOT_FOUND,
            Self::Start(error) => codes::of_start(error.raw_os_error()),
            _ => codes::TROUBLE,
        }
    }
}

/// Serves the call that is described on the standard input. Returns the exit status of this process.
pub(crate) fn main(folder: &Path) -> i32 {
    let mut bytes = Vec::new();
    let limit = u64::try_from(hand_over::MAX_LEN).unwrap_or(u64::MAX).saturating_add(1);
    if io::stdin().take(limit).read_to_end(&mut bytes).is_err() {
        return codes::TROUBLE;
    }
    let Some((just, params)) = hand_over::decode(&bytes) else { return codes::TROUBLE };
    let shown: Vec<u8> = params.cmdline.iter().copied().take(SHOWN).collect();
    let label = Escaped::new(&shown).to_string();
    match serve_caller(folder, just, &params, &label) {
        Ok(code) => {
            log::line(format_args!("{label}: ended with {code}"));
            0
        }
        Err(error) => {
            log::line(format_args!("{label}: port {}: {error}", params.connect_port));
            codes::LOST
        }
    }
}

fn serve_caller(folder: &Path, just: bool, params: &ExecParams, label: &str) -> Result<i32, LinkError> {
    let wake = Arc::new(Event::new()?);
    let until = Instant::now() + WAIT;
    // Connecting waits without limit, so it is done in a thread of its own.
    let (done, met) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        if met.recv_timeout(WAIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            log::line("the caller did not come");
            std::process::exit(codes::LOST);
        }
    });
    let library = VchanLibrary::load(folder)?;
    let mut vchan = library.connect(params.connect_domain.0, params.connect_port.0)?;
    let version = greet(&mut vchan, &wake, until, || true)?;
    let _ = done.send(());
    match Task::new(&params.cmdline).and_then(|task| task.start(folder, just)) {
        Ok(None) => {
            pump::tell(&mut vchan, &wake, version, true, 0)?;
            Ok(0)
        }
        Ok(Some((process, streams))) => pumped(&mut vchan, &wake, version, process, streams),
        Err(error) => {
            log::line(format_args!("{label}: {error}"));
            let code = error.code();
            pump::tell(&mut vchan, &wake, version, just, code)?;
            Ok(code)
        }
    }
}

fn pumped(
    vchan: &mut Vchan,
    wake: &Arc<Event>,
    version: Version,
    child: Process,
    streams: PumpStreams,
) -> Result<i32, LinkError> {
    let streams = PumpStreams { child: Some(child), ..streams };
    pump::run(vchan, wake, (Role::Service, version), streams)
}

/// What is to be started.
struct Task {
    command: Command,
    account: Account,
}

impl Task {
    fn new(cmdline: &[u8]) -> Result<Self, StartError> {
        let command = Command::parse(cmdline)?;
        let account = Account::of(command.user.as_deref().unwrap_or_default())?;
        Ok(Self { command, account })
    }

    /// Starts it; without streams if it is not to be waited for.
    fn start(&self, folder: &Path, just: bool) -> Result<Option<(Process, PumpStreams)>, StartError> {
        let (line, service) = match &self.command.kind {
            CommandKind::Shell(text) => {
                (std::str::from_utf8(text).map_err(|_| StartError::Encoding)?.to_owned(), None)
            }
            CommandKind::Service(call) => (service_line(folder, call)?, Some(call)),
        };
        let variables = [
            ("QREXEC_REMOTE_DOMAIN", service.map(|call| call.source.to_string())),
            ("QREXEC_SERVICE_FULL_NAME", service.map(|call| call.service.to_string())),
            ("QREXEC_SERVICE_ARGUMENT", service.and_then(|call| call.service.argument()).map(str::to_owned)),
        ];
        let starting = Starting {
            line: &line,
            account: &self.account,
            streams: None,
            variables: &variables,
            left_alone: just,
        };
        if just {
            starting.start().map_err(StartError::Start)?;
            return Ok(None);
        }
        let pipe = || pipe::anonymous(PIPE).map_err(StartError::Pipe);
        let ((stdin, sink), (source, stdout), (errors, stderr)) = (pipe()?, pipe()?, pipe()?);
        let starting = Starting { streams: Some([stdin, stdout, stderr]), ..starting };
        let process = starting.start().map_err(StartError::Start)?;
        let ours = |handle| Some(PumpSource { handle, nothing_is_end: false });
        let streams = PumpStreams {
            sink: Some(sink),
            source: ours(source),
            stderr_source: ours(errors),
            ..Default::default()
        };
        Ok(Some((process, streams)))
    }
}

/// The command line of a service.
fn service_line(folder: &Path, call: &ServiceCall) -> Result<String, StartError> {
    let name = file_name(&call.service)?;
    let missing = || StartError::NoService(name.to_owned());
    let root = folder.parent().unwrap_or(folder);
    let services = root.join("qubes-rpc");
    // Windows would also open a file whose name differs in upper and lower case, about which policy was not asked.
    let entries = std::fs::read_dir(&services).map_err(|_| missing())?;
    let entry = entries.filter_map(Result::ok).find(|entry| entry.file_name() == name).ok_or_else(missing)?;
    let line = ServiceLine::parse(&read_file(&entry.path())?, call.service.argument())?;
    if !line.is_relative() {
        return Ok(line.command_line(&line.program));
    }
    let program: PathBuf = root.join("qubes-rpc-services").join(&line.program);
    Ok(line.command_line(&program.to_string_lossy()))
}

fn read_file(path: &Path) -> Result<Vec<u8>, StartError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    let file = std::fs::File::open(path).map_err(StartError::Read)?;
    file.take(limit).read_to_end(&mut bytes).map_err(StartError::Read)?;
    Ok(bytes)
}
