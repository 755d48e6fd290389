//! `migrate`: the journal moves to another store.

use super::StartError;
use crate::{
    clock::Clock,
    config::Database,
    journal::{
        JournalError, Movable, Moved, move_all, postgres::MovingDatabase, sqlite::MovingFile,
    },
};

/// Moves all of a journal to another store, or goes on with a move that was cut off. Takes as long as the disks
/// need. No server may have either of them.
///
/// # Errors
/// See [`StartError`]. Until it succeeds the target refuses to serve; from then on the source does.
pub async fn migrate(from: &Database, to: &Database) -> Result<Moved, StartError> {
    let clock = Clock::system();
    let mut source = open(from, true, &clock).await?;
    let moved = match open(to, false, &clock).await {
        Ok(mut target) => {
            let moved = move_all(&mut *source, &mut *target).await;
            target.close().await;
            moved
        }
        Err(error) => Err(error),
    };
    source.close().await;
    Ok(moved?)
}

async fn open(
    database: &Database,
    is_source: bool,
    clock: &Clock,
) -> Result<Box<dyn Movable>, JournalError> {
    Ok(match database {
        Database::Sqlite(file) => Box::new(MovingFile::open(file, is_source, clock)?),
        Database::Postgres(settings) => {
            Box::new(MovingDatabase::open(settings, is_source, clock).await?)
        }
    })
}
