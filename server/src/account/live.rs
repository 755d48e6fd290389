//! The requests that an account may make now, and its lessons: plain state behind one lock.

use std::{sync::Arc, time::Duration};

use super::{
    Outcome, RequestCounts, Settings,
    budget::Budget,
    class::{Class, Denied, Granted, Inquiry, Refusal},
    condition::{Condition, Whose},
    flight::Flight,
    lessons::{self, Lessons},
    waiting_room::WaitingRoom,
};
use crate::{
    cadence::budget::Gate,
    clock::Now,
    journal::Limits,
    observation::Trouble,
    purchase::{CallerName, Moment},
    upstream::{Response, UpstreamError, rate_headers, retry_after},
};

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
    /// The words of the last failure, if it is not well.
    pub note: String,
    /// Its limit, lowered if the provider throttles without saying what it allows; 0 if unlimited.
    pub requests_per_minute: u32,
    /// Requests made in the last minute.
    pub requests_last_minute: u32,
    /// Requests under way.
    pub in_flight: u32,
    /// True if the breaker is open.
    pub breaker_open: bool,
    /// Its requests since the process began.
    pub figures: RequestCounts,
}

/// The state behind an account's lock.
#[derive(Debug)]
pub(super) struct Live {
    /// The settings that hold now.
    pub(super) settings: Arc<Settings>,
    /// The least limits that other processes of the store have. The lower of both hold.
    others: Limits,
    pub(super) budget: Budget,
    pub(super) flight: Flight,
    pub(super) waiting: WaitingRoom,
    pub(super) condition: Condition,
    /// The lessons that the store knows.
    pub(super) told: Lessons,
    /// Requests that were let through so far.
    number: u64,
    figures: RequestCounts,
}

impl Live {
    /// The state of a new account. `is_shared` says that other processes spend its budget as well.
    pub(super) fn new(settings: Settings, is_shared: bool) -> Self {
        Self {
            others: Limits::default(),
            budget: Budget::new(settings.limits(), is_shared),
            flight: Flight::new(&settings.policy),
            settings: Arc::new(settings),
            waiting: WaitingRoom::default(),
            condition: Condition::default(),
            told: Lessons::default(),
            number: 0,
            figures: RequestCounts::default(),
        }
    }

    /// Other settings hold from now on.
    pub(super) fn take_up(&mut self, settings: Settings, now: Moment) {
        let before = std::mem::replace(&mut self.settings, Arc::new(settings));
        // Others may have asked more in the last minute, and have not heard of the lower limit yet.
        self.hold(true, now);
        if before.access != self.settings.access {
            self.condition.renewed(now);
        }
    }

    /// Other processes of the store have these limits at the least. Each that has asked by a higher one owes a
    /// minute.
    /// Returns true if they were others before.
    pub(super) fn others_allow(&mut self, limits: Limits, now: Moment) -> bool {
        let are_new = self.others != limits;
        if are_new {
            self.others = limits;
            let owes = !self.budget.is_idle(now);
            self.hold(owes, now);
        }
        are_new
    }

    /// Holds the account to the lower limits, its own and the others'.
    fn hold(&mut self, owes: bool, now: Moment) {
        let limits = self.settings.limits().least(self.others);
        self.budget.take_up(limits, owes, now);
        let held = self.settings.policy.held_max;
        self.flight.take_up(limits.max_in_flight, held);
    }

    /// True if a request by these settings has nothing to teach about the credentials, or the way out,
    /// that hold now.
    pub(super) fn is_old(&self, settings: &Settings) -> bool {
        settings.access != self.settings.access
    }

    /// Takes one request's share of everything, or says why not.
    pub(super) fn admit(
        &mut self,
        class: Class,
        caller: Option<&CallerName>,
        now: Moment,
    ) -> Result<Granted, Denied> {
        let held = class.is_held(&self.settings.policy);
        self.budget.recover(now);
        let gate = self.condition.gate(class, now).map_err(Denied::Refused)?;
        let create_waits = self.waiting.has_create(&self.budget, now);
        if !self.flight.has_room(class, held, create_waits) {
            let retry_at = now.plus(Duration::from_millis(500));
            return Err(Denied::Refused(Refusal::Busy { retry_at }));
        }
        let earliest = match self.budget.is_given(now) {
            true => self.waiting.earliest(class, caller, &self.budget, now),
            false => self.budget.own(class, now),
        };
        let earliest = earliest.max(self.budget.shares.later(class));
        let earliest = match self.budget.is_shared {
            true => earliest.max(self.budget.counted(class)),
            false => earliest,
        };
        if earliest > now {
            let awaited = match self.budget.is_shared {
                // The store says when.
                true => None,
                false => self.waiting.await_poll(class, &self.budget, now),
            };
            let retry_at = awaited.map_or(earliest, |at| at.min(earliest));
            return Err(Denied::Refused(Refusal::Throttled { retry_at }));
        }
        if self.is_untaken(class, now) {
            return Err(Denied::Untaken);
        }
        let goes_by = self.budget.shares.goes_by(class, now);
        self.budget.take(class, now);
        self.flight.begins(held);
        self.condition.begins(class, gate, now);
        self.number += 1;
        let more = self.budget.shares.all.at_once(now, 500);
        Ok(Granted {
            settings: Arc::clone(&self.settings),
            held,
            number: self.number,
            is_probe: gate == Gate::Probe,
            longest_due: self.waiting.served(class, caller),
            more: more.min(self.flight.room_for_polls(held)),
            goes_by,
        })
    }

