//! The long-lived loops of a house: each is a task, begun again and counted if a defect ends it.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::watch::{Watch, Watched};
use crate::{progress::Progress, purchase::AccountName};

/// The time after a defect until the loop is begun again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One loop's restarts and its end.
#[derive(Debug, Default)]
pub(super) struct Course {
    restarts: AtomicU64,
    has_ended: AtomicBool,
    /// Cancelled once it may end; `None` for a loop that never may.
    leave: Option<CancellationToken>,
}

impl Course {
    /// The course of a loop that may end once `leave` is cancelled.
    pub(super) fn with_leave(leave: Option<CancellationToken>) -> Self {
        Self {
            leave,
            ..Self::default()
        }
    }

    /// True if the loop is over for good, and should not be.
    pub(super) fn has_failed(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed) && !self.may_end()
    }

    /// True if the loop may end: nobody needs its work any more.
    pub(super) fn may_end(&self) -> bool {
        let leave = self.leave.as_ref();
        leave.is_some_and(CancellationToken::is_cancelled)
    }

    /// True if the loop is over, as it may be.
    fn is_over(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed) && self.may_end()
    }

    /// The number of times that the loop was begun again after a defect.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Runs the loop that `begin` makes, again after each defect, until it returns.
    async fn run<F: Future<Output = ()>>(&self, watched: &Watched, begin: impl Fn() -> F) {
        while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
            self.restarts.fetch_add(1, Ordering::Relaxed);
            let account = watched.account().map(tracing::field::display);
            let name = watched.name();
            tracing::error!(name, account, "a loop panicked and begins again");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        self.has_ended.store(true, Ordering::Relaxed);
    }
}

/// The loops of a house; they end when the last clone of this is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Loops {
    all: All,
    tasks: Arc<Mutex<JoinSet<()>>>,
    draining: CancellationToken,
}

/// The loops of a house, as one of them knows them: it must not keep the others, and itself, alive.
#[derive(Debug, Clone)]
pub(super) struct FromWithin {
    all: All,
    tasks: Weak<Mutex<JoinSet<()>>>,
    draining: CancellationToken,
}

impl FromWithin {
    /// The loops, if the house is still there.
    pub(super) fn loops(&self) -> Option<Loops> {
        Some(Loops {
            all: self.all.clone(),
            tasks: self.tasks.upgrade()?,
            draining: self.draining.clone(),
        })
    }
}

/// The loops that were begun, without those that are over as they may be. Clones show the same. Each use
/// of the lock is short.
#[derive(Debug, Clone, Default)]
pub(super) struct All(Arc<Mutex<Vec<Arc<Watched>>>>);

impl All {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more. Those that are over make room.
    fn begin(&self, watched: &Arc<Watched>) {
        let mut all = self.lock();
        all.retain(|one| !one.course().is_over());
        all.push(Arc::clone(watched));
    }

    /// Each of them.
    pub(super) fn each(&self) -> Vec<Arc<Watched>> {
        self.lock().clone()
    }
}

impl Loops {
    /// The same, for one of the loops.
    pub(super) fn within(&self) -> FromWithin {
        FromWithin {
            all: self.all.clone(),
            tasks: Arc::downgrade(&self.tasks),
            draining: self.draining.clone(),
        }
    }

    /// Begins a loop over a room that is shared.
    pub(super) fn begin<T, F>(
        &self,
        progress: &Progress,
        room: T,
        run: impl Fn(T) -> F + Send + 'static,
    ) where
        T: Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.begin_of(progress, None, room, run);
    }

    /// Begins a loop that works for one account, if one is named, and that may end once the account's
    /// token is cancelled.
    pub(super) fn begin_of<T, F>(
        &self,
        progress: &Progress,
        account: Option<(AccountName, CancellationToken)>,
        room: T,
        run: impl Fn(T) -> F + Send + 'static,
    ) where
        T: Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let watched = Arc::new(Watched::new(progress.clone(), account));
        self.all.begin(&watched);
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let course = watched.course();
            course.run(&watched, move || run(room.clone())).await;
        });
    }

    /// Watches a loop that its own room begins, and begins again.
    pub(super) fn adopt(&self, progress: &Progress) {
        let watched = Watched::new(progress.clone(), None);
        self.all.begin(&Arc::new(watched));
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loops, also those that are begun later.
    pub(super) fn all(&self) -> &All {
        &self.all
    }

    /// A look at the loops.
    pub(super) fn watch(&self) -> Watch {
        Watch::new(self.all.clone(), self.draining.clone())
    }

    /// Loops may end from now on.
    pub(super) fn drain(&self) {
        self.draining.cancel();
    }

    /// Ends the loops that are left.
    pub(super) async fn shutdown(&self) {
        self.draining.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purchase::Moment;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_begun_again_and_counted() {
        let loops = Loops::default();
        let rounds = Arc::new(AtomicU64::new(0));
        let progress = Progress::new("fragile");
        loops.begin(&progress, Arc::clone(&rounds), |rounds| async move {
            let round = rounds.fetch_add(1, Ordering::Relaxed);
            assert!(round >= 3, "as told");
            std::future::pending().await
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(rounds.load(Ordering::Relaxed), 4);
        let all = loops.all().each();
        let told = all[0].course();
        assert_eq!((told.restarts(), told.has_failed()), (3, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_has_ended_for_good_turns_liveness_and_a_drain_does_not() {
        for is_draining in [false, true] {
            let loops = Loops::default();
            let end = CancellationToken::new();
            let progress = Progress::new("short");
            loops.begin(&progress, end.clone(), CancellationToken::cancelled_owned);
            let mut watch = loops.watch();
            assert!(watch.look(Moment::from_millis(0)), "it goes on");
            if is_draining {
                loops.drain();
            }
            end.cancel();
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(watch.look(Moment::from_millis(1_000)), is_draining);
        }
    }
}
