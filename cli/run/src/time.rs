//! The services that tell and set the time: `qubes.GetDate`, `qubes.GetRandomizedTime`, `qubes.SetDateTime`, and
//! `qubes-sync-clock`, which reads what `qubes.GetDate` says.

use std::ffi::OsString;
use std::io::Read;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cli::status;
use engine::say;
use rustix::time::{ClockId, Timespec, clock_settime};
use wire::escape::Escaped;

use crate::children::find;
use crate::place::{self, Place, State};

/// `2026-11-30T13:07:59+00:00` and a newline.
const SHORT: usize = 26;
/// The same with `,167207742` behind the seconds.
const LONG: usize = 36;
/// Nobody's clock is older: 2022-07-10T17:08:31.
const OLDEST: Duration = Duration::from_secs(1_657_472_911);
/// Clocks that differ by no more are equal.
const CLOSE: Duration = Duration::from_secs(2);
/// The farthest that a randomized time is away, in seconds.
const FAR: u64 = 180;

/// The form in which dates are said.
fn date(now: SystemTime, nanoseconds: bool) -> String {
    let text = if nanoseconds {
        humantime::format_rfc3339_nanos(now).to_string().replace('.', ",")
    } else {
        humantime::format_rfc3339_seconds(now).to_string()
    };
    text.replace('Z', "+00:00\n")
}

/// Why a clock was not set. The text is for stderr.
#[derive(Debug, thiserror::Error)]
enum NotSet {
    #[error(transparent)]
    Input(std::io::Error),
    #[error("expected {SHORT} or {LONG} bytes, got {0}")]
    Length(usize),
    #[error("no date: {0}")]
    NoDate(String),
    #[error("no date: {shown}: {error}")]
    Date { shown: String, error: humantime::TimestampError },
    #[error("not in UTC: {0}")]
    NotUtc(String),
    #[error("older than this program: {0}")]
    TooOld(String),
    #[error(transparent)]
    Before1970(#[from] std::time::SystemTimeError),
    #[error(transparent)]
    TooLate(#[from] std::num::TryFromIntError),
    #[error("cannot set the clock from {from} to {to}: {errno}")]
    Clock { from: String, to: String, errno: rustix::io::Errno },
}

/// The time that a date says, if it is one that a clock may be set to.
fn read(bytes: &[u8]) -> Result<SystemTime, NotSet> {
    if bytes.len() != SHORT && bytes.len() != LONG {
        return Err(NotSet::Length(bytes.len()));
    }
    let shown = || Escaped::new(bytes.trim_ascii_end()).to_string();
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii());
    let text = text.and_then(|text| text.strip_suffix('\n')).ok_or_else(|| NotSet::NoDate(shown()))?;
    let text = text.strip_suffix("+00:00").ok_or_else(|| NotSet::NotUtc(shown()))?;
    let time = humantime::parse_rfc3339(&format!("{}Z", text.replace(',', ".")));
    let time = time.map_err(|error| NotSet::Date { shown: shown(), error })?;
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) if since > OLDEST => Ok(time),
        _ => Err(NotSet::TooOld(shown())),
    }
}

/// Whether two clocks differ.
fn differs(one: SystemTime, other: SystemTime) -> bool {
    let apart = one.duration_since(other).unwrap_or_else(|error| error.duration());
    apart > CLOSE
}

/// `qubes.GetDate`: the time of this qube; in dom0 that of the qube that has the clock, where there is one.
pub fn get_date(args: Vec<OsString>) -> i32 {
    let nanoseconds = args.len() > 1;
    match clock() {
        Clock::Own => {
            say_exactly(&date(SystemTime::now(), nanoseconds));
            0
        }
        Clock::None => 0,
        Clock::Of(qube) => {
            let argument = if nanoseconds { "nanoseconds" } else { "" };
            let mut command = Command::new(find("qrexec-client"));
            command.args(["-d", &qube, "--"]).arg(format!("DEFAULT:QUBESRPC qubes.GetDate+{argument} dom0"));
            let ended = command.stdin(std::process::Stdio::null()).status();
            ended.ok().and_then(|status| status.code()).unwrap_or(status::TROUBLE)
        }
    }
}

enum Clock {
    Own,
    Of(String),
    /// A system that wants none.
    None,
}

fn clock() -> Clock {
    if Place::here() != Place::Managed {
        return Clock::Own;
    }
    let Ok(answer) = place::ask("admin.property.Get+clockvm", "dom0") else { return Clock::Own };
    match answer.split(" type=vm ").nth(1).map(str::trim) {
        None | Some("") => Clock::None,
        Some("dom0") => Clock::Own,
        Some(qube) => match place::state(qube) {
            Ok(State::Running) => Clock::Of(qube.to_owned()),
            _ => Clock::Own,
        },
    }
}

