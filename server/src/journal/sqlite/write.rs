//! The writer: groups of changes in one transaction each, every change in a savepoint.

use std::{fs::File, sync::Arc};

use rusqlite::{Connection, ErrorCode, Result};
use tokio::sync::Notify;

use super::damage;
use crate::journal::{
    Committed, Fence, JournalError, Position, Write, Written,
    age::Age,
    committer::{BlockingStore, Change, CommitAnswer, Group},
    damage::Damage,
    rules,
};

/// The written rows after which a checkpoint is due: about a thousand pages, SQLite's own default.
const CHECKPOINT_ROWS: u64 = 1_000;

/// The only writing connection, and the lock that keeps it the only one.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` once closed.
    connection: Option<Connection>,
    head: u64,
    /// The connection's count of changed rows when a checkpoint was last asked for.
    checkpointed_at: u64,
    checkpoint_wanted: Arc<Notify>,
    damage: Damage,
    age: Arc<Age>,
    /// Released after the connection.
    lock: Option<File>,
}

/// The transaction of one group, under way.
pub(super) struct Transaction<'connection> {
    pub(super) connection: &'connection Connection,
    pub(super) damage: &'connection Damage,
    pub(super) age: &'connection Age,
    pub(super) head: u64,
    pub(super) committed: Vec<Arc<Committed>>,
}

/// The reason why a change was not made.
pub(super) enum Unmade {
    Guarded(Written),
    Malformed(JournalError),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Unmade {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) type Applied<T> = std::result::Result<T, Unmade>;

impl Writer {
    pub(super) fn new(
        connection: Connection,
        head: u64,
        checkpoint_wanted: Arc<Notify>,
        damage: Damage,
        age: Arc<Age>,
        lock: File,
    ) -> Self {
        Self {
            connection: Some(connection),
            head,
            checkpointed_at: 0,
            checkpoint_wanted,
            damage,
            age,
            lock: Some(lock),
        }
    }

    fn connection(&self) -> std::result::Result<&Connection, JournalError> {
        (self.connection.as_ref()).ok_or_else(|| JournalError::unavailable("it is closed"))
    }
}

impl BlockingStore for Writer {
    fn commit(&mut self, changes: Vec<Change>) -> std::result::Result<Group, JournalError> {
        let connection = self.connection()?;
        let changed_before = connection.total_changes();
        let mut transaction = Transaction {
            connection,
            damage: &self.damage,
            age: &self.age,
            head: self.head,
            committed: Vec::new(),
        };
        let answers = match transaction.apply_all(changes) {
            Ok(answers) => answers,
            Err(error) => {
                roll_back(connection);
                return Err(unavailable(error));
            }
        };
        let changed = connection.total_changes();
        let Transaction {
            head, committed, ..
        } = transaction;
        let is_due = changed.saturating_sub(self.checkpointed_at) >= CHECKPOINT_ROWS;
        if is_due {
            self.checkpointed_at = changed;
            self.checkpoint_wanted.notify_one();
        }
        self.head = head;
        Ok(Group {
            answers,
            committed,
            head: Position(head),
            wrote: changed > changed_before,
            failed: None,
        })
    }

    fn probe(&mut self) -> std::result::Result<(), JournalError> {
        let connection = self.connection()?;
        let probed = begin(connection)
            .and_then(|()| {
                connection
                    .prepare_cached("UPDATE meta SET value = value + 1 WHERE key = 'probe'")?
                    .execute([])
            })
            .and_then(|_| end(connection));
        probed.map_err(|error| {
            roll_back(connection);
            unavailable(error)
        })
    }

    fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let truncated = connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .and_then(|()| connection.close().map_err(|(_, error)| error));
            if let Err(error) = truncated {
                // Everything is committed; the next opening reads the write-ahead log.
                tracing::warn!(%error, "the last checkpoint did not succeed");
            }
        }
        self.lock.take();
    }
}

fn begin(connection: &Connection) -> Result<()> {
    // A panic or a failed rollback can cut a group off and leave its transaction open.
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    Ok(())
}

