//! When which purchase is due: a wheel of coarse slots, so that arming and firing cost the same
//! with one purchase as with a million.

use std::collections::BTreeMap;

use crate::purchase::Timestamp;

/// The width of a slot, in milliseconds: how much later than wanted a poll may come.
const SLOT_MS: i64 = 50;

/// Entries by the slot in which they are due. An entry that was armed anew leaves its old place
/// behind; whoever takes it compares the time it carries.
#[derive(Debug, Default)]
pub(super) struct Timers {
    slots: BTreeMap<i64, Vec<u32>>,
}

impl Timers {
    fn slot(time: Timestamp) -> i64 {
        time.as_millis()
            .saturating_add(SLOT_MS - 1)
            .div_euclid(SLOT_MS)
    }

    /// Arms an entry.
    pub(super) fn arm(&mut self, time: Timestamp, entry: u32) {
        self.slots.entry(Self::slot(time)).or_default().push(entry);
    }

    /// Takes all entries whose slot has passed.
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<u32> {
        let passed = now.as_millis().div_euclid(SLOT_MS);
        let later = self.slots.split_off(&(passed + 1));
        let due = std::mem::replace(&mut self.slots, later);
        due.into_values().flatten().collect()
    }

    /// When the next slot passes.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let (slot, _) = self.slots.first_key_value()?;
        Timestamp::from_millis(slot.saturating_mul(SLOT_MS)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_due_when_their_time_has_passed_and_never_before() {
        let at = |millis: i64| Timestamp::from_millis(1_800_000_000_000 + millis).unwrap();
        let mut timers = Timers::default();
        for (entry, millis) in [(1, 0), (2, 1), (3, 50), (4, 1_000)] {
            timers.arm(at(millis), entry);
        }
        assert_eq!(timers.take(at(0)), [1]);
        assert_eq!(timers.next(), Some(at(50)));
        assert_eq!(timers.take(at(49)), [] as [u32; 0]);
        assert_eq!(timers.take(at(50)), [2, 3]);
        assert_eq!(timers.take(at(5_000)), [4]);
        assert_eq!(timers.next(), None);
    }
}
