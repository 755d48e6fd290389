//! Settling purchases that no answer has settled: attempts that outlived their time, orders that wait
//! for a repeat, and buyer actions that must be forgotten.

use std::{sync::Arc, time::Duration};

use super::{
    Inner, RETRY_AFTER, SUBMIT_SLACK,
    phase::{Remedy, SubmitPhase, is_settled},
};
use crate::{
    clock::Now,
    journal::{self, Decided, JournalError, Record, Step, Write},
    lifecycle,
    ownership::Tenure,
    purchase::{
        AccountName, AttentionReason, Cause, Moment, Purchase, PurchaseId, State, Timestamp,
    },
};

/// Settlements under way at once.
const SETTLING_MAX: usize = 64;
/// The wait after a settlement that panicked until it is tried again.
const AFTER_PANIC: Duration = Duration::from_secs(60);

impl Inner {
    /// Sets the deadlines of a purchase by its newest status.
    pub(super) fn consider(&self, purchase: &Purchase) {
        if self.owner_of(&purchase.account).is_none() {
            return;
        }
        let status = &purchase.status;
        let action = status.buyer_action.as_ref();
        if let Some(time) = action.and_then(crate::purchase::BuyerAction::expire_time) {
            self.deadlines.at(self.clock.moment_of(time), purchase.id);
        }
        if is_settled(status) {
            return;
        }
        let Some(account) = self.accounts.get(&purchase.account) else {
            return;
        };
        let attention = status.attention.as_ref();
        let time = match (
            status.state,
            attention.and_then(|attention| attention.deadline_time),
        ) {
            (_, Some(deadline)) => self.clock.moment_of(deadline),
            (State::Pending, None) => {
                (self.clock.moment()).plus(account.settings().policy.timeout + SUBMIT_SLACK)
            }
            (_, None) => self.clock.moment(),
        };
        self.deadlines.at(time, purchase.id);
    }

    /// This process as the one that settles what an account's purchases need: it owns the account, or it
    /// keeps house and nobody has the account.
    pub(super) fn owner_of(&self, account: &AccountName) -> Option<Tenure> {
        match self.accounts.get(account) {
            Some(_) => self.tenures.of(account),
            None => self.tenures.of_housekeeping(),
        }
    }

    /// Takes up a purchase of an earlier process, or of an earlier owner.
    pub(super) fn recovered(&self, record: &Record) {
        if self.owner_of(&record.purchase.account).is_none() {
            return;
        }
        let status = &record.purchase.status;
        // The account may lead elsewhere by now, so that a repeat that was wanted is wanted no more.
        let is_lost = || {
            let remedy = Remedy::Nobody;
            !is_settled(status)
                && matches!(self.phase(record), SubmitPhase::Unclear { remedy: now, .. } if now == remedy)
        };
        if record.attempt.is_some() || status.buyer_action.is_some() || is_lost() {
            self.deadlines.at(self.clock.moment(), record.purchase.id);
        }
        self.consider(&record.purchase);
    }

    pub(super) async fn settle_forever(self: &Arc<Self>) {
        let permits = Arc::new(tokio::sync::Semaphore::new(SETTLING_MAX));
        while !self.deadlines.is_closed() {
            self.progress.round().await;
            let now = self.clock.moment();
            let next = match self.deadlines.take(now) {
                Ok(purchase) => {
                    let permit = Arc::clone(&permits).acquire_owned();
                    // Settlements under way wait for disks and providers.
                    let Ok(permit) = self.progress.across(permit).await else {
                        return;
                    };
                    let settling = Settling {
                        inner: Arc::clone(self),
                        purchase,
                    };
                    self.tasks.spawn(async move {
                        let inner = &settling.inner;
                        let again = match inner.settle(purchase).await {
                            Ok(again) => again,
                            Err(_) => Some(inner.clock.moment().plus(RETRY_AFTER)),
                        };
                        if let Some(time) = again {
                            inner.deadlines.at(time, purchase);
                        }
                        drop((settling, permit));
                    });
                    continue;
                }
                Err(next) => next,
            };
            let wait = next.map_or(Duration::from_secs(3_600), |next| next.since(now));
            tokio::select! {
                // The same seed is the same run.
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.deadlines.sooner() => {}
                () = self.progress.asked() => {}
            }
        }
    }

