//! Answers and silences about a lane's purchases, and the purchases' freshness.

use std::time::Duration;

use tokio::sync::futures::Notified;

use super::{Finality, Lane, PurchaseId, State, lock};
use crate::{
    account::{Class, Times},
    cadence::hazard::Stayed,
    clock::Clock,
    lifecycle::Source,
    observation::Observation,
    purchase::{self, Freshness, Moment},
    tracker::entry::{Fresh, News, NoAnswer, OwnWord, number},
};

/// The number of places that were answered last and are known.
const ANSWERED_MAX: usize = 16;

/// The work that an answer or a silence makes.
pub(in crate::tracker) enum ToDo {
    /// Another answer about the purchase is being decided on: this one comes after it.
    Wait,
    /// News have to be committed, and settled.
    Commit(Fresh),
    /// This service's own words have to be committed, if any.
    Say([Option<OwnWord>; 2]),
}

/// News that are being committed. Given up when dropped, so that the same is news again.
pub(in crate::tracker) struct Deciding<'lane> {
    lane: &'lane Lane,
    purchase: PurchaseId,
    fresh: Option<Fresh>,
}

impl Deciding<'_> {
    /// The news are committed, or were none to the status. Returns this service's own word, if enough
    /// time has passed for one.
    pub(in crate::tracker) fn settle(
        mut self,
        changed_to: Option<purchase::State>,
        now: Moment,
    ) -> Option<OwnWord> {
        let fresh = self.fresh.take()?;
        self.lane.settle(self.purchase, &fresh, changed_to, now)
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        if self.fresh.is_some() {
            self.lane.with(self.purchase, |entry| entry.unsettle());
        }
        self.lane.decided.notify_waiters();
    }
}

impl Lane {
    /// Takes a readable answer about a purchase in, if it is open here.
    pub(in crate::tracker) fn hear(
        &self,
        purchase: PurchaseId,
        observation: &Observation,
        (times, source): (Times, Source),
        now: Moment,
    ) -> ToDo {
        let mut state = self.state();
        let Some((place, entry)) = state.of(purchase) else {
            return ToDo::Say([None; 2]);
        };
        let before = usize::from(entry.heard.held_back_since.is_some());
        let stayed = entry.is_open().then_some(entry.stayed);
        let news = entry.hear(observation, times, source, now);
        let after = usize::from(entry.heard.held_back_since.is_some());
        state.held_back = state.held_back + after - before;
        match news {
            News::Wait => return ToDo::Wait,
            News::Fresh(fresh) => return ToDo::Commit(fresh),
            News::Same => state.looked(Some(place), stayed, None, now),
            News::HeldBack(at) => self.ask_by(&mut state, place, at),
            News::Old => {}
        }
        ToDo::Say([state.passed(place, self.give_up_after(), now), None])
    }

    /// A request has brought no answer about a purchase.
    pub(in crate::tracker) fn silent(
        &self,
        purchase: PurchaseId,
        silence: NoAnswer,
        now: Moment,
    ) -> ToDo {
        let mut state = self.state();
        let Some((place, entry)) = state.of(purchase) else {
            return ToDo::Say([None; 2]);
        };
        if entry.is_deciding() {
            return ToDo::Wait;
        }
        let told = entry.silent(silence, now);
        ToDo::Say([told, state.passed(place, self.give_up_after(), now)])
    }

    fn give_up_after(&self) -> Duration {
        self.account.settings().policy.give_up_after
    }

    /// Ready once news of some purchase are settled or given up, from now on.
    pub(in crate::tracker) fn decided(&self) -> Notified<'_> {
        self.decided.notified()
    }

    /// Holds a purchase's other answers up until its news are settled.
    pub(in crate::tracker) fn deciding(&self, purchase: PurchaseId, fresh: Fresh) -> Deciding<'_> {
        Deciding {
            lane: self,
            purchase,
            fresh: Some(fresh),
        }
    }

    fn settle(
        &self,
        purchase: PurchaseId,
        fresh: &Fresh,
        changed_to: Option<purchase::State>,
        now: Moment,
    ) -> Option<OwnWord> {
        let mut state = self.state();
        let place = state.of(purchase).map(|(place, entry)| {
            entry.settle(fresh);
            place
        });
        state.looked(place, fresh.stayed, changed_to, now);
        state.passed(place?, self.give_up_after(), now)
    }

    /// The number of purchases of which an answer is held back.
    pub(in crate::tracker) fn held_back(&self) -> usize {
        self.state().held_back
    }

    /// Asks about a purchase at this time at the latest, also if it was given up.
    pub(super) fn ask_by(&self, state: &mut State, place: u32, at: Moment) {
        let Some(entry) = state.entry(place) else {
            return;
        };
        let was_given_up = std::mem::take(&mut entry.given_up);
        // A purchase that is being asked is armed at the end of that.
        if entry.busy || (entry.due <= at && !was_given_up) {
            return;
        }
        entry.due = at;
        state.wheel.arm(place, at);
        self.sooner.notify_one();
    }

    /// An account's class of polls may be asked at this time; `None`: now.
    pub(super) fn may_ask_at(&self, class: Class, at: Option<Moment>) {
        let mut waits = lock(&self.waits);
        match class {
            Class::AfterTerminal => waits.ended = at,
            _ => waits.open = at,
        }
    }

    /// The freshness of a purchase's status, if it is open here. Its next poll lies ahead, and not
    /// before the account may be asked.
    pub(in crate::tracker) fn freshness(
        &self,
        purchase: PurchaseId,
        clock: &Clock,
    ) -> Option<Freshness> {
        let (mut freshness, due, finality) = self.with(purchase, |entry| {
            let due = (!entry.given_up).then_some(entry.due);
            (entry.freshness(clock), due, entry.finality)
        })?;
        let waits = lock(&self.waits);
        let wait = match finality {
            Finality::Open => waits.open,
            Finality::Terminal | Finality::Final => waits.ended,
        };
        let next = due.map(|due| due.max(clock.moment()).max(wait.unwrap_or(due)));
        freshness.next_poll_time = next.map(|next| clock.wall_of(next));
        Some(freshness)
    }
}

impl State {
    /// Learns from an answer what a purchase stayed in until now, if it was open, and what it changed
    /// to.
    fn looked(
        &mut self,
        place: Option<u32>,
        stayed: Option<Stayed>,
        changed_to: Option<purchase::State>,
        now: Moment,
    ) {
        let Some(before) = stayed else { return };
        let changed_to = changed_to.map(number);
        let (from, span) = (before.state(), before.span(now));
        self.hazards.learn(from, span, changed_to.map(usize::from));
        let Some(place) = place else { return };
        let Some(entry) = self.entry(place) else {
            return;
        };
        match changed_to {
            Some(number) => entry.stayed.changed(number, now),
            None => entry.stayed.unchanged(now),
        }
        self.suspect.take_if(|suspect| suspect.place == place);
        self.ask_suspect(now);
        if self.answered.back() != Some(&place) {
            self.answered.push_back(place);
        }
        if self.answered.len() > ANSWERED_MAX {
            self.answered.pop_front();
        }
    }

    fn passed(&mut self, place: u32, give_up_after: Duration, now: Moment) -> Option<OwnWord> {
        self.entry(place)?.passed(give_up_after, now)
    }
}
