//! The journal on a PostgreSQL server: one connection that commits, a few that read, and, beside other
//! processes, two by which they see that this one lives and which accounts it owns, and two by which this one
//! hears of their commits.
//!
//! A commit is one call of a function in the database, so no lock there ever waits for a client. A lost
//! answer is looked for under a new opening, which refuses the call if it comes late.

mod arrays;
mod batch;
mod board;
mod budgets;
mod commit;
mod connect;
mod hints;
mod lease;
mod line;
mod list;
mod moving;
mod opening;
mod outcome;
mod read;
mod readers;
mod rivals;
mod row;
mod schema;
mod settings;
mod tail;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    clock::Clock,
    progress::Progress,
    purchase::{AccountName, CallerName, PurchaseId, Reference, Revision, Transition},
};

use super::{
    Alone, Figures, Filter, Journal, JournalError, Listed, Ownership, Place, Position, Record,
    Retirement, Write, Written,
    committer::{Committer, Published},
    damage::Damage,
    questions::Questions,
};
pub use board::PostgresBoard;
pub use budgets::PostgresBudgets;
#[cfg(test)]
pub(super) use budgets::{answer, heard, letter};
use commit::Writer;
use connect::Connector;
use lease::PostgresOwnership;
use line::Line;
pub(crate) use moving::MovingDatabase;
use opening::Writing;
use read::{Referring, Steps};
use readers::{POINT_MAX, ReadError, Readers, SCAN_MAX, TURN_MAX};
use rivals::Sharing;
pub(super) use schema::Schema;
pub use settings::Settings;
use tail::Tail;

/// The longest wait for the answer to a beat.
const BEAT_PATIENCE: Duration = Duration::from_secs(5);

/// The journal in one database of a PostgreSQL server.
#[derive(Debug)]
pub struct PostgresJournal {
    epoch: String,
    connector: Arc<Connector>,
    committer: Committer,
    ownership: Arc<dyn Ownership>,
    /// Connections for creates, statuses and streams: no read of many rows takes their place.
    points: Arc<Readers>,
    /// Connections for reads of many rows: each of their steps takes a turn.
    scans: Arc<Readers>,
    damage: Damage,
    /// Records, read together.
    records: Arc<Questions<PurchaseId, Option<Record>>>,
    /// Like `records`, by a caller's key.
    keys: Arc<Questions<(CallerName, String), Option<Record>>>,
    /// Like `records`, for transitions after a revision, at most so many.
    transitions: Arc<Questions<Steps, Vec<Transition>>>,
    /// Owns the beat and the reads together; `close` waits for them.
    tasks: TaskTracker,
    /// Ends the wait for outcomes.
    closing: CancellationToken,
    /// Ends the beat, if there is one, if the journal is dropped without being closed.
    _on_drop: DropGuard,
}

impl PostgresJournal {
    /// Opens the database for this process alone, brings its schema to this build's, and starts the
    /// committing task and the beat.
    ///
    /// Waits for up to 5 s if another process has the database and may be cut off.
    ///
    /// # Errors
    /// [`JournalError::Unusable`] if the server cannot be reached, is older than version 14 or set up so
    /// that it could lose commits; if another process has the database; if its schema is for newer builds
    /// or altered, or the database is another program's.
    pub async fn open(settings: &Settings, clock: &Clock) -> Result<Self, JournalError> {
        Self::opened_so(settings, clock, (Sharing::Alone, Schema::OWN)).await
    }

    /// Opens the database beside others that open it so, as [`PostgresJournal::open`] does for one.
    ///
    /// # Errors
    /// As there; another process that has opened the database for itself alone is in the way.
    pub async fn open_shared(settings: &Settings, clock: &Clock) -> Result<Self, JournalError> {
        Self::opened_so(settings, clock, (Sharing::Shared, Schema::OWN)).await
    }

    /// Opens the database beside others, as a build with this schema does.
    ///
    /// # Errors
    /// As [`PostgresJournal::open_shared`].
    #[cfg(test)]
    pub(super) async fn open_as(
        settings: &Settings,
        clock: &Clock,
        schema: Schema,
    ) -> Result<Self, JournalError> {
        Self::opened_so(settings, clock, (Sharing::Shared, schema)).await
    }

    async fn opened_so(
        settings: &Settings,
        clock: &Clock,
        way: (Sharing, Schema),
    ) -> Result<Self, JournalError> {
        let opened = Self::opened(settings, clock, way).await;
        opened.map_err(|error| named(settings, error))
    }

