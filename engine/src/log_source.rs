#![forbid(unsafe_code)]
//! Which source a thread's log lines are about. Where sources share a log, each may write only so many lines in a
//! time.

use std::cell::RefCell;

thread_local! {
    static SOURCE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Everything that this thread logs from now on is about `source`: in the process or thread of one call.
pub fn speak_for(source: &str) {
    SOURCE.with(|current| source.clone_into(&mut current.borrow_mut()));
}

/// What this thread logs during `work` is about `source`.
pub fn speaking_for<T>(source: &str, work: impl FnOnce() -> T) -> T {
    let _before = Before(SOURCE.with(|current| current.replace(source.to_owned())));
    work()
}

/// Passes this thread's source to `look`; an empty one if it logs for itself.
pub fn source<T>(look: impl FnOnce(&str) -> T) -> T {
    SOURCE.with(|current| look(&current.borrow()))
}

/// Restores the previous source when it is dropped, after a panic too.
struct Before(String);

impl Drop for Before {
    fn drop(&mut self) {
        let before = std::mem::take(&mut self.0);
        SOURCE.with(|current| current.replace(before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> String {
        source(str::to_owned)
    }

    #[test]
    fn each_thread_speaks_for_its_own_source_and_goes_back_to_the_one_before() {
        assert_eq!(now(), "");
        speak_for("work");
        assert_eq!(speaking_for("vault", now), "vault");
        let panicked = std::panic::catch_unwind(|| speaking_for("vault", || panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(now(), "work");
        assert_eq!(std::thread::spawn(now).join().unwrap(), "");
    }
}
