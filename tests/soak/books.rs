//! What the programs of a lab hold at rest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use cli::lab::Lab;

use crate::common::meeting_places;

/// What one agent or daemon holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    /// Those that have ended and were not waited for count.
    children: usize,
    /// Memory of its own, in KiB.
    memory: u64,
}

/// What all of them hold, and the files they leave.
#[derive(Debug)]
pub(crate) struct Books {
    /// By machine, program and process: nobody may have been replaced.
    residents: BTreeMap<(String, String, i32), Held>,
    /// Names in the transports' meeting places, which a lab has instead of `/dev/shm`, and in the folder of the daemons'
    /// sockets.
    files: Vec<String>,
}

impl Books {
    /// Of a lab in which nobody makes a call.
    pub(crate) fn of(lab: &Lab) -> Self {
        let processes = lab.processes().into_iter();
        let residents =
            processes.map(|process| ((process.vm, process.program, process.pid), Held::by(process.pid)));
        let mut files = meeting_places(lab);
        files.extend(names(&lab.layout().sockets()));
        files.sort();
        Self { residents: residents.collect(), files }
    }

    /// Nobody and nothing is there that was not before, and no program has grown by more than `growth` KiB.
    pub(crate) fn assert_like(&self, before: &Self, growth: u64) {
        let left: Vec<_> = self.files.iter().filter(|name| !before.files.contains(name)).collect();
        assert!(left.iter().all(|name| is_above_the_fields_ports(name)), "{left:?}");
        assert!(self.residents.keys().eq(before.residents.keys()), "{before}\n{self}");
        for (name, held) in &self.residents {
            let then = &before.residents[name];
            assert_eq!(
                (held.descriptors, held.children),
                (then.descriptors, then.children),
                "{name:?} held {then:?}"
            );
            assert!(held.memory <= then.memory + growth, "{name:?}: {then:?} became {held:?}");
        }
    }
}

/// What a killed client leaves is removed when its port is used again. The soak uses those again that the field knows;
/// a port above them was needed only while very many were in use.
fn is_above_the_fields_ports(name: &str) -> bool {
    let port = name.strip_suffix(".sock").and_then(|name| name.rsplit('.').next()?.parse::<u32>().ok());
    port.is_some_and(|port| port > 768)
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((vm, program, _), held) in &self.residents {
            write!(f, "{program} of {vm}: {} fds, {} KiB; ", held.descriptors, held.memory)?;
        }
        write!(f, "{} files", self.files.len())
    }
}

impl Held {
    fn by(pid: i32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        Self {
            descriptors: names(Path::new(&format!("/proc/{pid}/fd"))).count(),
            children: children(pid),
            memory: memory.unwrap().parse().unwrap(),
        }
    }
}

/// How many processes have this parent, dead or alive.
fn children(parent: i32) -> usize {
    let is_child = |name: &String| {
        let Ok(stat) = fs::read_to_string(format!("/proc/{name}/stat")) else { return false };
        // proc(5): state and parent come after the name in brackets, which may contain anything.
        let after = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().nth(1));
        after.flatten().is_some_and(|number| number.parse() == Ok(parent))
    };
    names(Path::new("/proc")).filter(is_child).count()
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
}
