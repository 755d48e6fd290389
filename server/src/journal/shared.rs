//! The commits of a store that several processes write, merged into the order of the feed.
//!
//! A process tells of its own commits at once, before their writer is answered. Those of others it reads
//! from the log, and by the same read it tells of everything in order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Committed, JournalError, Position,
    committer::{Hears, Published},
};
use crate::{
    progress::Progress,
    purchase::{PurchaseId, Revision},
};

/// Transitions read at once.
const READ_MAX: usize = 1_000;
/// The shortest time from one read to the next: hints may come with each commit.
const READ_AT_MOST_EVERY: Duration = Duration::from_millis(5);
/// Own transitions that are kept until the log was read up to them. Beyond that the oldest count as
/// others', and are told twice.
const OWN_MAX: usize = 8_192;

/// Transitions read from the log.
#[derive(Debug)]
pub(super) struct Logged {
    /// The transitions, in order, each with its buyer action if that is not wiped.
    pub(super) committed: Vec<Arc<Committed>>,
    /// The position that the read reaches.
    pub(super) through: Position,
    /// True if the log had no more.
    pub(super) is_whole: bool,
}

/// The log of a store, as one of its processes reads on in it.
pub(super) trait Log: Send + Sync {
    /// At most so many transitions after a position. The store has committed all that come before the last
    /// of them.
    fn read(
        &self,
        after: Position,
        limit: usize,
    ) -> impl Future<Output = Result<Logged, JournalError>> + Send;
}

/// Own commits that the log was not read up to, and the time that it was read whole.
#[derive(Debug)]
pub(super) struct Merge(Mutex<State>);

#[derive(Debug)]
struct State {
    own: BTreeMap<Position, Arc<Committed>>,
    /// The beginning of the last read that reached the end of the log.
    whole_at: Instant,
}

impl Merge {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            own: BTreeMap::new(),
            whole_at: Instant::now(),
        }))
    }

    /// Held while observers are told: of one purchase nobody hears an older revision after a newer one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of own commits, in any order.
    pub(super) fn own(&self, committed: &[Arc<Committed>], published: &Published) {
        let mut state = self.lock();
        let head = published.head();
        // If their outcome was long unknown, the log was read up to them, and they were told.
        let ahead = committed.iter().filter(|one| one.position > head);
        let ahead: Vec<_> = ahead.cloned().collect();
        let placed = ahead.iter().map(|one| (one.position, Arc::clone(one)));
        state.own.extend(placed);
        while state.own.len() > OWN_MAX {
            state.own.pop_first();
        }
        published.observers.tell_only(Hears::Purchases, &ahead);
        published.observers.tell_only(Hears::Own, committed);
    }

    /// Tells of what was read after all that was told in order: of others' commits, and of everything in
    /// order.
    fn read(&self, read: Logged, began: Instant, published: &Published) {
        let mut state = self.lock();
        let head = published.head();
        let newest = newest_by_purchase(&state.own);
        let (mut others, mut all) = (Vec::new(), Vec::new());
        for one in read.committed {
            if one.position <= head {
                continue;
            }
            if let Some(own) = state.own.remove(&one.position) {
                all.push(own);
                continue;
            }
            let (id, revision) = (one.purchase.id, one.purchase.status.revision);
            if newest.get(&id).is_none_or(|newest| revision > *newest) {
                others.push(Arc::clone(&one));
            }
            all.push(one);
        }
        // The commits that the store shows to nobody any more.
        let through = read.through.max(head);
        state.own = state.own.split_off(&Position(through.0.saturating_add(1)));
        published.move_head(through);
        published.remember(all.last().map(|last| (&**last).into()));
        published.observers.tell_only(Hears::Purchases, &others);
        published.observers.tell_only(Hears::InOrder, &all);
        if read.is_whole {
            state.whole_at = began;
        }
    }

    /// The time since which a commit may have been made of which nobody was told.
    pub(super) fn behind(&self) -> Duration {
        self.lock().whole_at.elapsed()
    }
}

fn newest_by_purchase(own: &BTreeMap<Position, Arc<Committed>>) -> HashMap<PurchaseId, Revision> {
    // In order of positions, and so of a purchase's revisions.
    let each = own.values();
    each.map(|one| (one.purchase.id, one.purchase.status.revision))
        .collect()
}

/// Reads on in the log for ever, at each hint and at least at this interval, and tells the observers.
pub(super) async fn follow(
    log: &impl Log,
    (merge, published): (&Merge, &Published),
    (hints, every): (&Notify, Duration),
    progress: &Progress,
) {
    loop {
        progress.round().await;
        let began = Instant::now();
        let reading = log.read(published.head(), READ_MAX);
        let is_whole = match progress.across(reading).await {
            Ok(read) => {
                let is_whole = read.is_whole;
                merge.read(read, began, published);
                is_whole
            }
            Err(error) => {
                tracing::debug!(%error, "the log cannot be read");
                true
            }
        };
        tokio::time::sleep(READ_AT_MOST_EVERY).await;
        if is_whole {
            // A hint that came since the read began is kept.
            let hinted = tokio::time::timeout(every, hints.notified());
            hinted.await.ok();
        }
    }
}

#[cfg(test)]
mod tests;
