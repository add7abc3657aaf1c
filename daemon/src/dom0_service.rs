//! A service in dom0 that a VM calls: the whole life of its process.
//!
//! The process is a fork of the daemon without any of its descriptors. It outlives a restart of the
//! daemon, and if it dies it takes one call with it.

use daemon_core::LocalService;
use engine::Installation;
use engine::call as steps;
use engine::confine::Confinement;
use engine::datalink::{self, WAIT_DOM0_SERVICE};
use engine::exec::{ExecError, Services, Started, Stderr, Users};
use engine::meter::Meter;
use engine::process::{EXIT_TROUBLE, Signals};
use engine::pump::{Call, NoStreams};
use ring::{Channel, Transport};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use wire::command::{CommandKind, ServiceCall};
use wire::stream::Role;
use wire::version::Version;

use crate::service_log::ServiceLog;

/// How the services of dom0 run.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The limit of open descriptors that they get, if it is not the daemon's own, which may have raised it for itself.
    pub files: Option<Rlimit>,
    /// The installation that they belong to.
    pub installation: Installation,
    /// The confinement of the processes that move their bytes.
    pub confinement: Confinement,
}

/// Serves one call to its end; to be run in a process of its own. Gives the exit code that the caller
/// was told, 125 if it could not be told any. What a service moves is seen at the meter.
pub fn run_service(
    service: &LocalService,
    transport: &Transport,
    manner: Manner,
    meter: Option<Meter>,
) -> i32 {
    if let Some(limit) = manner.files {
        // Programs that use select(2) fail under the raised limit.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    // The service may send this signal to `QREXEC_AGENT_PID`, which is us; it never ends us, whenever it comes.
    // Unblocked at the end, one that came late would decide how this process ends.
    std::mem::forget(Signals::block(&[Signal::USR1]));
    engine::log_source::speak_for(service.call.source.as_str());
    let (domain, port) = (service.endpoint.domain.0, service.endpoint.port.0);
    match datalink::connect(transport, domain, port, WAIT_DOM0_SERVICE) {
        Ok(link) => run(&service.call, link, manner, meter),
        Err(error) => {
            tracing::warn!("{}: {error}", name(&service.call));
            EXIT_TROUBLE
        }
    }
}

fn run(
    call: &ServiceCall,
    (channel, version): (Channel, Version),
    manner: Manner,
    meter: Option<Meter>,
) -> i32 {
    let confinement = manner.confinement;
    let services = Services::from_env(Users::Any, manner.installation);
    match start(&services, call) {
        Ok(started) => pump_to_end(call, started, (channel, version), confinement, meter),
        Err(error) => {
            tracing::warn!("{}: {error}", name(call));
            let (code, why) = (error.code(), NoStreams::FailedInDom0);
            if let Err(error) = steps::report(channel, version, code, why, confinement) {
                tracing::warn!("{}: {error}", name(call));
            }
            error.code()
        }
    }
}

fn start(services: &Services, call: &ServiceCall) -> Result<Started, ExecError> {
    let config = services.config(&call.service)?;
    if config.wait_for_session {
        services.wait_for_own_session(&call.source);
    }
    let prepared = services.prepare(&CommandKind::Service(call.clone()), &config)?;
    services.start(&prepared, None, Stderr::Piped)
}

fn pump_to_end(
    called: &ServiceCall,
    mut started: Started,
    (channel, version): (Channel, Version),
    confinement: Confinement,
    meter: Option<Meter>,
) -> i32 {
    if let Err(error) = channel.keep_from_children() {
        tracing::warn!("{}: {error}", name(called));
    }
    let log = started.stderr.take().and_then(|stderr| ServiceLog::begin(called, stderr, confinement));
    let mut call = Call::new(Role::Service, version);
    call.sink = Some(started.stdin);
    call.source = Some(started.stdout);
    call.child = started.child;
    call.exit_on_client_eof = started.exit_on_client_eof;
    call.exit_on_service_eof = started.exit_on_service_eof;
    call.splice = started.splice;
    call.usbip = started.filter;
    call.meter = meter;
    call.one_socket = if started.one_socket { asks_for_one_socket() } else { None };
    // A service whose caller is gone is one that runs in dom0: this goes on until it ends.
    let outcome = steps::run(channel, call, confinement);
    log.into_iter().for_each(ServiceLog::end);
    let exit = outcome.exit(Role::Service);
    if let Some(trouble) = &exit.trouble {
        tracing::warn!("{}: {trouble}", name(called));
    }
    exit.status
}

/// The service's way to ask for one socket: a signal to `QREXEC_AGENT_PID`.
fn asks_for_one_socket() -> Option<Signals> {
    Signals::block(&[Signal::USR1])
        .inspect_err(|error| tracing::warn!("a service cannot ask for one socket: {error}"))
        .ok()
}

fn name(call: &ServiceCall) -> String {
    let service = wire::escape::Escaped::new(call.service.as_str());
    format!("service {service} for {}", call.source)
}
