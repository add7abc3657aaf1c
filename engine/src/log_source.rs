#![forbid(unsafe_code)]
//! For which source a thread speaks in the log: where sources share one, each has a bucket of lines of its own.

use std::cell::RefCell;

thread_local! {
    static SOURCE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// All that this thread logs from now on is about `source`: in the process or thread of one call.
pub fn speak_for(source: &str) {
    SOURCE.with(|current| source.clone_into(&mut current.borrow_mut()));
}

/// What this thread logs while it does `work` is about `source`.
pub fn speaking_for<T>(source: &str, work: impl FnOnce() -> T) -> T {
    let _before = Before(SOURCE.with(|current| current.replace(source.to_owned())));
    work()
}

/// Looks at the source of this thread; empty, it speaks for itself.
pub fn source<T>(look: impl FnOnce(&str) -> T) -> T {
    SOURCE.with(|current| look(&current.borrow()))
}

/// Speaks for whom it was before, whatever happened meanwhile.
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
