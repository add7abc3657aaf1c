//! Calls from outside: how many there are, of whom, and until when each of them counts.
//!
//! A call counts from the daemon's word until its service has ended, also when its link was cut long before: else a VM
//! that hangs up and calls again would have any number of services running.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::shares::{Crowd, Shares};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit};
use wire::names::DomainId;

use crate::core::CallId;

/// What a call takes of the VM's memory: its process and a small service, measured with a thousand of them.
const CALL_BYTES: u64 = 600 << 10;
/// However small a VM is.
const FEWEST: usize = 16;
/// More than any VM needs.
const MOST: usize = 1 << 15;

/// Calls that are told at the same time why they are refused, each by a process.
const REFUSALS: usize = 32;

/// Calls from outside.
#[derive(Debug)]
pub(crate) struct Callers {
    shares: Shares,
    refusals: Shares,
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
pub(crate) enum Admission {
    /// It is served.
    Served,
    /// Its caller is told why it is not.
    Refused(Crowd),
    /// There are too many to tell; its caller hears nothing.
    Dropped(Crowd),
}

impl Callers {
    /// As many as `max`, else as many as there are descriptors and memory for.
    pub(crate) fn new(max: Option<usize>) -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let shares = Shares::new(max.unwrap_or_else(most));
        Ok(Self { shares, refusals: Shares::new(REFUSALS), calls: BTreeMap::new(), reader, writer })
    }

    /// A call of this domain has come.
    pub(crate) fn admit(&mut self, call: CallId, source: DomainId) -> Admission {
        let (kind, admission) = match self.shares.take(source) {
            Ok(()) => (Kind::Served, Admission::Served),
            Err(crowd) if self.refusals.take(source).is_ok() => (Kind::Refused, Admission::Refused(crowd)),
            Err(crowd) => return Admission::Dropped(crowd),
        };
        self.calls.insert(call, (source, kind));
        admission
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

impl AsFd for Callers {
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
        let mut admit = |callers: &mut Callers, source| {
            next += 1;
            (CallId(next), callers.admit(CallId(next), source))
        };
        let (mut served, mut refused) = (Vec::new(), Vec::new());
        let dropped = loop {
            match admit(&mut callers, ONE) {
                (call, Admission::Served) => served.push(call),
                (call, Admission::Refused(_)) => refused.push(call),
                (call, Admission::Dropped(_)) => break call,
            }
        };
        assert_eq!((served.len(), refused.len()), (4, 14));
        assert_eq!(admit(&mut callers, DomainId::DOM0).1, Admission::Served);
        assert_eq!(admit(&mut callers, DomainId(8)).1, Admission::Served);
        // The end of one that did not count changes nothing.
        callers.over(dropped);
        assert!(matches!(admit(&mut callers, ONE).1, Admission::Dropped(_)));
        callers.over(refused[0]);
        assert!(matches!(admit(&mut callers, ONE).1, Admission::Refused(_)));
        served.iter().for_each(|call| callers.over(*call));
        assert_eq!(admit(&mut callers, ONE).1, Admission::Served);
    }

    #[test]
    fn what_processes_tell_is_heard() {
        let callers = Callers::new(Some(8)).unwrap();
        assert!(callers.told().is_empty());
        let words = [(CallId(3), Word::NotMet), (CallId(u64::MAX), Word::LinkOver)];
        words.iter().for_each(|(call, word)| tell(callers.writer(), *call, *word));
        assert_eq!(callers.told(), words);
        assert!(callers.told().is_empty());
    }
}
