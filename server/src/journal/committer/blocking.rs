//! A store whose calls block, beside the event loop.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Change, Group, Store};
use crate::journal::JournalError;

/// A store like [`Store`], whose methods may block.
pub(in crate::journal) trait BlockingStore: Send + 'static {
    /// Applies all parts in one transaction; an error means that none is done.
    fn commit(&mut self, changes: Vec<Change>) -> Result<Group, JournalError>;

    /// Commits something small of its own, to learn if the store works again.
    fn probe(&mut self) -> Result<(), JournalError>;

    /// Closes the store; no other call follows.
    fn close(&mut self);
}

/// A store whose calls run in `spawn_blocking`, which holds tokio's paused time still.
///
/// Each use of the lock is one call, and only the committing task makes them, one after another.
pub(in crate::journal) struct Blocks<S>(Arc<Mutex<S>>);

impl<S: BlockingStore> Blocks<S> {
    pub(in crate::journal) fn new(store: S) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let store = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            work(&mut store.lock().unwrap_or_else(PoisonError::into_inner))
        });
        (task.await).unwrap_or_else(|error| Err(JournalError::unavailable(error)))
    }
}

impl<S: BlockingStore> Store for Blocks<S> {
    async fn commit(&mut self, changes: Vec<Change>) -> Result<Group, JournalError> {
        self.call(move |store| store.commit(changes)).await
    }

    async fn probe(&mut self) -> Result<(), JournalError> {
        self.call(S::probe).await
    }

    async fn close(&mut self) {
        let closed = self.call(|store| {
            store.close();
            Ok(())
        });
        // A close that panicked has closed nothing more, and the process goes on to its end.
        closed.await.ok();
    }
}
