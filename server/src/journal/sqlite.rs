//! The embedded journal: one SQLite file, one writing connection, a few reading ones.
//!
//! A commit is fsynced (WAL, synchronous=FULL) before anyone hears of it. Checkpoints run beside the
//! commits, on a connection of their own.

mod backup;
mod change;
mod checkpoint;
mod damage;
mod file;
mod list;
mod moving;
mod read;
mod readers;
mod schema;
mod write;

use std::{
    hash::Hash,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::Notify;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    clock::Clock,
    progress::Progress,
    purchase::{AccountName, CallerName, PurchaseId, Reference, Revision, Transition},
};

use super::{
    Figures, Filter, Journal, JournalError, Listed, Place, Position, Record, Retirement, Write,
    Written,
    committer::{Blocks, Committer, Published},
    damage::Damage,
    questions::{Found, Questions},
};
pub use backup::back_up;
use checkpoint::Log;
pub(crate) use moving::MovingFile;
use readers::{ReadError, Readers};
use write::{Writer, unavailable};

/// Reads of single purchases at a time: each is short, and two cores do not use more.
const POINT_READERS: u32 = 4;
/// Reads along the log at a time.
const TAIL_READERS: u32 = 2;
/// Lists at a time. Together with the tails they leave the machine to the point reads.
const LIST_READERS: u32 = 2;

/// The journal in one SQLite file.
#[derive(Debug)]
pub struct SqliteJournal {
    epoch: String,
    committer: Committer,
    /// Connections for creates, statuses and streams: no read of many rows takes their place.
    points: Arc<Readers>,
    tails: Readers,
    lists: Readers,
    log: Arc<Log>,
    damage: Damage,
    /// Records, read together.
    records: Arc<Questions<PurchaseId, Option<Record>>>,
    /// Like `records`, for transitions after a revision, at most so many.
    transitions: Arc<Questions<(PurchaseId, Revision, usize), Vec<Transition>>>,
    /// Owns the checkpointer; `close` waits for it.
    tasks: TaskTracker,
    /// Ends the checkpointer, at the latest when the journal is dropped.
    checkpoints: CancellationToken,
    _on_drop: DropGuard,
}

