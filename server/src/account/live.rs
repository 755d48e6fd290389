//! The requests that an account may make now, and its lessons: plain state behind one lock.

use std::{collections::VecDeque, time::Duration};

use super::{
    Figures, Outcome,
    class::{Asked, Class, Denied, Granted, Refusal},
    shares::Shares,
    verdict::{Verdicts, Whose},
};
use crate::{
    cadence::{Policy, adaptive::Adaptive, budget::Gate, queue::Queue, turns::LONGEST_DUE_EVERY},
    clock::Now,
    observation::Trouble,
    purchase::{CallerName, Moment},
    upstream::{Response, UpstreamError, rate_headers, retry_after},
};

/// The time that a slot is kept for a create beyond the time at which it was told to come back, at the
/// most: never longer than a slot lasts.
const CREATE_AWAITED: Duration = Duration::from_secs(5);
/// The time that the longest overdue is waited for beyond the time at which its lane was told to come
/// back.
const LONGEST_AWAITED: Duration = Duration::from_secs(1);
/// The longest between two requests that rate headers ask for while something is left: clocks
/// differ, and a wrong one must not stop polling.
const STEERED_MAX: Duration = Duration::from_secs(60);
/// The health of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Well.
    Ok,
    /// The provider fails or throttles.
    Degraded,
    /// The provider refuses the credentials.
    Unauthorized,
}

/// The picture of an account for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its health.
    pub health: Health,
    /// The words of the last failure, where it is not doing well.
    pub note: String,
    /// Its limit, lowered where the provider throttles without saying what it allows; 0 where
    /// unlimited.
    pub requests_per_minute: u32,
    /// Requests made in the last minute.
    pub requests_last_minute: u32,
    /// Requests under way.
    pub in_flight: u32,
    /// True if the breaker is open.
    pub breaker_open: bool,
    /// Its requests since the process began.
    pub figures: Figures,
}

/// The state behind an account's lock.
#[derive(Debug)]
pub(super) struct Live {
    shares: Shares,
    /// The limit of all requests, which falls where the provider throttles without saying what it
    /// allows.
    limit: Adaptive,
    /// Creates that wait for a slot, and adoptions.
    creates_waiting: u32,
    adopts_waiting: u32,
    /// Until when a slot is kept for a create that the pace of all requests refused.
    create_awaited: Option<Moment>,
    /// Whose create is next, and whose adoption.
    create_queue: Queue,
    adopt_queue: Queue,
    /// Sweeps that wait for a slot.
    sweeps_waiting: u32,
    /// Requests since the last that was left to what is overdue for longest.
    since_longest: u32,
    /// Until when a poll is waited for that the pace of all requests refused.
    poll_awaited: Option<Moment>,
    in_flight: u32,
    in_flight_max: u32,
    held: u32,
    held_max: u32,
    /// Requests that were let through so far.
    number: u64,
    verdicts: Verdicts,
    /// The one purchase, if it is one alone, for whose sake the limit was lowered.
    slowed_for: Option<u64>,
    /// The requests that the provider's rate headers have left, spread over their window.
    steered: Option<Steered>,
    /// When the requests of the last minute were made.
    recent: VecDeque<Moment>,
    figures: Figures,
}

/// A window of the provider's with little left.
#[derive(Debug, Clone, Copy)]
struct Steered {
    until: Moment,
    /// Before which no request but a create is made.
    next: Moment,
    every: Duration,
}

