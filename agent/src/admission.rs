//! Calls from outside: how many there are, of whom, and until when each of them counts.
//!
//! A call counts from the daemon's word until its service has ended, also when its link was cut long before: else a VM
//! that hangs up and calls again would have any number of services running.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agent_core::CallId;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit};
use wire::names::DomainId;
use wire::shares::{Shares, TooManyCalls};

/// What a call takes of the VM's memory: its process and a small service, measured with a thousand of them.
const CALL_BYTES: u64 = 600 << 10;
/// However small a VM is.
const FEWEST: usize = 16;
/// More than any VM needs.
const MOST: usize = 1 << 15;

/// Calls that are told at the same time that they are refused, each by a process, and those that wait to be told.
const REFUSALS: usize = 32;
const QUEUE: usize = 2048;

/// Calls from outside; `T` is what is known of one.
#[derive(Debug)]
pub(crate) struct Callers<T> {
    shares: Shares,
    refusals: Shares,
    queued: Shares,
    /// Refused, and not told yet, in their order.
    queue: VecDeque<(CallId, DomainId, T)>,
    calls: BTreeMap<CallId, (DomainId, Kind)>,
    reader: OwnedFd,
    writer: OwnedFd,
}

/// What a call is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Served,
    Refused,
}

/// What becomes of a new call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission<T> {
    /// It is served.
    Served(T),
    /// Its caller is to be told that it is not: [`Callers::next_refusal`].
    Refused(TooManyCalls),
    /// There are too many to tell; its caller hears nothing.
    Dropped(TooManyCalls),
}

impl<T> Callers<T> {
    /// As many as `max`, else as many as there are descriptors and memory for.
    pub(crate) fn new(max: Option<usize>) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let shares = Shares::new(max.unwrap_or_else(most));
        let (refusals, queued) = (Shares::new(REFUSALS), Shares::new(QUEUE));
        Ok(Self { shares, refusals, queued, queue: VecDeque::new(), calls: BTreeMap::new(), reader, writer })
    }

    /// A call of this domain has come.
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

    /// The next call whose caller can be told now that it is refused.
    pub(crate) fn next_refusal(&mut self) -> Option<(CallId, T)> {
        // One whose caller does not come to hear it does not keep the others.
        let at = self.queue.iter().position(|(_, source, _)| self.refusals.take(*source).is_ok())?;
        let (call, source, item) = self.queue.remove(at)?;
        self.queued.give_back(source);
        self.calls.insert(call, (source, Kind::Refused));
        Some((call, item))
    }

    /// Nothing is left of a call.
    pub(crate) fn over(&mut self, call: CallId) {
        match self.calls.remove(&call) {
            Some((source, Kind::Served)) => self.shares.give_back(source),
            Some((source, Kind::Refused)) => self.refusals.give_back(source),
            None => {}
        }
    }

    /// For the process of a call, to [`tell`] what its end does not say.
    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// What the processes of calls have told. To be asked when the descriptor is readable.
    pub(crate) fn told(&self) -> Vec<(CallId, Word)> {
        let mut words = [0; 64 * WORD];
        let Ok(length) = rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut words)) else {
            return Vec::new();
        };
        words.get(..length).unwrap_or_default().chunks_exact(WORD).filter_map(parse).collect()
    }
}

impl<T> AsFd for Callers<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// What the process of a call tells the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The link is over, while the service runs on.
    LinkOver = 0,
    /// The caller is not there yet: this process ends and the agent waits.
    NotMet = 1,
}

/// Bytes of a word: the call's number and what it is.
const WORD: usize = 16;

/// Says it. A pipe that is full loses the word: a call's port is free later then, or a caller that was late is given up.
pub(crate) fn tell(writer: BorrowedFd<'_>, call: CallId, word: Word) {
    let words = [call.0, word as u64].map(u64::to_ne_bytes);
    let _ = rustix::io::write(writer, words.as_flattened());
}

fn parse(bytes: &[u8]) -> Option<(CallId, Word)> {
    let (words, _) = bytes.as_chunks::<8>();
    let [call, word] = <[[u8; 8]; 2]>::try_from(words).ok()?.map(u64::from_ne_bytes);
    let word = [Word::LinkOver, Word::NotMet].into_iter().find(|one| *one as u64 == word)?;
    Some((CallId(call), word))
}

/// Half of the memory, and no more descriptors than the programs of this VM and the agent itself leave.
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
        // Neither dom0 nor another is kept out, and another is told, whoever does not come to hear it.
        assert_eq!(admit(&mut callers, DomainId::DOM0), Admission::Served(1201));
        assert_eq!(admit(&mut callers, DomainId(8)), Admission::Served(1202));
        assert!(matches!(admit(&mut callers, DomainId(8)), Admission::Served(_)));
        assert!(matches!(admit(&mut callers, DomainId(8)), Admission::Refused(_)));
        let told: Vec<_> = std::iter::from_fn(|| callers.next_refusal()).collect();
        assert_eq!(told.len(), REFUSALS / 8 * 7 / 2 + 1);
        assert_eq!((told[0], told.last().copied()), ((CallId(5), 5), Some((CallId(1204), 1204))));
        // Each that was told makes room for the next, and each served one for another.
        callers.over(told[0].0);
        assert!(callers.next_refusal().is_some() && callers.next_refusal().is_none());
        (1..=4).for_each(|call| callers.over(CallId(call)));
        callers.over(CallId(9999));
        assert!(matches!(admit(&mut callers, ONE), Admission::Served(_)));
    }

    #[test]
    fn what_processes_tell_is_heard() {
        let callers = Callers::<()>::new(Some(8)).unwrap();
        assert!(callers.told().is_empty());
        let words = [(CallId(3), Word::NotMet), (CallId(u64::MAX), Word::LinkOver)];
        words.iter().for_each(|(call, word)| tell(callers.writer(), *call, *word));
        assert_eq!(callers.told(), words);
        assert!(callers.told().is_empty());
    }
}
