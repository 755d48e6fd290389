//! A file as the source or the target of a move.

use std::{collections::BTreeMap, fs::File, path::Path};

use async_trait::async_trait;
use rusqlite::{Connection, Params, params};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::{change, file, named, read, write::unavailable};
use crate::{
    clock::Clock,
    journal::{
        Fingerprints, JournalError, encoding,
        moving::{
            ActionRow, FIRST, KeyRow, MOVED, MOVING, Marks, Movable, PAGE, Page, PurchaseRow, Rest,
            StepRow,
        },
    },
    purchase::{Reference, Status},
};

const PURCHASES: &str = "SELECT json_object('id', lower(hex(id)), 'account', account,
         'provider', provider, 'caller', caller, 'key', key, 'labels', labels, 'create_time', create_time,
         'revision', revision, 'state', state, 'finality', finality, 'attention', attention,
         'reference', reference, 'change_time', change_time, 'final_time', final_time,
         'fingerprint_key', fingerprint_key, 'fingerprints', fingerprints, 'recovery', recovery,
         'submit_until', submit_until, 'attempt_by', nullif(lower(hex(attempt_by)), ''),
         'first_send_time', first_send_time, 'sends', sends, 'resolution_note', resolution_note,
         'remnant', remnant)
     FROM purchase WHERE id > unhex(?1) ORDER BY id LIMIT ?2";
const STEPS: &str = "SELECT json_object('position', position, 'purchase', lower(hex(purchase)),
         'revision', revision, 'caller', caller, 'from_state', from_state, 'cause', cause, 'status', status)
     FROM transition_log WHERE purchase > unhex(?1) AND purchase <= unhex(?2) ORDER BY purchase, revision";
const ACTIONS: &str = "SELECT json_object('purchase', lower(hex(purchase)), 'revision', revision,
         'action', action)
     FROM buyer_action WHERE purchase > unhex(?1) AND purchase <= unhex(?2) ORDER BY purchase, revision";
const KEYS: &str =
    "SELECT json_object('caller', caller, 'key', key, 'purchase', lower(hex(purchase)),
         'fingerprint_key', fingerprint_key, 'fingerprints', fingerprints, 'bind_time', bind_time)
     FROM bound_key WHERE purchase > unhex(?1) AND purchase <= unhex(?2) ORDER BY caller, key";
const INSERT_PURCHASE: &str = "INSERT INTO purchase (id, account, provider, caller, key, labels,
         create_time, revision, state, finality, attention, reference, change_time, final_time,
         fingerprint_key, fingerprints, recovery, submit_until, attempt_by, first_send_time, sends,
         resolution_note, remnant)
     VALUES (unhex(?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
         unhex(?19), ?20, ?21, ?22, ?23)";
const INSERT_LABELS: &str = "INSERT INTO purchase_label (caller, key, value, create_time, purchase)
     SELECT p.caller, label.key, label.value, p.create_time, p.id
     FROM purchase p, json_each(p.labels) label WHERE p.id = unhex(?1) AND p.remnant IS NULL";
const INSERT_STEP: &str = "INSERT INTO transition_log
         (position, purchase, revision, caller, from_state, cause, status)
     VALUES (?1, unhex(?2), ?3, ?4, ?5, ?6, ?7)";
const INSERT_ACTION: &str =
    "INSERT INTO buyer_action (purchase, revision, action) VALUES (unhex(?1), ?2, ?3)";
const INSERT_KEY: &str = "INSERT INTO bound_key
         (caller, key, purchase, fingerprint_key, fingerprints, bind_time)
     VALUES (?1, ?2, unhex(?3), ?4, ?5, ?6)";
const MARK: &str = "INSERT INTO meta (key, value) VALUES (?1, ?2)
     ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// A locked file.
pub(crate) struct MovingFile {
    connection: Connection,
    /// Released after the connection.
    _lock: File,
}

/// The marks of a file.
pub(super) fn marks(connection: &Connection) -> rusqlite::Result<Marks> {
    let mut marks = Marks::default();
    let mut statement = connection.prepare("SELECT key, value FROM meta")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        marks.read(&key, row.get(1)?);
    }
    marks.is_empty = read::head(connection)? == 0;
    Ok(marks)
}

impl MovingFile {
    /// Locks a file for a move, and brings its schema to this build's. A target is made if there is none.
    ///
    /// # Errors
    /// As those of a journal's opening, and if there is no source.
    pub(crate) fn open(path: &Path, is_source: bool, clock: &Clock) -> Result<Self, JournalError> {
        if is_source && !path.exists() {
            let shown = path.display();
            return Err(JournalError::unusable(format_args!(
                "{shown}: there is no journal"
            )));
        }
        let opened = file::take(path, clock);
        let opened = opened.map_err(|error| named(&path.display().to_string(), error))?;
        Ok(Self {
            connection: opened.writer,
            _lock: opened.lock,
        })
    }

