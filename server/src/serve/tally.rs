//! Counts of open purchases, kept by the commits as they come, so that a scrape looks at no
//! purchase: a million of them cost it as much as one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    journal::{Committed, Position},
    purchase::{AccountName, Finality, Purchase, PurchaseId, Revision, State, Status, Timestamp},
};

/// The length of a slot of creation times, in milliseconds.
const SLOT_MS: i64 = 600_000;
/// The age classes, and the first slot that is too old for each.
const AGES: [(&str, i64); 3] = [("hour", 6), ("day", 144), ("week", 1_008)];
/// The class of what is older than all of them.
const OLDER: &str = "older";

/// The counts of one account.
#[derive(Debug, Default)]
struct Account {
    /// Open purchases by state and slot of creation. What is older than all classes has no slot.
    open: BTreeMap<(State, Option<i64>), u64>,
    /// Slots before this one are in no class any more.
    oldest: i64,
    /// Transitions by the state that they led to.
    transitions: BTreeMap<State, u64>,
    /// Revisions committed with a word of the provider that has no mapping.
    unmapped: u64,
}

/// The counts of all accounts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    accounts: Mutex<BTreeMap<AccountName, Account>>,
    /// Present until everything that was committed during the start was heard, if other processes may have
    /// committed then.
    start: Mutex<Option<Start>>,
}

/// The purchases that were taken up while other processes went on.
#[derive(Debug)]
struct Start {
    /// The revisions up to which they are counted.
    counted: HashMap<PurchaseId, Revision>,
    /// The newest position at the end of the start.
    until: Position,
}

impl Start {
    /// True if a commit is not counted yet.
    fn is_new(&mut self, one: &Committed) -> bool {
        let (id, revision) = (one.purchase.id, one.purchase.status.revision);
        match self.counted.get(&id) {
            Some(counted) => revision > *counted,
            // It was begun behind the page on which it would have been.
            None if one.from_state.is_none() => {
                self.counted.insert(id, revision);
                true
            }
            // It was FINAL when the others were read.
            None => false,
        }
    }
}

fn slot(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(SLOT_MS)
}

impl Account {
    /// One more transition of an open purchase.
    fn hear(&mut self, one: &Committed) {
        let (status, created) = (&one.purchase.status, one.purchase.create_time);
        if let Some(from) = one.from_state {
            self.leave(from, created);
        }
        if status.finality != Finality::Final {
            self.enter(status.state, created);
        }
    }

    /// One more transition of this process.
    fn count(&mut self, status: &Status) {
        *self.transitions.entry(status.state).or_default() += 1;
        self.unmapped += u64::from(status.unmapped);
    }

    fn place(&self, state: State, created: Timestamp) -> (State, Option<i64>) {
        let slot = slot(created);
        (state, (slot >= self.oldest).then_some(slot))
    }

    fn enter(&mut self, state: State, created: Timestamp) {
        *self.open.entry(self.place(state, created)).or_default() += 1;
    }

    fn leave(&mut self, state: State, created: Timestamp) {
        let place = self.place(state, created);
        if let Some(count) = self.open.get_mut(&place) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.open.remove(&place);
            }
        }
    }

    /// Gives up slots that are in no class any more, so that there are at most as many as a week has.
    fn age(&mut self, now: Timestamp) {
        let [.., (_, first_too_old)] = AGES;
        self.oldest = self.oldest.max(slot(now) - first_too_old + 1);
        let oldest = self.oldest;
        let too_old = |place: &(State, Option<i64>)| place.1.is_some_and(|slot| slot < oldest);
        let gone: Vec<_> = self
            .open
            .keys()
            .filter(|one| too_old(one))
            .copied()
            .collect();
        for place in gone {
            let count = self.open.remove(&place).unwrap_or_default();
            *self.open.entry((place.0, None)).or_default() += count;
        }
    }
}

