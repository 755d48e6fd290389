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
use crate::journal::{JournalError, committer::Published};

/// The longest wait for a turn.
pub(super) const TURN_MAX: Duration = Duration::from_secs(2);
/// The longest that a read of one row may take, and a connection for it: polls that bring news wait for it.
pub(super) const POINT_MAX: Duration = Duration::from_secs(5);
/// The same for a read of many rows.
pub(super) const SCAN_MAX: Duration = Duration::from_secs(10);
/// The same for both while the store is known to be away: callers go on elsewhere, and need to know.
const AWAY_MAX: Duration = Duration::from_secs(2);

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
    published: Arc<Published>,
    most: usize,
    longest: Duration,
    permits: Semaphore,
    /// A connection is taken and put back in a few nanoseconds, and never used under the lock.
    idle: Mutex<Vec<Session>>,
}

impl Readers {
    /// Room for `most` reads at a time, each of which may take so long.
    pub(super) fn new(
        connector: Arc<Connector>,
        published: Arc<Published>,
        (most, longest): (usize, Duration),
    ) -> Self {
        Self {
            connector,
            published,
            most,
            longest,
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
            None => self.connected().await.map_err(meaning)?,
        };
        match self.over(session, statement).await {
            Err(Trouble::Lost(_)) => {}
            answer => return answer.map_err(meaning),
        }
        let session = self.connected().await.map_err(meaning)?;
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
        let answer = self.in_time(session.rows(statement)).await;
        if !matches!(answer, Ok(_) | Err(Trouble::Refused(Refusal::Values, _)))
            && let Some(session) = lent.session.take()
        {
            session.cut();
        }
        answer
    }

    async fn connected(&self) -> Result<Session, Trouble> {
        self.in_time(self.connector.connect()).await
    }

    /// Waits for an answer for as long as it may take.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let longest = tokio::select! {
            biased;
            answer = answer => return answer,
            () = tokio::time::sleep(self.longest) => self.longest,
            () = self.is_away_for(AWAY_MAX) => AWAY_MAX,
        };
        let silent = format_args!("no answer within {} s", longest.as_secs());
        Err(Trouble::Silent(JournalError::unavailable(silent)))
    }

    /// Waits until the store has been known to be away for so long, from now on.
    async fn is_away_for(&self, long: Duration) {
        let mut available = self.published.available();
        loop {
            // The sender lives as long as this.
            available.wait_for(|is_available| !is_available).await.ok();
            let back = available.wait_for(|is_available| *is_available);
            if tokio::time::timeout(long, back).await.is_err() {
                return;
            }
        }
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
