//! Where and when something was measured.

use std::fs;
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The machine under the measurements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// The processor's name.
    pub(super) cpu: String,
    /// How many processors this process may use.
    pub(super) cores: usize,
    /// Memory in bytes.
    pub(super) memory: u64,
    /// Name and release of the kernel.
    pub(super) kernel: String,
    /// The system's word for the processor's family.
    pub(super) architecture: String,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let architecture = text(uname.machine());
        Self {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| architecture.clone()),
            cores: available_parallelism().map_or(1, usize::from),
            memory: memory().unwrap_or(0),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            architecture,
        }
    }
}

/// The first `name: value` of a file.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn memory() -> Option<u64> {
    let kib: u64 = field("/proc/meminfo", "MemTotal")?.split(' ').next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Seconds that all processors together have worked since the machine's start; what a host took away is not in it.
pub(super) fn busy() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let mut fields = text.lines().next()?.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    // user, nice, system, idle, iowait, irq, softirq
    let mut next = || fields.next()?.ok();
    let (user, nice, system, _, _, irq, softirq) =
        (next()?, next()?, next()?, next()?, next()?, next()?, next()?);
    let ticks: u64 = [user, nice, system, irq, softirq].iter().sum();
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The time of day in UTC, as RFC 3339 writes it.
pub(super) fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    rfc3339(seconds)
}

/// Seconds since 1970 as a date of the Gregorian calendar. Years begin in March here, so that the leap day is a year's
/// last; 719,468 days lie between 0000-03-01 and 1970-01-01, and 146,097 in 400 years.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn a_machine_is_known() {
        let here = Machine::here();
        assert!(here.cores > 0 && here.memory > 0 && here.kernel.starts_with("Linux "), "{here:?}");
    }
}
