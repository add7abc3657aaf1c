//! Calls whose caller has not come yet. They wait without a process, a timer or anything else of their own.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ring::{Appeared, ServerWatch, Transport};
use wire::control::Endpoint;

/// Time until the first look, where no event tells that the caller has come; each further time is twice as long, up to
/// the longest.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);

/// The calls that wait, by the place where their callers will be.
pub(crate) struct WaitingCalls<T> {
    server_watch: ServerWatch,
    watched: bool,
    waiting: BTreeMap<(u32, u32), Vec<Waiting<T>>>,
}

struct Waiting<T> {
    item: T,
    until: Instant,
    /// When to look next, where no event tells.
    look: Instant,
    pause: Duration,
}

/// A call that does not wait any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left<T> {
    /// Its caller has come.
    Met(T),
    /// Its caller did not come in time.
    Late(T),
}

impl<T> WaitingCalls<T> {
    /// `None` where each call waits by itself.
    pub(crate) fn new(transport: &Transport) -> Option<Self> {
        Some(Self { server_watch: transport.server_watch()?, watched: false, waiting: BTreeMap::new() })
    }

    /// Readable when callers have come.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.server_watch.descriptor()
    }

    /// Lets `item` wait for the caller at this place. `Some`: the caller has just come.
    pub(crate) fn wait(&mut self, at: Endpoint, until: Instant, now: Instant, item: T) -> Option<T> {
        let place = (at.domain.0, at.port.0);
        // Watched before looking, so that a caller who comes after the look is noticed.
        self.watched = self.server_watch.watch();
        if self.server_watch.is_there(place.0, place.1) {
            self.rest();
            return Some(item);
        }
        let waiting = Waiting { item, until, look: now + FIRST, pause: FIRST };
        self.waiting.entry(place).or_default().push(waiting);
        None
    }

    /// To be called when the descriptor is readable.
    pub(crate) fn on_ready(&mut self) -> Vec<T> {
        let places = match self.server_watch.appeared() {
            Appeared::These(places) => places,
            Appeared::Many => {
                // Watched before looking, as in `wait`; the folder may be another one now.
                self.watched = self.server_watch.watch();
                let all = self.waiting.keys().copied();
                all.filter(|place| self.server_watch.is_there(place.0, place.1)).collect()
            }
        };
        let met = places.into_iter().filter_map(|place| self.waiting.remove(&place)).flatten();
        let met = met.map(|waiting| waiting.item).collect();
        self.rest();
        met
    }

    /// When [`WaitingCalls::on_time`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let all = self.waiting.values().flatten();
        all.map(|one| if self.watched { one.until } else { one.until.min(one.look) }).min()
    }

    /// Returns those that are too late, and those whose callers were looked for and found.
    pub(crate) fn on_time(&mut self, now: Instant) -> Vec<Left<T>> {
        let mut left = Vec::new();
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return left;
        }
        for (place, all) in &mut self.waiting {
            let looks = !self.watched && all.iter().any(|one| one.look <= now);
            let met = looks && self.server_watch.is_there(place.0, place.1);
            let gone = all.extract_if(.., |one| met || one.until <= now);
            left.extend(gone.map(|one| if met { Left::Met(one.item) } else { Left::Late(one.item) }));
            for one in all.iter_mut().filter(|one| one.look <= now) {
                one.pause = (one.pause * 2).min(LONGEST);
                one.look = now + one.pause;
            }
        }
        self.waiting.retain(|_, all| !all.is_empty());
        self.rest();
        left
    }

    /// Ends the watch while no call waits.
    fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.server_watch.rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::{Kind, Sizes};
    use wire::names::{DomainId, Port};

    fn at(port: u32) -> Endpoint {
        Endpoint { domain: DomainId(7), port: Port(port) }
    }

    #[test]
    fn callers_are_found_in_a_folder_that_is_made_anew() {
        let root = tempfile::tempdir().expect("tempdir");
        let folder = root.path().join("shm");
        let make = || {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().mode(0o700).create(&folder).expect("a folder");
        };
        make();
        let serve =
            |port| Transport::new(Kind::Shm, 7, &folder).listen(3, port, Sizes::both(4096)).expect("listens");
        let mut waiting_calls = WaitingCalls::new(&Transport::new(Kind::Shm, 3, &folder)).expect("files");
        let now = Instant::now();
        for port in [514, 515] {
            assert_eq!(waiting_calls.wait(at(port), now + Duration::from_secs(120), now, port), None);
        }
        std::fs::remove_dir_all(&folder).expect("removes");
        make();
        let _before = serve(514);
        assert_eq!(waiting_calls.on_ready(), [514]);
        let _after = serve(515);
        assert_eq!(waiting_calls.on_ready(), [515]);
    }

    #[test]
    fn callers_are_told_of_by_the_folder_or_looked_for_less_and_less() {
        let folder = tempfile::tempdir().expect("tempdir");
        let other = Transport::new(Kind::Shm, 7, folder.path());
        let serve = |port| other.listen(3, port, Sizes::both(4096)).expect("listens");
        let mut waiting_calls =
            WaitingCalls::new(&Transport::new(Kind::Shm, 3, folder.path())).expect("files");
        let now = Instant::now();
        let until = now + Duration::from_secs(120);
        let _there = serve(513);
        assert_eq!(waiting_calls.wait(at(513), until, now, 13), Some(13));
        for port in [514, 515, 516] {
            assert_eq!(waiting_calls.wait(at(port), until, now, port), None);
        }
        assert_eq!((waiting_calls.deadline(), waiting_calls.on_ready()), (Some(until), vec![]));
        let _comes = serve(515);
        assert_eq!(waiting_calls.on_ready(), [515]);

        // As if there were no inotify instance.
        waiting_calls.watched = false;
        let mut time = now;
        let mut looks = 0;
        while time < now + Duration::from_secs(60) {
            time = waiting_calls.deadline().expect("two wait");
            assert_eq!(waiting_calls.on_time(time), []);
            looks += 1;
        }
        assert!(looks < 80, "{looks} looks in a minute");
        let _late = serve(514);
        let time = waiting_calls.deadline().expect("two wait");
        assert_eq!(waiting_calls.on_time(time), [Left::Met(514)]);
        assert_eq!(waiting_calls.on_time(until), [Left::Late(516)]);
        assert_eq!(waiting_calls.deadline(), None);
    }
}
