//! Purchases of accounts that one process has in its settings, and another has not.

use super::{
    elsewhere::{Side, devdraft, side},
    engine::{self, named, record},
    *,
};
use crate::upstream::scripted::Scripted;

impl Side {
    async fn is_told_missing(&self, id: PurchaseId) -> bool {
        let record = self.journal.record(id).await.unwrap().unwrap();
        let attention = record.purchase.status.attention.as_ref();
        attention.is_some_and(|attention| attention.reason == AttentionReason::AccountMissing)
    }

    /// Another living replica owns the account from now on, or none does.
    async fn elsewhere(&self, is_owned: bool, for_seconds: u64) {
        let owned = is_owned.then(devdraft).into_iter().collect();
        self.tenures.are_elsewhere(owned);
        tokio::time::sleep(seconds(for_seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_is_missing_once_no_living_replica_has_had_it_for_ten_seconds() {
    let (store, clock) = (MemoryJournal::new("test"), testing::clock());
    let none = Accounts::new([]);
    let keeper = side(&store, &clock, &none, ("keeper", testing::alone(&none)));
    let mut record = record(1, "devdraft", named("transaction_id", 1), &clock);
    let mut status = Status::clone(&record.purchase.status);
    status.revision = Revision(1);
    record.purchase.status = Arc::new(status);
    let id = record.purchase.id;
    keeper.journal.write(testing::begin(record)).await.unwrap();
    let met = keeper.journal.record(id).await.unwrap().unwrap();
    // Its settings are older than the owner's: an account that is new is no missing one.
    keeper.tenures.are_elsewhere([devdraft()].into());
    keeper.tracker.recover(&met).await.unwrap();
    keeper.elsewhere(true, 60).await;
    // The owner changes.
    keeper.elsewhere(false, 8).await;
    keeper.elsewhere(true, 3).await;
    assert!(!keeper.is_told_missing(id).await);
    // The last one that had it is gone.
    keeper.elsewhere(false, 8).await;
    assert!(!keeper.is_told_missing(id).await);
    keeper.elsewhere(false, 5).await;
    assert!(keeper.is_told_missing(id).await);
    // A configured account is looked after no more.
    let upstream = Arc::new(Scripted::new(|_| async { panic!("nobody asks") }));
    let account = engine::account("devdraft", upstream, &clock, |_| ()).await;
    keeper.tracker.0.await_owner(&devdraft());
    none.insert(devdraft(), account);
    keeper.elsewhere(false, 2).await;
    assert!(lock(&keeper.tracker.0.absent).is_empty());
}
