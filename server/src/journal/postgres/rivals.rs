//! The rule of who may use a database beside whom, and the wait for the end of those that are in the way.
//!
//! A process that is alone and one that is not never have it at the same time. A rival that shows that it
//! lives keeps others out. If it is cut off, a newcomer takes its place after 5 s, and it can never commit
//! again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    connect::{Asked, Session, Trouble},
    line::Line,
    opening::{Opening, Unopened, Writing},
    row::{self, Read},
};
use crate::journal::{JournalError, committer::Published};

/// The time without a beat after which a process whose connection may still stand counts as cut off.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// The time between two looks at other processes' beats.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// The time between two beats of a process that is alone.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The processes that may use a database at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// This one, and no other.
    Alone,
    /// All that are opened so.
    Shared,
}

/// Another process's sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rival {
    name: String,
    opening: i64,
    beat: i64,
    /// False if the server knows that the connection that beats is gone.
    is_connected: bool,
}

impl Rival {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The number of its last opening.
    pub(super) fn opening(&self) -> i64 {
        self.opening
    }

    fn is_alive_since(&self, before: &[Self]) -> bool {
        let known = before.iter().find(|known| known.name == self.name);
        known.is_none_or(|known| (known.opening, known.beat) != (self.opening, self.beat))
    }
}

/// Opens the store for a process, once nobody is in the way.
pub(super) async fn enter(
    mut session: Session,
    writing: &Writing,
    sharing: Sharing,
) -> Result<Opening, JournalError> {
    let gone = gone(&mut session, sharing).await?;
    let opened = writing.enter(session, sharing, &gone).await;
    opened.map_err(|unopened| match unopened {
        Unopened::Trouble(trouble) => JournalError::unusable(trouble.error()),
        Unopened::Replaced => another(),
    })
}

/// The processes in the way, once each of them is known to be gone.
async fn gone(session: &mut Session, sharing: Sharing) -> Result<Vec<Rival>, JournalError> {
    let unusable = |trouble: Trouble| JournalError::unusable(trouble.error());
    let began = Instant::now();
    let mut now = rivals(session, sharing).await.map_err(unusable)?;
    while now.iter().any(|rival| rival.is_connected) && began.elapsed() < SILENT_AFTER {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let next = rivals(session, sharing).await.map_err(unusable)?;
        if next.iter().any(|rival| rival.is_alive_since(&now)) {
            return Err(another());
        }
        now = next;
    }
    Ok(now)
}

async fn rivals(session: &mut Session, sharing: Sharing) -> Result<Vec<Rival>, Trouble> {
    // Another role's connections show their number alone.
    const RIVALS: &str = "SELECT r.id, r.opening, r.beat, r.backend IS NULL OR
             EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = r.backend
                 AND (a.backend_start IS NULL OR a.backend_start = r.backend_start))
         FROM replica r WHERE NOT r.is_gone AND ($1 OR r.is_alone)";
    let is_alone = sharing == Sharing::Alone;
    let rows = session.rows(&Asked::Own(RIVALS, &[&is_alone])).await?;
    let rivals = rows.iter().map(|row| {
        Ok(Rival {
            name: row::get(row, 0)?,
            opening: row::get(row, 1)?,
            beat: row::get(row, 2)?,
            is_connected: row::get(row, 3)?,
        })
    });
    let rivals: Read<Vec<Rival>> = rivals.collect();
    rivals.map_err(|_| Trouble::lost("the row of a process cannot be read"))
}

/// Beats each second, so that others see that this process is alone and lives, until it is cancelled or
/// another has taken its place.
pub(super) async fn beat(
    line: Line,
    writing: Writing,
    published: Arc<Published>,
    ends: CancellationToken,
) {
    const BEAT: &str = "SELECT beat_1($1)";
    let beats = async {
        loop {
            let answer = line.rows(&Asked::Own(BEAT, &[&writing.name()])).await;
            let lives = answer.map(|rows| rows.first().is_some_and(|row| row.get(0)));
            match lives {
                Ok(true) => {}
                // This process itself may have ended.
                Ok(false) if ends.is_cancelled() => return,
                Ok(false) => {
                    published.lose_store();
                    return;
                }
                // The commits tell that the store is away.
                Err(trouble) => tracing::debug!(error = %trouble.error(), "a beat failed"),
            }
            tokio::time::sleep(BEAT_INTERVAL).await;
        }
    };
    ends.run_until_cancelled(beats).await;
}

fn another() -> JournalError {
    JournalError::unusable("another process has it")
}
