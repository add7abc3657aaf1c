//! Why a call came to nothing, for whoever made it, in one line.
//!
//! A caller gets a number, and who knows the reason wrote it into a log. On a system those logs are other machines', so the
//! line says which one to ask. In a lab all of them are the caller's own, and the line has the reason.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engine::pump::Outcome;
use wire::escape::Escaped;
use wire::names::{ServiceName, Target};

use crate::status;

/// As much of a log's end is looked at.
const TAIL: u64 = 64 << 10;

/// A call, with the moment at which it was begun.
#[derive(Debug)]
pub struct Called {
    target: String,
    /// With its plus sign.
    service: String,
    since: String,
    lab: Option<LabLogs>,
}

/// The logs of a lab, seen from one of its machines.
#[derive(Debug)]
struct LabLogs {
    /// `vm` in the lab's folder.
    machines: PathBuf,
    own: String,
    /// Logs of those who may serve the call, at their ends: a confined process opens nothing later.
    open: Vec<(PathBuf, File)>,
}

impl Called {
    /// This call, which is about to be made.
    #[must_use]
    pub fn now(target: &Target, service: &ServiceName) -> Self {
        Self::by(target.as_str(), &service.with_plus(), |name| std::env::var_os(name))
    }

    fn by(target: &str, service: &str, environment: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| environment(name).and_then(|value| value.into_string().ok());
        let is_lab = text("QREXEC_INSTALLATION").is_some_and(|word| word == "lab");
        let machines = environment("QREXEC_LOG_DIR")
            .and_then(|log| Some(Path::new(&log).ancestors().nth(2)?.to_owned()));
        let lab = machines.zip(text("QUBES_LAB_VM")).filter(|_| is_lab);
        Self {
            target: target.to_owned(),
            service: service.to_owned(),
            since: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            lab: lab.map(|(machines, own)| LabLogs::open(machines, own, target)),
        }
    }

    /// Why it was refused, and where to look.
    #[must_use]
    pub fn refused(&self) -> String {
        let Some(lab) = &self.lab else {
            return "refused by policy; dom0's log has the reason (or this qube's, if dom0 could not be asked)".to_owned();
        };
        let service = format!("qrexec: {}: ", self.service);
        let to = format!(" -> {}: ", self.target);
        let of_dom0 = |line: &str| {
            let (_, what) = line.split_once(&service)?.1.split_once(&to)?;
            (what.starts_with("denied") || what.starts_with("refused")).then(|| what.to_owned())
        };
        let of_agent = |line: &str| Some(line.split_once("a request is refused: ")?.1.to_owned());
        let (dom0, agent) = (lab.daemon(), lab.agent(&lab.own));
        if let Some(why) = self.last(&dom0, of_dom0) {
            return format!("{why}; the log: {}", dom0.display());
        }
        if let Some(why) = self.last(&agent, of_agent) {
            return format!("refused: {why}; the log: {}", agent.display());
        }
        format!("refused; the logs: {} and {}", dom0.display(), agent.display())
    }

    /// Why it ended with a code that is not the service's own: 127 or 125 without a word. `None`: it may well be.
    #[must_use]
    pub fn ended(&self, outcome: &Outcome) -> Option<String> {
        let code = outcome.remote.filter(|code| [status::NOT_FOUND, status::TROUBLE].contains(code))?;
        if outcome.bytes_in > 0 {
            return None;
        }
        let Some(lab) = &self.lab else {
            let (target, service) = (Escaped::new(&self.target), Escaped::new(&self.service));
            let why =
                if code == status::NOT_FOUND { "there may be no" } else { "it may not be possible to start" };
            return Some(format!(
                "exit code {code} and no word: {why} {service} in {target}, whose log says so"
            ));
        };
        // A command of dom0 may have no plus sign.
        let call = format!("QUBESRPC {} ", self.service);
        let bare = format!("QUBESRPC {} ", self.service.strip_suffix('+').unwrap_or(&self.service));
        let failed = format!(": exit code {code}: ");
        let of_agent = |line: &str| {
            let (_, of_call) = line.split_once(&call).or_else(|| line.split_once(&bare))?;
            Some(of_call.split_once(&failed)?.1.to_owned())
        };
        let in_dom0 = format!("service {} for ", self.service);
        let of_dom0 = |line: &str| Some(line.split_once(&in_dom0)?.1.split_once(": ")?.1.to_owned());
        let dom0 = lab.daemon();
        let agents = lab.open.iter().map(|(path, _)| path.clone()).filter(|path| *path != dom0);
        let served = agents.filter_map(|log| Some((self.last(&log, of_agent)?, log)));
        let by_dom0 = self.last(&dom0, of_dom0).map(|why| (why, dom0.clone()));
        let (why, log) = served.chain(by_dom0).next()?;
        Some(format!("exit code {code}: {why}; the log: {}", log.display()))
    }

    /// What the last line says that was written since the call began and that means something.
    fn last(&self, log: &Path, means: impl Fn(&str) -> Option<String>) -> Option<String> {
        let open = self.lab.iter().flat_map(|lab| &lab.open).find(|(path, _)| path == log);
        let text = open.map_or_else(|| tail(log), |(_, file)| rest(file))?;
        let lines = text.lines().rev();
        lines.take_while(|line| !is_before(line, &self.since)).find_map(means)
    }
}

