//! The trouble that an account is thought to be in, by the fate of its requests: plain state.
//!
//! One purchase's trouble is its own. A trouble that several purchases tell of, and none contradicts, is
//! the account's.

use std::time::Duration;

use super::class::{Class, Inquiry, Refusal};
use crate::{
    cadence::{
        budget::{Breaker, Gate, backoff},
        witness::{Failing, Witness, Witnesses},
    },
    observation::Trouble,
    purchase::Moment,
    upstream::UpstreamError,
};

/// The wait after a 429 that names none; doubled while they come in a row.
const THROTTLED_BASE: Duration = Duration::from_secs(5);
/// The longest of these waits.
const THROTTLED_MAX: Duration = Duration::from_secs(60);
/// The interval at which an account is tried whose credentials are refused.
pub(super) const UNAUTHORIZED_PROBE: Duration = Duration::from_secs(60);

/// The owner of a trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The account's, as far as is known.
    Account,
    /// The purchase's alone.
    Purchase,
}

/// An account's trouble, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Condition {
    breaker: Breaker,
    /// Purchases that fail while others are answered.
    failing: Failing,
    /// Open purchases, as the tracker counts them.
    open: usize,
    /// The witnesses whose credentials were refused since a read was accepted.
    refused: Witnesses,
    /// The witnesses who were not heard, or not understood, since another was.
    unheard: Witnesses,
    /// Reads are refused their credentials; the next probe is at this time.
    unauthorized_until: Option<Moment>,
    /// The time at which creates were refused their credentials. Creates can have other credentials
    /// than reads (Inabit), or need more rights or another network (Masumi), so this is told and holds
    /// no read up.
    create_refused: Option<Moment>,
    /// The provider asked for a pause until then.
    paused_until: Option<Moment>,
    /// 429s in a row.
    throttles: u32,
    /// The words of the last failure.
    words: String,
}

impl Condition {
    /// The account has other credentials, or another way out: nothing is known of them. The next request
    /// is the probe, if there was trouble. A pause that the provider asked for goes on.
    pub(super) fn renewed(&mut self, now: Moment) {
        self.breaker.probe_at(now);
        self.unauthorized_until = self.unauthorized_until.map(|_| now);
        self.create_refused = None;
        self.failing = Failing::default();
        (self.refused, self.unheard) = Default::default();
    }

    /// So many open purchases are polled.
    pub(super) fn follows(&mut self, open: usize) {
        self.open = open;
    }

    /// True if a request may be made as far as trouble is concerned, and whether as a probe.
    pub(super) fn gate(&self, class: Class, now: Moment) -> Result<Gate, Refusal> {
        if let Some(retry_at) = self.paused_until.filter(|until| now < *until) {
            return Err(Refusal::Throttled { retry_at });
        }
        let gate = self.breaker.gate(now);
        if let Gate::Open(retry_at) = gate {
            // Few say that it is broken: a create may find that it is not.
            if !(class.is_first() && self.breaker.is_doubtful()) {
                return Err(Refusal::Unreachable { retry_at });
            }
        }
        // A create is a probe itself: somebody who mended the credentials tries it first.
        match self.unauthorized_until.filter(|_| !class.is_first()) {
            Some(retry_at) if now < retry_at => Err(Refusal::Unauthorized { retry_at }),
            Some(_) => Ok(Gate::Probe),
            None => Ok(gate),
        }
    }

    /// The refusal of a request that was let through before, if it may not go any more.
    pub(super) fn holds_back(&self, class: Class, is_probe: bool, now: Moment) -> Option<Refusal> {
        match self.gate(class, now) {
            Err(Refusal::Unreachable { .. } | Refusal::Unauthorized { .. }) if is_probe => None,
            other => other.err(),
        }
    }

    /// A request that was let through at this gate is made.
    pub(super) fn begins(&mut self, class: Class, gate: Gate, now: Moment) {
        if gate == Gate::Probe {
            self.breaker.probe_begins();
        }
        if let Some(until) = &mut self.unauthorized_until
            && !class.is_first()
        {
            *until = now.plus(UNAUTHORIZED_PROBE);
        }
    }

    /// A request was given up.
    pub(super) fn given_up(&mut self) {
        self.breaker.probe_dropped();
    }

    /// True if requests but creates are held back by trouble.
    pub(super) fn is_blocked(&self) -> bool {
        self.breaker.is_open() || self.unauthorized_until.is_some()
    }

    /// An answer of this status arrived. Returns true if its trouble is its purchase's own, `None` if the
    /// status tells of none.
    pub(super) fn answered(
        &mut self,
        inquiry: &Inquiry,
        status: u16,
        newest: u64,
        now: Moment,
        jitter: impl FnOnce(Duration) -> Duration,
    ) -> Option<bool> {
        let is_accepted = status < 500 && !matches!(status, 401 | 403 | 429);
        let own = (!is_accepted).then(|| self.failing.failed(inquiry.subject, newest));
        // The status alone counts, whatever the purpose of the request was.
        match (status, inquiry.class) {
            // One damaged row fails a whole page (recorded of Masumi) while single reads work.
            (500.., Class::Sweep) => self.breaker.probe_dropped(),
            (500.., _) if own == Some(true) => self.breaker.probe_dropped(),
            (500.., _) => self
                .breaker
                .failed(inquiry.witness(), self.open, now, jitter),
            _ => self.breaker.succeeded(),
        }
        // Neither a gateway's failure nor a throttle says that the credentials are good.
        if is_accepted && inquiry.class.is_first() {
            (self.unauthorized_until, self.create_refused) = (None, None);
            self.refused = Witnesses::default();
        } else if is_accepted {
            self.unauthorized_until = None;
            let is_old = |at: &Moment| now.since(*at) >= UNAUTHORIZED_PROBE;
            self.create_refused = self.create_refused.filter(|at| !is_old(at));
            self.refused.forget_reads();
        }
        if status != 429 {
            self.throttles = 0;
        }
        own
    }

