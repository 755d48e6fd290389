//! The embedded journal: one SQLite file, one writing connection, a few that read.
//!
//! A commit is fsynced (WAL, synchronous=FULL) before anyone hears of it; checkpoints run beside it
//! on a connection of their own.

mod batch;
mod change;
mod file;
mod read;
mod schema;
mod write;

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;
use rusqlite::Connection;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    clock::Clock,
    purchase::{
        AccountName, CallerName, Purchase, PurchaseId, Reference, Revision, Timestamp, Transition,
    },
};

use super::{
    Filter, Journal, JournalError, Observer, Position, Record, Write, Written,
    committer::{Committer, Published, Retirement},
};
use batch::{Asked, Batch};
use write::{Writer, unavailable};

/// Connections that read at a time: a read is short, and two cores do not use more.
const READERS_MAX: usize = 4;

/// The journal in one SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    epoch: String,
    committer: Committer,
    readers: Arc<Readers>,
    /// Records that are asked for, read together.
    records: Arc<Batch<PurchaseId, Option<Record>>>,
    /// As `records`, for transitions after a revision, at most so many.
    transitions: Arc<Batch<(PurchaseId, Revision, usize), Vec<Transition>>>,
    /// Owns the checkpointer, which is waited for by `close`.
    tasks: TaskTracker,
    /// Ends the checkpointer, at the latest when this is dropped.
    checkpoints: CancellationToken,
    _on_drop: DropGuard,
}

impl SqliteJournal {
    /// Opens the file, which is made where there is none, and starts the task that commits.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unusable`] where another process has it, its schema is newer or altered, it
    /// is damaged, is another program's, or cannot be written.
    pub async fn open(path: &Path, clock: &Clock) -> Result<Self, JournalError> {
        let shown = path.display().to_string();
        let (path, clock) = (path.to_owned(), clock.clone());
        let opened = tokio::task::spawn_blocking(move || file::open(&path, &clock)).await;
        let opened = opened
            .unwrap_or_else(|error| Err(JournalError::unusable(error)))
            .map_err(|error| named(&shown, error))?;

        let wanted = Arc::new(Notify::new());
        let checkpoints = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(checkpoint_when_wanted(
            opened.checkpointer,
            Arc::clone(&wanted),
            checkpoints.clone(),
        ));
        let published = Arc::new(Published::new(Position(opened.head)));
        let writer = Writer::new(opened.writer, opened.head, wanted, opened.lock);
        Ok(Self {
            epoch: opened.epoch,
            committer: Committer::start(writer, published),
            readers: Arc::new(Readers::new(opened.path)),
            records: Arc::default(),
            transitions: Arc::default(),
            tasks,
            _on_drop: checkpoints.clone().drop_guard(),
            checkpoints,
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        told(self.readers.read(read).await, self.committer.published())
    }

    /// Asks for one thing, and reads all that is asked for where nobody does.
    async fn read_together<K, T>(
        &self,
        batch: &Arc<Batch<K, T>>,
        key: K,
        read: fn(&Connection, &K) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError>
    where
        K: Clone + Eq + Hash + Send + 'static,
        T: Clone + Send + 'static,
    {
        let (answer, begins) = batch.ask(key);
        if begins {
            let (batch, readers) = (Arc::clone(batch), Arc::clone(&self.readers));
            let published = Arc::clone(self.committer.published());
            self.tasks.spawn(async move {
                while let Some(asked) = batch.take() {
                    let keys: Vec<K> = asked.keys().cloned().collect();
                    let found = readers.read(move |connection| {
                        let found = keys.into_iter().map(|key| {
                            let found = read(connection, &key)?;
                            Ok((key, found))
                        });
                        found.collect::<rusqlite::Result<HashMap<K, T>>>()
                    });
                    tell(asked, &told(found.await, &published));
                }
            });
        }
        answer
            .await
            .unwrap_or_else(|_| Err(JournalError::unavailable("it is closed")))
    }
}

/// Answers all who have asked.
fn tell<K: Eq + Hash, T: Clone>(asked: Asked<K, T>, found: &Result<HashMap<K, T>, JournalError>) {
    for (key, senders) in asked {
        let own = match found {
            Ok(found) => found.get(&key).cloned(),
            Err(_) => None,
        };
        for sender in senders {
            let answer = match (&own, found) {
                (Some(own), _) => Ok(own.clone()),
                (None, Err(error)) => Err(error.clone()),
                (None, Ok(_)) => Err(JournalError::unavailable("it was not read")),
            };
            // Whoever has stopped waiting needs no answer.
            drop(sender.send(answer));
        }
    }
}

/// What a read's failure means to the store and to the one who asked.
fn told<T>(answer: Result<T, ReadError>, published: &Published) -> Result<T, JournalError> {
    if let Err(ReadError::Failed(error)) = &answer {
        tracing::error!(%error, "a read of the journal failed");
        // A probe that commits turns it true again.
        published.set_available(false);
    }
    answer.map_err(|error| match error {
        ReadError::Failed(error) => error,
        ReadError::Closed => JournalError::unavailable("it is closed"),
    })
}

fn named(path: &str, error: JournalError) -> JournalError {
    match error {
        JournalError::Unusable(why) => JournalError::unusable(format_args!("{path}: {why}")),
        JournalError::Unavailable(why) => JournalError::unavailable(format_args!("{path}: {why}")),
    }
}

enum ReadError {
    Failed(JournalError),
    Closed,
}

/// The connections that read, opened as they are needed.
struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    /// Guarded: taken from and put back in a few nanoseconds, never used under the lock.
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Readers")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Readers {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            permits: Arc::new(Semaphore::new(READERS_MAX)),
            idle: Arc::default(),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| ReadError::Closed)?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let task = tokio::task::spawn_blocking(move || {
            let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.map_or_else(|| file::reader(&path), Ok)?;
            let answer = read(&connection);
            // One that has failed is not used again: its file may have been replaced.
            if answer.is_ok() {
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.push(connection);
            }
            // Held until here also where the reader has gone away.
            drop(permit);
            answer
        });
        match task.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(ReadError::Failed(unavailable(error))),
            Err(error) => Err(ReadError::Failed(JournalError::unavailable(error))),
        }
    }

    /// Waits for the reads under way, then closes.
    async fn close(&self) {
        let all = u32::try_from(READERS_MAX).unwrap_or(u32::MAX);
        let permits = self.permits.acquire_many(all).await;
        self.permits.close();
        drop(permits);
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(idle);
    }
}

