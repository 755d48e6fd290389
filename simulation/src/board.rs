//! The board of the store as a process that can die or be stopped sees it.

use async_trait::async_trait;
use tillwatch_server::{
    journal::{Board, JournalError, Sheet, Told, Wish, memory::MemoryBoard},
    purchase::{AccountName, PurchaseId},
};

use crate::{seat::Way, store::Life};

/// The board as one process sees it.
#[derive(Debug)]
pub struct MortalBoard {
    inner: MemoryBoard,
    way: Way,
}

impl MortalBoard {
    /// The board as the process `life` sees it.
    pub fn new(inner: MemoryBoard, life: Life, seed: u64) -> Self {
        Self {
            inner,
            way: Way::new(life, seed),
        }
    }

    /// A call and its answer.
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        self.way.pass().await;
        let answer = call.await;
        self.way.pass().await;
        answer
    }
}

#[async_trait]
impl Board for MortalBoard {
    fn is_shared(&self) -> bool {
        true
    }

    async fn mark(&self) -> Result<u64, JournalError> {
        self.call(self.inner.mark()).await
    }

    async fn wish(&self, mark: u64, wishes: &[Wish]) -> Result<Option<Vec<u64>>, JournalError> {
        self.call(self.inner.wish(mark, wishes)).await
    }

    async fn wanted(
        &self,
        after: &[(AccountName, u64)],
        limit: usize,
    ) -> Result<Sheet, JournalError> {
        self.call(self.inner.wanted(after, limit)).await
    }

    async fn tell(&self, told: &[Told]) -> Result<(), JournalError> {
        self.call(self.inner.tell(told)).await
    }

    async fn told(&self, purchases: &[PurchaseId]) -> Result<Vec<Told>, JournalError> {
        self.call(self.inner.told(purchases)).await
    }

    async fn show(&self, snapshots: &[(AccountName, String)]) -> Result<(), JournalError> {
        self.call(self.inner.show(snapshots)).await
    }

    async fn shown(
        &self,
        accounts: &[AccountName],
    ) -> Result<Vec<(AccountName, String)>, JournalError> {
        self.call(self.inner.shown(accounts)).await
    }

    async fn tidy(&self) -> Result<usize, JournalError> {
        self.call(self.inner.tidy()).await
    }
}
