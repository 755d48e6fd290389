//! Groups the writes that have arrived into one commit, tells observers, then answers.
//!
//! One task per journal; where the store blocks it runs in `spawn_blocking`, which holds tokio's
//! paused time still. What arrives during a commit is the next group, so grouping costs no waiting.

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
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::purchase::Timestamp;

use super::{Committed, JournalError, Observer, Position, Write, Written};

/// The most writes of one commit: more would make each of them wait longer than they save.
const GROUP_MAX: usize = 512;
/// Writes that may wait; beyond that, writers wait before they are in the queue.
const QUEUE_MAX: usize = 4 * GROUP_MAX;
/// How long after a failed commit the next attempt is made where no write comes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// What retention takes away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retirement {
    pub(super) finals_before: Timestamp,
    pub(super) remnants_before: Timestamp,
    pub(super) limit: usize,
}

/// One part of a group.
#[derive(Debug)]
pub(super) enum Change {
    Write(Write),
    Retire(Retirement),
}

/// What became of one part.
#[derive(Debug)]
pub(super) enum Answer {
    Written(Written),
    Retired(usize),
}

/// What became of a group that is committed.
#[derive(Debug)]
pub(super) struct Group {
    /// One per part, in the group's order.
    pub(super) answers: Vec<Result<Answer, JournalError>>,
    /// The transitions, in commit order.
    pub(super) committed: Vec<Arc<Committed>>,
    /// The newest position.
    pub(super) head: Position,
    /// Whether anything reached the disk; a group of refused writes proves nothing about it.
    pub(super) wrote: bool,
}

/// What the committer writes to. Its methods may block.
pub(super) trait Store: Send + 'static {
    /// Applies all parts in one transaction; an error means that none is done.
    fn commit(&mut self, changes: Vec<Change>) -> Result<Group, JournalError>;

    /// Commits something small of its own.
    fn probe(&mut self) -> Result<(), JournalError>;

    /// The last call.
    fn close(&mut self);
}

/// Those who hear of commits.
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

    /// Tells all of them. Not under the lock: an observer may add another.
    pub(super) fn tell(&self, committed: &[Arc<Committed>]) {
        if committed.is_empty() {
            return;
        }
        let observers = (self.0.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for observer in observers {
            // The transitions are durable: their writers must be answered whatever an observer does.
            if catch_unwind(AssertUnwindSafe(|| observer(committed))).is_err() {
                tracing::error!("an observer of the journal panicked");
            }
        }
    }
}

/// Upper bounds of how long a commit took, in seconds.
const COMMIT_BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// What readers of a journal see of its commits.
#[derive(Debug)]
pub(super) struct Published {
    head: AtomicU64,
    commits: AtomicU64,
    commit_seconds: Histogram,
    available: watch::Sender<bool>,
    pub(super) observers: Observers,
}

impl Published {
    pub(super) fn new(head: Position) -> Self {
        Self {
            head: AtomicU64::new(head.0),
            commits: AtomicU64::new(0),
            commit_seconds: Histogram::new(COMMIT_BOUNDS),
            available: watch::Sender::new(true),
            observers: Observers::default(),
        }
    }

    pub(super) fn head(&self) -> Position {
        Position(self.head.load(Ordering::Acquire))
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(super) fn commit_seconds(&self) -> Histogram {
        self.commit_seconds.clone()
    }

    pub(super) fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    /// Wakes those who wait only where the value changes.
    pub(super) fn set_available(&self, available: bool) {
        self.available.send_if_modified(|was| {
            let changes = *was != available;
            *was = available;
            changes
        });
    }

    fn publish(&self, group: &Group) {
        // An observer that reads on its own must find what it is told of: the head moves first.
        self.head.store(group.head.0, Ordering::Release);
        if group.wrote {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.set_available(true);
        }
        self.observers.tell(&group.committed);
    }
}

#[derive(Debug)]
struct Job {
    change: Change,
    answer: oneshot::Sender<Result<Answer, JournalError>>,
}

/// The way to the task that commits. Dropping it ends the task once the queue is empty.
#[derive(Debug)]
pub(super) struct Committer {
    queue: mpsc::Sender<Job>,
    published: Arc<Published>,
    closing: CancellationToken,
    closed: CancellationToken,
    /// Owned here; it ends by `closing` or by the end of the queue.
    _task: JoinHandle<()>,
}

impl Committer {
    /// Starts the task on the current runtime.
    pub(super) fn start(store: impl Store, published: Arc<Published>) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let closing = CancellationToken::new();
        let closed = CancellationToken::new();
        let worker = Worker {
            store: Arc::new(Mutex::new(store)),
            jobs,
            published: Arc::clone(&published),
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
            closing,
            closed,
            _task: task,
        }
    }

