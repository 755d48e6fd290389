//! The slow clock, as what is committed is stamped by it.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::purchase::Timestamp;

/// What the slow clock says now, as far as anybody has told; else the beginning of time.
#[derive(Debug, Default)]
pub(super) struct Age(AtomicI64);

impl Age {
    /// The slow clock says `now`.
    pub(super) fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }

    /// The time from which ages count for what happened now, by the wall clock at `time`: no earlier than
    /// the slow clock says. A wall clock that was set back would date it so far back that it is given
    /// up, or taken by retention, at once.
    pub(super) fn stamp(&self, time: Timestamp) -> Timestamp {
        let now = Timestamp::from_millis(self.0.load(Ordering::SeqCst)).unwrap_or_default();
        time.max(now)
    }
}
