//! The requests that wait for an account's budget, and the slots that are kept for them: plain state.

use std::time::Duration;

use super::{Class, budget::Budget};
use crate::{
    cadence::{queue::Queue, turns::LONGEST_DUE_EVERY},
    purchase::{CallerName, Moment},
};

/// The longest that a slot is kept for a create beyond the time at which it was told to come back: never
/// longer than a slot lasts.
const CREATE_AWAITED: Duration = Duration::from_secs(5);
/// The time that the longest overdue is waited for beyond the time at which its lane was told to come
/// back.
const LONGEST_AWAITED: Duration = Duration::from_secs(1);

/// The requests that wait.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    creates: u32,
    adopts: u32,
    sweeps: u32,
    /// The turns of callers at creates, and at adoptions.
    create_queue: Queue,
    adopt_queue: Queue,
    /// The time until which a slot is kept for a create that the pace of all requests refused.
    create_awaited: Option<Moment>,
    /// The number of requests since the last slot for the longest overdue.
    since_longest: u32,
    /// The time until which a slot is kept for a poll that the pace of all requests refused.
    poll_awaited: Option<Moment>,
}

impl WaitingRoom {
    /// The count of those of a class that wait, if others make way for it.
    fn count(&mut self, class: Class) -> Option<&mut u32> {
        match class {
            Class::Create => Some(&mut self.creates),
            Class::Adopt => Some(&mut self.adopts),
            Class::Sweep => Some(&mut self.sweeps),
            Class::LookUp | Class::Poll | Class::AfterTerminal | Class::Refresh => None,
        }
    }

    /// The queue of a class whose callers take turns.
    fn queue(&mut self, class: Class) -> Option<&mut Queue> {
        match class {
            Class::Create => Some(&mut self.create_queue),
            Class::Adopt => Some(&mut self.adopt_queue),
            _ => None,
        }
    }

    /// A request waits from now on.
    pub(super) fn enters(&mut self, class: Class, caller: Option<&CallerName>) {
        if let Some(count) = self.count(class) {
            *count += 1;
        }
        if let (Some(caller), Some(queue)) = (caller, self.queue(class)) {
            queue.enters(caller);
        }
    }

    /// A request waits no longer. Returns true if others made way for it.
    pub(super) fn leaves(&mut self, class: Class, caller: Option<&CallerName>) -> bool {
        if let (Some(caller), Some(queue)) = (caller, self.queue(class)) {
            queue.leaves(caller);
        }
        let count = self.count(class);
        let is_counted = count.is_some();
        if let Some(count) = count {
            *count -= 1;
        }
        is_counted
    }

    /// True if a create waits for what others would take: a slot among all requests.
    pub(super) fn has_create(&self, budget: &Budget, now: Moment) -> bool {
        let shares = &budget.shares;
        let creates = || shares.own(Class::Create, now) <= shares.all.earliest(now, 1000);
        self.adopts > 0 || (self.creates > 0 && creates())
    }

    /// True if the next slot is left to the longest overdue, whatever else wants it.
    fn is_for_longest(&self, now: Moment) -> bool {
        self.since_longest + 1 >= LONGEST_DUE_EVERY
            && self.poll_awaited.is_some_and(|until| now < until)
    }

    /// The time at which a request may be made, by its own pace and by the claims of others.
    pub(super) fn earliest(
        &self,
        class: Class,
        caller: Option<&CallerName>,
        budget: &Budget,
        now: Moment,
    ) -> Moment {
        if class.is_first() {
            return self.earliest_first(class, caller, budget, now);
        }
        let (shares, own) = (&budget.shares, budget.own(class, now));
        if class.is_poll() && self.is_for_longest(now) {
            return shares.all.earliest(now, 1000).max(own);
        }
        // Half of the burst is for creates alone, so that one goes at once after any polling.
        let earliest = shares.all.earliest(now, 500).max(own);
        let is_awaited = self.create_awaited.is_some_and(|until| now < until);
        let create = self.has_create(budget, now) || is_awaited;
        // One page tells more than one poll, so it goes first if its half allows it.
        let page = class == Class::Poll && self.sweeps > 0 && shares.own(Class::Sweep, now) <= now;
        let left = if page {
            shares.all.earliest_but_one(now, 500)
        } else if create || self.is_for_longest(now) {
            shares.all.earliest_but_one(now, 1000)
        } else {
            now
        };
        earliest.max(left)
    }

