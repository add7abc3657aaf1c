//! What the system knows about a running process.

use std::fs;

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// What would be free if the process ended (USS).
    pub(super) own: u64,
    /// The same, and its part of what it shares (PSS): rings are in it.
    pub(super) proportional: u64,
    /// What the kernel needs to map it.
    pub(super) tables: u64,
}

/// Seconds of processor time that the live threads of a process have used, the kernel's work for it included.
pub(super) fn cpu_seconds(pid: i32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let times = threads
        .filter_map(|thread| run_time(&fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?));
    let nanoseconds: u64 = times.sum();
    if nanoseconds > 0 {
        return Some(nanoseconds as f64 / 1e9);
    }
    ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
        .map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The first number of `schedstat`: nanoseconds on a processor.
fn run_time(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// `utime` and `stime` of `/proc/PID/stat`, fields 14 and 15; the name in brackets may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// The memory of a process.
pub(super) fn memory(pid: i32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tables = kib(&status, "VmPTE")?.checked_mul(1024)?;
    Some(Memory { tables, ..rollup(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)? })
}

/// The number of a line `NAME: 12 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn rollup(text: &str) -> Option<Memory> {
    let bytes = |name: &str| kib(text, name)?.checked_mul(1024);
    let own = bytes("Private_Clean")?.checked_add(bytes("Private_Dirty")?)?;
    Some(Memory { own, proportional: bytes("Pss")?, tables: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_figures_are_there() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(cpu_seconds(pid).unwrap() > 0.0);
        assert!(memory(pid).unwrap().own > 0);
        assert_eq!(cpu_seconds(i32::MAX), None);
    }

    #[test]
    fn files_are_read_by_the_field() {
        assert_eq!(ticks("7 (a) b) S 1 1 1 0 -1 4 5 6 7 8 30 12 0 0 20"), Some(42));
        let text =
            "55 rollup\nRss: 9 kB\nPss:   5 kB\nPss_Dirty: 1 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n";
        assert_eq!(rollup(text), Some(Memory { own: 3072, proportional: 5120, tables: 0 }));
    }
}
