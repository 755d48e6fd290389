//! The place of one process at a store in memory that others share: the way to the store, which can be
//! cut, and the news of the others, which come late and can be lost.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::Notify;

use super::{Silence, state::State};
use crate::{
    journal::{
        JournalError, Position,
        committer::Published,
        shared::{self, Log, Logged, Merge},
    },
    progress::Progress,
};

/// The chances on the way between one process and the store.
#[derive(Debug, Clone, Copy)]
pub struct Chances {
    /// The seed of everything that is drawn.
    pub seed: u64,
    /// The longest that a read of others' commits takes.
    pub delay_max: Duration,
    /// The longest time from one such read to the next, if no hint comes.
    pub read_every: Duration,
    /// Of a thousand hints that others have committed, the number that are lost.
    pub hints_lost: u32,
    /// Of a thousand commits, the number whose answers are lost. Their writers wait for the outcome.
    pub answers_lost: u32,
}

/// One process's place at the store.
pub(super) struct Seat {
    /// Told when another process has committed.
    hints: Notify,
    chances: Chances,
    random: Mutex<StdRng>,
    cut: Silence,
}

impl fmt::Debug for Seat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Seat")
            .field("chances", &self.chances)
            .finish_non_exhaustive()
    }
}

impl Seat {
    pub(super) fn new(chances: Chances) -> Self {
        Self {
            hints: Notify::new(),
            random: Mutex::new(StdRng::seed_from_u64(chances.seed)),
            chances,
            cut: Silence::default(),
        }
    }

    fn random(&self) -> MutexGuard<'_, StdRng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn happens(&self, of_thousand: u32) -> bool {
        self.random().random_range(0..1_000) < of_thousand
    }

    fn delay(&self) -> Duration {
        let most_us = u64::try_from(self.chances.delay_max.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random().random_range(0..=most_us))
    }

    /// Another process has committed.
    pub(super) fn hint(&self) {
        if !self.happens(self.chances.hints_lost) {
            self.hints.notify_one();
        }
    }

    /// Tells the observers of others' commits, for ever.
    pub(super) async fn follow(&self, log: &SharedLog<'_>, merge: &Merge, progress: &Progress) {
        let told = (merge, log.published);
        let news = (&self.hints, self.chances.read_every);
        shared::follow(log, told, news, progress).await;
    }

    pub(super) fn cut(&self, is_cut: bool) {
        self.cut.set(is_cut);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_on()
    }

    /// True if a call that is sent into a cut way arrives all the same, and only its answer is lost.
    pub(super) fn arrives(&self) -> bool {
        self.happens(500)
    }

    /// True if the answer to the next commit is lost on its way.
    pub(super) fn loses_answer(&self) -> bool {
        self.happens(self.chances.answers_lost) || self.is_cut()
    }

    /// Waits until the outcome of a commit whose answer was lost is found.
    pub(super) async fn outcome(&self, published: &Published) {
        let found = async {
            published.under_way.lose();
            tokio::time::sleep(self.delay() * 4).await;
            self.cut.ended().await;
        };
        let silent = || published.set_available(false);
        published.under_way.noticed(found, silent).await;
    }
}

/// The log of the store, as the process at a seat reads it.
pub(super) struct SharedLog<'process> {
    pub(super) state: &'process Mutex<State>,
    pub(super) seat: &'process Seat,
    pub(super) published: &'process Published,
    pub(super) fails_writes: &'process AtomicBool,
    pub(super) silence: &'process Silence,
}

impl Log for SharedLog<'_> {
    async fn read(&self, after: Position, limit: usize) -> Result<Logged, JournalError> {
        tokio::time::sleep(self.seat.delay()).await;
        if self.seat.is_cut() {
            self.published.set_available(false);
            return Err(JournalError::unavailable("the way to the store is cut"));
        }
        let logged = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.log(after, limit)
        };
        if !self.fails_writes.load(Ordering::SeqCst) && !self.silence.is_on() {
            self.published.set_available(true);
        }
        Ok(logged)
    }
}
