//! Groups the writes that have arrived into one commit, tells observers, then answers.
//!
//! Each journal has one such task. Writes that arrive during a commit are the next group, so grouping
//! costs no waiting.

mod blocking;
mod published;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::progress::Progress;

use super::{Committed, JournalError, Position, Retirement, Write, Written};
pub(super) use blocking::{BlockingStore, Blocks};
pub use published::Published;
pub(super) use published::{Hears, Observers};

/// The most writes of one commit: more would make each of them wait longer than they save.
const GROUP_MAX: usize = 512;
/// Writes that may wait; beyond that, writers wait before they are in the queue.
const QUEUE_MAX: usize = 4 * GROUP_MAX;
/// The time from a failed commit to the next attempt, if no write comes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which a commit may be under way before the store counts as silent, and the journal as
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

/// The outcome of a group that is committed, at least in part.
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
    /// The failure of the store that kept the rest from being done, if the store commits a group in
    /// several transactions and one of them failed.
    pub(super) failed: Option<JournalError>,
}

/// The store that the committer writes to.
pub(super) trait Store: Send + 'static {
    /// Applies the parts, each whole; an error means that none is done.
    fn commit(
        &mut self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<Group, JournalError>> + Send;

    /// Commits something small of its own, to learn if the store works again.
    fn probe(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send;

    /// Closes the store; no other call follows.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
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
            store,
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
    store: S,
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
        self.store.close().await;
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
        let work = self.store.commit(changes);
        let committed = noticed(work, &mut self.jobs, &self.published, &self.progress);
        let committed = committed.instrument(span).await;
        let took = begun.elapsed().as_secs_f64();
        self.published.commit_seconds.observe(took);
        match committed {
            Ok(group) => {
                let Group { head, wrote, .. } = group;
                self.published.publish(head, &group.committed, wrote);
                if let Some(error) = &group.failed {
                    self.failed(error);
                }
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
        let work = self.store.probe();
        let probed = noticed(work, &mut self.jobs, &self.published, &self.progress);
        match probed.await {
            Ok(()) => self.published.set_available(true),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &JournalError) {
        tracing::error!(%error, "a commit failed");
        self.published.set_available(false);
    }
}

/// Waits for the store. If the store stays silent, the journal is away, and writers are told so instead
/// of waiting as well.
async fn noticed<T>(
    work: impl Future<Output = T>,
    jobs: &mut mpsc::Receiver<Job>,
    published: &Published,
    progress: &Progress,
) -> T {
    let turned = CancellationToken::new();
    let silent = || {
        tracing::error!(
            seconds = published.under_way.lasts().as_secs(),
            "a commit is under way and the store does not answer"
        );
        published.set_available(false);
        turned.cancel();
    };
    let mut work = std::pin::pin!(published.under_way.noticed(work, silent));
    let waited = async {
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(job) = next(jobs, &turned) => {
                    let error = JournalError::unavailable("the store does not answer");
                    job.answer.send(Err(error)).ok();
                }
            }
        }
    };
    progress.across(waited).await
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

/// The next job to refuse, once the store is silent; `None` if no more come.
async fn next(jobs: &mut mpsc::Receiver<Job>, turned: &CancellationToken) -> Option<Job> {
    turned.cancelled().await;
    jobs.recv().await
}

#[cfg(test)]
mod tests;
