//! The paces of an account's budget: one for all requests, and one for each kind that has a share of its
//! own.

use std::collections::VecDeque;

use super::class::Class;
use crate::{
    cadence::{Policy, budget::Pace},
    journal::{Arrivals, KeptBudget, Taking},
    purchase::Moment,
};

/// The parts of the budget: of look-ups of unclear creates, of purchases after their end, of callers'
/// wishes, of pages.
const LOOK_UPS_PART: u32 = 10;
const AFTER_TERMINAL_PART: u32 = 5;
const REFRESHES_PART: u32 = 4;
const SWEEPS_PART: u32 = 2;

/// The paces.
#[derive(Debug)]
pub(super) struct Shares {
    /// Requests of all kinds.
    pub(super) all: Pace,
    /// Creates, which pass both.
    pub(super) creates: Pace,
    /// The tenth for look-ups of unclear creates.
    look_ups: Pace,
    /// The fifth for purchases after their end.
    after_terminal: Pace,
    /// The quarter for callers' wishes.
    refreshes: Pace,
    /// The half for pages of many purchases.
    sweeps: Pace,
    /// The arrival times of the first two that the store lets this process come to.
    taken: Arrivals,
}

impl Shares {
    pub(super) fn new(policy: &Policy) -> Self {
        let limit = policy.requests_per_minute;
        Self {
            all: Pace::new(limit),
            creates: Pace::new(policy.creates_per_minute),
            look_ups: Pace::share(limit, LOOK_UPS_PART),
            after_terminal: Pace::share(limit, AFTER_TERMINAL_PART),
            refreshes: Pace::share(limit, REFRESHES_PART),
            sweeps: Pace::share(limit, SWEEPS_PART),
            taken: Arrivals::default(),
        }
    }

    /// Goes on from what an earlier process has left.
    pub(super) fn resume(&mut self, kept: KeptBudget) {
        let KeptBudget { arrivals, as_of } = kept;
        self.taken = Arrivals {
            requests: self.all.resume(arrivals.requests, as_of),
            creates: self.creates.resume(arrivals.creates, as_of),
        };
    }

    /// Another limit for all requests holds now, and for the parts of them.
    pub(super) fn set_limit(&mut self, limit: u32, now: Moment) {
        self.all.set_limit(limit, 1, now);
        self.set_parts(limit, now);
    }

    /// The same of a limit that holds for these requests as well, the oldest first.
    pub(super) fn hold_to(&mut self, limit: u32, recent: &VecDeque<Moment>, now: Moment) {
        self.all.hold_to(limit, recent.iter().copied());
        self.set_parts(limit, now);
    }

    fn set_parts(&mut self, limit: u32, now: Moment) {
        self.look_ups.set_limit(limit, LOOK_UPS_PART, now);
        (self.after_terminal).set_limit(limit, AFTER_TERMINAL_PART, now);
        self.refreshes.set_limit(limit, REFRESHES_PART, now);
        self.sweeps.set_limit(limit, SWEEPS_PART, now);
    }

    /// The time at which the pace of a class for itself lets one more through.
    pub(super) fn own(&self, class: Class, now: Moment) -> Moment {
        match class {
            Class::Create => self.creates.earliest(now, 1000),
            Class::LookUp => self.look_ups.earliest(now, 1000),
            Class::AfterTerminal => self.after_terminal.earliest(now, 1000),
            Class::Refresh => self.refreshes.earliest(now, 1000),
            Class::Sweep => self.sweeps.earliest(now, 1000),
            Class::Adopt | Class::Poll => now,
        }
    }

    /// Counts one request.
    pub(super) fn take(&mut self, class: Class, now: Moment) {
        self.all.take(now);
        match class {
            Class::Create => self.creates.take(now),
            Class::LookUp => self.look_ups.take(now),
            Class::AfterTerminal => self.after_terminal.take(now),
            Class::Refresh => self.refreshes.take(now),
            Class::Sweep => self.sweeps.take(now),
            Class::Adopt | Class::Poll => {}
        }
    }

    /// True if a request of this class would spend what the store has not given.
    pub(super) fn is_untaken(&self, class: Class, now: Moment) -> bool {
        let wanted = self.wanted(class, now);
        wanted.requests > self.taken.requests || wanted.creates > self.taken.creates
    }

    /// The wish for what a request of this class needs; `None` if the store has given it.
    pub(super) fn taking(&self, class: Class, now: Moment) -> Option<Taking> {
        self.is_untaken(class, now).then(|| Taking {
            taken: self.taken,
            wanted: self.wanted(class, now),
            is_limited: !self.all.is_unlimited(),
        })
    }

    /// The arrival times after a request of this class.
    fn wanted(&self, class: Class, now: Moment) -> Arrivals {
        Arrivals {
            requests: match self.all.is_unlimited() {
                true => self.taken.requests,
                false => self.all.arrival_after(now),
            },
            creates: match class == Class::Create && !self.creates.is_unlimited() {
                true => self.creates.arrival_after(now),
                false => self.taken.creates,
            },
        }
    }

    /// The store lets this process come to these arrival times.
    pub(super) fn took(&mut self, arrivals: Arrivals) {
        self.taken.requests = self.taken.requests.max(arrivals.requests);
        self.taken.creates = self.taken.creates.max(arrivals.creates);
    }
}
