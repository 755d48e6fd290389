//! When purchases that rounds look for are read singly as well.

use std::time::Duration;

use super::{
    Cut, Sweeper,
    known::{Known, Member},
};
use crate::{
    purchase::{Finality, Moment, Purchase, PurchaseId, State, Timestamp},
    tracker::{Inner, lane::Lane, lock},
};

impl Sweeper {
    /// See [`Known::singly_every`].
    fn singly_every(&self, created: Timestamp, finality: Finality) -> Option<Duration> {
        let mut known = lock(&self.known);
        let every = known.singly_every(created, finality)?;
        known.stretched = true;
        Some(every)
    }

    /// When a round next looks for a purchase's news.
    fn next_round(&self, created: Timestamp, finality: Finality) -> Option<Moment> {
        let known = lock(&self.known);
        known.singly_every(created, finality)?;
        known.next_round
    }

    /// The times at which the open purchases were created.
    pub(super) async fn created(&self) -> Vec<Timestamp> {
        let mut created = Vec::new();
        let is_open = |_: &Known, member: &Member| member.is_open();
        self.each(is_open, |member| created.push(member.created()))
            .await;
        created
    }

    /// Calls `act` with each wanted purchase. Lets others work in between.
    async fn each(&self, wanted: impl Fn(&Known, &Member) -> bool, mut act: impl FnMut(Member)) {
        let mut after = None;
        loop {
            let (members, next) = lock(&self.known).scan(after, &wanted);
            members.into_iter().for_each(&mut act);
            if next.is_none() {
                return;
            }
            after = next;
            tokio::task::yield_now().await;
        }
    }
}

impl Inner {
    /// A status was committed or taken up: rounds look for its purchase from now on, or no more.
    /// A newly swept purchase gets its next single read at a random time within the long interval, so
    /// that purchases created together are not read together.
    pub(in crate::tracker) fn sweepable(&self, lane: &Lane, purchase: &Purchase) {
        let status = &purchase.status;
        let (sweeper, provider) = (lane.sweeper.as_ref(), lane.account.provider());
        let (Some(sweeper), Some(sweep), Some(reference)) =
            (sweeper, provider.sweep(), &status.reference)
        else {
            return;
        };
        let is_new = {
            let mut known = lock(&sweeper.known);
            if !known.is_allowed {
                return;
            }
            if status.finality == Finality::Final {
                known.forget(sweep, reference);
                return;
            }
            known.learn(sweep, purchase, reference)
        };
        // A purchase that somebody has just named is asked about at once.
        if !is_new || status.state == State::OutcomeUnknown {
            return;
        }
        if let Some(every) = sweeper.singly_every(purchase.create_time, status.finality) {
            lane.rearm(
                purchase.id,
                self.clock.moment().plus(self.clock.up_to(every)),
            );
        }
    }

    /// The earliest next single read of a purchase that was just read, if rounds show it.
    pub(in crate::tracker) fn stretched(
        &self,
        lane: &Lane,
        created: Timestamp,
        finality: Finality,
    ) -> Option<Moment> {
        let sweeper = lane.sweeper.as_ref()?;
        let every = sweeper.singly_every(created, finality)?;
        Some(self.clock.moment().plus(self.clock.jittered(every, 100)))
    }

    /// A purchase's single read waits, since a page has shown all of it.
    pub(super) fn shown(&self, lane: &Lane, sweeper: &Sweeper, purchase: PurchaseId) {
        let idle = lane.with(purchase, |entry| {
            (!entry.busy).then_some((entry.create_time, entry.finality))
        });
        if let Some(Some((create_time, finality))) = idle
            && let Some(every) = sweeper.singly_every(create_time, finality)
        {
            let due = self.clock.moment().plus(self.clock.jittered(every, 100));
            lane.rearm(purchase, due);
        }
    }

    /// A purchase is read singly as soon as may be.
    pub(super) fn soon(&self, lane: &Lane, purchase: PurchaseId) {
        let idle = lane.with(purchase, |entry| !entry.busy && !entry.given_up);
        if idle == Some(true) {
            lane.rearm(purchase, self.clock.moment());
        }
    }

    /// For each page that was read of the list of all, another purchase is read singly: pages cannot tell
    /// by themselves that they lag.
    pub(super) fn check(&self, lane: &Lane, sweeper: &Sweeper) {
        let next = lock(&sweeper.known).next_to_check();
        if let Some(purchase) = next {
            self.soon(lane, purchase);
        }
    }

    /// After a whole round through all purchases: what it did not show is read by itself.
    pub(super) async fn missing(
        &self,
        lane: &Lane,
        sweeper: &Sweeper,
        began: Moment,
        seen: usize,
    ) -> Result<(), Cut> {
        let mut expected = 0;
        let is_expected = |known: &Known, member: &Member| known.is_expected(member);
        sweeper
            .each(is_expected, |member| {
                let purchase = member.purchase();
                expected += 1;
                let unseen = lane.with(purchase, |entry| {
                    entry.read.is_none_or(|read| read < began) && entry.created < began
                });
                if seen > 0 && unseen == Some(true) {
                    self.soon(lane, purchase);
                }
            })
            .await;
        if seen == 0 && expected > 0 {
            // It lists other purchases than was asked for, or none: no use to go on so.
            return Err(Cut::Failed);
        }
        Ok(())
    }

    /// Lets purchases be read singly as often as the schedule says: all, or those created before a
    /// time. Spread over their interval, since they would all be due at once.
    pub(super) async fn unstretch(
        &self,
        lane: &Lane,
        sweeper: &Sweeper,
        before: Option<Timestamp>,
    ) {
        {
            let mut known = lock(&sweeper.known);
            if !known.stretched {
                return;
            }
            known.stretched = before.is_some();
        }
        let settings = lane.account.settings();
        let is_before = |_: &Known, member: &Member| Known::is_before(member, before);
        sweeper
            .each(is_before, |member| {
                let purchase = member.purchase();
                let now = self.clock.moment();
                let earlier = lane.with(purchase, |entry| {
                    let every = entry.every(&settings.policy, now);
                    let is_late = entry.due > now.plus(every) && !entry.busy && !entry.given_up;
                    is_late.then_some(every)
                });
                if let Some(Some(every)) = earlier {
                    lane.rearm(purchase, now.plus(self.clock.up_to(every)));
                }
            })
            .await;
    }

    /// When a round next looks for a purchase's news, if one does.
    pub(in crate::tracker) fn next_round(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
    ) -> Option<Moment> {
        let sweeper = lane.sweeper.as_ref()?;
        let member = lane.with(purchase, |entry| (entry.create_time, entry.finality));
        let (create_time, finality) = member?;
        sweeper.next_round(create_time, finality)
    }
}
