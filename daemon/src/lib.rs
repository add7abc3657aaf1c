#![forbid(unsafe_code)]
//! The dom0 side of qrexec: one daemon for each VM.
//!
//! It keeps the control link to the VM's agent, hands out data ports, lets the programs of dom0 run
//! commands in the VM, and has policy decide about what the VM itself asks for. The data of calls
//! never passes through it.
//!
//! | module | one job |
//! |---|---|
//! | [`cli`] | command line and environment |
//! | [`startup`] | into the background, log, word to the parent |
//! | [`daemon_core`] | every decision of the daemon, without I/O: a crate of its own |
//! | [`answer`] | the answer lines of a policy program |
//! | [`policy_source`] | decisions, from files, from the policy daemon or from a program |
//! | [`r2`] | the daemon of protocol 1, for VMs of R1 and R2 |
//! | [`local_socket`] | the socket for dom0 and its names |
//! | [`driver`] | descriptors and processes: what the core decides is done here |
//! | [`dom0_service`] | the process of one service in dom0 |
//! | [`service_log`] | what such a service says on standard error |
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

pub mod answer;
pub mod cli;
pub mod dom0_service;
pub mod driver;
pub mod local_socket;
pub mod policy_source;
pub mod r2;
pub mod service_log;
pub mod startup;

use std::ffi::OsString;
use std::io;
use std::path::Path;

use daemon_core::{Settings, ports};
use engine::Installation;
use engine::confine::Confinement;
use ring::Transport;
use rustix::process::Rlimit;
use wire::names::DomainId;

use crate::cli::{DaemonArgs, Environment};
use crate::dom0_service::Manner;
use crate::driver::{Decider, Driver, Limits, Setup};
use crate::policy_source::{Owner, PolicyFiles, PolicyProgram, Programs};
use crate::startup::{Background, Outcome, Report};

/// The program that decides where nothing else is said and no policy daemon runs.
const POLICY_PROGRAM: &str = "/usr/bin/qrexec-policy-exec";
/// Calls of one VM that wait for an answer or are served in dom0 at once, at most: no more ports there are.
const MOST_OPEN: usize = 1 << 16;
/// Calls between VMs that are watched to their end at once, each with a descriptor.
const MAX_WATCHED: usize = 1024;

/// `qrexec-daemon`: takes the arguments with the program's name first, gives the exit status.
///
/// A log is expected to be there already; it must write to standard error.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    let args = match DaemonArgs::read(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors; nobody can be told if this cannot be printed.
            let _ = error.print();
            return error.exit_code();
        }
    };
    let environment = Environment::read(|name| std::env::var_os(name));
    match start(&args, environment) {
        Ok(code) => code.into(),
        Err(error) => {
            tracing::error!("{error}");
            Outcome::Failed.code().into()
        }
    }
}

fn start(args: &DaemonArgs, environment: Environment) -> io::Result<u8> {
    startup::close_stdin()?;
    if args.direct {
        let report = Report::to_manager(environment.startup_limit.is_some());
        return Ok(run_daemon(args, environment, report).code());
    }
    let background = Background {
        log_dir: environment.log_dir.clone(),
        name: args.name.to_string(),
        wait: environment.startup_limit.is_some(),
        quiet: args.quiet,
    };
    background.run(|report| run_daemon(args, environment, report))
}

/// The daemon itself, wherever it runs.
fn run_daemon(args: &DaemonArgs, environment: Environment, report: Report) -> Outcome {
    Confinement::unless(args.no_confine).announce();
    let files = startup::raise_file_limit();
    if args.protocol.is_some() {
        return old(args, environment, report);
    }
    let driver = setup(args, environment, report, files).and_then(Driver::new);
    match driver {
        Ok(driver) => driver.run(),
        Err(error) => {
            tracing::error!("cannot start: {error}");
            Outcome::Failed
        }
    }
}

/// The daemon of protocol 1.
fn old(args: &DaemonArgs, environment: Environment, report: Report) -> Outcome {
    let transport = match Transport::from_env() {
        Ok(transport) => transport,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return Outcome::Failed;
        }
    };
    r2::run(r2::Setup {
        id: DomainId(args.id.get()),
        name: args.name.clone(),
        uuid: args.uuid.clone(),
        default_user: args.default_user.as_str().to_owned(),
        socket_dir: args.socket_dir.clone(),
        transport,
        policy_program: args.policy_program.clone(),
        startup_limit: environment.startup_limit,
        report,
    })
}

fn setup(args: &DaemonArgs, environment: Environment, report: Report, files: Rlimit) -> io::Result<Setup> {
    let transport = Transport::from_env().map_err(io::Error::other)?;
    let installation = Installation::stated(transport.kind()).map_err(io::Error::other)?;
    let decider = decider(args, &environment)?;
    Ok(Setup {
        settings: Settings {
            id: DomainId(args.id.get()),
            name: args.name.clone(),
            default_user: args.default_user.as_str().to_owned(),
            last_port: ports::LAST_BY_DEFAULT,
            max_open: args.max_calls.unwrap_or_else(|| half_of(files)),
            max_watched: MAX_WATCHED,
        },
        limits: Limits {
            services: args.max_services,
            starting: args.max_starting,
            disposables: args.max_disposables,
            served: args.max_served.unwrap_or_else(|| part_of(files)),
        },
        uuid: args.uuid.clone(),
        socket_dir: args.socket_dir.clone(),
        transport,
        decider,
        may_start: environment.may_start,
        startup_limit: environment.startup_limit,
        report,
        manner: Manner {
            files: Some(files),
            installation,
            confinement: Confinement::unless(args.no_confine),
        },
    })
}

/// As many calls as half of the descriptors that this process may have: each needs one of its own, and the other half
/// is for everybody else.
fn half_of(files: Rlimit) -> usize {
    files
        .maximum
        .map_or(MOST_OPEN, |limit| usize::try_from(limit / 2).unwrap_or(MOST_OPEN).clamp(16, MOST_OPEN))
}

/// As many calls of others as three eighths of the descriptors: one half is for the VM's own, and some for everything else.
fn part_of(files: Rlimit) -> usize {
    half_of(files) / 4 * 3
}

/// Who decides: the files, in this process, where the environment describes the system (in a lab);
/// else the policy daemon, and a program where that is not there.
fn decider(args: &DaemonArgs, environment: &Environment) -> io::Result<Decider> {
    let lab = environment.system_info.is_some();
    let program = match &args.policy_program {
        Some(path) => PolicyProgram::at(path)?,
        None if lab => PolicyProgram::own()?,
        None => PolicyProgram::installed(Path::new(POLICY_PROGRAM))?,
    };
    let here = lab && environment.policy_socket.is_none() && args.policy_program.is_none();
    let files =
        here.then(|| PolicyFiles::new(environment.policy_folders.clone(), environment.system_info.clone()));
    let owner = Owner { id: DomainId(args.id.get()), uuid: args.uuid.clone() };
    Ok(Decider { files, programs: Programs::new(owner, environment.policy_socket.clone(), Some(program)) })
}
