//! The process of one call: it opens the data link, starts the service, and pumps.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agent_core::CallId;
use engine::call as steps;
use engine::confine::Confinement;
use engine::datalink::{self, Found};
use engine::exec::{ExecError, Prepared, Services, Started, Stderr, StderrLog};
use engine::log_source::speak_for;
use engine::meter::Meter;
use engine::process::{EXIT_TROUBLE, Signals};
use engine::pump::{Call, EXIT_LOST, NoStreams, Outlived, StderrCopy};
use engine::step;
use ring::Channel;
use rustix::process::Signal;
use wire::command::CommandKind;
use wire::stream::Role;
use wire::version::Version;

use crate::admission::{Word, tell};
use crate::built_in;
use crate::ground::{Ground, ended, failed};
use crate::job::{Job, Task};

/// How long a call's process waits for its caller before the agent takes over the waiting.
const SOON: Duration = Duration::from_millis(10);

/// How long a caller may take to fetch its refusal.
const REFUSAL: Duration = Duration::from_secs(10);

/// The agent that started a call's process, and still counts the call.
#[derive(Clone, Copy)]
pub(crate) struct Agent<'a> {
    /// Where this process writes to the agent.
    pub(crate) told: BorrowedFd<'a>,
    /// Which call this is.
    pub(crate) call: CallId,
    /// The agent waits for a caller that has not come yet.
    pub(crate) waits: bool,
    /// Where this process shows how much the call has moved.
    pub(crate) meter: Option<Meter>,
}

/// Tells a caller that its call is refused, in a process of its own. Returns that process's exit status.
pub(crate) fn refuse(ground: Ground<'_>, job: &Job) -> i32 {
    tell_caller(ground, job, REFUSAL, EXIT_TROUBLE)
}

/// Tells a caller that its call's process was killed, if it still waits for that process: no other would come.
pub(crate) fn lost(ground: Ground<'_>, job: &Job) -> i32 {
    tell_caller(ground, job, datalink::next_within(ground.transport), EXIT_LOST)
}

fn tell_caller(ground: Ground<'_>, job: &Job, limit: Duration, code: i32) -> i32 {
    // Log lines about the call count as the caller's.
    speak_for(&job.log_source());
    let (domain, port) = (job.endpoint.domain.0, job.endpoint.port.0);
    let link = datalink::connect(ground.transport, domain, port, limit);
    let why = if job.just { NoStreams::LeftAlone } else { NoStreams::FailedInVm };
    // A caller that does not come need not be told.
    link.map_or(EXIT_LOST, |(channel, version)| ground.report(channel, version, code, why))
}

/// Serves one call to its end, in a process of its own. Returns that process's exit status.
pub(crate) fn run(ground: Ground<'_>, job: Job, agent: Option<Agent<'_>>) -> i32 {
    let Ground { transport, services, confinement } = ground;
    // The service may send this signal to `QREXEC_AGENT_PID`, which is this process: it must never end it. It stays
    // blocked until the process has ended, since a late signal could change how it ends.
    std::mem::forget(Signals::block(&[Signal::USR1]));
    step::reached("pump: begins");
    let (domain, port) = (job.endpoint.domain.0, job.endpoint.port.0);
    let agent_waits = agent.is_some_and(|agent| agent.waits);
    let meter = agent.and_then(|agent| agent.meter);
    let until = job.until;
    let left = || until.saturating_duration_since(Instant::now());
    let look = match job.waited {
        _ if agent_waits => left().min(SOON),
        // The caller was there: if it is gone again it does not come back, where only programs of this project meet.
        true if transport.kind() == ring::Kind::Shm => left().min(datalink::next_within(transport)),
        _ => left(),
    };
    let found = match Found::look(transport, domain, port, look) {
        Ok(found) => found,
        Err(datalink::Error::Ring(ring::Error::Timeout(_))) if agent_waits => {
            agent.iter().for_each(|agent| tell(agent.told, agent.call, Word::NotMet));
            return EXIT_LOST;
        }
        Err(error) => return no_link(domain, port, &error),
    };
    if job.just {
        return match found.greet(left()) {
            Ok((channel, version)) => just_exec(channel, version, ground, job),
            Err(error) => no_link(domain, port, &error),
        };
    }
    let ready = job.task.and_then(|task| Ok((services.prepare(&task.kind, &task.config)?, task)));
    if let Ok((prepared, task)) = &ready
        && let Some(builtin) = built_in::of(prepared)
    {
        return match found.greet(left()) {
            Ok(link) => built_in::run(ground, link, (builtin, task), (&job.label, port), meter),
            Err(error) => no_link(domain, port, &error),
        };
    }
    let (link, started) = if matches!(ready, Ok((Prepared::Executable(_), _))) {
        // The caller is there, so the program can start while HELLOs are exchanged.
        let started = start(services, ready);
        step::reached("pump: service started");
        (found.greet(left()), started)
    } else {
        // A socket's service may take long to accept, and the caller waits for HELLO: so HELLO comes first.
        match found.greet(left()) {
            Ok(link) => (Ok(link), start(services, ready)),
            Err(error) => return no_link(domain, port, &error),
        }
    };
    match (link, started) {
        (Ok((channel, version)), Ok((started, log))) => {
            let call = call(version, started, log, agent);
            pumped(channel, call, confinement, &job.label, port)
        }
        (Ok((channel, version)), Err(error)) => {
            let code = failed(&job.label, &error);
            ground.report(channel, version, code, NoStreams::FailedInVm)
        }
        // A service that was started sees the end of its streams.
        (Err(error), _) => no_link(domain, port, &error),
    }
}

