//! Services of dom0 itself, and commands there for requests of qubes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use engine::Installation;
use engine::datalink;
use engine::exec::{ExecError, Executable, Image, Prepared, Services, Stderr, Users};
use engine::pump::{Call, NoStreams};
use ring::Transport;
use wire::command::{Command, CommandKind};
use wire::control::Endpoint;
use wire::header::ty;
use wire::names::{DomainId, Port};
use wire::stream::Role;

use super::about;
use super::args::{Plan, Waiting};
use super::daemon::Daemon;
use crate::failure::Failure;
use crate::local_program::{LocalEnd, LocalProgram, SavedStreams};

/// What stands in front of a command for dom0 by a caller in dom0, where there is no user to choose.
const DEFAULT_USER: &[u8] = b"DEFAULT:";

/// The services of this machine, run as whoever runs us.
pub(super) fn services(transport: &Transport) -> Result<Services, Failure> {
    let installation = Installation::stated(transport.kind()).map_err(Failure::during("services of dom0"))?;
    Ok(Services::from_env(Users::Any, installation))
}

pub(super) fn failure(error: ExecError) -> Failure {
    Failure { status: error.code(), message: error.to_string() }
}

/// Finds a service and waits for the session if its configuration wants one.
pub(super) fn prepare(services: &Services, kind: &CommandKind, nogui: bool) -> Result<Prepared, Failure> {
    let CommandKind::Service(call) = kind else {
        return Err(Failure::trouble("dom0 runs services only: QUBESRPC SERVICE+ARG SOURCE"));
    };
    let config = services.config(&call.service).map_err(failure)?;
    if config.wait_for_session && !nogui {
        services.wait_for_own_session(&call.source);
    }
    services.prepare(kind, &config).map_err(failure)
}

/// A service of dom0 for a caller in dom0: this process becomes the service, or only starts it.
pub(super) fn run(plan: &Plan, detached: bool) -> Result<i32, Failure> {
    let line = plan
        .command
        .strip_prefix(DEFAULT_USER)
        .ok_or_else(|| Failure::trouble("commands for dom0 begin with DEFAULT:"))?;
    let command = Command::parse_without_user(line).map_err(|error| Failure::trouble(error.to_string()))?;
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    let services = services(&transport)?;
    let prepared = prepare(&services, &command.kind, command.nogui)?;
    if detached {
        return services.start_detached(&prepared, None, None).map(|()| 0).map_err(failure);
    }
    match prepared {
        Prepared::Executable(Executable { image: Image::Shell(_), .. }) => {
            Err(Failure::trouble("dom0 runs services only"))
        }
        Prepared::Executable(Executable { filter, .. }) if filter.or(plan.usbip).is_some() => {
            Err(Failure::trouble("a caller in dom0 gets the service's own streams, which nothing can filter"))
        }
        Prepared::Executable(service) => Err(failure(services.replace(&service))),
        Prepared::Socket(path, _) => Err(no_socket(&path.display())),
        Prepared::Tcp(address, _) => Err(no_socket(&address)),
    }
}

fn no_socket(to: &dyn std::fmt::Display) -> Failure {
    Failure::trouble(format!("{to}: a caller in dom0 cannot be connected to a socket, only to programs"))
}

/// What runs for a request that waits in a qube.
enum Served {
    Service(Services, Box<Prepared>),
    Command(LocalProgram),
}

impl Served {
    /// Finds a service. Whatever else the line says is a command for bash: the policy programs of R3 call theirs so.
    fn find(plan: &Plan, waiting: &Waiting, transport: &Transport) -> Result<Self, Failure> {
        let command = Command::parse_without_user(&plan.command).map_err(ExecError::from).map_err(failure)?;
        match &command.kind {
            CommandKind::Shell(text) => {
                let program = LocalProgram::shell(OsStr::from_bytes(text));
                Ok(Self::Command(program.with_env("QREXEC_REMOTE_DOMAIN", waiting.source.as_str())))
            }
            kind => {
                let services = services(transport)?;
                let prepared = prepare(&services, kind, command.nogui)?;
                Ok(Self::Service(services, Box::new(prepared)))
            }
        }
    }

    /// Starts it; what else its configuration asks for is put into `call`.
    fn start(self, call: &mut Call) -> Result<LocalEnd, Failure> {
        match self {
            Self::Command(program) => program.start(&SavedStreams::default()),
            Self::Service(services, prepared) => LocalEnd::service(|| {
                let started = services.start(&prepared, None, Stderr::Ours).map_err(failure)?;
                call.splice = started.splice;
                call.exit_on_client_eof = started.exit_on_client_eof;
                call.exit_on_service_eof = started.exit_on_service_eof;
                Ok(started)
            }),
        }
    }
}

/// A service of dom0, or a command, for a request that waits in a qube.
pub(super) fn run_service(plan: &Plan, waiting: &Waiting) -> Result<i32, Failure> {
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    let mut daemon = Daemon::connect(&plan.socket_dir, waiting.source_id).map_err(about(&waiting.source))?;
    let unset = Endpoint { domain: DomainId::DOM0, port: Port(0) };
    daemon.service_connect(waiting.ident, unset).map_err(about(&waiting.source))?;
    let endpoint = daemon.answer(ty::SERVICE_CONNECT).map_err(about(&waiting.source))?;
    let found = Served::find(plan, waiting, &transport);

    let (channel, version) = datalink::connect(&transport, endpoint.domain.0, endpoint.port.0, plan.wait)
        .map_err(Failure::during(format_args!("connecting to {}", waiting.source)))?;
    let mut call = Call::new(Role::Service, version);
    let LocalEnd { child, streams, one_socket, filter } = match found.and_then(|found| found.start(&mut call))
    {
        Ok(local) => local,
        // The caller hears of it like of any other exit code, whether it is still there or not.
        Err(failure) => {
            let (code, why) = (failure.status, NoStreams::FailedInDom0);
            let _ = engine::call::report(channel, version, code, why, plan.confinement);
            return Err(failure);
        }
    };
    call.sink = streams.sink;
    call.source = Some(streams.source);
    call.child = child;
    call.prefix.clone_from(&plan.prefix);
    call.one_socket = one_socket;
    call.usbip = plan.usbip.or(filter);
    crate::failure::status_of_served(&engine::call::run(channel, call, plan.confinement))
}
