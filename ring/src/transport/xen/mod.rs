#![forbid(unsafe_code)]
//! Real Xen: granted pages, an event channel, and two keys in xenstore to find both. Wire-compatible with libxenvchan.
//!
//! The server's keys are in `data/vchan/<client>/<port>/` of its own folder: `ring-ref`, the grant of page 0, and
//! `event-channel`, written last. Each is made readable for the client, and only for it, before the next is written.

mod client;
mod domain_monitor;
mod domain_watch;
mod doorbell;
#[cfg(test)]
mod fake;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(super) mod libxenvchan;
mod liveness;
mod ring_share;
mod server;
mod store;
mod store_messages;

pub(super) use client::XenConnector;
pub(super) use domain_monitor::DomainMonitor;
pub(super) use ring_share::RingShare;
pub(super) use server::XenListener;

use std::time::Duration;

use crate::error::Error;
use crate::xendev;
use store::Store;

/// `DOMID_FIRST_RESERVED`: numbers from here on mean no ordinary domain.
const FIRST_RESERVED: u32 = 0x7ff0;

/// When dom0 ends, so does the machine.
const DOM0: u32 = 0;

/// How often the hypervisor is asked whether a domain exists. It is the only sign of the end of a domain without a
/// key, if no page of it is mapped.
const PERIOD: Duration = Duration::from_secs(1);

/// This domain's number, as xenstore knows it. Also checks the choice of devices, since the caller will use them next.
pub(super) fn own_domain() -> Result<u32, Error> {
    xendev::check()?;
    let value = Store::open()?.read("domid")?;
    let number = value.as_deref().and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse().ok());
    number.ok_or_else(|| Error::Config("xenstore does not say which domain this is: no key domid".into()))
}

/// Refuses numbers that can be no peer's. Returns the number in the form that some of the devices take.
fn peer_number(own: u32, peer: u32) -> Result<u16, Error> {
    match u16::try_from(peer) {
        _ if peer == own => Err(Error::Config(format!("domain {own} cannot have a vchan with itself"))),
        Ok(number) if peer < FIRST_RESERVED => Ok(number),
        _ => Err(Error::Config(format!("{peer} is not the number of a domain"))),
    }
}

/// The folder with the two keys, below the server's own.
fn folder(client: u32, port: u32) -> String {
    format!("data/vchan/{client}/{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_other_domains() {
        assert_eq!(peer_number(3, 0).unwrap(), 0);
        assert_eq!(peer_number(0, 0x7fef).unwrap(), 0x7fef);
        for (own, peer) in [(3, 3), (0, 0x7ff0), (0, 0x1_0000), (0, u32::MAX)] {
            assert!(peer_number(own, peer).is_err(), "{own} {peer}");
        }
    }
}
