//! Polls under tenures: they begin with one, end with it, and are refused under a passed one.

use tokio::time::Instant;

use super::*;
use crate::{
    journal::{Fence, Ownership as _, Position, memory::MemoryOwnership},
    purchase::Moment,
};

fn main() -> AccountName {
    AccountName::new("main")
}

/// A tenure that nobody ends but the test.
fn endless(fence: Fence) -> Tenure {
    Tenure::new(fence, Moment::from_millis(i64::MAX))
}

impl World {
    /// The account is owned from now on, and taken up as after a take.
    async fn owned(&mut self, tenure: &Tenure) {
        let account = self.accounts.get(&main()).unwrap();
        for one in self.tracker.begin(&account, tenure) {
            self.work.spawn(async move { one.run().await });
        }
        for record in self.journal.open_of(&main(), None, 100).await.unwrap() {
            self.tracker.recover(&record).await.unwrap();
        }
    }

    /// The tracker's knowledge of a purchase.
    fn known(&self, id: PurchaseId) -> Option<(Revision, Finality)> {
        let lane = self.tracker.0.lanes.get(&main())?;
        lane.with(id, |entry| (entry.revision, entry.finality))
    }
}

#[tokio::test(start_paused = true)]
async fn p1_purchases_are_polled_under_a_tenure_alone() {
    let (mut world, id) = World::devdraft("AWAITING_FUNDS").await;
    assert!(world.asked_in(seconds(60)).await > 5);
    let before = world.tracker.defects();
    world.tracker.end(&main()).await;
    assert_eq!(world.asked_in(seconds(3_600)).await, 0);
    let purchase = world.purchase(id).await;
    let refreshed = world.tracker.refresh(&purchase).await;
    assert!(matches!(refreshed, Err(Unheard::NotOwned)), "{refreshed:?}");
    assert_eq!(world.tracker.freshness(&purchase), Freshness::default());
    assert_eq!(world.tracker.open_purchases(&main()), 0);
    // It is no missing account: its owner is elsewhere.
    let other = world
        .track(("transaction_id", "txn_2"), State::Created)
        .await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.history(other).await, ["CREATED"]);
    let record = world.journal.record(other).await.unwrap().unwrap();
    world.tracker.recover(&record).await.unwrap();
    assert_eq!(world.history(other).await, ["CREATED"]);
    world.owned(&endless(Fence::alone(main()))).await;
    assert_eq!(world.tracker.open_purchases(&main()), 2);
    assert!(world.asked_in(seconds(600)).await > 5);
    assert_eq!(world.tracker.defects(), before);
}

#[tokio::test(start_paused = true)]
async fn purchases_of_an_account_that_is_gone_say_so_although_its_lane_is_there_still() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(10)).await;
    world.accounts.remove(&main());
    let record = world.journal.record(id).await.unwrap().unwrap();
    world.tracker.recover(&record).await.unwrap();
    let last = world.history(id).await.pop().unwrap();
    assert!(last.contains("!ACCOUNT_MISSING"), "{last}");
}

#[tokio::test(start_paused = true)]
async fn p1_an_end_cuts_what_is_held_and_waits_for_commits_under_way() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(10)).await;
    *world.wire.pause.lock().unwrap() = seconds(10);
    world.wire.say([shows("FUNDS_RECEIVED")]);
    let asked = world.wire.asked();
    while world.wire.asked() == asked {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    world.tracker.end(&main()).await;
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "its answer is not waited for"
    );
    assert_eq!(world.history(id).await, ["CREATED", "AWAITING_PAYMENT"]);

    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(10)).await;
    world.wire.say([shows("FUNDS_RECEIVED")]);
    world.journal.stall_writes(true);
    let asked = world.wire.asked();
    while world.wire.asked() == asked {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    let account = main();
    let ((), ()) = tokio::join!(world.tracker.end(&account), async {
        tokio::time::sleep(seconds(2)).await;
        world.journal.stall_writes(false);
    });
    assert_eq!(began.elapsed(), seconds(2));
    let history = world.history(id).await;
    assert_eq!(history, ["CREATED", "AWAITING_PAYMENT", "PAID"]);
}

#[tokio::test(start_paused = true)]
async fn p1_an_answer_that_comes_after_another_has_taken_the_account_is_refused() {
    let (mut world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(10)).await;
    world.tracker.end(&main()).await;
    let replica = |name| MemoryOwnership::new(&world.journal, &world.clock, name);
    let (first, second) = (replica("first"), replica("second"));
    let fence = first.take(&main(), None).await.unwrap().unwrap();
    let tenure = endless(fence);
    world.owned(&tenure).await;
    tokio::time::sleep(seconds(10)).await;
    world.wire.say([shows("FUNDS_RECEIVED")]);
    *world.wire.pause.lock().unwrap() = seconds(3);
    let asked = world.wire.asked();
    while world.wire.asked() == asked {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let look = second.look(&[]).await.unwrap();
    second
        .take(&main(), look.leases.first())
        .await
        .unwrap()
        .unwrap();
    let head = world.journal.head();
    assert!(!tenure.has_ended());
    tokio::time::sleep(seconds(60)).await;
    assert!(
        head > Position(0) && world.journal.head() == head,
        "nothing is written"
    );
    assert_eq!(world.history(id).await, ["CREATED", "AWAITING_PAYMENT"]);
    assert!(tenure.has_ended(), "the store has said so");
    assert_eq!(world.asked_in(seconds(600)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_heard_twice_or_late_tells_nothing() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(10)).await;
    world.wire.say([shows("PAYMENT_PROCESSED")]);
    tokio::time::sleep(seconds(10)).await;
    let known = world.known(id).unwrap();
    assert_eq!(known, (Revision(3), Finality::Terminal));
    let purchase = world.purchase(id).await;
    let freshness = world.tracker.freshness(&purchase);
    let (all, _) = world.journal.tail(None, Position(0), 10).await.unwrap();
    assert_eq!(all.len(), 3);
    for committed in all.iter().rev() {
        world.tracker.0.committed(committed);
        assert_eq!(world.known(id), Some(known));
    }
    assert_eq!(world.tracker.freshness(&purchase), freshness);
}

#[tokio::test(start_paused = true)]
async fn a_purchase_whose_end_came_before_it_was_taken_up_is_followed_no_more() {
    let (mut world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(10)).await;
    world.tracker.end(&main()).await;
    let page = world.journal.open_of(&main(), None, 100).await.unwrap();
    let status = &page[0].purchase.status;
    let stopped = lifecycle::stopped(status, world.clock.now()).unwrap();
    let append = testing::append(id, stopped);
    world.journal.write(append).await.unwrap();
    world.owned(&endless(Fence::alone(main()))).await;
    assert_eq!(world.known(id), None);
    for record in &page {
        world.tracker.recover(record).await.unwrap();
    }
    assert!(world.known(id).is_some(), "the page was read before");
    assert!(world.asked_in(seconds(600)).await > 0);
    assert_eq!(world.known(id), None);
    assert_eq!(world.asked_in(seconds(3_600)).await, 0);
}
