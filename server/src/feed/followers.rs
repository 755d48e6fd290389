//! The followers of many purchases, by the caller of the purchases: a commit wakes only the followers
//! that it concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use slab::Slab;

use super::{Wake, lock};
use crate::{journal::Committed, purchase::CallerName};

/// The streams over many purchases.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<Groups>);

#[derive(Debug, Default)]
struct Groups {
    /// The followers that see every caller's purchases.
    of_all: Slab<Arc<Wake>>,
    by_caller: BTreeMap<CallerName, Slab<Arc<Wake>>>,
}

impl Groups {
    fn group(&mut self, caller: Option<&CallerName>) -> &mut Slab<Arc<Wake>> {
        match caller {
            None => &mut self.of_all,
            Some(caller) => self.by_caller.entry(caller.clone()).or_default(),
        }
    }
}

impl Followers {
    /// Joins the followers of one caller's purchases, or of everybody's. Returns the place for
    /// [`Followers::leave`].
    pub(super) fn join(&self, caller: Option<&CallerName>, wake: &Arc<Wake>) -> usize {
        lock(&self.0).group(caller).insert(Arc::clone(wake))
    }

    pub(super) fn leave(&self, caller: Option<&CallerName>, place: usize) {
        let mut groups = lock(&self.0);
        let group = groups.group(caller);
        group.try_remove(place);
        if let (true, Some(caller)) = (group.is_empty(), caller) {
            groups.by_caller.remove(caller);
        }
    }

    /// Wakes the followers that these commits concern.
    pub(super) fn committed(&self, committed: &[Arc<Committed>]) {
        let groups = lock(&self.0);
        wake(&groups.of_all);
        if groups.by_caller.is_empty() {
            return;
        }
        let callers: BTreeSet<_> = committed.iter().map(|one| &one.purchase.caller).collect();
        for caller in callers {
            if let Some(group) = groups.by_caller.get(caller) {
                wake(group);
            }
        }
    }

    pub(super) fn wake_all(&self) {
        let groups = lock(&self.0);
        wake(&groups.of_all);
        groups.by_caller.values().for_each(wake);
    }
}

fn wake(group: &Slab<Arc<Wake>>) {
    for (_, wake) in group {
        wake.0.wake();
    }
}
