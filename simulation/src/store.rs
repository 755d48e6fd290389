//! The memory journal as a process that can die sees it: reads and commits take time, and after the
//! death of the process none of its calls returns.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tillwatch_server::{
    journal::{
        Committed, Filter, Journal, JournalError, Listed, Place, Position, Published, Record,
        Retirement, Write, Written, memory::MemoryJournal,
    },
    purchase::{AccountName, CallerName, PurchaseId, Reference, Revision, Transition},
};

/// True if a process lives. Clones are of the same process.
#[derive(Debug, Clone)]
pub struct Life(Arc<AtomicBool>);

impl Life {
    /// A living process.
    pub fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// It dies here and now.
    pub fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// Returns while the process lives, else never.
    pub async fn go_on(&self) {
        if !self.0.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

/// One process's opening of the store.
#[derive(Debug)]
pub struct Mortal {
    inner: MemoryJournal,
    life: Life,
    random: Mutex<StdRng>,
}

impl Mortal {
    /// The store as the process `life` opens it.
    pub fn new(inner: MemoryJournal, life: Life, seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self {
            inner,
            life,
            random,
        }
    }

    /// Disk time: usually little, now and then a lot.
    async fn pass(&self, most_ms: u64) {
        let wait = {
            let mut random = self.random.lock().unwrap();
            let slow = if random.random_bool(0.05) { 20 } else { 1 };
            random.random_range(0..=most_ms) * slow
        };
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        self.life.go_on().await;
    }
}

#[async_trait]
impl Journal for Mortal {
    async fn write(&self, write: Write) -> Result<Written, JournalError> {
        self.pass(4).await;
        let written = self.inner.write(write).await;
        self.pass(4).await;
        written
    }

    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError> {
        self.pass(2).await;
        self.inner.record(purchase).await
    }

    async fn record_by_key(
        &self,
        caller: &CallerName,
        key: &str,
    ) -> Result<Option<Record>, JournalError> {
        self.pass(2).await;
        self.inner.record_by_key(caller, key).await
    }

    async fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Result<Option<PurchaseId>, JournalError> {
        self.pass(2).await;
        self.inner.purchase_by_reference(account, reference).await
    }

    async fn transitions(
        &self,
        purchase: PurchaseId,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Transition>, JournalError> {
        self.pass(2).await;
        let found = self.inner.transitions(purchase, after, limit).await;
        self.pass(2).await;
        found
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Listed, JournalError> {
        self.pass(2).await;
        self.inner.list(filter, after, limit).await
    }

    async fn tail(
        &self,
        caller: Option<&CallerName>,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<Arc<Committed>>, Position), JournalError> {
        self.pass(2).await;
        let found = self.inner.tail(caller, after, limit).await;
        self.pass(2).await;
        found
    }

    async fn open_records(
        &self,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.pass(2).await;
        self.inner.open_records(after, limit).await
    }

    async fn get(&self, key: &str) -> Result<Option<String>, JournalError> {
        self.pass(2).await;
        self.inner.get(key).await
    }

    async fn retire(&self, retirement: Retirement) -> Result<Option<usize>, JournalError> {
        self.pass(2).await;
        self.inner.retire(retirement).await
    }

    fn epoch(&self) -> &str {
        self.inner.epoch()
    }

    fn published(&self) -> &Published {
        self.inner.published()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
