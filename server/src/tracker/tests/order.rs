//! Several answers overlap, or their stamps go back, and one of them holds.

use super::*;
use crate::{
    account::Times,
    lifecycle::Source,
    observation::{Observation, Standing},
    tracker::{entry::NoAnswer, lane::ToDo},
};

/// An answer with a stamp so many seconds after the start.
fn stamped(word: &str, seconds: i64) -> Reply {
    let stamp = Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000).unwrap();
    let body = json!({ "id": "txn_1", "status": word, "updated_at": stamp.to_string() });
    says(200, &body)
}

async fn world(first: Reply) -> (World, PurchaseId) {
    let world = World::open("devdraft", first).await;
    let id = world
        .track(("transaction_id", "txn_1"), State::Created)
        .await;
    tokio::time::sleep(seconds(20)).await;
    (world, id)
}

impl World {
    async fn word(&self, id: PurchaseId) -> String {
        self.history(id).await.last().unwrap().clone()
    }

    async fn held_back_since(&self, id: PurchaseId) -> Option<Timestamp> {
        let freshness = self.tracker.freshness(&self.purchase(id).await);
        freshness.held_back_since_time
    }
}

#[tokio::test(start_paused = true)]
async fn one_stamp_ahead_of_its_time_makes_no_purchase_deaf() {
    // Stamped two hours ahead, and then by the right time for ever.
    let (world, id) = world(stamped("AWAITING_FUNDS", 7_200)).await;
    world.wire.say([stamped("PAYMENT_PROCESSED", 25)]);
    tokio::time::sleep(seconds(50)).await;
    assert_eq!(world.word(id).await, "AWAITING_PAYMENT", "it may lag");
    let since = world.held_back_since(id).await.unwrap();
    assert!(world.clock.now().since(since) > seconds(40));
    assert_eq!(world.tracker.held_back(&AccountName::new("main")), 1);
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(world.word(id).await, "COMPLETED TERMINAL");
    assert_eq!(world.held_back_since(id).await, None);
    assert_eq!(world.tracker.held_back(&AccountName::new("main")), 0);
    // Its stamp is the newest from then on, here and in the store.
    let change = world.purchase(id).await.status.provider_change_time;
    assert_eq!(change, Timestamp::from_millis(1_800_000_025_000).ok());
    let world = world.killed().await;
    world.wire.say([stamped("REFUNDED", 26)]);
    let purchase = world.purchase(id).await;
    world.tracker.refresh(&purchase).await.unwrap();
    assert!(world.word(id).await.starts_with("REFUNDED"));
}

#[tokio::test(start_paused = true)]
async fn an_older_stamp_is_believed_after_a_minute_also_after_a_restart() {
    let (world, id) = world(stamped("PAYMENT_SUBMITTED", 5)).await;
    let world = world.killed().await;
    world.wire.say([stamped("PAYMENT_PROCESSED", 3)]);
    tokio::time::sleep(seconds(75)).await;
    assert_eq!(world.word(id).await, "COMPLETED TERMINAL");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_lags_for_less_than_a_minute_changes_nothing() {
    let (world, id) = world(stamped("FUNDS_RECEIVED", 5)).await;
    for _ in 0..4 {
        world.wire.say([stamped("AWAITING_FUNDS", 3)]);
        tokio::time::sleep(seconds(50)).await;
        // An answer with a newer stamp ends the row of older ones.
        world.wire.say([stamped("FUNDS_RECEIVED", 5)]);
        tokio::time::sleep(seconds(15)).await;
        assert_eq!(world.held_back_since(id).await, None);
    }
    assert_eq!(world.history(id).await, ["CREATED", "PAID"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_is_asked_again_after_a_minute_whatever_the_schedule() {
    // Open and asked daily, since it is stale; ended, and looked at daily; given up.
    for (word, until) in [
        ("AWAITING_FUNDS", days(8)),
        ("PAYMENT_PROCESSED", days(20)),
        ("AWAITING_FUNDS", days(91)),
    ] {
        let (world, id) = world(stamped(word, 5)).await;
        tokio::time::sleep(until).await;
        world.wire.say([stamped("RETURNED", 3)]);
        let asked = world.wire.asked();
        let purchase = world.purchase(id).await;
        world.tracker.refresh(&purchase).await.unwrap();
        assert_eq!(world.wire.asked(), asked + 1);
        assert!(
            world.held_back_since(id).await.is_some(),
            "{word} {until:?}"
        );
        tokio::time::sleep(seconds(62)).await;
        let known = world.word(id).await;
        assert!(known.starts_with("RETURNED"), "{word} {until:?}: {known}");
        assert_eq!(world.wire.asked(), asked + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_last_read_that_is_held_back_ends_nothing() {
    let (world, id) = world(stamped("PAYMENT_PROCESSED", 5)).await;
    tokio::time::sleep(days(29) + seconds(80_000)).await;
    world.wire.say([stamped("REFUND_IN_FLIGHT", 3)]);
    tokio::time::sleep(days(2)).await;
    let word = world.word(id).await;
    assert!(!word.contains("FINAL"), "{word}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_held_back_are_answers() {
    let (world, id) = world(stamped("FUNDS_RECEIVED", 30)).await;
    world.wire.say([stamped("PAYMENT_SUBMITTED", 20)]);
    tokio::time::sleep(seconds(40)).await;
    let freshness = world.tracker.freshness(&world.purchase(id).await);
    let answered = freshness.last_answer_time.unwrap();
    assert!(world.clock.now().since(answered) < seconds(6));
    assert_eq!(freshness.consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn answers_about_one_purchase_are_decided_on_one_after_the_other() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(60)).await;
    let lane = world
        .tracker
        .0
        .lanes
        .get(&AccountName::new("main"))
        .unwrap();
    let paid = Observation::of(
        "FUNDS_RECEIVED",
        Standing::Mapped(State::Paid, Finality::Open),
    );
    let hear = || {
        let now = world.clock.moment();
        let times = Times {
            began: now,
            arrived: now,
        };
        lane.hear(id, &paid, (times, Source::Read), now)
    };
    let ToDo::Commit(fresh) = hear() else {
        panic!("these are news");
    };
    let deciding = lane.deciding(id, fresh);
    assert!(matches!(hear(), ToDo::Wait), "while they are decided on");
    let silence = NoAnswer::Missing {
        began: world.clock.moment(),
    };
    let silent = lane.silent(id, silence, world.clock.moment());
    assert!(matches!(silent, ToDo::Wait), "silence as well");
    drop(deciding);
    let ToDo::Commit(fresh) = hear() else {
        panic!("what was not committed is news again");
    };
    let decided = lane.decided();
    let deciding = lane.deciding(id, fresh);
    deciding.settle(Some(State::Paid), world.clock.moment());
    decided.await;
    assert!(matches!(hear(), ToDo::Say([None, None])), "no news");
}
