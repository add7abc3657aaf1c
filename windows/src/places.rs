//! Places for programs: so many at once, and whoever comes then waits until one is given back.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// All places.
#[derive(Clone)]
pub(crate) struct Places {
    shared: Arc<(Mutex<usize>, Condvar)>,
}

/// One of them, given back when it is dropped.
pub(crate) struct Place(Places);

impl Places {
    /// So many, all free.
    pub(crate) fn new(most: usize) -> Self {
        Self { shared: Arc::new((Mutex::new(most), Condvar::new())) }
    }

    /// Takes a place; waits until there is one.
    pub(crate) fn take(&self) -> Place {
        let (free, given_back) = &*self.shared;
        let free = free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = given_back.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free = free.saturating_sub(1);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (free, given_back) = &*self.0.shared;
        let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = free.saturating_add(1);
        given_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn who_comes_to_full_places_waits_for_one_that_is_given_back() {
        let places = Places::new(2);
        let (first, _second) = (places.take(), places.take());
        let (sender, taken) = channel();
        let waiting = std::thread::spawn(move || sender.send(places.take()).is_ok());
        assert!(taken.try_recv().is_err(), "there is no third");
        drop(first);
        drop(taken.recv().unwrap());
        assert!(waiting.join().unwrap());
    }
}
