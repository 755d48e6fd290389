//! Hints that a process has committed: the server's notifications. They can be lost, and a pooler may not pass
//! them on. Nobody relies on them: without hints the log is read a little later.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_postgres::Notification;
use tokio_util::sync::CancellationToken;

use super::connect::{Asked, Connector, Session, Trouble};
use crate::journal::ReplicaId;

/// The time within which a notification to itself should come.
pub(super) const PROOF_MAX: Duration = Duration::from_secs(5);
/// The time until a connection that is lost is opened again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Passes on each hint that comes, for ever. Each connection is proved by a notification to itself, within
/// this time; the first that is not gives a warning.
pub(super) async fn listen(
    connector: &Connector,
    replica: &ReplicaId,
    hints: &Arc<Notify>,
    proof_max: Duration,
) {
    let mut was_told = false;
    loop {
        match listening(connector, replica, hints).await {
            Ok(listener) => {
                if !listener.proves_within(proof_max).await && !was_told {
                    was_told = true;
                    tracing::warn!(
                        "the server's notifications do not come: other processes' transitions are seen \
                         up to 0.1 s later"
                    );
                }
                listener.ended.cancelled().await;
            }
            Err(trouble) => tracing::debug!(error = %trouble.error(), "no hints come"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// A connection that passes hints on.
struct Listener {
    /// Told once its notification to itself has come.
    proof: Arc<Notify>,
    ended: CancellationToken,
    _session: Session,
}

impl Listener {
    async fn proves_within(&self, proof_max: Duration) -> bool {
        let proved = tokio::time::timeout(proof_max, self.proof.notified());
        proved.await.is_ok()
    }
}

async fn listening(
    connector: &Connector,
    replica: &ReplicaId,
    hints: &Arc<Notify>,
) -> Result<Listener, Trouble> {
    // The name of the channel is that of the function that notifies.
    const LISTEN: &str = "LISTEN tillwatch";
    const PROVE: &str = "SELECT pg_notify('tillwatch', $1)";
    let (proof, ended) = (Arc::new(Notify::new()), CancellationToken::new());
    let (proves, ends) = (Arc::clone(&proof), ended.clone().drop_guard());
    let (name, hinted) = (replica.as_str().to_owned(), Arc::clone(hints));
    let hears = move |notification: &Notification| {
        // Dropped with the connection.
        let _ends = &ends;
        if notification.payload() == name {
            proves.notify_one();
        }
        hinted.notify_one();
    };
    let mut session = connector.listening(hears).await?;
    session.execute(LISTEN).await?;
    // Nobody hinted here at what was committed before this.
    hints.notify_one();
    session
        .rows(&Asked::Own(PROVE, &[&replica.as_str()]))
        .await?;
    Ok(Listener {
        proof,
        ended,
        _session: session,
    })
}

#[cfg(test)]
mod tests {
    use tillwatch_cluster::{Cluster, Database, Gate, Way};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::{journal::postgres::Settings, testing::Log};

    fn listens(url: &str, proof_max: Duration) -> (Arc<Notify>, AbortOnDropHandle<()>) {
        let connector = Connector::new(&Settings::parse(url).unwrap()).unwrap();
        let hints = Arc::new(Notify::new());
        let passed = Arc::clone(&hints);
        let listening = async move {
            listen(&connector, &ReplicaId::new("first"), &passed, proof_max).await;
        };
        (hints, AbortOnDropHandle::new(tokio::spawn(listening)))
    }

    async fn hinted(hints: &Notify) {
        let hinted = tokio::time::timeout(Duration::from_secs(20), hints.notified());
        hinted.await.expect("a hint comes");
    }

    /// Waits until no hint has come for a while.
    async fn quiet(hints: &Notify) {
        let moment = Duration::from_millis(300);
        while tokio::time::timeout(moment, hints.notified()).await.is_ok() {}
    }

    fn end_connections(database: &Database) {
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()";
        assert_eq!(database.run(ended), "t");
    }

    #[tokio::test]
    async fn hints_come_and_come_again_after_their_connection_was_lost() {
        let database = Cluster::shared().database();
        let (log, _logs) = Log::begin();
        let (hints, _listens) = listens(&database.url(), PROOF_MAX);
        for _ in 0..2 {
            // The log is read after each LISTEN.
            hinted(&hints).await;
            quiet(&hints).await;
            database.run("NOTIFY tillwatch");
            hinted(&hints).await;
            end_connections(&database);
        }
        assert!(!log.text().contains("do not come"), "{}", log.text());
    }

    #[tokio::test]
    async fn of_connections_whose_notifications_do_not_come_the_first_gives_a_warning() {
        let database = Cluster::shared().database();
        let gate = Gate::before(&database).await;
        gate.turn(Way::LosesHints);
        let (log, _logs) = Log::begin();
        let proof_max = Duration::from_millis(200);
        let (hints, _listens) = listens(gate.url(), proof_max);
        let warnings = || log.text().matches("do not come").count();
        for _ in 0..2 {
            hinted(&hints).await;
            // Longer than the proof may take.
            quiet(&hints).await;
            assert_eq!(warnings(), 1, "{}", log.text());
            end_connections(&database);
        }
    }
}
