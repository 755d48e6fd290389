//! Wake-ups by time, in slots of a second: a hundred thousand idle streams share a few slots, in place
//! of a timer each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::{Wake, lock};

/// The width of a slot.
pub(super) const SLOT: Duration = Duration::from_secs(1);

/// The streams that want to be woken, by time.
#[derive(Debug)]
pub(super) struct Alarms {
    start: Instant,
    /// The wakers by slots since the start. A stream that is gone leaves a dead entry until its slot is
    /// due.
    slots: Mutex<BTreeMap<u64, Vec<Weak<Wake>>>>,
}

impl Alarms {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            slots: Mutex::default(),
        }
    }

    /// The slot in which `time` has passed.
    fn slot(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.start).as_secs() + 1
    }

    /// Wakes `wake` once `time` has passed. Returns the slot, for comparison with [`Alarms::passed`].
    pub(super) fn at(&self, time: Instant, wake: &Arc<Wake>) -> u64 {
        let slot = self.slot(time);
        lock(&self.slots)
            .entry(slot)
            .or_default()
            .push(Arc::downgrade(wake));
        slot
    }

    /// The slot of a moment: everything registered in it or before it has been woken.
    pub(super) fn passed(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }

    /// The number of entries, dead ones included.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        lock(&self.slots).values().map(Vec::len).sum()
    }

    /// Wakes all streams whose time has passed.
    pub(super) fn tick(&self, now: Instant) {
        let passed = self.passed(now);
        let later = {
            let mut slots = lock(&self.slots);
            let later = slots.split_off(&(passed + 1));
            std::mem::replace(&mut *slots, later)
        };
        for wake in later.into_values().flatten() {
            if let Some(wake) = wake.upgrade() {
                wake.0.wake();
            }
        }
    }
}