fn of<'a>(
    accounts: &'a mut BTreeMap<AccountName, Account>,
    purchase: &Purchase,
) -> &'a mut Account {
    accounts.entry(purchase.account.clone()).or_default()
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<AccountName, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> MutexGuard<'_, Option<Start>> {
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other processes may commit during the start.
    pub(super) fn shares(&self) {
        *self.start() = Some(Start {
            counted: HashMap::new(),
            until: Position(u64::MAX),
        });
    }

    /// A purchase is open since an earlier process.
    pub(super) fn recovered(&self, purchase: &Purchase) {
        if let Some(start) = &mut *self.start() {
            start.counted.insert(purchase.id, purchase.status.revision);
        }
        let mut accounts = self.lock();
        let account = of(&mut accounts, purchase);
        account.enter(purchase.status.state, purchase.create_time);
    }

    /// Everything is taken up that was open, and nothing is heard yet. The store's newest position is
    /// this one.
    pub(super) fn started(&self, newest: Position) {
        if let Some(start) = &mut *self.start() {
            start.until = newest;
        }
    }

    /// Transitions were committed by whomever.
    pub(super) fn heard(&self, committed: &[Arc<Committed>]) {
        let mut start = self.start();
        let mut accounts = self.lock();
        for one in committed {
            let is_later = |start: &Start| one.position > start.until;
            if start.as_ref().is_some_and(is_later) {
                *start = None;
            }
            if start.as_mut().is_none_or(|start| start.is_new(one)) {
                of(&mut accounts, &one.purchase).hear(one);
            }
        }
    }

    /// This process has committed transitions.
    pub(super) fn made(&self, committed: &[Arc<Committed>]) {
        let mut accounts = self.lock();
        for one in committed {
            of(&mut accounts, &one.purchase).count(&one.purchase.status);
        }
    }

    /// Transitions that were committed, by account and the state that they led to.
    pub(super) fn transitions(&self) -> Vec<(String, &'static str, u64)> {
        let accounts = self.lock();
        let each = accounts.iter().flat_map(|(name, account)| {
            let each = account.transitions.iter();
            each.map(|(state, count)| (name.to_string(), state.as_str(), *count))
        });
        each.collect()
    }

    /// An account's open purchases by state and age.
    pub(super) fn open(
        &self,
        account: &AccountName,
        now: Timestamp,
    ) -> Vec<(&'static str, &'static str, u64)> {
        let mut accounts = self.lock();
        let Some(account) = accounts.get_mut(account) else {
            return Vec::new();
        };
        account.age(now);
        let now = slot(now);
        let mut open: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for ((state, slot), count) in &account.open {
            let is_of =
                |(_, too_old): &&(&str, i64)| slot.is_some_and(|slot| now - slot < *too_old);
            let age = AGES.iter().find(is_of).map_or(OLDER, |(age, _)| age);
            *open.entry((state.as_str(), age)).or_default() += count;
        }
        let open = open.into_iter();
        open.map(|((state, age), count)| (state, age, count))
            .collect()
    }

    /// An account's purchases whose creates are unclear.
    pub(super) fn unclear(&self, account: &AccountName) -> u64 {
        let accounts = self.lock();
        let open = accounts.get(account).map(|account| account.open.iter());
        let unclear = open
            .into_iter()
            .flatten()
            .filter(|((state, _), _)| *state == State::OutcomeUnknown);
        unclear.map(|(_, count)| count).sum()
    }

    /// Revisions of an account that were committed with a word that has no mapping.
    pub(super) fn unmapped(&self, account: &AccountName) -> u64 {
        self.lock()
            .get(account)
            .map_or(0, |account| account.unmapped)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        journal::Position,
        purchase::{Cause, PurchaseId, Status},
        testing,
    };

    const HOUR: Duration = Duration::from_secs(3_600);

    fn purchase(state: State, finality: Finality) -> Purchase {
        let mut status = Status::pending(Timestamp::default());
        (status.state, status.finality) = (state, finality);
        testing::record(PurchaseId::from_u128(1), "a", "carbon", status).purchase
    }

    fn step(from: Option<State>, state: State, finality: Finality) -> Arc<Committed> {
        Arc::new(Committed {
            position: Position(1),
            purchase: purchase(state, finality),
            from_state: from,
            cause: Cause::Poll,
        })
    }

    #[test]
    fn open_purchases_are_counted_by_state_and_age_until_final() {
        let tally = Tally::default();
        let one = purchase(State::Paid, Finality::Open);
        let (account, born) = (one.account.clone(), one.create_time);
        tally.recovered(&one);
        tally.heard(&[step(None, State::Pending, Finality::Open)]);
        let at = |age: Duration| tally.open(&account, born.plus(age));
        assert_eq!(at(HOUR / 4), [("PAID", "hour", 1), ("PENDING", "hour", 1)]);
        assert_eq!(at(HOUR * 2), [("PAID", "day", 1), ("PENDING", "day", 1)]);
        assert_eq!(at(HOUR * 48), [("PAID", "week", 1), ("PENDING", "week", 1)]);
        let weeks = [("PAID", "older", 1), ("PENDING", "older", 1)];
        assert_eq!(at(HOUR * 24 * 8), weeks);
        tally.heard(&[
            step(Some(State::Pending), State::OutcomeUnknown, Finality::Open),
            step(Some(State::Paid), State::Completed, Finality::Terminal),
        ]);
        assert_eq!(tally.unclear(&account), 1);
        let later = [("COMPLETED", "older", 1), ("OUTCOME_UNKNOWN", "older", 1)];
        assert_eq!(at(HOUR * 24 * 9), later);
        tally.heard(&[
            step(Some(State::OutcomeUnknown), State::Failed, Finality::Final),
            step(Some(State::Completed), State::Completed, Finality::Final),
        ]);
        assert_eq!((at(HOUR * 24 * 9), tally.unclear(&account)), (vec![], 0));
    }

    /// Another process goes on while this one starts.
    #[test]
    fn what_others_commit_during_the_start_is_counted_once() {
        let tally = Tally::default();
        tally.shares();
        let numbered = |position, id, revision, one: Arc<Committed>| {
            let mut one = Arc::unwrap_or_clone(one);
            let mut status = Status::clone(&one.purchase.status);
            (status.revision, one.position) = (Revision(revision), Position(position));
            one.purchase.id = PurchaseId::from_u128(id);
            one.purchase.status = Arc::new(status);
            Arc::new(one)
        };
        let log = [
            numbered(
                11,
                1,
                2,
                step(Some(State::Pending), State::Paid, Finality::Open),
            ),
            numbered(
                12,
                2,
                3,
                step(Some(State::Paid), State::Failed, Finality::Final),
            ),
            numbered(13, 3, 1, step(None, State::Pending, Finality::Open)),
            numbered(
                14,
                3,
                2,
                step(Some(State::Pending), State::Paid, Finality::Open),
            ),
            numbered(
                15,
                1,
                3,
                step(Some(State::Paid), State::Paid, Finality::Open),
            ),
            numbered(
                16,
                2,
                4,
                step(Some(State::Failed), State::Paid, Finality::Open),
            ),
        ];
        // The first had its second revision when it was read, the second was FINAL, and the third was
        // begun behind its page.
        tally.recovered(&log[0].purchase);
        tally.started(Position(15));
        tally.heard(&log[..5]);
        let one = &log[0].purchase;
        let open = || tally.open(&one.account, one.create_time);
        assert_eq!(open(), [("PAID", "hour", 2)]);
        assert_eq!(tally.transitions(), [], "others have made them");
        tally.heard(&log[5..]);
        assert_eq!(open(), [("PAID", "hour", 3)], "the start is over");
        tally.made(&log[5..]);
        let transitions = tally.transitions();
        assert_eq!(transitions, [(one.account.to_string(), "PAID", 1)]);
    }

    #[test]
    fn a_million_purchases_of_a_year_take_as_many_places_as_a_week_has() {
        let tally = Tally::default();
        let mut one = purchase(State::Paid, Finality::Open);
        let born = one.create_time;
        for minutes in 0..500_000_u32 {
            one.create_time = born.plus(Duration::from_secs(60) * minutes);
            tally.recovered(&one);
        }
        let now = one.create_time;
        let open = tally.open(&one.account, now);
        assert_eq!(open.iter().map(|(_, _, count)| count).sum::<u64>(), 500_000);
        let places = tally.lock().get(&one.account).unwrap().open.len();
        assert!(places <= 1_009, "{places}");
    }
}
