#![forbid(unsafe_code)]
//! A service side that has no streams: nothing could be started, or the service is not waited for.

use std::time::{Duration, Instant};

use ring::Channel;
use wire::stream::{Kind, Outgoing, Role};
use wire::version::Version;

use super::driver::wait_for_link;

/// How long the caller's last data are read after it was sent the exit code. A caller that has received the code
/// closes the link at once; for one that was about to send something this is long.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Why there are no streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoStreams {
    /// A service of a VM could not be started.
    FailedInVm,
    /// A service of dom0 could not be started.
    FailedInDom0,
    /// It runs, and is not waited for.
    LeftAlone,
}

impl NoStreams {
    /// Which ends of streams are sent, in which order. Upstream's programs differ between VMs and dom0, and tests
    /// compare with them.
    fn ends(self) -> &'static [Kind] {
        match self {
            Self::FailedInVm => &[Kind::Stdout, Kind::Stderr],
            Self::FailedInDom0 => &[Kind::Stderr, Kind::Stdout],
            Self::LeftAlone => &[],
        }
    }
}

/// Ends a service side that has no streams: sends the ends of streams, then the code.
///
/// The caller may be about to send: its data are read for a while, until it has received the code, so that its writes
/// do not fail before that.
///
/// # Errors
/// The link was lost before the caller could have received the code.
pub fn report(mut channel: Channel, version: Version, code: i32, why: NoStreams) -> Result<(), ring::Error> {
    let mut out = match why {
        NoStreams::LeftAlone => Outgoing::just_exec(version),
        _ => Outgoing::new(Role::Service, version),
    };
    let mut message = Vec::with_capacity(32);
    for kind in why.ends() {
        if let Ok(header) = out.eof(*kind) {
            message.extend_from_slice(&header.to_bytes());
        }
    }
    if let Ok(exit) = out.exit_code(code) {
        message.extend_from_slice(&exit);
    }
    let mut sent = 0;
    while sent < message.len() || !channel.drained() {
        sent += channel.write(message.get(sent..).unwrap_or_default())?;
        channel.flush()?;
        if (sent < message.len() || !channel.drained()) && !channel.arm(false, sent < message.len())? {
            wait_for_link(&mut channel, None)?;
        }
    }
    if why != NoStreams::LeftAlone {
        // The caller has the code, whatever happens now.
        let _ = hear_out(&mut channel);
    }
    Ok(())
}

/// Reads what the other side still sends, until it closes the link or some time has passed.
pub(super) fn hear_out(channel: &mut Channel) -> Result<(), ring::Error> {
    let until = Instant::now() + LAST_WORDS;
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        match channel.read(&mut buffer)? {
            0 if channel.ended()? => return Ok(()),
            0 if channel.arm(true, false)? => {}
            0 => wait_for_link(channel, Some(left))?,
            _ => channel.flush()?,
        }
    }
}
