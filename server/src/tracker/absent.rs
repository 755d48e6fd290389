//! Open purchases of accounts that are not configured here. They say so, unless another replica has the account:
//! its settings may be newer, or older.

use std::{sync::Arc, time::Duration};

use super::{Inner, lock};
use crate::{
    journal::{AttemptChange, JournalError, Record, Write},
    lifecycle,
    purchase::{AccountName, Finality, Purchase},
};

/// The time for which no living replica has had an account, until its purchases say that it is missing. Owners
/// change within less.
const ABSENT_FOR: Duration = Duration::from_secs(10);
/// The interval of looks at owners.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The purchases that are read at a time.
const PAGE: usize = 1_000;

impl Inner {
    /// An open purchase of an account that is not configured here was met: it says so at once; if other
    /// replicas can have the account, once none has had it for a while.
    ///
    /// # Errors
    /// The journal failed to take the word.
    pub(super) async fn met_absent(self: &Arc<Self>, record: &Record) -> Result<(), JournalError> {
        if self.may_be_elsewhere() {
            self.await_owner(&record.purchase.account);
            return Ok(());
        }
        self.account_missing(record).await
    }

    /// A purchase of an account that is not configured here has changed, by a submit that was under way or
    /// at another replica.
    pub(super) fn left(self: &Arc<Self>, purchase: &Purchase) {
        let status = &purchase.status;
        let is_told = lifecycle::account_missing(status, self.clock.now()).is_none();
        if is_told || status.finality == Finality::Final || self.tasks.is_closed() {
            return;
        }
        if self.may_be_elsewhere() {
            self.await_owner(&purchase.account);
            return;
        }
        let (inner, id) = (Arc::clone(self), purchase.id);
        self.tasks.spawn(async move {
            // If the journal fails, the next start tells it.
            if let Ok(Some(record)) = inner.record(id).await {
                let _ = inner.account_missing(&record).await;
            }
        });
    }

    fn may_be_elsewhere(&self) -> bool {
        let exchange = self.exchange.get();
        exchange.is_some_and(|exchange| exchange.is_shared())
    }

    /// Looks after an account in a task of its own, of which each account has one at the most.
    pub(super) fn await_owner(self: &Arc<Self>, account: &AccountName) {
        if self.tasks.is_closed() || !lock(&self.absent).insert(account.clone()) {
            return;
        }
        let (inner, account) = (Arc::clone(self), account.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                // The same seed is the same run.
                biased;
                () = inner.stop.cancelled() => {}
                () = inner.tell_absent(&account) => {}
            }
        });
    }

    async fn tell_absent(&self, account: &AccountName) {
        let mut since = self.clock.moment();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let is_here = self.accounts.get(account).is_some();
            let now = self.clock.moment();
            if !is_here && self.tenures.is_elsewhere(account) {
                since = now;
            }
            if !is_here && now.since(since) < ABSENT_FOR {
                continue;
            }
            // Another task looks after changes from now on.
            lock(&self.absent).remove(account);
            if is_here || self.all_missing(account).await.is_ok() {
                return;
            }
            if !lock(&self.absent).insert(account.clone()) {
                return;
            }
        }
    }

    async fn all_missing(&self, account: &AccountName) -> Result<(), JournalError> {
        let mut after = None;
        loop {
            let records = self.journal.open_of(account, after, PAGE).await?;
            let Some(last) = records.last() else {
                return Ok(());
            };
            after = Some(last.purchase.id);
            for record in &records {
                self.account_missing(record).await?;
            }
        }
    }

    /// Commits the word that a purchase's account is not configured, if that is news and this process keeps
    /// house. A purchase that has changed since it was read is met again by its change.
    async fn account_missing(&self, record: &Record) -> Result<(), JournalError> {
        let Some(keeping) = self.tenures.of_housekeeping() else {
            return Ok(());
        };
        let status = &record.purchase.status;
        let Some(transition) = lifecycle::account_missing(status, self.clock.now()) else {
            return Ok(());
        };
        let append = Write::Append {
            purchase: record.purchase.id,
            fence: Some(keeping.fence().clone()),
            transition: Box::new(transition),
            expected: record.expected(),
            attempt: AttemptChange::Keep,
            note: None,
        };
        self.journal.write(append).await.map(drop)
    }
}
