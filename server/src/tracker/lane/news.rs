//! What is heard of a lane's purchases, when they are asked again for it, and how fresh they are.

use super::{Finality, Lane, PurchaseId, lock};
use crate::{
    account::Class,
    clock::Clock,
    purchase::{Freshness, Moment},
    tracker::entry::Entry,
};

impl Lane {
    /// Takes an answer about a purchase in, if it is open here.
    pub(in crate::tracker) fn hear<T>(
        &self,
        purchase: PurchaseId,
        hear: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut state = lock(&self.state);
        let (_, entry) = state.of(purchase)?;
        let before = usize::from(entry.heard.held_back_since.is_some());
        let heard = hear(entry);
        let after = usize::from(entry.heard.held_back_since.is_some());
        state.held_back = state.held_back + after - before;
        Some(heard)
    }

    /// Of how many purchases an answer is held back.
    pub(in crate::tracker) fn held_back(&self) -> usize {
        lock(&self.state).held_back
    }

    /// Asks about a purchase at this time at the latest, also where it was given up.
    pub(in crate::tracker) fn ask_by(&self, purchase: PurchaseId, at: Moment) {
        let mut state = lock(&self.state);
        let Some((place, entry)) = state.of(purchase) else {
            return;
        };
        let was_given_up = std::mem::take(&mut entry.given_up);
        // One that is being asked is armed at the end of that.
        if entry.busy || (entry.due <= at && !was_given_up) {
            return;
        }
        entry.due = at;
        state.wheel.arm(place, at);
        drop(state);
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

    /// How fresh a purchase's status is, if it is open here. Its next poll lies ahead: where the
    /// account waits, when it may be asked.
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
