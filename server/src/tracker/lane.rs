//! One account's open purchases, and whose turn it is.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use slab::Slab;
use tokio::sync::Notify;

use super::{Inner, RefreshError, entry::Entry, lock, timers::Timers};
use crate::{
    account::{Account, Class},
    clock::Clock,
    journal::Record,
    purchase::{Finality, Freshness, Purchase, PurchaseId, Reference, Timestamp},
};

/// One account's lane.
pub(super) struct Lane {
    pub(super) account: Arc<Account>,
    state: Mutex<State>,
    /// Told when something may be due sooner.
    sooner: Notify,
    /// Refreshes under way, by purchase: those that overlap take turns and share an answer.
    refreshing: Mutex<HashMap<PurchaseId, Weak<tokio::sync::Mutex<Option<Refreshed>>>>>,
}

/// What one lane knows, behind a lock that is held for moments.
#[derive(Default)]
struct State {
    entries: Slab<Entry>,
    places: HashMap<PurchaseId, u32>,
    timers: Timers,
    /// Due and open, in the order of their falling due.
    open: VecDeque<u32>,
    /// Due after their end.
    ended: VecDeque<u32>,
}

/// What of an account is due and has not begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many purchases.
    pub due: usize,
    /// How late the first of them is.
    pub late: Duration,
}

/// How the last of several refreshes that overlap went, for those who were waiting when it began.
pub(super) struct Refreshed {
    pub(super) began: Timestamp,
    pub(super) result: Result<(), RefreshError>,
}

/// A purchase whose turn it is.
pub(super) struct Turn {
    pub(super) id: PurchaseId,
    pub(super) reference: Reference,
    pub(super) due: Timestamp,
}

