//! One call, and its outcome if the answer is lost on its way: done or nothing done, and never unknown.

use std::{collections::HashMap, time::Duration};

use tokio_postgres::{Row, types::ToSql};

use super::{
    commit::Writer,
    connect::{Asked, Refusal, Session, Trouble},
    opening::{Opening, Unopened, Writing},
    read,
    row::{self, Read},
};
use crate::{
    journal::{JournalError, Loss},
    purchase::{Purchase, PurchaseId},
};

/// The most repeats of a call that other commits came in between of. Each waits for the one that stood in
/// its way and finds what it has done, so that a second repeat is rare.
const REPEATS_MAX: usize = 3;
/// The time between two looks for an outcome.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The answer to a call.
pub(super) enum Called {
    Rows(Vec<Row>),
    /// The answer as the call has kept it: the letters, and the places.
    Kept(String, Vec<Option<i64>>),
}

/// The reason why nothing of a call is done.
pub(super) enum Uncalled {
    /// One of its items is to blame, or stood in another's way: each by itself may be done.
    Apart(JournalError),
    /// The store failed.
    Failed(JournalError),
}

impl Writer {
    /// Calls one of the functions that commit. The first four of its values are the process, its opening,
    /// the number of the call, and that of the last call whose answer is kept.
    pub(super) async fn call(
        &mut self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Called, Uncalled> {
        // Until there is an answer, the opening is over: should this future be dropped or panic, nothing
        // that it has sent can be done after the next opening.
        let mut opening = self.opened().await.map_err(Uncalled::Failed)?;
        let mut repeats = 0;
        let answer = loop {
            let answer = once(&mut opening, &self.writing, sql, values).await;
            let is_overtaken = matches!(answer, Err(Trouble::Refused(Refusal::Rivalry, _)));
            if !is_overtaken || repeats == REPEATS_MAX {
                break answer;
            }
            repeats += 1;
        };
        match answer {
            Ok(rows) => {
                self.opening = Some(opening);
                Ok(Called::Rows(rows))
            }
            Err(Trouble::Refused(Refusal::Values | Refusal::Rivalry, error)) => {
                self.opening = Some(opening);
                Err(Uncalled::Apart(error))
            }
            // A server that could not may have become one that only reads: the next call looks for another.
            Err(Trouble::Refused(Refusal::Server, error)) => Err(Uncalled::Failed(error)),
            Err(Trouble::Refused(Refusal::OtherOpening, error)) => {
                let reopened = self.reopened().await.map_err(Uncalled::Failed)?;
                self.opening = Some(reopened);
                Err(Uncalled::Failed(error))
            }
            Err(Trouble::Lost(error) | Trouble::Silent(error)) => {
                let (number, calls) = (opening.number, opening.calls);
                opening.session.cut();
                self.outcome(number, calls, &error).await
            }
        }
    }

    async fn opened(&mut self) -> Result<Opening, JournalError> {
        if let Some(loss) = self.published.lost.get() {
            return Err(over(*loss));
        }
        match self.opening.take() {
            Some(opening) if !opening.session.is_closed() => Ok(opening),
            _ => self.reopened().await,
        }
    }

    async fn reopened(&mut self) -> Result<Opening, JournalError> {
        let witness = self.published.witness();
        let reopening = self.writing.reopen(&self.connector, self.opened, witness);
        match reopening.await {
            Ok(opening) => {
                self.opened = opening.number;
                Ok(opening)
            }
            Err(Unopened::Over(loss)) => {
                self.published.lose_store(loss);
                Err(over(loss))
            }
            Err(Unopened::Trouble(trouble)) => Err(trouble.error()),
        }
    }

    /// Looks for the outcome of a call until it is known. No other call can have come in between, and
    /// this one cannot be made after the look: it is of an older opening then.
    async fn outcome(
        &mut self,
        number: i64,
        calls: i64,
        why: &JournalError,
    ) -> Result<Called, Uncalled> {
        tracing::warn!(error = %why, "the answer to a commit is lost: looking for its outcome");
        self.published.under_way.lose();
        loop {
            match self.found(number, calls).await {
                Ok(Some((letters, places))) => return Ok(Called::Kept(letters, places)),
                Ok(None) => return Err(Uncalled::Failed(why.clone())),
                Err(trouble) => {
                    tracing::debug!(error = %trouble.error(), "the outcome is not known yet");
                }
            }
            let wait = tokio::time::sleep(LOOK_INTERVAL);
            if self.closing.run_until_cancelled(wait).await.is_none() {
                let unknown = "it was closed before the outcome of a commit was known";
                tracing::error!("{unknown}");
                return Err(Uncalled::Failed(JournalError::unavailable(unknown)));
            }
        }
    }

    /// The constant facts of purchases whose transitions turned out to be committed.
    pub(super) async fn purchases(
        &self,
        ids: &[PurchaseId],
    ) -> HashMap<PurchaseId, Read<Purchase>> {
        loop {
            let found = async {
                let mut session = self.connector.connect().await?;
                read::purchases(&mut session, &self.damage, ids).await
            };
            match found.await {
                Ok(found) => return found,
                Err(trouble) => {
                    tracing::debug!(error = %trouble.error(), "a commit cannot be told yet");
                }
            }
            let wait = tokio::time::sleep(LOOK_INTERVAL);
            if self.closing.run_until_cancelled(wait).await.is_none() {
                return HashMap::new();
            }
        }
    }

    async fn found(&mut self, number: i64, calls: i64) -> Result<Option<Kept>, Trouble> {
        // The number that is needed stays the one of the lost call until its outcome is known, since the
        // answer to an opening can be lost as well.
        let witness = self.published.witness();
        let reopening = self.writing.reopen(&self.connector, number, witness);
        match reopening.await {
            Ok(mut opening) => {
                let found = kept(&mut opening.session, &self.writing, number, calls).await?;
                self.opened = opening.number;
                self.opening = Some(opening);
                Ok(found)
            }
            // This one's openings have ended just as well.
            Err(Unopened::Over(loss)) => {
                self.published.lose_store(loss);
                let mut session = self.connector.connect().await?;
                kept(&mut session, &self.writing, number, calls).await
            }
            Err(Unopened::Trouble(trouble)) => Err(trouble),
        }
    }
}

/// One call, with the number after the last one's.
async fn once(
    opening: &mut Opening,
    writing: &Writing,
    sql: &'static str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Trouble> {
    opening.calls += 1;
    let (id, number) = (writing.name(), opening.number);
    let (calls, kept) = (opening.calls, opening.kept);
    let mut all: Vec<&(dyn ToSql + Sync)> = vec![&id, &number, &calls, &kept];
    all.extend(values);
    opening.session.rows(&Asked::Own(sql, &all)).await
}

type Kept = (String, Vec<Option<i64>>);

async fn kept(
    session: &mut Session,
    writing: &Writing,
    number: i64,
    calls: i64,
) -> Result<Option<Kept>, Trouble> {
    const KEPT: &str = "SELECT a.outcomes, a.places FROM replica r
         LEFT JOIN commit_answer a ON a.replica = r.id AND a.opening = $2 AND a.number = $3
         WHERE r.id = $1";
    let values: [&(dyn ToSql + Sync); 3] = [&writing.name(), &number, &calls];
    let rows = session.rows(&Asked::Own(KEPT, &values)).await?;
    // The answers go with the process's row, once many others have come after it.
    let row = rows.first();
    let row = row.ok_or_else(|| Trouble::lost("the kept answers are gone"))?;
    let unread = |_| Trouble::lost("a kept answer cannot be read");
    let letters: Option<String> = row::get(row, 0).map_err(unread)?;
    let places: Option<Vec<Option<i64>>> = row::get(row, 1).map_err(unread)?;
    Ok(letters.zip(places))
}

fn over(loss: Loss) -> JournalError {
    JournalError::unusable(loss)
}
