//! The beat by which others see that this process lives, and by which it learns that it has lost the
//! store.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    connect::{Connector, Session, Trouble},
    opening::Holder,
};
use crate::journal::committer::Published;

/// The time between two beats.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait for the answer to one.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Beats each second over a connection of its own, until it is cancelled or the store is lost.
pub(super) async fn beat(
    connector: Arc<Connector>,
    holder: Holder,
    published: Arc<Published>,
    ends: CancellationToken,
) {
    let mut session = None;
    let beats = async {
        loop {
            match once(&connector, holder, &mut session).await {
                Ok(true) => {}
                // This process itself may have let the store go.
                Ok(false) if ends.is_cancelled() => return,
                Ok(false) => {
                    published.lose_store();
                    return;
                }
                // The commits tell that the store is away.
                Err(trouble) => tracing::debug!(error = %trouble.error(), "a beat failed"),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    ends.run_until_cancelled(beats).await;
}

async fn once(
    connector: &Connector,
    holder: Holder,
    kept: &mut Option<Session>,
) -> Result<bool, Trouble> {
    let mut session = match kept.take() {
        Some(session) => session,
        None => connector.connect().await?,
    };
    match tokio::time::timeout(ANSWER_MAX, holder.beat(&mut session)).await {
        Ok(answer) => {
            let lives = answer?;
            *kept = Some(session);
            Ok(lives)
        }
        Err(_) => {
            session.cut();
            Err(Trouble::lost("no answer to a beat within 5 s"))
        }
    }
}
