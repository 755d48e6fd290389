//! The schema's migrations (embedded, numbered, checksummed), and the checks of a database before use.

use sha2::{Digest as _, Sha256};

use super::{
    connect::{Asked, Refusal, Session, Trouble},
    row,
};
use crate::{clock::Clock, journal::JournalError};

/// All migrations in order; the first is number 1. A released one is never edited, and neither is a
/// function in it: a changed one gets the next number in its name.
const MIGRATIONS: &[&str] = &[
    include_str!("0001_journal.sql"),
    include_str!("0002_commit.sql"),
    include_str!("0003_opening.sql"),
    include_str!("0004_leases.sql"),
    include_str!("0005_budgets.sql"),
    include_str!("0006_board.sql"),
    include_str!("0007_hints.sql"),
];

/// The number of the last migration that this build knows.
pub(super) fn level() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// The tries to get the locks of a migration. Each waits for [`LOCK_TIMEOUT`], and lets others go on
/// before the next.
const TRIES: usize = 15;
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// The oldest version of the server that has all that is used here.
const SERVER_MIN: i32 = 140_000;

/// Checks the server's settings, and brings the database to this build's schema.
///
/// A newer schema is taken as it is, as long as it says that builds of this level may use it: two
/// releases can run side by side.
pub(super) async fn prepare(session: &mut Session, clock: &Clock) -> Result<(), JournalError> {
    check_settings(session).await?;
    let applied = applied(session).await?;
    for (number, sql) in (1..).zip(MIGRATIONS).skip(applied) {
        apply(session, clock, number, sql).await?;
    }
    // Another process can have been at the same.
    check_applied(session).await.map(drop)
}

/// True if the database has a journal. Refuses another program's.
pub(super) async fn is_there(session: &mut Session) -> Result<bool, JournalError> {
    Ok(applied(session).await? > 0)
}

async fn check_settings(session: &mut Session) -> Result<(), JournalError> {
    const SETTINGS: &str = "SELECT current_setting('server_version_num')::int,
         current_setting('server_encoding'), current_setting('synchronous_commit'),
         current_setting('transaction_isolation')";
    let rows = session.rows(&Asked::Own(SETTINGS, &[])).await;
    let rows = rows.map_err(unusable)?;
    let row = rows.first().ok_or_else(unread)?;
    let version: i32 = row::get(row, 0).map_err(|_| unread())?;
    let text = |index| row::get::<&str>(row, index).map_err(|_| unread());
    let (encoding, durability, isolation) = (text(1)?, text(2)?, text(3)?);
    if version < SERVER_MIN {
        return Err(JournalError::unusable(
            "the server is older than PostgreSQL 14",
        ));
    }
    let rules = [
        ("server_encoding", encoding, &["UTF8"][..]),
        ("synchronous_commit", durability, &["on", "remote_apply"]),
        ("transaction_isolation", isolation, &["read committed"]),
    ];
    for (name, value, allowed) in rules {
        if let [expected, ..] = allowed
            && !allowed.contains(&value)
        {
            return Err(JournalError::unusable(format_args!(
                "its {name} is {value} and must be {expected}"
            )));
        }
    }
    Ok(())
}

