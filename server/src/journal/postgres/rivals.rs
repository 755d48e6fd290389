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
    read,
    row::{self, Read},
    schema::Schema,
};
use crate::journal::{JournalError, Loss, committer::Published};

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
    (sharing, schema): (Sharing, Schema),
) -> Result<Opening, JournalError> {
    let in_the_way = InTheWay {
        is_alone_only: sharing == Sharing::Shared,
        below: i32::MAX,
    };
    let unusable = |trouble: Trouble| JournalError::unusable(trouble.error());
    let gone = gone(&mut session, in_the_way).await.map_err(unusable)?;
    let gone = gone.ok_or_else(another)?;
    let opened = writing.enter(session, (sharing, schema), &gone).await;
    let mut opening = opened.map_err(|unopened| match unopened {
        Unopened::Trouble(trouble) => unusable(trouble),
        Unopened::Over(_) => another(),
    })?;
    // A newer build can have come in between. It cannot from now on, since it sees this process.
    let allowed = schema.check_levels(&mut opening.session).await;
    if allowed.is_err() {
        writing.exit(&mut opening.session).await.map_err(unusable)?;
    }
    allowed.map(|()| opening)
}

/// The processes whose builds are below a level, once each of them is known to be gone; `None` if one lives.
pub(super) async fn outdated(
    session: &mut Session,
    below: i32,
) -> Result<Option<Vec<Rival>>, Trouble> {
    let in_the_way = InTheWay {
        is_alone_only: false,
        below,
    };
    gone(session, in_the_way).await
}

/// Within a transaction: keeps processes out whose builds are below a level. Those that are gone can commit no more,
/// and new ones wait for its end. False if there is another one.
pub(super) async fn shut_out(
    session: &mut Session,
    below: i32,
    gone: &[Rival],
) -> Result<bool, Trouble> {
    const ENTERING: &str = "SELECT pg_advisory_xact_lock(9, 1)";
    // Waits for a commit under way; none of an older opening can follow.
    const COMMITS: &str = "SELECT pg_advisory_xact_lock(8, hashtext(g)) FROM unnest($1::text[]) g";
    const END: &str = "UPDATE replica r SET is_gone = true, opening = r.opening + 1
         FROM unnest($1::text[], $2::bigint[]) g (id, opening) WHERE r.id = g.id AND r.opening = g.opening";
    const OTHERS: &str = "SELECT FROM replica WHERE NOT is_gone AND level < $1";
    let names: Vec<&str> = gone.iter().map(Rival::name).collect();
    let openings: Vec<i64> = gone.iter().map(Rival::opening).collect();
    session.execute(ENTERING).await?;
    session.rows(&Asked::Own(COMMITS, &[&names])).await?;
    session.rows(&Asked::Own(END, &[&names, &openings])).await?;
    let others = session.rows(&Asked::Own(OTHERS, &[&below])).await?;
    Ok(others.is_empty())
}

/// The processes that somebody waits for.
#[derive(Clone, Copy)]
struct InTheWay {
    /// True if those that share the database are not in the way.
    is_alone_only: bool,
    /// The level of builds from which on none is.
    below: i32,
}

/// The processes in the way, once each of them is known to be gone; `None` if one lives.
async fn gone(session: &mut Session, in_the_way: InTheWay) -> Result<Option<Vec<Rival>>, Trouble> {
    let began = Instant::now();
    let mut now = rivals(session, in_the_way).await?;
    while now.iter().any(|rival| rival.is_connected) && began.elapsed() < SILENT_AFTER {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let next = rivals(session, in_the_way).await?;
        if next.iter().any(|rival| rival.is_alive_since(&now)) {
            return Ok(None);
        }
        now = next;
    }
    Ok(Some(now))
}

async fn rivals(session: &mut Session, in_the_way: InTheWay) -> Result<Vec<Rival>, Trouble> {
    // Another role's connections show their number alone.
    const RIVALS: &str = "SELECT r.id, r.opening, r.beat, r.backend IS NULL OR
             EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = r.backend
                 AND (a.backend_start IS NULL OR a.backend_start = r.backend_start))
         FROM replica r WHERE NOT r.is_gone AND (r.is_alone OR NOT $1) AND r.level < $2";
    let InTheWay {
        is_alone_only,
        below,
    } = in_the_way;
    let asked = Asked::Own(RIVALS, &[&is_alone_only, &below]);
    let rows = session.rows(&asked).await?;
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
            // Without other processes there is no tail that would look.
            if let Ok(Err(loss)) = read::stands(&mut &line, published.witness()).await {
                published.lose_store(loss);
                return;
            }
            match lives {
                Ok(true) => {}
                // This process itself may have ended.
                Ok(false) if ends.is_cancelled() => return,
                Ok(false) => {
                    published.lose_store(Loss::TakenOver);
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
