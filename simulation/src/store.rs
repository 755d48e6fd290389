//! The memory journal as a process that can die or be stopped sees it: reads and commits take time, and
//! after the death of the process none of its calls returns.

use std::{
    fmt,
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
        ReplicaId, Retirement, Write, Written, memory::MemoryJournal,
    },
    progress::Progress,
    purchase::{AccountName, CallerName, PurchaseId, Reference, Revision, Transition},
};
use tokio::time::Instant;

use crate::fences::Fences;

/// The life of a process. Clones are of the same process.
#[derive(Debug, Clone)]
pub struct Life(Arc<Alive>);

struct Alive {
    is_over: AtomicBool,
    stopped_until: Mutex<Instant>,
    /// Happens when it begins its next write under a fence.
    at_write: Mutex<Option<Accident>>,
}

type Accident = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Alive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Alive")
    }
}

impl Life {
    /// A living process.
    pub fn new() -> Self {
        Self(Arc::new(Alive {
            is_over: AtomicBool::new(false),
            stopped_until: Mutex::new(Instant::now()),
            at_write: Mutex::default(),
        }))
    }

    /// It dies here and now.
    pub fn end(&self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }

    /// It is stopped for so long.
    pub fn stop_for(&self, duration: Duration) {
        *self.0.stopped_until.lock().unwrap() = Instant::now() + duration;
    }

    /// Lets something happen to it when it begins its next write under a fence, in place of what was to.
    pub fn at_next_write(&self, accident: impl FnOnce() + Send + 'static) {
        *self.0.at_write.lock().unwrap() = Some(Box::new(accident));
    }

    /// It begins a write.
    fn begins(&self, write: &Write) {
        let (Write::Append { fence, .. } | Write::Put { fence, .. }) = write else {
            return;
        };
        let accident = match fence {
            Some(_) => self.0.at_write.lock().unwrap().take(),
            None => None,
        };
        if let Some(accident) = accident {
            accident();
        }
    }

    /// True while it is stopped.
    pub fn is_stopped(&self) -> bool {
        *self.0.stopped_until.lock().unwrap() > Instant::now()
    }

    /// Returns while the process lives, else never; if it is stopped, once it goes on.
    pub async fn go_on(&self) {
        while self.is_stopped() {
            let until = *self.0.stopped_until.lock().unwrap();
            tokio::time::sleep_until(until).await;
        }
        if self.0.is_over.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

/// One process's opening of the store.
#[derive(Debug)]
pub struct Mortal {
    inner: Arc<MemoryJournal>,
    life: Life,
    random: Mutex<StdRng>,
    /// Watches over fences, if other processes share the store.
    fences: Option<(Fences, ReplicaId)>,
}

impl Mortal {
    /// The store as the process `life` opens it.
    pub fn new(
        inner: Arc<MemoryJournal>,
        life: Life,
        seed: u64,
        fences: Option<(Fences, ReplicaId)>,
    ) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self {
            inner,
            life,
            random,
            fences,
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
        self.life.begins(&write);
        self.pass(4).await;
        let judged = self.fences.as_ref();
        let judged = judged.map(|(fences, replica)| (fences, fences.judge(replica, &write)));
        let written = self.inner.write(write).await;
        if let Some((fences, judged)) = judged {
            fences.written(judged, &written);
        }
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

    async fn newest(&self) -> Result<Position, JournalError> {
        self.pass(2).await;
        self.inner.newest().await
    }

    async fn follow(&self, progress: &Progress) {
        self.inner.follow(progress).await;
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
