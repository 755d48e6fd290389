//! The store of a configuration: the journal, and beside it the leases and budgets of accounts, and the board.

use std::sync::Arc;

use crate::{
    clock::Clock,
    config::Database,
    journal::{
        Alone, AloneBoard, AloneBudgets, Board, Budgets, Journal, JournalError, Ownership,
        postgres::{self, PostgresBoard, PostgresBudgets, PostgresJournal},
        sqlite::SqliteJournal,
    },
};

/// A store that is open.
pub(super) struct Store {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) ownership: Arc<dyn Ownership>,
    pub(super) budgets: Arc<dyn Budgets>,
    pub(super) board: Arc<dyn Board>,
}

impl Store {
    /// Opens a file for this process alone, or a database beside other processes.
    ///
    /// # Errors
    /// The store cannot be used.
    pub(super) async fn open(database: &Database, clock: &Clock) -> Result<Self, JournalError> {
        match database {
            Database::Sqlite(file) => {
                let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(file, clock).await?);
                Ok(Self {
                    ownership: Arc::new(Alone::default()),
                    budgets: Arc::new(AloneBudgets::new(&journal, clock)),
                    board: Arc::new(AloneBoard),
                    journal,
                })
            }
            Database::Postgres(settings) => Self::shared(settings, clock).await,
        }
    }

    async fn shared(settings: &postgres::Settings, clock: &Clock) -> Result<Self, JournalError> {
        let journal = PostgresJournal::open_shared(settings, clock).await?;
        let ownership = journal.ownership();
        let replica = ownership.replica();
        tracing::info!(replica = %replica.as_str(), "the journal is shared with other processes");
        Ok(Self {
            budgets: Arc::new(PostgresBudgets::new(settings, replica, clock)?),
            board: Arc::new(PostgresBoard::new(settings, replica, clock)?),
            journal: Arc::new(journal),
            ownership,
        })
    }
}
