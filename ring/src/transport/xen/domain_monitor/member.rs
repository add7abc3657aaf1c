#![forbid(unsafe_code)]
//! A channel that has connected to the domain monitor, and how many pages it may map.

use std::os::fd::OwnedFd;

use crate::layout::PAGE;

/// The most that a member says: its domain and a number of pages, in bytes.
pub(super) const WORDS: usize = 8;
/// All calls of a user may map one part in so many of this VM's memory for one domain: mapped pages take memory.
const PART: u64 = 4;
/// But at least as many pages as one call may need.
const LEAST_CEILING: u64 = 513;

/// Pages of one domain that one user's calls may map.
pub(super) fn ceiling() -> u64 {
    let system = rustix::system::sysinfo();
    of_memory((system.totalram as u64).saturating_mul(u64::from(system.mem_unit)))
}

fn of_memory(bytes: u64) -> u64 {
    (bytes / PAGE as u64 / PART).max(LEAST_CEILING)
}

pub(super) struct Member {
    pub(super) fd: OwnedFd,
    /// The user whose process it is.
    pub(super) user: u32,
    pub(super) domain: Option<u32>,
    pub(super) pages: Option<u32>,
}

impl Member {
    pub(super) fn new(fd: OwnedFd) -> Member {
        let user = sys::unix::peer_uid(&fd).unwrap_or(u32::MAX);
        Member { fd, user, domain: None, pages: None }
    }

    /// Takes what a member said: each of the two numbers once. `false`: it said anything else, or has gone.
    pub(super) fn hear(&mut self, said: &[u8]) -> bool {
        let (words, rest) = said.as_chunks();
        for word in words {
            let word = Some(u32::from_le_bytes(*word));
            match (self.domain, self.pages) {
                (None, _) => self.domain = word,
                (Some(_), None) => self.pages = word,
                (Some(_), Some(_)) => return false,
            }
        }
        rest.is_empty() && !words.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_memory_may_be_mapped_and_one_call_always() {
        assert_eq!(of_memory(256 << 20), 16_384);
        assert_eq!(of_memory(1 << 20), LEAST_CEILING);
        assert_eq!(of_memory(0), LEAST_CEILING);
        assert_eq!(of_memory(u64::MAX), u64::MAX / PAGE as u64 / PART);
        let largest = crate::layout::Orders::validate(20, 20).unwrap();
        assert_eq!(LEAST_CEILING as usize, largest.region_bytes() / PAGE);
    }
}
