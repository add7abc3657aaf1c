#![forbid(unsafe_code)]
//! What has arrived: each header is copied out of the ring once, payload stays there.
//!
//! Headers are parsed before the payload between them is moved, so that one `writev` can carry several messages. Only
//! the parsed copies are ever used: if a peer rewrites a header in the ring later, nothing changes. Positions are
//! counted in bytes after the ring's `cons`.

use std::collections::VecDeque;

use wire::error::PeerError;
use wire::header::{HEADER_LEN, Header};
use wire::stream::{Incoming, Kind, Next, Role};
use wire::version::Version;

/// How many messages are parsed in advance; each takes one or two spans of a transfer.
const AHEAD: usize = 30;
const _: () = assert!(2 * AHEAD <= ring::spans::MAX_SPANS);

/// A message, or what is left of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Data { kind: Kind, left: usize },
    Eof(Kind),
    Exit { len: usize },
    Skip { left: usize },
}

#[derive(Debug)]
struct Entry {
    /// Header bytes that still lie in the ring before it.
    lead: usize,
    what: What,
}

impl Entry {
    fn body(&self) -> usize {
        match self.what {
            What::Data { left, .. } | What::Skip { left } => left,
            What::Exit { len } => len,
            What::Eof(_) => 0,
        }
    }
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    /// Nothing is parsed.
    Empty,
    /// Payload for this stream.
    Data(Kind),
    /// The end of this stream.
    Eof(Kind),
    /// The exit code; its first `want` bytes are at `at`.
    Exit { at: usize, want: usize },
    /// Bytes that are ignored.
    Skip,
}

/// The messages of the receiving side in order.
#[derive(Debug)]
pub(in super::super) struct Messages {
    incoming: Incoming,
    queue: VecDeque<Entry>,
    parsed: usize,
    /// The error in the header after the queue. Everything before it is still handled, however the bytes arrived.
    breach: Option<PeerError>,
}

impl Messages {
    pub(in super::super) fn new(role: Role, version: Version) -> Messages {
        let queue = VecDeque::with_capacity(AHEAD);
        Messages { incoming: Incoming::new(role, version), queue, parsed: 0, breach: None }
    }

    /// Where the next unparsed header lies, if all of it is among the `ready` bytes.
    pub(super) fn next_header(&self, ready: usize) -> Option<usize> {
        let wanted = match self.breach {
            None => self.queue.len() < AHEAD,
            Some(_) => self.queue.is_empty() && self.incoming.exit_code().is_none(),
        };
        (wanted && self.parsed + HEADER_LEN <= ready).then_some(self.parsed)
    }

    /// Takes the header at [`Messages::next_header`]. An error in it is reported when everything before it was
    /// handled.
    pub(super) fn on_header(&mut self, bytes: [u8; HEADER_LEN]) -> Result<(), PeerError> {
        if let Some(breach) = self.breach.take() {
            return Err(breach);
        }
        let next = match self.incoming.on_header(Header::from_bytes(bytes)) {
            Err(breach) if !self.queue.is_empty() => {
                self.breach = Some(breach);
                return Ok(());
            }
            next => next?,
        };
        let what = match next {
            Next::Payload { kind, len } => What::Data { kind, left: len as usize },
            Next::Eof(kind) => What::Eof(kind),
            Next::ExitCode { len } => What::Exit { len: len as usize },
            Next::Ignore { len } => What::Skip { left: len as usize },
        };
        let entry = Entry { lead: HEADER_LEN, what };
        // The limit on chunks keeps this sum small.
        self.parsed += HEADER_LEN + entry.body();
        self.queue.push_back(entry);
        Ok(())
    }

    /// What has to be handled before anything after it.
    pub(super) fn head(&self) -> Head {
        match self.queue.front() {
            None => Head::Empty,
            Some(Entry { what: What::Data { kind, .. }, .. }) => Head::Data(*kind),
            Some(Entry { what: What::Eof(kind), .. }) => Head::Eof(*kind),
            Some(Entry { what: What::Exit { len }, lead }) => Head::Exit { at: *lead, want: (*len).min(4) },
            Some(Entry { what: What::Skip { .. }, .. }) => Head::Skip,
        }
    }

    /// The payload pieces `(at, len)` of the messages in front that belong to one stream, as far as they are among the
    /// `ready` bytes.
    pub(super) fn pieces(&self, ready: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let kind = match self.head() {
            Head::Data(kind) => Some(kind),
            _ => None,
        };
        let mut at = 0;
        self.queue.iter().map_while(move |entry| match entry.what {
            What::Data { kind: of, left } if Some(of) == kind => {
                let start = at + entry.lead;
                at = start + left;
                let len = left.min(ready.saturating_sub(start));
                (len > 0).then_some((start, len))
            }
            _ => None,
        })
    }

