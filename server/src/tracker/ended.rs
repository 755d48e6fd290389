//! When the last answers about purchases arrived that are followed no more. A bounded memory: the
//! contract tells it as far as it is known.

use std::collections::{HashMap, VecDeque};

use crate::purchase::{PurchaseId, Timestamp};

/// How many are remembered: some megabytes. Ours.
const ENDED_MAX: usize = 65_536;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Ended {
    answered: HashMap<PurchaseId, Timestamp>,
    /// The oldest first.
    order: VecDeque<PurchaseId>,
}

impl Ended {
    /// Remembers when the last answer about a purchase arrived, and forgets the oldest beyond the
    /// bound.
    pub(super) fn remember(&mut self, purchase: PurchaseId, answered: Timestamp) {
        if self.answered.insert(purchase, answered).is_none() {
            self.order.push_back(purchase);
        }
        if self.order.len() > ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.answered.remove(&oldest);
        }
    }

    pub(super) fn answered(&self, purchase: PurchaseId) -> Option<Timestamp> {
        self.answered.get(&purchase).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_ends_is_bounded() {
        let mut ended = Ended::default();
        let now = Timestamp::default();
        for number in 0..=ENDED_MAX {
            ended.remember(PurchaseId::from_u128(number as u128), now);
        }
        assert_eq!(ended.order.len(), ENDED_MAX);
        assert_eq!(ended.answered.len(), ENDED_MAX);
        assert_eq!(ended.answered(PurchaseId::from_u128(0)), None);
        assert_eq!(ended.answered(PurchaseId::from_u128(1)), Some(now));
    }
}
