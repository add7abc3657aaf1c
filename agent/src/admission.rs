//! Calls from outside: how many there are, from which source, and how long each of them counts.
//!
//! A call counts from the daemon's message until its service has ended, even if its link was closed long before:
//! otherwise a VM that closes the link and calls again could have any number of services running.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_core::CallId;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit};
use wire::names::DomainId;
use wire::shares::{Shares, TooManyCalls};

/// How much of the VM's memory a call takes: its process and a small service, measured with a thousand of them.
const CALL_BYTES: u64 = 600 << 10;
/// At least so many, however small the VM is.
const FEWEST: usize = 16;
/// At most so many.
const MOST: usize = 1 << 15;

/// Most callers that are told at the same time that they are refused, each by a process; and most that wait to be
/// told.
const REFUSALS: usize = 32;
const QUEUE: usize = 2048;

/// Calls from outside; `T` is what belongs to one.
#[derive(Debug)]
pub(crate) struct Callers<T> {
    shares: Shares,
    refusals: Shares,
    queued: Shares,
    /// Refused calls whose callers were not told yet, in order.
    queue: VecDeque<(CallId, DomainId, T)>,
    calls: BTreeMap<CallId, (DomainId, Kind)>,
    reader: OwnedFd,
    writer: OwnedFd,
    /// The part of a message that was read, without its rest.
    heard: Vec<u8>,
}

/// How a call is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Served,
    Refused,
}

/// What happens to a new call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission<T> {
    /// It is served.
    Served(T),
    /// It is refused, and its caller is to be told: [`Callers::next_refusal`].
    Refused(TooManyCalls),
    /// It is refused, and too many callers wait to be told: this one is not.
    Dropped(TooManyCalls),
}

impl<T> Callers<T> {
    /// At most `max` calls, or else as many as there are descriptors and memory for.
    pub(crate) fn new(max: Option<usize>) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let shares = Shares::new(max.unwrap_or_else(most));
        let (refusals, queued) = (Shares::new(REFUSALS), Shares::new(QUEUE));
        Ok(Self {
            shares,
            refusals,
            queued,
            queue: VecDeque::new(),
            calls: BTreeMap::new(),
            reader,
            writer,
            heard: Vec::new(),
        })
    }

    /// A call from this domain has come.
    pub(crate) fn admit(&mut self, call: CallId, source: DomainId, item: T) -> Admission<T> {
        let Err(too_many) = self.shares.take(source) else {
            self.calls.insert(call, (source, Kind::Served));
            return Admission::Served(item);
        };
        if self.queued.take(source).is_err() {
            return Admission::Dropped(too_many);
        }
        self.queue.push_back((call, source, item));
        Admission::Refused(too_many)
    }

    /// The next call whose caller can now be told that it is refused.
    pub(crate) fn next_refusal(&mut self) -> Option<(CallId, T)> {
        // A caller that does not fetch its refusal must not hold up the others.
        let at = self.queue.iter().position(|(_, source, _)| self.refusals.take(*source).is_ok())?;
        let (call, source, item) = self.queue.remove(at)?;
        self.queued.give_back(source);
        self.calls.insert(call, (source, Kind::Refused));
        Some((call, item))
    }

    /// Everything that belongs to a call has ended.
    pub(crate) fn over(&mut self, call: CallId) {
        match self.calls.remove(&call) {
            Some((source, Kind::Served)) => self.shares.give_back(source),
            Some((source, Kind::Refused)) => self.refusals.give_back(source),
            None => {}
        }
    }

    /// Where a call's process writes with [`tell`] what its exit status does not say.
    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// What the processes of calls have written. To be called when the descriptor is readable.
    ///
    /// All processes share the pipe, and a peer may have taken one of them over: bytes that are no message must not
    /// make those behind them unreadable.
    pub(crate) fn told(&mut self) -> Vec<(CallId, Word)> {
        let mut bytes = [0; 64 * WORD];
        let Ok(length) = rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut bytes)) else {
            return Vec::new();
        };
        self.heard.extend_from_slice(bytes.get(..length).unwrap_or_default());
        let (mut told, mut at) = (Vec::new(), 0_usize);
        while let Some(bytes) = self.heard.get(at..at.saturating_add(WORD)) {
            let word = parse(bytes);
            at = at.saturating_add(if word.is_some() { WORD } else { 1 });
            told.extend(word);
        }
        self.heard.drain(..at);
        told
    }
}

impl<T> AsFd for Callers<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// What the process of a call can tell the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The link has ended, while the service still runs.
    LinkOver = 0,
    /// The caller has not come yet: the process ends, and the agent waits.
    NotMet = 1,
}

/// Bytes of a message: the call's number, and the mark with the word in its last bit.
const WORD: usize = 16;
/// By this a message is found among other bytes.
const MARK: u64 = u64::from_be_bytes(*b"qrx-tell");

