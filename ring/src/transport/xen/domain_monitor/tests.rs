#![forbid(unsafe_code)]
//! The domain monitor, with members and a xenstore that the test plays.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::fake::{Xenstore, until};
use super::*;

const OWN: u32 = 5;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const READ: u32 = 2;

struct World {
    dir: tempfile::TempDir,
    xenstore: Xenstore,
    domain_monitor: DomainMonitor,
}

impl World {
    /// The hypervisor knows all domains below 200.
    fn new() -> World {
        let (dir, xenstore) = (tempfile::tempdir().unwrap(), Xenstore::new());
        let stores = xenstore.clone();
        let opener = Box::new(move || Ok(stores.connect()));
        let domain_monitor =
            DomainMonitor::at(&dir.path().join("peers"), OWN, |domain| domain < 200, opener).unwrap();
        World { dir, xenstore, domain_monitor }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("peers")
    }

    fn member(&self, words: &[u8]) -> UnixStream {
        let mut member = UnixStream::connect(self.path()).unwrap();
        member.write_all(words).unwrap();
        member
    }

    fn guest_of(&self, domain: u32) -> UnixStream {
        self.member(&domain.to_le_bytes())
    }

    fn run_until(&mut self, mut done: impl FnMut(&DomainMonitor) -> bool) {
        until(
            |domain_monitor: &mut DomainMonitor| {
                let _ = domain_monitor.on_ready();
                done(domain_monitor)
            },
            &mut self.domain_monitor,
        );
    }

    /// Until xenstore owes no answer and the domain's key was seen.
    fn run_until_seen(&mut self, domain: u32) {
        self.run_until(|w| w.asked.is_none() && w.domains.get(&domain).is_some_and(|one| one.seen));
    }

    /// Until the domains of all members are watched and no question is open.
    fn run_until_quiet(&mut self, domains: usize) {
        self.run_until(|w| w.domains.len() == domains && w.asked.is_none() && w.questions.is_empty());
    }
}

fn word(mut member: &UnixStream) -> u8 {
    let mut word = [0; 2];
    assert_eq!(member.read(&mut word).unwrap(), 1);
    word[0]
}

fn is_silent(mut member: &UnixStream) -> bool {
    member.set_nonblocking(true).unwrap();
    member.read(&mut [0; 2]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn a_key_that_goes_is_the_end_although_the_hypervisor_knows_the_domain() {
    let mut world = World::new();
    world.xenstore.set(&liveness::of(100), "1");
    world.xenstore.set(&liveness::of(7), "1");
    let [dying, too, here] = [100, 100, 7].map(|domain| world.guest_of(domain));
    world.run_until_seen(100);
    world.run_until_seen(7);
    world.run_until(|w| w.members.values().filter(|member| member.domain.is_some()).count() == 3);
    world.xenstore.remove(&liveness::of(100));
    world.run_until(|w| w.members.len() == 1);
    assert_eq!((word(&dying), word(&too)), (GONE, GONE));
    assert!(is_silent(&here));
    // Both calls share one watch.
    assert_eq!(world.xenstore.asked(WATCH, &liveness::of(100)), 1);
    drop(here);
    world.run_until(|w| !w.ticking && w.store.is_none());
    assert!(world.domain_monitor.members.is_empty() && world.domain_monitor.domains.is_empty());
    let path = world.path();
    drop(world.domain_monitor);
    assert!(!path.exists());
}

#[test]
fn the_hypervisor_is_asked_for_a_domain_without_a_key() {
    let mut world = World::new();
    let [gone, upstreams] = [200, 100].map(|domain| world.guest_of(domain));
    world.run_until(|w| w.members.len() == 1);
    assert_eq!(word(&gone), GONE);
    assert!(is_silent(&upstreams), "no key is not the end");
}

#[test]
fn a_key_that_is_made_later_is_known_when_it_goes() {
    let mut world = World::new();
    let member = world.guest_of(100);
    world.run_until_quiet(1);
    world.xenstore.set(&liveness::of(100), "1");
    world.run_until_seen(100);
    world.xenstore.forbid(&liveness::of(100));
    world.run_until(|w| w.members.is_empty());
    assert_eq!(word(&member), GONE);
}

#[test]
fn a_domain_that_writes_its_key_all_the_time_is_not_watched_and_its_end_is_seen() {
    let mut world = World::new();
    world.xenstore.set(&liveness::of(100), "1");
    let member = world.guest_of(100);
    world.run_until_seen(100);
    while world.xenstore.asked(UNWATCH, &liveness::of(100)) == 0 {
        world.xenstore.set(&liveness::of(100), "again");
        let _ = world.domain_monitor.on_ready();
    }
    assert!(world.xenstore.asked(READ, &liveness::of(100)) <= NOISE as usize + 3);
    world.run_until(|w| w.asked.is_none());
    assert_eq!(world.xenstore.watchers(&liveness::of(100)), 0);
    world.xenstore.remove(&liveness::of(100));
    world.run_until(|w| w.members.is_empty());
    assert_eq!(word(&member), GONE);
}

#[test]
fn where_watches_are_refused_keys_are_read() {
    let mut world = World::new();
    world.xenstore.refuse_watches();
    world.xenstore.set(&liveness::of(100), "1");
    let member = world.guest_of(100);
    world.run_until_seen(100);
    world.xenstore.remove(&liveness::of(100));
    world.run_until(|w| w.members.is_empty());
    assert_eq!(word(&member), GONE);
}

#[test]
fn only_so_many_domains_are_watched_and_the_rest_are_read() {
    let mut world = World::new();
    let count = MAX_WATCHES + 3;
    let domains = 100..100 + count as u32;
    domains.clone().for_each(|domain| world.xenstore.set(&liveness::of(domain), "1"));
    let members: Vec<UnixStream> = domains.clone().map(|domain| world.guest_of(domain)).collect();
    world.run_until(|w| w.domains.len() == count && w.domains.values().all(|one| one.seen));
    let watched: usize = domains.clone().map(|domain| world.xenstore.watchers(&liveness::of(domain))).sum();
    assert_eq!(watched, MAX_WATCHES);
    domains.for_each(|domain| world.xenstore.remove(&liveness::of(domain)));
    world.run_until(|w| w.members.is_empty());
    assert!(members.iter().all(|member| word(member) == GONE));
}

#[test]
fn a_restored_vm_ends_its_calls_and_one_whose_clock_was_set_does_not() {
    let mut world = World::new();
    world.xenstore.set("domid", "5");
    let members = [DOM0, 100].map(|domain| world.guest_of(domain));
    world.run_until(|w| w.members.values().filter(|member| member.domain.is_some()).count() == 2);
    world.run_until_quiet(1);
    world.domain_monitor.on_leap();
    world.run_until_quiet(1);
    assert_eq!(world.xenstore.asked(READ, "domid"), 1);
    assert!(world.domain_monitor.on_ready().is_ok() && members.iter().all(is_silent));
    world.xenstore.set("domid", "9");
    world.domain_monitor.on_leap();
    world.run_until(|w| w.restored);
    assert!(matches!(world.domain_monitor.on_ready(), Err(Error::Restored)));
    for member in &members {
        member.set_nonblocking(false).unwrap();
        assert_eq!(word(member), RESTORED);
    }
}

#[test]
fn a_call_with_dom0_costs_no_tick_and_no_question() {
    let mut world = World::new();
    let member = world.guest_of(DOM0);
    world.run_until(|w| w.members.values().any(|member| member.domain == Some(DOM0)));
    assert!(!world.domain_monitor.ticking && world.domain_monitor.store.is_none() && is_silent(&member));
}

/// Members that come and go cause questions, which must not gather while xenstore answers none.
#[test]
fn a_xenstore_that_does_not_answer_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let silent = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let held = std::sync::Arc::clone(&silent);
    let opener = Box::new(move || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        held.lock().unwrap().push(theirs);
        Ok(Store::over(ours.into()))
    });
    let mut monitor = DomainMonitor::at(&dir.path().join("peers"), OWN, |_| true, opener).unwrap();
    for _ in 0..2 * MAX_QUESTIONS {
        assert!(monitor.take_up(100));
        // Nobody asks for the domain any more, so it is dropped.
        monitor.tick();
        assert!(monitor.questions.len() <= MAX_QUESTIONS, "{}", monitor.questions.len());
    }
    assert!(silent.lock().unwrap().len() > 1, "it was opened again");
}

