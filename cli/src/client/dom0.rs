//! Services of dom0 itself.

use engine::datalink;
use engine::exec::{ExecError, Executable, Image, Prepared, Services, Stderr, Users};
use engine::pump::{self, Call, NoStreams};
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
use crate::local_program::LocalEnd;
use crate::status;

/// What stands in front of a command for dom0 by a caller in dom0, where there is no user to choose.
const DEFAULT_USER: &[u8] = b"DEFAULT:";

/// The services of this machine, run as whoever runs us.
pub(super) fn services(transport: &Transport) -> Services {
    Services::from_env(Users::Any, transport.kind() != ring::Kind::Xen)
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
    let services = services(&transport);
    let prepared = prepare(&services, &command.kind, command.nogui)?;
    if detached {
        return services.start_detached(&prepared, None, None).map(|()| 0).map_err(failure);
    }
    match prepared {
        Prepared::Executable(Executable { image: Image::Shell(_), .. }) => {
            Err(Failure::trouble("dom0 runs services only"))
        }
        Prepared::Executable(service) => Err(failure(services.replace(&service))),
        Prepared::Socket(path, _) => Err(no_socket(&path.display())),
        Prepared::Tcp(address, _) => Err(no_socket(&address)),
    }
}

fn no_socket(to: &dyn std::fmt::Display) -> Failure {
    Failure::trouble(format!("{to}: a caller in dom0 cannot be connected to a socket, only to programs"))
}

/// A service of dom0 for a request that waits in a qube.
pub(super) fn serve(plan: &Plan, waiting: &Waiting) -> Result<i32, Failure> {
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    let mut daemon = Daemon::connect(&plan.socket_dir, waiting.source_id).map_err(about(&waiting.source))?;
    let unset = Endpoint { domain: DomainId::DOM0, port: Port(0) };
    daemon.service_connect(waiting.ident, unset).map_err(about(&waiting.source))?;
    let endpoint = daemon.answer(ty::SERVICE_CONNECT).map_err(about(&waiting.source))?;
    let services = services(&transport);
    let found = Command::parse_without_user(&plan.command)
        .map_err(ExecError::from)
        .map_err(failure)
        .and_then(|command| prepare(&services, &command.kind, command.nogui));

    let (channel, version) = datalink::connect(&transport, endpoint.domain.0, endpoint.port.0, plan.wait)
        .map_err(Failure::during(format_args!("connecting to {}", waiting.source)))?;
    let (mut ends_early, mut splice) = ((false, false), false);
    let started = found.and_then(|prepared| {
        LocalEnd::service(|| {
            let started = services.start(&prepared, None, Stderr::Ours).map_err(failure)?;
            splice = started.splice;
            ends_early = (started.exit_on_client_eof, started.exit_on_service_eof);
            Ok(started)
        })
    });
    let LocalEnd { child, streams, single_socket } = match started {
        Ok(local) => local,
        // The caller hears of it like of any other exit code, whether it is still there or not.
        Err(failure) => {
            let _ = pump::report(channel, version, failure.status, NoStreams::FailedInDom0);
            return Err(failure);
        }
    };
    let outcome = pump::run(
        channel,
        Call {
            stdin: streams.sink,
            stdout: Some(streams.source),
            child,
            prefix: plan.prefix.clone(),
            splice,
            single_socket,
            exit_on_client_eof: ends_early.0,
            exit_on_service_eof: ends_early.1,
            ..Call::new(Role::Service, version)
        },
    );
    status::of_served(&outcome)
}