fn end(connection: &Connection) -> Result<()> {
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

fn roll_back(connection: &Connection) {
    // SQLite has rolled back by itself after some errors.
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "a rollback failed; the next group tries it again");
    }
}

/// A failure of the store or of one row, without SQL or values.
pub(super) fn unavailable(error: rusqlite::Error) -> JournalError {
    if let Some(column) = damage::column(&error) {
        return JournalError::Unreadable(column);
    }
    match error {
        rusqlite::Error::SqliteFailure(code, Some(message)) => {
            JournalError::unavailable(format_args!("{message} ({})", code.extended_code))
        }
        rusqlite::Error::SqlInputError { error, .. } => JournalError::unavailable(error),
        other => JournalError::unavailable(other),
    }
}

/// True if an error is about one change's own values, so that the others can go on.
fn is_of_one_change(error: &rusqlite::Error) -> bool {
    use ErrorCode::{ConstraintViolation, ParameterOutOfRange, TooBig, TypeMismatch};
    matches!(
        error.sqlite_error_code(),
        None | Some(ConstraintViolation | ParameterOutOfRange | TooBig | TypeMismatch)
    )
}

/// The lock of the file keeps every other process out, so that nobody takes leases here.
fn check_fence(fence: Option<&Fence>) -> Applied<()> {
    match rules::is_held_alone(fence) {
        true => Ok(()),
        false => Err(Unmade::Guarded(Written::Fenced)),
    }
}

