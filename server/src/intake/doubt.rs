//! Times that were stored by a clock that was ahead, and the rights that they no longer give.
//!
//! Elapsed time ends the right to repeat a create with the provider's key, and after it a repeat can
//! make a second purchase. So a time that may be wrong ends the right at once, and for good: a later
//! look at it could not tell.

use std::{sync::atomic::Ordering, time::Duration};

use http::HeaderValue;

use super::{
    Inner, SUBMIT_SLACK, own_repeat,
    phase::{Circumstances, SubmitPhase, is_settled},
};
use crate::{
    account::{Account, Settings},
    clock::SET_BACK,
    journal::{AttemptChange, JournalError, Record, Write, Written},
    provider::Unclear,
    purchase::{PurchaseId, Timestamp},
};

/// The recovery fact of the origin of an order's sends.
pub(super) const ORIGIN: &str = "origin";
/// Records looked at at once.
const LOOKED_AT: usize = 1_000;
/// The most that a send's end can lie ahead if the account is not configured any more. Ours.
const REACH_MAX: Duration = Duration::from_secs(600);

impl Inner {
    /// The phase of a record's submit now.
    pub(super) fn phase(&self, record: &Record) -> SubmitPhase {
        SubmitPhase::of(record, &self.circumstances(record), self.clock.now())
    }

    /// The circumstances of a record's submit.
    pub(super) fn circumstances(&self, record: &Record) -> Circumstances {
        match self.accounts.get(&record.purchase.account) {
            Some(account) => self.circumstances_by(&account.settings(), record),
            None => self.circumstances_of_none(),
        }
    }

    /// The circumstances of a record's submit, if its account has these settings.
    pub(super) fn circumstances_by(&self, settings: &Settings, record: &Record) -> Circumstances {
        let now = self.origin(&record.fingerprints.key_id, settings);
        Circumstances {
            is_same_origin: record.recovery.get(ORIGIN) == now.as_ref(),
            unclear: settings.provider.unclear(),
            reach: reach(settings),
            in_doubt: self.is_in_doubt(),
        }
    }

    /// The circumstances of an account that is not configured any more: nobody can be asked.
    fn circumstances_of_none(&self) -> Circumstances {
        Circumstances {
            unclear: Unclear::AskNobody,
            is_same_origin: false,
            reach: REACH_MAX,
            in_doubt: self.is_in_doubt(),
        }
    }

    /// The fingerprint of the service, and of the client there, that an order is sent to: a recovery
    /// fact, if a repeat is safe there alone.
    pub(super) fn origin(&self, key_id: &str, settings: &Settings) -> Option<String> {
        let provider = &settings.provider;
        let is_needed = match provider.unclear() {
            Unclear::RepeatWithKey { .. } => true,
            Unclear::LookUp { repeat_is_safe } => repeat_is_safe,
            Unclear::AskNobody => false,
        };
        let client = provider.client().map_or(&[][..], HeaderValue::as_bytes);
        let origin = (self.keyring).origin(key_id, &settings.service, client);
        origin.filter(|_| is_needed).map(hex::encode)
    }

    /// True if the wall clock was set back, and the stored purchases have not been looked through since.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.clock.set_back() != self.looked_through.load(Ordering::SeqCst)
    }

    /// Ends, in the store, each right to repeat that a time allows which may be wrong. Called after
    /// the wall clock was set back, before anything else is sent again.
    ///
    /// # Errors
    /// The journal failed: the rights that are left are not used until this has been called again.
    pub(super) async fn look_through(&self) -> Result<(), JournalError> {
        let set_back = self.clock.set_back();
        let mut after: Option<PurchaseId> = None;
        loop {
            let records = self.journal.open_records(after, LOOKED_AT).await?;
            let Some(last) = records.last() else { break };
            after = Some(last.purchase.id);
            for record in &records {
                if self.is_repeatable(record) {
                    self.undate(record).await?;
                }
                if record.attempt.is_some() || self.is_repeatable(record) {
                    self.deadlines.at(self.clock.moment(), record.purchase.id);
                }
            }
            tokio::task::yield_now().await;
        }
        self.looked_through.store(set_back, Ordering::SeqCst);
        tracing::warn!(
            "the machine's clock was set back by more than half an hour: unclear creates are no \
             longer repeated with the provider's key"
        );
        Ok(())
    }

    /// True if time alone decides that the record's create may be repeated.
    fn is_repeatable(&self, record: &Record) -> bool {
        let account = self.accounts.get(&record.purchase.account);
        record.first_send_time.is_some()
            && !is_settled(&record.purchase.status)
            && account.is_none_or(|account| {
                matches!(account.provider().unclear(), Unclear::RepeatWithKey { .. })
            })
    }

    /// True if the record has a time that this clock cannot have written yet.
    pub(super) fn is_ahead(&self, account: &Account, record: &Record, now: Timestamp) -> bool {
        let reach = reach(&account.settings()) + SET_BACK;
        let until = record.attempt.map(|attempt| attempt.submit_until);
        let Some(first) = record.first_send_time else {
            return false;
        };
        // Once the right is ended, a wrong time does no more harm.
        if first == Timestamp::default() {
            return false;
        }
        self.is_repeatable(record)
            && (first.since(now) > SET_BACK || until.is_some_and(|until| until.since(now) > reach))
    }

    /// Ends the right to repeat a create with the provider's key.
    ///
    /// # Errors
    /// The journal failed, or the record does not hold still. Nothing is changed then.
    pub(super) async fn undate(&self, record: &Record) -> Result<(), JournalError> {
        let mut expected = record.expected();
        loop {
            let change = Write::ChangeAttempt {
                purchase: record.purchase.id,
                expected,
                change: AttemptChange::Undate,
            };
            match self.journal.write(change).await? {
                Written::Stale(Some(newer)) if newer.expected() != expected => {
                    expected = newer.expected();
                }
                _ => return Ok(()),
            }
        }
    }
}

/// The longest that a send can be under way, with the wait for a repeat of its process's own.
fn reach(settings: &Settings) -> Duration {
    let repeats = match settings.provider.unclear() {
        Unclear::RepeatWithKey { .. } => own_repeat::HELD_FOR,
        Unclear::LookUp { .. } | Unclear::AskNobody => Duration::ZERO,
    };
    settings.policy.timeout + SUBMIT_SLACK + repeats
}
