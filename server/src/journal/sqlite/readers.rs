//! The reading connections, opened as they are needed: so many at a time, in turn.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, Result};
use tokio::sync::Semaphore;

use super::{damage, file, write::unavailable};
use crate::journal::JournalError;

/// The reason why there is no answer.
pub(super) enum ReadError {
    /// A row cannot be read: the store is well.
    Row(JournalError),
    /// The store failed.
    Failed(JournalError),
    Closed,
}

impl ReadError {
    /// The meaning of SQLite's error.
    fn of(error: rusqlite::Error) -> Self {
        match damage::column(&error) {
            Some(_) => Self::Row(unavailable(error)),
            None => Self::Failed(unavailable(error)),
        }
    }
}

/// Connections for reads of one kind.
pub(super) struct Readers {
    path: PathBuf,
    most: u32,
    permits: Arc<Semaphore>,
    /// A connection is taken and put back in a few nanoseconds, and never used under the lock.
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Readers")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Readers {
    /// Room for `most` reads at a time.
    pub(super) fn new(path: PathBuf, most: u32) -> Self {
        Self {
            path,
            most,
            permits: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(1))),
            idle: Arc::default(),
        }
    }

    /// Reads in turn. A read that has begun goes on even if its caller goes away.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, ReadError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| ReadError::Closed)?;
        let (path, idle) = (self.path.clone(), Arc::clone(&self.idle));
        let task = tokio::task::spawn_blocking(move || {
            let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match taken {
                Some(connection) => connection,
                None => file::reader(&path).map_err(ReadError::of)?,
            };
            let answer = read(&connection).map_err(ReadError::of);
            // A connection that has failed is not used again: its file may have been replaced.
            if !matches!(answer, Err(ReadError::Failed(_))) {
                let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.push(connection);
            }
            // Held until here even if the caller has gone away.
            drop(permit);
            answer
        });
        (task.await)
            .unwrap_or_else(|error| Err(ReadError::Failed(JournalError::unavailable(error))))
    }

    /// Waits for the reads under way, then closes.
    pub(super) async fn close(&self) {
        let permits = self.permits.acquire_many(self.most).await;
        self.permits.close();
        drop(permits);
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(idle);
    }
}
