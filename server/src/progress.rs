//! The progress of long-lived loops. A loop can show it in one way, by going round, so that a thread
//! outside the runtime notices a loop that is dead, deadlocked, or busy without an end.
//!
//! A loop that has nothing to do is asked now and then, and goes round: idle is progress. So is a delay
//! that is no fault of the loop: it waits for a disk, a database, a budget, a provider or a time
//! [`across`](Progress::across) its progress, and shows there that the runtime still runs it. A loop
//! that nobody watches is never asked, so idle days of a simulation cost nothing.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

/// The progress of one loop. Clones are the same. A beat costs one atomic addition.
#[derive(Debug, Clone)]
pub struct Progress {
    name: &'static str,
    beats: Arc<AtomicU64>,
    asked: Arc<Notify>,
}

impl Progress {
    /// The progress of a loop with this name, which has not gone round yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            beats: Arc::default(),
            asked: Arc::default(),
        }
    }

    /// The loop's name in logs and metrics. Loops of several accounts share a name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The number of beats so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Asks the loop to go round, if it only waits.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// The loop goes round: called once in each of its rounds, and nowhere else.
    pub async fn round(&self) {
        crate::failpoint::stand_still(self.name).await;
        self.beat();
    }

    /// The loop has finished a part of a round that can have any number of parts.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the loop is asked to go round.
    ///
    /// # Cancel safety
    /// A question is not lost.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Waits for something outside the loop. The wait is progress, however long it takes.
    ///
    /// # Cancel safety
    /// That of `wait`.
    pub async fn across<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            tokio::select! {
                // The same seed is the same run.
                biased;
                output = &mut wait => return output,
                () = self.asked() => self.round().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_wait_across_is_progress_and_a_wait_that_is_over_at_once_is_none() {
        let progress = Progress::new("test");
        assert_eq!(
            progress.across(std::future::ready(7)).now_or_never(),
            Some(7)
        );
        assert_eq!(progress.beats(), 0);
        let mut wait = pin!(progress.across(std::future::pending::<()>()));
        for asked in 1..=5 {
            progress.ask();
            assert!((&mut wait).now_or_never().is_none());
            assert_eq!(progress.beats(), asked);
        }
        assert!((&mut wait).now_or_never().is_none());
        assert_eq!(progress.beats(), 5, "nobody has asked");
    }
}