/// The number of this build's migrations that the database has.
async fn applied(session: &mut Session) -> Result<usize, JournalError> {
    // `meta` is looked for by its name, since there is nothing else to ask before the first migration.
    const TABLES: &str = "SELECT to_regclass('migration') IS NOT NULL AND to_regclass('meta') IS NOT NULL,
         EXISTS (SELECT FROM pg_class c
             WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm'))";
    const LEVELS: &str = "SELECT value FROM meta WHERE key = 'oldest' AND EXISTS
         (SELECT FROM meta WHERE key = 'application' AND value = 'tillwatch')";
    let rows = session.rows(&Asked::Own(TABLES, &[])).await;
    let rows = rows.map_err(unusable)?;
    let row = rows.first().ok_or_else(unread)?;
    let (has_ours, has_any) = (row.get(0), row.get(1));
    match (has_ours, has_any) {
        (false, false) => return Ok(0),
        (false, true) => return Err(foreign()),
        (true, _) => {}
    }
    let rows = session.rows(&Asked::Own(LEVELS, &[])).await;
    let rows = rows.map_err(unusable)?;
    let oldest: &str = (rows.first().ok_or_else(foreign)?)
        .try_get(0)
        .map_err(|_| unread())?;
    let oldest: usize = oldest.parse().map_err(|_| unread())?;
    if oldest > MIGRATIONS.len() {
        return Err(JournalError::unusable(format_args!(
            "its schema is for builds that know number {oldest} and this build knows up to {}: use \
             the newer build",
            MIGRATIONS.len()
        )));
    }
    check_applied(session).await
}

async fn check_applied(session: &mut Session) -> Result<usize, JournalError> {
    const APPLIED: &str = "SELECT number, checksum FROM migration ORDER BY number";
    let rows = session.rows(&Asked::Own(APPLIED, &[])).await;
    let rows = rows.map_err(unusable)?;
    let mut applied = 0;
    for (row, sql) in rows.iter().zip(MIGRATIONS) {
        let number: i32 = row::get(row, 0).map_err(|_| unread())?;
        let checksum: &str = row::get(row, 1).map_err(|_| unread())?;
        if usize::try_from(number) != Ok(applied + 1) || checksum != digest(sql) {
            return Err(JournalError::unusable(format_args!(
                "migration {} of its schema is not the one of this build",
                applied + 1
            )));
        }
        applied += 1;
    }
    Ok(applied)
}

/// One migration in one transaction: after a crash it is done or it is not. Another process that is at
/// the same gets its turn, and does nothing then.
async fn apply(
    session: &mut Session,
    clock: &Clock,
    number: i32,
    sql: &str,
) -> Result<(), JournalError> {
    let mut left = TRIES;
    loop {
        left -= 1;
        match try_to_apply(session, clock, number, sql).await {
            Err(Trouble::Refused(Refusal::Server, _)) if left > 0 => {
                roll_back(session).await?;
            }
            Err(trouble) => return Err(unusable(trouble)),
            Ok(()) => return Ok(()),
        }
    }
}

async fn try_to_apply(
    session: &mut Session,
    clock: &Clock,
    number: i32,
    sql: &str,
) -> Result<(), Trouble> {
    session.execute("BEGIN").await?;
    session.execute(LOCK_TIMEOUT).await?;
    session
        .execute("SELECT pg_advisory_xact_lock(3, 1)")
        .await?;
    if number == 1 {
        session
            .execute(
                "CREATE TABLE IF NOT EXISTS migration (
                     number integer PRIMARY KEY,
                     checksum text COLLATE \"C\" NOT NULL,
                     apply_time bigint NOT NULL
                 )",
            )
            .await?;
    }
    const CLAIM: &str = "INSERT INTO migration (number, checksum, apply_time) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING RETURNING number";
    let now = clock.now().as_millis();
    let claimed = session
        .rows(&Asked::Own(CLAIM, &[&number, &digest(sql), &now]))
        .await?;
    if !claimed.is_empty() {
        session.execute(sql).await?;
        if number == 1 {
            const META: &str = "INSERT INTO meta (key, value)
                 VALUES ('application', 'tillwatch'), ('epoch', $1), ('schema', '0'), ('oldest', '0')";
            let epoch = clock.uuid().simple().to_string();
            session.rows(&Asked::Own(META, &[&epoch])).await?;
        }
        // Every level so far needs the newest functions: no older build may open the database.
        const LEVEL: &str = "UPDATE meta SET value = $1 WHERE key IN ('schema', 'oldest')";
        session
            .rows(&Asked::Own(LEVEL, &[&number.to_string()]))
            .await?;
    }
    session.execute("COMMIT").await
}

async fn roll_back(session: &mut Session) -> Result<(), JournalError> {
    session.execute("ROLLBACK").await.map_err(unusable)
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn unusable(trouble: Trouble) -> JournalError {
    JournalError::unusable(trouble.error())
}

fn unread() -> JournalError {
    JournalError::unusable("it does not say what it is")
}

fn foreign() -> JournalError {
    JournalError::unusable("the database has tables of another program: give this one its own")
}
