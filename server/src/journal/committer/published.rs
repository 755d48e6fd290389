//! The part of a journal's commits that readers and observers see.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;
use tokio::{
    sync::{Notify, SetOnce, watch},
    time::Instant,
};

use super::SILENT_AFTER;
use crate::{
    figures::{GROUP_BOUNDS, Seen, Spread},
    journal::{Committed, Loss, Observer, Position, Witness, age::Age, shared::Merge},
};

/// The commits that an observer hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum Hears {
    /// Own ones before their writers are answered, others' as they are read.
    Purchases,
    /// All in order, once each.
    InOrder,
    /// Own ones, once each.
    Own,
}

/// The observers of commits.
#[derive(Default)]
pub(in crate::journal) struct Observers(Mutex<Vec<(Hears, Observer)>>);

impl fmt::Debug for Observers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observers")
    }
}

impl Observers {
    pub(in crate::journal) fn add(&self, hears: Hears, observer: Observer) {
        let mut observers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observers.push((hears, observer));
    }

    /// Tells all of them.
    fn tell(&self, committed: &[Arc<Committed>]) {
        self.tell_those(|_| true, committed);
    }

    /// Tells those that hear so.
    pub(in crate::journal) fn tell_only(&self, hears: Hears, committed: &[Arc<Committed>]) {
        self.tell_those(|one| one == hears, committed);
    }

    /// Tells them outside the lock: an observer may add another.
    fn tell_those(&self, is_meant: impl Fn(Hears) -> bool, committed: &[Arc<Committed>]) {
        if committed.is_empty() {
            return;
        }
        let observers = (self.0.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (_, observer) in observers.into_iter().filter(|(hears, _)| is_meant(*hears)) {
            // The transitions are durable: their writers must be answered even if an observer panics.
            if catch_unwind(AssertUnwindSafe(|| observer(committed))).is_err() {
                tracing::error!("an observer of the journal panicked");
            }
        }
    }
}

/// Upper bounds of the histogram of commits' times, in seconds.
const COMMIT_BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// The beginning of the commit under way, if any.
#[derive(Debug, Default)]
pub(in crate::journal) struct UnderWay {
    begun: Mutex<Option<Instant>>,
    lost: Notify,
}

impl UnderWay {
    fn set(&self, begun: Option<Instant>) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    /// The way to the store is lost and the outcome has to be looked for: this counts as silence at
    /// once.
    pub(in crate::journal) fn lose(&self) {
        self.lost.notify_waiters();
    }

    /// The time that it has taken so far; zero if none is under way.
    pub(in crate::journal) fn lasts(&self) -> Duration {
        let begun = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// Does work that takes no time on a store that works. If it takes long or loses its way, calls
    /// `silent`.
    pub(in crate::journal) async fn noticed<T>(
        &self,
        work: impl Future<Output = T>,
        silent: impl FnOnce(),
    ) -> T {
        self.set(Some(Instant::now()));
        let _ends = Ends(self);
        let mut work = std::pin::pin!(work);
        let mut lost = std::pin::pin!(self.lost.notified());
        // Listens before the work begins, so that no loss is missed.
        lost.as_mut().enable();
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = lost => {}
            () = tokio::time::sleep(SILENT_AFTER) => {}
        }
        silent();
        work.await
    }
}

/// Ends the time under way when dropped, even if nobody waits for the work any more.
struct Ends<'commit>(&'commit UnderWay);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// The part of a journal's commits that readers see.
#[derive(Debug)]
pub struct Published {
    /// Like the age, shared by all openings of one store in memory.
    head: Arc<AtomicU64>,
    pub(in crate::journal) age: Arc<Age>,
    commits: AtomicU64,
    pub(super) restarts: AtomicU64,
    pub(super) commit_seconds: Histogram,
    /// The writes of each commit.
    pub(super) group_sizes: Spread,
    available: watch::Sender<bool>,
    /// Set once this opening has lost the store for good.
    pub(in crate::journal) lost: Arc<SetOnce<Loss>>,
    /// The newest transition that anybody was told of.
    witness: Mutex<Option<Witness>>,
    pub(in crate::journal) under_way: UnderWay,
    pub(in crate::journal) observers: Observers,
    /// Present if other processes commit as well.
    merge: Option<Merge>,
}