impl Live {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            shares: Shares::new(policy),
            limit: Adaptive::new(policy.requests_per_minute),
            creates_waiting: 0,
            adopts_waiting: 0,
            create_awaited: None,
            create_queue: Queue::default(),
            adopt_queue: Queue::default(),
            sweeps_waiting: 0,
            since_longest: 0,
            poll_awaited: None,
            in_flight: 0,
            in_flight_max: policy.max_in_flight,
            held: 0,
            held_max: policy.held_max,
            number: 0,
            verdicts: Verdicts::default(),
            slowed_for: None,
            steered: None,
            recent: VecDeque::new(),
            figures: Figures::default(),
        }
    }

    /// The count of those of a class that wait, where others make way for it.
    pub(super) fn waiting(&mut self, class: Class) -> Option<&mut u32> {
        match class {
            Class::Create => Some(&mut self.creates_waiting),
            Class::Adopt => Some(&mut self.adopts_waiting),
            Class::Sweep => Some(&mut self.sweeps_waiting),
            Class::LookUp | Class::Poll | Class::AfterTerminal | Class::Refresh => None,
        }
    }

    /// The queue of a class whose callers take turns.
    pub(super) fn queue(&mut self, class: Class) -> Option<&mut Queue> {
        match class {
            Class::Create => Some(&mut self.create_queue),
            Class::Adopt => Some(&mut self.adopt_queue),
            _ => None,
        }
    }

    /// The paces of the budget.
    pub(super) fn shares(&mut self) -> &mut Shares {
        &mut self.shares
    }

    pub(super) fn follows(&mut self, open: usize) {
        self.verdicts.follows(open);
    }

    /// Takes one request's share of everything, or says why not.
    pub(super) fn admit(
        &mut self,
        class: Class,
        held: bool,
        caller: Option<&CallerName>,
        now: Moment,
    ) -> Result<Granted, Denied> {
        self.recover(now);
        let gate = self.verdicts.gate(class, now).map_err(Denied::Refused)?;
        self.room(class, held, now)?;
        let earliest = self.earliest(class, caller, now);
        if earliest > now {
            let retry_at = self
                .await_poll(class, now)
                .map_or(earliest, |it| it.min(earliest));
            return Err(Denied::Refused(Refusal::Throttled { retry_at }));
        }
        if self.shares.is_unkept(class, now) {
            return Err(Denied::Unkept);
        }
        let longest_due = self.take(class, held, now);
        if let (Some(caller), Some(queue)) = (caller, self.queue(class)) {
            queue.served(caller);
        }
        self.verdicts.begins(class, gate, now);
        self.number += 1;
        Ok(Granted {
            number: self.number,
            is_probe: gate == Gate::Probe,
            longest_due,
            more: self.more(held, now),
        })
    }

    /// The number of further polls that may be made at once.
    fn more(&self, held: bool, now: Moment) -> u32 {
        let room = if held {
            self.held_max.saturating_sub(self.held)
        } else {
            let open = self.in_flight_max - self.in_flight_max / 8;
            open.saturating_sub(self.in_flight)
        };
        room.min(self.shares.all.at_once(now, 500))
    }

    /// A create could not be let in by its deadline, and was told to come back. A slot is kept for it
    /// where the pace of all requests is what held it up; its caller's turn is, whatever did.
    pub(super) fn create_refused(
        &mut self,
        class: Class,
        caller: Option<&CallerName>,
        refusal: Refusal,
        now: Moment,
    ) {
        let Refusal::Throttled { retry_at } = refusal else {
            return;
        };
        if !self.verdicts.paused_for(now).is_zero() {
            return;
        }
        let slot = self.shares.all.interval().max(match class {
            Class::Create => self.shares.creates.interval(),
            _ => Duration::ZERO,
        });
        let until = retry_at.plus(slot.min(CREATE_AWAITED));
        if let (Some(caller), Some(queue)) = (caller, self.queue(class)) {
            queue.promised(caller, retry_at, until);
        }
        let all = self.shares.all.earliest(now, 1000);
        if all > now && self.shares.own(class, now) <= all {
            self.create_awaited = Some(until);
        }
    }

    /// Lets a pace that was slowed down rise again in its time.
    fn recover(&mut self, now: Moment) {
        if self.limit.is_slowed() {
            self.slow(now);
        }
    }

    /// Sets all paces by the limit that holds now.
    fn slow(&mut self, now: Moment) {
        self.shares.set_limit(self.limit.limit(now), now);
    }

    /// True if requests but creates are held back by a verdict.
    pub(super) fn is_blocked(&self) -> bool {
        self.verdicts.is_blocked()
    }

    /// True if one more request may be in flight. Creates may use the last eighth alone.
    fn room(&self, class: Class, held: bool, now: Moment) -> Result<(), Denied> {
        let full = if held {
            self.held >= self.held_max
        } else if class.is_first() {
            self.in_flight >= self.in_flight_max
        } else {
            self.in_flight >= (self.in_flight_max - self.in_flight_max / 8).max(1)
                || (self.create_waits(now) && self.in_flight + 1 >= self.in_flight_max)
        };
        if full {
            let retry_at = now.plus(Duration::from_millis(500));
            return Err(Denied::Refused(Refusal::Busy { retry_at }));
        }
        Ok(())
    }

    /// True if a create waits for what others would take: a slot among all requests.
    fn create_waits(&self, now: Moment) -> bool {
        let creates = || self.shares.own(Class::Create, now) <= self.shares.all.earliest(now, 1000);
        self.adopts_waiting > 0 || (self.creates_waiting > 0 && creates())
    }

    /// True if the next slot is left to what is overdue for longest, whatever else wants it.
    fn is_for_longest(&self, now: Moment) -> bool {
        self.since_longest + 1 >= LONGEST_DUE_EVERY
            && self.poll_awaited.is_some_and(|until| now < until)
    }

    fn earliest(&self, class: Class, caller: Option<&CallerName>, now: Moment) -> Moment {
        let own = self.shares.own(class, now);
        if class.is_first() {
            let all = self.shares.all.earliest(now, 1000).max(own);
            let queue = match class {
                Class::Adopt => &self.adopt_queue,
                _ => &self.create_queue,
            };
            let is_scarce = !self.shares.all.is_unlimited() || !self.shares.creates.is_unlimited();
            let behind = caller.filter(|_| is_scarce && all <= now);
            let behind = behind.and_then(|caller| queue.behind(caller, now));
            let all = all.max(behind.unwrap_or(all));
            return if self.is_for_longest(now) {
                all.max(self.shares.all.earliest_but_one(now, 1000))
            } else {
                all
            };
        }
        let steered = self.steered.filter(|steered| now < steered.until);
        let own = own.max(steered.map_or(now, |steered| steered.next));
        if class.is_poll() && self.is_for_longest(now) {
            return self.shares.all.earliest(now, 1000).max(own);
        }
        // Half of the burst is for creates alone, so that one goes at once after any polling.
        let earliest = self.shares.all.earliest(now, 500).max(own);
        let create = self.create_waits(now) || self.create_awaited.is_some_and(|it| now < it);
        // One page tells more than one poll, so it goes first where its half allows it.
        let page = class == Class::Poll
            && self.sweeps_waiting > 0
            && self.shares.own(Class::Sweep, now) <= now;
        let left = if page {
            self.shares.all.earliest_but_one(now, 500)
        } else if create || self.is_for_longest(now) {
            self.shares.all.earliest_but_one(now, 1000)
        } else {
            now
        };
        earliest.max(left)
    }

    /// A poll is told to come back: in a tenth of all slots it is waited for then, where it is the
    /// pace of all requests that holds it up. Returns when that may be.
    fn await_poll(&mut self, class: Class, now: Moment) -> Option<Moment> {
        let steered = self.steered.filter(|steered| now < steered.until);
        let own = (self.shares.own(class, now)).max(steered.map_or(now, |steered| steered.next));
        let next = self.shares.all.earliest(now, 1000);
        if !class.is_poll() || own > next {
            return None;
        }
        let before = (LONGEST_DUE_EVERY - 1).saturating_sub(self.since_longest);
        let at = next.plus(self.shares.all.interval() * before);
        self.poll_awaited = Some(at.plus(LONGEST_AWAITED));
        Some(at.max(now.plus(Duration::from_millis(1))))
    }

    /// Counts one request. Says whether it is for what is overdue for longest.
    fn take(&mut self, class: Class, held: bool, now: Moment) -> bool {
        self.shares.take(class, now);
        self.since_longest = self.since_longest.saturating_add(1);
        let longest_due = class.is_poll() && self.since_longest >= LONGEST_DUE_EVERY;
        if longest_due {
            (self.since_longest, self.poll_awaited) = (0, None);
        }
        if class.is_first() {
            self.create_awaited = None;
        } else if let Some(steered) = &mut self.steered {
            steered.next = now.plus(steered.every);
        }
        *(if held {
            &mut self.held
        } else {
            &mut self.in_flight
        }) += 1;
        self.recent.push_back(now);
        self.forget(now);
        longest_due
    }

    /// Drops what is older than a minute from the count of recent requests.
    fn forget(&mut self, now: Moment) {
        let minute_ago = now.minus(Duration::from_secs(60));
        while self.recent.front().is_some_and(|time| *time <= minute_ago) {
            self.recent.pop_front();
        }
    }

    /// A request is over; `answered` is false where it was given up.
    pub(super) fn ended(&mut self, held: bool, answered: bool) {
        let count = if held {
            &mut self.held
        } else {
            &mut self.in_flight
        };
        *count = count.saturating_sub(1);
        if !answered {
            self.verdicts.given_up();
        }
    }

    pub(super) fn count(&mut self, class: Class, outcome: Outcome) {
        *self.figures.requests.entry((class, outcome)).or_default() += 1;
    }

    /// An answer of any status arrived. Says whether that is its purchase's own trouble; nothing where
    /// the status tells of none.
    pub(super) fn answered(
        &mut self,
        asked: &Asked,
        response: &Response,
        at: Now,
        jitter: impl FnOnce(Duration) -> Duration,
    ) -> Option<bool> {
        let own = (self.verdicts).answered(asked, response.status, self.number, at.moment, jitter);
        if own != Some(true) {
            self.steer(response, at);
        }
        own
    }

    /// Follows what an answer's headers say about the requests to come.
    fn steer(&mut self, response: &Response, at: Now) {
        let now = at.moment;
        if response.status == 503
            && let Some(wait) = retry_after::of(&response.headers, at.wall)
        {
            self.verdicts.pause(now.plus(wait));
        }
        let Some(left) = rate_headers::left(&response.headers, at.wall) else {
            return;
        };
        // Of the requests under way, perhaps none is counted yet; this one is.
        let others = (self.in_flight + self.held).saturating_sub(1);
        let spare = left.requests.saturating_sub(others).max(1);
        let (every, until) = ((left.ahead / spare).min(STEERED_MAX), now.plus(left.ahead));
        self.steered = Some(Steered {
            until,
            next: now.plus(every).min(until),
            every,
        });
        if left.requests == 0 {
            self.verdicts.pause(until);
        }
    }

    /// No answer arrived. Says whether that is its purchase's own trouble.
    pub(super) fn failed(
        &mut self,
        asked: &Asked,
        error: &UpstreamError,
        now: Moment,
        jitter: impl FnOnce(Duration) -> Duration,
    ) -> bool {
        (self.verdicts).failed(asked, error, self.number, now, jitter)
    }

    /// A request ended with an answer that was understood.
    pub(super) fn understood(&mut self, asked: &Asked) {
        self.verdicts.understood(asked);
    }

    /// The meaning that the provider's file found in an answer. Failures were counted when it arrived.
    pub(super) fn learn(&mut self, asked: &Asked, trouble: &Trouble, now: Moment) -> Whose {
        match trouble {
            Trouble::Nowhere => self.figures.nowhere += 1,
            Trouble::Unreadable { .. } => self.row_unreadable(),
            _ => {}
        }
        let whose = self.verdicts.learn(asked, trouble, self.number, now);
        if let Trouble::Throttled { retry_after } = trouble {
            match whose {
                Whose::Account => self.throttled(asked, *retry_after, now),
                Whose::Purchase => self.forgive(asked, now),
            }
        }
        whose
    }

    /// One row of a page made no sense.
    pub(super) fn row_unreadable(&mut self) {
        self.figures.unreadable += 1;
    }

    /// The provider throttles the account.
    fn throttled(&mut self, asked: &Asked, retry_after: Option<Duration>, now: Moment) {
        if self.verdicts.throttled(retry_after, now) {
            self.forget(now);
            let recent = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
            let is_first = !self.limit.is_slowed();
            self.slowed_for = is_first.then_some(asked.subject);
            self.limit.throttled(recent, now);
            self.slow(now);
        }
        let slowed = self.limit.limit(now);
        self.verdicts.say(if self.limit.is_slowed() {
            format!("throttled by the provider; at most {slowed} requests a minute now")
        } else {
            "throttled by the provider".to_owned()
        });
    }

    /// The provider throttles one purchase: what was lowered for its sake alone is raised again.
    fn forgive(&mut self, asked: &Asked, now: Moment) {
        if self.slowed_for == Some(asked.subject) {
            self.slowed_for = None;
            self.limit.forgive();
            self.slow(now);
        }
    }

    /// The rest of the provider's pause; zero if there is none.
    pub(super) fn paused_for(&self, now: Moment) -> Duration {
        self.verdicts.paused_for(now)
    }

    pub(super) fn snapshot(&mut self, now: Moment) -> Snapshot {
        self.forget(now);
        self.recover(now);
        let health = if self.verdicts.is_unauthorized() {
            Health::Unauthorized
        } else if self.limit.is_slowed() || self.verdicts.is_degraded(now) {
            Health::Degraded
        } else {
            Health::Ok
        };
        let note = match health {
            Health::Ok => "",
            Health::Degraded | Health::Unauthorized => self.verdicts.words(),
        };
        Snapshot {
            health,
            note: note.to_owned(),
            requests_per_minute: self.limit.limit(now),
            requests_last_minute: u32::try_from(self.recent.len()).unwrap_or(u32::MAX),
            in_flight: self.in_flight + self.held,
            breaker_open: self.verdicts.is_broken(),
            figures: self.figures.clone(),
        }
    }
}
