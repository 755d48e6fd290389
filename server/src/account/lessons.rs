//! The lessons of an account that all processes of a store share, and the parts of its budget that they
//! take: the account's live state as the store sees it.

use std::time::Duration;

use super::{
    class::{Class, Refusal},
    live::Live,
};
use crate::{
    journal::{Heard, Lowered, Purpose, Taken, Taking, Verdict, Word},
    purchase::Moment,
};

/// The time after which a place in flight is looked for again, if no answer comes before.
pub(super) const BUSY: Duration = Duration::from_millis(500);

/// Everything that holds requests up at all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lessons {
    paused_until: Option<Moment>,
    unreachable_until: Option<Moment>,
    /// The time of the throttle that lowered the limit.
    lowered_at: Option<Moment>,
}

impl Live {
    /// The wish for what a request of this class needs; `None` if the store has given it.
    pub(super) fn taking(&self, class: Class, now: Moment) -> Option<Taking> {
        if !self.is_untaken(class, now) {
            return None;
        }
        let policy = &self.settings.policy;
        let many = match class.is_first() {
            true => 1,
            false => self.budget.many(now),
        };
        let purpose = match (class.is_first(), class.is_poll()) {
            (true, _) => Purpose::First,
            (false, true) => Purpose::Poll,
            (false, false) => Purpose::Other,
        };
        let slots = self.budget.shares.wish(class, many, now);
        Some(Taking {
            purpose,
            taken: slots.taken,
            wanted: slots.wanted,
            requests: slots.requests,
            slots: slots.slots,
            creates: slots.creates,
            owes_minute: self.budget.owes.requests,
            creates_owe_minute: self.budget.owes.creates,
            in_flight: self.flight.taken(),
            places: self.flight.wanted(class, class.is_held(policy)),
            places_max: self.flight.most(),
            lasts: policy.timeout,
        })
    }

    /// The store has answered a wish. Returns the refusal if it has given nothing.
    pub(super) fn took(
        &mut self,
        class: Class,
        taking: &Taking,
        taken: &Taken,
        now: Moment,
    ) -> Option<Refusal> {
        if taking.requests.is_some() {
            self.budget.owes.requests &= !taking.owes_minute;
        }
        if taking.creates.is_some() {
            self.budget.owes.creates &= !taking.creates_owe_minute;
        }
        self.budget.shares.took(class, taking, taken);
        if taken.is_for_longest {
            self.waiting.longest_is_next(match taken.verdict {
                Verdict::Later(at) => at,
                Verdict::Given | Verdict::Busy => now,
            });
        }
        self.flight.give(taken.places);
        self.heard(taken.heard, now);
        match taken.verdict {
            Verdict::Given => None,
            Verdict::Later(retry_at) => Some(Refusal::Throttled { retry_at }),
            Verdict::Busy => Some(Refusal::Busy {
                retry_at: now.plus(BUSY),
            }),
        }
    }

    /// Other processes have learned this.
    pub(super) fn heard(&mut self, heard: Heard, now: Moment) {
        let is_told = self.lessons() == self.told;
        if let Some(until) = heard.paused_until {
            self.condition.pause(until);
        }
        if let Some(until) = heard.unreachable_until {
            self.condition.told_unreachable(until);
        }
        if let Some(lowered) = heard.lowered
            && self.budget.told(lowered, now)
        {
            self.condition.say(slowed(lowered.to));
        }
        // Nobody is told what everybody has heard.
        if is_told {
            self.told = self.lessons();
        }
    }

    /// The word for other processes, which know it from now on; `None` if they know everything.
    pub(super) fn word(&mut self, now: Moment) -> Option<Word> {
        let lessons = self.lessons();
        let returns = self.returns_at().is_some_and(|at| at <= now);
        if lessons == self.told && !returns {
            return None;
        }
        self.told = lessons;
        let policy = &self.settings.policy;
        let in_flight = self.flight.taken();
        // Nothing begins in these places from now on.
        self.flight.give(in_flight);
        let rest = |until: Option<Moment>| until.map_or(Duration::ZERO, |until| until.since(now));
        Some(Word {
            pause: rest(lessons.paused_until),
            unreachable: rest(lessons.unreachable_until),
            lowered: self.lowered(),
            in_flight,
            lasts: policy.timeout,
        })
    }

    /// The time at which places go back that the store keeps for this process in vain.
    pub(super) fn returns_at(&self) -> Option<Moment> {
        let fresh_until = self.budget.shares.fresh_until();
        (self.flight.has_spare()).then(|| fresh_until.plus(Duration::from_millis(1)))
    }

    /// Nobody has heard the last word.
    pub(super) fn unheard(&mut self) {
        self.told = Lessons::default();
    }

    fn lessons(&self) -> Lessons {
        Lessons {
            paused_until: self.condition.paused_until(),
            unreachable_until: self.condition.unreachable_until(),
            lowered_at: self.budget.lowered().map(|(_, at)| at),
        }
    }

    fn lowered(&self) -> Option<Lowered> {
        self.budget.lowered().map(|(lowered, _)| lowered)
    }
}

/// The words of an account whose limit was lowered.
pub(super) fn slowed(limit: u32) -> String {
    format!("throttled by the provider; at most {limit} requests a minute now")
}