    /// Takes the step that is due for a purchase, and says when to look again.
    async fn settle(
        self: &Arc<Self>,
        purchase: PurchaseId,
    ) -> Result<Option<Moment>, JournalError> {
        let Some(record) = self.journal.record(purchase).await? else {
            return Ok(None);
        };
        // Whoever owns the account by now has the deadline as well.
        let Some(tenure) = self.owner_of(&record.purchase.account) else {
            return Ok(None);
        };
        let tenure = &tenure;
        let forgets = self.forget_buyer_action(&record).await?;
        let Some(account) = self.accounts.get(&record.purchase.account) else {
            return Ok(forgets);
        };
        let Now { wall: now, moment } = self.clock.both();
        if self.is_ahead(&account, &record, now) {
            self.undate(&record).await?;
            return Ok(Some(moment));
        }
        match self.phase(&record) {
            SubmitPhase::Settled => Ok(forgets),
            // This process may have begun a step that no record tells yet.
            _ if self.attempts.has(purchase) => Ok(Some(moment.plus(SUBMIT_SLACK))),
            SubmitPhase::Sent { until }
            | SubmitPhase::Waiting { until }
            | SubmitPhase::Unclear {
                under_way_until: Some(until),
                ..
            } => Ok(Some(self.clock.moment_of(until))),
            SubmitPhase::Overdue => {
                let remedy = Remedy::of(&record, &self.circumstances(&record), now);
                self.tell_unclear(tenure, &record, remedy, now).await
            }
            SubmitPhase::NeverSent => self.never_sent(tenure, &record).await,
            SubmitPhase::Unclear {
                remedy: Remedy::LookUp { .. },
                under_way_until: None,
            } => {
                let Some(_looking) = self.look_ups.begin(&account.name) else {
                    return Ok(Some(moment.plus(RETRY_AFTER)));
                };
                tokio::select! {
                    // The same seed is the same run.
                    biased;
                    // The next process can look it up as well.
                    () = self.stopping.cancelled() => Ok(None),
                    again = self.look_up(&account, tenure, &record) => again,
                }
            }
            // A process died between two of its own repeats: now a caller has to. Later the right to
            // repeat ends, and a person has to look.
            SubmitPhase::Unclear {
                remedy: Remedy::Repeat { until },
                under_way_until: None,
            } => {
                self.tell_unclear(tenure, &record, Remedy::Repeat { until }, now)
                    .await?;
                Ok(Some(self.clock.moment_of(until)))
            }
            SubmitPhase::Unclear {
                remedy: Remedy::Nobody,
                under_way_until: None,
            } => {
                // An attention that says that it was accepted without a name says more.
                if record.purchase.status.attention_reason() != Some(AttentionReason::NoReference) {
                    self.tell_unclear(tenure, &record, Remedy::Nobody, now)
                        .await?;
                }
                Ok(forgets)
            }
        }
    }

    /// Commits the remedy for an unclear create as its attention, if that is news.
    async fn tell_unclear(
        &self,
        tenure: &Tenure,
        record: &Record,
        remedy: Remedy,
        now: Timestamp,
    ) -> Result<Option<Moment>, JournalError> {
        let (reason, deadline) = remedy.attention();
        self.step(tenure, record, |record| {
            let status = &record.purchase.status;
            lifecycle::unclear(status, reason, deadline, Cause::Deadline, now)
        })
        .await
    }

    /// Ends an order that was never sent, once a repeat was waited for as long as was said: a wall
    /// clock that is set forth makes no day.
    async fn never_sent(
        &self,
        tenure: &Tenure,
        record: &Record,
    ) -> Result<Option<Moment>, JournalError> {
        let Now { wall, moment } = self.clock.both();
        let waits_until = self.waits_until(record);
        if moment < waits_until {
            return Ok(Some(waits_until));
        }
        self.step(tenure, record, |record| {
            lifecycle::never_sent(&record.purchase.status, wall)
        })
        .await
    }

    /// The end of the wait that a record's status tells, by the slow clock.
    fn waits_until(&self, record: &Record) -> Moment {
        let status = &record.purchase.status;
        // The record's own stamp is no earlier than the slow clock, whatever the wall clock said.
        let told = status.observe_time.max(record.change_time);
        let told = self.clock.past_moment_of(told);
        let deadline = (status.attention.as_ref()).and_then(|attention| attention.deadline_time);
        told.plus(deadline.map_or(Duration::ZERO, |deadline| {
            deadline.since(status.observe_time)
        }))
    }

    /// Commits a step that ends the attempt, if the record is still so; what follows is considered by the
    /// observer.
    async fn step(
        &self,
        tenure: &Tenure,
        record: &Record,
        decide: impl Fn(&Record) -> Option<crate::purchase::Transition> + Send + Sync,
    ) -> Result<Option<Moment>, JournalError> {
        let before = record.expected();
        // A late answer, or a repeat, may have come in between: then this deadline has nothing to say.
        let decide = |newer: &Record| {
            let is_same = newer.expected() == before;
            is_same.then(|| decide(newer)).flatten().map(Step::ending)
        };
        let fence = Some(tenure.fence());
        match journal::decide(&*self.journal, record.clone(), fence, decide).await? {
            // A repeat can begin without a revision, which no observer hears of.
            Decided::Unchanged(newer) if newer.expected() != before => {
                Ok(Some(self.clock.moment()))
            }
            Decided::Fenced(_) => {
                tenure.lose();
                Ok(None)
            }
            Decided::Stepped(_) | Decided::Unchanged(_) | Decided::ReferenceTaken(_) => Ok(None),
        }
    }

    /// Wipes a buyer action whose time has passed, or says when it will.
    async fn forget_buyer_action(&self, record: &Record) -> Result<Option<Moment>, JournalError> {
        let status = &record.purchase.status;
        let action = status.buyer_action.as_ref();
        let Some(time) = action.and_then(crate::purchase::BuyerAction::expire_time) else {
            return Ok(None);
        };
        if self.clock.now() < time {
            return Ok(Some(self.clock.moment_of(time)));
        }
        let wipe = Write::WipeBuyerActions {
            purchase: record.purchase.id,
            through: status.revision,
        };
        self.journal.write(wipe).await?;
        Ok(None)
    }
}

/// A settlement under way. If it panics it is tried again: else its purchase would wait for the next
/// process.
struct Settling {
    inner: Arc<Inner>,
    purchase: PurchaseId,
}

impl Drop for Settling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let time = self.inner.clock.moment().plus(AFTER_PANIC);
            self.inner.deadlines.at(time, self.purchase);
        }
    }
}
