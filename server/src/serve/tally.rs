//! Counts of open purchases, kept by the commits as they come, so that a scrape looks at no
//! purchase: a million of them cost it as much as one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    journal::Committed,
    purchase::{AccountName, Finality, Purchase, State, Timestamp},
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
pub(super) struct Tally(Mutex<BTreeMap<AccountName, Account>>);

fn slot(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(SLOT_MS)
}

impl Account {
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

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<AccountName, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A purchase is open since an earlier process.
    pub(super) fn recovered(&self, purchase: &Purchase) {
        let mut accounts = self.lock();
        let account = accounts.entry(purchase.account.clone()).or_default();
        account.enter(purchase.status.state, purchase.create_time);
    }

    /// Transitions were committed.
    pub(super) fn heard(&self, committed: &[std::sync::Arc<Committed>]) {
        let mut accounts = self.lock();
        for Committed {
            purchase,
            from_state,
            ..
        } in committed.iter().map(AsRef::as_ref)
        {
            let account = match accounts.get_mut(&purchase.account) {
                Some(account) => account,
                None => accounts.entry(purchase.account.clone()).or_default(),
            };
            let (status, created) = (&purchase.status, purchase.create_time);
            if let Some(from) = from_state {
                account.leave(*from, created);
            }
            if status.finality != Finality::Final {
                account.enter(status.state, created);
            }
            *account.transitions.entry(status.state).or_default() += 1;
            account.unmapped += u64::from(status.unmapped);
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
