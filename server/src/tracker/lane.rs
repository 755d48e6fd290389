//! One account's open purchases, and what is due of them.

mod turn;

mod news;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    Inner, RefreshError,
    entry::{Entry, kept, number},
    lock,
};
use crate::{
    account::Account,
    cadence::{
        hazard::{Hazards, Stayed},
        shelf::Shelf,
        turns::Turns,
        wheel::Wheel,
    },
    clock::Clock,
    journal::Record,
    purchase::{self, CallerName, Finality, Moment, Purchase, PurchaseId, Reference},
};

/// One account's lane.
pub(super) struct Lane {
    pub(super) account: Arc<Account>,
    state: Mutex<State>,
    /// Until when the account refuses polls, as far as was said.
    waits: Mutex<Waits>,
    /// Told when something may be due sooner.
    sooner: Notify,
    /// Refreshes under way, by purchase: those that overlap take turns and share an answer.
    refreshing: Mutex<HashMap<PurchaseId, Weak<tokio::sync::Mutex<Option<Refreshed>>>>>,
    /// How many polls and rounds a panic has ended.
    defects: AtomicU64,
}

/// A purchase's id as its bytes, which need no alignment: the map is a third smaller.
type Id = [u8; 16];

fn bytes(purchase: PurchaseId) -> Id {
    purchase.as_u128().to_ne_bytes()
}

/// What one lane knows, behind a lock that is held for moments.
#[derive(Default)]
struct State {
    /// By place: a small number that wheel and turns know an entry by.
    entries: Shelf<Option<Entry>>,
    /// Places that are free.
    free: Vec<u32>,
    places: HashMap<Id, u32>,
    /// Numbers of callers, for turns among them.
    callers: HashMap<CallerName, u32>,
    /// When which entry falls due.
    wheel: Wheel,
    /// Due and open.
    open: Turns,
    /// Due after their end: whichever has been due for longest first.
    ended: Turns,
    /// How long purchases stay in their states.
    hazards: Hazards,
    /// Turns taken, to give one in ten to what has ended.
    turns: u32,
    /// Of how many purchases an answer is held back.
    held_back: usize,
    /// How many are open, and have not ended.
    count: usize,
    /// Places that were answered last, the newest at the end: they show soonest that an account is
    /// well again.
    answered: VecDeque<u32>,
    /// Since when trouble of the account has held polls back.
    held_since: Option<Moment>,
    /// The place whose request was throttled last as the account's trouble.
    suspect: Option<Suspect>,
}

/// A place for whose request the whole account was throttled. Once another has been answered it is
/// asked next: if it alone is throttled again, the account is not.
struct Suspect {
    place: u32,
    /// Whether another has been answered since.
    is_next: bool,
}

/// When an account may be asked again, where it refuses.
#[derive(Default)]
struct Waits {
    /// About what is open.
    open: Option<Moment>,
    /// About what has ended.
    ended: Option<Moment>,
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
    pub(super) began: Moment,
    pub(super) result: Result<(), RefreshError>,
}

/// A purchase whose turn it is.
pub(super) struct Turn {
    pub(super) purchase: PurchaseId,
    pub(super) reference: Reference,
}

/// A purchase whose turn it is, with its reference where that is in memory.
struct Due {
    id: PurchaseId,
    reference: Option<Box<str>>,
    /// Since when it has been due.
    since: Moment,
}

/// When a purchase is polled again whose poll ended without a word.
const LOST_RETRY: Duration = Duration::from_secs(60);
/// The wait before a reference is looked for again in a journal that is away.
const REFERENCE_RETRY: Duration = Duration::from_secs(1);

/// How many places that were answered last are known.
const ANSWERED_MAX: usize = 16;

/// A purchase that is in no timer while it is polled. It is armed again when this is dropped, also by
/// a panic.
struct Taken {
    lane: Arc<Lane>,
    purchase: PurchaseId,
    again: Moment,
}

