#![forbid(unsafe_code)]
//! A key of another domain's as the sign that it lives.
//!
//! When a domain is destroyed its keys are removed first, and a watch on one that may be read fires then, before there
//! is any other sign. The hypervisor still knows the domain for as long as one of its pages is mapped, so it cannot
//! confirm the news: a key that could be read before and no longer can is the sign.
//!
//! Each VM keeps one key for that, which every domain may read: any of them can find out anyway whether a domain
//! exists. It is made before the first call and stays until the VM ends. A VM with upstream's server has none, but
//! that server's `event-channel` stays readable for its client as long as the server runs.

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
    /// The key could be read before and no longer can.
    Gone,
    /// The key can be read, or never could be.
    Nothing,
    /// Another key is a better sign: this one may be removed although its domain exists.
    Void,
}

/// Watches one key on a connection of its own. Nothing here ever waits for an answer.
pub(super) struct Lookout {
    store: Store,
    key: String,
    /// The key was read at least once.
    seen: bool,
    /// Questions to ask, one after the other.
    todo: VecDeque<Question>,
    /// The question that is not answered yet.
    asked: Option<Question>,
    /// The watch was refused: the key is read at each [`Lookout::tick`].
    blind: bool,
    /// What was found. Once it is not [`Sight::Nothing`] it stays.
    found: Sight,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Question {
    Watch(String),
    Key,
    /// Whether there is another key, which is a better sign.
    Better(String),
}

impl Lookout {
    /// Watches a key, and another path (`also`) whose changes may mean that the key has gone.
    pub(super) fn new(store: Store, key: String, also: Option<&str>) -> Lookout {
        let watches = also.map(str::to_owned).into_iter().chain([key.clone()]);
        let todo = watches.map(Question::Watch).chain([Question::Key]).collect();
        Lookout { store, key, seen: false, todo, asked: None, blind: false, found: Sight::Nothing }
    }

    /// Takes over a connection that watches a key which was read already. That key counts only if there is no `better`
    /// one.
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
                // No question is open: whatever arrives is an event.
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

    /// To be called from time to time: reads the key if it is not watched.
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
                // Linux refuses a watch by itself, and then no answer comes.
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
            // Anything else is no news: a key that does not exist yet, or a question that xenstore could not answer.
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

    /// Until there is no open question; none of the answers is news.
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
        // Another domain has ended; a value has changed.
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
        // Asking again gives the same result.
        assert_eq!((ours.look().unwrap(), upstreams.look().unwrap()), (Sight::Void, Sight::Gone));
    }
}