impl SqliteJournal {
    /// Opens the file, or makes it if there is none, and starts the committing task.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unusable`] if another process has the file, its schema is newer or altered, it
    /// is damaged, is another program's, or cannot be written.
    pub async fn open(path: &Path, clock: &Clock) -> Result<Self, JournalError> {
        let shown = path.display().to_string();
        let (path, clock) = (path.to_owned(), clock.clone());
        let opened = tokio::task::spawn_blocking(move || file::open(&path, &clock)).await;
        let opened = opened
            .unwrap_or_else(|error| Err(JournalError::unusable(error)))
            .map_err(|error| named(&shown, error))?;

        let (wanted, log) = (Arc::new(Notify::new()), Arc::<Log>::default());
        let checkpoints = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(checkpoint::when_wanted(
            opened.path.clone(),
            Arc::clone(&log),
            Arc::clone(&wanted),
            checkpoints.clone(),
        ));
        let published = Arc::new(Published::new(Position(opened.head)));
        let damage = Damage::default();
        let (writer, head) = (opened.writer, opened.head);
        let age = Arc::clone(&published.age);
        let writer = Writer::new(writer, head, wanted, damage.clone(), age, opened.lock);
        let readers = |most| Readers::new(opened.path.clone(), most);
        Ok(Self {
            epoch: opened.epoch,
            committer: Committer::start(Blocks::new(writer), published),
            points: Arc::new(readers(POINT_READERS)),
            tails: readers(TAIL_READERS),
            lists: readers(LIST_READERS),
            log,
            damage,
            records: Arc::default(),
            transitions: Arc::default(),
            tasks,
            _on_drop: checkpoints.clone().drop_guard(),
            checkpoints,
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        readers: &Readers,
        read: impl FnOnce(&Connection, &Damage) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let damage = self.damage.clone();
        let answer = readers.read(move |connection| read(connection, &damage));
        told(answer.await, self.committer.published())
    }

    /// Reads one thing together with others that are asked for.
    async fn read_together<K, T>(
        &self,
        questions: &Arc<Questions<K, T>>,
        key: K,
        read: fn(&Connection, &Damage, &K) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError>
    where
        K: Clone + Eq + Hash + Send + 'static,
        T: Clone + Send + 'static,
    {
        let (readers, damage) = (Arc::clone(&self.points), self.damage.clone());
        let published = Arc::clone(self.committer.published());
        let read_all = move |keys: Vec<K>| {
            let (readers, damage) = (Arc::clone(&readers), damage.clone());
            let published = Arc::clone(&published);
            async move {
                let found = readers.read(move |connection| {
                    let found = keys.into_iter().map(|key| {
                        let found = read(connection, &damage, &key);
                        Ok((key, damage::apart(found)?.map_err(unavailable)))
                    });
                    found.collect::<rusqlite::Result<Found<K, T>>>()
                });
                told(found.await, &published)
            }
        };
        questions.answer(&self.tasks, key, read_all).await
    }
}

/// A read's failure as its asker hears of it. A failure of the store makes the journal unavailable.
fn told<T>(answer: Result<T, ReadError>, published: &Published) -> Result<T, JournalError> {
    if let Err(ReadError::Failed(error)) = &answer {
        tracing::error!(%error, "a read of the journal failed");
        // A probe that commits turns it true again.
        published.set_available(false);
    }
    answer.map_err(|error| match error {
        ReadError::Row(error) | ReadError::Failed(error) => error,
        ReadError::Closed => JournalError::unavailable("it is closed"),
    })
}

fn named(path: &str, error: JournalError) -> JournalError {
    match error {
        JournalError::Unusable(why) => JournalError::unusable(format_args!("{path}: {why}")),
        JournalError::Unavailable(why) => JournalError::unavailable(format_args!("{path}: {why}")),
        JournalError::Unreadable(_) => error,
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn write(&self, write: Write) -> Result<Written, JournalError> {
        self.committer.write(write).await
    }

    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError> {
        self.read_together(&self.records, purchase, |connection, damage, id| {
            read::record(connection, damage, *id)
        })
        .await
    }

    async fn record_by_key(
        &self,
        caller: &CallerName,
        key: &str,
    ) -> Result<Option<Record>, JournalError> {
        let (caller, key) = (caller.clone(), key.to_owned());
        self.read(&self.points, move |connection, damage| {
            read::record_by_key(connection, damage, caller.as_str(), &key)
        })
        .await
    }

    async fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Result<Option<PurchaseId>, JournalError> {
        let (account, reference) = (account.clone(), reference.canonical());
        self.read(&self.points, move |connection, _| {
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
            |connection, damage, (purchase, after, limit)| {
                read::transitions(connection, damage, *purchase, *after, *limit)
            },
        )
        .await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Listed, JournalError> {
        let filter = filter.clone();
        // The token is dropped with this future, and so as soon as the caller has gone away.
        let gone = CancellationToken::new();
        let _on_drop = gone.clone().drop_guard();
        self.read(&self.lists, move |connection, damage| {
            let is_wanted = || !gone.is_cancelled();
            list::list(connection, damage, &filter, after, limit, is_wanted)
        })
        .await
    }

    async fn tail(
        &self,
        caller: Option<&CallerName>,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<Arc<super::Committed>>, Position), JournalError> {
        // The head is taken before the read. Everything up to it is in the file already, and nothing
        // beyond it is shown before observers hear of it.
        let head = self.head();
        let caller = caller.cloned();
        self.read(&self.tails, move |connection, damage| {
            read::tail(connection, damage, caller.as_ref(), after, head, limit)
        })
        .await
    }

    async fn open_records(
        &self,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        self.read(&self.lists, move |connection, damage| {
            read::open_records(connection, damage, after, limit)
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<Option<String>, JournalError> {
        let key = key.to_owned();
        self.read(&self.points, move |connection, _| {
            read::get(connection, &key)
        })
        .await
    }

    async fn retire(&self, retirement: Retirement) -> Result<Option<usize>, JournalError> {
        self.committer.retire(retirement).await
    }

    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn figures(&self) -> Figures {
        Figures {
            log_bytes: self.log.bytes.load(Ordering::Relaxed),
            log_is_pinned: self.log.is_pinned.load(Ordering::Relaxed),
            oldest_reader: Duration::from_millis(self.log.pinned_ms.load(Ordering::Relaxed)),
            unreadable_rows: self.damage.times(),
            restarts: self.committer.published().restarts(),
        }
    }

    fn progress(&self) -> Option<&Progress> {
        Some(self.committer.progress())
    }

    fn published(&self) -> &Published {
        self.committer.published()
    }

    async fn close(&self) {
        // The writer's connection is the last to go, so that it can truncate the log.
        self.checkpoints.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        for readers in [&*self.points, &self.tails, &self.lists] {
            readers.close().await;
        }
        self.committer.close().await;
    }
}

/// SQLite's plan for a list, step by step.
#[cfg(test)]
pub(super) fn list_plan(
    connection: &Connection,
    filter: &Filter,
    after: Option<Place>,
) -> Vec<String> {
    let list::Query { sql, values } = list::Query::new(filter, after);
    let mut statement = connection
        .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
        .unwrap();
    let values = rusqlite::params_from_iter(values);
    let steps = statement.query_map(values, |row| row.get(3)).unwrap();
    steps.collect::<rusqlite::Result<_>>().unwrap()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::purchase::Timestamp;

    #[tokio::test]
    async fn nothing_that_reads_many_rows_takes_the_place_of_a_point_read() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::simulated(Timestamp::default(), 1);
        let path = folder.path().join("journal.db");
        let journal = SqliteJournal::open(&path, &clock).await.unwrap();
        let (begun, has_begun) = mpsc::channel();
        let mut ends = Vec::new();
        let lists = (0..LIST_READERS).map(|_| &journal.lists);
        let tails = (0..TAIL_READERS).map(|_| &journal.tails);
        let mut held = Vec::new();
        for readers in lists.chain(tails) {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let begun = begun.clone();
            held.push(Box::pin(readers.read(move |_| {
                begun.send(()).unwrap();
                // An error is the end, too: the other side is gone.
                Ok(ended.recv().ok())
            })));
        }
        let all = held.len();
        // Each is polled once, so that all have begun.
        for read in &mut held {
            assert!(futures_util::FutureExt::now_or_never(read.as_mut()).is_none());
        }
        for _ in 0..all {
            has_begun.recv().unwrap();
        }
        let filter = Filter::default();
        let mut list = Box::pin(journal.list(&filter, None, 1));
        assert!(futures_util::FutureExt::now_or_never(list.as_mut()).is_none());
        let id = PurchaseId::from_u128(1);
        assert_eq!(journal.record(id).await.unwrap(), None);
        let shop = CallerName::new("shop");
        let by_key = journal.record_by_key(&shop, "key");
        assert_eq!(by_key.await.unwrap(), None);
        let steps = journal.transitions(id, Revision(0), 1).await;
        assert_eq!(steps.unwrap(), []);
        drop(ends);
        list.await.unwrap();
    }
}
