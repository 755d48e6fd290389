//! Groups the writes that have arrived into one commit, tells observers, then answers.
//!
//! Each journal has one such task. Calls that can block run in `spawn_blocking`, which holds tokio's
//! paused time still. Writes that arrive during a commit are the next group, so grouping costs no
//! waiting.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use prometheus_client::metrics::histogram::Histogram;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::{
    figures::{GROUP_BOUNDS, Seen, Spread},
    progress::Progress,
};

use super::{Committed, JournalError, Observer, Position, Retirement, Write, Written, age::Age};

/// The most writes of one commit: more would make each of them wait longer than they save.
const GROUP_MAX: usize = 512;
/// Writes that may wait; beyond that, writers wait before they are in the queue.
const QUEUE_MAX: usize = 4 * GROUP_MAX;
/// The time from a failed commit to the next attempt, if no write comes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which a commit may be under way before the disk counts as silent, and the journal as
/// away.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(5);

/// One part of a group.
#[derive(Debug)]
pub(super) enum Change {
    Write(Write),
    Retire(Retirement),
}

/// The outcome of one part.
#[derive(Debug)]
pub(super) enum CommitAnswer {
    Written(Written),
    /// The number of rows; `None` if another process keeps house.
    Retired(Option<usize>),
}

/// The outcome of a group that is committed.
#[derive(Debug)]
pub(super) struct Group {
    /// An answer for each part, in the group's order.
    pub(super) answers: Vec<Result<CommitAnswer, JournalError>>,
    /// The transitions, in commit order.
    pub(super) committed: Vec<Arc<Committed>>,
    /// The newest position.
    pub(super) head: Position,
    /// True if anything reached the disk; a group of refused writes proves nothing about it.
    pub(super) wrote: bool,
}

/// The store that the committer writes to. Its methods may block.
pub(super) trait Store: Send + 'static {
    /// Applies all parts in one transaction; an error means that none is done.
    fn commit(&mut self, changes: Vec<Change>) -> Result<Group, JournalError>;

    /// Commits something small of its own, to learn if the disk works again.
    fn probe(&mut self) -> Result<(), JournalError>;

    /// Closes the store; no other call follows.
    fn close(&mut self);
}

/// The observers of commits.
#[derive(Default)]
pub(super) struct Observers(Mutex<Vec<Observer>>);

impl fmt::Debug for Observers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observers")
    }
}

impl Observers {
    pub(super) fn add(&self, observer: Observer) {
        let mut observers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        observers.push(observer);
    }

