//! The wall clock as the store remembers it: if it was set back while nobody looked, and the time up to
//! which retention may count.
//!
//! Retention takes things that cannot be had again, and a key that it takes can be used for a second
//! purchase. So it ages by a clock of its own, kept in the store, which a wrong wall clock moves slowly.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock::{Clock, Now},
    journal::{Journal, JournalError, Position, Write},
    purchase::{Moment, Timestamp},
};

/// The key under which the store keeps it.
const KEY: &str = "clock";
/// The most that retention's clock moves towards the wall clock at a start.
const MOVED_AT_START: Duration = Duration::from_secs(86_400);
/// The time for which processes must have run since the last such move.
const RUN_BEFORE_MOVE: Duration = Duration::from_secs(3_600);
/// The longest time between two writes of it to the store.
const KEPT_EVERY: Duration = Duration::from_secs(600);
/// A step of the wall clock that is kept at once.
const STEP: Duration = Duration::from_secs(60);

/// The clock's state in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeptClock {
    /// Retention's clock.
    aged: Timestamp,
    /// The time for which processes have run since it was moved at a start.
    run: Duration,
    /// The time by which the wall clock was ahead of the monotonic clock, in milliseconds.
    ahead_ms: i64,
    /// The run of the machine in which that was so.
    boot: Option<Arc<str>>,
}

impl KeptClock {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(Self {
            aged: Timestamp::from_millis_text(words.next()?).ok()?,
            run: Duration::from_millis(words.next()?.parse().ok()?),
            ahead_ms: words.next()?.parse().ok()?,
            boot: words.next().map(Arc::from),
        })
    }

    fn text(&self) -> String {
        let (aged, run) = (self.aged.as_millis(), self.run.as_millis());
        let text = format!("{aged} {run} {}", self.ahead_ms);
        match &self.boot {
            Some(boot) => format!("{text} {boot}"),
            None => text,
        }
    }

    /// Moves retention's clock towards the wall clock, by at most so much.
    fn moved(&mut self, wall: Timestamp, most: Duration) {
        self.aged = if self.aged <= wall {
            wall.min(self.aged.plus(most))
        } else {
            wall.max(self.aged.minus(most))
        };
    }
}

/// The wall clock and retention's clock of one store.
#[derive(Debug)]
pub(super) struct Wall {
    journal: Arc<dyn Journal>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: KeptClock,
    /// The time at which it was last moved.
    moved_at: Moment,
    /// The state in the store, and the time since which the store has it.
    stored: Option<KeptClock>,
    stored_at: Moment,
}

impl Wall {
    /// Takes up the state from the store, and tells the clock if it must have been set back.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(super) async fn open(
        journal: &Arc<dyn Journal>,
        clock: &Clock,
    ) -> Result<Self, JournalError> {
        let newest = newest_commit(journal.as_ref()).await?;
        if let Some(newest) = newest {
            clock.is_before(newest);
        }
        let Now { wall, moment } = clock.both();
        let stored = journal.get(KEY).await?;
        let stored = stored.as_deref().and_then(KeptClock::parse);
        let boot = clock.boot();
        let mut now = stored.clone().unwrap_or(KeptClock {
            // An earlier version kept no clock: begin no more than a day after its newest commit.
            aged: newest.map_or(wall, |newest| wall.min(newest.plus(MOVED_AT_START))),
            run: Duration::ZERO,
            ahead_ms: clock.both().ahead_ms(),
            boot: boot.clone(),
        });
        if now.boot.is_some() && now.boot == boot {
            clock.was_ahead(now.ahead_ms);
        }
        if now.run >= RUN_BEFORE_MOVE {
            now.moved(wall, MOVED_AT_START);
            now.run = Duration::ZERO;
        }
        now.boot = boot;
        journal.age(now.aged);
        clock.ages_by(now.aged);
        let state = State {
            now,
            moved_at: moment,
            stored,
            stored_at: moment,
        };
        Ok(Self {
            journal: Arc::clone(journal),
            clock: clock.clone(),
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that retention counts to: it moves towards the wall clock by at most twice the time
    /// that has passed.
    pub(super) fn aged(&self) -> Timestamp {
        let now = self.clock.both();
        let mut state = self.lock();
        let passed = now.moment.since(state.moved_at);
        state.moved_at = now.moment;
        state.now.run += passed;
        state.now.moved(now.wall, passed * 2);
        state.now.ahead_ms = now.ahead_ms();
        self.journal.age(state.now.aged);
        self.clock.ages_by(state.now.aged);
        state.now.aged
    }

    /// Writes the state to the store, if that is due. Called after everything has been done about a
    /// clock that was set back: the next process does not see that again.
    pub(super) async fn keep(&self) {
        self.aged();
        let now = self.clock.moment();
        let kept = {
            let state = self.lock();
            let is_due = state.stored.as_ref().is_none_or(|stored| {
                let step = stored.ahead_ms.abs_diff(state.now.ahead_ms);
                stored.boot != state.now.boot
                    || u128::from(step) > STEP.as_millis()
                    || now.since(state.stored_at) >= KEPT_EVERY
            });
            is_due.then(|| state.now.clone())
        };
        let Some(kept) = kept else { return };
        let put = Write::Put {
            key: KEY.to_owned(),
            fence: None,
            value: kept.text(),
        };
        if self.journal.write(put).await.is_ok() {
            let mut state = self.lock();
            (state.stored, state.stored_at) = (Some(kept), now);
        }
    }
}

/// The time of the newest transition in the journal.
async fn newest_commit(journal: &dyn Journal) -> Result<Option<Timestamp>, JournalError> {
    let before = Position(journal.head().0.saturating_sub(1));
    let (newest, _) = journal.tail(None, before, 1).await?;
    Ok(newest.last().map(|one| one.purchase.status.observe_time))
}
