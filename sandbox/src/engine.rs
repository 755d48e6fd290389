//! All that providers share: the purchases, the clock that moves them, faults, record and counts.
//! It knows nothing of HTTP's sockets, and it has no wall clock of its own.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Options,
    book::{Book, Draft, Kept, Purchase},
    exchange::{Answer, Told},
    fault::{Fault, Script},
    ids::Ids,
    life::LifeClock,
    record::Record,
    scenario::Scenario,
    window::{Allowance, Windows},
};

/// The longest that nothing is looked at while nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// Reads that the throttled scenario refuses before it answers.
const THROTTLED_READS: u64 = 3;

/// A word to come; ordered by its time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    provider: &'static str,
    epoch: u64,
    reference: Arc<str>,
}

/// A wall clock, read in whole milliseconds, as exact as the providers write it.
#[derive(Clone)]
pub struct Wall(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl fmt::Debug for Wall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Wall")
    }
}

impl Wall {
    /// The clock of this machine.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    /// A clock that is read by a function.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Timestamp {
        let now = (self.0)();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) script: Script,
    pub(crate) record: Record,
    wall: Wall,
    clock: LifeClock,
    books: BTreeMap<&'static str, Book>,
    windows: BTreeMap<&'static str, Windows>,
    due: BinaryHeap<Reverse<Due>>,
    number: u64,
}

/// All simulated providers without their sockets.
///
/// Lives go by tokio's clock, which a test can pause; the times in answers come from a [`Wall`].
#[derive(Debug)]
pub struct Engine {
    pub(crate) options: Options,
    /// Ends everything that waits.
    pub(crate) stop: CancellationToken,
    /// One lock for all: a simulation is asked far less than it would take to notice.
    state: Mutex<State>,
    /// Wakes the driver when the next due word may have changed.
    rescheduled: Notify,
}

