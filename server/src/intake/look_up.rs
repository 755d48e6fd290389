//! Looking up an unclear create at a provider that can be asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{Instrument as _, Span, field::Empty};

use super::{
    ADMISSION_WAIT, Inner,
    phase::{Remedy, SubmitPhase, is_settled},
};
use crate::{
    account::{Account, Admission, Class, Settings, Unheard},
    clock::Now,
    journal::{self, Decided, JournalError, Record, Step},
    lifecycle,
    observation::{Observation, Trouble},
    ownership::Tenure,
    purchase::{AccountName, Cause, Moment, PurchaseId, Status},
};

/// Look-ups of one account under way at once, those that wait for its budget included: fewer than
/// settlements, so that one account's trouble leaves room for the others'.
const LOOKING_MAX: usize = 8;
/// The longest that a look-up waits for budget before it makes way for others.
const LOOK_UP_ADMISSION: Duration = Duration::from_secs(30);
/// The wait before an order that another purchase tracks is looked up again.
const TAKEN_AGAIN: Duration = Duration::from_secs(3_600);

/// The part of its age after which an unclear create is looked up again: a create that was not found
/// for long is less and less likely to be found.
const AGE_PART: u32 = 10;
/// The longest between two look-ups until the create is stale, and afterwards.
const EVERY_MAX: Duration = Duration::from_secs(3_600);
const STALE_EVERY: Duration = Duration::from_secs(86_400);

/// The wait after a look-up of a create that has been unclear for `age`: as long as between polls at
/// first, then minutes, hours and, once the create is stale, a day.
fn every(settings: &Settings, status: &Status, age: Duration) -> Duration {
    let own = settings.provider.stale_after(status);
    if age >= settings.policy.stale_after.unwrap_or(own) {
        return STALE_EVERY;
    }
    let first = settings.policy.schedule.every(age);
    first.max((age / AGE_PART).min(EVERY_MAX))
}

impl Inner {
    /// Looks an unclear purchase up, and says when to look again.
    pub(super) async fn look_up(
        self: &Arc<Self>,
        account: &Arc<Account>,
        tenure: &Tenure,
        record: &Record,
    ) -> Result<Option<Moment>, JournalError> {
        let Now { wall, moment: now } = self.clock.both();
        let age = wall.since(record.purchase.status.observe_time);
        let settings = account.settings();
        if age >= settings.policy.give_up_after {
            // Nobody asks any more, unless the clock that says so is set back.
            return Ok(Some(now.plus(STALE_EVERY)));
        }
        let every = every(&settings, &record.purchase.status, age);
        let every = self.clock.jittered(every, 100);
        let deadline = now.plus(LOOK_UP_ADMISSION);
        let admission = match account.admit(Class::LookUp, deadline).await {
            Ok(admission) => admission,
            Err(refusal) => {
                // It has not been asked, so it is soon its turn again.
                let soon = self
                    .clock
                    .jittered(settings.policy.schedule.every(age), 100);
                return Ok(Some(refusal.retry_at().max(now.plus(soon))));
            }
        };
        let looked_up = async {
            let admission = admission.under(tenure);
            match self.ask_about(account, record, admission).await {
                None => Ok(None),
                Some(Ok(Some(observation))) => {
                    self.found(account, tenure, record, &observation).await
                }
                Some(Ok(None) | Err(_)) => Ok(Some(self.clock.moment().plus(every))),
            }
        };
        looked_up.instrument(self.look_up_span(record)).await
    }

    /// The span of one look-up.
    fn look_up_span(&self, record: &Record) -> Span {
        let purchase = &record.purchase;
        let span = tracing::info_span!(
            "look_up",
            tillwatch.account = purchase.account.as_str(),
            tillwatch.provider = &*purchase.provider,
            tillwatch.purchase = %purchase.id,
            tillwatch.outcome = Empty,
        );
        self.creates.link(&span, purchase.id);
        span
    }

