//! The memory of each watched purchase: the tail of its log, its newest revision, and the wakers of
//! its watchers.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, Weak},
};

use slab::Slab;
use tokio::time::Instant;

use super::{Wake, lock};
use crate::{
    clock::Clock,
    journal::{Committed, Record},
    purchase::{BuyerAction, Finality, Moment, PurchaseId, Revision, Transition},
};

/// Transitions that a channel keeps; a watcher further behind reads the journal.
const TAIL_MAX: usize = 16;
/// Parts of the map, each with a lock of its own.
const PARTS: usize = 16;

/// The channels of all watched purchases.
#[derive(Debug, Default)]
pub(super) struct Channels {
    parts: [Mutex<HashMap<PurchaseId, Arc<Channel>>>; PARTS],
    /// The channels whose tails hold a buyer action, by the time at which it must be forgotten.
    expiring: Mutex<BTreeMap<Moment, Vec<Weak<Channel>>>>,
}

/// One watched purchase.
#[derive(Debug, Default)]
pub(super) struct Channel(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest transitions, dense, oldest first, and when this process heard of their commits.
    tail: VecDeque<(Arc<Committed>, Instant)>,
    /// The newest revision that is known here.
    head: Revision,
    /// Its finality.
    finality: Option<Finality>,
    watchers: Slab<Arc<Wake>>,
}

/// The next thing for a watcher, after its cursor.
pub(super) enum Next {
    /// The next transition, and when this process heard of its commit.
    Here(Box<Transition>, Instant),
    /// There is a next transition, and the journal has it.
    InJournal,
    /// Nothing; the newest status has this finality.
    CaughtUp(Finality),
    /// Nothing, and the watcher has seen more than this channel has heard of: a reader of the journal
    /// can be ahead of the observers. The status that the watcher sent last is the newest.
    Ahead,
}

impl Channels {
    fn part(&self, purchase: PurchaseId) -> &Mutex<HashMap<PurchaseId, Arc<Channel>>> {
        let place = usize::try_from(purchase.as_u128() % PARTS as u128).unwrap_or(0);
        // The remainder is below PARTS.
        self.parts.get(place).unwrap_or(&self.parts[0])
    }

    /// Subscribes: from now on the channel hears of the purchase's commits.
    pub(super) fn join(&self, purchase: PurchaseId, wake: &Arc<Wake>) -> (Arc<Channel>, usize) {
        let mut part = lock(self.part(purchase));
        let channel = part.entry(purchase).or_default();
        let place = lock(&channel.0).watchers.insert(Arc::clone(wake));
        (Arc::clone(channel), place)
    }

    pub(super) fn leave(&self, purchase: PurchaseId, place: usize) {
        let mut part = lock(self.part(purchase));
        let Some(channel) = part.get(&purchase) else {
            return;
        };
        let empty = {
            let mut state = lock(&channel.0);
            state.watchers.try_remove(place);
            state.watchers.is_empty()
        };
        if empty {
            part.remove(&purchase);
        }
    }

    pub(super) fn committed(&self, committed: &Arc<Committed>, at: Instant, clock: &Clock) {
        let channel = lock(self.part(committed.purchase.id))
            .get(&committed.purchase.id)
            .cloned();
        let Some(channel) = channel else { return };
        channel.committed(committed, at);
        let action = committed.purchase.status.buyer_action.as_ref();
        if let Some(time) = action.and_then(BuyerAction::expire_time) {
            let mut expiring = lock(&self.expiring);
            let at_that_time = expiring.entry(clock.moment_of(time)).or_default();
            at_that_time.push(Arc::downgrade(&channel));
        }
    }

    /// Forgets the buyer actions whose time has passed: the journal wipes them without a word.
    pub(super) fn forget(&self, now: Moment) {
        let mut expiring = lock(&self.expiring);
        while let Some(earliest) = expiring.first_entry() {
            if *earliest.key() > now {
                return;
            }
            for channel in earliest.remove().iter().filter_map(Weak::upgrade) {
                // A watcher that is behind reads the journal, which no longer has them.
                lock(&channel.0).tail.clear();
            }
        }
    }

    pub(super) fn watchers(&self, purchase: PurchaseId) -> usize {
        let channel = lock(self.part(purchase)).get(&purchase).cloned();
        channel.map_or(0, |channel| lock(&channel.0).watchers.len())
    }

    pub(super) fn wake_all(&self) {
        for part in &self.parts {
            // In order of purchases, so that the same seed gives the same run.
            let channels: BTreeMap<PurchaseId, Arc<Channel>> = lock(part)
                .iter()
                .map(|(purchase, channel)| (*purchase, Arc::clone(channel)))
                .collect();
            for channel in channels.into_values() {
                lock(&channel.0).wake();
            }
        }
    }
}

impl Channel {
    fn committed(&self, committed: &Arc<Committed>, at: Instant) {
        let status = &committed.purchase.status;
        let mut state = lock(&self.0);
        if status.revision <= state.head {
            return;
        }
        let left = committed
            .from_state
            .is_some_and(|from| from != status.state);
        if status.revision != state.head.next() || left {
            // A gap is read from the journal. If the state was left, the journal has wiped the buyer
            // actions that the tail still holds.
            state.tail.clear();
        }
        state.head = status.revision;
        state.finality = Some(status.finality);
        state.tail.push_back((Arc::clone(committed), at));
        if state.tail.len() > TAIL_MAX {
            state.tail.pop_front();
        }
        state.wake();
    }

    /// Learns the newest revision from a record that was read after joining.
    pub(super) fn learn(&self, record: &Record) {
        let status = &record.purchase.status;
        let mut state = lock(&self.0);
        if status.revision > state.head {
            state.head = status.revision;
            state.finality = Some(status.finality);
            state.tail.clear();
            // A reader can find a commit before the observers hear of it. Their word is then old news
            // here, so the waiters are woken now, or nobody wakes them.
            state.wake();
        }
    }

    /// The newest revision that is known here.
    pub(super) fn head(&self) -> Revision {
        lock(&self.0).head
    }

    pub(super) fn after(&self, cursor: Revision) -> Next {
        let state = lock(&self.0);
        if cursor > state.head {
            return Next::Ahead;
        }
        if cursor == state.head {
            return Next::CaughtUp(state.finality.unwrap_or(Finality::Open));
        }
        let wanted = cursor.next();
        let found = state
            .tail
            .iter()
            .find(|(one, _)| one.purchase.status.revision == wanted);
        found.map_or(Next::InJournal, |(one, at)| {
            let transition = Transition {
                from_state: one.from_state,
                status: one.purchase.status.as_ref().clone(),
                cause: one.cause,
            };
            Next::Here(Box::new(transition), *at)
        })
    }
}

impl State {
    fn wake(&self) {
        for (_, wake) in &self.watchers {
            wake.0.wake();
        }
    }
}