#[test]
fn who_speaks_otherwise_is_turned_out() {
    let mut world = World::new();
    for words in [&b"abc"[..], b"abcde"] {
        let next = world.domain_monitor.next;
        let mut rude = world.member(words);
        world.run_until(|w| w.next > next && w.members.is_empty());
        assert!(matches!(rude.read(&mut [0; 2]), Ok(0) | Err(_)));
    }
    let mut thrice = world.guest_of(7);
    world.run_until(|w| w.domains.len() == 1);
    for word in [8u32, 9] {
        assert_eq!(world.domain_monitor.members.len(), 1);
        thrice.write_all(&word.to_le_bytes()).unwrap();
        world.run_until(|w| w.members.values().all(|member| member.pages == Some(8)));
    }
    world.run_until(|w| w.members.is_empty());
}

/// What a channel says that maps so many pages of a domain.
fn words(domain: u32, pages: u32) -> Vec<u8> {
    [domain, pages].map(u32::to_le_bytes).concat()
}

#[test]
fn one_domain_has_no_more_pages_mapped_than_it_may_and_others_have_theirs() {
    let mut world = World::new();
    world.domain_monitor.ceiling = 100;
    let counted = |w: &DomainMonitor| w.members.values().filter(|member| member.pages.is_some()).count();
    let first = world.member(&words(100, 40));
    let second = world.member(&words(100, 60));
    world.run_until(|w| counted(w) == 2);
    let refused = world.member(&words(100, 1));
    let other = world.member(&words(7, 100));
    let dom0 = world.member(&words(DOM0, 101));
    let server = world.guest_of(100);
    world.run_until(|w| w.members.len() == 5 && counted(w) == 4);
    assert_eq!(word(&refused), FULL);
    assert!([&first, &second, &other, &dom0, &server].into_iter().all(is_silent));
    drop(first);
    world.run_until(|w| w.members.len() == 4);
    let mut next = world.guest_of(100);
    next.write_all(&40u32.to_le_bytes()).unwrap();
    world.run_until(|w| counted(w) == 4);
    assert!(is_silent(&next));
}

#[test]
fn what_one_user_says_does_not_count_for_another() {
    let mut world = World::new();
    world.domain_monitor.ceiling = 100;
    let theirs = world.member(&words(100, 100));
    world.run_until(|w| w.members.values().any(|member| member.pages.is_some()));
    for member in world.domain_monitor.members.values_mut() {
        member.user = member.user.wrapping_add(1);
    }
    let ours = world.member(&words(100, 100));
    world.run_until(|w| w.members.values().filter(|member| member.pages.is_some()).count() == 2);
    assert!(is_silent(&theirs) && is_silent(&ours));
}
