//! One account's open purchases, and their polls that are due.

mod drive;
mod news;
mod turn;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    entry::{Entry, Patience, kept},
    lock,
    sweep::Sweeper,
};
use crate::{
    account::{Account, Settings, Unheard},
    cadence::{hazard::Hazards, shelf::Shelf, turns::Turns, wheel::Wheel},
    clock::Clock,
    journal::Record,
    ownership::Tenure,
    progress::Progress,
    purchase::{self, CallerName, Finality, Moment, Purchase, PurchaseId, Reference, Status},
};

pub(super) use news::ToDo;

/// One account's lane.
pub(super) struct Lane {
    pub(super) account: Arc<Account>,
    pub(super) tenure: Tenure,
    /// Ends its loops and reads: the tracker stops, or the tenure is over.
    pub(super) stop: CancellationToken,
    /// Its polls and the commits of its pages.
    pub(super) tasks: TaskTracker,
    /// Of an account whose provider lists many purchases at once.
    pub(super) sweeper: Option<Sweeper>,
    state: Mutex<State>,
    /// Until when the account refuses polls, as far as was said.
    waits: Mutex<Waits>,
    /// Told when something may be due sooner.
    sooner: Notify,
    /// Told when the account's settings have changed. For the loop that sweeps.
    pub(super) changed: Notify,
    /// Refreshes under way, by purchase: those that overlap take turns and share an answer.
    refreshing: Mutex<HashMap<PurchaseId, Weak<tokio::sync::Mutex<Option<Refreshed>>>>>,
    /// Told when news of a purchase were settled or given up.
    decided: Notify,
    /// The number of polls and rounds that a panic has ended.
    defects: AtomicU64,
    /// Of the loop that polls.
    pub(super) progress: Progress,
}

/// A purchase's id as its bytes, which need no alignment: the map is a third smaller.
type Id = [u8; 16];

fn bytes(purchase: PurchaseId) -> Id {
    purchase.as_u128().to_ne_bytes()
}

/// A lane's knowledge, behind a lock that is held for moments.
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
    /// The stays of purchases in their states.
    hazards: Hazards,
    /// Turns taken, to give one in ten to what has ended.
    turns: u32,
    /// The number of purchases of which an answer is held back.
    held_back: usize,
    /// The number of purchases that have not ended.
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
    /// Another has been answered since.
    is_next: bool,
}

/// When an account may be asked again, if it refuses.
#[derive(Default)]
struct Waits {
    /// About what is open.
    open: Option<Moment>,
    /// About what has ended.
    ended: Option<Moment>,
}

/// An account's polls that are due and have not begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The number of purchases.
    pub due: usize,
    /// The delay of the first of them.
    pub late: Duration,
}

/// The result of the last of several refreshes that overlap, for those that were waiting when it began.
pub(super) struct Refreshed {
    pub(super) began: Moment,
    pub(super) result: Result<(), Unheard>,
}

/// A purchase whose turn it is.
pub(super) struct Target {
    pub(super) purchase: PurchaseId,
    pub(super) reference: Reference,
}

