//! Where a program is: in dom0, in a qube, or in a machine of a lab that stands for one of these; and which qubes there
//! are.

use std::path::PathBuf;

use cli::client_vm;
use cli::qubesd::{self, Socket};
use wire::names::{NameError, Target};

/// Longest list of qubes, and longest answer about one, that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Whose qubes these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A qube: it asks its agent.
    Qube,
    /// dom0, where `qubesd` manages the qubes.
    Managed,
    /// dom0 of a lab, or of a machine without `qubesd`: what runs has a daemon.
    Plain,
}

impl Place {
    /// Where we are. In a lab its variables say so; else who has an agent is a qube.
    pub fn here() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if is_set("QREXEC_AGENT_SOCKET") || (!is_set("QREXEC_SOCKET_DIR") && client_vm::own::has_agent()) {
            return Self::Qube;
        }
        let managed = is_set("QREXEC_QUBESD_DIR") || !is_set("QREXEC_SOCKET_DIR");
        if managed && Socket::Admin.path().exists() { Self::Managed } else { Self::Plain }
    }

    /// Whether calls are made by `qrexec-client`.
    pub fn is_dom0(self) -> bool {
        self != Self::Qube
    }
}

/// Whether a qube runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does, or begins to.
    Running,
    /// It is stopped for a while.
    Paused,
    /// It does not.
    Halted,
}

/// A qube of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qube {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub state: State,
}

/// Why we are not told about qubes. The text is for stderr.
#[derive(Debug, thiserror::Error)]
pub enum NotTold {
    /// A qube asks for what only dom0 knows.
    #[error("only dom0 knows all qubes")]
    Qube,
    /// No qube is called so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `qubesd` refuses, or cannot be asked.
    #[error(transparent)]
    Qubesd(#[from] qubesd::Error),
    /// A file or a folder cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The description of the machines is none.
    #[error("{}: {error}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Every qube but dom0, by name.
///
/// # Errors
/// Nobody tells us.
pub fn qubes(place: Place) -> Result<Vec<Qube>, NotTold> {
    let mut found = match place {
        Place::Managed => listed(&ask("admin.vm.List", "dom0")?),
        Place::Plain => plain()?,
        Place::Qube => return Err(NotTold::Qube),
    };
    found.retain(|qube| qube.name != "dom0");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The answer of `qubesd` about a qube; `METHOD+ARGUMENT` for one with an argument.
///
/// # Errors
/// It refuses, or cannot be asked.
pub fn ask(method: &str, qube: &str) -> Result<String, NotTold> {
    let answer = qubesd::call(Socket::Admin, method, &Target::new(qube)?, b"")?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A feature of a qube or its template; `None` if it has none.
pub fn feature(qube: &str, name: &str) -> Option<String> {
    ask(&format!("admin.vm.feature.CheckWithTemplate+{name}"), qube).ok()
}

/// Whether a qube runs, as `qubesd` says.
///
/// # Errors
/// There is no such qube, or it cannot be asked.
pub fn state(qube: &str) -> Result<State, NotTold> {
    Ok(state_of(&ask("admin.vm.CurrentState", qube)?))
}

fn state_of(words: &str) -> State {
    let value = |key: &str| words.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap_or("");
    match [value("power_state="), value("state=")] {
        ["Halted" | "Halting" | "Dying" | "Crashed", _]
        | ["", "Halted" | "Halting" | "Dying" | "Crashed"] => State::Halted,
        ["Paused" | "Suspended", _] | ["", "Paused" | "Suspended"] => State::Paused,
        _ => State::Running,
    }
}

/// Lines `NAME class=… state=…`.
fn listed(answer: &str) -> Vec<Qube> {
    let lines = answer.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(name, rest)| Qube { name: name.to_owned(), state: state_of(rest) }).collect()
}

/// What the description of the machines says, or the daemons that there are. What has a daemon runs.
fn plain() -> Result<Vec<Qube>, NotTold> {
    let folder = std::env::var_os("QREXEC_SOCKET_DIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("/var/run/qubes"), PathBuf::from);
    let state = |name: &str| match folder.join(format!("qrexec.{name}")).exists() {
        true => State::Running,
        false => State::Halted,
    };
    if let Some(path) = std::env::var_os("QREXEC_SYSTEM_INFO") {
        let path = PathBuf::from(path);
        let file = std::fs::File::open(&path).map_err(|error| NotTold::Read { path: path.clone(), error })?;
        let system: serde_json::Value = serde_json::from_reader(std::io::Read::take(file, MAX_FILE))
            .map_err(|error| NotTold::Description { path, error })?;
        let domains = system.get("domains").and_then(|domains| domains.as_object());
        let names = domains.into_iter().flat_map(|domains| domains.keys());
        return Ok(names.map(|name| Qube { name: name.clone(), state: state(name) }).collect());
    }
    let entries =
        std::fs::read_dir(&folder).map_err(|error| NotTold::Read { path: folder.clone(), error })?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // A daemon has links by number and UUID, too.
    let names = names.filter_map(|name| name.strip_prefix("qrexec.").map(str::to_owned));
    let is_name = |name: &String| name.starts_with(|c: char| c.is_ascii_alphabetic()) && !name.contains(':');
    Ok(names.filter(is_name).map(|name| Qube { name, state: State::Running }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_states_of_qubesd() {
        let list =
            "dom0 class=AdminVM state=Running\nwork class=AppVM state=Halted\nnet class=AppVM state=Paused\n";
        let states: Vec<_> = listed(list).into_iter().map(|qube| qube.state).collect();
        assert_eq!(states, [State::Running, State::Halted, State::Paused]);
        assert_eq!(state_of("mem=0 mem_static_max=400 cputime=0 power_state=Halted"), State::Halted);
        assert_eq!(state_of("power_state=Transient"), State::Running);
    }
}