    fn transaction(
        &mut self,
        change: impl FnOnce(&Connection) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let transaction = self.connection.transaction().map_err(unavailable)?;
        change(&transaction)?;
        transaction.commit().map_err(unavailable)?;
        // Nobody else moves the log into the file.
        let moved = "PRAGMA wal_checkpoint(PASSIVE)";
        (self.connection.query_row(moved, [], |_| Ok(()))).map_err(unavailable)
    }

    fn rows<T: DeserializeOwned>(
        &self,
        sql: &str,
        values: impl Params,
    ) -> Result<Vec<T>, JournalError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(unavailable)?;
        let texts = statement.query_map(values, |row| row.get::<_, String>(0));
        let texts = texts.map_err(unavailable)?;
        texts
            .map(|text| serde_json::from_str(&text.map_err(unavailable)?).map_err(unreadable))
            .collect()
    }
}

#[async_trait]
impl Movable for MovingFile {
    async fn marks(&mut self) -> Result<Marks, JournalError> {
        marks(&self.connection).map_err(unavailable)
    }

    async fn page(&mut self, after: &str) -> Result<Page, JournalError> {
        let mut purchases: Vec<PurchaseRow> = self.rows(PURCHASES, (after, read::integer(PAGE)))?;
        for row in &mut purchases {
            row.fingerprints = packed(&row.fingerprints)?;
            row.reference = row.reference.as_ref().map(|text| digest(text));
        }
        let Some(last) = purchases.last().map(|row| row.id.clone()) else {
            return Ok(Page::default());
        };
        let range = (after, last.as_str());
        let mut keys: Vec<KeyRow> = self.rows(KEYS, range)?;
        for row in &mut keys {
            row.fingerprints = packed(&row.fingerprints)?;
        }
        Ok(Page {
            purchases,
            steps: self.rows(STEPS, range)?,
            actions: self.rows(ACTIONS, range)?,
            keys,
        })
    }

    async fn rest(&mut self) -> Result<Rest, JournalError> {
        let head = read::head(&self.connection).map_err(unavailable)?;
        let sql = "SELECT json_array(key, value) FROM kept_text ORDER BY key";
        Ok(Rest::new(
            read::integer(head),
            self.rows(sql, [])?,
            Vec::new(),
        ))
    }

    async fn begin(&mut self, epoch: &str) -> Result<(), JournalError> {
        self.transaction(|connection| {
            let tables =
                "DELETE FROM buyer_action; DELETE FROM bound_key; DELETE FROM transition_log;
                DELETE FROM purchase_label; DELETE FROM purchase; DELETE FROM kept_text";
            connection.execute_batch(tables).map_err(unavailable)?;
            for mark in [("epoch", epoch), (MOVING, FIRST)] {
                connection.execute(MARK, mark).map_err(unavailable)?;
            }
            Ok(())
        })
    }

    async fn keep(&mut self, page: &Page) -> Result<(), JournalError> {
        self.transaction(|connection| insert(connection, page))
    }

    async fn keep_rest(&mut self, rest: &Rest) -> Result<(), JournalError> {
        self.transaction(|connection| {
            let write = || {
                connection.execute("DELETE FROM kept_text", [])?;
                for text in rest.kept() {
                    let sql = "INSERT INTO kept_text (key, value) VALUES (?1, ?2)";
                    connection.execute(sql, text)?;
                }
                connection.execute(MARK, ("head", rest.head.to_string()))?;
                Ok(())
            };
            write().map_err(unavailable)
        })
    }

    async fn finish(&mut self) -> Result<(), JournalError> {
        self.transaction(|connection| {
            let sql = "DELETE FROM meta WHERE key = ?1";
            let deleted = connection.execute(sql, [MOVING]);
            deleted.map(drop).map_err(unavailable)
        })
    }

    async fn leave(&mut self) -> Result<(), JournalError> {
        self.transaction(|connection| {
            let marked = connection.execute(MARK, (MOVED, ""));
            marked.map(drop).map_err(unavailable)
        })
    }

    async fn close(self: Box<Self>) {
        let truncated = "PRAGMA wal_checkpoint(TRUNCATE)";
        // Everything is committed: the next opening reads what is left of the write-ahead log.
        let _ = self.connection.query_row(truncated, [], |_| Ok(()));
    }
}