/// Without a line's end of its own.
fn say_exactly(text: &str) {
    say::output(text.trim_end_matches('\n'));
}

/// `qubes.GetRandomizedTime`: a time near this one, which tells nothing about the clock's exact state.
pub fn randomized(_: Vec<OsString>) -> i32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut bytes = [0; 16];
    if let Err(error) = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        say::error(format_args!("qubes.GetRandomizedTime: {error}"));
        return status::TROUBLE;
    }
    say::output(near(now, u128::from_ne_bytes(bytes)));
    0
}

fn near(now: u64, random: u128) -> String {
    let (seconds, rest) = (random % u128::from(FAR + 1), random / u128::from(FAR + 1));
    let (later, rest) = (rest % 2 == 1, rest / 2);
    let seconds = u64::try_from(seconds).unwrap_or_default();
    let time = if later { now.saturating_add(seconds) } else { now.saturating_sub(seconds) };
    format!("{time}.{:09}", rest % 1_000_000_000)
}

/// `qubes.SetDateTime`, as root.
pub fn set_date_time(_: Vec<OsString>) -> i32 {
    set("qubes.SetDateTime")
}

/// `qubes-sync-clock`: sets the clock to the date on stdin, as root.
pub fn sync_clock(_: Vec<OsString>) -> i32 {
    set("qubes-sync-clock")
}

fn set(program: &str) -> i32 {
    let mut bytes = Vec::new();
    let read_all = std::io::stdin().take(LONG as u64 + 1).read_to_end(&mut bytes);
    let done = read_all.map_err(NotSet::Input).and_then(|_| read(&bytes)).and_then(adjust);
    match done {
        Ok(()) => 0,
        Err(error) => {
            say::error(format_args!("{program}: {error}"));
            1
        }
    }
}

fn adjust(time: SystemTime) -> Result<(), NotSet> {
    let now = SystemTime::now();
    if !differs(time, now) {
        return Ok(());
    }
    let since = time.duration_since(UNIX_EPOCH)?;
    let seconds = i64::try_from(since.as_secs())?;
    let spec = Timespec { tv_sec: seconds, tv_nsec: i64::from(since.subsec_nanos()) };
    let shown = |time| date(time, false).trim_end().to_owned();
    clock_settime(ClockId::Realtime, spec).map_err(|errno| NotSet::Clock {
        from: shown(now),
        to: shown(time),
        errno,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn dates_have_two_forms_and_come_back() {
        let now = at(1_796_044_079, 167_207_742);
        assert_eq!(date(now, false), "2026-11-30T13:07:59+00:00\n");
        assert_eq!(date(now, true), "2026-11-30T13:07:59,167207742+00:00\n");
        assert_eq!(read(date(now, true).as_bytes()).unwrap(), now);
        assert_eq!(read(date(now, false).as_bytes()).unwrap(), at(1_796_044_079, 0));
        assert_eq!((date(now, false).len(), date(now, true).len()), (SHORT, LONG));
    }

    #[test]
    fn a_date_that_no_clock_may_be_set_to_is_refused_with_the_reason() {
        for (text, why) in [
            ("2021-11-30T13:07:59+00:00\n", "older than this program"),
            ("2022-07-10T17:08:31+00:00\n", "older than this program"),
            ("2026-11-30T13:07:59+01:00\n", "not in UTC"),
            ("garbage\n", "expected 26 or 36 bytes, got 8"),
            ("2026-13-30T13:07:59+00:00\n", "no date"),
            ("2026-11-31T13:07:59+00:00\n", "no date"),
            ("2026-11-30T13:07:59+00:000", "no date"),
            ("2026-11-30T13:07:59;167207742+00:00\n", "no date"),
            ("\x1b[2J-11-30T13:07:59,167207742+00:00\n", "\\x1b[2J"),
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn two_seconds_are_no_difference() {
        assert!(!differs(at(100, 0), at(102, 0)) && !differs(at(102, 0), at(100, 0)));
        assert!(differs(at(100, 0), at(102, 1)) && differs(at(102, 1), at(100, 0)));
    }

    #[test]
    fn a_randomized_time_is_near_and_has_nine_digits() {
        assert_eq!(near(1000, 0), "1000.000000000");
        assert_eq!(near(1000, 180), "820.000000000");
        assert_eq!(near(1000, 181 + 180), "1180.000000000");
        assert_eq!(near(1000, 181 * 2 * 7), "1000.000000007");
        for random in [u128::MAX, 0x1234_5678_9abc_def0_1234_5678] {
            let text = near(1_796_044_079, random);
            let (seconds, digits) = text.split_once('.').unwrap();
            assert!(seconds.parse::<u64>().unwrap().abs_diff(1_796_044_079) <= 180 && digits.len() == 9);
        }
    }
}
