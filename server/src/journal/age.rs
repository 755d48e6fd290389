//! Retention's clock, as what is committed is stamped by it.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::purchase::Timestamp;

/// The time that retention counts to now, as far as anybody has said; else the beginning of time.
#[derive(Debug, Default)]
pub(super) struct Age(AtomicI64);

impl Age {
    /// Retention counts to `now` from now on.
    pub(super) fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }

    /// When retention begins to count for what happened at a time of the wall clock: no earlier than
    /// its own clock says. A wall clock that was set back would date it so far back that it is taken
    /// at once.
    pub(super) fn stamp(&self, time: Timestamp) -> Timestamp {
        let now = Timestamp::from_millis(self.0.load(Ordering::SeqCst)).unwrap_or_default();
        time.max(now)
    }
}
