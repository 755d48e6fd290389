//! The schema's migrations (embedded, numbered, checksummed), and the checks of a file before use.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use sha2::{Digest as _, Sha256};

use crate::{clock::Clock, journal::JournalError};

/// "TILL", in the file's header: any other file is somebody else's.
pub(super) const APPLICATION_ID: i64 = 0x5449_4C4C;

/// All migrations in order; the first is number 1. A released one is never edited.
const MIGRATIONS: &[&str] = &[
    include_str!("0001_journal.sql"),
    include_str!("0002_lists.sql"),
    include_str!("0003_bound_keys.sql"),
    include_str!("0004_age.sql"),
    include_str!("0005_sends.sql"),
    include_str!("0006_attempts.sql"),
];

/// The size up to which an opening checks the whole file: about a second's reading.
const CHECKED_BYTES_MAX: i64 = 256 * 1024 * 1024;

/// Every part of the schema that is not SQLite's own.
const SCHEMA_TEXT: &str = "SELECT coalesce(group_concat(sql, ';' ORDER BY name), '')
    FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";

/// The number of migrations that the file has. The error says why it is no file of this build.
pub(super) fn applied(connection: &Connection) -> Result<usize, JournalError> {
    let applied = version(connection).map_err(unusable)?;
    check_owner(connection, applied)?;
    let known = MIGRATIONS.len();
    if applied > known {
        return Err(JournalError::unusable(format_args!(
            "its schema is number {applied} and this build knows up to {known}: use the newer build"
        )));
    }
    if applied > 0 {
        check_applied(connection, applied)?;
    }
    Ok(applied)
}

/// Brings the file to this build's schema.
pub(super) fn migrate(
    connection: &mut Connection,
    clock: &Clock,
    applied: usize,
) -> Result<(), JournalError> {
    for (number, sql) in (1..).zip(MIGRATIONS).skip(applied) {
        apply(connection, clock, number, sql).map_err(unusable)?;
    }
    Ok(())
}

/// Looks for damage: all of a small file, the way into each table of a large one.
pub(super) fn check(connection: &Connection) -> Result<(), JournalError> {
    let bytes: i64 = connection
        .query_row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            [],
            |row| row.get(0),
        )
        .map_err(unusable)?;
    if bytes <= CHECKED_BYTES_MAX {
        let found: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(unusable)?;
        if found != "ok" {
            return Err(damaged(&found));
        }
    }
    for sql in [
        "SELECT count(*) FROM (SELECT * FROM purchase ORDER BY id DESC LIMIT 1)",
        "SELECT count(*) FROM (SELECT * FROM transition_log ORDER BY position DESC LIMIT 1)",
        "SELECT count(*) FROM (SELECT * FROM buyer_action LIMIT 1)",
        "SELECT count(*) FROM (SELECT * FROM purchase_label LIMIT 1)",
        "SELECT count(*) FROM (SELECT * FROM kept_text LIMIT 1)",
        "SELECT count(*) FROM (SELECT * FROM bound_key LIMIT 1)",
    ] {
        (connection.query_row(sql, [], |row| row.get::<_, i64>(0))).map_err(unusable)?;
    }
    Ok(())
}

/// The error of a failed opening, in words that say what to do.
pub(super) fn unusable(error: rusqlite::Error) -> JournalError {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, NotADatabase, PermissionDenied,
        ReadOnly,
    };
    match error.sqlite_error_code() {
        Some(NotADatabase) => damaged("it is not an SQLite database"),
        Some(DatabaseCorrupt) => damaged(&error.to_string()),
        Some(DatabaseBusy | DatabaseLocked) => {
            JournalError::unusable(format_args!("another process uses it: {error}"))
        }
        Some(CannotOpen | PermissionDenied | ReadOnly) => {
            JournalError::unusable(format_args!("it cannot be written: {error}"))
        }
        _ => JournalError::unusable(error),
    }
}

