//! The writer: groups of changes in one transaction each, every change in a savepoint.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Result};
use tokio::sync::Notify;

use crate::{
    journal::{
        Attempt, AttemptChange, Committed, JournalError, Position, Record, Write, Written,
        committer::{Answer, Change, Group, Retirement, Store},
        rules,
    },
    purchase::{
        AttentionReason, Finality, Purchase, PurchaseId, Revision, State, Status, Timestamp,
        Transition,
    },
};

use super::read::{self, id_bytes, integer, purchase_columns};

/// Rows written until a checkpoint is wanted: about a thousand pages, SQLite's own default.
const CHECKPOINT_ROWS: u64 = 1_000;

/// The one writing connection, and the lock that keeps it the one.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` once closed.
    connection: Option<Connection>,
    head: u64,
    /// The connection's count of changed rows when a checkpoint was last wanted.
    checkpointed_at: u64,
    checkpoint_wanted: Arc<Notify>,
    /// Let go after the connection.
    lock: Option<File>,
}

/// One group under way.
struct Batch<'connection> {
    connection: &'connection Connection,
    head: u64,
    committed: Vec<Arc<Committed>>,
}

/// Why a change was not made.
enum Refusal {
    Guarded(Written),
    Malformed(JournalError),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

type Applied<T> = std::result::Result<T, Refusal>;

/// The columns of a purchase that a guard or a step needs.
struct Current {
    purchase: Purchase,
    revision: Revision,
    state: State,
    finality: Finality,
    attention: Option<String>,
    reference: Option<String>,
    change_time: Timestamp,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        head: u64,
        checkpoint_wanted: Arc<Notify>,
        lock: File,
    ) -> Self {
        Self {
            connection: Some(connection),
            head,
            checkpointed_at: 0,
            checkpoint_wanted,
            lock: Some(lock),
        }
    }

    fn connection(&self) -> std::result::Result<&Connection, JournalError> {
        (self.connection.as_ref()).ok_or_else(|| JournalError::unavailable("it is closed"))
    }
}

impl Store for Writer {
    fn commit(&mut self, changes: Vec<Change>) -> std::result::Result<Group, JournalError> {
        let connection = self.connection()?;
        let changed_before = connection.total_changes();
        let mut batch = Batch {
            connection,
            head: self.head,
            committed: Vec::new(),
        };
        let answers = match batch.apply_all(changes) {
            Ok(answers) => answers,
            Err(error) => {
                roll_back(connection);
                return Err(unavailable(error));
            }
        };
        let changed = connection.total_changes();
        let Batch {
            head, committed, ..
        } = batch;
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
                // All is committed; the next opening reads the write-ahead log.
                tracing::warn!(%error, "the last checkpoint did not succeed");
            }
        }
        self.lock.take();
    }
}

