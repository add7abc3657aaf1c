#![forbid(unsafe_code)]
//! A key of another domain's as the sign that it lives.
//!
//! When a domain is destroyed, its keys go first, and a watch on one that we may read fires then, before anything else
//! tells. The hypervisor goes on knowing the domain for as long as a page of it is mapped, so nobody is asked whether the
//! news is true: a key that was there and cannot be read any more is the answer.
//!
//! Each VM keeps one key for that, which every domain may read: that a domain is there, any of them can find out anyway.
//! It is made before the first call and stays until the VM ends. A server of upstream's has none, but leaves its
//! `event-channel` readable for its client as long as it lives.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::store::{Store, is_missing};
use super::store_messages::Request;
use crate::error::Error;

/// The key, below each VM's own folder.
const KEY: &str = "data/qrexec-alive";

/// The key of another VM.
pub(super) fn of(domain: u32) -> String {
    format!("/local/domain/{domain}/{KEY}")
}

/// Makes this VM's key unless it is there.
pub(super) fn announce(own: u32) -> Result<(), Error> {
    Store::open()?.publish_to_all(KEY, own)
}

/// What a look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sight {
    /// The key was there and is not any more.
    Gone,
    /// It is there, or never was.
    Nothing,
    /// Another key says more: this one may go although its domain lives.
    Void,
}

/// Watches one key on a connection of its own. Nothing here ever waits.
pub(super) struct Lookout {
    store: Store,
    key: String,
    /// It was read once.
    seen: bool,
    /// To be asked, one after the other.
    todo: VecDeque<Question>,
    /// The last of them that was asked and not answered.
    asked: Option<Question>,
    /// A watch was refused: the key is read when [`Lookout::tick`] says so.
    blind: bool,
    /// What was found. Anything but [`Sight::Nothing`] stays.
    found: Sight,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Question {
    Watch(String),
    Key,
    /// Whether there is another key, which says more.
    Better(String),
}

impl Lookout {
    /// Watches a key, and whatever else may change when it goes.
    pub(super) fn new(store: Store, key: String, also: Option<&str>) -> Lookout {
        let watches = also.map(str::to_owned).into_iter().chain([key.clone()]);
        let todo = watches.map(Question::Watch).chain([Question::Key]).collect();
        Lookout { store, key, seen: false, todo, asked: None, blind: false, found: Sight::Nothing }
    }

    /// Goes on with a connection that watches a key which was read already. It means nothing if there is the other key.
    pub(super) fn go_on(store: Store, key: String, better: String) -> Lookout {
        let todo = [Question::Better(better), Question::Key].into();
        Lookout { store, key, seen: true, todo, asked: None, blind: false, found: Sight::Nothing }
    }

    /// To be called when the descriptor is ready, and once to begin.
    pub(super) fn look(&mut self) -> io::Result<Sight> {
        while self.found == Sight::Nothing {
            if let Some(question) = self.asked.take() {
                let Some(answer) = self.store.heard()? else {
                    self.asked = Some(question);
                    return Ok(Sight::Nothing);
                };
                self.understand(&question, answer);
            } else {
                // Nothing is outstanding: what else arrives are events.
                while self.store.heard()?.is_some() {}
            }
            if !self.store.take_changes().is_empty() {
                self.read_again();
            }
            if self.found != Sight::Nothing || !self.ask()? {
                break;
            }
        }
        Ok(self.found)
    }

    /// To be called now and then: reads the key if no watch tells when to.
    pub(super) fn tick(&mut self) -> io::Result<Sight> {
        if self.blind {
            self.read_again();
        }
        self.look()
    }

    fn read_again(&mut self) {
        if !self.todo.contains(&Question::Key) {
            self.todo.push_back(Question::Key);
        }
    }

