//! Rows that cannot be read: each troubles the reader that asks for it, and nobody else.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::purchase::PurchaseId;

/// The most purchases that the log names, once each; further rows are only counted.
const NAMED_MAX: usize = 1_000;

/// The damaged rows met so far. Clones share them.
#[derive(Debug, Default, Clone)]
pub(super) struct Damage(Arc<Tally>);

#[derive(Debug, Default)]
struct Tally {
    times: AtomicU64,
    /// The purchases that the log has named. Each use of the lock is short.
    named: Mutex<BTreeSet<PurchaseId>>,
}

impl Damage {
    /// The number of times that a row was met that cannot be read.
    pub(super) fn times(&self) -> u64 {
        self.0.times.load(Ordering::Relaxed)
    }

    /// Takes note of a row of this purchase that cannot be read because of this column.
    pub(super) fn met(&self, purchase: PurchaseId, column: usize) {
        self.0.times.fetch_add(1, Ordering::Relaxed);
        let mut named = self.0.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < NAMED_MAX && named.insert(purchase) {
            // Without the value and the parser's words about it: they can be anybody's data.
            tracing::error!(%purchase, column, "a row of this purchase cannot be read");
        }
    }
}
