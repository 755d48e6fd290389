//! The paces of an account's budget: one for all requests, and one for each kind that has a share of its
//! own.

use std::{collections::VecDeque, time::Duration};

use super::{
    budget_store::{Arrivals, KeptBudget},
    class::Class,
};
use crate::{
    cadence::{Policy, budget::Pace},
    purchase::Moment,
};

/// The reach of the budget that is kept in the store ahead, so that not every request is a write.
const KEPT_AHEAD: Duration = Duration::from_secs(5);
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
    /// The part of the first two that the store has kept.
    kept: Arrivals,
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
            kept: Arrivals::default(),
        }
    }

    /// Goes on from what a store has kept.
    pub(super) fn resume(&mut self, kept: KeptBudget) {
        let KeptBudget { arrivals, as_of } = kept;
        self.kept = Arrivals {
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

    /// True if the store has not kept what a request of this class would spend.
    pub(super) fn is_unkept(&self, class: Class, now: Moment) -> bool {
        let requests = !self.all.is_unlimited() && self.all.arrival_after(now) > self.kept.requests;
        let creates = class == Class::Create
            && !self.creates.is_unlimited()
            && self.creates.arrival_after(now) > self.kept.creates;
        requests || creates
    }

    /// The arrival times to keep before a request of this class is made; `None` if the kept
    /// ones cover it.
    pub(super) fn to_keep(&self, class: Class, now: Moment) -> Option<Arrivals> {
        if !self.is_unkept(class, now) {
            return None;
        }
        let requests = self
            .all
            .arrival_after(now)
            .plus(KEPT_AHEAD)
            .max(self.kept.requests);
        let creates = match class {
            Class::Create => self.creates.arrival_after(now).max(self.kept.creates),
            _ => self.kept.creates,
        };
        Some(Arrivals {
            requests: if self.all.is_unlimited() {
                self.kept.requests
            } else {
                requests
            },
            creates: if self.creates.is_unlimited() {
                self.kept.creates
            } else {
                creates
            },
        })
    }

    /// The store has kept them.
    pub(super) fn kept(&mut self, arrivals: Arrivals) {
        self.kept.requests = self.kept.requests.max(arrivals.requests);
        self.kept.creates = self.kept.creates.max(arrivals.creates);
    }
}