    /// Asks the next question, if there is one.
    fn ask(&mut self) -> io::Result<bool> {
        while let Some(question) = self.todo.pop_front() {
            let asked = self.store.begin(match &question {
                Question::Watch(path) => Request::Watch(path, 1),
                Question::Key => Request::Read(&self.key),
                Question::Better(path) => Request::Read(path),
            });
            match (&question, asked) {
                (_, Ok(())) => {
                    self.asked = Some(question);
                    return Ok(true);
                }
                // Linux says so itself, and no answer comes.
                (Question::Watch(_), Err(_)) => self.blind = true,
                (_, Err(error)) => return Err(error),
            }
        }
        Ok(false)
    }

    fn understand(&mut self, question: &Question, answer: io::Result<Vec<u8>>) {
        match (question, answer) {
            (Question::Key, Ok(_)) => self.seen = true,
            (Question::Key, Err(error)) if is_missing(&error) && self.seen => self.found = Sight::Gone,
            (Question::Better(_), Ok(_)) => self.found = Sight::Void,
            (Question::Watch(_), Err(_)) => self.blind = true,
            // Anything else is no news: a key that is not there yet, a question that xenstore could not answer.
            _ => {}
        }
    }
}

impl AsFd for Lookout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.store.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, Xenstore};
    use super::*;

    fn until(lookout: &mut Lookout, wanted: Sight) {
        fake::until(|lookout: &mut Lookout| lookout.look().unwrap() == wanted, lookout);
    }

    /// Until it has no question any more, none of which brings news.
    fn settle(lookout: &mut Lookout) {
        let done = |lookout: &mut Lookout| {
            assert_eq!(lookout.look().unwrap(), Sight::Nothing);
            lookout.asked.is_none() && lookout.todo.is_empty()
        };
        fake::until(done, lookout);
    }

    #[test]
    fn a_key_that_goes_is_the_end_and_one_that_never_was_is_not() {
        let xenstore = Xenstore::new();
        let mut lookout = Lookout::new(xenstore.connect(), "/k".into(), Some("@r"));
        settle(&mut lookout);
        // Somebody else's end; a value that changes.
        xenstore.fire("@r");
        xenstore.set("/k", "1");
        xenstore.set("/k", "2");
        settle(&mut lookout);
        xenstore.remove("/k");
        until(&mut lookout, Sight::Gone);
    }

    #[test]
    fn a_key_that_may_not_be_read_any_more_is_gone() {
        let xenstore = Xenstore::new();
        xenstore.set("/k", "1");
        let mut lookout = Lookout::new(xenstore.connect(), "/k".into(), None);
        settle(&mut lookout);
        xenstore.forbid("/k");
        until(&mut lookout, Sight::Gone);
    }

    #[test]
    fn without_a_watch_the_key_is_read_at_each_tick() {
        let xenstore = Xenstore::new();
        xenstore.refuse_watches();
        xenstore.set("/k", "1");
        let mut lookout = Lookout::new(xenstore.connect(), "/k".into(), None);
        settle(&mut lookout);
        xenstore.remove("/k");
        settle(&mut lookout);
        if lookout.tick().unwrap() != Sight::Gone {
            until(&mut lookout, Sight::Gone);
        }
    }

    #[test]
    fn a_servers_key_counts_only_if_its_domain_has_no_better_one() {
        let xenstore = Xenstore::new();
        let lookout = |better: &str| {
            xenstore.set("/server", "1");
            let mut store = xenstore.connect();
            store.watch("/server").unwrap();
            Lookout::go_on(store, "/server".into(), better.into())
        };
        let mut upstreams = lookout("/life");
        settle(&mut upstreams);
        xenstore.set("/life", "1");
        let mut ours = lookout("/life");
        xenstore.remove("/server");
        until(&mut ours, Sight::Void);
        until(&mut upstreams, Sight::Gone);
        // Who did not listen the first time is told the same again.
        assert_eq!((ours.look().unwrap(), upstreams.look().unwrap()), (Sight::Void, Sight::Gone));
    }
}
