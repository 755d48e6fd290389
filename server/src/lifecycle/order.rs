//! The order of answers about one purchase: the newer one is applied.
//!
//! The order of this service's own reads comes first: a read that began after another's answer had
//! arrived is newer. A provider's stamps decide if reads overlap, and for rows of pages, which a
//! provider may serve from an older copy than its single reads. A stamp alone is never believed for
//! ever: a wrong clock may have set it.

use std::{cmp::Ordering, time::Duration};

use crate::purchase::{Moment, Timestamp};

/// The time for which single reads have to go on carrying an older stamp until one of them is applied:
/// a copy that lags has caught up by then. Ours.
pub const HELD_BACK_FOR: Duration = Duration::from_secs(60);

/// The source of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A request about this purchase alone.
    Read,
    /// A row of a page.
    Row,
}

/// The decision about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the newest answer.
    Apply,
    /// It may be the newest, against its stamp: the purchase has to be asked again before it is
    /// believed.
    HoldBack,
    /// It is older than an answer that was applied.
    Drop,
}

/// The memory of the answers about one purchase, besides its status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeardAnswers {
    /// The change clock that the newest applied answers carried.
    pub newest_change: Option<Timestamp>,
    /// The time at which the newest applied answer arrived.
    pub answered: Option<Moment>,
    /// The time at which the last readable answer arrived, applied or not.
    pub arrived: Option<Moment>,
    /// The time since which all single reads have had a stamp older than `newest_change`.
    pub held_back_since: Option<Moment>,
}

impl HeardAnswers {
    /// Takes in an answer and decides about it. `change` is the provider's change clock, if the answer
    /// has one; `began` is the beginning of its request, `arrived` the time of its arrival.
    pub fn hear(
        &mut self,
        source: Source,
        change: Option<Timestamp>,
        began: Moment,
        arrived: Moment,
    ) -> Verdict {
        self.arrived = self.arrived.max(Some(arrived));
        let order = change
            .zip(self.newest_change)
            .map(|(change, newest)| change.cmp(&newest));
        let verdict = self.verdict(source, order, began);
        match verdict {
            Verdict::Apply => {
                self.newest_change = change.or(self.newest_change);
                self.answered = self.answered.max(Some(arrived));
                // A row that repeats the applied status says nothing about the single reads.
                if source == Source::Read || order == Some(Ordering::Greater) {
                    self.held_back_since = None;
                }
            }
            Verdict::HoldBack => {
                self.held_back_since.get_or_insert(arrived);
            }
            Verdict::Drop => {}
        }
        verdict
    }

    fn verdict(&self, source: Source, order: Option<Ordering>, began: Moment) -> Verdict {
        let overlaps = self.answered.is_some_and(|answered| began < answered);
        match (order, source) {
            (Some(Ordering::Greater), _) => Verdict::Apply,
            _ if overlaps => Verdict::Drop,
            (Some(Ordering::Less), Source::Row) => Verdict::Drop,
            (Some(Ordering::Less), Source::Read) => match self.asked_again_at() {
                Some(at) if began >= at => Verdict::Apply,
                _ => Verdict::HoldBack,
            },
            (Some(Ordering::Equal) | None, _) => Verdict::Apply,
        }
    }

    /// The time at which the purchase has to be asked again, whatever its schedule, if an answer is held
    /// back.
    pub fn asked_again_at(&self) -> Option<Moment> {
        self.held_back_since.map(|since| since.plus(HELD_BACK_FOR))
    }
}

#[cfg(test)]
mod tests;
