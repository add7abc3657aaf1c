//! `qubesd` is asked by one thread, once at a time, for everybody.
//!
//! An answer serves every question that was there before `qubesd` was asked, and no other: a question is never decided by
//! what was known before it came. So whoever asks waits for the rest of one answer, which came too early for it, and for
//! one of its own, however many others ask. A second thread decides, each source in its turn, while `qubesd` is asked
//! for those who came meanwhile.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use policy::SystemInfo;

use super::system::NoSystem;
use super::turns::Turns;

/// The system, or why nobody knows it.
pub(super) type Answer = Result<Arc<SystemInfo>, Arc<NoSystem>>;
/// What is done with an answer.
type Then = Box<dyn FnOnce(Answer) + Send>;

/// Both threads, and what waits for them. They live as long as the program.
pub(super) struct Asker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Came after `qubesd` was asked the last time.
    waiting: Vec<(String, Then)>,
    answered: Turns<(Then, Answer)>,
}

impl Asker {
    /// Starts both threads; `ask` is what asks.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(ask: impl Fn() -> Answer + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (asking, deciding) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::Builder::new().spawn(move || asking.ask_for_ever(&ask))?;
        thread::Builder::new().spawn(move || deciding.decide_for_ever())?;
        Ok(Self(shared))
    }

    /// Has `then` called with what `qubesd` says from now on, in a turn of `source`. How many may wait is the caller's to
    /// decide.
    pub(super) fn ask(&self, source: &str, then: impl FnOnce(Answer) + Send + 'static) {
        self.0.lock().waiting.push((source.to_owned(), Box::new(then)));
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn ask_for_ever(&self, ask: &impl Fn() -> Answer) {
        loop {
            let waiting = self
                .wait_until(|state| (!state.waiting.is_empty()).then(|| std::mem::take(&mut state.waiting)));
            let answer =
                catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_| Err(Arc::new(NoSystem::Panicked)));
            let mut state = self.lock();
            for (source, then) in waiting {
                state.answered.push(&source, (then, answer.clone()));
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn decide_for_ever(&self) {
        loop {
            let (_, (then, answer)) = self.wait_until(|state| state.answered.pop());
            // Whatever goes wrong costs one question: its connection is closed, which denies.
            if catch_unwind(AssertUnwindSafe(|| then(answer))).is_err() {
                tracing::error!("a question could not be decided");
            }
        }
    }

    /// Waits until `found` finds something.
    fn wait_until<T>(&self, mut found: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(found) = found(&mut state) {
                return found;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing that could panic is done while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use wire::names::NameError;

    /// What the test's `qubesd` answered.
    fn number(answer: Answer) -> usize {
        match *answer.unwrap_err() {
            NoSystem::Name(NameError::TooLong { len, .. }) => len,
            ref other => panic!("{other}"),
        }
    }

    /// An asker whose `qubesd` says when it is asked, and answers when it is told to, with a number.
    fn asker() -> (Asker, Receiver<()>, Sender<usize>) {
        let ((says, asked), (answer, answers)) = (channel(), channel::<usize>());
        let asker = Asker::start(move || {
            says.send(()).unwrap();
            let number = answers.recv().unwrap();
            Err(Arc::new(NoSystem::Name(NameError::TooLong { len: number, max: 0 })))
        });
        (asker.unwrap(), asked, answer)
    }

    #[test]
    fn an_answer_serves_all_who_came_before_it_was_asked_for_and_sources_take_turns() {
        let (asker, asked, answer) = asker();
        let (heard, hears) = channel();
        let ask = |source: &'static str| {
            let heard = heard.clone();
            asker.ask(source, move |answer| heard.send((source, number(answer))).unwrap());
        };
        ask("first");
        asked.recv().unwrap();
        // All of these are too late for the answer that is on its way.
        (0..5).for_each(|_| ask("flood"));
        ask("work");
        answer.send(1).unwrap();
        assert_eq!(hears.recv().unwrap(), ("first", 1));
        asked.recv().unwrap();
        answer.send(2).unwrap();
        let served: Vec<_> = (0..6).map(|_| hears.recv().unwrap()).collect();
        assert!(served.iter().all(|(_, answer)| *answer == 2), "{served:?}");
        assert!(served[..2].iter().any(|(source, _)| *source == "work"), "{served:?}");
        assert!(asked.try_recv().is_err(), "asked without a question");
    }

    #[test]
    fn a_question_that_goes_wrong_costs_no_other() {
        let (asker, asked, answer) = asker();
        let (heard, hears) = channel();
        asker.ask("work", |_| panic!("on purpose"));
        asked.recv().unwrap();
        answer.send(1).unwrap();
        asker.ask("work", move |answer| heard.send(number(answer)).unwrap());
        asked.recv().unwrap();
        answer.send(2).unwrap();
        assert_eq!(hears.recv().unwrap(), 2);
    }
}