fn insert(connection: &Connection, page: &Page) -> Result<(), JournalError> {
    let newest: BTreeMap<(&str, i64), &str> = (page.steps.iter())
        .map(|step| {
            (
                (step.purchase.as_str(), step.revision),
                step.status.as_str(),
            )
        })
        .collect();
    for row in &page.purchases {
        let status =
            (row.remnant.as_deref()).or_else(|| newest.get(&(&row.id, row.revision)).copied());
        insert_purchase(connection, row, status)?;
    }
    let write = || {
        for StepRow {
            position,
            purchase,
            revision,
            caller,
            from_state,
            cause,
            status,
        } in &page.steps
        {
            let mut insert = connection.prepare_cached(INSERT_STEP)?;
            insert.execute(params![
                position, purchase, revision, caller, from_state, cause, status
            ])?;
        }
        for ActionRow {
            purchase,
            revision,
            action,
        } in &page.actions
        {
            let mut insert = connection.prepare_cached(INSERT_ACTION)?;
            insert.execute((purchase, revision, action))?;
        }
        let last = page.last().unwrap_or(FIRST);
        connection.execute(MARK, (MOVING, last))?;
        Ok(())
    };
    write().map_err(unavailable)?;
    for key in &page.keys {
        let fingerprints = unpacked(&key.fingerprint_key, &key.fingerprints)?;
        let mut insert = connection.prepare_cached(INSERT_KEY).map_err(unavailable)?;
        let values = params![
            key.caller,
            key.key,
            key.purchase,
            key.fingerprint_key,
            fingerprints,
            key.bind_time
        ];
        insert.execute(values).map_err(unavailable)?;
    }
    Ok(())
}

fn insert_purchase(
    connection: &Connection,
    row: &PurchaseRow,
    status: Option<&str>,
) -> Result<(), JournalError> {
    let reference = reference(row, status)?;
    let fingerprints = unpacked(&row.fingerprint_key, &row.fingerprints)?;
    let mut insert = connection
        .prepare_cached(INSERT_PURCHASE)
        .map_err(unavailable)?;
    let values = params![
        row.id,
        row.account,
        row.provider,
        row.caller,
        row.key,
        row.labels,
        row.create_time,
        row.revision,
        row.state,
        row.finality,
        row.attention,
        reference,
        row.change_time,
        row.final_time,
        row.fingerprint_key,
        fingerprints,
        row.recovery,
        row.submit_until,
        row.attempt_by,
        row.first_send_time,
        row.sends,
        row.resolution_note,
        row.remnant,
    ];
    insert.execute(values).map_err(unavailable)?;
    let mut labels = connection
        .prepare_cached(INSERT_LABELS)
        .map_err(unavailable)?;
    labels.execute([&row.id]).map(drop).map_err(unavailable)
}

/// The canonical text of a purchase's reference, which its newest status has.
fn reference(row: &PurchaseRow, status: Option<&str>) -> Result<Option<String>, JournalError> {
    let Some(wanted) = &row.reference else {
        return Ok(None);
    };
    let status: Option<Status> = status.and_then(|text| serde_json::from_str(text).ok());
    let text = status
        .and_then(|status| status.reference)
        .map(|one| Reference::canonical(&one));
    let text = text.filter(|text| digest(text) == *wanted);
    let unread = || {
        JournalError::unusable(format_args!(
            "the status of purchase {} cannot be read",
            row.id
        ))
    };
    text.map(Some).ok_or_else(unread)
}

fn digest(reference: &str) -> String {
    hex::encode(Sha256::digest(reference))
}

/// Fingerprints as every store has them, from a column.
fn packed(text: &str) -> Result<String, JournalError> {
    let fields =
        read::macs(text).ok_or_else(|| JournalError::unusable("fingerprints cannot be read"))?;
    let fingerprints = Fingerprints {
        key_id: String::new(),
        fields,
    };
    Ok(hex::encode(encoding::packed(&fingerprints)))
}

/// Fingerprints as a column has them.
fn unpacked(key_id: &str, packed: &str) -> Result<String, JournalError> {
    let fields = hex::decode(packed)
        .ok()
        .and_then(|bytes| encoding::unpacked(&bytes));
    let fields = fields.ok_or_else(|| JournalError::unusable("fingerprints cannot be read"))?;
    let fingerprints = Fingerprints {
        key_id: key_id.to_owned(),
        fields,
    };
    change::macs(&fingerprints).map_err(unavailable)
}

fn unreadable(error: serde_json::Error) -> JournalError {
    JournalError::unusable(format_args!("a row cannot be read: {error}"))
}