impl Published {
    pub(in crate::journal) fn new(head: Position) -> Self {
        Self {
            head: Arc::new(AtomicU64::new(head.0)),
            age: Arc::default(),
            commits: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            commit_seconds: Histogram::new(COMMIT_BOUNDS),
            group_sizes: Spread::new(GROUP_BOUNDS),
            available: watch::Sender::new(true),
            lost: Arc::default(),
            witness: Mutex::default(),
            under_way: UnderWay::default(),
            observers: Observers::default(),
            merge: None,
        }
    }

    /// The value for another opening of the same store in memory.
    pub(in crate::journal) fn reopened(&self) -> Self {
        Self {
            head: Arc::clone(&self.head),
            age: Arc::clone(&self.age),
            ..Self::new(Position(0))
        }
    }

    /// The value for a process whose store others share. Its observers are told from this head on.
    pub(in crate::journal) fn shared(head: Position) -> Self {
        Self {
            merge: Some(Merge::new()),
            ..Self::new(head)
        }
    }

    /// The same, for one of several openings of the same store in memory at a time.
    pub(in crate::journal) fn shared_anew(&self, head: Position) -> Self {
        Self {
            age: Arc::clone(&self.age),
            ..Self::shared(head)
        }
    }

    /// Tells of a commit that was made. `head` is the store's newest position; `wrote` is false if nothing
    /// reached the disk, which proves nothing about it.
    pub(in crate::journal) fn publish(
        &self,
        head: Position,
        committed: &[Arc<Committed>],
        wrote: bool,
    ) {
        if wrote {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        if self.merge.is_none() {
            self.move_head(head);
        }
        if wrote {
            self.set_available(true);
        }
        self.remember(committed.last().map(|last| (&**last).into()));
        match &self.merge {
            None => self.observers.tell(committed),
            Some(merge) => merge.own(committed, self),
        }
    }

    /// The head moves before observers are told: one that then reads on its own must find the transitions
    /// that it hears of.
    pub(in crate::journal) fn move_head(&self, head: Position) {
        self.head.store(head.0, Ordering::Release);
    }

    /// Own commits and others' on their way into order, if other processes commit as well.
    pub(in crate::journal) fn merge(&self) -> Option<&Merge> {
        self.merge.as_ref()
    }

    /// The time since which a commit may have been made of which nobody here was told. A commit under way
    /// is known to nobody before it has ended.
    pub(in crate::journal) fn behind(&self) -> Duration {
        (self.merge.as_ref()).map_or_else(|| self.under_way.lasts(), Merge::behind)
    }

    pub(in crate::journal) fn head(&self) -> Position {
        Position(self.head.load(Ordering::Acquire))
    }

    pub(in crate::journal) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The number of times that the committing task was begun again after a defect.
    pub(in crate::journal) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(in crate::journal) fn commit_seconds(&self) -> Histogram {
        self.commit_seconds.clone()
    }

    pub(in crate::journal) fn group_sizes(&self) -> Seen {
        self.group_sizes.seen()
    }

    pub(in crate::journal) fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    /// Wakes the waiters only if the value changes. The caller that turns it false logs the reason; the
    /// return to true is logged here.
    pub(in crate::journal) fn set_available(&self, available: bool) {
        let has_changed = self.available.send_if_modified(|was| {
            let changes = *was != available;
            *was = available;
            changes
        });
        if available && has_changed {
            tracing::info!("the journal works again");
        }
    }

    /// Keeps a transition that is about to be told, if it is newer than the one before.
    pub(in crate::journal) fn remember(&self, told: Option<Witness>) {
        let mut witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner);
        *witness = witness
            .into_iter()
            .chain(told)
            .max_by_key(|one| one.position);
    }

    /// The newest transition that anybody was told of here, or that was the store's newest at its opening.
    pub(in crate::journal) fn witness(&self) -> Option<Witness> {
        *self.witness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing can be committed here any more.
    pub(in crate::journal) fn lose_store(&self, loss: Loss) {
        if self.lost.set(loss).is_ok() {
            tracing::error!("{loss}");
        }
        self.set_available(false);
    }
}
