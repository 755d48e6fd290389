//! Rows to values, and every query that answers a read.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, Result, Row, ToSql, types::Type};
use serde::de::DeserializeOwned;

use crate::{
    journal::{
        Attempt, AttemptId, Committed, Fingerprints, Position, Record, damage::Damage, rules,
    },
    purchase::{
        AccountName, CallerName, Cause, Purchase, PurchaseId, Reference, Revision, State, Status,
        Timestamp, Transition,
    },
};

/// The columns that [`purchase`] reads, before a status.
macro_rules! purchase_columns {
    () => {
        "p.id, p.account, p.provider, p.caller, p.key, p.labels, p.create_time"
    };
}
pub(super) use purchase_columns;

/// A query of whole records.
macro_rules! record_query {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            purchase_columns!(),
            ", coalesce(p.remnant, t.status), a.action, p.fingerprint_key, p.fingerprints,
               p.recovery, p.submit_until, p.attempt_by, p.first_send_time, p.sends,
               p.change_time, p.resolution_note
             FROM purchase p
             LEFT JOIN transition_log t ON t.purchase = p.id AND t.revision = p.revision
             LEFT JOIN buyer_action a ON a.purchase = p.id AND a.revision = p.revision ",
            $rest
        )
    };
}

/// A query along the log: CROSS JOIN fixes the order of the loops, never along the purchases.
macro_rules! tail_query {
    ($where:literal) => {
        concat!(
            "SELECT ",
            purchase_columns!(),
            ", t.status, t.position, t.from_state, t.cause FROM transition_log t
             CROSS JOIN purchase p ON p.id = t.purchase WHERE ",
            $where,
            " ORDER BY t.position LIMIT ?3"
        )
    };
}

const RECORD: &str = record_query!("WHERE p.id = ?1 AND p.remnant IS NULL");
const RECORD_OR_REMNANT: &str = record_query!("WHERE p.id = ?1");
const BOUND_KEY: &str = "SELECT purchase, fingerprint_key, fingerprints FROM bound_key
     WHERE caller = ?1 AND key = ?2";
const RECORD_BY_KEY: &str = record_query!("WHERE p.caller = ?1 AND p.key = ?2");
const OPEN_RECORDS: &str =
    record_query!("WHERE p.id >= ?1 AND p.finality <> 'FINAL' ORDER BY p.id");
const BY_REFERENCE: &str = "SELECT id FROM purchase WHERE account = ?1 AND reference = ?2
     AND reference IS NOT NULL AND remnant IS NULL";
const TRANSITIONS: &str = "SELECT t.status, a.action, t.from_state, t.cause FROM transition_log t
     LEFT JOIN buyer_action a ON a.purchase = t.purchase AND a.revision = t.revision
     WHERE t.purchase = ?1 AND t.revision > ?2 ORDER BY t.revision LIMIT ?3";
const TEXT: &str = "SELECT value FROM kept_text WHERE key = ?1";
const TAIL: &str = tail_query!("t.position > ?1 AND t.position <= ?2");
const TAIL_OF_CALLER: &str = tail_query!("t.caller = ?4 AND t.position > ?1 AND t.position <= ?2");

/// A purchase's id in a row: big-endian, so that rows are ordered as ids are.
pub(super) fn id_bytes(id: PurchaseId) -> [u8; 16] {
    id.as_u128().to_be_bytes()
}

/// A row's id.
pub(super) fn id_of(bytes: [u8; 16]) -> PurchaseId {
    PurchaseId::from_u128(u128::from_be_bytes(bytes))
}

/// A count or position as SQLite has it.
pub(super) fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

pub(super) fn record(
    connection: &Connection,
    damage: &Damage,
    id: PurchaseId,
) -> Result<Option<Record>> {
    connection
        .prepare_cached(RECORD)?
        .query_row([id_bytes(id)], |row| damage.of_row(row, read_record))
        .optional()
}

pub(super) fn record_by_key(
    connection: &Connection,
    damage: &Damage,
    caller: &str,
    key: &str,
) -> Result<Option<Record>> {
    let own = connection
        .prepare_cached(RECORD_BY_KEY)?
        .query_row([caller, key], |row| damage.of_row(row, read_record))
        .optional()?;
    if own.is_some() {
        return Ok(own);
    }
    let bound = connection
        .prepare_cached(BOUND_KEY)?
        .query_row([caller, key], |row| {
            let id: [u8; 16] = row.get(0)?;
            damage.of_row(row, |row| Ok((id, fingerprints(row, 1)?)))
        })
        .optional()?;
    let Some((id, fingerprints)) = bound else {
        return Ok(None);
    };
    let record = connection
        .prepare_cached(RECORD_OR_REMNANT)?
        .query_row([id], |row| damage.of_row(row, read_record))
        .optional()?;
    Ok(record.map(|record| Record {
        fingerprints,
        ..record
    }))
}