impl Engine {
    /// Providers with nothing sold yet. Of the options, those of sockets have no effect.
    #[must_use]
    pub fn new(options: Options, wall: Wall) -> Self {
        let state = State {
            script: Script::default(),
            record: Record::new(options.requests_max),
            wall,
            clock: LifeClock::new(options.speed, Instant::now()),
            books: BTreeMap::new(),
            windows: BTreeMap::new(),
            due: BinaryHeap::new(),
            number: 0,
        };
        Self {
            options,
            stop: CancellationToken::new(),
            state: Mutex::new(state),
            rescheduled: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings every purchase up to date and opens one provider's book.
    pub(crate) fn open(&self, provider: &'static str) -> Desk<'_> {
        let mut state = self.state();
        state.settle();
        Desk {
            engine: self,
            provider,
            state,
        }
    }

    pub(crate) fn pause(&self, paused: bool) {
        let mut state = self.state();
        state.settle();
        state.clock.pause(Instant::now(), paused);
        drop(state);
        self.rescheduled.notify_one();
    }

    pub(crate) fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.clock.advance(Instant::now(), by);
        state.settle();
        drop(state);
        self.rescheduled.notify_one();
    }

    /// True if a credential is accepted.
    pub(crate) fn accepts(&self, credential: &str) -> bool {
        let known = &self.options.credentials;
        !credential.to_ascii_lowercase().contains("invalid")
            && (known.is_empty() || known.iter().any(|own| own == credential))
    }

    /// Answers the polls that are held open; none is held from now on.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Wakes the polls that are held open for a purchase when its time comes, until
    /// [`Engine::stop`].
    pub async fn drive(self: Arc<Self>) {
        loop {
            let wait = {
                let mut state = self.state();
                state.settle();
                state.next_due().unwrap_or(IDLE).min(IDLE)
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.rescheduled.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The trouble that the scenarios of the purchases in an answer make for it.
    pub(crate) fn trouble(&self, provider: &'static str, answer: &Answer) -> Option<Fault> {
        let mut desk = self.open(provider);
        let seed = desk.engine.options.seed;
        if let Some(reference) = &answer.created {
            let lost = desk.find(reference)?.scenario == Scenario::Lost;
            return lost.then_some(Fault::Lost);
        }
        let book = desk.book_mut();
        let told = |told: &Told| {
            let purchase = book.find_mut(&told.reference)?;
            purchase.reads += 1;
            let ids = Ids {
                seed,
                number: purchase.number,
            };
            match purchase.scenario {
                Scenario::Throttled => {
                    (purchase.reads <= THROTTLED_READS).then_some(Fault::Throttled(1))
                }
                Scenario::Flaky => flake(ids, purchase.reads),
                Scenario::Paid
                | Scenario::Declined
                | Scenario::Expired
                | Scenario::Underpaid
                | Scenario::Refunded
                | Scenario::Disputed
                | Scenario::Stuck
                | Scenario::Slow
                | Scenario::Unknown
                | Scenario::Lost
                | Scenario::Refused
                | Scenario::Held => None,
            }
        };
        answer.told.iter().find_map(told)
    }
}

/// The error on a read of a flaky purchase: about every other read, and never three in a row.
fn flake(ids: Ids, reads: u64) -> Option<Fault> {
    if reads.is_multiple_of(3) {
        return None;
    }
    match ids.mix(31, reads) % 6 {
        0 => Some(Fault::Error),
        1 => Some(Fault::Unavailable),
        2 => Some(Fault::Lost),
        3 => Some(Fault::NotJson),
        _ => None,
    }
}

impl State {
    /// Lets every purchase enter the words whose time has come, each at its own time.
    fn settle(&mut self) {
        let now = Instant::now();
        let life_now = self.clock.at(now);
        let wall_now = self.wall.now();
        while self
            .due
            .peek()
            .is_some_and(|Reverse(due)| due.at <= life_now)
        {
            let Some(Reverse(due)) = self.due.pop() else {
                return;
            };
            let book = self.books.entry(due.provider).or_default();
            if book
                .find(&due.reference)
                .is_some_and(|purchase| purchase.epoch == due.epoch)
            {
                let since = self.clock.since(due.at, now).as_millis();
                let since_ms = i64::try_from(since).unwrap_or(i64::MAX);
                let began_ms = wall_now.as_millisecond().saturating_sub(since_ms);
                let began = Timestamp::from_millisecond(began_ms).unwrap_or(wall_now);
                book.step(&due.reference, life_now, began);
                self.schedule(due.provider, &due.reference);
            }
        }
    }

    fn schedule(&mut self, provider: &'static str, reference: &str) {
        let book = self.books.get(provider);
        let Some(purchase) = book.and_then(|book| book.find(reference)) else {
            return;
        };
        if let Some(at) = purchase.due() {
            let reference = Arc::clone(&purchase.reference);
            self.due.push(Reverse(Due {
                at,
                provider,
                epoch: purchase.epoch,
                reference,
            }));
        }
    }

    fn next_due(&self) -> Option<Duration> {
        let Reverse(due) = self.due.peek()?;
        self.clock.until(due.at, Instant::now())
    }
}

/// One provider's book while it is open; nothing else happens at any provider meanwhile.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    engine: &'a Engine,
    provider: &'static str,
    state: MutexGuard<'a, State>,
}

impl Desk<'_> {
    pub(crate) fn find(&self, reference: &str) -> Option<&Purchase> {
        self.state.books.get(self.provider)?.find(reference)
    }

    pub(crate) fn book_mut(&mut self) -> &mut Book {
        self.state.books.entry(self.provider).or_default()
    }

    /// The time of the wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.state.wall.now()
    }

    /// The ids of the next purchase.
    pub(crate) fn next_ids(&mut self) -> Ids {
        self.state.number += 1;
        Ids {
            seed: self.engine.options.seed,
            number: self.state.number,
        }
    }

    /// Makes a purchase and starts its life.
    pub(crate) fn create(&mut self, ids: Ids, draft: Draft) {
        let reference = draft.reference.clone();
        let life_now = self.state.clock.at(Instant::now());
        let purchases_max = self.engine.options.purchases_max;
        let now = self.now();
        self.book_mut()
            .insert(draft, ids.number, purchases_max, life_now, now);
        self.state.schedule(self.provider, &reference);
        self.engine.rescheduled.notify_one();
    }

    pub(crate) fn set(&mut self, reference: &str, word: &str) -> bool {
        let now = self.now();
        self.book_mut().set(reference, word, now)
    }

    pub(crate) fn keep(&mut self, key: String, kept: Kept) {
        let kept_max = self.engine.options.purchases_max;
        self.book_mut().keep(key, kept, kept_max);
    }

    /// Counts a request of a key against a limit per window; a limit of 0 is none.
    pub(crate) fn count(&mut self, key: &str, limit: u32) -> Option<Allowance> {
        if limit == 0 {
            return None;
        }
        let window = self.engine.options.rate_window;
        let now = self.now();
        let windows = self.state.windows.entry(self.provider).or_default();
        Some(windows.count(key, limit, window, now))
    }
}
