#![forbid(unsafe_code)]
//! A channel that has connected to the domain monitor, and how much its kind may map.

use std::os::fd::OwnedFd;

use crate::layout::PAGE;

/// What a member has to say, at most: its domain and a number of pages.
pub(super) const WORDS: usize = 8;
/// What may be mapped of one domain by all calls of a user: one part in so many of this VM's memory, which mapped pages
/// take.
const PART: u64 = 4;
/// But as many as one call may need.
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
    /// Whose process it is.
    pub(super) user: u32,
    pub(super) domain: Option<u32>,
    pub(super) pages: Option<u32>,
}

impl Member {
    pub(super) fn new(fd: OwnedFd) -> Member {
        let user = sys::unix::peer_uid(&fd).unwrap_or(u32::MAX);
        Member { fd, user, domain: None, pages: None }
    }

    /// Each word once, and nothing else. `false`: it has said something else, or has gone.
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