    /// The same for a create or an adoption.
    fn earliest_first(
        &self,
        class: Class,
        caller: Option<&CallerName>,
        budget: &Budget,
        now: Moment,
    ) -> Moment {
        let shares = &budget.shares;
        let all = shares.all.earliest(now, 1000).max(shares.own(class, now));
        let queue = match class {
            Class::Adopt => &self.adopt_queue,
            _ => &self.create_queue,
        };
        let is_scarce = !shares.all.is_unlimited() || !shares.creates.is_unlimited();
        let behind = caller.filter(|_| is_scarce && all <= now);
        let behind = behind.and_then(|caller| queue.behind(caller, now));
        let all = all.max(behind.unwrap_or(all));
        if self.is_for_longest(now) {
            all.max(shares.all.earliest_but_one(now, 1000))
        } else {
            all
        }
    }

    /// A poll is told to come back. In a tenth of all slots it is waited for then, if the pace of all
    /// requests is what holds it up. Returns when that may be.
    pub(super) fn await_poll(
        &mut self,
        class: Class,
        budget: &Budget,
        now: Moment,
    ) -> Option<Moment> {
        let all = &budget.shares.all;
        let next = all.earliest(now, 1000);
        if !class.is_poll() || budget.own(class, now) > next {
            return None;
        }
        let before = (LONGEST_DUE_EVERY - 1).saturating_sub(self.since_longest);
        let at = next.plus(all.interval() * before);
        self.poll_awaited = Some(at.plus(LONGEST_AWAITED));
        Some(at.max(now.plus(Duration::from_millis(1))))
    }

    /// A create could not be let in by its deadline, and was told to come back. Its caller's turn is
    /// kept, and a slot as well if the pace of all requests held it up.
    pub(super) fn create_refused(
        &mut self,
        class: Class,
        caller: Option<&CallerName>,
        retry_at: Moment,
        budget: &Budget,
        now: Moment,
    ) {
        let shares = &budget.shares;
        let slot = shares.all.interval().max(match class {
            Class::Create => shares.creates.interval(),
            _ => Duration::ZERO,
        });
        let until = retry_at.plus(slot.min(CREATE_AWAITED));
        if let (Some(caller), Some(queue)) = (caller, self.queue(class)) {
            queue.promised(caller, retry_at, until);
        }
        let all = shares.all.earliest(now, 1000);
        if all > now && shares.own(class, now) <= all {
            self.create_awaited = Some(until);
        }
    }

    /// The next slot, at this time, is for the longest overdue, as the store counts.
    pub(super) fn longest_is_next(&mut self, at: Moment) {
        self.since_longest = LONGEST_DUE_EVERY - 1;
        self.poll_awaited = Some(at.plus(LONGEST_AWAITED));
    }

    /// A request has its slot. Returns true if that is for the longest overdue.
    pub(super) fn served(&mut self, class: Class, caller: Option<&CallerName>) -> bool {
        if let (Some(caller), Some(queue)) = (caller, self.queue(class)) {
            queue.served(caller);
        }
        if class.is_first() {
            self.create_awaited = None;
        }
        self.since_longest = self.since_longest.saturating_add(1);
        let longest_due = class.is_poll() && self.since_longest >= LONGEST_DUE_EVERY;
        if longest_due {
            (self.since_longest, self.poll_awaited) = (0, None);
        }
        longest_due
    }
}