    /// Looks an unclear purchase up now, as a caller wishes. Nothing is asked about other purchases, nor
    /// while a submit is under way, nor at a provider that cannot be asked.
    pub(super) async fn look_up_now(self: &Arc<Self>, purchase: PurchaseId) -> Result<(), Unheard> {
        let Some(record) = self.journal.record(purchase).await? else {
            return Ok(());
        };
        let can_be_asked = matches!(
            self.phase(&record),
            SubmitPhase::Unclear {
                remedy: Remedy::LookUp { .. },
                ..
            }
        ) && !self.attempts.has(purchase);
        let account = self.accounts.get(&record.purchase.account);
        let Some(account) = &account.filter(|_| can_be_asked) else {
            return Ok(());
        };
        let tenure = self.tenures.of(&account.name).ok_or(Unheard::NotOwned)?;
        if self.stopping.is_cancelled() {
            return Err(Unheard::Draining);
        }
        let deadline = self.clock.moment().plus(ADMISSION_WAIT);
        let admission = account.admit(Class::Refresh, deadline).await;
        let admission = admission.map_err(Unheard::Refused)?.under(&tenure);
        let looked_up = async {
            match self.ask_about(account, &record, admission).await {
                Some(Ok(Some(observation))) => {
                    self.found(account, &tenure, &record, &observation).await?;
                    Ok(())
                }
                // "Not found" proves nothing, and is an answer.
                Some(Ok(None)) | None => Ok(()),
                Some(Err(trouble)) => Err(account.unheard(trouble)),
            }
        };
        looked_up.instrument(self.look_up_span(&record)).await
    }

    /// Asks the provider; `None` if the record has no fact to ask by.
    async fn ask_about(
        self: &Arc<Self>,
        account: &Arc<Account>,
        record: &Record,
        admission: Admission,
    ) -> Option<Result<Option<Box<Observation>>, Trouble>> {
        let mut admission = admission.about(record.purchase.id);
        let provider = Arc::clone(&admission.settings().provider);
        let request = self.with_intent(&*provider, record, |intent| {
            provider.look_up_request(intent)
        })?;
        let (inner, known) = (Arc::clone(self), record.clone());
        let read = move |answer: &_, now| {
            let said = inner.with_intent(&*provider, &known, |intent| {
                provider.read_look_up(intent, answer, now)
            });
            said.said()
        };
        let said = account.read(&mut admission, request, read).await.said;
        let outcome = match &said {
            Ok(Some(_)) => "found",
            Ok(None) => "not_found",
            Err(trouble) => trouble.word(),
        };
        Span::current().record("tillwatch.outcome", outcome);
        Some(said)
    }

    /// A look-up found the order.
    async fn found(
        &self,
        account: &Account,
        tenure: &Tenure,
        record: &Record,
        observation: &Observation,
    ) -> Result<Option<Moment>, JournalError> {
        let now = self.clock.now();
        let graph = account.provider().graph();
        let decide = |record: &Record| {
            let status = &record.purchase.status;
            if is_settled(status) {
                return None;
            }
            lifecycle::observed(status, observation, graph, Cause::Poll, now).map(Step::ending)
        };
        let (journal, fence) = (&*self.journal, Some(tenure.fence()));
        match journal::decide(journal, record.clone(), fence, decide).await? {
            Decided::Stepped(_) | Decided::Unchanged(_) => Ok(None),
            Decided::Fenced(_) => {
                tenure.lose();
                Err(JournalError::unavailable("another process has the account"))
            }
            // Tracked by another purchase: it is not adopted twice, and a person has to look.
            Decided::ReferenceTaken(_) => Ok(Some(self.clock.moment().plus(TAKEN_AGAIN))),
        }
    }
}

/// The look-ups under way, counted by account: an account whose provider hangs leaves room for the
/// others' settlements.
#[derive(Debug, Default)]
pub(super) struct LookUpCounts(Mutex<HashMap<AccountName, usize>>);

impl LookUpCounts {
    fn lock(&self) -> MutexGuard<'_, HashMap<AccountName, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more look-up of an account; nothing if it has enough under way.
    pub(super) fn begin<'a>(&'a self, account: &'a AccountName) -> Option<LookUpPlace<'a>> {
        let mut looks = self.lock();
        let count = looks.entry(account.clone()).or_default();
        if *count >= LOOKING_MAX {
            return None;
        }
        *count += 1;
        Some(LookUpPlace {
            counts: self,
            account,
        })
    }
}

/// One of the look-ups that an account may have under way.
pub(super) struct LookUpPlace<'a> {
    counts: &'a LookUpCounts,
    account: &'a AccountName,
}

impl Drop for LookUpPlace<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.counts.lock().get_mut(self.account) {
            *count = count.saturating_sub(1);
        }
    }
}
