//! A command in a qube, with its data here.

use std::os::fd::AsFd;

use engine::exec::{Prepared, Services, Stderr};
use engine::pump::{Call, Outcome};
use engine::{datalink, localfd};
use ring::Transport;
use wire::command::{Command, CommandKind};
use wire::names::DomainId;
use wire::stream::Role;

use super::args::{Plan, Purpose};
use super::daemon::Daemon;
use super::{about, dom0};
use crate::failure::Failure;
use crate::local_program::{LocalEnd, LocalProgram, SavedStreams};
use crate::stdio::{self, Streams};
use crate::why::Called;

/// What the command in the qube is connected to, found before the qube hears of anything.
enum Local {
    Nothing,
    Stdio { stdin_is_both: bool },
    Program(LocalProgram),
    Service(Services, Box<Prepared>),
}

/// Runs the command in the qube and gives its exit status.
pub(super) fn call(plan: &Plan) -> Result<i32, Failure> {
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    let local = Local::find(plan, &transport)?;
    let just = plan.purpose == Purpose::StartOnly;
    let called = called(plan);

    let mut daemon = Daemon::connect(&plan.socket_dir, &plan.target).map_err(about(&plan.target))?;
    let endpoint = daemon.exec(just, DomainId::DOM0, &plan.command).map_err(about(&plan.target))?;
    let rings = transport.data_rings(None).map_err(Failure::during("making rings"))?;
    let (peer, port) = (endpoint.domain.0, endpoint.port.0);
    let (channel, version) = datalink::serve_while(
        &transport,
        peer,
        port,
        rings,
        plan.wait,
        datalink::Promise::Open(daemon.as_fd()),
    )
    .map_err(Failure::during(format_args!("waiting for {} to connect", plan.target)))?;

    let stderr = localfd::copy_stderr().map_err(Failure::during("stderr"))?;
    let (child, streams, one_socket, filter) = match local.start()? {
        Some(LocalEnd { child, streams, one_socket, filter }) => (child, Some(streams), one_socket, filter),
        None => (None, None, None, None),
    };
    let (sink, source) = streams.map(|streams| (streams.sink, streams.source)).unzip();
    let outcome = engine::call::run(
        channel,
        Call {
            sink: sink.flatten(),
            source,
            stderr: Some(stderr),
            child,
            filter_sink: plan.filter_stdout,
            filter_stderr: plan.filter_stderr,
            prefix: plan.prefix.clone(),
            one_socket,
            usbip: plan.usbip.or(filter),
            ..Call::new(Role::Client, version)
        },
        plan.confinement,
    );
    // The daemon counts the call as its client's as long as we hold on to it.
    drop(daemon);
    let why = called.and_then(|called| called.ended(&outcome));
    why.iter().for_each(|why| engine::say::error(format_args!("{}: {why}", super::PROGRAM)));
    crate::failure::status_of_call(&without_local_code(outcome))
}

/// The service that is called, if it is one and no command.
fn called(plan: &Plan) -> Option<Called> {
    match Command::parse(&plan.command).ok()?.kind {
        CommandKind::Service(call) => Some(Called::now(&plan.target, &call.service)),
        CommandKind::Shell(_) => None,
    }
}

/// Where both failed it is the service's code that counts here: whoever writes `-l` calls the service, and the local
/// command is only what its data come from or go to.
fn without_local_code(outcome: Outcome) -> Outcome {
    let failed = outcome.remote.is_some_and(|code| code != 0);
    Outcome { local: outcome.local.filter(|_| !failed), ..outcome }
}

impl Local {
    fn find(plan: &Plan, transport: &Transport) -> Result<Self, Failure> {
        let Purpose::Local(line) = &plan.purpose else {
            if plan.stdin_is_both {
                stdio::check_stdin_socket()?;
            }
            let stdin_is_both = plan.stdin_is_both;
            return Ok(if plan.purpose == Purpose::StartOnly {
                Self::Nothing
            } else {
                Self::Stdio { stdin_is_both }
            });
        };
        let command =
            Command::parse_without_user(line).map_err(|error| Failure::usage(format!("-l: {error}")))?;
        match command.kind {
            CommandKind::Shell(text) => {
                let program = LocalProgram::shell(std::os::unix::ffi::OsStrExt::from_bytes(&text));
                Ok(Self::Program(program.with_env("QREXEC_REMOTE_DOMAIN", plan.target.as_str())))
            }
            kind => {
                let services = dom0::services(transport)?;
                let prepared = dom0::prepare(&services, &kind, command.nogui)?;
                Ok(Self::Service(services, Box::new(prepared)))
            }
        }
    }

    fn start(self) -> Result<Option<LocalEnd>, Failure> {
        match self {
            Self::Nothing => Ok(None),
            Self::Stdio { stdin_is_both } => {
                let streams = Streams::take(stdin_is_both).map_err(Failure::during("stdin and stdout"))?;
                Ok(Some(streams.into()))
            }
            Self::Program(program) => program.start(&SavedStreams::default()).map(Some),
            Self::Service(services, prepared) => {
                let start = || services.start(&prepared, None, Stderr::Ours).map_err(dom0::failure);
                LocalEnd::service(start).map(Some)
            }
        }
    }
}