impl Transaction<'_> {
    fn apply_all(
        &mut self,
        changes: Vec<Change>,
    ) -> Result<Vec<std::result::Result<CommitAnswer, JournalError>>> {
        begin(self.connection)?;
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            answers.push(self.apply_apart(change)?);
        }
        end(self.connection)?;
        Ok(answers)
    }

    /// One change in its savepoint. An error of this function ends the group.
    fn apply_apart(
        &mut self,
        change: Change,
    ) -> Result<std::result::Result<CommitAnswer, JournalError>> {
        let (head, told) = (self.head, self.committed.len());
        self.execute("SAVEPOINT change")?;
        let refusal = match self.apply(change) {
            Ok(answer) => {
                self.execute("RELEASE change")?;
                return Ok(Ok(answer));
            }
            Err(refusal) => refusal,
        };
        let answer = match refusal {
            Unmade::Guarded(written) => Ok(CommitAnswer::Written(written)),
            Unmade::Malformed(error) => Err(error),
            Unmade::Failed(error)
                if is_of_one_change(&error) && !self.connection.is_autocommit() =>
            {
                Err(unavailable(error))
            }
            Unmade::Failed(error) => return Err(error),
        };
        self.execute("ROLLBACK TO change")?;
        self.execute("RELEASE change")?;
        self.head = head;
        self.committed.truncate(told);
        Ok(answer)
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    fn apply(&mut self, change: Change) -> Applied<CommitAnswer> {
        match change {
            Change::Retire(retirement) => {
                let is_held = rules::is_held_alone(Some(&retirement.fence));
                let rows = is_held.then(|| self.retire(&retirement)).transpose()?;
                Ok(CommitAnswer::Retired(rows))
            }
            Change::Write(write) => {
                self.write(write)?;
                Ok(CommitAnswer::Written(Written::Done))
            }
        }
    }

    fn write(&mut self, write: Write) -> Applied<()> {
        match write {
            Write::Begin {
                record,
                transitions,
            } => self.begin(&record, transitions),
            Write::Bind(binding) => self.bind(&binding),
            Write::Append {
                purchase,
                fence,
                transition,
                expected,
                attempt,
                note,
            } => {
                check_fence(fence.as_ref())?;
                self.append(purchase, *transition, expected, attempt, note.as_deref())
            }
            Write::ChangeAttempt {
                purchase,
                expected,
                change,
            } => {
                self.guarded(purchase, expected)?;
                Ok(self.change_attempt(purchase, change)?)
            }
            Write::WipeBuyerActions { purchase, through } => {
                Ok(self.wipe_buyer_actions(purchase, through)?)
            }
            Write::Put { key, fence, value } => {
                check_fence(fence.as_ref())?;
                self.connection
                    .prepare_cached(
                        "INSERT INTO kept_text (key, value) VALUES (?1, ?2)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    )?
                    .execute([key, value])?;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        journal::sqlite::{file, read},
        purchase::Timestamp,
    };

    fn writer(folder: &tempfile::TempDir) -> Writer {
        let path = folder.path().join("journal.db");
        let clock = Clock::simulated(Timestamp::default(), 1);
        let opened = file::open(&path, &clock).unwrap();
        let damage = Damage::default();
        Writer::new(
            opened.writer,
            opened.head,
            Arc::default(),
            damage,
            Arc::default(),
            opened.lock,
        )
    }

    fn put(key: &str, value: String) -> Change {
        Change::Write(Write::Put {
            key: key.to_owned(),
            fence: None,
            value,
        })
    }

    fn text(writer: &Writer, key: &str) -> Option<String> {
        read::get(writer.connection().unwrap(), key).unwrap()
    }

    #[tokio::test]
    async fn a_change_that_fails_alone_does_not_fail_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder);
        let connection = writer.connection().unwrap();
        let sql = "CREATE TRIGGER refuse_b BEFORE INSERT ON kept_text WHEN new.key = 'b'
            BEGIN SELECT RAISE(ABORT, 'not b'); END";
        connection.execute_batch(sql).unwrap();
        let changes = vec![
            put("a", "1".to_owned()),
            put("b", "2".to_owned()),
            put("c", "3".to_owned()),
        ];
        let group = writer.commit(changes).unwrap();
        let done = |answer: &std::result::Result<CommitAnswer, JournalError>| {
            matches!(answer, Ok(CommitAnswer::Written(Written::Done)))
        };
        let answers: Vec<bool> = group.answers.iter().map(done).collect();
        assert_eq!(answers, [true, false, true]);
        assert_eq!(text(&writer, "a").as_deref(), Some("1"));
        assert_eq!(text(&writer, "b"), None);
        assert_eq!(text(&writer, "c").as_deref(), Some("3"));
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_group_and_the_next_one_works() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder);
        let limit = |writer: &Writer, pages: i64| {
            let connection = writer.connection().unwrap();
            let sql = format!("PRAGMA max_page_count = {pages}");
            (connection.query_row(&sql, [], |row| row.get::<_, i64>(0))).unwrap()
        };
        limit(&writer, 1);
        let changes = || vec![put("a", "1".to_owned()), put("b", "x".repeat(100_000))];
        let error = writer.commit(changes()).unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("full"), "{error}");
        assert_eq!(text(&writer, "a"), None, "all or nothing");
        writer.probe().unwrap();
        limit(&writer, 1_000_000);
        let group = writer.commit(changes()).unwrap();
        assert!(group.wrote && group.answers.iter().all(std::result::Result::is_ok));
        assert_eq!(text(&writer, "a").as_deref(), Some("1"));
    }

    #[tokio::test]
    async fn a_file_that_turned_read_only_fails_commits_and_probes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder);
        let read_only = |writer: &Writer, on: bool| {
            let connection = writer.connection().unwrap();
            connection.pragma_update(None, "query_only", on).unwrap();
        };
        read_only(&writer, true);
        let error = writer.commit(vec![put("a", "1".to_owned())]).unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "{error}");
        assert!(writer.probe().is_err());
        read_only(&writer, false);
        writer.probe().unwrap();
        writer.commit(vec![put("a", "1".to_owned())]).unwrap();
        assert_eq!(text(&writer, "a").as_deref(), Some("1"));
    }

    #[tokio::test]
    async fn a_group_that_was_cut_off_is_rolled_back_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = writer(&folder);
        let connection = writer.connection().unwrap();
        let left_over = "BEGIN IMMEDIATE; INSERT INTO kept_text VALUES ('a', 'half')";
        connection.execute_batch(left_over).unwrap();
        writer.commit(vec![put("b", "1".to_owned())]).unwrap();
        assert_eq!(text(&writer, "a"), None);
        assert_eq!(text(&writer, "b").as_deref(), Some("1"));
    }
}
