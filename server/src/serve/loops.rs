//! The long-lived loops of a house: each is a watched task, begun again and counted if a defect ends
//! it. Liveness hears of a loop that has ended for good, or stands still.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{health::Readiness, purchase::AccountName};

/// The time after a defect until the loop is begun again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest time that a loop may work without waiting for anything: then it counts as standing
/// still. A loop that waits, for a disk, a budget, a provider or a time, goes on.
const TURN_MAX: Duration = Duration::from_secs(10);
/// The interval of looks at the loops.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One watched loop.
#[derive(Debug)]
struct Watched {
    name: &'static str,
    /// The account that it works for, if it works for one.
    account: Option<AccountName>,
    restarts: AtomicU64,
    has_ended: AtomicBool,
    /// Its account is gone, so it may end.
    may_end: AtomicBool,
    /// The beginning of its turn on a thread; `None` while it waits. Each use of the lock is short.
    turn: Mutex<Option<Instant>>,
}

impl Watched {
    fn set_turn(&self, turn: Option<Instant>) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }

    fn is_well(&self) -> bool {
        let turn = *self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let stands = turn.is_some_and(|begun| begun.elapsed() >= TURN_MAX);
        let has_ended = self.has_ended.load(Ordering::Relaxed);
        !stands && (!has_ended || self.may_end.load(Ordering::Relaxed))
    }

    /// Runs the loop that `begin` makes, again after each defect, until it returns.
    async fn run<F: Future<Output = ()>>(self: Arc<Self>, begin: impl Fn() -> F) {
        loop {
            let turns = Measured {
                work: Box::pin(begin()),
                watched: &self,
            };
            let ended = AssertUnwindSafe(turns).catch_unwind().await;
            self.set_turn(None);
            if ended.is_ok() {
                self.has_ended.store(true, Ordering::Relaxed);
                return;
            }
            self.restarts.fetch_add(1, Ordering::Relaxed);
            let account = self.account.as_ref().map(tracing::field::display);
            tracing::error!(
                name = self.name,
                account,
                "a loop panicked and begins again"
            );
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// A loop whose turns are measured.
struct Measured<'watched, F> {
    work: Pin<Box<F>>,
    watched: &'watched Watched,
}

impl<F: Future<Output = ()>> Future for Measured<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.watched.set_turn(Some(Instant::now()));
        let polled = self.work.as_mut().poll(context);
        self.watched.set_turn(None);
        polled
    }
}

/// The loops of a house; they end when the last clone of this is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Loops {
    watched: All,
    tasks: Arc<Mutex<JoinSet<()>>>,
    draining: CancellationToken,
}

/// All loops that were begun. Clones show the same. Each use of the lock is short.
#[derive(Debug, Clone, Default)]
struct All(Arc<Mutex<Vec<Arc<Watched>>>>);

impl All {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The loops' restarts. Clones show the same.
#[derive(Debug, Clone)]
pub(super) struct Restarts(All);

impl Restarts {
    /// Each loop's name with the number of its restarts. Loops of several accounts share a name.
    pub(super) fn of_each(&self) -> Vec<(&'static str, u64)> {
        let loops = self.0.lock();
        let each = loops.iter();
        each.map(|one| (one.name, one.restarts.load(Ordering::Relaxed)))
            .collect()
    }
}

impl Loops {
    /// Begins a loop over a room that is shared.
    pub(super) fn begin<T, F>(
        &self,
        name: &'static str,
        room: T,
        run: impl Fn(T) -> F + Send + 'static,
    ) where
        T: Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.begin_of(name, None, room, run);
    }

