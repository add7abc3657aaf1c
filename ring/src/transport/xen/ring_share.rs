#![forbid(unsafe_code)]
//! How large the rings of a call are when only a minimum was asked for: a share of the pages that the kernel grants.
//!
//! The kernel grants a domain so many pages and says how many, but not how many are left. A share is what makes
//! [`CALLS`] calls at once possible, as upstream's rings with the kernel's default limit do. But rings larger than
//! upstream's take, all together, no more than half of the pages. The other half is left for calls with rings of
//! upstream's size.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

use crate::layout::PAGE;

/// Calls that share the pages at the same time: as many as fit Linux's default limit with upstream's rings.
const CALLS: usize = 31;
/// Upstream's ring, and the least that a call gets.
pub(super) const LEAST: usize = 64 << 10;
/// The largest ring that a call gets without asking.
const MOST: usize = 1 << 20;

const LIMIT: &str = "/sys/module/xen_gntalloc/parameters/limit";

/// What one call may take without asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::transport) struct RingShare {
    /// Bytes of a ring, each way.
    pub(in crate::transport) ring: usize,
    /// How many calls may have more than [`LEAST`].
    places: usize,
}

impl RingShare {
    /// The share under the kernel's present limit.
    pub(in crate::transport) fn now() -> RingShare {
        let text = fs::read_to_string(LIMIT).unwrap_or_default();
        RingShare::of(text.trim().parse().ok())
    }

    /// The share of so many pages; of an unknown number, [`LEAST`].
    fn of(pages: Option<usize>) -> RingShare {
        let pages = pages.unwrap_or(0);
        let ring = (pages / CALLS).saturating_sub(1) / 2 * PAGE;
        let ring = ring.checked_ilog2().map_or(0, |order| 1 << order).clamp(LEAST, MOST);
        let places = if ring > LEAST { pages / 2 / (2 * ring / PAGE + 1) } else { 0 };
        RingShare { ring, places }
    }

    /// A place among those with larger rings, if one is free.
    pub(super) fn take(&self) -> Option<Place> {
        (0..self.places).find_map(Place::take)
    }
}

/// One of the places for larger rings: a socket name that one process of this system can have at a time. It is free
/// again when its holder has ended, in whatever way. A program that takes all the names makes the rings of others as
/// small as upstream's, and nothing worse.
pub(super) struct Place(#[expect(dead_code, reason = "held, and nothing else")] OwnedFd);

impl Place {
    fn take(number: usize) -> Option<Place> {
        let name =
            SocketAddrUnix::new_abstract_name(format!("qrexec-larger-ring-{number}").as_bytes()).ok()?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
        bind(&socket, &name).ok().map(|()| Place(socket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(pages: usize) -> (usize, usize) {
        let RingShare { ring, places } = RingShare::of(Some(pages));
        (ring >> 10, places)
    }

    #[test]
    fn the_default_of_the_kernel_is_for_as_many_calls_as_upstreams() {
        assert_eq!(share(1024), (64, 0));
        assert_eq!(CALLS, 1024 / 33);
    }

    #[test]
    fn more_pages_make_larger_rings_up_to_a_limit() {
        assert_eq!(share(2015), (128, 15));
        assert_eq!(share(4096), (256, 15));
        assert_eq!(share(16384), (1024, 15));
        assert_eq!(share(1 << 20), (1024, 1022));
    }

    #[test]
    fn just_too_few_pages_are_the_next_smaller_ring() {
        assert_eq!(share(CALLS * 65), (128, 15));
        assert_eq!(share(CALLS * 65 - 1), (64, 0));
    }

    #[test]
    fn few_pages_or_an_unknown_number_are_the_least() {
        assert_eq!(RingShare::of(None), RingShare { ring: LEAST, places: 0 });
        for pages in [0, 1, 31, 33, 100] {
            assert_eq!(share(pages), (64, 0));
        }
    }

    #[test]
    fn larger_rings_leave_half_of_the_pages_and_all_of_them_fit_the_others() {
        for pages in (0..40_000).step_by(7) {
            let RingShare { ring, places } = RingShare::of(Some(pages));
            assert!(ring.is_power_of_two());
            assert!(places * (2 * ring / PAGE + 1) <= pages / 2, "{pages}");
        }
    }

    #[test]
    fn a_place_is_held_by_one_and_free_again() {
        let number = 1_000_000 + std::process::id() as usize;
        let place = Place::take(number).unwrap();
        assert!(Place::take(number).is_none());
        drop(place);
        assert!(Place::take(number).is_some());
    }
}
