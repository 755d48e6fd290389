//! A connection that is kept for calls of one kind, which come one after another.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tokio_postgres::Row;

use super::connect::{Asked, Connector, Session, Trouble};
use crate::journal::JournalError;

/// A connection that is opened as it is needed. No other kind of call waits for it.
pub(super) struct Line {
    connector: Arc<Connector>,
    /// The longest wait for an answer, with the connection that it needs.
    patience: Duration,
    /// Held during a call.
    session: Mutex<Option<Session>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Line")
    }
}

impl Line {
    /// A line whose calls are given up after `patience`.
    pub(super) fn new(connector: &Arc<Connector>, patience: Duration) -> Self {
        Self {
            connector: Arc::clone(connector),
            patience,
            session: Mutex::default(),
        }
    }

    /// The rows that answer a call, in turn. After any failure the next call has a new connection: a server
    /// that could not may have become one that only reads.
    ///
    /// # Cancel safety
    /// The call may be made all the same.
    pub(super) async fn rows(&self, call: &Asked<'_>) -> Result<Vec<Row>, Trouble> {
        let mut kept = self.session.lock().await;
        let deadline = Instant::now() + self.patience;
        let mut session = match kept.take() {
            Some(session) if !session.is_closed() => session,
            _ => {
                let connected = timeout_at(deadline, self.connector.connect()).await;
                connected.map_err(|_| self.silent())??
            }
        };
        match timeout_at(deadline, session.rows(call)).await {
            Ok(answer) => {
                let rows = answer?;
                *kept = Some(session);
                Ok(rows)
            }
            Err(_) => {
                session.cut();
                Err(self.silent())
            }
        }
    }

    fn silent(&self) -> Trouble {
        let silent = format_args!("no answer within {} s", self.patience.as_secs());
        Trouble::Silent(JournalError::unavailable(silent))
    }
}