    pub(super) fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Commits one write with others.
    pub(super) async fn write(&self, write: Write) -> Result<Written, JournalError> {
        match self.change(Change::Write(write)).await? {
            Answer::Written(written) => Ok(written),
            Answer::Retired(_) => Err(JournalError::unavailable("an answer of another kind")),
        }
    }

    /// Retires between two writes.
    pub(super) async fn retire(&self, retirement: Retirement) -> Result<usize, JournalError> {
        match self.change(Change::Retire(retirement)).await? {
            Answer::Retired(count) => Ok(count),
            Answer::Written(_) => Err(JournalError::unavailable("an answer of another kind")),
        }
    }

    async fn change(&self, change: Change) -> Result<Answer, JournalError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Job { change, answer }).await;
        sent.map_err(|_| JournalError::unavailable("it is closed"))?;
        (answered.await).unwrap_or_else(|_| Err(JournalError::unavailable("it was closed")))
    }

    /// Commits what has arrived, then closes the store; all later changes fail.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
    }
}

struct Worker<S> {
    /// Guarded: each use is one blocking call, and only this task makes them, one after another.
    store: Arc<Mutex<S>>,
    jobs: mpsc::Receiver<Job>,
    published: Arc<Published>,
    closing: CancellationToken,
}

impl<S: Store> Worker<S> {
    async fn run(mut self) {
        let mut health = self.published.available();
        loop {
            let is_down = !*health.borrow_and_update();
            let is_closing = self.jobs.is_closed();
            tokio::select! {
                biased;
                () = self.closing.cancelled(), if !is_closing => self.jobs.close(),
                job = self.jobs.recv() => match job {
                    Some(first) => self.commit_with_others(first).await,
                    None => break,
                },
                () = tokio::time::sleep(PROBE_INTERVAL), if is_down => self.probe().await,
                // Nothing follows from the error: the sender is held by this task.
                _ = health.changed() => {}
            }
        }
        let closed = self.blocking(|store| {
            store.close();
            Ok(())
        });
        closed.await.ok();
    }