pub(super) fn purchase_by_reference(
    connection: &Connection,
    account: &str,
    reference: &str,
) -> Result<Option<PurchaseId>> {
    connection
        .prepare_cached(BY_REFERENCE)?
        .query_row([account, reference], |row| row.get(0).map(id_of))
        .optional()
}

pub(super) fn open_records(
    connection: &Connection,
    damage: &Damage,
    after: Option<PurchaseId>,
    limit: usize,
) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    let Some(from) = after.map_or(Some(0), |id| id.as_u128().checked_add(1)) else {
        return Ok(found);
    };
    let mut statement = connection.prepare_cached(OPEN_RECORDS)?;
    let mut rows = statement.query([from.to_be_bytes()])?;
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        found.extend(damage.skips(row, read_record)?);
    }
    Ok(found)
}

pub(super) fn transitions(
    connection: &Connection,
    damage: &Damage,
    id: PurchaseId,
    after: Revision,
    limit: usize,
) -> Result<Vec<Transition>> {
    connection
        .prepare_cached(TRANSITIONS)?
        .query_map((id_bytes(id), after.0, integer(limit)), |row| {
            damage.note(id, read_transition(row))
        })?
        .collect()
}

fn read_transition(row: &Row<'_>) -> Result<Transition> {
    let mut status: Status = json(row, 0)?;
    status.buyer_action = optional_json(row, 1)?;
    Ok(Transition {
        from_state: optional_word(row, 2, State::from_text)?,
        status,
        cause: word(row, 3, Cause::from_text)?,
    })
}

pub(super) fn tail(
    connection: &Connection,
    damage: &Damage,
    caller: Option<&CallerName>,
    after: Position,
    head: Position,
    limit: usize,
) -> Result<(Vec<Arc<Committed>>, Position)> {
    let sql = match caller {
        Some(_) => TAIL_OF_CALLER,
        None => TAIL,
    };
    let (from, to, most) = (integer(after.0), integer(head.0), integer(limit));
    let caller = caller.map(CallerName::as_str);
    let mut values: Vec<&dyn ToSql> = vec![&from, &to, &most];
    values.extend(caller.as_ref().map(|caller| caller as &dyn ToSql));
    let mut found = Vec::new();
    let (mut last, mut seen) = (None, 0);
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values.as_slice())?;
    while let Some(row) = rows.next()? {
        seen += 1;
        last = Some(position(row, 8)?);
        found.extend(damage.skips(row, read_committed)?.map(Arc::new));
    }
    let is_full = seen >= limit;
    let through = rules::searched_through(after, head, last, is_full);
    Ok((found, through))
}

pub(super) fn get(connection: &Connection, key: &str) -> Result<Option<String>> {
    connection
        .prepare_cached(TEXT)?
        .query_row([key], |row| row.get(0))
        .optional()
}

/// The newest position ever committed, even if its transition has been retired.
pub(super) fn head(connection: &Connection) -> Result<u64> {
    connection.query_row(
        "SELECT max((SELECT coalesce(max(position), 0) FROM transition_log),
                    (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'head'))",
        [],
        |row| {
            row.get::<_, i64>(0)
                .map(|head| u64::try_from(head).unwrap_or(0))
        },
    )
}

pub(super) fn epoch(connection: &Connection) -> Result<String> {
    connection.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| {
        row.get(0)
    })
}

/// A purchase whose columns are the row's first seven.
pub(super) fn purchase(row: &Row<'_>, status: Status) -> Result<Purchase> {
    let text = |index| row.get_ref(index).and_then(|value| Ok(value.as_str()?));
    Ok(Purchase {
        id: id_of(row.get(0)?),
        account: AccountName::new(text(1)?),
        provider: Arc::from(text(2)?),
        caller: CallerName::new(text(3)?),
        idempotency_key: Arc::from(text(4)?),
        labels: Arc::new(json(row, 5)?),
        create_time: timestamp(row, 6)?,
        status: Arc::new(status),
    })
}

fn read_record(row: &Row<'_>) -> Result<Record> {
    let mut status: Status = json(row, 7)?;
    status.buyer_action = optional_json(row, 8)?;
    let submit_until = optional_timestamp(row, 12)?;
    let by = attempt_id(row, 13)?;
    Ok(Record {
        purchase: purchase(row, status)?,
        fingerprints: fingerprints(row, 9)?,
        recovery: json(row, 11)?,
        attempt: (by.zip(submit_until)).map(|(by, submit_until)| Attempt { by, submit_until }),
        first_send_time: optional_timestamp(row, 14)?,
        sends: row.get(15)?,
        change_time: timestamp(row, 16)?,
        resolution_note: row.get(17)?,
    })
}