impl Lane {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            state: Mutex::default(),
            sooner: Notify::new(),
            refreshing: Mutex::default(),
        }
    }

    /// Waits for this purchase's turn among refreshes; given back when dropped.
    pub(super) async fn refreshing(
        &self,
        purchase: PurchaseId,
    ) -> tokio::sync::OwnedMutexGuard<Option<Refreshed>> {
        let turn = {
            let mut refreshing = lock(&self.refreshing);
            refreshing.retain(|_, turn| turn.strong_count() > 0);
            let known = refreshing.get(&purchase).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(tokio::sync::Mutex::new(None));
                refreshing.insert(purchase, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }

    /// What is due and has not begun.
    pub(super) fn backlog(&self, now: Timestamp) -> Backlog {
        let state = lock(&self.state);
        let first = |queue: &VecDeque<u32>| {
            let place = usize::try_from(*queue.front()?).ok()?;
            Some(now.since(state.entries.get(place)?.due))
        };
        let late = [first(&state.open), first(&state.ended)];
        Backlog {
            due: state.open.len() + state.ended.len(),
            late: late.into_iter().flatten().max().unwrap_or_default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).entries.len()
    }

    pub(super) fn freshness(&self, purchase: PurchaseId) -> Freshness {
        self.with(purchase, |entry| entry.freshness())
            .unwrap_or_default()
    }

    /// Calls `with` with a purchase's entry, if it is open here.
    pub(super) fn with<T>(
        &self,
        purchase: PurchaseId,
        with: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut state = lock(&self.state);
        let place = state.places.get(&purchase).copied()?;
        state
            .entries
            .get_mut(usize::try_from(place).ok()?)
            .map(with)
    }

    pub(super) fn remove(&self, purchase: PurchaseId) {
        let mut state = lock(&self.state);
        let Some(place) = state.places.remove(&purchase) else {
            return;
        };
        if let Ok(place) = usize::try_from(place) {
            state.entries.try_remove(place);
        }
    }

    /// A transition of an open purchase with a reference was committed.
    pub(super) fn committed(&self, purchase: &Purchase, reference: &Reference, clock: &Clock) {
        let known = self.with(purchase.id, |entry| {
            entry.learn(&purchase.status);
            std::mem::take(&mut entry.given_up)
        });
        let now = clock.now();
        match known {
            Some(false) => return,
            // Given up, it is in no timer: there are news, so it is followed again.
            Some(true) => return self.rearm(purchase.id, now),
            None => {}
        }
        let mut entry = Entry::new(purchase, reference, now);
        entry.due = entry.next_due(
            &self.account.policy,
            self.stale_after(&purchase.status),
            clock,
        );
        if purchase.status.state == crate::purchase::State::OutcomeUnknown {
            // Somebody has named it: what it is comes from the provider, at once.
            entry.due = now;
        }
        self.insert(entry);
    }

    pub(super) fn recover(&self, record: &Record, clock: &Clock) {
        let status = &record.purchase.status;
        let Some(reference) = &status.reference else {
            return;
        };
        if status.finality == Finality::Final {
            return;
        }
        let mut entry = Entry::recovered(record, reference);
        let every = match entry.finality {
            Finality::Open => self
                .account
                .policy
                .schedule
                .every(clock.now().since(entry.created)),
            Finality::Terminal | Finality::Final => self
                .account
                .policy
                .after_terminal
                .every(clock.now().since(entry.observed)),
        };
        entry.due = clock.now().plus(clock.up_to(every));
        self.insert(entry);
    }

    fn insert(&self, entry: Entry) {
        let mut state = lock(&self.state);
        let (id, due) = (entry.id, entry.due);
        let Ok(place) = u32::try_from(state.entries.insert(entry)) else {
            return;
        };
        state.places.insert(id, place);
        state.timers.arm(due, place);
        drop(state);
        self.sooner.notify_one();
    }

    /// How long this status may stay as it is.
    pub(super) fn stale_after(&self, status: &crate::purchase::Status) -> Duration {
        let own = self.account.provider.stale_after(status);
        self.account.policy.stale_after.unwrap_or(own)
    }

    /// Lets an entry be polled again at its new time.
    pub(super) fn rearm(&self, purchase: PurchaseId, due: Timestamp) {
        let mut state = lock(&self.state);
        let Some(place) = state.places.get(&purchase).copied() else {
            return;
        };
        let Ok(index) = usize::try_from(place) else {
            return;
        };
        if let Some(entry) = state.entries.get_mut(index) {
            entry.due = due;
            entry.busy = false;
        }
        state.timers.arm(due, place);
        drop(state);
        self.sooner.notify_one();
    }

    /// Moves what has fallen due into the queues. Returns when the next will.
    fn collect(&self, now: Timestamp) -> Option<Timestamp> {
        let mut state = lock(&self.state);
        for place in state.timers.take(now) {
            let Ok(index) = usize::try_from(place) else {
                continue;
            };
            let Some(entry) = state.entries.get_mut(index) else {
                continue;
            };
            // An entry that was armed anew is due at another time than this slot's.
            if entry.busy || entry.given_up || entry.due > now {
                continue;
            }
            entry.busy = true;
            match entry.finality {
                Finality::Open => state.open.push_back(place),
                Finality::Terminal | Finality::Final => state.ended.push_back(place),
            }
        }
        state.timers.next()
    }

    /// Whether anything of this class is due.
    fn has(&self, class: Class) -> bool {
        let state = lock(&self.state);
        match class {
            Class::AfterTerminal => !state.ended.is_empty(),
            Class::Create | Class::LookUp | Class::Poll | Class::Refresh | Class::Sweep => {
                !state.open.is_empty()
            }
        }
    }

    /// The next of this class; `None` where all that was due is gone.
    fn turn(&self, class: Class) -> Option<Turn> {
        let mut state = lock(&self.state);
        loop {
            let place = match class {
                Class::AfterTerminal => state.ended.pop_front()?,
                Class::Create | Class::LookUp | Class::Poll | Class::Refresh | Class::Sweep => {
                    state.open.pop_front()?
                }
            };
            let Ok(index) = usize::try_from(place) else {
                continue;
            };
            let Some(entry) = state.entries.get(index).filter(|entry| entry.busy) else {
                continue;
            };
            let Some(reference) = Reference::from_canonical(&entry.reference) else {
                continue;
            };
            return Some(Turn {
                id: entry.id,
                reference,
                due: entry.due,
            });
        }
    }
}

impl Inner {
    /// Polls what is due in one lane, until the tracker stops.
    pub(super) async fn drive(self: &Arc<Self>, lane: &Arc<Lane>) {
        while !self.stop.is_cancelled() {
            let now = self.clock.now();
            let mut next = lane.collect(now);
            for class in [Class::Poll, Class::AfterTerminal] {
                let refused = self.spend(lane, class).await;
                next = [next, refused].into_iter().flatten().min();
            }
            let wait = next.map_or(Duration::from_secs(3_600), |next| {
                next.since(self.clock.now())
            });
            tokio::select! {
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                () = lane.sooner.notified() => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Polls all that is due of a class and may be. Returns when to try again, where some may not.
    async fn spend(self: &Arc<Self>, lane: &Arc<Lane>, class: Class) -> Option<Timestamp> {
        while lane.has(class) && !self.stop.is_cancelled() {
            let admission = match lane.account.try_admit(class).await {
                Ok(admission) => admission,
                Err(refusal) => return Some(refusal.retry_at()),
            };
            let turn = lane.turn(class)?;
            let late = self.clock.now().since(turn.due);
            lane.account.began_late(late);
            let (inner, polled) = (Arc::clone(self), Arc::clone(lane));
            self.tasks.spawn(async move {
                let id = turn.id;
                let stop = inner.stop.clone();
                let asked = inner.ask(&polled, &turn, admission);
                // A commit under way is waited for; a request that is only held is given up.
                let due = tokio::select! {
                    asked = asked => inner.heard(&polled, id, asked).await,
                    () = stop.cancelled() => return,
                };
                polled.rearm(id, due);
            });
        }
        None
    }
}
