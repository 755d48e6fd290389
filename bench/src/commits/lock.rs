//! Looks at the lock that orders the feed: the shares of time in which it is held and waited for.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::Failure;

/// The interval of looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Shares of time, from 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shares {
    /// Somebody has the lock.
    pub held: f64,
    /// A process waits for it: the mean over all processes.
    pub waited: f64,
}

/// Looks for so long at the lock of so many processes.
///
/// # Errors
/// The database does not answer.
pub async fn watch(url: &str, length: Duration, processes: u32) -> Result<Shares, Failure> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    // The lock is `pg_advisory_xact_lock(1, 1)`.
    let look =
        "SELECT count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted) FROM pg_locks
         WHERE locktype = 'advisory' AND classid = 1 AND objid = 1 AND objsubid = 2";
    let look = client.prepare(look).await?;
    let (mut looks, mut held, mut waited) = (0_u32, 0_i64, 0_i64);
    let began = Instant::now();
    while began.elapsed() < length {
        let row = client.query_one(&look, &[]).await?;
        looks += 1;
        held += row.try_get::<_, i64>(0)?;
        waited += row.try_get::<_, i64>(1)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let of = |count: i64, all: u32| count as f64 / f64::from(all.max(1));
    Ok(Shares {
        held: of(held, looks),
        waited: of(waited, looks * processes),
    })
}