    async fn commit_with_others(&mut self, first: Job) {
        // One turn for the writers that are about to write, such as those just answered.
        tokio::task::yield_now().await;
        let mut changes = vec![first.change];
        let mut waiters = vec![first.answer];
        while changes.len() < GROUP_MAX {
            let Ok(job) = self.jobs.try_recv() else { break };
            changes.push(job.change);
            waiters.push(job.answer);
        }
        let begun = Instant::now();
        let committed = self.blocking(move |store| store.commit(changes)).await;
        let took = begun.elapsed().as_secs_f64();
        self.published.commit_seconds.observe(took);
        match committed {
            Ok(group) => {
                self.published.publish(&group);
                for (waiter, answer) in waiters.into_iter().zip(group.answers) {
                    // A writer that has gone away is not told; its write is durable all the same.
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

    async fn probe(&self) {
        match self.blocking(Store::probe).await {
            Ok(()) => {
                tracing::info!("the journal works again");
                self.published.set_available(true);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &JournalError) {
        tracing::error!(%error, "a commit failed");
        self.published.set_available(false);
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let store = Arc::clone(&self.store);
        let task = tokio::task::spawn_blocking(move || {
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        (task.await).unwrap_or_else(|error| Err(JournalError::unavailable(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;

    use tokio::time::Instant;

    use super::*;

    /// A store that waits for a sign before each commit and tells how large the group was.
    struct Slow {
        go: blocking::Receiver<Act>,
        sizes: mpsc::UnboundedSender<usize>,
    }

    enum Act {
        Succeed,
        Fail,
        Panic,
    }

    impl Store for Slow {
        fn commit(&mut self, changes: Vec<Change>) -> Result<Group, JournalError> {
            self.sizes.send(changes.len()).unwrap();
            match self.go.recv().unwrap() {
                Act::Succeed => Ok(Group {
                    answers: (changes.iter())
                        .map(|_| Ok(Answer::Written(Written::Done)))
                        .collect(),
                    committed: Vec::new(),
                    head: Position(0),
                    wrote: true,
                }),
                Act::Fail => Err(JournalError::unavailable("as told")),
                Act::Panic => panic!("as told"),
            }
        }

        fn probe(&mut self) -> Result<(), JournalError> {
            self.sizes.send(0).unwrap();
            match self.go.recv().unwrap() {
                Act::Succeed => Ok(()),
                Act::Fail | Act::Panic => Err(JournalError::unavailable("as told")),
            }
        }

        fn close(&mut self) {}
    }

    struct Bench {
        committer: Arc<Committer>,
        go: blocking::Sender<Act>,
        sizes: mpsc::UnboundedReceiver<usize>,
    }

    fn bench() -> Bench {
        let (go, told) = blocking::channel();
        let (tell, sizes) = mpsc::unbounded_channel();
        let store = Slow {
            go: told,
            sizes: tell,
        };
        let published = Arc::new(Published::new(Position(0)));
        Bench {
            committer: Arc::new(Committer::start(store, published)),
            go,
            sizes,
        }
    }

    impl Bench {
        /// More signs than a test can use: a store that waits for one would hold up its end.
        fn let_all_succeed(&self) {
            for _ in 0..10_000 {
                self.go.send(Act::Succeed).unwrap();
            }
        }

        /// Starts so many writes and lets them get as far as they can.
        async fn write(&self, count: usize) -> Vec<JoinHandle<Result<Written, JournalError>>> {
            let put = || Write::Put {
                key: String::new(),
                value: String::new(),
            };
            let writers: Vec<_> = (0..count)
                .map(|_| {
                    let committer = Arc::clone(&self.committer);
                    tokio::spawn(async move { committer.write(put()).await })
                })
                .collect();
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            writers
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrives_during_a_commit_is_the_next_group() {
        let mut bench = bench();
        let first = bench.write(1).await;
        assert_eq!(bench.sizes.recv().await, Some(1), "no wait when idle");
        let others = bench.write(600).await;
        bench.let_all_succeed();
        assert_eq!(bench.sizes.recv().await, Some(512));
        assert_eq!(bench.sizes.recv().await, Some(88));
        for writer in first.into_iter().chain(others) {
            assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
        }
        assert_eq!(bench.committer.published().commits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded() {
        let mut bench = bench();
        let first = bench.write(1).await;
        assert_eq!(bench.sizes.recv().await, Some(1));
        let others = bench.write(QUEUE_MAX + 300).await;
        let free = bench.committer.queue.capacity();
        bench.let_all_succeed();
        assert_eq!(free, 0, "300 wait outside");
        for writer in first.into_iter().chain(others) {
            assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_commit_is_followed_by_a_probe_each_second() {
        let mut bench = bench();
        let mut available = bench.committer.published().available();
        let start = Instant::now();
        for act in [Act::Fail, Act::Fail, Act::Fail, Act::Succeed] {
            bench.go.send(act).unwrap();
        }
        let writers = bench.write(3).await;
        for writer in writers {
            let error = writer.await.unwrap().unwrap_err();
            assert!(!*available.borrow(), "{error}");
        }
        available.wait_for(|available| *available).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 3);
        let mut sizes = Vec::new();
        while let Ok(size) = bench.sizes.try_recv() {
            sizes.push(size);
        }
        assert_eq!(sizes, [3, 0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_succeeds_ends_the_fault_before_the_probe() {
        let bench = bench();
        let start = Instant::now();
        for act in [Act::Panic, Act::Succeed] {
            bench.go.send(act).unwrap();
        }
        for (is_ok, available) in [(false, false), (true, true)] {
            for writer in bench.write(2).await {
                assert_eq!(writer.await.unwrap().is_ok(), is_ok);
            }
            assert_eq!(*bench.committer.published().available().borrow(), available);
        }
        assert!(start.elapsed() < PROBE_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn close_commits_what_has_arrived() {
        let mut bench = bench();
        let first = bench.write(1).await;
        assert_eq!(bench.sizes.recv().await, Some(1));
        let others = bench.write(10).await;
        bench.let_all_succeed();
        bench.committer.close().await;
        for writer in first.into_iter().chain(others) {
            assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
        }
        for writer in bench.write(1).await {
            assert!(writer.await.unwrap().is_err());
        }
    }
}
