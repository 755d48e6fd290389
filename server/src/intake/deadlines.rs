//! The times at which purchases have to be looked at: purchases without a known reference, and buyer
//! actions whose time passes.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use crate::purchase::{Moment, PurchaseId};

/// Purchases by the time at which to look at them; one entry each.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    state: Mutex<State>,
    sooner: Notify,
    /// Set once nothing more is to be looked at.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    by_time: BTreeMap<(Moment, PurchaseId), ()>,
    by_purchase: BTreeMap<PurchaseId, Moment>,
}

impl Deadlines {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a purchase at this time, or at an earlier one that is set already.
    pub(super) fn at(&self, time: Moment, purchase: PurchaseId) {
        let mut state = self.lock();
        if let Some(known) = state.by_purchase.get(&purchase).copied() {
            if known <= time {
                return;
            }
            state.by_time.remove(&(known, purchase));
        }
        state.by_purchase.insert(purchase, time);
        state.by_time.insert((time, purchase), ());
        drop(state);
        self.sooner.notify_one();
    }

    /// Takes a purchase whose time has passed, or says when the next one's will.
    pub(super) fn take(&self, now: Moment) -> Result<PurchaseId, Option<Moment>> {
        let mut state = self.lock();
        let first = state.by_time.first_key_value().map(|(key, ())| *key);
        match first {
            Some((time, purchase)) if time <= now => {
                state.by_time.remove(&(time, purchase));
                state.by_purchase.remove(&purchase);
                Ok(purchase)
            }
            Some((time, _)) => Err(Some(time)),
            None => Err(None),
        }
    }

    /// Ends it: nothing more is to be looked at.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.sooner.notify_one();
    }

    /// True if it was ended.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits until a time was set that may be sooner than the known ones.
    pub(super) async fn sooner(&self) {
        self.sooner.notified().await;
    }
}