/// The id of an attempt in a row.
pub(super) fn attempt_id(row: &Row<'_>, index: usize) -> Result<Option<AttemptId>> {
    let bytes: Option<[u8; 16]> = row.get(index)?;
    Ok(bytes.map(|bytes| AttemptId(u128::from_be_bytes(bytes))))
}

/// The fingerprints in two columns: the key's name, and the fields'.
fn fingerprints(row: &Row<'_>, index: usize) -> Result<Fingerprints> {
    let text = row.get_ref(index + 1)?.as_str()?;
    Ok(Fingerprints {
        key_id: row.get(index)?,
        fields: macs(text).ok_or_else(|| unreadable(index + 1, NoFingerprints))?,
    })
}

/// The fields of fingerprints in a column; `None` if it has none.
pub(super) fn macs(text: &str) -> Option<BTreeMap<String, [u8; 32]>> {
    let fields: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    (fields.into_iter())
        .map(|(name, text)| {
            let mut mac = [0; 32];
            hex::decode_to_slice(text, &mut mac).ok()?;
            Some((name, mac))
        })
        .collect()
}

fn read_committed(row: &Row<'_>) -> Result<Committed> {
    let status = json(row, 7)?;
    Ok(Committed {
        position: position(row, 8)?,
        purchase: purchase(row, status)?,
        from_state: optional_word(row, 9, State::from_text)?,
        cause: word(row, 10, Cause::from_text)?,
    })
}

fn position(row: &Row<'_>, index: usize) -> Result<Position> {
    let position = u64::try_from(row.get::<_, i64>(index)?);
    (position.map(Position)).map_err(|error| unreadable(index, error))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    serde_json::from_str(text).map_err(|error| unreadable(index, error))
}

fn optional_json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> Result<Option<T>> {
    let Some(text) = row.get_ref(index)?.as_str_or_null()? else {
        return Ok(None);
    };
    serde_json::from_str(text).map_err(|error| unreadable(index, error))
}

pub(super) fn timestamp(row: &Row<'_>, index: usize) -> Result<Timestamp> {
    Timestamp::from_millis(row.get(index)?).map_err(|error| unreadable(index, error))
}

fn optional_timestamp(row: &Row<'_>, index: usize) -> Result<Option<Timestamp>> {
    let millis: Option<i64> = row.get(index)?;
    let time = millis.map(Timestamp::from_millis).transpose();
    time.map_err(|error| unreadable(index, error))
}

/// A word of one of the closed lists.
pub(super) fn word<T>(row: &Row<'_>, index: usize, read: fn(&str) -> Option<T>) -> Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    read(text).ok_or_else(|| unreadable(index, UnknownWord))
}

fn optional_word<T>(row: &Row<'_>, index: usize, read: fn(&str) -> Option<T>) -> Result<Option<T>> {
    if row.get_ref(index)?.as_str_or_null()?.is_none() {
        return Ok(None);
    }
    word(row, index, read).map(Some)
}

/// A reference as rows compare it.
pub(super) fn reference_text(reference: Option<&Reference>) -> Option<String> {
    reference.map(Reference::canonical)
}

#[derive(Debug, thiserror::Error)]
#[error("no fingerprints")]
struct NoFingerprints;

#[derive(Debug, thiserror::Error)]
#[error("not a word of this build")]
struct UnknownWord;

fn unreadable(
    index: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::{clock::Clock, journal::sqlite::file};

    #[test]
    fn each_statement_is_prepared_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let clock = runtime.block_on(async { Clock::simulated(Timestamp::default(), 1) });
        let opened = file::open(&path, &clock).unwrap();
        let reader = file::reader(&path).unwrap();
        let (id, caller, damage) = (
            PurchaseId::from_u128(1),
            CallerName::new("shop"),
            Damage::default(),
        );
        let (from, to) = (Position(0), Position(9));
        for connection in [&reader, &opened.writer] {
            for _ in 0..10 {
                record(connection, &damage, id).unwrap();
                record_by_key(connection, &damage, "shop", "key").unwrap();
                purchase_by_reference(connection, "main", "reference").unwrap();
                open_records(connection, &damage, Some(id), 10).unwrap();
                transitions(connection, &damage, id, Revision(0), 10).unwrap();
                tail(connection, &damage, None, from, to, 10).unwrap();
                tail(connection, &damage, Some(&caller), from, to, 10).unwrap();
                get(connection, "key").unwrap();
            }
            for sql in [
                RECORD,
                RECORD_BY_KEY,
                BY_REFERENCE,
                OPEN_RECORDS,
                TRANSITIONS,
                TAIL,
                TAIL_OF_CALLER,
                TEXT,
            ] {
                let statement = connection.prepare_cached(sql).unwrap();
                assert_eq!(statement.get_status(StatementStatus::Run), 10, "{sql}");
                assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
            }
        }
    }
}
