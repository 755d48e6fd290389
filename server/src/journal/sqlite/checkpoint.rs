//! Checkpoints: commits move from the write-ahead log to the file, beside new commits.
//!
//! No checkpoint waits while it holds the writer's lock. If a reader keeps the log from being
//! emptied, the log grows, and a warning says so.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, Result};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::file;

/// Pages of the log beyond which it is cut as soon as all of it is in the file (64 MiB). If commits
/// never pause, a checkpoint beside them never empties it.
const LOG_PAGES_MAX: u64 = 16_384;
/// The longest wait for readers of a checkpoint that holds the writer's lock: too short to be noticed.
const PATIENCE: Duration = Duration::from_millis(25);
/// The time until the next checkpoint, if the last one could not move everything and nobody writes.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The time for which a log stands still before a reader is blamed: this program's own readers are
/// done long before.
const PINNED_AFTER: Duration = Duration::from_secs(5);
/// The time between two warnings of a log that stays pinned.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// The state of the log, for metrics.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Its size in use, in bytes.
    pub(super) bytes: AtomicU64,
    /// True if a reader keeps it from being emptied.
    pub(super) is_pinned: AtomicBool,
    /// The time for which it has done so at the last checkpoint, in milliseconds.
    pub(super) pinned_ms: AtomicU64,
}

/// The pages that one checkpoint met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Met {
    /// The pages of the log.
    pages: u64,
    /// The pages of these that are in the file as well.
    moved: u64,
}

/// The movement of the log, as checkpoints have seen it.
#[derive(Debug, Default)]
struct Progress {
    /// The pages in the file when the log was last seen to move, and the time of that.
    stands: Option<(u64, Instant)>,
    told: Option<Instant>,
}

impl Progress {
    /// True if a reader pins the log: there is more to move, and nothing has moved for a while.
    fn is_pinned(&mut self, met: Met, now: Instant) -> bool {
        match self.stands {
            _ if met.moved >= met.pages => self.stands = None,
            Some((moved, since)) if moved == met.moved => {
                return now.saturating_duration_since(since) >= PINNED_AFTER;
            }
            _ => self.stands = Some((met.moved, now)),
        }
        false
    }

    /// The time for which the log has stood still.
    fn stands_for(&self, now: Instant) -> Duration {
        let since = self.stands.map(|(_, since)| since);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// True if it is time to say that a log of this size is pinned.
    fn tells(&mut self, met: Met, now: Instant) -> bool {
        let was_told = (self.told).is_some_and(|told| {
            let since = now.saturating_duration_since(told);
            since < TOLD_EVERY
        });
        if met.pages <= LOG_PAGES_MAX || was_told {
            return false;
        }
        self.told = Some(now);
        true
    }
}

/// The connection that checkpoints.
#[derive(Debug)]
struct Checkpointer {
    connection: Connection,
    page_bytes: u64,
    progress: Progress,
    log: Arc<Log>,
}

impl Checkpointer {
    fn open(path: &std::path::Path, log: Arc<Log>) -> Result<Self> {
        let connection = file::checkpointer(path)?;
        connection.busy_timeout(PATIENCE)?;
        let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        Ok(Self {
            connection,
            page_bytes: u64::try_from(page_bytes).unwrap_or(0),
            progress: Progress::default(),
            log,
        })
    }

    /// Moves as much as it can. Returns true if something was left.
    fn run(&mut self) -> Result<bool> {
        let mut met = self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)")?;
        // The log is cut only if nobody reads it any more: else the cut would wait for the reader,
        // and commits for the cut.
        if met.pages > LOG_PAGES_MAX && met.moved == met.pages {
            met = self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")?;
        }
        let now = Instant::now();
        let is_pinned = self.progress.is_pinned(met, now);
        let bytes = met.pages.saturating_mul(self.page_bytes);
        self.log.bytes.store(bytes, Ordering::Relaxed);
        self.log.is_pinned.store(is_pinned, Ordering::Relaxed);
        let pinned = match is_pinned {
            true => self.progress.stands_for(now),
            false => Duration::ZERO,
        };
        let pinned_ms = u64::try_from(pinned.as_millis()).unwrap_or(u64::MAX);
        self.log.pinned_ms.store(pinned_ms, Ordering::Relaxed);
        if is_pinned && self.progress.tells(met, now) {
            tracing::warn!(
                log_bytes = bytes,
                "a reader of the database holds the write-ahead log, which grows until it ends: \
                 look for an open query, copy or replicator of another process"
            );
        }
        Ok(met.moved < met.pages)
    }

    fn checkpoint(&self, sql: &str) -> Result<Met> {
        self.connection.query_row(sql, [], |row| {
            // Both are -1 if the checkpoint could not begin.
            let pages = |index| {
                let pages: i64 = row.get(index)?;
                Ok::<u64, rusqlite::Error>(u64::try_from(pages).unwrap_or(0))
            };
            Ok(Met {
                pages: pages(1)?,
                moved: pages(2)?,
            })
        })
    }
}

/// Checkpoints whenever the writer asks for it, until `closing`.
pub(super) async fn when_wanted(
    path: PathBuf,
    log: Arc<Log>,
    wanted: Arc<Notify>,
    closing: CancellationToken,
) {
    let mut checkpointer = None;
    let mut is_left = false;
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = wanted.notified() => {}
            () = tokio::time::sleep(AGAIN_AFTER), if is_left => {}
        }
        let (kept, path, log) = (checkpointer.take(), path.clone(), Arc::clone(&log));
        let task = tokio::task::spawn_blocking(move || {
            let mut used: Checkpointer = kept.map_or_else(|| Checkpointer::open(&path, log), Ok)?;
            let is_left = used.run()?;
            Ok::<_, rusqlite::Error>((used, is_left))
        });
        match task.await {
            Ok(Ok((used, left))) => (checkpointer, is_left) = (Some(used), left),
            // Nothing is lost: the log grows until a checkpoint works, on a new connection.
            Ok(Err(error)) => {
                tracing::warn!(%error, "a checkpoint failed");
                is_left = true;
            }
            Err(error) => {
                tracing::error!(%error, "a checkpoint was cut short by a defect");
                is_left = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_pinned_once_nothing_of_it_has_moved_for_a_while() {
        let begun = Instant::now();
        let mut progress = Progress::default();
        let mut check = |seconds, pages, moved, expected| {
            let now = begun + Duration::from_secs(seconds);
            let met = Met { pages, moved };
            assert_eq!(
                progress.is_pinned(met, now),
                expected,
                "{seconds} s {met:?}"
            );
        };
        check(0, 10, 10, false);
        check(1, 20, 10, false);
        check(5, 90, 10, false);
        check(6, 99, 10, true);
        check(7, 99, 11, false);
        check(12, 99, 11, true);
        check(13, 99, 99, false);
        check(20, 120, 99, false);
    }

    #[test]
    fn a_pinned_log_is_told_of_once_it_is_large_and_not_too_often() {
        let begun = Instant::now();
        let mut progress = Progress::default();
        let mut check = |seconds, pages, expected| {
            let now = begun + Duration::from_secs(seconds);
            let met = Met { pages, moved: 0 };
            assert_eq!(progress.tells(met, now), expected, "{seconds} s");
        };
        check(0, LOG_PAGES_MAX, false);
        check(1, LOG_PAGES_MAX + 1, true);
        check(600, 2 * LOG_PAGES_MAX, false);
        check(601, 2 * LOG_PAGES_MAX, true);
    }
}
