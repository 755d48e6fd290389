//! Committed transitions to watchers: cursors and wake-ups.
//!
//! A watched purchase has a channel with the tail of its log; a watcher is a cursor and a waker. A
//! watcher that falls behind reads the journal, so a slow watcher costs nobody anything. Nothing is
//! pushed here: the journal's observer says that something was committed, and each stream fetches
//! the transitions that it has not sent yet.

mod alarms;
mod channel;
mod figures;
mod followers;
mod pulse;
mod purchases;
mod ring;
mod wait;
mod watch;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::{
    clock::Clock,
    journal::{Committed, Journal, JournalError, Position, Record},
    progress::Progress,
    purchase::{Purchase, PurchaseId, Revision, Timestamp},
};
use alarms::Alarms;
use channel::Channels;
pub use figures::FeedFigures;
use followers::Followers;
pub use purchases::{FeedEvent, WatchAll};
use ring::Ring;
pub use watch::{Event, Until, Watch};

/// The time that streams outlive the journal.
pub const WITHOUT_JOURNAL_MAX: Duration = Duration::from_secs(60);

/// The reason why this service ends a stream that has more to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process is about to stop.
    Draining,
    /// The stream has reached its maximum age.
    Aged,
    /// The journal has been unavailable for a minute.
    JournalLost,
    /// Retention has taken the purchase.
    Gone,
}

/// The behaviour of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// The longest silence before a heartbeat.
    pub heartbeat: Duration,
    /// The time at which the stream ends of age; `None` for never.
    pub ends_at: Option<Instant>,
}

/// The waker of one stream.
#[derive(Debug, Default)]
struct Wake(AtomicWaker);

/// The feed of one process. Cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    journal: Arc<dyn Journal>,
    clock: Clock,
    /// Channels of watched purchases; a purchase that nobody watches is not in memory.
    channels: Channels,
    /// Recent transitions of all purchases, in commit order.
    ring: Mutex<Ring>,
    /// Streams over many purchases.
    followers: Followers,
    /// Open streams of both kinds, for metrics.
    streams: AtomicUsize,
    /// The times at which streams want to be woken although nothing happens.
    alarms: Alarms,
    /// 0 while streams may go on, else the [`End`] that all of them meet.
    ending: AtomicU8,
    /// The time up to which the journal is known, in milliseconds; kept while it is unavailable.
    as_of_ms: AtomicI64,
    /// True if the journal was available at the last tick.
    available: AtomicBool,
    /// Of [`Feed::run`].
    progress: Progress,
    figures: Arc<FeedFigures>,
    /// Hears of the streams of single purchases, once [`Feed::tell_watches`] was called.
    watches: OnceLock<TellWatches>,
}

/// A stream of a single purchase begins or ends.
#[derive(Debug, Clone, Copy)]
pub enum Watching<'a> {
    /// One more watches this purchase.
    Begins(&'a Purchase),
    /// One fewer watches this purchase.
    Ends(PurchaseId),
}