    async fn opened(
        settings: &Settings,
        clock: &Clock,
        (sharing, schema): (Sharing, Schema),
    ) -> Result<Self, JournalError> {
        let connector = Arc::new(Connector::new(settings)?);
        let session = connector.connect().await;
        let mut session = session.map_err(connect::Trouble::error)?;
        schema.prepare(&mut session, clock).await?;
        let writing = Writing::new(clock.uuid());
        let mut opening = rivals::enter(session, &writing, (sharing, schema)).await?;
        // Nobody can begin or end a move from now on.
        moving::refuse_moving(&mut opening.session, &writing).await?;
        let epoch = read::epoch(&mut opening.session).await;
        let head = read::head(&mut opening.session).await;
        let witness = read::witness(&mut opening.session).await;
        let epoch = epoch.map_err(connect::Trouble::error)??;
        let head = head.map_err(connect::Trouble::error)??;
        let witness = witness.map_err(connect::Trouble::error)??;

        let published = Arc::new(match sharing {
            Sharing::Alone => Published::new(head),
            Sharing::Shared => Published::shared(head),
        });
        published.remember(witness);
        let (damage, closing) = (Damage::default(), CancellationToken::new());
        let beat = CancellationToken::new();
        let tasks = TaskTracker::new();
        let ownership: Arc<dyn Ownership> = match sharing {
            Sharing::Alone => {
                let line = Line::new(&connector, BEAT_PATIENCE);
                let (writing, published) = (writing.clone(), Arc::clone(&published));
                tasks.spawn(rivals::beat(line, writing, published, beat.clone()));
                Arc::new(Alone::default())
            }
            // Its looks are its beats.
            Sharing::Shared => Arc::new(PostgresOwnership::new(
                &connector, &writing, &published, &beat,
            )),
        };
        let writer = Writer::new(
            opening,
            (Arc::clone(&connector), writing),
            (Arc::clone(&published), damage.clone()),
            (closing.clone(), beat.clone()),
        );
        let readers = |most, longest| {
            let (connector, published) = (Arc::clone(&connector), Arc::clone(&published));
            Arc::new(Readers::new(connector, published, (most, longest)))
        };
        let (points, scans) = settings.shares();
        let (points, scans) = (readers(points, POINT_MAX), readers(scans, SCAN_MAX));
        Ok(Self {
            epoch,
            committer: Committer::start(writer, published),
            ownership,
            points,
            scans,
            connector,
            damage,
            records: Arc::new(Questions::with_turns_within(TURN_MAX)),
            keys: Arc::new(Questions::with_turns_within(TURN_MAX)),
            transitions: Arc::new(Questions::with_turns_within(TURN_MAX)),
            tasks,
            closing,
            _on_drop: beat.drop_guard(),
        })
    }

    /// The leases of the database. A process that has it alone owns every account.
    pub fn ownership(&self) -> Arc<dyn Ownership> {
        Arc::clone(&self.ownership)
    }

    /// A read's answer as its asker gets it.
    fn told<T>(&self, answer: Result<T, ReadError>) -> Result<T, JournalError> {
        told(answer, self.committer.published())
    }
}

/// The failure of an opening, with the database's name.
fn named(settings: &Settings, error: JournalError) -> JournalError {
    match error {
        JournalError::Unusable(why) | JournalError::Unavailable(why) => {
            JournalError::unusable(format_args!("{}: {why}", settings.place()))
        }
        JournalError::Unreadable(_) => error,
    }
}

/// A read's failure as its asker hears of it. A failure of the store makes the journal unavailable.
fn told<T>(answer: Result<T, ReadError>, published: &Published) -> Result<T, JournalError> {
    if let Err(ReadError::Failed(error)) = &answer {
        tracing::error!(%error, "a read of the journal failed");
        // A probe that commits turns it true again.
        published.set_available(false);
    }
    answer.map_err(|error| match error {
        ReadError::Own(error) | ReadError::Failed(error) => error,
        ReadError::Closed => JournalError::unavailable("it is closed"),
    })
}

#[async_trait]
impl Journal for PostgresJournal {
    async fn write(&self, write: Write) -> Result<Written, JournalError> {
        self.committer.write(write).await
    }

    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError> {
        let (points, damage) = (Arc::clone(&self.points), self.damage.clone());
        let published = Arc::clone(self.committer.published());
        let read = move |ids: Vec<PurchaseId>| {
            let (points, damage) = (Arc::clone(&points), damage.clone());
            let published = Arc::clone(&published);
            async move {
                told(
                    read::records(&mut &*points, &damage, &ids).await,
                    &published,
                )
            }
        };
        self.records.answer(&self.tasks, purchase, read).await
    }

