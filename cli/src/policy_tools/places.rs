//! Places that somebody who asks too much cannot take from the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::people::Notice;

/// So many in all, and a share of them for each source, which is never more than half of what the others have left: so there
/// is something left for the next one, however many ask without end.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    share: usize,
    taken: Mutex<BTreeMap<String, usize>>,
}

impl Places {
    pub(super) fn new(max: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { max, share, taken: Mutex::default() })
    }

    /// A place for something of this source, given back when it is dropped; `None` if there is none for it.
    pub(super) fn take(self: &Arc<Self>, source: &str) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let theirs = taken.get(source).copied().unwrap_or_default();
        let free = self.max.saturating_sub(taken.values().sum());
        if theirs >= self.share || theirs >= free {
            return None;
        }
        taken.insert(source.to_owned(), theirs.saturating_add(1));
        Some(Place { places: Arc::clone(self), source: source.to_owned() })
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    source: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        if let Some(theirs) = taken.get_mut(&self.source) {
            *theirs = theirs.saturating_sub(1);
            if *theirs == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// Notices that are being shown: few, since nobody reads many, and no two that are equal.
#[derive(Debug, Default)]
pub(super) struct Notices {
    shown: Mutex<Vec<Notice>>,
}

impl Notices {
    /// Notices at once.
    const MAX: usize = 16;
    /// Of those, about one source.
    const SHARE: usize = 4;

    /// Shows a notice, unless the same one is there already, or too many are.
    pub(super) fn show(&self, notice: &Notice, show: impl FnOnce()) {
        {
            let mut shown = lock(&self.shown);
            let theirs = shown.iter().filter(|other| other.source == notice.source).count();
            if shown.contains(notice) || theirs >= Self::SHARE || shown.len() >= Self::MAX {
                return tracing::debug!("a notice is not shown: there are enough");
            }
            shown.push(notice.clone());
        }
        let _gone = Gone(self, notice);
        show();
    }
}

/// Takes a notice off the list.
struct Gone<'a>(&'a Notices, &'a Notice);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let mut shown = lock(&self.0.shown);
        if let Some(place) = shown.iter().position(|notice| notice == self.1) {
            shown.swap_remove(place);
        }
    }
}

/// Whatever happened to somebody who held it: numbers are never half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_share_and_gives_it_back() {
        let places = Places::new(5, 2);
        let take = |source: &str| -> Vec<Place> { (0..9).filter_map(|_| places.take(source)).collect() };
        let (work, vault, mail) = (take("work"), take("vault"), take("mail"));
        assert_eq!((work.len(), vault.len(), mail.len()), (2, 2, 1));
        drop(vault);
        assert!(places.take("work").is_none());
        assert_eq!(take("other").len(), 1);
        let panicked = std::thread::spawn(move || {
            let _work = work;
            panic!("a thread that ends badly")
        });
        assert!(panicked.join().is_err());
        assert_eq!(take("work").len(), 2);
        drop(mail);
        assert!(lock(&places.taken).is_empty());
    }

    #[test]
    fn eight_who_take_what_they_can_leave_some_for_the_ninth() {
        let places = Places::new(512, 64);
        let take = |source: &str| -> Vec<Place> { (0..600).filter_map(|_| places.take(source)).collect() };
        let floods: Vec<_> = (0..8).map(|n| take(&format!("flood{n}"))).collect();
        assert_eq!((floods[0].len(), floods[6].len(), floods[7].len()), (64, 64, 32));
        assert_eq!(take("work").len(), 16);
    }

    #[test]
    fn notices_are_merged_and_few() {
        let notices = Notices::default();
        let notice = |source: &str, service: &str| Notice {
            resolution: "deny".to_owned(),
            service: service.to_owned(),
            argument: "+".to_owned(),
            source: source.to_owned(),
            target: "vault".to_owned(),
        };
        let count = std::cell::Cell::new(0);
        fn nested(notices: &Notices, all: &[Notice], count: &std::cell::Cell<usize>) {
            let Some((first, rest)) = all.split_first() else { return };
            let mut went_on = false;
            notices.show(first, || {
                count.set(count.get() + 1);
                went_on = true;
                nested(notices, rest, count);
            });
            if !went_on {
                nested(notices, rest, count);
            }
        }
        nested(&notices, &[notice("work", "a"), notice("work", "a"), notice("work", "b")], &count);
        assert_eq!(count.replace(0), 2);
        let of = |source: &str| (0..9).map(|n| notice(source, &format!("s{n}"))).collect::<Vec<_>>();
        nested(&notices, &["a", "b", "c", "d", "e", "f"].map(of).concat(), &count);
        assert_eq!(count.get(), Notices::MAX);
        assert!(lock(&notices.shown).is_empty());
    }
}
