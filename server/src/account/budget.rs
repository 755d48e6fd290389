//! An account's budget: its paces, its limit, and what the provider's headers leave of both. Plain
//! state.

use std::{collections::VecDeque, time::Duration};

use super::{Class, gate::SLOT_LASTS, shares::Shares};
use crate::{
    cadence::adaptive::Adaptive,
    journal::{Limits, Lowered},
    purchase::Moment,
    upstream::rate_headers::Left,
};

/// The longest between two requests that rate headers ask for while something is left: clocks
/// differ, and a wrong one must not stop polling.
const STEERED_MAX: Duration = Duration::from_secs(60);

/// The minute of a limit.
const MINUTE: Duration = Duration::from_secs(60);
/// Requests of two grants can reach the provider within a minute if these are no further apart: one goes at
/// once, the other at the end of its slot.
const COUNTED: Duration = MINUTE.saturating_add(SLOT_LASTS);

/// The budget.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) shares: Shares,
    /// The limits that hold, unless a throttle has lowered one.
    limits: Limits,
    /// The limit of all requests. It falls if the provider throttles without saying what it allows.
    limit: Adaptive,
    /// The purchase for whose sake alone the limit was lowered, if there is one.
    slowed_for: Option<u64>,
    /// The requests that the provider's rate headers have left, spread over their window.
    steered: Option<Steered>,
    /// The times of the requests that a minute of the provider's can still count.
    recent: VecDeque<Moment>,
    /// The same of creates.
    recent_creates: VecDeque<Moment>,
    /// The store hands the slots out, to this process and to others.
    pub(super) is_shared: bool,
    /// A lower limit holds, and the store has not been told yet.
    pub(super) owes: Owes,
}

/// The limits that were lowered since the store has given anything. Only the store knows how many of the
/// last minute's requests there were.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Owes {
    pub(super) requests: bool,
    pub(super) creates: bool,
}

/// A window of the provider's with little left.
#[derive(Debug, Clone, Copy)]
struct Steered {
    until: Moment,
    /// Before which no request but a create is made.
    next: Moment,
    every: Duration,
}

impl Budget {
    pub(super) fn new(limits: Limits, is_shared: bool) -> Self {
        Self {
            shares: Shares::new(limits, is_shared),
            limit: Adaptive::new(limits.requests_per_minute),
            limits,
            slowed_for: None,
            steered: None,
            recent: VecDeque::new(),
            recent_creates: VecDeque::new(),
            is_shared,
            owes: Owes::default(),
        }
    }

    /// Other limits hold from now on, where they differ. They hold for the last minute's requests as
    /// well: no minute that begins before the change has more of them than the new limit. `owes` says that a
    /// minute has to be waited for if one is lower and the store counts.
    pub(super) fn take_up(&mut self, limits: Limits, owes: bool, now: Moment) {
        self.forget(now);
        let before = std::mem::replace(&mut self.limits, limits);
        let limit = limits.requests_per_minute;
        if before.requests_per_minute != limit {
            self.limit = Adaptive::new(limit);
            self.slowed_for = None;
            if self.is_shared {
                self.shares.set_limit(limit, now);
                self.owes.requests |= owes && is_lower(before.requests_per_minute, limit);
            } else {
                self.shares.hold_to(limit, &self.recent, now);
            }
        }
        let limit = limits.creates_per_minute;
        if before.creates_per_minute != limit {
            let creates = self.recent_creates.iter().copied();
            if self.is_shared {
                self.shares.set_creates_limit(limit, now);
                self.owes.creates |= owes && is_lower(before.creates_per_minute, limit);
            } else {
                self.shares.creates.hold_to(limit, creates);
            }
        }
    }

    /// True if nothing was asked in the last minute.
    pub(super) fn is_idle(&mut self, now: Moment) -> bool {
        self.last_minute(now) == 0
    }

    /// The time at which the pace of a class for itself lets one more request through, and the
    /// provider's headers do. The headers do not hold a create up.
    pub(super) fn own(&self, class: Class, now: Moment) -> Moment {
        let own = self.shares.own(class, now);
        let steered = self.steered.filter(|steered| now < steered.until);
        match steered {
            Some(steered) if !class.is_first() => own.max(steered.next),
            _ => own,
        }
    }