    /// Notes that the first `n` bytes of [`Messages::pieces`] were used. Returns how many bytes to release.
    pub(super) fn took(&mut self, mut n: usize) -> usize {
        let mut released = 0;
        while n > 0 {
            let Some(Entry { lead, what: What::Data { left, .. } }) = self.queue.front_mut() else {
                debug_assert!(false, "more was taken than there was");
                break;
            };
            let part = n.min(*left);
            released += std::mem::take(lead) + part;
            *left -= part;
            n -= part;
            if *left == 0 {
                self.queue.pop_front();
            }
        }
        self.parsed -= released;
        released
    }

    /// Drops the part of an ignored message that is there. Returns how many bytes to release, 0 if nothing is there
    /// yet.
    pub(super) fn skip(&mut self, ready: usize) -> usize {
        let Some(Entry { lead, what: What::Skip { left } }) = self.queue.front_mut() else {
            return 0;
        };
        let body = (*left).min(ready.saturating_sub(*lead));
        let released = std::mem::take(lead) + body;
        *left -= body;
        if *left == 0 {
            self.queue.pop_front();
        }
        self.parsed -= released;
        released
    }

    /// Drops an end-of-stream message. Returns how many bytes to release.
    pub(super) fn took_eof(&mut self) -> usize {
        let released = self.queue.pop_front().map_or(0, |entry| entry.lead);
        self.parsed -= released;
        released
    }

    /// Takes the bytes at [`Head::Exit`]; the rest of the message is ignored from now on.
    pub(super) fn on_exit(&mut self, body: &[u8]) -> i32 {
        if let Some(Entry { what, .. }) = self.queue.front_mut()
            && let What::Exit { len } = *what
        {
            *what = What::Skip { left: len };
        }
        self.incoming.on_exit_code(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wire::header::ty;

    fn messages() -> Messages {
        Messages::new(Role::Client, Version::V3)
    }

    fn header(ty: u32, len: usize) -> [u8; HEADER_LEN] {
        Header::new(ty, len as u32).to_bytes()
    }

    #[test]
    fn messages_of_one_stream_are_one_transfer() {
        let mut i = messages();
        for (ty, len) in [(ty::DATA_STDOUT, 10), (ty::DATA_STDOUT, 5), (ty::DATA_STDERR, 3)] {
            i.on_header(header(ty, len)).unwrap();
        }
        assert_eq!(i.pieces(100).collect::<Vec<_>>(), [(8, 10), (26, 5)]);
        assert_eq!(i.pieces(12).collect::<Vec<_>>(), [(8, 4)]);
        assert_eq!(i.took(12), 8 + 10 + 8 + 2);
        assert_eq!(i.pieces(3).collect::<Vec<_>>(), [(0, 3)]);
        assert_eq!(i.took(3), 3);
        assert_eq!(i.head(), Head::Data(Kind::Stderr));
    }

    #[test]
    fn a_short_exit_code_is_255_and_a_long_one_is_skipped() {
        let mut i = messages();
        i.on_header(header(ty::DATA_EXIT_CODE, 2)).unwrap();
        assert_eq!(i.head(), Head::Exit { at: 8, want: 2 });
        assert_eq!(i.on_exit(&[1, 0]), 255);
        assert_eq!(i.skip(10), 10);

        let mut i = messages();
        i.on_header(header(ty::DATA_EXIT_CODE, 6)).unwrap();
        assert_eq!(i.on_exit(&[7, 0, 0, 0]), 7);
        assert_eq!(i.skip(9), 9);
        assert_eq!(i.skip(5), 5);
        assert_eq!(i.head(), Head::Empty);
    }

    proptest! {
        #[test]
        fn every_byte_is_released_once(lens in prop::collection::vec(1usize..5000, 1..60), step in 1usize..3000) {
            let mut i = messages();
            let total: usize = lens.iter().map(|l| l + HEADER_LEN).sum();
            let (mut fed, mut released, mut payload, mut ready) = (0, 0, 0, 0);
            while released < total {
                ready = (ready + step).min(total - released);
                while let Some(at) = i.next_header(ready) {
                    prop_assert!(at + HEADER_LEN <= ready);
                    if fed == lens.len() { break; }
                    i.on_header(header(ty::DATA_STDOUT, lens[fed])).unwrap();
                    fed += 1;
                }
                let n: usize = i.pieces(ready).map(|(at, len)| { assert!(at + len <= ready); len }).sum();
                let n = n.min(step);
                let r = i.took(n);
                payload += n;
                released += r;
                ready -= r;
            }
            prop_assert_eq!(payload, lens.iter().sum::<usize>());
        }
    }
}
