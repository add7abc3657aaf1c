//! What the programs of a lab hold at rest.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::Lab;

use crate::common::{eventually, meeting_places};

/// How long nothing may change before it is taken for the end of all changes.
const REST: Duration = Duration::from_millis(500);

/// What one agent or daemon holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// What each leads to.
    descriptors: Vec<String>,
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
    /// Of a lab in which nobody makes a call any more: as soon as its programs have heard of the end of all of them, which
    /// nothing announces. So it is looked until nothing has changed for a while.
    pub(crate) fn at_rest(lab: &Lab) -> Self {
        let mut books = Self::of(lab);
        let mut since = Instant::now();
        eventually("the programs' rest", || {
            let now = Self::of(lab);
            if !now.has_as_much_as(&books) {
                since = Instant::now();
            }
            books = now;
            since.elapsed() >= REST
        });
        books
    }

    fn of(lab: &Lab) -> Self {
        let processes = lab.processes().into_iter();
        // One that ends just now is none of them.
        let residents = processes
            .filter_map(|process| Some(((process.vm, process.program, process.pid), Held::by(process.pid)?)));
        let mut files = meeting_places(lab);
        files.extend(names(&lab.layout().sockets()));
        files.sort();
        Self { residents: residents.collect(), files }
    }

    /// The same processes, with as many descriptors and children, and the same files.
    fn has_as_much_as(&self, other: &Self) -> bool {
        let count = |held: &Held| (held.descriptors.len(), held.children);
        let all = |books: &Self| {
            books.residents.iter().map(|(name, held)| (name.clone(), count(held))).collect::<Vec<_>>()
        };
        self.files == other.files && all(self) == all(other)
    }

    /// Nobody and nothing is there that was not before, and no program has grown by more than `growth` KiB.
    pub(crate) fn assert_like(&self, before: &Self, growth: u64) {
        let left: Vec<_> = self.files.iter().filter(|name| !before.files.contains(name)).collect();
        assert!(left.iter().all(|name| is_above_upstreams_ports(name)), "{left:?}");
        assert!(self.residents.keys().eq(before.residents.keys()), "{before}\n{self}");
        for (name, held) in &self.residents {
            let then = &before.residents[name];
            assert!(
                (held.descriptors.len(), held.children) == (then.descriptors.len(), then.children),
                "{name:?} held {then:?}, and now {held:?}"
            );
            assert!(held.memory <= then.memory + growth, "{name:?}: {then:?} became {held:?}");
        }
    }
}

/// What a killed client leaves is removed when its port is used again. The soak uses those again that upstream knows;
/// a port above them was needed only while very many were in use.
fn is_above_upstreams_ports(name: &str) -> bool {
    let port = name.strip_suffix(".sock").and_then(|name| name.rsplit('.').next()?.parse::<u32>().ok());
    port.is_some_and(|port| port > 768)
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((vm, program, _), held) in &self.residents {
            write!(f, "{program} of {vm}: {} fds, {} KiB; ", held.descriptors.len(), held.memory)?;
        }
        write!(f, "{} files", self.files.len())
    }
}

impl Held {
    fn by(pid: i32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let memory =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        Some(Self {
            descriptors: descriptors(pid),
            children: children(pid),
            memory: memory?.parse().unwrap(),
        })
    }
}

/// What a process's descriptors lead to; sockets with what the system knows of them.
fn descriptors(pid: i32) -> Vec<String> {
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let folder = format!("/proc/{pid}/fd");
    let leads = |name: String| {
        let to = fs::read_link(format!("{folder}/{name}")).ok()?.to_string_lossy().into_owned();
        let inode = to.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        // Its columns: address, count, protocol, flags, type, state, inode, path.
        let known = inode.and_then(|inode| {
            sockets.lines().find(|line| line.split_ascii_whitespace().nth(6) == Some(inode))
        });
        let known = known.map(|line| line.split_ascii_whitespace().skip(3).collect::<Vec<_>>().join(" "));
        Some(format!("{name}: {to} {}", known.unwrap_or_default()))
    };
    names(Path::new(&folder)).filter_map(leads).collect()
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
