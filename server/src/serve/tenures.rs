//! The work for accounts that this process owns: it begins and ends with their tenures.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    RECOVERED_AT_ONCE,
    loops::{FromWithin, Loops},
};
use crate::{
    account::Accounts,
    exchange::Exchange,
    intake::Intake,
    journal::{Fence, Journal, JournalError, Record},
    ownership::{AccountLimits, Follower, Tenure},
    purchase::{AccountName, PurchaseId},
    tracker::{Loop, Tracker},
};

/// The rooms that work for accounts.
pub(super) struct Work {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) accounts: Accounts,
    pub(super) tracker: Tracker,
    pub(super) intake: Intake,
    pub(super) exchange: Exchange,
    pub(super) loops: FromWithin,
}

#[async_trait]
impl Follower for Work {
    /// Polls begin with the first page of open purchases.
    async fn begin(&self, tenure: &Tenure) -> Result<(), JournalError> {
        let name = tenure.account();
        let keeps_house = *name == Fence::housekeeping();
        if let Some(account) = self.accounts.get(name)
            && let Some(loops) = self.loops.loops()
        {
            begin_loops(&loops, self.tracker.begin(&account, tenure));
        }
        // Callers who wait for another's answer are sent here, where there is a lane by now.
        self.exchange.own(name);
        if keeps_house {
            for left in self.journal.open_accounts().await? {
                if self.accounts.get(&left).is_none() {
                    self.recover_of(&left).await?;
                }
            }
            return Ok(());
        }
        self.recover_of(name).await
    }

    fn others_allow(&self, limits: &AccountLimits) {
        self.accounts.others_allow(limits);
    }

    async fn end(&self, tenure: &Tenure) {
        self.exchange.disown(tenure.account());
        self.tracker.end(tenure.account()).await;
    }
}

impl Work {
    async fn recover_of(&self, account: &AccountName) -> Result<(), JournalError> {
        let mut after: Option<PurchaseId> = None;
        loop {
            let records = (self.journal.open_of(account, after, RECOVERED_AT_ONCE)).await?;
            let Some(last) = records.last() else {
                return Ok(());
            };
            after = Some(last.purchase.id);
            for record in records {
                self.recover(&record).await?;
            }
        }
    }

    async fn recover(&self, record: &Record) -> Result<(), JournalError> {
        self.intake.recover(record);
        self.tracker.recover(record).await
    }
}

/// Begins the loops of an account, which may end with its tenure.
pub(super) fn begin_loops(loops: &Loops, of_account: Vec<Loop>) {
    for one in of_account {
        let progress = one.progress().clone();
        let leave = Some((one.account().clone(), one.may_end().clone()));
        loops.begin_of(&progress, leave, one, |one| async move {
            one.run().await;
        });
    }
}