    /// No answer arrived. Returns true if that is its purchase's own trouble.
    pub(super) fn failed(
        &mut self,
        inquiry: &Inquiry,
        error: &UpstreamError,
        newest: u64,
        now: Moment,
        jitter: impl FnOnce(Duration) -> Duration,
    ) -> bool {
        self.words = error.to_string();
        let witness = match error {
            UpstreamError::NotConnected(_) => Witness::Way,
            // One purchase's answer can be too large, or take too long.
            UpstreamError::Lost(_) | UpstreamError::Closed | UpstreamError::Unusable(_) => {
                inquiry.witness()
            }
        };
        let own = witness != Witness::Way && self.failing.failed(inquiry.subject, newest);
        if own {
            self.breaker.probe_dropped();
        } else {
            self.breaker.failed(witness, self.open, now, jitter);
        }
        own
    }

    /// A request ended with an answer that was understood.
    pub(super) fn understood(&mut self, inquiry: &Inquiry) {
        self.failing.answered(inquiry.subject, inquiry.number);
        self.unheard = Witnesses::default();
    }

    /// The meaning that the provider's file found in an answer, if that is no throttle. Failures were
    /// counted when it arrived.
    pub(super) fn blame(
        &mut self,
        inquiry: &Inquiry,
        trouble: &Trouble,
        newest: u64,
        now: Moment,
    ) -> Whose {
        let own = inquiry
            .own
            .unwrap_or_else(|| self.failing.failed(inquiry.subject, newest));
        let is_accounts = match trouble {
            Trouble::Throttled { .. } => !own,
            Trouble::Unauthorized => !own && self.unauthorized(inquiry, now),
            Trouble::Unreachable { .. } | Trouble::Nowhere | Trouble::Unreadable { .. } => {
                trouble
                    .why()
                    .unwrap_or_default()
                    .clone_into(&mut self.words);
                if !own {
                    self.unheard.add(inquiry.witness());
                }
                let is_way = match trouble {
                    Trouble::Unreachable { sent, .. } => !sent,
                    Trouble::Nowhere => inquiry.class.is_first(),
                    _ => false,
                };
                is_way || (!own && self.unheard.are_all())
            }
        };
        if is_accounts {
            Whose::Account
        } else {
            Whose::Purchase
        }
    }

    /// One more request was refused its credentials. Returns true if as many were as ever have to be.
    fn unauthorized(&mut self, inquiry: &Inquiry, now: Moment) -> bool {
        "the provider refuses the credentials".clone_into(&mut self.words);
        self.refused.add(inquiry.witness());
        if self.refused.suffice(self.open) {
            if inquiry.class.is_first() {
                self.create_refused = Some(now);
            }
            if self.refused.any_reads() {
                self.unauthorized_until = Some(now.plus(UNAUTHORIZED_PROBE));
            }
        }
        self.refused.are_all()
    }

    /// The provider throttles the account. Returns true if this is the first time in a row that it does
    /// so without a word for how long.
    pub(super) fn throttled(&mut self, retry_after: Option<Duration>, now: Moment) -> bool {
        // A provider that names no wait, or a wait of nothing, leaves it to this service to find one.
        let retry_after = retry_after.filter(|wait| !wait.is_zero());
        let own = backoff(THROTTLED_BASE, self.throttles, THROTTLED_MAX);
        let is_first = self.throttles == 0;
        self.throttles = self.throttles.saturating_add(1);
        let is_news = is_first && retry_after.is_none() && self.paused_for(now).is_zero();
        self.pause(now.plus(retry_after.unwrap_or(own)));
        is_news
    }

    /// The words that a person reads of the last failure.
    pub(super) fn say(&mut self, words: String) {
        self.words = words;
    }

    /// See [`Condition::say`].
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    pub(super) fn paused_until(&self) -> Option<Moment> {
        self.paused_until
    }

    pub(super) fn paused_for(&self, now: Moment) -> Duration {
        self.paused_until
            .map_or(Duration::ZERO, |until| until.since(now))
    }

    /// The time until which nobody needs to ask; `None` if the breaker is closed, or not sure.
    pub(super) fn unreachable_until(&self) -> Option<Moment> {
        self.breaker.certain_until()
    }

    /// Another process does not reach the provider until this time.
    pub(super) fn told_unreachable(&mut self, until: Moment) {
        if !self.breaker.is_open() {
            "the provider was not reached by another process".clone_into(&mut self.words);
        }
        self.breaker.told(until);
    }

    pub(super) fn pause(&mut self, until: Moment) {
        self.paused_until = Some(self.paused_until.map_or(until, |known| known.max(until)));
    }

    /// True if the credentials are refused.
    pub(super) fn is_unauthorized(&self) -> bool {
        self.unauthorized_until.is_some() || self.create_refused.is_some()
    }

    /// True if the provider fails, makes no sense or pauses.
    pub(super) fn is_degraded(&self, now: Moment) -> bool {
        !self.paused_for(now).is_zero()
            || self.breaker.is_open()
            || self.breaker.failures() > 0
            || self.unheard.suffice(self.open)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.breaker.is_open()
    }
}
