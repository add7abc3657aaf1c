//! The sums of all calls that run and have run. Their memory is bounded, whatever is called.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Last, Moved, Route, Row, fit};

/// Routes that are remembered. When there are more, routes without running calls are forgotten, the longest unused
/// first.
pub const MAX_ROUTES: usize = 256;

/// Whose calls the asking program may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// Everybody's.
    Everything,
    /// Those of this user.
    User(u32),
}

/// All calls of a machine, by `Id`s that each name one running call. Times are durations since a moment that the
/// caller chooses.
#[derive(Debug)]
pub struct Ledger<Id> {
    routes: BTreeMap<Arc<Route>, Account>,
    pub(super) running: BTreeMap<Id, Running>,
    /// Calls whose route had no room.
    homeless: u64,
}

#[derive(Debug, Default)]
struct Account {
    to: Option<String>,
    rule: Option<String>,
    running: u64,
    begun: u64,
    refused: u64,
    moved: Option<Moved>,
    last: Option<(Option<i32>, Duration)>,
    /// When one of its calls last began or ended.
    used: Duration,
}

#[derive(Debug)]
pub(super) struct Running {
    route: Arc<Route>,
    since: Duration,
}

impl<Id> Default for Ledger<Id> {
    fn default() -> Self {
        Self { routes: BTreeMap::new(), running: BTreeMap::new(), homeless: 0 }
    }
}

impl<Id: Ord + Copy> Ledger<Id> {
    /// A call begins, allowed or not yet.
    pub fn begins(&mut self, now: Duration, id: Id, route: Route) {
        let Some((route, account)) = self.account(now, route) else { return };
        account.running = account.running.saturating_add(1);
        account.begun = account.begun.saturating_add(1);
        self.running.insert(id, Running { route, since: now });
    }

    /// The call was allowed: where it goes, if not where it asked to go, and by which rule.
    pub fn allowed(&mut self, id: Id, to: &str, rule: Option<&str>) {
        let Some(running) = self.running.get(&id) else { return };
        let Some(account) = self.routes.get_mut(&running.route) else { return };
        account.to = (to != running.route.target).then(|| fit(to));
        account.rule = rule.map(fit);
    }

    /// The call was refused.
    pub fn refused(&mut self, now: Duration, id: Id, exit: i32) {
        self.over(now, id, |account| {
            account.refused = account.refused.saturating_add(1);
            account.last = Some((Some(exit), now));
        });
    }

    /// The call has ended, with this exit code and so many bytes, as far as they are known.
    pub fn ended(&mut self, now: Duration, id: Id, exit: Option<i32>, moved: Option<Moved>) {
        self.over(now, id, |account| {
            account.last = Some((exit, now));
            account.moved = sum(account.moved, moved);
        });
    }

    fn over(&mut self, now: Duration, id: Id, then: impl FnOnce(&mut Account)) {
        let Some(running) = self.running.remove(&id) else { return };
        let Some(account) = self.routes.get_mut(&running.route) else { return };
        account.running = account.running.saturating_sub(1);
        account.used = now;
        then(account);
    }

    /// The account of a route; `None`: there is no room for another one.
    fn account(&mut self, now: Duration, route: Route) -> Option<(Arc<Route>, &mut Account)> {
        if !self.routes.contains_key(&route) {
            self.make_room();
            if self.routes.len() >= MAX_ROUTES {
                self.homeless = self.homeless.saturating_add(1);
                return None;
            }
        }
        let route =
            self.routes.get_key_value(&route).map_or_else(|| Arc::new(route), |(key, _)| Arc::clone(key));
        let account = self.routes.entry(Arc::clone(&route)).or_default();
        account.used = now;
        Some((route, account))
    }

    /// Forgets the route that was unused longest, if there is no room for another.
    fn make_room(&mut self) {
        if self.routes.len() < MAX_ROUTES {
            return;
        }
        let idle = self.routes.iter().filter(|(_, account)| account.running == 0);
        let oldest = idle.min_by_key(|(_, account)| account.used).map(|(route, _)| Arc::clone(route));
        oldest.iter().for_each(|route| drop(self.routes.remove(route)));
    }

    /// The rows that this viewer may see, and how many calls have none. `moved` tells how much a running call has
    /// moved so far.
    #[must_use]
    pub fn rows(
        &self,
        now: Duration,
        viewer: Viewer,
        moved: impl Fn(Id) -> Option<Moved>,
    ) -> (Vec<Row>, u64) {
        let sees = |route: &Route| match viewer {
            Viewer::Everything => true,
            Viewer::User(user) => route.user == user,
        };
        // For each route with running calls: since when there are any, and how much they have moved.
        let mut live: BTreeMap<&Route, (Duration, Option<Moved>)> = BTreeMap::new();
        for (id, running) in self.running.iter().filter(|(_, running)| sees(&running.route)) {
            let (since, so_far) = live.entry(&running.route).or_insert((running.since, None));
            *since = running.since.min(*since);
            *so_far = sum(*so_far, moved(*id));
        }
        let millis =
            |since: Duration| u64::try_from(now.saturating_sub(since).as_millis()).unwrap_or(u64::MAX);
        let rows = self.routes.iter().filter(|(route, _)| sees(route)).map(|(route, account)| {
            let now = live.get(&**route);
            Row {
                route: (**route).clone(),
                to: account.to.as_ref().map(ToString::to_string),
                rule: account.rule.as_ref().map(ToString::to_string),
                running: account.running,
                begun: account.begun,
                refused: account.refused,
                moved: sum(account.moved, now.and_then(|(_, moved)| *moved)),
                age: now.map(|(since, _)| millis(*since)),
                last: account.last.map(|(exit, at)| Last { exit, ago: millis(at) }),
            }
        });
        let homeless = if viewer == Viewer::Everything { self.homeless } else { 0 };
        (rows.collect(), homeless)
    }
}

fn sum(one: Option<Moved>, other: Option<Moved>) -> Option<Moved> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.and(other)),
        (one, other) => one.or(other),
    }
}
