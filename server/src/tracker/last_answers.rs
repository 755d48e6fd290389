//! The times of the last answers about purchases that are followed no more. The memory is bounded:
//! `Freshness` tells a time as far as it is known.

use std::collections::{HashMap, VecDeque};

use crate::purchase::{PurchaseId, Timestamp};

/// The most purchases that are remembered: some megabytes. Ours.
const REMEMBERED_MAX: usize = 65_536;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct LastAnswers {
    answered: HashMap<PurchaseId, Timestamp>,
    /// The oldest first.
    order: VecDeque<PurchaseId>,
}

impl LastAnswers {
    /// Remembers when the last answer about a purchase arrived, and forgets the oldest beyond the
    /// bound.
    pub(super) fn remember(&mut self, purchase: PurchaseId, answered: Timestamp) {
        if self.answered.insert(purchase, answered).is_none() {
            self.order.push_back(purchase);
        }
        if self.order.len() > REMEMBERED_MAX
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
        let mut last = LastAnswers::default();
        let now = Timestamp::default();
        for number in 0..=REMEMBERED_MAX {
            last.remember(PurchaseId::from_u128(number as u128), now);
        }
        assert_eq!(last.order.len(), REMEMBERED_MAX);
        assert_eq!(last.answered.len(), REMEMBERED_MAX);
        assert_eq!(last.answered(PurchaseId::from_u128(0)), None);
        assert_eq!(last.answered(PurchaseId::from_u128(1)), Some(now));
    }
}