/// Hears of the streams of single purchases. Must not block.
pub type TellWatches = Box<dyn Fn(Watching<'_>) + Send + Sync>;

impl fmt::Debug for Feed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Feed").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// A feed of a journal's commits from now on. [`Feed::run`] drives its heartbeats.
    pub fn new(journal: Arc<dyn Journal>, clock: Clock) -> Self {
        let now_ms = clock.now().as_millis();
        let inner = Arc::new(Inner {
            ring: Mutex::new(Ring::after(journal.head())),
            journal: Arc::clone(&journal),
            clock,
            channels: Channels::default(),
            streams: AtomicUsize::new(0),
            followers: Followers::default(),
            alarms: Alarms::new(),
            ending: AtomicU8::new(0),
            as_of_ms: AtomicI64::new(now_ms),
            available: AtomicBool::new(true),
            progress: Progress::new("feed"),
            figures: Arc::default(),
            watches: OnceLock::new(),
        });
        let observer = Arc::downgrade(&inner);
        journal.observe(Arc::new(move |committed| {
            if let Some(inner) = observer.upgrade() {
                inner.heard(committed);
            }
        }));
        let observer = Arc::downgrade(&inner);
        journal.observe_in_order(Arc::new(move |committed| {
            if let Some(inner) = observer.upgrade() {
                inner.heard_in_order(committed);
            }
        }));
        Self(inner)
    }

    /// Wakes streams for heartbeats, and ends all when the journal stays away. Runs for ever.
    pub async fn run(&self) {
        let available = self.0.journal.available();
        let mut lost_since = None;
        loop {
            self.0.progress.round().await;
            tokio::time::sleep(alarms::SLOT).await;
            let is_available = *available.borrow();
            self.0.available.store(is_available, Ordering::Relaxed);
            if is_available {
                self.0
                    .as_of_ms
                    .store(self.0.known_until().as_millis(), Ordering::Relaxed);
                lost_since = None;
                let _ = self.0.end(Some(End::JournalLost), 0);
            } else {
                let since = *lost_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= WITHOUT_JOURNAL_MAX {
                    let _ = self.0.end(None, code(End::JournalLost));
                    self.0.wake_all();
                }
            }
            self.0.channels.forget(self.0.clock.moment());
            self.0.alarms.tick(Instant::now());
        }
    }

    /// Tells of the streams of single purchases that begin and end from now on. Only the first call has an
    /// effect.
    pub fn tell_watches(&self, tell: TellWatches) {
        let _ = self.0.watches.set(tell);
    }

    /// The figures of its streams.
    pub fn figures(&self) -> &FeedFigures {
        &self.0.figures
    }

    /// The progress of [`Feed::run`].
    pub fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// Ends every stream, now and from now on.
    pub fn drain(&self) {
        self.0.ending.store(code(End::Draining), Ordering::SeqCst);
        self.0.wake_all();
    }

    /// Lets every stream look around: a reason outside the feed may have ended it.
    pub fn wake_all(&self) {
        self.0.wake_all();
    }

    /// The reason why streams are being ended, if they are.
    pub fn ending(&self) -> Option<End> {
        self.0.ending()
    }

    /// The time up to which the journal is known.
    pub fn as_of(&self) -> Timestamp {
        let known = self.0.as_of_ms.load(Ordering::Relaxed);
        match self.0.available.load(Ordering::Relaxed) && *self.0.journal.available().borrow() {
            true => self.0.known_until(),
            false => Timestamp::from_millis(known).unwrap_or_default(),
        }
    }

    /// A stream of one purchase's transitions after `cursor`, or of a snapshot and the transitions
    /// after it, with the record that it begins from; `None` if there is no such purchase.
    pub async fn watch(
        &self,
        purchase: PurchaseId,
        cursor: Option<Revision>,
        until: Until,
        rhythm: Rhythm,
    ) -> Result<Option<(Record, Watch)>, JournalError> {
        Watch::open(&self.0, purchase, cursor, until, rhythm).await
    }

    /// A stream of the transitions of all purchases that a filter admits, after a position.
    pub fn watch_all(
        &self,
        filter: crate::journal::Filter,
        after: Position,
        rhythm: Rhythm,
    ) -> WatchAll {
        WatchAll::open(&self.0, filter, after, rhythm)
    }

    /// Waits until a purchase has a revision after `after`, until `deadline`, or until streams are
    /// ended ([`Feed::ending`]), whatever comes first. Returns true if it has such a revision.
    ///
    /// # Cancel safety
    /// Has no effect.
    pub async fn wait_past(
        &self,
        purchase: PurchaseId,
        after: Revision,
        deadline: Instant,
    ) -> Result<bool, JournalError> {
        let waited = wait::past(&self.0, purchase, after);
        match tokio::time::timeout_at(deadline, waited).await {
            Ok(result) => result,
            Err(_) => Ok(false),
        }
    }

    /// The number of open streams.
    pub fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }

    /// The number of streams that watch a purchase.
    pub fn watchers(&self, purchase: PurchaseId) -> usize {
        self.0.channels.watchers(purchase)
    }
}

/// The number of an [`End`] in an atomic.
fn code(end: End) -> u8 {
    match end {
        End::Draining => 1,
        End::Aged => 2,
        End::JournalLost => 3,
        End::Gone => 4,
    }
}

impl Inner {
    fn heard(&self, committed: &[Arc<Committed>]) {
        let at = Instant::now();
        for one in committed {
            self.channels.committed(one, at, &self.clock);
        }
    }

    fn heard_in_order(&self, committed: &[Arc<Committed>]) {
        lock(&self.ring).extend(committed, Instant::now());
        self.followers.committed(committed);
    }

    /// The time up to which a working journal is known.
    fn known_until(&self) -> Timestamp {
        self.clock.now().minus(self.journal.behind())
    }

    fn tell_watch(&self, watching: Watching<'_>) {
        if let Some(tell) = self.watches.get() {
            tell(watching);
        }
    }

    fn ending(&self) -> Option<End> {
        match self.ending.load(Ordering::SeqCst) {
            1 => Some(End::Draining),
            2 => Some(End::Aged),
            3 => Some(End::JournalLost),
            4 => Some(End::Gone),
            _ => None,
        }
    }

    /// Moves from one end to another: a drain is never taken back.
    fn end(&self, from: Option<End>, to: u8) -> Result<u8, u8> {
        let from = from.map_or(0, code);
        self.ending
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
    }

    fn wake_all(&self) {
        self.channels.wake_all();
        self.followers.wake_all();
    }
}

#[cfg(test)]
mod tests;