impl LabLogs {
    /// Opens the logs of the target and of dom0; of all, where the target is no machine's name.
    fn open(machines: PathBuf, own: String, target: &str) -> Self {
        let mut logs = Self { machines, own, open: Vec::new() };
        let served = logs.agent(target);
        let agents = match served.exists() {
            true => vec![served],
            false => logs.names().iter().map(|name| logs.agent(name)).collect(),
        };
        let ends = agents.into_iter().chain([logs.daemon()]).filter_map(|path| {
            let mut file = File::open(&path).ok()?;
            file.seek(SeekFrom::End(0)).ok()?;
            Some((path, file))
        });
        logs.open = ends.collect();
        logs
    }

    fn log(&self, machine: &str, name: &str) -> PathBuf {
        self.machines.join(machine).join("log").join(name)
    }

    /// Of dom0, about this machine's calls.
    fn daemon(&self) -> PathBuf {
        self.log("dom0", &format!("daemon-{}.log", self.own))
    }

    fn agent(&self, machine: &str) -> PathBuf {
        self.log(machine, "agent.log")
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.machines).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Whether a line says that it was written before that moment. Moments of this form are in the order of their texts.
fn is_before(line: &str, since: &str) -> bool {
    line.split(' ').next().is_some_and(|word| word.len() == since.len() && word < since)
}

/// What was written behind the place of this log, by system calls that a confined process has.
fn rest(log: &File) -> Option<String> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while bytes.len() < TAIL as usize {
        match rustix::io::read(log, &mut piece).ok()? {
            0 => break,
            n => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn called(folder: Option<&Path>) -> Called {
        Called::by("vault", "test.Add+1", |name| match (name, folder) {
            ("QREXEC_INSTALLATION", Some(_)) => Some("lab".into()),
            ("QUBES_LAB_VM", Some(_)) => Some("work".into()),
            ("QREXEC_LOG_DIR", Some(folder)) => Some(folder.join("vm/work/log").into()),
            _ => None,
        })
    }

    fn write(folder: &Path, machine: &str, log: &str, lines: &[&str]) -> PathBuf {
        let logs = folder.join("vm").join(machine).join("log");
        std::fs::create_dir_all(&logs).unwrap();
        let path = logs.join(log);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn ended(code: i32, bytes_in: u64) -> Outcome {
        Outcome { remote: Some(code), bytes_in, ..Outcome::default() }
    }

    const LATER: &str = "2999-01-01T00:00:00.000Z";
    const EARLIER: &str = "1999-01-01T00:00:00.000Z";

    #[test]
    fn on_a_system_nothing_is_said_that_a_qube_may_not_know() {
        let called = called(None);
        assert!(called.refused().contains("dom0's log has the reason"));
        assert!(called.ended(&ended(127, 0)).unwrap().contains("no test.Add+1 in vault"));
        assert!(called.ended(&ended(125, 0)).is_some());
        // Who says something speaks for themselves.
        assert_eq!(called.ended(&ended(127, 1)), None);
        assert_eq!(called.ended(&ended(1, 0)), None);
        assert_eq!(called.ended(&Outcome::default()), None);
    }

    #[test]
    fn in_a_lab_the_reason_is_said_and_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let called = called(Some(folder.path()));
        assert!(called.refused().starts_with("refused; the logs: "));
        let denied = format!("{LATER}  INFO qrexec: test.Add+1: work -> vault: denied: no rule matches");
        let log = write(folder.path(), "dom0", "daemon-work.log", &[&denied]);
        assert_eq!(called.refused(), format!("denied: no rule matches; the log: {}", log.display()));
    }

    #[test]
    fn a_reason_of_another_call_or_of_an_earlier_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let called = called(Some(folder.path()));
        let lines = [
            format!("{EARLIER}  INFO qrexec: test.Add+1: work -> vault: denied: long ago"),
            format!("{LATER}  INFO qrexec: test.Add+1: work -> other: denied: elsewhere"),
            format!(
                "{LATER}  INFO qrexec: test.Add+1: work -> vault: allowed to vault, ended after 1 s, port 513"
            ),
        ];
        write(folder.path(), "dom0", "daemon-work.log", &lines.each_ref().map(String::as_str));
        let own = format!("{LATER}  WARN a request is refused: there is no connection to dom0");
        write(folder.path(), "work", "agent.log", &[&own]);
        assert!(called.refused().starts_with("refused: there is no connection to dom0; the log: "));
    }

    #[test]
    fn in_a_lab_a_services_own_code_is_told_from_one_that_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let vault = write(folder.path(), "vault", "agent.log", &["long ago"]);
        let dom0 = write(folder.path(), "dom0", "daemon-work.log", &[]);
        let add = |log: &Path, line: String| {
            let mut log = File::options().append(true).open(log).unwrap();
            writeln!(log, "{line}").unwrap();
        };
        let failed = || {
            format!(
                "{LATER} ERROR joan:QUBESRPC test.Add+1 work: exit code 127: there is no service test.Add+1"
            )
        };
        add(&vault, failed());
        let first = called(Some(folder.path()));
        add(
            &vault,
            format!("{LATER}  INFO joan:QUBESRPC test.Add+1 work: exit code 127, 0 bytes in, 0 bytes out"),
        );
        assert_eq!(first.ended(&ended(127, 0)), None);
        let second = called(Some(folder.path()));
        add(&vault, failed());
        let why = second.ended(&ended(127, 0)).unwrap();
        assert!(why.starts_with("exit code 127: there is no service test.Add+1; the log: "), "{why}");
        let third = called(Some(folder.path()));
        add(&dom0, format!("{LATER}  WARN service test.Add+1 for work: there is no service test.Add+1"));
        assert!(third.ended(&ended(127, 0)).unwrap().contains("there is no service"));
    }
}