/// A purchase whose turn it is, with its reference if that is in memory.
struct Chosen {
    id: PurchaseId,
    reference: Option<Box<str>>,
    /// Since when it has been due.
    since: Moment,
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
    pub(super) fn new(account: Arc<Account>, tenure: Tenure) -> Self {
        Self {
            sweeper: Sweeper::of(&account),
            account,
            stop: tenure.ending().child_token(),
            tenure,
            tasks: TaskTracker::new(),
            state: Mutex::default(),
            waits: Mutex::default(),
            sooner: Notify::new(),
            changed: Notify::new(),
            refreshing: Mutex::default(),
            decided: Notify::new(),
            defects: AtomicU64::new(0),
            progress: Progress::new("lane"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Begins nothing more, and waits for the commits under way.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.account.follows(0);
    }

    /// A panic has ended a poll or a round.
    pub(super) fn defect(&self) {
        self.defects.fetch_add(1, Ordering::Relaxed);
        let account = &self.account.name;
        tracing::error!(%account, "a poll or a page panicked, and is tried again");
    }

    /// The number of polls and rounds that a panic has ended.
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

    /// The polls that are due and have not begun.
    pub(super) fn backlog(&self, now: Moment) -> Backlog {
        let state = self.state();
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
        self.state().places.len()
    }

    /// Calls `with` with a purchase's entry, if it is open here.
    pub(super) fn with<T>(
        &self,
        purchase: PurchaseId,
        with: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut state = self.state();
        state.of(purchase).map(|(_, entry)| with(entry))
    }

    /// Follows a purchase no more. Returns when its last answer arrived, if it was open here.
    pub(super) fn remove(&self, purchase: PurchaseId) -> Option<Moment> {
        let mut state = self.state();
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

    /// A transition of an open purchase with a reference was committed: it is followed from now on, or
    /// its news bring the schedule of its new state. `answered` says whether that is an answer of the
    /// provider that was heard elsewhere, and `rare` when a purchase that rounds show is read next. Returns
    /// false if the revision, or a newer one, is known: commits can be heard twice, and late.
    pub(super) fn committed(
        &self,
        purchase: &Purchase,
        reference: &Reference,
        answered: bool,
        (clock, rare): (&Clock, impl FnOnce() -> Option<Moment>),
    ) -> bool {
        let settings = self.account.settings();
        let (policy, patience) = (&settings.policy, patience(&settings, &purchase.status));
        let now = clock.moment();
        {
            let mut state = self.state();
            if let Some((place, entry)) = state.of(purchase.id) {
                if purchase.status.revision <= entry.revision {
                    return false;
                }
                let was_open = entry.is_open();
                entry.reference = kept(reference);
                let is_news = entry.learn(&purchase.status, patience, clock);
                let is_open = entry.is_open();
                let due = is_news.then(|| entry.next_due(policy, clock));
                self.counts(&mut state, was_open, is_open);
                if let Some(due) = due {
                    self.ask_by(&mut state, place, due.max(rare().unwrap_or(due)));
                }
                return true;
            }
        }
        let mut entry = Entry::new(purchase, reference, patience, clock);
        if answered {
            (entry.heard.answered, entry.heard.arrived) = (Some(now), Some(now));
        }
        entry.due = entry.next_due(policy, clock);
        if purchase.status.state == purchase::State::OutcomeUnknown {
            // Somebody has named it: what it is comes from the provider, at once.
            entry.due = now;
        }
        self.insert(entry, &purchase.caller);
        true
    }

    /// The account's settings have changed.
    pub(super) fn settings_changed(&self) {
        if let Some(sweeper) = &self.sweeper {
            sweeper.allow(&self.account.settings());
        }
        self.changed.notify_one();
        self.sooner.notify_one();
    }

    /// Lets a purchase be due as the account's settings say now, or sooner if it was. `rare` is when a
    /// purchase that rounds show is read next.
    pub(super) fn reschedule(
        &self,
        purchase: PurchaseId,
        status: &Status,
        (clock, rare): (&Clock, impl FnOnce() -> Option<Moment>),
    ) {
        let settings = self.account.settings();
        let patience = patience(&settings, status);
        let mut state = self.state();
        let Some((place, entry)) = state.of(purchase) else {
            return;
        };
        // A newer status has brought its own.
        if entry.revision == status.revision {
            entry.wait_for(patience);
        }
        let due = entry.next_due(&settings.policy, clock);
        self.ask_by(&mut state, place, due.max(rare().unwrap_or(due)));
    }

    pub(super) fn recover(&self, record: &Record, clock: &Clock) {
        let status = &record.purchase.status;
        let Some(reference) = &status.reference else {
            return;
        };
        if status.finality == Finality::Final {
            return;
        }
        let settings = self.account.settings();
        let mut entry = Entry::recovered(record, reference, patience(&settings, status), clock);
        let now = clock.moment();
        entry.due = now.plus(clock.up_to(entry.every(&settings.policy, now)));
        self.insert(entry, &record.purchase.caller);
    }

    fn insert(&self, mut entry: Entry, caller: &CallerName) {
        let mut state = self.state();
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

    /// Lets a purchase be polled again at a new time.
    pub(super) fn rearm(&self, purchase: PurchaseId, due: Moment) {
        self.again(purchase, |_| due);
    }

    /// Lets a purchase be polled again at the time that its entry says.
    pub(super) fn again(&self, purchase: PurchaseId, next: impl FnOnce(&Entry) -> Moment) {
        let mut state = self.state();
        let Some((place, entry)) = state.of(purchase) else {
            return;
        };
        let due = next(entry).max(entry.floor());
        (entry.due, entry.busy) = (due, false);
        if entry.given_up {
            return;
        }
        state.open.remove(place);
        state.ended.remove(place);
        state.wheel.arm(place, due);
        self.sooner.notify_one();
    }

    /// Lets what has fallen due take turns. Returns when the next will.
    fn collect(&self, now: Moment) -> Option<Moment> {
        let mut state = self.state();
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

/// The time that a status may stay as it is.
fn patience(settings: &Settings, status: &Status) -> Patience {
    let Settings {
        provider, policy, ..
    } = settings;
    let own = provider.stale_after(status);
    Patience {
        stale_after: policy.stale_after.unwrap_or(own),
        horizon: provider.horizon(status, policy.horizon),
    }
}
