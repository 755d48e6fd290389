//! The log of a database that other processes write as well, as this one reads on in it.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_postgres::Row;

use super::{
    connect::{Asked, Connector, Trouble},
    hints,
    line::Line,
    read::{self, Asks},
};
use crate::{
    journal::{
        JournalError, Loss, Position, ReplicaId,
        committer::Published,
        damage::Damage,
        shared::{self, Log, Logged, Merge},
    },
    progress::Progress,
};

/// The longest time from one read to the next, if no hint comes.
const READ_EVERY: Duration = Duration::from_millis(100);
/// The longest wait for a page of the log.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// The log, over a connection of its own: no other read delays the news.
#[derive(Debug)]
pub(super) struct Tail<'journal> {
    connector: &'journal Connector,
    line: Line,
    damage: &'journal Damage,
    published: &'journal Published,
}

impl<'journal> Tail<'journal> {
    pub(super) fn new(
        connector: &'journal Arc<Connector>,
        damage: &'journal Damage,
        published: &'journal Published,
    ) -> Self {
        Self {
            connector,
            line: Line::new(connector, PAGE_MAX),
            damage,
            published,
        }
    }

    /// Listens to hints, and tells observers of the log, for ever.
    pub(super) async fn follow(self, merge: &Merge, replica: &ReplicaId, progress: &Progress) {
        let hinted = Arc::new(Notify::new());
        let listening = hints::listen(self.connector, replica, &hinted, hints::PROOF_MAX);
        let news = (&*hinted, READ_EVERY);
        let following = shared::follow(&self, (merge, self.published), news, progress);
        tokio::join!(listening, following);
    }

    async fn page(&self, after: Position, limit: usize) -> Result<Result<Logged, Loss>, Trouble> {
        let reach = (after, self.published.witness());
        read::log(&mut &self.line, self.damage, reach, limit).await
    }
}

impl Log for Tail<'_> {
    /// A read whose connection broke is tried once more over a new one.
    async fn read(&self, after: Position, limit: usize) -> Result<Logged, JournalError> {
        let page = match self.page(after, limit).await {
            Err(Trouble::Lost(_)) => self.page(after, limit).await,
            page => page,
        };
        match page {
            Ok(Ok(logged)) => Ok(logged),
            // Nothing of what follows the loss is told as if it followed what was told before.
            Ok(Err(loss)) => {
                self.published.lose_store(loss);
                Err(JournalError::unusable(loss))
            }
            Err(trouble) => {
                // A probe that commits turns it true again.
                self.published.set_available(false);
                Err(trouble.error())
            }
        }
    }
}

impl Asks for &Line {
    type Error = Trouble;

    async fn ask(&mut self, statement: Asked<'_>) -> Result<Vec<Row>, Trouble> {
        self.rows(&statement).await
    }
}
