//! The openings of a store: each process that writes has a row, and each of its connections that commits
//! has a number. The server refuses commits under an older number.

use std::{sync::Arc, time::Duration};

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    connect::{Asked, Connector, Session, Trouble},
    read,
    rivals::{Rival, Sharing},
    schema::Schema,
};
use crate::journal::{Loss, Witness};

/// The longest that the server may take to answer an opening.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The server knows another process in this one's place.
const REPLACED: Unopened = Unopened::Over(Loss::TakenOver);

/// A process that writes, by a name that no other has or ever had.
#[derive(Debug, Clone)]
pub(super) struct Writing(Arc<str>);

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
    /// This process can commit no more.
    Over(Loss),
}

impl From<Trouble> for Unopened {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Writing {
    pub(super) fn new(name: Uuid) -> Self {
        Self(Arc::from(name.to_string()))
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// Opens the store for the first time, unless a process is in the way that is not among those found
    /// gone.
    pub(super) async fn enter(
        &self,
        mut session: Session,
        (sharing, schema): (Sharing, Schema),
        gone: &[Rival],
    ) -> Result<Opening, Unopened> {
        const ENTER: &str = "SELECT enter_1($1, $2, $3, $4, $5)";
        let (level, is_alone) = (schema.level(), sharing == Sharing::Alone);
        let names: Vec<&str> = gone.iter().map(Rival::name).collect();
        let openings: Vec<i64> = gone.iter().map(Rival::opening).collect();
        let values: [&(dyn ToSql + Sync); 5] = [&self.name(), &level, &is_alone, &names, &openings];
        let number = number(&mut session, &Asked::Own(ENTER, &values)).await?;
        Ok(Opening::new(session, number.ok_or(REPLACED)?))
    }

    /// Opens the store again over a new connection, unless it is a store without a transition that was told.
    /// A call under an older number can no longer be made. The kept answers of calls under `needed` and later
    /// numbers stay.
    pub(super) async fn reopen(
        &self,
        connector: &Connector,
        needed: i64,
        witness: Option<Witness>,
    ) -> Result<Opening, Unopened> {
        const OPEN: &str = "SELECT open_1($1, $2)";
        let mut session = connector.connect().await?;
        let values: [&(dyn ToSql + Sync); 2] = [&self.name(), &needed];
        let opened = async {
            // The server may be a standby that was promoted, without all that the one before had.
            read::stands(&mut session, witness)
                .await?
                .map_err(Unopened::Over)?;
            let number = number(&mut session, &Asked::Own(OPEN, &values)).await?;
            number.ok_or(REPLACED)
        };
        match tokio::time::timeout(ANSWER_MAX, opened).await {
            Ok(number) => Ok(Opening::new(session, number?)),
            Err(_) => {
                session.cut();
                Err(Trouble::lost("no answer to an opening within 10 s").into())
            }
        }
    }

    /// Ends the process, so that nobody waits for it. All its outcomes are known.
    pub(super) async fn exit(&self, session: &mut Session) -> Result<(), Trouble> {
        const EXIT: &str = "SELECT exit_1($1)";
        let asked = Asked::Own(EXIT, &[&self.name()]);
        session.rows(&asked).await.map(drop)
    }
}

async fn number(session: &mut Session, asked: &Asked<'_>) -> Result<Option<i64>, Trouble> {
    let rows = session.rows(asked).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}
