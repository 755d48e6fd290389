//! The budgets of a store in memory.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;

use super::MemoryJournal;
use crate::{
    clock::Clock,
    journal::{
        Budgets, Heard, JournalError, KeptBudget, ReplicaId, Taken, Taking, Word,
        slots::{self, Asking, Place, Purse, Wish},
    },
    purchase::AccountName,
};

/// The budgets of all accounts, and the places that processes hold in flight.
#[derive(Debug, Default)]
pub(super) struct Purses {
    purses: BTreeMap<AccountName, Purse>,
    places: BTreeMap<AccountName, BTreeMap<ReplicaId, Place>>,
}

impl Purses {
    /// An account's budget and places, by the store's clock as it is now.
    fn of(
        &mut self,
        account: &AccountName,
        now_us: i64,
    ) -> (&mut Purse, &mut BTreeMap<ReplicaId, Place>) {
        let purse = self.purses.entry(account.clone()).or_default();
        let places = self.places.entry(account.clone()).or_default();
        let by_us = purse.follow(now_us);
        for place in places.values_mut() {
            *place = place.set_back(by_us);
        }
        (purse, places)
    }

    fn take(
        &mut self,
        account: &AccountName,
        replica: &ReplicaId,
        wish: &Wish,
        now_us: i64,
    ) -> slots::Answer {
        let (purse, places) = self.of(account, now_us);
        let others = places.iter().filter(|(holder, _)| *holder != replica);
        let others = others.map(|(_, place)| place.counts(now_us)).sum();
        let (answer, place) = purse.take(others, wish, now_us);
        places.insert(replica.clone(), place);
        answer
    }

    fn tell(
        &mut self,
        account: &AccountName,
        replica: &ReplicaId,
        word: &slots::Word,
        now_us: i64,
    ) -> slots::Heard {
        let (purse, places) = self.of(account, now_us);
        let (heard, place) = purse.tell(word, now_us);
        places.insert(replica.clone(), place);
        heard
    }
}

/// The budgets of a store in memory, as one of its openings spends them.
pub struct MemoryBudgets {
    journal: MemoryJournal,
    /// The store's clock.
    store: Clock,
    /// The process's.
    clock: Clock,
    replica: ReplicaId,
}

impl fmt::Debug for MemoryBudgets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryBudgets")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl MemoryBudgets {
    /// The budgets of this journal's store for the process with this name and clock. `store` is the
    /// store's clock. They are away while commits fail, and while the way to the store is cut.
    pub fn new(journal: &MemoryJournal, store: &Clock, replica: &ReplicaId, clock: &Clock) -> Self {
        Self {
            journal: journal.of_same_process(),
            store: store.clone(),
            clock: clock.clone(),
            replica: replica.clone(),
        }
    }

    async fn with<T>(
        &self,
        act: impl FnOnce(&mut Purses, i64) -> T,
    ) -> Result<(T, Asking), JournalError> {
        let departed = self.clock.moment();
        // Others get a turn on both sides, as they do if a store takes time.
        tokio::task::yield_now().await;
        let call = self.journal.call(|state| {
            let now_us = self.store.now().as_millis().saturating_mul(1_000);
            act(&mut state.purses, now_us)
        });
        let answer = call.await?;
        tokio::task::yield_now().await;
        let arrived = self.clock.moment();
        Ok((answer, Asking { departed, arrived }))
    }
}

#[async_trait]
impl Budgets for MemoryBudgets {
    fn is_shared(&self) -> bool {
        true
    }

    async fn left(&self, _account: &AccountName) -> Option<KeptBudget> {
        None
    }

    async fn take(&self, account: &AccountName, taking: &Taking) -> Result<Taken, JournalError> {
        let wish = Wish::of(taking);
        let took = self.with(|purses, now_us| purses.take(account, &self.replica, &wish, now_us));
        let (answer, asking) = took.await?;
        Ok(asking.taken(taking, &answer))
    }

    async fn tell(&self, account: &AccountName, word: &Word) -> Result<Heard, JournalError> {
        let word = slots::Word::of(word);
        let told = self.with(|purses, now_us| purses.tell(account, &self.replica, &word, now_us));
        let (heard, asking) = told.await?;
        Ok(asking.heard(heard))
    }
}
