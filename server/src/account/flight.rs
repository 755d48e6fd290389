//! An account's requests under way: plain state.

use super::Class;
use crate::cadence::Policy;

/// The requests under way. Held ones, long polls, are counted apart.
#[derive(Debug)]
pub(super) struct Flight {
    free: Occupancy,
    held: Occupancy,
    /// The places among the free ones that the store lets this process have.
    given: u32,
}

/// The places of one kind, and those that are taken.
#[derive(Debug)]
struct Occupancy {
    taken: u32,
    all: u32,
}

impl Flight {
    /// The places of a policy, if the store knows of no other process.
    pub(super) fn new(policy: &Policy) -> Self {
        let places = |all| Occupancy { taken: 0, all };
        Self {
            free: places(policy.max_in_flight),
            held: places(policy.held_max),
            given: u32::MAX,
        }
    }

    /// The store lets this process have so many in flight, long polls apart.
    pub(super) fn give(&mut self, places: u32) {
        self.given = places;
    }

    /// True if one more needs a place that the store has not given.
    pub(super) fn is_untaken(&self, is_held: bool) -> bool {
        !is_held && self.free.taken >= self.given
    }

    /// True if the store keeps places for this process that it does not use.
    pub(super) fn has_spare(&self) -> bool {
        self.given != u32::MAX && self.given > self.free.taken
    }

    /// The requests under way, long polls apart.
    pub(super) fn taken(&self) -> u32 {
        self.free.taken
    }

    /// The places that one more of this class should ask for: as many again as there are, so that not each
    /// one asks.
    pub(super) fn wanted(&self, class: Class, is_held: bool) -> u32 {
        let taken = self.free.taken;
        let kept = if self.has_spare() { self.given } else { 0 };
        match class.is_first() {
            _ if is_held => taken,
            true => kept.max(taken + 1),
            false => taken.saturating_mul(2).saturating_add(8),
        }
    }

    /// So many may be under way from now on, and so many long polls. Requests beyond that end as they began.
    pub(super) fn take_up(&mut self, free: u32, held: u32) {
        self.free.all = free;
        self.held.all = held;
    }

    /// The most that all processes may have under way, long polls apart.
    pub(super) fn most(&self) -> u32 {
        self.free.all
    }

    fn of(&mut self, is_held: bool) -> &mut Occupancy {
        if is_held {
            &mut self.held
        } else {
            &mut self.free
        }
    }

    /// True if one more request may be under way. The last eighth is for creates alone, and so is the
    /// last place of all while a create waits.
    pub(super) fn has_room(&self, class: Class, is_held: bool, create_waits: bool) -> bool {
        let Occupancy { taken, all } = self.free;
        if is_held {
            self.held.taken < self.held.all
        } else if class.is_first() {
            taken < all
        } else {
            taken < (all - all / 8).max(1) && !(create_waits && taken + 1 >= all)
        }
    }

    /// The number of further polls that have room.
    pub(super) fn room_for_polls(&self, is_held: bool) -> u32 {
        let Occupancy { taken, all } = self.free;
        if is_held {
            self.held.all.saturating_sub(self.held.taken)
        } else {
            (all - all / 8).saturating_sub(taken)
        }
    }

    /// A request begins.
    pub(super) fn begins(&mut self, is_held: bool) {
        self.of(is_held).taken += 1;
    }

    /// A request is over.
    pub(super) fn ends(&mut self, is_held: bool) {
        let places = self.of(is_held);
        places.taken = places.taken.saturating_sub(1);
    }

    /// All requests under way.
    pub(super) fn count(&self) -> u32 {
        self.free.taken + self.held.taken
    }
}
