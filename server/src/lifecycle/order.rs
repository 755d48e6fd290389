//! Which of several answers about one purchase is the newer one.
//!
//! The order of this service's own reads comes first: a read that began after another's answer had
//! arrived is the newer one. A provider's stamps decide where reads overlap, and for rows of pages,
//! which a provider may serve from an older copy than its single reads. A stamp alone is never
//! believed for ever: one can be set by a clock that is wrong.

use std::{cmp::Ordering, time::Duration};

use crate::purchase::{Moment, Timestamp};

/// How long single reads have to go on carrying an older stamp until one of them is applied: a copy
/// that lags has caught up by then. Ours.
pub const HELD_BACK_FOR: Duration = Duration::from_secs(60);

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A request about this purchase alone.
    Read,
    /// A row of a page.
    Row,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the newest that is known.
    Apply,
    /// It may be newer, against its stamp: the purchase has to be asked again before it is believed.
    HoldBack,
    /// It is older than what is known.
    Drop,
}

/// What is remembered of the answers about one purchase, besides its status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// The change clock that the newest applied answers carried.
    pub newest_change: Option<Timestamp>,
    /// When the newest applied answer arrived.
    pub answered: Option<Moment>,
    /// When the last readable answer arrived, applied or not.
    pub arrived: Option<Moment>,
    /// Since when all single reads have had a stamp older than `newest_change`.
    pub held_back_since: Option<Moment>,
}

impl Heard {
    /// Takes an answer in whose request began and which arrived at these times, with the provider's
    /// change clock where it has one, and says what becomes of it.
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
                // A row that tells again what is applied says nothing about what single reads say.
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

    /// When the purchase has to be asked again, whatever its schedule, since an answer is held back.
    pub fn asked_again_at(&self) -> Option<Moment> {
        self.held_back_since.map(|since| since.plus(HELD_BACK_FOR))
    }
}

#[cfg(test)]
mod tests;
