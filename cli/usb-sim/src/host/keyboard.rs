//! The driver of a keyboard: one request waits.

use super::{Host, Request, Trouble};

/// Waits for so many reports, and gives the keys that were pressed.
///
/// # Errors
/// There are none within the time that the host waits, or they are none of a keyboard's.
pub fn keys(host: &mut Host, count: usize) -> Result<Vec<u8>, Trouble> {
    let mut keys = Vec::new();
    for _ in 0..count {
        let answer = host.transfer("report", &Request::from_device(1, 8))?;
        if answer.length != 8 {
            return Err(Trouble::Wrong("a report is cut short"));
        }
        keys.extend(host.data().get(2..).unwrap_or_default().iter().filter(|key| **key != 0));
    }
    Ok(keys)
}
