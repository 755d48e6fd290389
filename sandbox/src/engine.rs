//! What all providers share: the purchases, the clock that moves them, faults, record and counts.
//! It knows nothing about HTTP.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::book::{Book, Draft, Kept, Purchase};
use crate::fault::{Fault, Script};
use crate::ids::Ids;
use crate::life::LifeClock;
use crate::provider::Provider;
use crate::record::Record;
use crate::scenario::Scenario;
use crate::window::{Allowance, Windows};

/// The longest that nothing is looked at while nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// Reads that the throttled scenario refuses before it answers.
const THROTTLED_READS: u64 = 3;

/// A word to come; ordered by its time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    provider: Provider,
    epoch: u64,
    reference: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) script: Script,
    pub(crate) record: Record,
    clock: LifeClock,
    books: BTreeMap<Provider, Book>,
    windows: BTreeMap<Provider, Windows>,
    due: BinaryHeap<Reverse<Due>>,
    number: u64,
}

/// One sandbox without its sockets.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) options: Options,
    /// Ends everything that waits.
    pub(crate) stop: CancellationToken,
    /// One lock for all: a simulation is asked far less than it would take to notice.
    state: Mutex<State>,
    /// Wakes the driver when the next due word may have changed.
    rescheduled: Notify,
}

impl Engine {
    pub(crate) fn new(options: Options) -> Self {
        let state = State {
            script: Script::default(),
            record: Record::new(options.requests_max),
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
    pub(crate) fn open(&self, provider: Provider) -> Desk<'_> {
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
        state.clock.advance(by);
        state.settle();
        drop(state);
        self.rescheduled.notify_one();
    }

    /// Moves purchases when their time comes, until the sandbox stops.
    pub(crate) async fn drive(self: Arc<Self>) {
        loop {
            let wait = {
                let mut state = self.state();
                state.settle();
                state.next_due().unwrap_or(IDLE).min(IDLE)
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.rescheduled.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The trouble that the scenarios of the purchases in an answer make for it.
    pub(crate) fn trouble(
        &self,
        provider: Provider,
        created: Option<&str>,
        about: &[Arc<str>],
    ) -> Option<Fault> {
        let mut desk = self.open(provider);
        let seed = desk.engine.options.seed;
        if let Some(reference) = created {
            let lost = desk.find(reference)?.scenario == Scenario::Lost;
            return lost.then_some(Fault::Lost);
        }
        let book = desk.book_mut();
        about.iter().find_map(|reference| {
            let purchase = book.find_mut(reference)?;
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
        })
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

/// The wall clock, as exact as the providers write it.
pub(crate) fn wall_now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

impl State {
    fn settle(&mut self) {
        let life_now = self.clock.at(Instant::now());
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
                .is_some_and(|it| it.epoch == due.epoch)
            {
                book.step(&due.reference, life_now, wall_now());
                self.schedule(due.provider, &due.reference);
            }
        }
    }

    fn schedule(&mut self, provider: Provider, reference: &str) {
        let Some(purchase) = self.books.get(&provider).and_then(|it| it.find(reference)) else {
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

/// One provider's book while it is open; nothing else happens in the sandbox meanwhile.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    engine: &'a Engine,
    provider: Provider,
    state: MutexGuard<'a, State>,
}

impl Desk<'_> {
    pub(crate) fn find(&self, reference: &str) -> Option<&Purchase> {
        self.state.books.get(&self.provider)?.find(reference)
    }

    pub(crate) fn book_mut(&mut self) -> &mut Book {
        self.state.books.entry(self.provider).or_default()
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
        self.book_mut()
            .insert(draft, ids.number, purchases_max, life_now, wall_now());
        self.state.schedule(self.provider, &reference);
        self.engine.rescheduled.notify_one();
    }

    pub(crate) fn set(&mut self, reference: &str, word: &str) -> bool {
        self.book_mut().set(reference, word, wall_now())
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
        let windows = self.state.windows.entry(self.provider).or_default();
        Some(windows.count(key, limit, window, wall_now()))
    }
}