fn damaged(how: &str) -> JournalError {
    JournalError::unusable(format_args!(
        "the file is damaged ({how}): restore it from a backup"
    ))
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

fn check_owner(connection: &Connection, applied: usize) -> Result<(), JournalError> {
    let owner: i64 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(unusable)?;
    let is_empty = schema_digest(connection).map_err(unusable)? == digest("");
    let is_ours = owner == APPLICATION_ID && applied > 0;
    let is_new = owner == 0 && applied == 0 && is_empty;
    if is_ours || is_new {
        return Ok(());
    }
    Err(JournalError::unusable(
        "the file is a database of another program",
    ))
}

fn check_applied(connection: &Connection, applied: usize) -> Result<(), JournalError> {
    for (number, sql) in (1_i64..).zip(MIGRATIONS).take(applied) {
        let checksum: Option<String> = connection
            .query_row(
                "SELECT checksum FROM migration WHERE number = ?1",
                [number],
                |row| row.get(0),
            )
            .optional()
            .map_err(unusable)?;
        if checksum != Some(digest(sql)) {
            return Err(JournalError::unusable(format_args!(
                "migration {number} of its schema is not the one of this build"
            )));
        }
    }
    let recorded: String = connection
        .query_row(
            "SELECT schema_digest FROM migration ORDER BY number DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .map_err(unusable)?;
    if recorded != schema_digest(connection).map_err(unusable)? {
        return Err(JournalError::unusable(
            "its schema was altered by hand: undo that, or restore it from a backup",
        ));
    }
    Ok(())
}

/// One migration in one transaction: after a crash it is done or it is not.
fn apply(
    connection: &mut Connection,
    clock: &Clock,
    number: i64,
    sql: &str,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    if number == 1 {
        transaction.execute_batch(
            "CREATE TABLE migration (
                 number INTEGER PRIMARY KEY,
                 checksum TEXT NOT NULL,
                 schema_digest TEXT NOT NULL,
                 apply_time INTEGER NOT NULL
             ) STRICT",
        )?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.execute_batch(sql)?;
    if number == 1 {
        transaction.execute(
            "INSERT INTO meta (key, value) VALUES ('epoch', ?1), ('head', '0'), ('probe', '0')",
            [clock.uuid().simple().to_string()],
        )?;
    }
    let schema = schema_digest(&transaction)?;
    transaction.execute(
        "INSERT INTO migration (number, checksum, schema_digest, apply_time)
         VALUES (?1, ?2, ?3, ?4)",
        (number, digest(sql), schema, clock.now().as_millis()),
    )?;
    transaction.pragma_update(None, "user_version", number)?;
    transaction.commit()
}

fn schema_digest(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row(SCHEMA_TEXT, [], |row| {
        row.get::<_, String>(0).map(|text| digest(&text))
    })
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purchase::Timestamp;

    /// A purchase of the first schema; its number is also its time.
    const OLD_PURCHASE: &str = "INSERT INTO purchase (id, account, provider, caller, key, labels,
            create_time, revision, state, finality, change_time, fingerprint_key, fingerprints,
            recovery, remnant)
         VALUES (?1, 'main', 'masumi', 'shop', 'key-' || ?2, ?3, ?2, 1, 'PAID', 'OPEN', ?2, 'k', '{}',
            '{}', ?4)";

    #[tokio::test]
    async fn a_file_of_the_first_schema_is_brought_to_this_one_with_its_labels() {
        let mut connection = Connection::open_in_memory().unwrap();
        let clock = Clock::simulated(Timestamp::default(), 1);
        apply(&mut connection, &clock, 1, MIGRATIONS[0]).unwrap();
        let old = [
            (1_i64, r#"{"a":"1","say \"b\"":"é"}"#, None),
            (2, "{}", None),
            (3, r#"{"a":"1"}"#, Some("{}")),
        ];
        for (number, labels, remnant) in old {
            let id = i128::from(number).to_be_bytes();
            let values = rusqlite::params![id, number, labels, remnant];
            connection.execute(OLD_PURCHASE, values).unwrap();
        }
        let applied = applied(&connection).unwrap();
        assert_eq!(applied, 1);
        migrate(&mut connection, &clock, applied).unwrap();
        let mut statement = connection
            .prepare("SELECT caller, key, value, create_time FROM purchase_label ORDER BY key")
            .unwrap();
        let labels = statement.query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        let labels: Vec<(String, String, String, i64)> =
            labels.unwrap().collect::<rusqlite::Result<_>>().unwrap();
        let of = |key: &str, value: &str| ("shop".to_owned(), key.to_owned(), value.to_owned(), 1);
        // A remnant is in no list.
        assert_eq!(labels, [of("a", "1"), of("say \"b\"", "é")]);
        assert_eq!(super::applied(&connection).unwrap(), MIGRATIONS.len());
    }
}