impl Taken {
    fn again_at(mut self, due: Moment) {
        self.again = due;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if thread::panicking() {
            self.lane.defect();
        }
        self.lane.rearm(self.purchase, self.again);
    }
}

impl State {
    fn entry(&mut self, place: u32) -> Option<&mut Entry> {
        self.entries.get_mut(place)?.as_mut()
    }

    fn of(&mut self, purchase: PurchaseId) -> Option<(u32, &mut Entry)> {
        let place = self.places.get(&bytes(purchase)).copied()?;
        Some((place, self.entries.get_mut(place)?.as_mut()?))
    }
}

impl Lane {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            state: Mutex::default(),
            waits: Mutex::default(),
            sooner: Notify::new(),
            refreshing: Mutex::default(),
            defects: AtomicU64::new(0),
        }
    }

    /// A panic has ended a poll or a round.
    pub(super) fn defect(&self) {
        self.defects.fetch_add(1, Ordering::Relaxed);
        let account = &self.account.name;
        tracing::error!(%account, "a poll or a page panicked, and is tried again");
    }

    /// How many polls and rounds a panic has ended.
    pub(super) fn defects(&self) -> u64 {
        self.defects.load(Ordering::Relaxed)
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
    pub(super) fn backlog(&self, now: Moment) -> Backlog {
        let state = lock(&self.state);
        let first = |turns: &Turns| {
            let entry = state.entries.get(turns.longest_due()?)?.as_ref()?;
            Some(now.since(entry.due))
        };
        let late = [first(&state.open), first(&state.ended)];
        Backlog {
            due: state.open.len() + state.ended.len(),
            late: late.into_iter().flatten().max().unwrap_or_default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.state).places.len()
    }

    /// Calls `with` with a purchase's entry, if it is open here.
    pub(super) fn with<T>(
        &self,
        purchase: PurchaseId,
        with: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut state = lock(&self.state);
        state.of(purchase).map(|(_, entry)| with(entry))
    }

    /// Follows a purchase no more. Returns when its last answer arrived, if it was open here.
    pub(super) fn remove(&self, purchase: PurchaseId) -> Option<Moment> {
        let mut state = lock(&self.state);
        let place = state.places.remove(&bytes(purchase))?;
        let was_open = state.entry(place).is_some_and(|entry| entry.is_open());
        self.counts(&mut state, was_open, false);
        state.wheel.cancel(place);
        state.open.remove(place);
        state.ended.remove(place);
        state.suspect.take_if(|suspect| suspect.place == place);
        let entry = state.entries.get_mut(place)?.take()?;
        state.held_back -= usize::from(entry.heard.held_back_since.is_some());
        state.free.push(place);
        entry.heard.arrived
    }

    /// One more is open, or one fewer: the account's verdicts need to know how many could speak.
    fn counts(&self, state: &mut State, was: bool, is: bool) {
        match (was, is) {
            (false, true) => state.count += 1,
            (true, false) => state.count = state.count.saturating_sub(1),
            _ => return,
        }
        self.account.follows(state.count);
    }

    /// Learns from an answer what a purchase stayed in until now, and what it changed to.
    pub(super) fn looked(
        &self,
        purchase: PurchaseId,
        before: Stayed,
        changed_to: Option<purchase::State>,
        now: Moment,
    ) {
        let mut state = lock(&self.state);
        let changed_to = changed_to.map(number);
        state.hazards.learn(
            before.state(),
            before.span(now),
            changed_to.map(usize::from),
        );
        if let Some((place, entry)) = state.of(purchase) {
            match changed_to {
                Some(number) => entry.stayed.changed(number, now),
                None => entry.stayed.unchanged(now),
            }
            state.suspect.take_if(|suspect| suspect.place == place);
            state.ask_suspect(now);
            if state.answered.back() != Some(&place) {
                state.answered.push_back(place);
            }
            if state.answered.len() > ANSWERED_MAX {
                state.answered.pop_front();
            }
        }
    }

    /// A transition of an open purchase with a reference was committed; `answered` says whether that
    /// is an answer of the provider that was heard elsewhere. Returns when a purchase that is followed
    /// already is asked at the latest, where these are news of it.
    pub(super) fn committed(
        &self,
        purchase: &Purchase,
        reference: &Reference,
        answered: bool,
        clock: &Clock,
    ) -> Option<Moment> {
        let (policy, stale_after) = (&self.account.policy, self.stale_after(&purchase.status));
        let now = clock.moment();
        let known = {
            let mut state = lock(&self.state);
            let learned = state.of(purchase.id).map(|(_, entry)| {
                let was_open = entry.is_open();
                entry.reference = kept(reference);
                let is_news = entry.learn(&purchase.status, clock);
                let due = is_news.then(|| entry.next_due(policy, stale_after, clock));
                (due, was_open, entry.is_open())
            });
            learned.map(|(due, was_open, is_open)| {
                self.counts(&mut state, was_open, is_open);
                due
            })
        };
        if let Some(due) = known {
            return due;
        }
        let mut entry = Entry::new(purchase, reference, clock);
        if answered {
            (entry.heard.answered, entry.heard.arrived) = (Some(now), Some(now));
        }
        entry.due = entry.next_due(policy, stale_after, clock);
        if purchase.status.state == crate::purchase::State::OutcomeUnknown {
            // Somebody has named it: what it is comes from the provider, at once.
            entry.due = now;
        }
        self.insert(entry, &purchase.caller);
        None
    }

    pub(super) fn recover(&self, record: &Record, clock: &Clock) {
        let status = &record.purchase.status;
        let Some(reference) = &status.reference else {
            return;
        };
        if status.finality == Finality::Final {
            return;
        }
        let mut entry = Entry::recovered(record, reference, clock);
        let every = match entry.finality {
            Finality::Open => self
                .account
                .policy
                .schedule
                .every(clock.moment().since(entry.created)),
            Finality::Terminal | Finality::Final => self
                .account
                .policy
                .after_terminal
                .every(clock.moment().since(entry.changed)),
        };
        entry.due = clock.moment().plus(clock.up_to(every));
        self.insert(entry, &record.purchase.caller);
    }

    fn insert(&self, mut entry: Entry, caller: &CallerName) {
        let mut state = lock(&self.state);
        let (id, due, is_open) = (entry.id, entry.due, entry.is_open());
        if state.places.contains_key(&bytes(id)) {
            return;
        }
        let callers = u32::try_from(state.callers.len()).unwrap_or(u32::MAX);
        entry.caller = *state.callers.entry(caller.clone()).or_insert(callers);
        let place = match state.free.pop() {
            Some(place) => {
                if let Some(free) = state.entries.get_mut(place) {
                    *free = Some(entry);
                }
                place
            }
            None => match state.entries.push(Some(entry)) {
                Some(place) => place,
                None => return,
            },
        };
        state.places.insert(bytes(id), place);
        self.counts(&mut state, false, is_open);
        state.wheel.arm(place, due);
        drop(state);
        self.sooner.notify_one();
    }

    /// How long this status may stay as it is.
    pub(super) fn stale_after(&self, status: &crate::purchase::Status) -> Duration {
        let own = self.account.provider.stale_after(status);
        self.account.policy.stale_after.unwrap_or(own)
    }

    /// Lets an entry be polled again at its new time.
    pub(super) fn rearm(&self, purchase: PurchaseId, due: Moment) {
        let mut state = lock(&self.state);
        let Some((place, entry)) = state.of(purchase) else {
            return;
        };
        let due = due.max(entry.floor());
        entry.due = due;
        entry.busy = false;
        if entry.given_up {
            return;
        }
        state.open.remove(place);
        state.ended.remove(place);
        state.wheel.arm(place, due);
        drop(state);
        self.sooner.notify_one();
    }

    /// Lets what has fallen due take turns. Returns when the next will.
    fn collect(&self, now: Moment) -> Option<Moment> {
        let mut state = lock(&self.state);
        let State {
            entries,
            wheel,
            open,
            ended,
            ..
        } = &mut *state;
        wheel.take(now, |place| {
            let Some(Some(entry)) = entries.get_mut(place) else {
                return;
            };
            entry.busy = true;
            match entry.finality {
                Finality::Open => open.push(place, entry.caller),
                Finality::Terminal | Finality::Final => ended.push(place, entry.caller),
            }
        });
        wheel.next()
    }
}

