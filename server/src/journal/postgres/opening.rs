//! The openings of a store: each process that writes has a row, and each of its connections that commits
//! has a number. The server refuses commits under an older number.
//!
//! One process has the store at a time. A second one is refused while the first shows that it lives. If
//! the first is cut off, a newcomer takes the row after 5 s, and the first can never commit again.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    connect::{Asked, Connector, Session, Trouble},
    row,
};
use crate::journal::JournalError;

/// The name of the row: there is one, since one process writes.
const ONLY: &str = "only";

/// The time without a beat after which a process whose connection still stands counts as cut off.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// The time between two looks at another process's beat.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// The longest that the server may take to answer an opening.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The process that has the store, by a random name of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder(Uuid);

/// A connection that commits, with the number under which it may.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) session: Session,
    pub(super) number: i64,
    /// The number of the last call.
    pub(super) calls: i64,
    /// The number of the last call whose answer is kept.
    pub(super) kept: i64,
}

impl Opening {
    fn new(session: Session, number: i64) -> Self {
        Self {
            session,
            number,
            calls: 0,
            kept: 0,
        }
    }
}

/// The reason why there is no opening.
#[derive(Debug)]
pub(super) enum Unopened {
    /// It may work later.
    Trouble(Trouble),
    /// Another process has the store.
    Held,
}

impl From<Trouble> for Unopened {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Another process's sign of life.
struct Seen {
    opening: i64,
    is_held: bool,
    beat: i64,
    /// True while the connection that beats is known to the server.
    is_connected: bool,
}

impl Holder {
    pub(super) fn new(name: Uuid) -> Self {
        Self(name)
    }

    pub(super) fn id(self) -> &'static str {
        ONLY
    }

    /// Opens the store for this process, once no other one has it.
    pub(super) async fn take(self, mut session: Session) -> Result<Opening, JournalError> {
        let unusable = |trouble: Trouble| JournalError::unusable(trouble.error());
        let first = look(&mut session).await.map_err(unusable)?;
        let began = Instant::now();
        let mut now = first;
        while now.is_held && now.is_connected && began.elapsed() < SILENT_AFTER {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let next = look(&mut session).await.map_err(unusable)?;
            if (next.opening, next.beat) != (now.opening, now.beat) && next.is_held {
                return Err(another());
            }
            now = next;
        }
        let number = open(&mut session, self, Some(now.opening), None).await;
        let number = number.map_err(unusable)?.ok_or_else(another)?;
        Ok(Opening::new(session, number))
    }

    /// Opens the store again over a new connection. A call under an older number can no longer be made.
    /// The kept answers of calls under `needed` and later numbers stay.
    pub(super) async fn reopen(
        self,
        connector: &Connector,
        needed: i64,
    ) -> Result<Opening, Unopened> {
        let mut session = connector.connect().await?;
        let opened = open(&mut session, self, None, Some(needed));
        match tokio::time::timeout(ANSWER_MAX, opened).await {
            Ok(Ok(Some(number))) => Ok(Opening::new(session, number)),
            Ok(Ok(None)) => Err(Unopened::Held),
            Ok(Err(trouble)) => Err(trouble.into()),
            Err(_) => {
                session.cut();
                Err(Trouble::lost("no answer to an opening within 10 s").into())
            }
        }
    }

    /// Shows that this process lives. False if another one has the store.
    pub(super) async fn beat(self, session: &mut Session) -> Result<bool, Trouble> {
        const BEAT: &str = "SELECT beat_1($1, $2)";
        let rows = session.rows(&Asked::Own(BEAT, &[&ONLY, &self.0])).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Lets the store go.
    pub(super) async fn release(self, session: &mut Session) -> Result<(), Trouble> {
        const RELEASE: &str = "SELECT release_1($1, $2)";
        let values: [&(dyn ToSql + Sync); 2] = [&ONLY, &self.0];
        session.rows(&Asked::Own(RELEASE, &values)).await.map(drop)
    }
}

async fn open(
    session: &mut Session,
    holder: Holder,
    seen: Option<i64>,
    needed: Option<i64>,
) -> Result<Option<i64>, Trouble> {
    const OPEN: &str = "SELECT open_1($1, $2, $3, $4)";
    let values: [&(dyn ToSql + Sync); 4] = [&ONLY, &holder.0, &seen, &needed];
    let rows = session.rows(&Asked::Own(OPEN, &values)).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

async fn look(session: &mut Session) -> Result<Seen, Trouble> {
    // Another role's connections show their number alone.
    const LOOK: &str = "SELECT r.opening, r.holder IS NOT NULL, r.beat,
             EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = r.backend
                 AND (a.backend_start IS NULL OR a.backend_start = r.backend_start))
         FROM replica r WHERE r.id = $1";
    let rows = session.rows(&Asked::Own(LOOK, &[&ONLY])).await?;
    let seen = rows.first().map(|row| {
        Ok(Seen {
            opening: row::get(row, 0)?,
            is_held: row::get(row, 1)?,
            beat: row::get(row, 2)?,
            is_connected: row::get(row, 3)?,
        })
    });
    let nobody = Seen {
        opening: 0,
        is_held: false,
        beat: 0,
        is_connected: false,
    };
    let seen: Option<row::Read<Seen>> = seen;
    match seen {
        None => Ok(nobody),
        Some(seen) => seen.map_err(|_| Trouble::lost("the row of the process cannot be read")),
    }
}

fn another() -> JournalError {
    JournalError::unusable("another process has it")
}