/// Sends a word. If the pipe is full it is lost: then a call's port becomes free later, or a caller that is late is
/// given up.
pub(crate) fn tell(writer: BorrowedFd<'_>, call: CallId, word: Word) {
    let words = [call.0, MARK ^ word as u64].map(u64::to_ne_bytes);
    let _ = rustix::io::write(writer, words.as_flattened());
}

fn parse(bytes: &[u8]) -> Option<(CallId, Word)> {
    let (words, _) = bytes.as_chunks::<8>();
    let [call, word] = <[[u8; 8]; 2]>::try_from(words).ok()?.map(u64::from_ne_bytes);
    let word = [Word::LinkOver, Word::NotMet].into_iter().find(|one| MARK ^ *one as u64 == word)?;
    Some((CallId(call), word))
}

/// As many as half of the memory allows, and as the descriptors allow that the programs of this VM and the agent
/// itself do not need.
fn most() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let system = rustix::system::sysinfo();
    let memory = (system.totalram as u64).saturating_mul(system.mem_unit.into());
    fits(descriptors, memory)
}

fn fits(descriptors: u64, memory: u64) -> usize {
    let calls = (descriptors / 8).saturating_mul(3).min(memory / 2 / CALL_BYTES);
    usize::try_from(calls).unwrap_or(MOST).clamp(FEWEST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: DomainId = DomainId(7);

    #[test]
    fn the_ceiling_comes_from_descriptors_and_memory() {
        assert_eq!(fits(400, 24 << 30), 150);
        assert_eq!(fits(1 << 20, 400 << 20), 341);
        assert_eq!(fits(1 << 20, 4 << 30), 3495);
        assert_eq!(fits(10, 1 << 20), FEWEST);
        assert_eq!(fits(u64::MAX, u64::MAX), MOST);
    }

    #[test]
    fn what_is_beyond_is_refused_and_what_is_beyond_that_dropped() {
        let mut callers = Callers::new(Some(8)).unwrap();
        let mut next = 0;
        let mut admit = |callers: &mut Callers<u64>, source| {
            next += 1;
            callers.admit(CallId(next), source, next)
        };
        let admitted: Vec<_> = (0..1200).map(|_| admit(&mut callers, ONE)).collect();
        let count = |what: fn(&Admission<u64>) -> bool| admitted.iter().filter(|one| what(one)).count();
        assert_eq!(count(|one| matches!(one, Admission::Served(_))), 4);
        assert_eq!(count(|one| matches!(one, Admission::Refused(_))), QUEUE / 8 * 7 / 2);
        // However many callers do not fetch their refusals, dom0 and other sources are still admitted, and refused
        // ones are told.
        assert_eq!(admit(&mut callers, DomainId::DOM0), Admission::Served(1201));
        assert_eq!(admit(&mut callers, DomainId(8)), Admission::Served(1202));
        assert!(matches!(admit(&mut callers, DomainId(8)), Admission::Served(_)));
        assert!(matches!(admit(&mut callers, DomainId(8)), Admission::Refused(_)));
        let told: Vec<_> = std::iter::from_fn(|| callers.next_refusal()).collect();
        assert_eq!(told.len(), REFUSALS / 8 * 7 / 2 + 1);
        assert_eq!((told[0], told.last().copied()), ((CallId(5), 5), Some((CallId(1204), 1204))));
        // Each caller that was told makes room for another to be told, and each call that has ended for another call.
        callers.over(told[0].0);
        assert!(callers.next_refusal().is_some() && callers.next_refusal().is_none());
        (1..=4).for_each(|call| callers.over(CallId(call)));
        callers.over(CallId(9999));
        assert!(matches!(admit(&mut callers, ONE), Admission::Served(_)));
    }

    #[test]
    fn what_processes_tell_is_heard() {
        let mut callers = Callers::<()>::new(Some(8)).unwrap();
        assert!(callers.told().is_empty());
        let words = [(CallId(3), Word::NotMet), (CallId(u64::MAX), Word::LinkOver)];
        words.iter().for_each(|(call, word)| tell(callers.writer(), *call, *word));
        assert_eq!(callers.told(), words);
        assert!(callers.told().is_empty());
    }

    /// A process that was taken over writes less than a message, or more.
    #[test]
    fn other_bytes_in_the_pipe_hide_no_message() {
        let mut callers = Callers::<()>::new(Some(8)).unwrap();
        for junk in 0..3 * WORD {
            rustix::io::write(callers.writer(), &vec![b'x'; junk]).unwrap();
            tell(callers.writer(), CallId(7), Word::LinkOver);
            assert_eq!(callers.told(), [(CallId(7), Word::LinkOver)], "{junk}");
        }
        // A message that is read in two parts.
        let message = [7, MARK].map(u64::to_ne_bytes);
        let (first, second) = message.as_flattened().split_at(5);
        rustix::io::write(callers.writer(), first).unwrap();
        assert!(callers.told().is_empty());
        rustix::io::write(callers.writer(), second).unwrap();
        assert_eq!(callers.told(), [(CallId(7), Word::LinkOver)]);
        assert!(callers.heard.is_empty());
    }
}
