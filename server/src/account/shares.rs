//! The paces of an account's budget: one for all requests, and one for each kind that has a share of its
//! own.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{class::Class, gate::SLOT_LASTS};
use crate::{
    cadence::budget::Pace,
    journal::{Arrivals, KeptBudget, Limits, Spacing, Taken, Taking, Verdict},
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
    /// True if the store hands the slots out.
    is_shared: bool,
    part: Part,
}

/// The part of the first two that the store has given this process.
#[derive(Debug)]
struct Part {
    /// The arrival times that it may come to.
    until: Arrivals,
    /// The time until which requests may begin without another question.
    fresh_until: Moment,
    /// The times until which its slots may be used, of all requests and of creates.
    requests_by: Moment,
    creates_by: Moment,
    /// The most by which a slot's time is earlier than it is known here.
    late: Duration,
    /// The times before which the store gives nothing, by class.
    later: BTreeMap<Class, Moment>,
}

impl Part {
    fn new(is_shared: bool) -> Self {
        // A process that counts by itself has no time limit.
        let by = match is_shared {
            true => Moment::EARLIEST,
            false => Moment::LATEST,
        };
        Self {
            until: Arrivals::default(),
            fresh_until: by,
            requests_by: by,
            creates_by: by,
            late: Duration::ZERO,
            later: BTreeMap::new(),
        }
    }
}

/// A wish for slots alone.
pub(super) struct Wish {
    pub(super) taken: Arrivals,
    pub(super) wanted: Arrivals,
    pub(super) requests: Option<Spacing>,
    pub(super) slots: u32,
    pub(super) creates: Option<Spacing>,
}

impl Shares {
    /// The paces of these limits. `is_shared` says that the store hands the slots out.
    pub(super) fn new(limits: Limits, is_shared: bool) -> Self {
        let limit = limits.requests_per_minute;
        let pace = |limit| match is_shared {
            true => Pace::new(limit).given(),
            false => Pace::new(limit),
        };
        Self {
            all: pace(limit),
            creates: pace(limits.creates_per_minute),
            look_ups: Pace::share(limit, LOOK_UPS_PART),
            after_terminal: Pace::share(limit, AFTER_TERMINAL_PART),
            refreshes: Pace::share(limit, REFRESHES_PART),
            sweeps: Pace::share(limit, SWEEPS_PART),
            is_shared,
            part: Part::new(is_shared),
        }
    }

    /// Goes on from what an earlier process has left.
    pub(super) fn resume(&mut self, kept: KeptBudget) {
        let KeptBudget { arrivals, as_of } = kept;
        self.part.until = Arrivals {
            requests: self.all.resume(arrivals.requests, as_of),
            creates: self.creates.resume(arrivals.creates, as_of),
        };
    }

    /// Another limit for all requests holds now, and for the parts of them.
    pub(super) fn set_limit(&mut self, limit: u32, now: Moment) {
        let before = self.all.interval();
        self.all.set_limit(limit, 1, now);
        self.set_parts(limit, now);
        if self.is_shared && self.all.interval() != before {
            // Slots that were given are spaced by another limit.
            self.part = Part::new(true);
        }
    }

    /// Another limit for creates holds now.
    pub(super) fn set_creates_limit(&mut self, limit: u32, now: Moment) {
        self.creates.set_limit(limit, 1, now);
        self.part = Part::new(self.is_shared);
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
        let creates = class == Class::Create && self.needs_create(now);
        now > self.part.fresh_until || self.needs_slot(now) || creates
    }

    /// True if the store has given no slot of all requests for one more.
    pub(super) fn needs_slot(&self, now: Moment) -> bool {
        let part = &self.part;
        let is_given =
            now <= part.requests_by && self.all.arrival_after(now) <= part.until.requests;
        !self.all.is_unlimited() && !is_given
    }

    /// The same of creates.
    fn needs_create(&self, now: Moment) -> bool {
        let part = &self.part;
        let is_given =
            now <= part.creates_by && self.creates.arrival_after(now) <= part.until.creates;
        !self.creates.is_unlimited() && !is_given
    }

    /// The wish for what a request of this class needs, as far as the store has not given it. `many` could
    /// go within a second.
    pub(super) fn wish(&self, class: Class, many: u32, now: Moment) -> Wish {
        let spacing = |pace: &Pace| {
            (!pace.is_unlimited()).then(|| Spacing {
                interval: pace.interval(),
                tolerance: pace.tolerance(),
            })
        };
        let needs_create = class == Class::Create && self.needs_create(now);
        Wish {
            taken: self.part.until,
            wanted: self.wanted(class, now),
            requests: spacing(&self.all),
            slots: if self.needs_slot(now) { many } else { 0 },
            creates: spacing(&self.creates).filter(|_| needs_create),
        }
    }

    /// The arrival times after a request of this class.
    fn wanted(&self, class: Class, now: Moment) -> Arrivals {
        Arrivals {
            requests: match self.all.is_unlimited() {
                true => self.part.until.requests,
                false => self.all.arrival_after(now),
            },
            creates: match class == Class::Create && !self.creates.is_unlimited() {
                true => self.creates.arrival_after(now),
                false => self.part.until.creates,
            },
        }
    }

    /// The store has answered a wish.
    pub(super) fn took(&mut self, class: Class, taking: &Taking, taken: &Taken) {
        let part = &mut self.part;
        let kinds = [
            (&mut self.all, &mut part.until.requests, taken.requests),
            (&mut self.creates, &mut part.until.creates, taken.creates),
        ];
        for (pace, until, span) in kinds {
            let Some(span) = span else { continue };
            if let Some(from) = span.from {
                pace.give(from);
            }
            *until = span.until;
        }
        match taken.verdict {
            Verdict::Given => {
                part.fresh_until = taken.fresh_until;
                if taken.requests.is_some() || taking.requests.is_none() {
                    (part.requests_by, part.late) = (taken.fresh_until, taken.late);
                }
                if taken.creates.is_some() {
                    part.creates_by = taken.fresh_until;
                }
            }
            Verdict::Later(at) => {
                part.later.insert(class, at);
            }
            Verdict::Busy => {}
        }
    }

    /// The time before which the store gives nothing to this class.
    pub(super) fn later(&self, class: Class) -> Moment {
        let later = self.part.later.get(&class);
        later.copied().unwrap_or(Moment::EARLIEST)
    }

    /// The time until which what the store has given may be used.
    pub(super) fn fresh_until(&self) -> Moment {
        self.part.fresh_until
    }

    /// The last time at which a request may go that takes its slot now.
    pub(super) fn goes_by(&self, class: Class, now: Moment) -> Moment {
        let slot = match class {
            Class::Create => self.all.slot(now).min(self.creates.slot(now)),
            _ => self.all.slot(now),
        };
        now.min(slot).plus(SLOT_LASTS).minus(self.part.late)
    }
}