    async fn record_by_key(
        &self,
        caller: &CallerName,
        key: &str,
    ) -> Result<Option<Record>, JournalError> {
        let (points, damage) = (Arc::clone(&self.points), self.damage.clone());
        let published = Arc::clone(self.committer.published());
        let read = move |keys: Vec<(CallerName, String)>| {
            let (points, damage) = (Arc::clone(&points), damage.clone());
            let published = Arc::clone(&published);
            async move {
                let named = keys.iter();
                let named: Vec<_> = named
                    .map(|(caller, key)| (caller.as_str(), key.as_str()))
                    .collect();
                let found = read::records_by_keys(&mut &*points, &damage, &named).await;
                let found = told(found, &published)?.into_iter();
                let found = found.map(|record| record.map_err(JournalError::from));
                Ok(keys.into_iter().zip(found).collect())
            }
        };
        let asked = (caller.clone(), key.to_owned());
        self.keys.answer(&self.tasks, asked, read).await
    }

    async fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Result<Option<PurchaseId>, JournalError> {
        let referring = [Referring {
            account: Some(account.as_str()),
            purchase: None,
            digest: row::digest(reference),
        }];
        let found = read::owners(&mut &*self.points, &referring).await;
        Ok(self.told(found)?.pop().flatten())
    }

    async fn transitions(
        &self,
        purchase: PurchaseId,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Transition>, JournalError> {
        let (points, damage) = (Arc::clone(&self.points), self.damage.clone());
        let published = Arc::clone(self.committer.published());
        let read = move |asked: Vec<Steps>| {
            let (points, damage) = (Arc::clone(&points), damage.clone());
            let published = Arc::clone(&published);
            async move {
                told(
                    read::transitions(&mut &*points, &damage, &asked).await,
                    &published,
                )
            }
        };
        let asked = (purchase, after, limit);
        self.transitions.answer(&self.tasks, asked, read).await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Listed, JournalError> {
        let mut scans = &*self.scans;
        let listed = list::list(&mut scans, &self.damage, filter, after, limit);
        self.told(listed.await)
    }

    async fn tail(
        &self,
        caller: Option<&CallerName>,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<Arc<super::Committed>>, Position), JournalError> {
        // The head is taken before the read. Everything up to it is in the store already, and nothing
        // beyond it is shown before observers hear of it.
        let reach = (after, self.head());
        let mut scans = &*self.scans;
        let tail = read::tail(&mut scans, &self.damage, caller, reach, limit);
        self.told(tail.await)
    }

    async fn open_records(
        &self,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let mut scans = &*self.scans;
        let records = read::open_records(&mut scans, &self.damage, None, after, limit);
        self.told(records.await)
    }

    async fn open_of(
        &self,
        account: &AccountName,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let mut scans = &*self.scans;
        let records = read::open_records(&mut scans, &self.damage, Some(account), after, limit);
        self.told(records.await)
    }

    async fn open_accounts(&self) -> Result<Vec<AccountName>, JournalError> {
        let accounts = read::open_accounts(&mut &*self.scans).await;
        self.told(accounts)
    }

    async fn get(&self, key: &str) -> Result<Option<String>, JournalError> {
        let mut points = &*self.points;
        let text = read::text(&mut points, key);
        self.told(text.await)
    }

    async fn retire(&self, retirement: Retirement) -> Result<Option<usize>, JournalError> {
        self.committer.retire(retirement).await
    }

    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn is_on_a_server(&self) -> bool {
        true
    }

    fn figures(&self) -> Figures {
        Figures {
            unreadable_rows: self.damage.times(),
            restarts: self.committer.published().restarts(),
            ..Figures::default()
        }
    }

    async fn newest(&self) -> Result<Position, JournalError> {
        let mut points = &*self.points;
        let head = read::head(&mut points).await;
        Ok(self.told(head)??)
    }

    async fn follow(&self, progress: &Progress) {
        let published = self.committer.published();
        match published.merge() {
            None => progress.across(std::future::pending()).await,
            Some(merge) => {
                let tail = Tail::new(&self.connector, &self.damage, published);
                tail.follow(merge, self.ownership.replica(), progress).await;
            }
        }
    }

    fn progress(&self) -> Option<&Progress> {
        Some(self.committer.progress())
    }

    fn published(&self) -> &Published {
        self.committer.published()
    }

    async fn close(&self) {
        // The beat goes on until everything is committed, so that nobody takes the store meanwhile. The
        // writer ends it with its release.
        self.closing.cancel();
        self.committer.close().await;
        self.tasks.close();
        self.tasks.wait().await;
        for readers in [&self.points, &self.scans] {
            readers.close().await;
        }
    }
}

/// The server's plan for a list.
#[cfg(test)]
pub(super) async fn list_plan(
    client: &tokio_postgres::Client,
    filter: &Filter,
    after: Option<Place>,
) -> String {
    let query = list::Query::new(filter, after);
    let values: Vec<_> = query.values.iter().map(list::Value::typed).collect();
    let explain = format!("EXPLAIN {}", query.sql);
    let rows = client.query_typed(&explain, &values).await.unwrap();
    let lines: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}
