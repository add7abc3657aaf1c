//! Which calls there are: what a daemon or an agent tells `qrexec-top`, and how it keeps the sums.
//!
//! One connection, one answer, then its end. The answer is text of a few lines, so that a person can read it with `socat`:
//!
//! ```text
//! qrexec-top 1 work
//! WAY USER SOURCE TARGET TO SERVICE RULE RUNNING BEGUN REFUSED IN OUT AGE LAST AGO     (one line for each route)
//! end LEFT_OUT
//! ```
//!
//! Columns are separated by one tab. `-` stands for a value that is not known, and as a source or target for the
//! machine itself. Both sides keep the limits: a reader accepts at most [`MAX_ANSWER`] bytes, and none that could
//! control a terminal.

mod ledger;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub use ledger::{Ledger, MAX_ROUTES, Viewer};

/// How the names of the daemons' sockets begin; the domain's number follows.
pub const SOCKETS: &str = "qrexec-top.";
/// The agent's socket is named as the one on which it is asked for services, with this behind.
pub const BESIDE_AGENT: &str = ".top";
/// Most bytes of one answer: it fits the buffer of a new socket, so that the sender never waits for its reader.
pub const MAX_ANSWER: usize = 96 << 10;
/// Most bytes of one text in a row.
pub const MAX_TEXT: usize = 160;

/// How the first line begins; the number is the version of this format.
const GREETING: &str = "qrexec-top 1 ";
/// How the last line begins.
const END: &str = "end ";
/// Stands for a value that is not known, or for the machine itself.
const NOTHING: &str = "-";

/// Which side of its calls a row was written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// The machine is the caller; in dom0: its VM, or dom0 itself.
    Asked,
    /// The machine runs the service.
    Served,
}

impl Way {
    const fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Served => "served",
        }
    }
}

/// What all calls of one row have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// On which side of the calls the row was written.
    pub way: Way,
    /// The user on this machine: who called, or as whom the service runs.
    pub user: u32,
    /// The caller; empty: the machine itself.
    pub source: String,
    /// The target that was asked for; empty: the machine itself.
    pub target: String,
    /// The service with its argument, or what is shown in its place.
    pub service: String,
}

impl Route {
    /// A route with texts that fit a row, whatever they contain.
    #[must_use]
    pub fn new(way: Way, user: u32, source: &str, target: &str, service: &str) -> Self {
        Self { way, user, source: fit(source), target: fit(target), service: fit(service) }
    }
}

/// Payload bytes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// From the caller to the service.
    pub to_service: u64,
    /// From the service to the caller.
    pub to_caller: u64,
}

impl Moved {
    fn and(self, other: Self) -> Self {
        Self {
            to_service: self.to_service.saturating_add(other.to_service),
            to_caller: self.to_caller.saturating_add(other.to_caller),
        }
    }
}

/// What a caller's program tells its agent when its call has ended, since nothing else knows it. The program may claim
/// anything, so it only affects what its own user is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWord {
    /// Its exit status.
    pub exit: i32,
    /// Bytes that it moved.
    pub moved: Moved,
}

impl LastWord {
    /// Its length in bytes.
    pub const LEN: usize = 24;
    /// Its first bytes.
    const MARK: [u8; 4] = *b"end ";

    /// The bytes to send.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let parts = [
            Self::MARK.as_slice(),
            &self.exit.to_le_bytes(),
            &self.moved.to_service.to_le_bytes(),
            &self.moved.to_caller.to_le_bytes(),
        ];
        bytes.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads the bytes that were sent; `None`: they are no last word.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&Self::MARK)?;
        let (exit, rest) = rest.split_first_chunk()?;
        let (to_service, rest) = rest.split_first_chunk()?;
        let (to_caller, rest) = rest.split_first_chunk()?;
        let moved =
            Moved { to_service: u64::from_le_bytes(*to_service), to_caller: u64::from_le_bytes(*to_caller) };
        rest.is_empty().then_some(Self { exit: i32::from_le_bytes(*exit), moved })
    }
}

/// The last call of a row that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Its exit code, as far as it is known here.
    pub exit: Option<i32>,
    /// Milliseconds since.
    pub ago: u64,
}

/// The calls of one route, together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Their route.
    pub route: Route,
    /// The target, if policy chose another one than was asked for.
    pub to: Option<String>,
    /// The rule that allowed the last one of them.
    pub rule: Option<String>,
    /// Calls that run now.
    pub running: u64,
    /// Calls so far, including those that run and those that were refused.
    pub begun: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Bytes of all calls whose bytes are known; `None` if there are none.
    pub moved: Option<Moved>,
    /// Milliseconds since the oldest running call began.
    pub age: Option<u64>,
    /// The last call that ended.
    pub last: Option<Last>,
}

/// The answer of a daemon or an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The machine: a daemon's VM; empty: the machine on which it was read.
    pub machine: String,
    /// The rows.
    pub rows: Vec<Row>,
    /// Rows that had no room.
    pub left_out: u64,
}

/// Why an answer is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// Another program listens there, or another version of qrexec.
    #[error("it does not answer as this version of qrexec does")]
    Greeting,
    /// The end is missing.
    #[error("its answer is cut short")]
    Cut,
    /// More bytes than any version sends.
    #[error("its answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// A line that is no row.
    #[error("line {0} of its answer makes no sense")]
    Row(usize),
}

