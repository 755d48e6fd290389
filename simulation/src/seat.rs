//! The leases and the budgets of a store that several processes share, as a process that can die or be
//! stopped sees them.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use async_trait::async_trait;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tillwatch_server::{
    journal::{
        Budgets, Fence, Heard, JournalError, KeptBudget, Lease, Limits, Look, Ownership, ReplicaId,
        Taken, Taking, Word,
        memory::{MemoryBudgets, MemoryOwnership},
    },
    purchase::AccountName,
};

use crate::{fences::Fences, store::Life};

/// The way to the store and back: usually short, now and then too long. Nothing comes over it to a process
/// that is dead, and nothing before a process goes on that is stopped.
#[derive(Debug)]
pub struct Way {
    life: Life,
    random: Mutex<StdRng>,
}

impl Way {
    /// The way of the process `life`.
    pub fn new(life: Life, seed: u64) -> Self {
        Self {
            life,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// A call, or its answer, passes.
    pub async fn pass(&self) {
        let wait = {
            let mut random = self.random.lock().unwrap();
            let slow = if random.random_bool(0.01) { 200 } else { 1 };
            random.random_range(0..=8) * slow
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        self.life.go_on().await;
    }
}

/// The leases as one process sees them.
#[derive(Debug)]
pub struct MortalOwnership {
    inner: MemoryOwnership,
    way: Way,
    fences: Fences,
}

impl MortalOwnership {
    /// The leases as the process `life` sees them.
    pub fn new(inner: MemoryOwnership, life: Life, fences: Fences, seed: u64) -> Self {
        Self {
            inner,
            way: Way::new(life, seed),
            fences,
        }
    }
}

#[async_trait]
impl Ownership for MortalOwnership {
    fn is_shared(&self) -> bool {
        true
    }

    fn replica(&self) -> &ReplicaId {
        self.inner.replica()
    }

    async fn configure(&self, limits: &BTreeMap<AccountName, Limits>) -> Result<(), JournalError> {
        self.way.pass().await;
        self.inner.configure(limits).await
    }

    async fn look(&self, renewed: &[Fence]) -> Result<Look, JournalError> {
        self.way.pass().await;
        let look = self.inner.look(renewed).await;
        self.way.pass().await;
        look
    }

    async fn take(
        &self,
        account: &AccountName,
        seen: Option<&Lease>,
    ) -> Result<Option<Fence>, JournalError> {
        self.way.pass().await;
        let taken = self.inner.take(account, seen).await;
        if let Ok(Some(fence)) = &taken
            && fence.number > 1
        {
            self.fences.taken_over();
        }
        self.way.pass().await;
        taken
    }

    async fn release(&self, fence: &Fence) -> Result<(), JournalError> {
        self.way.pass().await;
        self.inner.release(fence).await
    }

    async fn leave(&self) -> Result<(), JournalError> {
        self.way.pass().await;
        self.inner.leave().await
    }
}

/// The budgets as one process sees them.
#[derive(Debug)]
pub struct MortalBudgets {
    inner: MemoryBudgets,
    way: Way,
}

impl MortalBudgets {
    /// The budgets as the process `life` sees them.
    pub fn new(inner: MemoryBudgets, life: Life, seed: u64) -> Self {
        Self {
            inner,
            way: Way::new(life, seed),
        }
    }
}

#[async_trait]
impl Budgets for MortalBudgets {
    fn is_shared(&self) -> bool {
        true
    }

    async fn left(&self, account: &AccountName) -> Option<KeptBudget> {
        self.inner.left(account).await
    }

    async fn take(&self, account: &AccountName, taking: &Taking) -> Result<Taken, JournalError> {
        self.way.pass().await;
        let taken = self.inner.take(account, taking).await;
        self.way.pass().await;
        taken
    }

    async fn tell(&self, account: &AccountName, word: &Word) -> Result<Heard, JournalError> {
        self.way.pass().await;
        let heard = self.inner.tell(account, word).await;
        self.way.pass().await;
        heard
    }
}
