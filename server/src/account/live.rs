//! What an account may be asked for now, and what it has learned: plain state behind one lock.

use std::{collections::VecDeque, time::Duration};

use super::{
    Arrivals, Figures, Kept, Outcome,
    class::{Class, Denied, Refusal},
};
use crate::{
    cadence::{
        Policy,
        adaptive::Adaptive,
        budget::{Blame, Breaker, Gate, Pace, backoff},
    },
    clock::Now,
    observation::Trouble,
    purchase::Moment,
    upstream::{Response, UpstreamError, rate_headers, retry_after},
};

/// How far ahead budget is kept in the store, so that not every request is a write.
const KEPT_AHEAD: Duration = Duration::from_secs(5);
/// The wait after a 429 that names none; doubled while they come in a row.
const THROTTLED_BASE: Duration = Duration::from_secs(1);
/// The longest of these waits.
const THROTTLED_MAX: Duration = Duration::from_secs(60);
/// How often an account whose credentials are refused is tried.
const UNAUTHORIZED_PROBE: Duration = Duration::from_secs(60);
/// How long polls leave the budget to creates beyond the time at which a refused one was told to
/// come back.
const CREATE_AWAITED: Duration = Duration::from_secs(5);
/// The longest between two requests that rate headers ask for while something is left: clocks
/// differ, and a wrong one must not stop polling.
const STEERED_MAX: Duration = Duration::from_secs(60);
/// The parts of the budget: of look-ups of unclear creates, of purchases after their end, of callers'
/// wishes, of pages.
const LOOK_UPS_PART: u32 = 10;
const AFTER_TERMINAL_PART: u32 = 5;
const REFRESHES_PART: u32 = 4;
const SWEEPS_PART: u32 = 2;

/// How an account is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Well.
    Ok,
    /// The provider fails or throttles.
    Degraded,
    /// The provider refuses the credentials.
    Unauthorized,
}

/// What an operator sees of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// How it is doing.
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
    /// Whether the breaker is open.
    pub breaker_open: bool,
    /// What it has asked for since the process began.
    pub figures: Figures,
}