    /// Tells all of them, outside the lock: an observer may add another.
    pub(super) fn tell(&self, committed: &[Arc<Committed>]) {
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
pub(super) struct UnderWay(Mutex<Option<Instant>>);

impl UnderWay {
    fn set(&self, begun: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = begun;
    }

    /// The time that it has taken so far; zero if none is under way.
    pub(super) fn lasts(&self) -> Duration {
        let begun = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// Does work that takes no time on a disk that works. If it takes long, calls `silent`.
    pub(super) async fn noticed<T>(
        &self,
        work: impl Future<Output = T>,
        silent: impl FnOnce(),
    ) -> T {
        self.set(Some(Instant::now()));
        let _ends = Ends(self);
        let mut work = std::pin::pin!(work);
        match tokio::time::timeout(SILENT_AFTER, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                silent();
                work.await
            }
        }
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
    pub(super) age: Arc<Age>,
    commits: AtomicU64,
    restarts: AtomicU64,
    commit_seconds: Histogram,
    /// The writes of each commit.
    group_sizes: Spread,
    available: watch::Sender<bool>,
    pub(super) under_way: UnderWay,
    pub(super) observers: Observers,
}

impl Published {
    pub(super) fn new(head: Position) -> Self {
        Self {
            head: Arc::new(AtomicU64::new(head.0)),
            age: Arc::default(),
            commits: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            commit_seconds: Histogram::new(COMMIT_BOUNDS),
            group_sizes: Spread::new(GROUP_BOUNDS),
            available: watch::Sender::new(true),
            under_way: UnderWay::default(),
            observers: Observers::default(),
        }
    }

    /// The value for another opening of the same store in memory.
    pub(super) fn reopened(&self) -> Self {
        Self {
            head: Arc::clone(&self.head),
            age: Arc::clone(&self.age),
            ..Self::new(Position(0))
        }
    }

    /// Publishes a commit that has worked. The head moves first: an observer that then reads on its own
    /// must find the transitions that it hears of.
    pub(super) fn committed(&self, head: Position) {
        self.head.store(head.0, Ordering::Release);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.set_available(true);
    }

    pub(super) fn head(&self) -> Position {
        Position(self.head.load(Ordering::Acquire))
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The number of times that the committing task was begun again after a defect.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    pub(super) fn commit_seconds(&self) -> Histogram {
        self.commit_seconds.clone()
    }

    pub(super) fn group_sizes(&self) -> Seen {
        self.group_sizes.seen()
    }

    pub(super) fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    /// Wakes the waiters only if the value changes. The caller that turns it false logs the reason; the
    /// return to true is logged here.
    pub(super) fn set_available(&self, available: bool) {
        let has_changed = self.available.send_if_modified(|was| {
            let changes = *was != available;
            *was = available;
            changes
        });
        if available && has_changed {
            tracing::info!("the journal works again");
        }
    }

    fn publish(&self, group: &Group) {
        if group.wrote {
            self.committed(group.head);
        } else {
            self.head.store(group.head.0, Ordering::Release);
        }
        self.observers.tell(&group.committed);
    }
}

#[derive(Debug)]
struct Job {
    change: Change,
    /// The span that it was written in.
    span: Span,
    answer: oneshot::Sender<Result<CommitAnswer, JournalError>>,
}

/// The way to the task that commits. Dropping it ends the task once the queue is empty.
#[derive(Debug)]
pub(super) struct Committer {
    queue: mpsc::Sender<Job>,
    published: Arc<Published>,
    progress: Progress,
    closing: CancellationToken,
    closed: CancellationToken,
    /// Held so that the task has an owner; it ends by `closing` or by the end of the queue.
    _task: JoinHandle<()>,
}

impl Committer {
    /// Starts the task on the current runtime.
    pub(super) fn start(store: impl Store, published: Arc<Published>) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let closing = CancellationToken::new();
        let closed = CancellationToken::new();
        let progress = Progress::new("journal");
        let worker = Worker {
            store: Arc::new(Mutex::new(store)),
            jobs,
            published: Arc::clone(&published),
            progress: progress.clone(),
            closing: closing.clone(),
        };
        let guard = closed.clone().drop_guard();
        let task = tokio::spawn(async move {
            worker.run().await;
            drop(guard);
        });
        Self {
            queue,
            published,
            progress,
            closing,
            closed,
            _task: task,
        }
    }

    pub(super) fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// The progress of the task.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Commits one write with others.
    pub(super) async fn write(&self, write: Write) -> Result<Written, JournalError> {
        match self.change(Change::Write(write)).await? {
            CommitAnswer::Written(written) => Ok(written),
            CommitAnswer::Retired(_) => Err(JournalError::unavailable("an answer of another kind")),
        }
    }

    /// Retires between two writes.
    pub(super) async fn retire(
        &self,
        retirement: Retirement,
    ) -> Result<Option<usize>, JournalError> {
        match self.change(Change::Retire(retirement)).await? {
            CommitAnswer::Retired(count) => Ok(count),
            CommitAnswer::Written(_) => Err(JournalError::unavailable("an answer of another kind")),
        }
    }

    async fn change(&self, change: Change) -> Result<CommitAnswer, JournalError> {
        let (answer, answered) = oneshot::channel();
        let span = Span::current();
        let job = Job {
            change,
            span,
            answer,
        };
        let sent = self.queue.send(job).await;
        sent.map_err(|_| JournalError::unavailable("it is closed"))?;
        (answered.await).unwrap_or_else(|_| Err(JournalError::unavailable("it was closed")))
    }

    /// Commits the changes that have arrived, then closes the store; all later changes fail.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
    }
}

struct Worker<S> {
    /// The store. Each use of the lock is one blocking call, and only this task makes them, one after
    /// another.
    store: Arc<Mutex<S>>,
    jobs: mpsc::Receiver<Job>,
    published: Arc<Published>,
    progress: Progress,
    closing: CancellationToken,
}

impl<S: Store> Worker<S> {
    async fn run(mut self) {
        // The writers of the interrupted group get an error. Nobody knows the fault, so the journal is
        // away until a commit or a probe has worked.
        while AssertUnwindSafe(self.serve()).catch_unwind().await.is_err() {
            self.published.restarts.fetch_add(1, Ordering::Relaxed);
            tracing::error!("the journal's loop panicked and begins again");
            self.published.set_available(false);
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
        let closed = blocking(self.store, |store| {
            store.close();
            Ok(())
        });
        closed.await.ok();
    }

    /// Commits all changes that come, until the queue is closed and empty.
    async fn serve(&mut self) {
        let mut health = self.published.available();
        loop {
            self.progress.round().await;
            let is_down = !*health.borrow_and_update();
            let is_closing = self.jobs.is_closed();
            tokio::select! {
                biased;
                () = self.closing.cancelled(), if !is_closing => self.jobs.close(),
                job = self.jobs.recv() => match job {
                    Some(first) => self.commit_with_others(first).await,
                    None => return,
                },
                () = tokio::time::sleep(PROBE_INTERVAL), if is_down => self.probe().await,
                // This cannot fail: this task holds the sender.
                _ = health.changed() => {}
                () = self.progress.asked() => {}
            }
        }
    }

    async fn commit_with_others(&mut self, first: Job) {
        // Gives a turn to writers that are about to write, such as those just answered.
        tokio::task::yield_now().await;
        let mut changes = vec![first.change];
        let mut waiters = vec![first.answer];
        let mut writers = vec![first.span];
        while changes.len() < GROUP_MAX {
            let Ok(job) = self.jobs.try_recv() else { break };
            changes.push(job.change);
            waiters.push(job.answer);
            writers.push(job.span);
        }
        let span = span(writers);
        let writes = u64::try_from(changes.len()).unwrap_or(u64::MAX);
        self.published.group_sizes.add(writes);
        let begun = Instant::now();
        let store = Arc::clone(&self.store);
        let work = blocking(store, move |store| store.commit(changes));
        let committed = self.noticed(work).instrument(span).await;
        let took = begun.elapsed().as_secs_f64();
        self.published.commit_seconds.observe(took);
        match committed {
            Ok(group) => {
                self.published.publish(&group);
                for (waiter, answer) in waiters.into_iter().zip(group.answers) {
                    // A writer that has gone away hears nothing; its write is durable all the same.
                    waiter.send(answer).ok();
                }
            }
            Err(error) => {
                self.failed(&error);
                for waiter in waiters {
                    waiter.send(Err(error.clone())).ok();
                }
            }
        }
    }

    async fn probe(&mut self) {
        let work = blocking(Arc::clone(&self.store), Store::probe);
        match self.noticed(work).await {
            Ok(()) => self.published.set_available(true),
            Err(error) => self.failed(&error),
        }
    }

    /// Waits for the disk. If the disk stays silent, the journal is away, and writers are told so
    /// instead of waiting as well.
    async fn noticed<T>(&mut self, work: impl Future<Output = T>) -> T {
        let published = &self.published;
        let turned = CancellationToken::new();
        let silent = || {
            tracing::error!(
                seconds = SILENT_AFTER.as_secs(),
                "a commit is under way and the disk does not answer"
            );
            published.set_available(false);
            turned.cancel();
        };
        let mut work = std::pin::pin!(published.under_way.noticed(work, silent));
        let jobs = &mut self.jobs;
        let waited = async {
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => return done,
                    Some(job) = next(jobs, &turned) => {
                        let error = JournalError::unavailable("the disk does not answer");
                        job.answer.send(Err(error)).ok();
                    }
                }
            }
        };
        self.progress.across(waited).await
    }

    fn failed(&self, error: &JournalError) {
        tracing::error!(%error, "a commit failed");
        self.published.set_available(false);
    }
}

/// The span of a commit, with links to those that it was written in.
fn span(writers: Vec<Span>) -> Span {
    let span = tracing::info_span!(parent: None, "commit", tillwatch.writes = writers.len());
    if !span.is_disabled() {
        for writer in writers {
            span.follows_from(&writer);
        }
    }
    span
}

/// The next job to refuse, once the disk is silent; `None` if no more come.
async fn next(jobs: &mut mpsc::Receiver<Job>, turned: &CancellationToken) -> Option<Job> {
    turned.cancelled().await;
    jobs.recv().await
}

async fn blocking<S: Store, T: Send + 'static>(
    store: Arc<Mutex<S>>,
    work: impl FnOnce(&mut S) -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    let task = tokio::task::spawn_blocking(move || {
        work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
    });
    (task.await).unwrap_or_else(|error| Err(JournalError::unavailable(error)))
}

#[cfg(test)]
mod tests;
