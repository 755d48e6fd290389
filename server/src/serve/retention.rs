//! Retention: takes purchases that have been final for long, a few at a time, so that it holds no commit
//! up.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::wall::Wall;
use crate::{
    journal::{Journal, Retirement},
    ownership::Tenures,
    progress::Progress,
};

/// The interval between two runs of retention.
const RETENTION_EVERY: Duration = Duration::from_secs(3_600);
/// The interval of looks at whether this process keeps house by now.
const KEEPER_LOOKED_FOR_EVERY: Duration = Duration::from_secs(60);
/// The time for which retention may hold commits up: a batch takes about so long, and an equal pause
/// follows.
pub(super) const RETIREMENT_LASTS: Duration = Duration::from_millis(10);
/// Rows that retention takes in its first batch, and the most and the fewest in any other.
const RETIRED_ROWS: (usize, usize, usize) = (100, 1_000, 10);
/// The least time that a key is remembered (promise C2).
const REMNANTS_KEPT: Duration = Duration::from_secs(400 * 86_400);

/// Makes room: keeps purchases for the configured time after FINAL, and their keys for 400 days.
pub(super) async fn retire(
    (journal, tenures): (Arc<dyn Journal>, Tenures),
    wall: Arc<Wall>,
    retention: Duration,
    progress: Progress,
) {
    let (mut rows, _, _) = RETIRED_ROWS;
    loop {
        progress.round().await;
        let Some(keeping) = tenures.of_housekeeping() else {
            progress
                .across(tokio::time::sleep(KEEPER_LOOKED_FOR_EVERY))
                .await;
            continue;
        };
        let now = wall.aged();
        let retirement = Retirement {
            fence: keeping.fence().clone(),
            finals_before: now.minus(retention),
            remnants_before: now.minus(REMNANTS_KEPT.max(retention)),
            limit: rows,
        };
        let begun = Instant::now();
        let retired = progress.across(journal.retire(retirement)).await;
        let took = begun.elapsed();
        let wait = match retired {
            Ok(Some(0)) => RETENTION_EVERY,
            Ok(None) => {
                keeping.lose();
                KEEPER_LOOKED_FOR_EVERY
            }
            Ok(Some(_)) => {
                rows = next_rows(rows, took);
                took.max(RETIREMENT_LASTS)
            }
            Err(error) => {
                tracing::warn!(%error, "retention has to wait");
                RETENTION_EVERY
            }
        };
        progress.across(tokio::time::sleep(wait)).await;
    }
}

/// Rows of the next batch of retention, if the last batch took so long.
pub(super) fn next_rows(rows: usize, took: Duration) -> usize {
    let (_, most, fewest) = RETIRED_ROWS;
    let wanted = RETIREMENT_LASTS.as_micros();
    let rows = u128::try_from(rows).unwrap_or(u128::MAX);
    let fitting = rows.saturating_mul(wanted) / took.as_micros().max(1);
    usize::try_from(fitting).map_or(most, |fitting| fitting.clamp(fewest, most))
}