    /// The time at which this process alone has room for one more under the limits: whatever slots a store
    /// gives whose clock was set forth, no process exceeds them by itself. A minute that is owed to the store
    /// is longer.
    pub(super) fn counted(&self, class: Class) -> Moment {
        let opens = |recent: &VecDeque<Moment>, limit: u32, is_owed: bool| {
            let beyond = recent.len().checked_sub(limit as usize);
            let beyond = beyond.filter(|_| limit > 0 && !is_owed);
            let last = beyond.and_then(|place| recent.get(place));
            last.map_or(Moment::EARLIEST, |time| time.plus(COUNTED))
        };
        let (limits, owes) = (self.limits, self.owes);
        let requests = opens(&self.recent, limits.requests_per_minute, owes.requests);
        match class {
            Class::Create => {
                let limit = limits.creates_per_minute;
                requests.max(opens(&self.recent_creates, limit, owes.creates))
            }
            _ => requests,
        }
    }

    /// True if a slot is there for which requests take turns. If the store has to give one first, it says
    /// who goes.
    pub(super) fn is_given(&self, now: Moment) -> bool {
        !self.is_shared || !self.shares.needs_slot(now)
    }

    /// Counts one request.
    pub(super) fn take(&mut self, class: Class, now: Moment) {
        self.shares.take(class, now);
        if let Some(steered) = &mut self.steered
            && !class.is_first()
        {
            steered.next = now.plus(steered.every);
        }
        self.recent.push_back(now);
        if class == Class::Create {
            self.recent_creates.push_back(now);
        }
        self.forget(now);
    }

    /// The number of requests in the last minute.
    pub(super) fn last_minute(&mut self, now: Moment) -> u32 {
        self.forget(now);
        let minute_ago = now.minus(MINUTE);
        let recent = self.recent.iter().rev();
        let recent = recent.take_while(|time| **time > minute_ago).count();
        u32::try_from(recent).unwrap_or(u32::MAX)
    }

    /// The number of requests that could go within the next second, by those of the last one.
    pub(super) fn many(&self, now: Moment) -> u32 {
        let second_ago = now.minus(Duration::from_secs(1));
        let recent = self.recent.iter().rev();
        let recent = recent.take_while(|time| **time > second_ago).count();
        u32::try_from(recent)
            .unwrap_or(u32::MAX)
            .saturating_mul(2)
            .saturating_add(1)
    }

    fn forget(&mut self, now: Moment) {
        let before = now.minus(if self.is_shared { COUNTED } else { MINUTE });
        for recent in [&mut self.recent, &mut self.recent_creates] {
            while recent.front().is_some_and(|time| *time <= before) {
                recent.pop_front();
            }
        }
    }

    /// Spreads over its window what the provider's headers leave. `others` are under way, and perhaps
    /// not counted there yet.
    pub(super) fn steer(&mut self, left: Left, others: u32, now: Moment) {
        let spare = left.requests.saturating_sub(others).max(1);
        let (every, until) = ((left.ahead / spare).min(STEERED_MAX), now.plus(left.ahead));
        self.steered = Some(Steered {
            until,
            next: now.plus(every).min(until),
            every,
        });
    }

    /// The provider throttles the account without saying what it allows: the limit falls.
    pub(super) fn throttled(&mut self, subject: u64, now: Moment) {
        let recent = self.last_minute(now);
        self.slowed_for = (!self.is_slowed()).then_some(subject);
        self.limit.throttled(recent, now);
        self.slow(now);
    }

    /// The provider throttles one purchase: a limit that was lowered for its sake alone rises again.
    pub(super) fn forgive(&mut self, subject: u64, now: Moment) {
        if self.slowed_for == Some(subject) {
            self.slowed_for = None;
            self.limit.forgive();
            self.slow(now);
        }
    }

    /// Another process has lowered the limit. Returns true if that is less than what holds here.
    pub(super) fn told(&mut self, lowered: Lowered, now: Moment) -> bool {
        let before = self.limit.limit(now);
        self.limit.told(lowered.to, lowered.full, now);
        self.slow(now);
        self.limit.limit(now) != before
    }

    /// The lowered limit, and the time at which it was found.
    pub(super) fn lowered(&self) -> Option<(Lowered, Moment)> {
        let (to, full, cut) = self.limit.lowered()?;
        Some((Lowered { to, full }, cut))
    }

    /// Lets a pace that was slowed down rise again in its time.
    pub(super) fn recover(&mut self, now: Moment) {
        if self.is_slowed() {
            self.slow(now);
        }
    }

    /// Sets all paces by the limit that holds now.
    fn slow(&mut self, now: Moment) {
        self.shares.set_limit(self.limit.limit(now), now);
    }

    /// The limit that holds now; 0 if there is none.
    pub(super) fn limit(&mut self, now: Moment) -> u32 {
        self.limit.limit(now)
    }

    /// True if the limit has fallen, and not risen again.
    pub(super) fn is_slowed(&self) -> bool {
        self.limit.is_slowed()
    }
}

/// True if fewer requests a minute may be made after a change; 0 is unlimited.
fn is_lower(before: u32, after: u32) -> bool {
    after != 0 && (before == 0 || after < before)
}