/// The state behind an account's lock.
#[derive(Debug)]
pub(super) struct Live {
    /// Requests of all kinds.
    requests: Pace,
    /// Their limit, which falls where the provider throttles without saying what it allows.
    limit: Adaptive,
    /// Creates, which pass both.
    creates: Pace,
    /// The tenth for look-ups of unclear creates.
    look_ups: Pace,
    /// The fifth for purchases after their end.
    after_terminal: Pace,
    /// The quarter for callers' wishes.
    refreshes: Pace,
    /// The half for pages of many purchases.
    sweeps: Pace,
    /// What the store has kept of the first two.
    kept: Arrivals,
    /// Creates that wait for a slot.
    creates_waiting: u32,
    /// Until when polls leave the budget to a create that was refused for lack of it.
    create_awaited: Option<Moment>,
    /// Sweeps that wait for a slot.
    sweeps_waiting: u32,
    in_flight: u32,
    in_flight_max: u32,
    held: u32,
    held_max: u32,
    breaker: Breaker,
    /// Numbers for requests that are about nothing else that has one.
    subjects: u64,
    /// The provider asked for a pause until then.
    paused_until: Option<Moment>,
    /// What the provider's rate headers have left is spread over their window.
    steered: Option<Steered>,
    /// 429s in a row.
    throttles: u32,
    /// Reads are refused their credentials; the next probe is at this time.
    unauthorized_until: Option<Moment>,
    /// When a create was refused them. It can have other ones than reads (Inabit), or ask for more
    /// rights or another network (Masumi), so it is told and holds no read up.
    create_refused: Option<Moment>,
    /// The words of the last failure.
    trouble: String,
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
        let limit = policy.requests_per_minute;
        Self {
            requests: Pace::new(limit),
            limit: Adaptive::new(limit),
            creates: Pace::new(policy.creates_per_minute),
            look_ups: Pace::share(limit, LOOK_UPS_PART),
            after_terminal: Pace::share(limit, AFTER_TERMINAL_PART),
            refreshes: Pace::share(limit, REFRESHES_PART),
            sweeps: Pace::share(limit, SWEEPS_PART),
            kept: Arrivals::default(),
            creates_waiting: 0,
            create_awaited: None,
            sweeps_waiting: 0,
            in_flight: 0,
            in_flight_max: policy.max_in_flight,
            held: 0,
            held_max: policy.held_max,
            breaker: Breaker::default(),
            subjects: 0,
            paused_until: None,
            steered: None,
            throttles: 0,
            unauthorized_until: None,
            create_refused: None,
            trouble: String::new(),
            recent: VecDeque::new(),
            figures: Figures::default(),
        }
    }

    pub(super) fn resume(&mut self, kept: Kept) {
        let Kept { arrivals, as_of } = kept;
        self.kept = Arrivals {
            requests: self.requests.resume(arrivals.requests, as_of),
            creates: self.creates.resume(arrivals.creates, as_of),
        };
    }

    /// The count of those of a class that wait, where others make way for it.
    pub(super) fn waiting(&mut self, class: Class) -> Option<&mut u32> {
        match class {
            Class::Create | Class::Adopt => Some(&mut self.creates_waiting),
            Class::Sweep => Some(&mut self.sweeps_waiting),
            Class::LookUp | Class::Poll | Class::AfterTerminal | Class::Refresh => None,
        }
    }

    /// Takes one request's share of everything, or says why not.
    /// Returns a number for what it is about.
    pub(super) fn admit(&mut self, class: Class, held: bool, now: Moment) -> Result<u64, Denied> {
        self.recover(now);
        if let Some(retry_at) = self.paused_until.filter(|until| now < *until) {
            return Err(Denied::Refused(Refusal::Throttled { retry_at }));
        }
        let gate = self.breaker.gate(now);
        if let Gate::Open(retry_at) = gate {
            return Err(Denied::Refused(Refusal::Unreachable { retry_at }));
        }
        // A create is a probe itself: somebody who mended the credentials tries it first.
        if let Some(retry_at) = self
            .unauthorized_until
            .filter(|until| now < *until && !class.is_first())
        {
            return Err(Denied::Refused(Refusal::Unauthorized { retry_at }));
        }
        self.room(class, held, now)?;
        let earliest = self.earliest(class, now);
        if earliest > now {
            return Err(Denied::Refused(Refusal::Throttled { retry_at: earliest }));
        }
        if self.is_unkept(class, now) {
            return Err(Denied::Unkept);
        }
        self.take(class, held, now);
        if gate == Gate::Probe {
            self.breaker.probe_begins();
        }
        if let Some(until) = &mut self.unauthorized_until
            && !class.is_first()
        {
            *until = now.plus(UNAUTHORIZED_PROBE);
        }
        if class == Class::Sweep {
            // A page is a page, wherever it begins.
            return Ok(0);
        }
        self.subjects += 1;
        Ok(self.subjects)
    }

    /// A create was refused for lack of budget, and told to come back: the budget is left to it.
    pub(super) fn create_refused(&mut self, refusal: Refusal) {
        if let Refusal::Throttled { retry_at } = refusal {
            self.create_awaited = Some(retry_at.plus(CREATE_AWAITED));
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
        let limit = self.limit.limit(now);
        self.requests.set_limit(limit, 1, now);
        self.look_ups.set_limit(limit, LOOK_UPS_PART, now);
        self.after_terminal
            .set_limit(limit, AFTER_TERMINAL_PART, now);
        self.refreshes.set_limit(limit, REFRESHES_PART, now);
        self.sweeps.set_limit(limit, SWEEPS_PART, now);
    }

    /// Whether requests but creates are held back, and not by the budget.
    pub(super) fn is_blocked(&self) -> bool {
        self.breaker.is_open() || self.unauthorized_until.is_some()
    }

    /// Whether one more request may be in flight. Creates may use the last eighth alone.
    fn room(&self, class: Class, held: bool, now: Moment) -> Result<(), Denied> {
        let full = if held {
            self.held >= self.held_max
        } else if class.is_first() {
            self.in_flight >= self.in_flight_max
        } else {
            self.in_flight >= (self.in_flight_max - self.in_flight_max / 8).max(1)
                || (self.creates_waiting > 0 && self.in_flight + 1 >= self.in_flight_max)
        };
        if full {
            let retry_at = now.plus(Duration::from_millis(500));
            return Err(Denied::Refused(Refusal::Busy { retry_at }));
        }
        Ok(())
    }

    fn earliest(&self, class: Class, now: Moment) -> Moment {
        // Half of the burst is for creates alone, so that one goes at once after any polling.
        let part = if class.is_first() { 1000 } else { 500 };
        let mut requests = self.requests.earliest(now, part);
        if !class.is_first()
            && let Some(steered) = self.steered.filter(|steered| now < steered.until)
        {
            requests = requests.max(steered.next);
        }
        match class {
            Class::Create => requests.max(self.creates.earliest(now, 1000)),
            Class::Adopt => requests,
            // Polls make way for a create that waits, or was told to come back.
            _ if self.creates_waiting > 0 && !self.requests.is_unlimited() => {
                requests.max(now.plus(Duration::from_millis(50)))
            }
            _ if self.create_awaited.is_some_and(|until| now < until) => {
                requests.max(now.plus(Duration::from_millis(250)))
            }
            Class::LookUp => requests.max(self.look_ups.earliest(now, 1000)),
            Class::AfterTerminal => requests.max(self.after_terminal.earliest(now, 1000)),
            Class::Refresh => requests.max(self.refreshes.earliest(now, 1000)),
            Class::Sweep => requests.max(self.sweeps.earliest(now, 1000)),
            // One page tells more than one poll, so it goes first where its half allows it.
            Class::Poll
                if self.sweeps_waiting > 0
                    && !self.requests.is_unlimited()
                    && self.sweeps.earliest(now, 1000) <= now =>
            {
                requests.max(now.plus(Duration::from_millis(50)))
            }
            Class::Poll => requests,
        }
    }

    fn is_unkept(&self, class: Class, now: Moment) -> bool {
        let requests =
            !self.requests.is_unlimited() && self.requests.arrival_after(now) > self.kept.requests;
        let creates = class == Class::Create
            && !self.creates.is_unlimited()
            && self.creates.arrival_after(now) > self.kept.creates;
        requests || creates
    }

    /// The arrival times to keep before a request of this class is made; `None` where what is kept
    /// covers it.
    pub(super) fn to_keep(&self, class: Class, now: Moment) -> Option<Arrivals> {
        if !self.is_unkept(class, now) {
            return None;
        }
        let requests = self
            .requests
            .arrival_after(now)
            .plus(KEPT_AHEAD)
            .max(self.kept.requests);
        let creates = match class {
            Class::Create => self.creates.arrival_after(now).max(self.kept.creates),
            _ => self.kept.creates,
        };
        Some(Arrivals {
            requests: if self.requests.is_unlimited() {
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

    pub(super) fn kept(&mut self, arrivals: Arrivals) {
        self.kept.requests = self.kept.requests.max(arrivals.requests);
        self.kept.creates = self.kept.creates.max(arrivals.creates);
    }

    fn take(&mut self, class: Class, held: bool, now: Moment) {
        self.requests.take(now);
        if class.is_first() {
            self.create_awaited = None;
        } else if let Some(steered) = &mut self.steered {
            steered.next = now.plus(steered.every);
        }
        match class {
            Class::Create => self.creates.take(now),
            Class::LookUp => self.look_ups.take(now),
            Class::AfterTerminal => self.after_terminal.take(now),
            Class::Refresh => self.refreshes.take(now),
            Class::Sweep => self.sweeps.take(now),
            Class::Adopt | Class::Poll => {}
        }
        *(if held {
            &mut self.held
        } else {
            &mut self.in_flight
        }) += 1;
        self.recent.push_back(now);
        self.forget(now);
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
            self.breaker.probe_dropped();
        }
    }

    pub(super) fn count(&mut self, class: Class, outcome: Outcome) {
        *self.figures.requests.entry((class, outcome)).or_default() += 1;
    }

    /// An answer of any status arrived to a request about `subject`.
    pub(super) fn answered(
        &mut self,
        class: Class,
        subject: u64,
        response: &Response,
        at: Now,
        jitter: impl FnOnce(Duration) -> Duration,
    ) {
        self.steer(response, at);
        let now = at.moment;
        // Counted by the status alone, so that it counts whatever the request was for.
        match (response.status, class) {
            // One damaged row fails a whole page (recorded of Masumi) while single reads work.
            (500.., Class::Sweep) => self.breaker.probe_dropped(),
            (500.., _) => self.breaker.failed(Blame::Subject(subject), now, jitter),
            _ => self.breaker.succeeded(),
        }
        // Neither a gateway's failure nor a throttle says that the credentials are good.
        let is_accepted = response.status < 500 && !matches!(response.status, 401 | 403 | 429);
        if is_accepted && !class.is_first() {
            self.unauthorized_until = None;
            let is_old = |at: &Moment| now.since(*at) >= UNAUTHORIZED_PROBE;
            self.create_refused = self.create_refused.filter(|at| !is_old(at));
        } else if is_accepted {
            (self.unauthorized_until, self.create_refused) = (None, None);
        }
        if response.status != 429 {
            self.throttles = 0;
        }
    }

    /// Follows what an answer's headers say about the requests to come.
    fn steer(&mut self, response: &Response, at: Now) {
        let now = at.moment;
        if response.status == 503
            && let Some(wait) = retry_after::of(&response.headers, at.wall)
        {
            self.pause(now.plus(wait));
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
            self.pause(until);
        }
    }

    /// No answer arrived to a request about `subject`.
    pub(super) fn failed(
        &mut self,
        subject: u64,
        error: &UpstreamError,
        now: Moment,
        jitter: impl FnOnce(Duration) -> Duration,
    ) {
        self.trouble = error.to_string();
        let blame = match error {
            UpstreamError::NotConnected(_) => Blame::Provider,
            // One purchase's answer can be too large, or take too long.
            UpstreamError::Lost(_) | UpstreamError::Closed | UpstreamError::Unusable(_) => {
                Blame::Subject(subject)
            }
        };
        self.breaker.failed(blame, now, jitter);
    }

    /// What the provider's file made of an answer. Failures were counted when it arrived.
    pub(super) fn learn(&mut self, class: Class, trouble: &Trouble, now: Moment) {
        match trouble {
            Trouble::Throttled { retry_after } => {
                // One that names no wait, or none at all, leaves it to this service to find one.
                let retry_after = retry_after.filter(|wait| !wait.is_zero());
                let own = backoff(THROTTLED_BASE, self.throttles, THROTTLED_MAX);
                let is_first = self.throttles == 0;
                self.throttles = self.throttles.saturating_add(1);
                if is_first && retry_after.is_none() && self.paused_for(now).is_zero() {
                    self.forget(now);
                    let recent = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
                    self.limit.throttled(recent, now);
                    self.slow(now);
                }
                self.pause(now.plus(retry_after.unwrap_or(own)));
                self.trouble = match self.limit.limit(now) {
                    slowed if self.limit.is_slowed() => {
                        format!("throttled by the provider; at most {slowed} requests a minute now")
                    }
                    _ => "throttled by the provider".to_owned(),
                };
            }
            Trouble::Unauthorized => {
                if class.is_first() {
                    self.create_refused = Some(now);
                } else {
                    self.unauthorized_until = Some(now.plus(UNAUTHORIZED_PROBE));
                }
                self.trouble = "the provider refuses the credentials".to_owned();
            }
            Trouble::Unreachable { why, .. } => self.trouble.clone_from(why),
            Trouble::Unreadable { why } => {
                self.figures.unreadable += 1;
                self.trouble.clone_from(why);
            }
        }
    }

    pub(super) fn paused_for(&self, now: Moment) -> Duration {
        self.paused_until
            .map_or(Duration::ZERO, |until| until.since(now))
    }

    fn pause(&mut self, until: Moment) {
        self.paused_until = Some(self.paused_until.map_or(until, |known| known.max(until)));
    }

    pub(super) fn snapshot(&mut self, now: Moment) -> Snapshot {
        self.forget(now);
        self.recover(now);
        let paused = self.paused_until.is_some_and(|until| now < until);
        let health = if self.unauthorized_until.is_some() || self.create_refused.is_some() {
            Health::Unauthorized
        } else if paused
            || self.limit.is_slowed()
            || self.breaker.is_open()
            || self.breaker.failures() > 0
        {
            Health::Degraded
        } else {
            Health::Ok
        };
        Snapshot {
            health,
            note: if health == Health::Ok {
                String::new()
            } else {
                self.trouble.clone()
            },
            requests_per_minute: self.limit.limit(now),
            requests_last_minute: u32::try_from(self.recent.len()).unwrap_or(u32::MAX),
            in_flight: self.in_flight + self.held,
            breaker_open: self.breaker.is_open(),
            figures: self.figures.clone(),
        }
    }
}
