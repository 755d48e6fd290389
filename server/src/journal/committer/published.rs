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
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Group, SILENT_AFTER};
use crate::{
    figures::{GROUP_BOUNDS, Seen, Spread},
    journal::{Committed, Observer, Position, age::Age},
};

/// The observers of commits.
#[derive(Default)]
pub(in crate::journal) struct Observers(Mutex<Vec<Observer>>);

impl fmt::Debug for Observers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observers")
    }
}

impl Observers {
    pub(in crate::journal) fn add(&self, observer: Observer) {
        let mut observers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observers.push(observer);
    }

    /// Tells all of them, outside the lock: an observer may add another.
    pub(in crate::journal) fn tell(&self, committed: &[Arc<Committed>]) {
        if committed.is_empty() {
            return;
        }
        let observers = (self.0.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for observer in observers {
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
    /// Cancelled once this opening has lost the store for good.
    pub(in crate::journal) lost: CancellationToken,
    pub(in crate::journal) under_way: UnderWay,
    pub(in crate::journal) observers: Observers,
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
            lost: CancellationToken::new(),
            under_way: UnderWay::default(),
            observers: Observers::default(),
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

    /// Publishes a commit that has worked. The head moves first: an observer that then reads on its own
    /// must find the transitions that it hears of.
    pub(in crate::journal) fn committed(&self, head: Position) {
        self.head.store(head.0, Ordering::Release);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.set_available(true);
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

    /// Another process has taken the store over: nothing can be committed here any more.
    pub(in crate::journal) fn lose_store(&self) {
        if !self.lost.is_cancelled() {
            tracing::error!("another process has taken the store over");
        }
        self.set_available(false);
        self.lost.cancel();
    }

    pub(super) fn publish(&self, group: &Group) {
        if group.wrote {
            self.committed(group.head);
        } else {
            self.head.store(group.head.0, Ordering::Release);
        }
        self.observers.tell(&group.committed);
    }
}