/// Moves what is committed from the write-ahead log to the file, beside the commits.
async fn checkpoint_when_wanted(
    connection: Connection,
    wanted: Arc<Notify>,
    closing: CancellationToken,
) {
    let mut connection = Some(connection);
    while let Some(mut used) = connection.take() {
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = wanted.notified() => {}
        }
        let task = tokio::task::spawn_blocking(move || {
            file::checkpoint(&mut used);
            used
        });
        match task.await {
            Ok(used) => connection = Some(used),
            Err(error) => tracing::error!(%error, "checkpoints have ended"),
        }
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn write(&self, write: Write) -> Result<Written, JournalError> {
        self.committer.write(write).await
    }

    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError> {
        self.read_together(&self.records, purchase, |connection, id| {
            read::record(connection, *id)
        })
        .await
    }

    async fn record_by_key(
        &self,
        caller: &CallerName,
        key: &str,
    ) -> Result<Option<Record>, JournalError> {
        let (caller, key) = (caller.clone(), key.to_owned());
        self.read(move |connection| read::record_by_key(connection, caller.as_str(), &key))
            .await
    }

    async fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Result<Option<PurchaseId>, JournalError> {
        let (account, reference) = (account.clone(), reference.canonical());
        self.read(move |connection| {
            read::purchase_by_reference(connection, account.as_str(), &reference)
        })
        .await
    }

    async fn transitions(
        &self,
        purchase: PurchaseId,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Transition>, JournalError> {
        let asked = (purchase, after, limit);
        self.read_together(
            &self.transitions,
            asked,
            |connection, (purchase, after, limit)| {
                read::transitions(connection, *purchase, *after, *limit)
            },
        )
        .await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<(Timestamp, PurchaseId)>,
        limit: usize,
    ) -> Result<Vec<Purchase>, JournalError> {
        let filter = filter.clone();
        self.read(move |connection| read::list(connection, &filter, after, limit))
            .await
    }

    async fn tail(
        &self,
        caller: Option<&CallerName>,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<Arc<super::Committed>>, Position), JournalError> {
        // Taken before the read: what it admits is in the file already, and nothing beyond it is
        // shown before observers hear of it.
        let head = self.head();
        let caller = caller.cloned();
        self.read(move |connection| read::tail(connection, caller.as_ref(), after, head, limit))
            .await
    }

    async fn open_records(
        &self,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.read(move |connection| read::open_records(connection, after, limit))
            .await
    }

    async fn get(&self, key: &str) -> Result<Option<String>, JournalError> {
        let key = key.to_owned();
        self.read(move |connection| read::get(connection, &key))
            .await
    }

    async fn retire(
        &self,
        finals_before: Timestamp,
        remnants_before: Timestamp,
        limit: usize,
    ) -> Result<usize, JournalError> {
        let retirement = Retirement {
            finals_before,
            remnants_before,
            limit,
        };
        self.committer.retire(retirement).await
    }

    fn head(&self) -> Position {
        self.committer.published().head()
    }

    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.committer.published().available()
    }

    fn commits(&self) -> u64 {
        self.committer.published().commits()
    }

    fn commit_seconds(&self) -> Option<Histogram> {
        Some(self.committer.published().commit_seconds())
    }

    fn observe(&self, observer: Observer) {
        self.committer.published().observers.add(observer);
    }

    async fn close(&self) {
        // The last connection to go is the writer's, which can then truncate the log.
        self.checkpoints.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.readers.close().await;
        self.committer.close().await;
    }
}

/// How SQLite goes about a list, step by step.
#[cfg(test)]
pub(super) fn list_plan(
    connection: &Connection,
    filter: &Filter,
    after: Option<(Timestamp, PurchaseId)>,
) -> Vec<String> {
    let (sql, values) = read::list_query(filter, after, 10);
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let values = rusqlite::params_from_iter(values);
    let steps = statement.query_map(values, |row| row.get(3)).unwrap();
    steps.collect::<rusqlite::Result<_>>().unwrap()
}