impl Answer {
    /// The text to send. Rows that would make it too long are left out, and counted.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{GREETING}{}\n", shown(&self.machine));
        let mut left_out = self.left_out;
        for row in &self.rows {
            let line = encode_row(row);
            // Room is left for the last line.
            if text.len().saturating_add(line.len()) > MAX_ANSWER.saturating_sub(64) {
                left_out = left_out.saturating_add(1);
            } else {
                text.push_str(&line);
            }
        }
        text.push_str(&format!("{END}{left_out}\n"));
        text
    }

    /// Reads the text that was sent.
    ///
    /// # Errors
    /// It is no answer of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadAnswer> {
        if bytes.len() > MAX_ANSWER {
            return Err(BadAnswer::TooLong);
        }
        let text = core::str::from_utf8(bytes).map_err(|_| BadAnswer::Greeting)?;
        let rest = text.strip_prefix(GREETING).ok_or(BadAnswer::Greeting)?;
        let (machine, rest) = rest.split_once('\n').ok_or(BadAnswer::Cut)?;
        let machine = name(machine).ok_or(BadAnswer::Greeting)?;
        let mut rows = Vec::new();
        let mut lines = rest.split_inclusive('\n').enumerate();
        loop {
            let (index, line) = lines.next().ok_or(BadAnswer::Cut)?;
            let number = index.saturating_add(2);
            let line = line.strip_suffix('\n').ok_or(BadAnswer::Cut)?;
            if let Some(count) = line.strip_prefix(END) {
                let left_out = count.parse().map_err(|_| BadAnswer::Row(number))?;
                return if lines.next().is_none() {
                    Ok(Self { machine, rows, left_out })
                } else {
                    Err(BadAnswer::Row(number.saturating_add(1)))
                };
            }
            rows.push(decode_row(line).ok_or(BadAnswer::Row(number))?);
        }
    }
}

fn encode_row(row: &Row) -> String {
    let Row { route, to, rule, running, begun, refused, moved, age, last } = row;
    let Route { way, user, source, target, service } = route;
    let number = |number: Option<u64>| number.map_or_else(|| NOTHING.to_string(), |n| n.to_string());
    let columns = [
        way.word().to_string(),
        user.to_string(),
        shown(source),
        shown(target),
        shown(to.as_deref().unwrap_or_default()),
        shown(service),
        shown(rule.as_deref().unwrap_or_default()),
        running.to_string(),
        begun.to_string(),
        refused.to_string(),
        number(moved.map(|moved| moved.to_service)),
        number(moved.map(|moved| moved.to_caller)),
        number(*age),
        last.and_then(|last| last.exit).map_or_else(|| NOTHING.to_string(), |code| code.to_string()),
        number(last.map(|last| last.ago)),
    ];
    let mut line = columns.join("\t");
    line.push('\n');
    line
}

fn decode_row(line: &str) -> Option<Row> {
    let columns: Vec<&str> = line.split('\t').collect();
    let columns = <[&str; 15]>::try_from(columns).ok()?;
    let [way, user, source, target, to, service, rule, running, begun, refused, sent, got, age, exit, ago] =
        columns;
    let way = [Way::Asked, Way::Served].into_iter().find(|known| known.word() == way)?;
    let route = Route {
        way,
        user: user.parse().ok()?,
        source: name(source)?,
        target: name(target)?,
        service: name(service)?,
    };
    let ago = maybe(ago)?;
    let exit = maybe(exit)?;
    let moved = match (maybe(sent)?, maybe(got)?) {
        (Some(to_service), Some(to_caller)) => Some(Moved { to_service, to_caller }),
        (None, None) => None,
        _ => return None,
    };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Some(Row {
        route,
        to: some(name(to)?),
        rule: some(name(rule)?),
        running: running.parse().ok()?,
        begun: begun.parse().ok()?,
        refused: refused.parse().ok()?,
        moved,
        age: maybe(age)?,
        last: match (ago, exit) {
            (Some(ago), exit) => Some(Last { exit, ago }),
            (None, None) => None,
            (None, Some(_)) => return None,
        },
    })
}

/// A number, or `-` for one that is not known. `None`: neither.
#[expect(clippy::option_option, reason = "what is not known is not what makes no sense")]
fn maybe<T: core::str::FromStr>(text: &str) -> Option<Option<T>> {
    if text == NOTHING { Some(None) } else { text.parse().ok().map(Some) }
}

/// A text of a row as it is sent.
fn shown(text: &str) -> String {
    if text.is_empty() { NOTHING.to_string() } else { fit(text) }
}

/// Reads a text of a row; empty for `-`. `None`: a row cannot contain it.
fn name(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.len() <= MAX_TEXT && text.bytes().all(is_shown);
    fits.then(|| if text == NOTHING { String::new() } else { text.to_string() })
}

const fn is_shown(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e)
}

/// Makes a text fit a row: bytes that are not printable ASCII become `?`, and a text that is too long is cut and ends
/// with `...`.
fn fit(text: &str) -> String {
    let mut fit: String =
        text.bytes().take(MAX_TEXT).map(|byte| if is_shown(byte) { char::from(byte) } else { '?' }).collect();
    if text.len() > MAX_TEXT {
        fit.truncate(MAX_TEXT.saturating_sub(3));
        fit.push_str("...");
    }
    fit
}
