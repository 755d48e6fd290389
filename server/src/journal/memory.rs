//! The journal of simulations: in memory, deterministic, with faults to order.
//!
//! It has no task of its own, so that it outlives the runtime of a process that a simulation kills.
//! The next process finds the same store by [`MemoryJournal::reopened`].

mod board;
mod budgets;
mod lease;
mod seat;
mod state;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::{
    progress::Progress,
    purchase::{AccountName, CallerName, PurchaseId, Reference, Revision, Transition},
};

use super::{
    Committed, Filter, Journal, JournalError, Listed, Observer, Place, Position, Record, ReplicaId,
    Retirement, Write, Written,
    committer::{Hears, Published},
};
pub use board::MemoryBoard;
pub use budgets::MemoryBudgets;
pub use lease::MemoryOwnership;
pub use seat::Chances;
use seat::{Seat, SharedLog};
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
    published: Arc<Published>,
    /// Present if other processes have the store open at the same time.
    seat: Option<Arc<Seat>>,
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
    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::SeqCst)
    }

    fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::SeqCst);
        self.ends.notify_waiters();
    }

    async fn ended(&self) {
        loop {
            let mut ends = std::pin::pin!(self.ends.notified());
            // Listens before it looks, so that no end is missed.
            ends.as_mut().enable();
            if !self.is_on() {
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
            published: Arc::new(published),
            seat: None,
            is_closed: AtomicBool::new(false),
            reads: AtomicU64::new(0),
        }
    }

    /// The same store as the next process finds it: with all commits, and without observers.
    #[must_use]
    pub fn reopened(&self) -> Self {
        self.opened(self.published.reopened(), None)
    }

    /// The same store as one of several processes has it open: each hears of the others' commits, by a
    /// way with these chances.
    #[must_use]
    pub fn shared(&self, chances: Chances) -> Self {
        let seat = Arc::new(Seat::new(chances));
        let head = {
            let mut state = self.lock();
            state.seats.push(Arc::downgrade(&seat));
            state.head()
        };
        self.opened(self.published.shared_anew(head), Some(seat))
    }

    /// Another handle of the process that has this opening.
    fn of_same_process(&self) -> Self {
        self.opened(self.published.reopened(), self.seat.clone())
    }

    fn opened(&self, published: Published, seat: Option<Arc<Seat>>) -> Self {
        Self {
            state: Arc::clone(&self.state),
            fails_writes: Arc::clone(&self.fails_writes),
            silence: Arc::clone(&self.silence),
            published: Arc::new(published),
            seat,
            ..Self::new(&self.epoch)
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the way between this process and the store, or mends it. Calls that are sent meanwhile may
    /// arrive; their answers do not.
    pub fn cut(&self, is_cut: bool) {
        if let Some(seat) = &self.seat {
            seat.cut(is_cut);
        }
    }

    /// Empties the board, as a crash of a server does.
    pub fn empty_board(&self) {
        self.lock().sheets.empty();
    }

    /// The owner of an account at this moment, and the number of its lease's last take.
    pub fn owner(&self, account: &AccountName) -> (Option<ReplicaId>, u64) {
        self.lock().leases.owner(account)
    }

    /// Adds an observer of the store itself: it hears of each commit of each opening when it is made.
    pub fn observe_store(&self, observer: Observer) {
        self.lock().observers.add(Hears::InOrder, observer);
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
        self.silence.set(stall);
    }

    /// The number of reads of this opening.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Waits for a silent disk; refuses if the disk is known to be silent.
    async fn answered(&self) -> Result<(), JournalError> {
        if !self.silence.is_on() {
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

    /// A call of this process beside its commits. If its way to the store is cut, the call may arrive all
    /// the same, and only its answer is lost.
    async fn call<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, JournalError> {
        self.answered().await?;
        self.check_writes()?;
        let way = self.check_way();
        if let Err(error) = &way
            && !self.seat.as_ref().is_some_and(|seat| seat.arrives())
        {
            return Err(error.clone());
        }
        let done = act(&mut self.lock());
        way.map(|()| done)
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, JournalError> {
        self.check_open()?;
        self.check_way()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(read(&self.lock()))
    }

    /// Commits one change, and tells the observers before anyone can commit after it.
    fn commit<T>(&self, change: impl Change<T>) -> Result<T, JournalError> {
        self.change(change, |head, committed| {
            // Under the lock, which keeps the order of commits; observers must not block anyway.
            self.published.publish(head, &committed, true);
        })
    }

    /// Commits one change whose answer is lost, if it arrives at all, and waits for its outcome.
    async fn commit_blindly<T>(
        &self,
        seat: &Seat,
        change: impl Change<T>,
    ) -> Result<T, JournalError> {
        let mut made = None;
        let mut answer = Err(JournalError::unavailable("it has not reached the store"));
        if !seat.is_cut() || seat.arrives() {
            answer = self.change(change, |head, committed| made = Some((head, committed)));
        }
        seat.outcome(&self.published).await;
        if let Some((head, committed)) = made {
            self.published.publish(head, &committed, true);
        }
        answer
    }

    fn change<T>(
        &self,
        change: impl Change<T>,
        tell: impl FnOnce(Position, Vec<Arc<Committed>>),
    ) -> Result<T, JournalError> {
        self.check_open()?;
        self.check_writes()?;
        let mut state = self.lock();
        let mut committed = Vec::new();
        let answer = change(&mut state, &mut committed);
        state.tell(&committed, self.seat.as_ref());
        tell(state.head(), committed);
        answer
    }

    fn check_writes(&self) -> Result<(), JournalError> {
        if self.fails_writes.load(Ordering::SeqCst) {
            self.published.set_available(false);
            return Err(JournalError::unavailable("writes are made to fail"));
        }
        Ok(())
    }

    fn check_way(&self) -> Result<(), JournalError> {
        if self.seat.as_ref().is_some_and(|seat| seat.is_cut()) {
            self.published.set_available(false);
            return Err(JournalError::unavailable("the way to the store is cut"));
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

/// A change of the store's state, with the transitions that it commits.
trait Change<T>: FnOnce(&mut State, &mut Vec<Arc<Committed>>) -> Result<T, JournalError> {}

impl<T, F> Change<T> for F where
    F: FnOnce(&mut State, &mut Vec<Arc<Committed>>) -> Result<T, JournalError>
{
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn write(&self, write: Write) -> Result<Written, JournalError> {
        // Others get a turn on both sides of the commit, as they do if a commit takes time.
        tokio::task::yield_now().await;
        self.answered().await?;
        let change = |state: &mut State, committed: &mut _| state.write(write, committed);
        let written = match &self.seat {
            Some(seat) if seat.is_cut() && !*self.published.available().borrow() => {
                return Err(JournalError::unavailable("the way to the store is cut"));
            }
            Some(seat) if seat.loses_answer() => self.commit_blindly(seat, change).await,
            Some(_) | None => self.commit(change),
        };
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
        let told = self.seat.as_ref().map(|_| self.head());
        self.read(|state| {
            let reach = (after, told.unwrap_or(state.head()));
            state.tail(caller, reach, limit)
        })
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
        self.check_way()?;
        self.commit(|state: &mut State, _: &mut _| Ok(state.retire(&retirement)))
    }

    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn published(&self) -> &Published {
        &self.published
    }

    async fn newest(&self) -> Result<Position, JournalError> {
        self.read(State::head)
    }

    async fn follow(&self, progress: &Progress) {
        let (Some(seat), Some(merge)) = (&self.seat, self.published.merge()) else {
            return progress.across(std::future::pending()).await;
        };
        let log = SharedLog {
            state: &self.state,
            seat,
            published: &self.published,
            fails_writes: &self.fails_writes,
            silence: &self.silence,
        };
        seat.follow(&log, merge, progress).await;
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }
}
