//! The file: its lock, its connections and their settings.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use crate::{clock::Clock, journal::JournalError};

use super::{moving, read, schema};

/// The longest wait of a connection for another connection's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Distinct statements of one connection, so that each is prepared once.
const STATEMENTS_MAX: usize = 64;

/// An open file.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) path: PathBuf,
    pub(super) lock: File,
    pub(super) head: u64,
    pub(super) epoch: String,
}

/// Locks, opens, migrates and checks a file that may serve.
pub(super) fn open(path: &Path, clock: &Clock) -> Result<Opened, JournalError> {
    let opened = take(path, clock)?;
    let marks = moving::marks(&opened.writer).map_err(schema::unusable)?;
    marks.allow_to_serve()?;
    Ok(opened)
}

/// The same of a file that a move may be at.
pub(super) fn take(path: &Path, clock: &Clock) -> Result<Opened, JournalError> {
    create(path).map_err(cannot_write)?;
    // The file gets one name, so that no link leads around the lock.
    let path = fs::canonicalize(path).map_err(cannot_write)?;
    let lock = lock(&path)?;
    let mut writer = connect(&path).map_err(schema::unusable)?;
    if writer.is_readonly("main").map_err(schema::unusable)? {
        return Err(JournalError::unusable("it cannot be written: read-only"));
    }
    // This comes before all settings, some of which write: a file that is not ours stays as it is.
    let applied = schema::applied(&writer)?;
    configure(&writer)?;
    schema::migrate(&mut writer, clock, applied)?;
    schema::check(&writer)?;
    Ok(Opened {
        head: read::head(&writer).map_err(schema::unusable)?,
        epoch: read::epoch(&writer).map_err(schema::unusable)?,
        writer,
        path,
        lock,
    })
}

/// A connection that only reads.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = opened(path, flags)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// A connection that checkpoints.
pub(super) fn checkpointer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    settings(&connection)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    opened(path, flags)
}

fn opened(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Without it the cache's clearing of bindings makes SQLite prepare a statement anew at each use,
    // since a plan could depend on the bound values.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), JournalError> {
    let mode = settings(connection).map_err(schema::unusable)?;
    if mode != "wal" {
        return Err(JournalError::unusable(
            "its file system cannot hold a write-ahead log: use a local one",
        ));
    }
    Ok(())
}

/// Applies the settings and returns the journal mode that resulted.
fn settings(connection: &Connection) -> rusqlite::Result<String> {
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A wiped buyer action must not stay in the free parts of the file.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(()))?;
    Ok(mode)
}

/// Makes the file if there is none, for its owner alone; SQLite gives its log the same mode.
fn create(path: &Path) -> std::io::Result<()> {
    private(OpenOptions::new().write(true).create(true).truncate(false)).open(path)?;
    Ok(())
}

/// Makes a file that must not exist yet, for its owner alone.
pub(super) fn create_new(path: &Path) -> std::io::Result<()> {
    private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    Ok(())
}

#[cfg(unix)]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(not(unix))]
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

fn lock(path: &Path) -> Result<File, JournalError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false);
    let lock = private(options).open(&name).map_err(cannot_write)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => JournalError::unusable("another process has it"),
        TryLockError::Error(error) => {
            JournalError::unusable(format_args!("it cannot be locked: {error}"))
        }
    })?;
    Ok(lock)
}

fn cannot_write(error: std::io::Error) -> JournalError {
    JournalError::unusable(format_args!("it cannot be written: {error}"))
}
