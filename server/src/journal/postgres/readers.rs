//! The connections for reads: opened as they are needed, so many at a time, in turn.
//!
//! A pool from outside would give room and turns, which are ten lines here. The rest it would not know:
//! that a read is tried once more over a new connection, and that one that is silent is cut off.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_postgres::Row;

use super::{
    connect::{Asked, Connector, Refusal, Session, Trouble},
    read::Asks,
};
use crate::journal::JournalError;

/// The longest wait for a turn.
const TURN_MAX: Duration = Duration::from_secs(2);
/// The longest that a read may take.
const READ_MAX: Duration = Duration::from_secs(10);

/// The reason why there is no answer.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is about this read alone: the store is well.
    Own(JournalError),
    /// The store failed.
    Failed(JournalError),
    Closed,
}

/// Connections for reads of one kind.
#[derive(Debug)]
pub(super) struct Readers {
    connector: Arc<Connector>,
    most: usize,
    permits: Semaphore,
    /// A connection is taken and put back in a few nanoseconds, and never used under the lock.
    idle: Mutex<Vec<Session>>,
}

impl Readers {
    /// Room for `most` reads at a time.
    pub(super) fn new(connector: Arc<Connector>, most: usize) -> Self {
        Self {
            connector,
            most,
            permits: Semaphore::new(most),
            idle: Mutex::default(),
        }
    }

    /// Reads in turn. A read whose connection broke is tried once more over a new one.
    ///
    /// # Cancel safety
    /// The connection of a read that nobody waits for any more is used by others after it.
    async fn rows(&self, statement: &Asked<'_>) -> Result<Vec<Row>, ReadError> {
        let turn = tokio::time::timeout(TURN_MAX, self.permits.acquire()).await;
        let Ok(turn) = turn else {
            let busy = JournalError::unavailable("all connections for reads are busy");
            return Err(ReadError::Own(busy));
        };
        let _permit = turn.map_err(|_| ReadError::Closed)?;
        let session = match self.idle() {
            Some(session) => session,
            None => self.connector.connect().await.map_err(meaning)?,
        };
        match self.over(session, statement).await {
            Err(Trouble::Lost(_)) => {}
            answer => return answer.map_err(meaning),
        }
        let session = self.connector.connect().await.map_err(meaning)?;
        self.over(session, statement).await.map_err(meaning)
    }

    async fn over(&self, session: Session, statement: &Asked<'_>) -> Result<Vec<Row>, Trouble> {
        let mut lent = Lent {
            readers: self,
            session: Some(session),
        };
        let Some(session) = &mut lent.session else {
            return Err(Trouble::lost("it is lent to somebody else"));
        };
        let answer = tokio::time::timeout(READ_MAX, session.rows(statement)).await;
        let answer = answer.unwrap_or_else(|_| {
            let silent = format_args!("no answer within {} s", READ_MAX.as_secs());
            Err(Trouble::Silent(JournalError::unavailable(silent)))
        });
        if !matches!(answer, Ok(_) | Err(Trouble::Refused(Refusal::Values, _)))
            && let Some(session) = lent.session.take()
        {
            session.cut();
        }
        answer
    }

    fn idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(session) = idle.pop() {
            if !session.is_closed() {
                return Some(session);
            }
        }
        None
    }

    /// Waits for the reads under way, then closes.
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let permits = self.permits.acquire_many(all).await;
        self.permits.close();
        drop(permits);
        drop(std::mem::take(
            &mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner),
        ));
    }
}

fn meaning(trouble: Trouble) -> ReadError {
    match trouble {
        Trouble::Refused(Refusal::Values, error) => ReadError::Own(error),
        trouble => ReadError::Failed(trouble.error()),
    }
}

/// A connection in use. It is put back whatever becomes of its user.
struct Lent<'readers> {
    readers: &'readers Readers,
    session: Option<Session>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let idle = &self.readers.idle;
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(session);
        }
    }
}

impl Asks for &Readers {
    type Error = ReadError;

    async fn ask(&mut self, statement: Asked<'_>) -> Result<Vec<Row>, ReadError> {
        self.rows(&statement).await
    }
}