fn begin(connection: &Connection) -> Result<()> {
    // Left over where a panic or a failed rollback cut a group off.
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

/// A failure of the store, without SQL or values.
pub(super) fn unavailable(error: rusqlite::Error) -> JournalError {
    match error {
        rusqlite::Error::SqliteFailure(code, Some(message)) => {
            JournalError::unavailable(format_args!("{message} ({})", code.extended_code))
        }
        rusqlite::Error::SqlInputError { error, .. } => JournalError::unavailable(error),
        other => JournalError::unavailable(other),
    }
}

/// Whether an error is about one change's own values, so that the others can go on.
fn is_of_one_change(error: &rusqlite::Error) -> bool {
    use ErrorCode::{ConstraintViolation, ParameterOutOfRange, TooBig, TypeMismatch};
    matches!(
        error.sqlite_error_code(),
        None | Some(ConstraintViolation | ParameterOutOfRange | TooBig | TypeMismatch)
    )
}

impl Batch<'_> {
    fn apply_all(
        &mut self,
        changes: Vec<Change>,
    ) -> Result<Vec<std::result::Result<Answer, JournalError>>> {
        begin(self.connection)?;
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            answers.push(self.apply_apart(change)?);
        }
        end(self.connection)?;
        Ok(answers)
    }

    /// One change in its savepoint. An error of this function ends the group.
    fn apply_apart(&mut self, change: Change) -> Result<std::result::Result<Answer, JournalError>> {
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
            Refusal::Guarded(written) => Ok(Answer::Written(written)),
            Refusal::Malformed(error) => Err(error),
            Refusal::Failed(error)
                if is_of_one_change(&error) && !self.connection.is_autocommit() =>
            {
                Err(unavailable(error))
            }
            Refusal::Failed(error) => return Err(error),
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

    fn apply(&mut self, change: Change) -> Applied<Answer> {
        match change {
            Change::Retire(retirement) => Ok(Answer::Retired(self.retire(retirement)?)),
            Change::Write(write) => {
                self.write(write)?;
                Ok(Answer::Written(Written::Done))
            }
        }
    }

    fn write(&mut self, write: Write) -> Applied<()> {
        match write {
            Write::Begin {
                record,
                transitions,
            } => self.begin(&record, transitions),
            Write::Append {
                purchase,
                transition,
                expected,
                attempt,
                note,
            } => self.append(purchase, *transition, expected, attempt, note.as_deref()),
            Write::BeginAttempt {
                purchase,
                expected,
                attempt,
                now,
            } => {
                self.guarded(purchase, expected)?;
                self.begin_attempt(purchase, attempt, now)
            }
            Write::WipeBuyerActions { purchase, through } => {
                Ok(self.wipe_buyer_actions(purchase, through)?)
            }
            Write::Put { key, value } => {
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

    fn begin(&mut self, record: &Record, transitions: Vec<Transition>) -> Applied<()> {
        let purchase = &record.purchase;
        let last = rules::last_status(purchase.id, &transitions).map_err(Refusal::Malformed)?;
        let taken = read::record_by_key(
            self.connection,
            purchase.caller.as_str(),
            &purchase.idempotency_key,
        )?;
        if let Some(taken) = taken {
            return Err(Refusal::Guarded(Written::KeyTaken(Box::new(taken))));
        }
        let reference = read::reference_text(last.reference.as_ref());
        self.check_reference(purchase, reference.as_deref())?;
        let exists = self
            .connection
            .prepare_cached("SELECT 1 FROM purchase WHERE id = ?1")?
            .exists([id_bytes(purchase.id)])?;
        if exists {
            let error = rules::malformed(purchase.id, "it exists with another key");
            return Err(Refusal::Malformed(error));
        }
        self.insert_purchase(record, last, reference)?;
        let mut previous: Option<State> = None;
        for transition in transitions {
            let state = transition.status.state;
            if let Some(previous) = previous
                && let Some(through) = rules::wiped_through(previous, &transition.status)
            {
                self.wipe_buyer_actions(purchase.id, through)?;
            }
            self.log(purchase, transition)?;
            previous = Some(state);
        }
        Ok(())
    }

    fn insert_purchase(
        &self,
        record: &Record,
        last: &Status,
        reference: Option<String>,
    ) -> Result<()> {
        let purchase = &record.purchase;
        let fingerprints: BTreeMap<&str, String> = (record.fingerprints.fields.iter())
            .map(|(name, mac)| (name.as_str(), hex::encode(mac)))
            .collect();
        self.connection
            .prepare_cached(
                "INSERT INTO purchase (id, account, provider, caller, key, labels, create_time,
                     revision, state, finality, attention, reference, change_time, final_time,
                     fingerprint_key, fingerprints, recovery, submit_until, first_send_time,
                     resolution_note)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                     ?17, ?18, ?19, ?20)",
            )?
            .execute(rusqlite::params![
                id_bytes(purchase.id),
                purchase.account.as_str(),
                purchase.provider,
                purchase.caller.as_str(),
                purchase.idempotency_key,
                json(&*purchase.labels)?,
                purchase.create_time.as_millis(),
                last.revision.0,
                last.state.as_str(),
                last.finality.as_str(),
                last.attention_reason().map(AttentionReason::as_str),
                reference,
                record.change_time.as_millis(),
                final_time(last),
                record.fingerprints.key_id,
                json(&fingerprints)?,
                json(&record.recovery)?,
                (record.attempt).map(|attempt| attempt.submit_until.as_millis()),
                record.first_send_time.map(Timestamp::as_millis),
                record.resolution_note,
            ])?;
        Ok(())
    }

    fn append(
        &mut self,
        id: PurchaseId,
        transition: Transition,
        expected: Revision,
        attempt: AttemptChange,
        note: Option<&str>,
    ) -> Applied<()> {
        let current = self.guarded(id, expected)?;
        let status = &transition.status;
        if status.revision != expected.next() {
            return Err(self.stale(id)?);
        }
        let reference = read::reference_text(status.reference.as_ref());
        if reference != current.reference {
            self.check_reference(&current.purchase, reference.as_deref())?;
        }
        let change_time = self.change_time(id, &current, status)?;
        if let Some(through) = rules::wiped_through(current.state, status) {
            self.wipe_buyer_actions(id, through)?;
        }
        self.connection
            .prepare_cached(
                "UPDATE purchase SET revision = ?2, state = ?3, finality = ?4, attention = ?5,
                     reference = ?6, change_time = ?7, final_time = ?8,
                     resolution_note = coalesce(?9, resolution_note)
                 WHERE id = ?1",
            )?
            .execute(rusqlite::params![
                id_bytes(id),
                status.revision.0,
                status.state.as_str(),
                status.finality.as_str(),
                status.attention_reason().map(AttentionReason::as_str),
                reference,
                change_time.as_millis(),
                final_time(status),
                note,
            ])?;
        self.log(&current.purchase, transition)?;
        match attempt {
            AttemptChange::Keep => Ok(()),
            AttemptChange::Begin { attempt, now } => self.begin_attempt(id, attempt, now),
            AttemptChange::End => {
                self.connection
                    .prepare_cached("UPDATE purchase SET submit_until = NULL WHERE id = ?1")?
                    .execute([id_bytes(id)])?;
                Ok(())
            }
        }
    }

    fn begin_attempt(&self, id: PurchaseId, attempt: Attempt, now: Timestamp) -> Applied<()> {
        self.connection
            .prepare_cached(
                "UPDATE purchase SET submit_until = ?2,
                     first_send_time = coalesce(first_send_time, ?3) WHERE id = ?1",
            )?
            .execute((
                id_bytes(id),
                attempt.submit_until.as_millis(),
                now.as_millis(),
            ))?;
        Ok(())
    }

    /// The purchase, if it may be changed by one who knows it at `expected`.
    fn guarded(&self, id: PurchaseId, expected: Revision) -> Applied<Current> {
        let current = self
            .connection
            .prepare_cached(concat!(
                "SELECT ",
                purchase_columns!(),
                ", p.revision, p.state, p.finality, p.attention, p.reference, p.change_time
                 FROM purchase p WHERE p.id = ?1 AND p.remnant IS NULL"
            ))?
            .query_row([id_bytes(id)], |row| {
                Ok(Current {
                    // The newest status is not needed, and dear to read.
                    purchase: read::purchase(row, Status::pending(Timestamp::default()))?,
                    revision: Revision(row.get(7)?),
                    state: read::word(row, 8, State::from_text)?,
                    finality: read::word(row, 9, Finality::from_text)?,
                    attention: row.get(10)?,
                    reference: row.get(11)?,
                    change_time: read::timestamp(row, 12)?,
                })
            })
            .optional()?;
        match current {
            Some(current)
                if current.revision == expected && current.finality != Finality::Final =>
            {
                Ok(current)
            }
            _ => Err(self.stale(id)?),
        }
    }

    fn stale(&self, id: PurchaseId) -> Result<Refusal> {
        let record = read::record(self.connection, id)?;
        Ok(Refusal::Guarded(Written::Stale(record.map(Box::new))))
    }

    fn check_reference(&self, purchase: &Purchase, reference: Option<&str>) -> Applied<()> {
        let Some(reference) = reference else {
            return Ok(());
        };
        let account = purchase.account.as_str();
        match read::purchase_by_reference(self.connection, account, reference)? {
            Some(taken) if taken != purchase.id => {
                Err(Refusal::Guarded(Written::ReferenceTaken(taken)))
            }
            _ => Ok(()),
        }
    }

    fn change_time(&self, id: PurchaseId, current: &Current, next: &Status) -> Result<Timestamp> {
        let was_stale = current.attention.as_deref() == Some(AttentionReason::Stale.as_str());
        // Only then does the previous status matter, which is dear to read.
        if (was_stale || rules::is_stale(next))
            && let Some(record) = read::record(self.connection, id)?
        {
            let previous = &record.purchase.status;
            return Ok(rules::change_time(previous, current.change_time, next));
        }
        Ok(next.observe_time)
    }

    /// Adds a step to the log.
    fn log(&mut self, purchase: &Purchase, transition: Transition) -> Result<()> {
        let Transition {
            from_state,
            mut status,
            cause,
        } = transition;
        // The action stands apart; it must not be in the text as well.
        let action = status.buyer_action.take();
        let text = json(&status)?;
        status.buyer_action = action;
        self.head += 1;
        self.connection
            .prepare_cached(
                "INSERT INTO transition_log
                     (position, purchase, revision, caller, from_state, cause, status)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                integer(self.head),
                id_bytes(purchase.id),
                status.revision.0,
                purchase.caller.as_str(),
                from_state.map(State::as_str),
                cause.as_str(),
                text,
            ))?;
        if let Some(action) = &status.buyer_action {
            self.connection
                .prepare_cached(
                    "INSERT INTO buyer_action (purchase, revision, action) VALUES (?1, ?2, ?3)",
                )?
                .execute((id_bytes(purchase.id), status.revision.0, json(action)?))?;
        }
        self.committed.push(Arc::new(Committed {
            position: Position(self.head),
            purchase: rules::with_status(purchase, status),
            from_state,
            cause,
        }));
        Ok(())
    }

    fn wipe_buyer_actions(&self, id: PurchaseId, through: Revision) -> Result<()> {
        self.connection
            .prepare_cached("DELETE FROM buyer_action WHERE purchase = ?1 AND revision <= ?2")?
            .execute((id_bytes(id), through.0))?;
        Ok(())
    }

    fn retire(&self, retirement: Retirement) -> Result<usize> {
        // The oldest remnants go first, so that none is made and deleted by one call.
        let remnants = self.ids(
            "SELECT id FROM purchase WHERE remnant IS NOT NULL AND create_time < ?1
             ORDER BY create_time, id LIMIT ?2",
            retirement.remnants_before,
            retirement.limit,
        )?;
        for id in &remnants {
            self.execute_for("DELETE FROM purchase WHERE id = ?1", *id)?;
        }
        let finals = self.ids(
            "SELECT id FROM purchase
             WHERE final_time IS NOT NULL AND remnant IS NULL AND final_time < ?1
             ORDER BY final_time, id LIMIT ?2",
            retirement.finals_before,
            retirement.limit,
        )?;
        for id in &finals {
            self.execute_for(
                "UPDATE purchase SET remnant = (SELECT t.status FROM transition_log t
                     WHERE t.purchase = purchase.id AND t.revision = purchase.revision)
                 WHERE id = ?1",
                *id,
            )?;
            self.execute_for("DELETE FROM buyer_action WHERE purchase = ?1", *id)?;
            self.execute_for("DELETE FROM transition_log WHERE purchase = ?1", *id)?;
        }
        if !finals.is_empty() {
            // The newest transition may be among them, and its position must not be given again.
            self.connection
                .prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'head'")?
                .execute([self.head.to_string()])?;
        }
        Ok(remnants.len() + finals.len())
    }

    fn ids(&self, sql: &str, before: Timestamp, limit: usize) -> Result<Vec<[u8; 16]>> {
        self.connection
            .prepare_cached(sql)?
            .query_map((before.as_millis(), integer(limit)), |row| row.get(0))?
            .collect()
    }

    fn execute_for(&self, sql: &str, id: [u8; 16]) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute([id])?;
        Ok(())
    }
}

fn final_time(status: &Status) -> Option<i64> {
    (status.finality == Finality::Final).then(|| status.observe_time.as_millis())
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
