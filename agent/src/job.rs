//! What a daemon's request means, before anything is started.

use std::time::Instant;

use agent_core::Start;
use engine::datalink::WAIT_VM;
use engine::exec::{ExecError, ServiceConfig, Services};
use wire::command::{Command, CommandError, CommandKind, ServiceCall};
use wire::control::Endpoint;
use wire::escape::Escaped;
use wire::names::DomainId;

/// Most bytes of a command line in a log line.
const SHOWN: usize = 200;

/// One call to be started.
#[derive(Debug)]
pub(crate) struct Job {
    /// Where the data link is.
    pub(crate) endpoint: Endpoint,
    /// The service gets no streams.
    pub(crate) just: bool,
    /// The command line, made safe for a log.
    pub(crate) label: String,
    /// What to run. An error is reported to the caller over the data link, as any failure to start is.
    pub(crate) task: Result<Task, ExecError>,
    /// Until when its caller may come.
    pub(crate) until: Instant,
    /// The agent has waited for its caller before.
    pub(crate) waited: bool,
}

/// What to run, and how.
#[derive(Debug)]
pub(crate) struct Task {
    /// The user; `None` in a session, which has its user already.
    pub(crate) user: Option<String>,
    /// The user comes from the service's configuration, whatever dom0 says.
    pub(crate) is_forced: bool,
    /// Without waiting for a session, and never by a fork server.
    pub(crate) nogui: bool,
    /// The command or service.
    pub(crate) kind: CommandKind,
    /// The service's configuration; empty for commands.
    pub(crate) config: ServiceConfig,
}

impl Job {
    /// Reads the command line, and the configuration of the service if it names one.
    pub(crate) fn new(services: &Services, start: Start) -> Self {
        let Start { just, params } = start;
        let task = Task::new(services, &params.cmdline);
        let (endpoint, label) = (params.endpoint(), label(&params.cmdline));
        Self { endpoint, just, label, task, until: Instant::now() + WAIT_VM, waited: false }
    }

    /// The same for a call that the agent handed over: its command line has no user any more.
    pub(crate) fn in_session(services: &Services, just: bool, endpoint: Endpoint, cmdline: &[u8]) -> Self {
        let (label, task) = (label(cmdline), Task::in_session(services, cmdline));
        Self { endpoint, just, label, task, until: Instant::now() + WAIT_VM, waited: false }
    }

    /// Which source its log lines are about. Policy may change a caller's name, but not the number of its domain.
    pub(crate) fn log_source(&self) -> String {
        match self.endpoint.domain {
            DomainId::DOM0 => "dom0".to_owned(),
            domain => format!("domain {domain}"),
        }
    }

    /// The user whose session must exist first, and the call that waits for it.
    pub(crate) fn awaited_session(&self) -> Option<(&str, &ServiceCall)> {
        let task = self.task.as_ref().ok()?;
        match &task.kind {
            CommandKind::Service(call) if task.config.wait_for_session && !task.nogui => {
                Some((task.user.as_deref()?, call))
            }
            _ => None,
        }
    }

    /// The user and the command line for a fork server. `of_one`: the server's path does not tell whose it is.
    pub(crate) fn for_fork_server(&self, of_one: bool) -> Option<(&str, Vec<u8>)> {
        let task = self.task.as_ref().ok()?;
        if (task.is_forced && of_one) || task.nogui || !task.config.allows_fork_server() {
            return None;
        }
        let command = Command { user: None, nogui: false, kind: task.kind.clone() };
        Some((task.user.as_deref()?, command.to_cmdline()))
    }
}

impl Task {
    pub(crate) fn new(services: &Services, cmdline: &[u8]) -> Result<Self, ExecError> {
        let Command { user, nogui, kind } = Command::parse(cmdline)?;
        let mut config = config(services, &kind)?;
        let is_forced = config.force_user.is_some();
        let user = config.force_user.take().or(user).ok_or(CommandError::NoUser)?;
        Ok(Self { user: Some(user), is_forced, nogui, kind, config })
    }

    fn in_session(services: &Services, cmdline: &[u8]) -> Result<Self, ExecError> {
        let Command { nogui, kind, .. } = Command::parse_without_user(cmdline)?;
        let config = config(services, &kind)?;
        Ok(Self { user: None, is_forced: false, nogui, kind, config })
    }
}

fn config(services: &Services, kind: &CommandKind) -> Result<ServiceConfig, ExecError> {
    match kind {
        CommandKind::Service(call) => services.config(&call.service),
        CommandKind::Shell(_) => Ok(ServiceConfig::default()),
    }
}

fn label(cmdline: &[u8]) -> String {
    Escaped::new(cmdline.get(..SHOWN).unwrap_or(cmdline)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::exec::{SearchPath, Users};
    use wire::control::ExecParams;
    use wire::names::Port;

    fn job(dir: &tempfile::TempDir, cmdline: &[u8]) -> Job {
        let path = SearchPath::new(dir.path().as_os_str());
        let users = Users::Own("joan".to_owned());
        let services =
            Services { folders: path.clone(), configs: path, users, installation: engine::Installation::Lab };
        let params =
            ExecParams { connect_domain: DomainId(7), connect_port: Port(514), cmdline: cmdline.to_vec() };
        Job::new(&services, Start { just: false, params })
    }

    #[test]
    fn configuration_decides_about_sessions_users_and_fork_servers() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("write");
        write("test.Gui", "wait-for-session=true\nforce-user='root'\n");
        write("test.Socket", "skip-service-descriptor=true\n");
        write("test.Bad", "rubbish\n");

        let gui = job(&dir, b"joan:QUBESRPC test.Gui+ work");
        assert_eq!(gui.awaited_session().map(|(user, _)| user), Some("root"));
        let handed = gui.for_fork_server(false).expect("allowed");
        assert_eq!(handed, ("root", b"QUBESRPC test.Gui+ work".to_vec()));
        assert!(gui.for_fork_server(true).is_none(), "whose it is, nobody knows");
        // Every byte unchanged.
        let plain = job(&dir, b"joan:QUBESRPC test.Plain work  name  x ");
        assert_eq!(
            plain.for_fork_server(true),
            Some(("joan", b"QUBESRPC test.Plain work  name  x ".to_vec()))
        );
        let nogui = job(&dir, b"joan:nogui:QUBESRPC test.Gui+ work");
        assert!(nogui.awaited_session().is_none() && nogui.for_fork_server(false).is_none());
        assert!(job(&dir, b"joan:QUBESRPC test.Socket+ work").for_fork_server(false).is_none());
        let command = job(&dir, b"joan:echo 1");
        assert_eq!(command.for_fork_server(true).expect("allowed"), ("joan", b"echo 1".to_vec()));
        assert!(command.awaited_session().is_none());

        let code = |cmdline: &[u8]| job(&dir, cmdline).task.map(|_| ()).expect_err("fails").code();
        assert_eq!(code(b"joan:QUBESRPC test.Bad+ work"), 125);
        assert_eq!(code(b"no colon"), 125);
        assert_eq!(code(b""), 125);
    }

    #[test]
    fn a_label_is_short_and_printable() {
        let dir = tempfile::tempdir().expect("tempdir");
        let label = job(&dir, &[b"joan:\x1b[31m".as_slice(), &[b'x'; 1000]].concat()).label;
        assert!(label.len() < 300 && label.chars().all(|c| !c.is_control()), "{label:?}");
    }
}