fn no_link(domain: u32, port: u32, error: &datalink::Error) -> i32 {
    tracing::error!("no data link to domain {domain}, port {port}: {error}");
    EXIT_LOST
}

/// Starts the service and reports at once whether that worked.
fn just_exec(channel: Channel, version: Version, ground: Ground<'_>, job: Job) -> i32 {
    let services = ground.services;
    let started = job.task.and_then(|task| {
        let prepared = services.prepare(&task.kind, &task.config)?;
        let log = log_of(services, &task).and_then(|log| log.open().ok());
        services.start_detached(&prepared, task.user.as_deref(), log.as_ref().map(AsFd::as_fd))
    });
    let code = match started {
        Ok(()) => {
            tracing::info!("{}: started, and left alone", job.label);
            0
        }
        Err(error) => failed(&job.label, &error),
    };
    ground.report(channel, version, code, NoStreams::LeftAlone)
}

/// Starts what was found, and decides where its error output is kept.
fn start(
    services: &Services,
    ready: Result<(Prepared, Task), ExecError>,
) -> Result<(Started, Option<StderrLog>), ExecError> {
    let (prepared, task) = ready?;
    Ok((services.start(&prepared, task.user.as_deref(), Stderr::Piped)?, log_of(services, &task)))
}

/// A service's error output also goes to this machine's log; a command's does not.
fn log_of(services: &Services, task: &Task) -> Option<StderrLog> {
    let CommandKind::Service(call) = &task.kind else { return None };
    Some(StderrLog::new(call, services.installation))
}

fn call(version: Version, started: Started, log: Option<StderrLog>, agent: Option<Agent<'_>>) -> Call {
    // A socket's service has no error output.
    let log = log.filter(|_| started.stderr.is_some());
    Call {
        sink: Some(started.stdin),
        source: Some(started.stdout),
        log_stderr: log.map(|log| StderrCopy::to(log.open())),
        stderr: started.stderr,
        child: started.child,
        exit_on_client_eof: started.exit_on_client_eof,
        exit_on_service_eof: started.exit_on_service_eof,
        one_socket: if started.one_socket { asks_for_one_socket() } else { None },
        splice: started.splice,
        usbip: started.filter,
        outlived: agent.and_then(tells),
        meter: agent.and_then(|agent| agent.meter),
        ..Call::new(Role::Service, version)
    }
}

fn pumped(channel: Channel, call: Call, confinement: Confinement, label: &str, port: u32) -> i32 {
    tracing::debug!("{label}: pid {}", call.child.as_ref().map_or(0, engine::process::Child::pid));
    let since = Instant::now();
    let outcome = steps::run(channel, call, confinement);
    ended(&outcome, label, port, since)
}

/// A service that outlives its link still uses the VM's memory, and is counted until it ends: this process stays for
/// that. The port becomes free at once.
fn tells(agent: Agent<'_>) -> Option<Outlived> {
    let (told, call) = (agent.told.try_clone_to_owned().ok()?, agent.call);
    Some(Outlived::then(move || tell(told.as_fd(), call, Word::LinkOver)))
}

/// How a service asks for one socket: by a signal to `QREXEC_AGENT_PID`.
fn asks_for_one_socket() -> Option<Signals> {
    Signals::block(&[Signal::USR1])
        .inspect_err(|error| tracing::warn!("a service cannot ask for one socket: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::Start;
    use engine::Installation;
    use engine::exec::{SearchPath, Users};
    use ring::{Kind, Sizes, Transport};
    use wire::control::ExecParams;
    use wire::names::{DomainId, Port};

    #[test]
    fn what_is_logged_about_a_refused_call_is_its_callers() {
        let dir = tempfile::tempdir().unwrap();
        let path = SearchPath::new(dir.path().as_os_str());
        let users = Users::Own("joan".to_owned());
        let services =
            Services { folders: path.clone(), configs: path, users, installation: Installation::Lab };
        let cmdline = b"joan:QUBESRPC test.X+ work".to_vec();
        let params = ExecParams { connect_domain: DomainId(7), connect_port: Port(514), cmdline };
        let job = Job::new(&services, Start { just: false, params });
        let caller = Transport::new(Kind::Shm, 7, dir.path());
        let caller = std::thread::spawn(move || {
            let (channel, _) = datalink::serve(&caller, 3, 514, Sizes::both(4096), REFUSAL).unwrap();
            steps::run(channel, Call::new(Role::Client, Version::OURS), Confinement::Off).remote
        });
        let transport = Transport::new(Kind::Shm, 3, dir.path());
        // The test's own process must not be confined.
        let ground = Ground { transport: &transport, services: &services, confinement: Confinement::Off };
        assert_eq!(refuse(ground, &job), EXIT_TROUBLE);
        assert_eq!(caller.join().unwrap(), Some(EXIT_TROUBLE));
        assert_eq!(engine::log_source::source(str::to_owned), "domain 7");
    }
}