    /// Begins a loop that works for one account, if one is named.
    pub(super) fn begin_of<T, F>(
        &self,
        name: &'static str,
        account: Option<AccountName>,
        room: T,
        run: impl Fn(T) -> F + Send + 'static,
    ) where
        T: Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let watched = Arc::new(Watched {
            name,
            account,
            restarts: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
            may_end: AtomicBool::new(false),
            turn: Mutex::default(),
        });
        self.watched.lock().push(Arc::clone(&watched));
        self.tasks().spawn(watched.run(move || run(room.clone())));
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loops of an account that is gone may end.
    pub(super) fn retire(&self, account: &AccountName) {
        for one in &*self.watched.lock() {
            if one.account.as_ref() == Some(account) {
                one.may_end.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Tells liveness of the loops' state, from now on until a drain, in which loops may end.
    pub(super) fn tell(&self, readiness: Readiness) {
        let (watched, draining) = (self.watched.clone(), self.draining.clone());
        self.tasks().spawn(async move {
            while !draining.is_cancelled() {
                let names: Vec<&str> = {
                    let loops = watched.lock();
                    let unwell = loops.iter().filter(|one| !one.is_well());
                    unwell.map(|one| one.name).collect()
                };
                if readiness.set_alive(names.is_empty()).await && !names.is_empty() {
                    tracing::error!(?names, "loops have ended or stand still");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }

    /// The restarts of the loops that were begun so far.
    pub(super) fn restarts(&self) -> Restarts {
        Restarts(self.watched.clone())
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
    use tillwatch_proto::health::{
        HealthCheckRequest, health_check_response::ServingStatus, health_server::Health as _,
    };

    use super::*;
    use crate::health::{self, LIVENESS};

    /// Liveness, a moment after the next look.
    async fn alive(service: &health::HealthService) -> bool {
        tokio::time::sleep(LOOK_EVERY + Duration::from_millis(10)).await;
        let request = HealthCheckRequest {
            service: LIVENESS.to_owned(),
        };
        let answer = service.check(tonic::Request::new(request)).await;
        answer.unwrap().into_inner().status() == ServingStatus::Serving
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_panics_is_begun_again_and_counted() {
        let (readiness, service) = health::health().await;
        let loops = Loops::default();
        let rounds = Arc::new(AtomicU64::new(0));
        loops.begin("fragile", Arc::clone(&rounds), |rounds| async move {
            let round = rounds.fetch_add(1, Ordering::Relaxed);
            assert!(round >= 3, "as told");
            std::future::pending().await
        });
        loops.tell(readiness);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(rounds.load(Ordering::Relaxed), 4);
        let told = loops.restarts().of_each();
        assert_eq!(told, [("fragile", 3)]);
        assert!(alive(&service).await, "it goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_has_ended_for_good_turns_liveness_and_a_drain_does_not() {
        for is_draining in [false, true] {
            let (readiness, service) = health::health().await;
            let loops = Loops::default();
            let end = CancellationToken::new();
            loops.begin("short", end.clone(), CancellationToken::cancelled_owned);
            loops.begin("waiting", (), |()| std::future::pending());
            loops.tell(readiness);
            assert!(alive(&service).await, "waiting is going on");
            if is_draining {
                loops.drain();
            }
            end.cancel();
            assert_eq!(alive(&service).await, is_draining);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_loop_that_works_without_waiting_stands_still() {
        let (give, given) = std::sync::mpsc::channel::<()>();
        let given = Mutex::new(given);
        let watched = Arc::new(Watched {
            name: "busy",
            account: None,
            restarts: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
            may_end: AtomicBool::new(false),
            turn: Mutex::default(),
        });
        let given = Arc::new(given);
        let task = tokio::spawn(Arc::clone(&watched).run(move || {
            let given = Arc::clone(&given);
            async move { given.lock().unwrap().recv().unwrap() }
        }));
        let begun = loop {
            let turn = *watched.turn.lock().unwrap();
            match turn {
                Some(begun) => break begun,
                None => tokio::task::yield_now().await,
            }
        };
        assert!(watched.is_well(), "not for so long yet");
        watched.set_turn(begun.checked_sub(TURN_MAX));
        assert!(!watched.is_well());
        give.send(()).unwrap();
        task.await.unwrap();
    }
}
