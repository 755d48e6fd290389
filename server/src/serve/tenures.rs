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
    ownership::{Follower, Tenure},
    purchase::PurchaseId,
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
        let mut after: Option<PurchaseId> = None;
        loop {
            let records = match keeps_house {
                true => self.journal.open_records(after, RECOVERED_AT_ONCE).await?,
                false => (self.journal.open_of(name, after, RECOVERED_AT_ONCE)).await?,
            };
            let Some(last) = records.last() else {
                return Ok(());
            };
            after = Some(last.purchase.id);
            for record in records {
                let is_left = || self.accounts.get(&record.purchase.account).is_none();
                if !keeps_house || is_left() {
                    self.recover(&record).await?;
                }
            }
        }
    }

    async fn end(&self, tenure: &Tenure) {
        self.exchange.disown(tenure.account());
        self.tracker.end(tenure.account()).await;
    }
}

impl Work {
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
