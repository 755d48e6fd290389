//! A copy of the journal of one moment, also while it is in use.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};

use super::{file, schema};
use crate::journal::JournalError;

/// Copies the journal in `from` into the new file `to`, for its owner alone, and returns once that is
/// durable. Nothing is locked: a server that writes goes on, and its later commits are not in the
/// copy. Takes as long as the disk needs for the bytes. Blocks.
///
/// # Errors
/// [`JournalError::Unusable`] if `from` is no journal of this build, or if `to` cannot be written or
/// exists already; nothing is left behind then.
pub fn back_up(from: &Path, to: &Path) -> Result<(), JournalError> {
    if !from.exists() {
        return Err(JournalError::unusable("there is no journal"));
    }
    let source = file::reader(from).map_err(schema::unusable)?;
    if schema::applied(&source)? == 0 {
        return Err(JournalError::unusable("it is empty"));
    }
    file::create_new(to).map_err(|error| cannot_write(&error))?;
    let copied = copy(&source, to);
    if copied.is_err() {
        // This call made the file a moment ago; half of a journal is worth nothing.
        fs::remove_file(to).ok();
    }
    copied
}

fn copy(source: &Connection, to: &Path) -> Result<(), JournalError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(to, flags).map_err(schema::unusable)?;
    // Nobody reads the copy before it is whole and synced below, so it needs no journal of its own.
    target
        .query_row("PRAGMA journal_mode = OFF", [], |_| Ok(()))
        .and_then(|()| target.pragma_update(None, "synchronous", "OFF"))
        .map_err(schema::unusable)?;
    // All pages go in one step, which is one read transaction: no commit meanwhile makes it begin
    // again.
    let step = Backup::new(source, &mut target).and_then(|backup| backup.step(-1));
    if step.map_err(schema::unusable)? != StepResult::Done {
        return Err(JournalError::unusable("another process has it locked"));
    }
    target
        .close()
        .map_err(|(_, error)| schema::unusable(error))?;
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(|error| cannot_write(&error))
}

fn cannot_write(error: &io::Error) -> JournalError {
    JournalError::unusable(format_args!("the copy cannot be written: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{
        clock::Clock,
        journal::{Journal as _, Write, sqlite::SqliteJournal},
        purchase::Timestamp,
    };

    fn put(key: u32) -> Write {
        Write::Put {
            key: key.to_string(),
            fence: None,
            value: "x".repeat(10_000),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_backup_of_a_busy_journal_is_of_one_moment_and_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.db"), folder.path().join("b.db"));
        let clock = Clock::simulated(Timestamp::default(), 1);
        let journal = SqliteJournal::open(&from, &clock).await.unwrap();
        for key in 0..200 {
            journal.write(put(key)).await.unwrap();
        }
        let task = tokio::task::spawn_blocking({
            let to = to.clone();
            move || back_up(&from, &to)
        });
        let mut written = 200;
        while !task.is_finished() {
            journal.write(put(written)).await.unwrap();
            written += 1;
        }
        task.await.unwrap().unwrap();
        assert_eq!(
            fs::metadata(&to).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let copy = SqliteJournal::open(&to, &clock).await.unwrap();
        assert_eq!(copy.epoch(), journal.epoch());
        let mut is_there = true;
        for key in 0..written {
            let kept = copy.get(&key.to_string()).await.unwrap().is_some();
            assert!(kept || key >= 200, "{key} was there before");
            assert!(is_there || !kept, "{key} is there, an earlier one is not");
            is_there = kept;
        }
    }

    #[tokio::test]
    async fn what_is_no_journal_is_not_backed_up_and_what_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let refused = |from: &str, to: &str, expected: &str| {
            let error = back_up(&path(from), &path(to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused("missing.db", "b.db", "no journal");
        let other = Connection::open(path("other.db")).unwrap();
        other.execute_batch("CREATE TABLE theirs (id)").unwrap();
        refused("other.db", "b.db", "another program");
        let clock = Clock::simulated(Timestamp::default(), 1);
        let journal = SqliteJournal::open(&path("a.db"), &clock).await.unwrap();
        fs::write(path("kept"), "kept").unwrap();
        refused("a.db", "kept", "exists");
        assert_eq!(fs::read_to_string(path("kept")).unwrap(), "kept");
        assert!(!path("b.db").exists());
        // A stopped server leaves the file like this.
        journal.close().await;
        back_up(&path("a.db"), &path("b.db")).unwrap();
    }
}