    /// True if a request of this class needs a slot, or a place, that the store has not given.
    pub(super) fn is_untaken(&self, class: Class, now: Moment) -> bool {
        let is_held = class.is_held(&self.settings.policy);
        self.budget.shares.is_untaken(class, now) || self.flight.is_untaken(is_held)
    }

    /// A create could not be let in by its deadline, and was told to come back.
    pub(super) fn create_refused(
        &mut self,
        class: Class,
        caller: Option<&CallerName>,
        refusal: Refusal,
        now: Moment,
    ) {
        if let Refusal::Throttled { retry_at } = refusal
            && self.condition.paused_for(now).is_zero()
        {
            self.waiting
                .create_refused(class, caller, retry_at, &self.budget, now);
        }
    }

    /// A request is over; `answered` is false if it was given up.
    pub(super) fn ended(&mut self, held: bool, answered: bool) {
        self.flight.ends(held);
        if !answered {
            self.condition.given_up();
        }
    }

    pub(super) fn count(&mut self, class: Class, outcome: Outcome) {
        *self.figures.requests.entry((class, outcome)).or_default() += 1;
    }

    /// An answer of any status arrived. Returns true if its trouble is its purchase's own, `None` if the
    /// status tells of none.
    pub(super) fn answered(
        &mut self,
        inquiry: &Inquiry,
        response: &Response,
        at: Now,
        jitter: impl FnOnce(Duration) -> Duration,
    ) -> Option<bool> {
        let own =
            (self.condition).answered(inquiry, response.status, self.number, at.moment, jitter);
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
            self.condition.pause(now.plus(wait));
        }
        let Some(left) = rate_headers::left(&response.headers, at.wall) else {
            return;
        };
        // The provider may have counted none of the requests under way but this one.
        let others = self.flight.count().saturating_sub(1);
        self.budget.steer(left, others, now);
        if left.requests == 0 {
            self.condition.pause(now.plus(left.ahead));
        }
    }

    /// No answer arrived. Returns true if that is its purchase's own trouble.
    pub(super) fn failed(
        &mut self,
        inquiry: &Inquiry,
        error: &UpstreamError,
        now: Moment,
        jitter: impl FnOnce(Duration) -> Duration,
    ) -> bool {
        (self.condition).failed(inquiry, error, self.number, now, jitter)
    }

    /// The meaning that the provider's file found in an answer. Failures were counted when it arrived.
    pub(super) fn blame(&mut self, inquiry: &Inquiry, trouble: &Trouble, now: Moment) -> Whose {
        match trouble {
            Trouble::Nowhere => self.figures.nowhere += 1,
            Trouble::Unreadable { .. } => self.row_unreadable(),
            _ => {}
        }
        let whose = self.condition.blame(inquiry, trouble, self.number, now);
        if let Trouble::Throttled { retry_after } = trouble {
            match whose {
                Whose::Account => self.throttled(inquiry, *retry_after, now),
                Whose::Purchase => self.budget.forgive(inquiry.subject, now),
            }
        }
        whose
    }

    /// One row of a page made no sense.
    pub(super) fn row_unreadable(&mut self) {
        self.figures.unreadable += 1;
    }

    /// The provider throttles the account.
    fn throttled(&mut self, inquiry: &Inquiry, retry_after: Option<Duration>, now: Moment) {
        if self.condition.throttled(retry_after, now) {
            self.budget.throttled(inquiry.subject, now);
        }
        let limit = self.budget.limit(now);
        self.condition.say(if self.budget.is_slowed() {
            lessons::slowed(limit)
        } else {
            "throttled by the provider".to_owned()
        });
    }

    pub(super) fn snapshot(&mut self, now: Moment) -> Snapshot {
        self.budget.recover(now);
        let health = if self.condition.is_unauthorized() {
            Health::Unauthorized
        } else if self.budget.is_slowed() || self.condition.is_degraded(now) {
            Health::Degraded
        } else {
            Health::Ok
        };
        let note = match health {
            Health::Ok => "",
            Health::Degraded | Health::Unauthorized => self.condition.words(),
        };
        Snapshot {
            health,
            note: note.to_owned(),
            requests_per_minute: self.budget.limit(now),
            requests_last_minute: self.budget.last_minute(now),
            in_flight: self.flight.count(),
            breaker_open: self.condition.is_broken(),
            figures: self.figures.clone(),
        }
    }
}
