//! The choice of the next poll in a lane.

use std::{ops::Range, time::Duration};

use super::{Chosen, Lane, State, Suspect};
use crate::{
    account::{Admission, Class},
    cadence::hazard::weight,
    purchase::{Moment, PurchaseId},
    tracker::Inner,
};

/// Of so many turns, one goes to what has ended, if both are due.
const ENDED_EVERY: u32 = 10;
/// Of how many purchases the times are changed at once, before others have the lane.
const SPREAD_AT_ONCE: usize = 1_000;

impl Lane {
    /// The class that is next, of those that are due and not refused.
    pub(super) fn class(&self, refused: &[Class]) -> Option<Class> {
        let state = self.state();
        let open = !state.open.is_empty() && !refused.contains(&Class::Poll);
        let ended = !state.ended.is_empty() && !refused.contains(&Class::AfterTerminal);
        match (open, ended) {
            (true, true) if state.turns % ENDED_EVERY == ENDED_EVERY - 1 => {
                Some(Class::AfterTerminal)
            }
            (true, _) => Some(Class::Poll),
            (false, true) => Some(Class::AfterTerminal),
            (false, false) => None,
        }
    }

    /// The next of this class; `None` if all that was due is gone, or was read this moment.
    pub(super) fn turn(
        &self,
        admission: &Admission,
        watchers: &dyn Fn(PurchaseId) -> usize,
        now: Moment,
    ) -> Option<Chosen> {
        let mut state = self.state();
        state.turns = state.turns.wrapping_add(1);
        let place = if admission.class() == Class::AfterTerminal {
            state.ended.take_longest_due()?
        } else if let Some(place) = state.suspected() {
            state.open.remove(place);
            place
        } else if admission.is_probe()
            && let Some(place) = state.answered_last()
        {
            state.open.remove(place);
            place
        } else {
            // The order does not matter if all that is due can go at once.
            let more = usize::try_from(admission.more()).unwrap_or(usize::MAX);
            if admission.is_for_longest_due() || state.open.len() <= more.saturating_add(1) {
                state.open.take_longest_due()?
            } else {
                let compared_max = admission.settings().policy.compared_max();
                state.worthiest(compared_max, watchers, now)?
            }
        };
        let entry = state.entry(place)?;
        let floor = entry.floor();
        if now < floor {
            // Somebody has just read it while it waited for its turn.
            (entry.due, entry.busy) = (floor, false);
            state.wheel.arm(place, floor);
            drop(state);
            self.sooner.notify_one();
            return None;
        }
        entry.stayed.asked(now);
        Some(Chosen {
            id: entry.id,
            reference: entry.reference.clone(),
            since: entry.due,
        })
    }

    /// The whole account was throttled for a request about this purchase.
    pub(in crate::tracker) fn suspect(&self, purchase: PurchaseId) {
        let mut state = self.state();
        let place = state.of(purchase).map(|(place, _)| place);
        state.suspect = place.map(|place| Suspect {
            place,
            is_next: false,
        });
    }

    /// Trouble holds the account's polls back.
    pub(super) fn is_held(&self, now: Moment) {
        self.state().held_since.get_or_insert(now);
    }

    /// For how long trouble has held the account's polls back, if it does no more.
    pub(super) fn was_held(&self, now: Moment) -> Option<Duration> {
        let held_since = self.state().held_since.take()?;
        Some(now.since(held_since))
    }

    /// The numbers of purchases that are due: open, and ended.
    fn due(&self) -> [usize; 2] {
        let state = self.state();
        [state.open.len(), state.ended.len()]
    }

    /// Gives those of one kind that are due times of their own, in their order: those from the
    /// `first`-th to the `last`-th of `count`, over `span`, or their interval if that is shorter.
    /// The first of all stays due.
    fn spread(
        &self,
        ended: bool,
        (places, count): (Range<usize>, usize),
        span: Duration,
        now: Moment,
    ) {
        let settings = self.account.settings();
        let mut state = self.state();
        let State {
            entries,
            wheel,
            open,
            ended: rest,
            ..
        } = &mut *state;
        let turns = if ended { rest } else { open };
        for number in places {
            let Some(place) = turns.take_longest_due() else {
                break;
            };
            let Some(Some(entry)) = entries.get_mut(place) else {
                continue;
            };
            if number == 0 {
                turns.push(place, entry.caller);
                continue;
            }
            let span = span.min(entry.every(&settings.policy, now));
            let [part, whole] =
                [number, count].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
            let due = now.plus(span / whole.max(1) * part);
            (entry.due, entry.busy) = (due, false);
            wheel.arm(place, due);
        }
        drop(state);
        self.sooner.notify_one();
    }
}

impl State {
    /// Another than the suspect has been answered: it is asked next.
    pub(super) fn ask_suspect(&mut self, now: Moment) {
        let Some(suspect) = self.suspect.as_mut().filter(|suspect| !suspect.is_next) else {
            return;
        };
        suspect.is_next = true;
        let place = suspect.place;
        if let Some(entry) = self.entry(place).filter(|entry| !entry.busy) {
            entry.due = now.max(entry.floor());
            let due = entry.due;
            self.wheel.arm(place, due);
        }
    }

    /// The suspect, once it is due and another has been answered.
    fn suspected(&mut self) -> Option<u32> {
        let open = &self.open;
        let is_next = |suspect: &mut Suspect| suspect.is_next && open.contains(suspect.place);
        Some(self.suspect.take_if(is_next)?.place)
    }

    /// Of the places that were answered last and are due, the newest that has not failed since.
    fn answered_last(&self) -> Option<u32> {
        let is_well = |place: &u32| {
            let entry = self.entries.get(*place).and_then(Option::as_ref);
            self.open.contains(*place) && entry.is_some_and(|entry| entry.failures == 0)
        };
        self.answered.iter().rev().copied().find(is_well)
    }

    /// Takes the place of the caller whose turn it is about which asking is worth the most.
    fn worthiest(
        &mut self,
        compared_max: usize,
        watchers: &dyn Fn(PurchaseId) -> usize,
        now: Moment,
    ) -> Option<u32> {
        let (entries, hazards) = (&self.entries, &self.hazards);
        self.open.take(compared_max, |place| {
            let entry = entries.get(place).and_then(Option::as_ref);
            entry.map_or(f64::MIN, |entry| {
                // An account's trouble says nothing about the chances of one of its purchases.
                let failures = entry.failing_since().map_or(0, |_| entry.failures);
                let weight = weight(watchers(entry.id), failures);
                hazards.value(entry.stayed.state(), entry.stayed.waited(now), weight)
            })
        })
    }
}

impl Inner {
    /// Polls that trouble held back would all go at once now that it is over. They are spread as they
    /// were before: over the time that they were held, or over their interval if that is shorter.
    pub(super) async fn spread(&self, lane: &Lane) {
        let now = self.clock.moment();
        let Some(span) = lane.was_held(now) else {
            return;
        };
        for (ended, count) in [false, true].into_iter().zip(lane.due()) {
            for first in (0..count).step_by(SPREAD_AT_ONCE) {
                let last = count.min(first + SPREAD_AT_ONCE);
                lane.spread(ended, (first..last, count), span, now);
                tokio::task::yield_now().await;
            }
        }
    }
}
