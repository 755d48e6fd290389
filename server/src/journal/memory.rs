//! The journal of simulations: in memory, deterministic, with faults to order.
//!
//! It has no task of its own, so that it outlives the runtime of a process that a simulation kills.
//! The next process finds the same store by [`MemoryJournal::reopened`].

mod lease;
mod state;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::purchase::{AccountName, CallerName, PurchaseId, Reference, Revision, Transition};

use super::{
    Committed, Filter, Journal, JournalError, Listed, Place, Position, Record, Retirement, Write,
    Written, committer::Published,
};
pub use lease::MemoryOwnership;
use state::State;

/// A journal in memory.
pub struct MemoryJournal {
    epoch: Arc<str>,
    /// Shared with all other openings. Each use of the lock is short and never awaits.
    state: Arc<Mutex<State>>,
    /// This and the next are shared with all other openings: the fault is the disk's.
    fails_writes: Arc<AtomicBool>,
    silence: Arc<Silence>,
    /// Outside the state's lock: observers are told under that lock, and can ask for the head.
    published: Published,
    /// Each opening has its own.
    is_closed: AtomicBool,
    /// Reads of this opening.
    reads: AtomicU64,
}

/// A disk that does not answer. Its waiters go on in the order in which they came.
#[derive(Debug, Default)]
struct Silence {
    is_on: AtomicBool,
    ends: Notify,
}

impl Silence {
    async fn ended(&self) {
        loop {
            let mut ends = std::pin::pin!(self.ends.notified());
            // Listens before it looks, so that no end is missed.
            ends.as_mut().enable();
            if !self.is_on.load(Ordering::SeqCst) {
                return;
            }
            ends.await;
        }
    }
}

impl fmt::Debug for MemoryJournal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryJournal")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new(epoch: &str) -> Self {
        let published = Published::new(Position(0));
        Self {
            epoch: Arc::from(epoch),
            state: Arc::new(Mutex::new(State::aged_by(Arc::clone(&published.age)))),
            fails_writes: Arc::default(),
            silence: Arc::default(),
            published,
            is_closed: AtomicBool::new(false),
            reads: AtomicU64::new(0),
        }
    }

    /// The same store as another process finds it: with all commits, and without observers.
    #[must_use]
    pub fn reopened(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            fails_writes: Arc::clone(&self.fails_writes),
            silence: Arc::clone(&self.silence),
            published: self.published.reopened(),
            ..Self::new(&self.epoch)
        }
    }

    /// Makes every commit fail from now on, or work again.
    ///
    /// When commits work again, this opening is available at once; the others are with their next
    /// write.
    pub fn fail_writes(&self, fail: bool) {
        self.fails_writes.store(fail, Ordering::SeqCst);
        if !fail {
            self.published.set_available(true);
        }
    }

    /// Makes every commit wait from now on, as on a disk that is silent, or lets all go on.
    pub fn stall_writes(&self, stall: bool) {
        self.silence.is_on.store(stall, Ordering::SeqCst);
        self.silence.ends.notify_waiters();
    }

    /// The number of reads of this opening.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Waits for a silent disk; refuses if the disk is known to be silent.
    async fn answered(&self) -> Result<(), JournalError> {
        if !self.silence.is_on.load(Ordering::SeqCst) {
            return Ok(());
        }
        if !*self.published.available().borrow() {
            return Err(JournalError::unavailable("the disk does not answer"));
        }
        let silent = || self.published.set_available(false);
        self.published
            .under_way
            .noticed(self.silence.ended(), silent)
            .await;
        Ok(())
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, JournalError> {
        self.check_open()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(read(
            &self.state.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Commits one change, and tells the observers before anyone can commit after it.
    fn commit<T>(
        &self,
        change: impl FnOnce(&mut State, &mut Vec<Arc<Committed>>) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        self.check_open()?;
        self.check_writes()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut committed = Vec::new();
        let answer = change(&mut state, &mut committed);
        self.published.committed(state.head());
        // Under the lock, which keeps the order of commits; observers must not block anyway.
        self.published.observers.tell(&committed);
        answer
    }

    fn check_writes(&self) -> Result<(), JournalError> {
        if self.fails_writes.load(Ordering::SeqCst) {
            self.published.set_available(false);
            return Err(JournalError::unavailable("writes are made to fail"));
        }
        Ok(())
    }

    fn check_open(&self) -> Result<(), JournalError> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(JournalError::unavailable("it is closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn write(&self, write: Write) -> Result<Written, JournalError> {
        // Others get a turn on both sides of the commit, as they do if a commit takes time.
        tokio::task::yield_now().await;
        self.answered().await?;
        let written = self.commit(|state, committed| state.write(write, committed));
        tokio::task::yield_now().await;
        written
    }

    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError> {
        self.read(|state| state.record(purchase).cloned())
    }

    async fn record_by_key(
        &self,
        caller: &CallerName,
        key: &str,
    ) -> Result<Option<Record>, JournalError> {
        self.read(|state| state.record_by_key(caller, key))
    }

    async fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Result<Option<PurchaseId>, JournalError> {
        self.read(|state| state.purchase_by_reference(account, reference))
    }

    async fn transitions(
        &self,
        purchase: PurchaseId,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Transition>, JournalError> {
        self.read(|state| state.transitions(purchase, after, limit))
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Listed, JournalError> {
        self.read(|state| state.list(filter, after, limit))
    }

    async fn tail(
        &self,
        caller: Option<&CallerName>,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<Arc<Committed>>, Position), JournalError> {
        self.read(|state| state.tail(caller, after, limit))
    }

    async fn open_records(
        &self,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.read(|state| state.open_records(after, limit))
    }

    async fn get(&self, key: &str) -> Result<Option<String>, JournalError> {
        self.read(|state| state.get(key))
    }

    async fn retire(&self, retirement: Retirement) -> Result<Option<usize>, JournalError> {
        self.commit(|state, _| Ok(state.retire(&retirement)))
    }

    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn published(&self) -> &Published {
        &self.published
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }
}
