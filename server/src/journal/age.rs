//! The slow clock, which stamps every commit.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::purchase::Timestamp;

/// The newest time of the slow clock that the journal was told; at first the beginning of time.
#[derive(Debug, Default)]
pub(super) struct Age(AtomicI64);

impl Age {
    /// Takes over the time of the slow clock.
    pub(super) fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }

    /// The time from which the age of an event of now counts. The wall clock says `time`, and the
    /// answer is no earlier than the slow clock: a wall clock that was set back would date the event
    /// so far back that its purchase is given up, or taken by retention, at once.
    pub(super) fn stamp(&self, time: Timestamp) -> Timestamp {
        let now = Timestamp::from_millis(self.0.load(Ordering::SeqCst)).unwrap_or_default();
        time.max(now)
    }
}
