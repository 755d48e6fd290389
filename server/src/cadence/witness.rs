//! Pure: the owner of a trouble, a purchase or its account.
//!
//! One purchase that is refused, fails or cannot be read says nothing about its account: three
//! different purchases do, or all if fewer are open. And a purchase that fails again, although others
//! that were asked since have been answered, has its own trouble: it is no witness at all.

use std::collections::BTreeMap;

/// The number of different purchases that have to say so. Ours.
pub const WITNESSES: usize = 3;
/// Purchases in trouble that are remembered, so that each is known to be its own: beyond, those that
/// failed longest ago are forgotten.
const FAILING_MAX: usize = 1_024;

/// A witness that an account is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// The way to the provider: each failure of it counts.
    Way,
    /// One of the purchases that are polled, by any number of its own.
    Open(u64),
    /// A create.
    Create(u64),
    /// A request about something else: a page, a purchase that has ended.
    Other(u64),
}

impl Witness {
    fn is_create(self) -> bool {
        matches!(self, Self::Create(_))
    }
}

/// The witnesses since somebody was last answered well: each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Witnesses([Option<Witness>; WITNESSES]);

impl Witnesses {
    /// One more says so.
    pub fn add(&mut self, witness: Witness) {
        let is_new = witness == Witness::Way || !self.0.contains(&Some(witness));
        if is_new && let Some(free) = self.0.iter_mut().find(|free| free.is_none()) {
            *free = Some(witness);
        }
    }

    /// Says whether that suffices while `open` purchases are polled: all of these, if they are few. A
    /// witness that is none of them counts as one more.
    pub fn suffice(&self, open: usize) -> bool {
        let is_other = |witness: &Witness| !matches!(witness, Witness::Open(_));
        let others = self.iter().filter(is_other).count();
        let needed = open.saturating_add(others).clamp(1, WITNESSES);
        self.iter().count() >= needed
    }

    /// Says whether there are as many as are ever needed.
    pub fn are_all(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    /// Says whether one of them is no create.
    pub fn any_reads(&self) -> bool {
        self.iter().any(|witness| !witness.is_create())
    }

    /// A read has shown that reads are well: only creates still say so.
    pub fn forget_reads(&mut self) {
        for place in &mut self.0 {
            *place = place.filter(|witness| witness.is_create());
        }
    }

    fn iter(&self) -> impl Iterator<Item = Witness> {
        self.0.into_iter().flatten()
    }
}

/// Purchases that fail, and whether others are answered meanwhile. Requests are numbered in the order
/// in which they are made.
#[derive(Debug, Default)]
pub struct Failing {
    /// By purchase: the newest request when it last failed.
    since: BTreeMap<u64, u64>,
    /// The newest request that was answered well.
    answered: u64,
}

impl Failing {
    /// A purchase failed, when `newest` was the last request made. Says whether that is its own
    /// trouble: it had failed before, and others that were asked afterwards have been answered.
    pub fn failed(&mut self, purchase: u64, newest: u64) -> bool {
        let before = self.since.insert(purchase, newest);
        if self.since.len() > FAILING_MAX {
            let oldest = self.since.iter().min_by_key(|(_, since)| **since);
            if let Some(oldest) = oldest.map(|(purchase, _)| *purchase) {
                self.since.remove(&oldest);
            }
        }
        before.is_some_and(|since| self.answered > since)
    }

    /// The request of this number, about a purchase, was answered well.
    pub fn answered(&mut self, purchase: u64, request: u64) {
        self.since.remove(&purchase);
        self.answered = self.answered.max(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_different_purchases_have_to_say_so_or_all_where_fewer_are_open() {
        use Witness::{Create, Open, Other, Way};
        let check = |witnesses: &[Witness], open: usize, expected: bool| {
            let mut all = Witnesses::default();
            witnesses.iter().for_each(|witness| all.add(*witness));
            assert_eq!(all.suffice(open), expected, "{witnesses:?} of {open}");
        };
        check(&[], 0, false);
        check(&[], 5, false);
        check(&[Open(1)], 1, true);
        check(&[Open(1)], 2, false);
        check(&[Open(1), Open(2)], 2, true);
        check(&[Open(1), Open(1), Open(1)], 2, false);
        check(&[Open(1), Open(2)], 3, false);
        check(&[Open(1), Open(2), Open(3)], 3, true);
        check(&[Open(1), Open(2), Open(3), Open(4)], 1_000, true);
        // A create is one more who could say otherwise.
        check(&[Create(9)], 0, true);
        check(&[Create(9)], 1, false);
        check(&[Create(9), Open(1)], 1, true);
        check(&[Create(9), Open(1)], 2, false);
        check(&[Create(9), Open(1), Open(2)], 2, true);
        check(&[Create(7), Other(8), Create(9)], 1_000, true);
        // An id in between is no purchase's.
        check(&[Way, Way], 1_000, false);
        check(&[Way, Way, Way], 1_000, true);
    }

    #[test]
    fn a_read_that_is_well_says_nothing_about_creates() {
        let mut all = Witnesses::default();
        all.add(Witness::Open(1));
        all.add(Witness::Create(2));
        all.add(Witness::Other(3));
        assert!(all.are_all() && all.any_reads());
        all.forget_reads();
        assert!(!all.any_reads());
        assert!(all.suffice(0), "the create still says so");
    }

    #[test]
    fn who_fails_again_while_others_are_answered_has_trouble_of_its_own() {
        let mut failing = Failing::default();
        assert!(!failing.failed(7, 1), "the first time nobody knows");
        assert!(!failing.failed(7, 2), "nor while nobody else is asked");
        failing.answered(8, 2);
        assert!(
            !failing.failed(7, 3),
            "an answer to what was asked before says nothing"
        );
        failing.answered(8, 4);
        assert!(failing.failed(7, 5));
        assert!(!failing.failed(7, 6), "nobody was answered since");
        failing.answered(8, 7);
        failing.answered(7, 8);
        assert!(!failing.failed(7, 9), "it was well in between");
    }

    #[test]
    fn only_so_many_are_remembered_and_the_newest_are() {
        let mut failing = Failing::default();
        for purchase in 0..5_000 {
            failing.failed(purchase, purchase);
        }
        assert_eq!(failing.since.len(), FAILING_MAX);
        failing.answered(9_999, 9_999);
        assert!(failing.failed(4_999, 10_000));
        assert!(!failing.failed(0, 10_000));
    }
}