impl Inner {
    /// Polls what is due in one lane, until the tracker stops.
    pub(super) async fn drive(self: &Arc<Self>, lane: &Arc<Lane>) {
        while !self.stop.is_cancelled() {
            let now = self.clock.moment();
            let due = lane.collect(now);
            let refused = self.spend(lane).await;
            let next = [due, refused].into_iter().flatten().min();
            let wait = next.map_or(Duration::from_secs(3_600), |next| {
                next.since(self.clock.moment())
            });
            tokio::select! {
                // The same seed is the same run.
                biased;
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                () = lane.sooner.notified() => {}
                () = lane.account.recovered() => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Polls all that is due and may be. Returns when to try again, where some may not.
    async fn spend(self: &Arc<Self>, lane: &Arc<Lane>) -> Option<Moment> {
        let mut refused = Vec::new();
        let mut retry_at: Option<Moment> = None;
        while let Some(class) = lane.class(&refused) {
            if self.stop.is_cancelled() {
                return None;
            }
            let admission = match lane.account.try_admit(class).await {
                Ok(admission) => admission,
                Err(refusal) => {
                    refused.push(class);
                    if lane.account.is_held() {
                        lane.is_held(self.clock.moment());
                    }
                    let at = refusal.retry_at();
                    lane.may_ask_at(class, Some(at));
                    retry_at = Some(retry_at.map_or(at, |known| known.min(at)));
                    continue;
                }
            };
            lane.may_ask_at(class, None);
            if !admission.is_probe() {
                self.spread(lane).await;
            }
            let watchers = |purchase| self.watchers(purchase);
            let Some(due) = lane.turn(&admission, &watchers, self.clock.moment()) else {
                continue;
            };
            let late = self.clock.moment().since(due.since);
            lane.account.began_late(late);
            let (inner, polled) = (Arc::clone(self), Arc::clone(lane));
            let admission = admission.about(due.id);
            let taken = Taken {
                lane: Arc::clone(lane),
                purchase: due.id,
                again: self.clock.moment().plus(LOST_RETRY),
            };
            self.tasks.spawn(async move {
                let stop = inner.stop.clone();
                let id = due.id;
                let asked = async {
                    let reference = match due.reference {
                        Some(text) => Reference::from_canonical(&text),
                        None => inner.reference(id).await,
                    };
                    let turn = Turn {
                        purchase: id,
                        reference: reference?,
                    };
                    Some(inner.ask(&polled, &turn, admission).await)
                };
                // A commit under way is waited for; a request that is only held is given up.
                let due = tokio::select! {
                    biased;
                    asked = asked => match asked {
                        Some(asked) => inner.heard(&polled, id, asked).await,
                        // The journal is away, and with it the reference.
                        None => inner.clock.moment().plus(REFERENCE_RETRY),
                    },
                    () = stop.cancelled() => return,
                };
                taken.again_at(due);
            });
        }
        retry_at
    }

    /// The reference of a purchase whose reference is too long to be kept in memory.
    pub(super) async fn reference(&self, purchase: PurchaseId) -> Option<Reference> {
        let record = self.record(purchase).await.ok()??;
        record.purchase.status.reference.clone()
    }
}
