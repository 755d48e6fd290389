//! The floor under every schedule.

use super::*;
use crate::purchase::Moment;

#[tokio::test(start_paused = true)]
async fn no_timer_reads_a_purchase_within_100_ms_of_its_last_read() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    let lane = world
        .tracker
        .0
        .lanes
        .get(&AccountName::new("main"))
        .unwrap();
    let before = world.wire.asked();
    for _ in 0..2_000 {
        // A time that no arithmetic should give has armed the timer.
        lane.rearm(id, Moment::from_millis(i64::MIN / 2));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asked = world.wire.asked.lock().unwrap();
    assert!(asked.len() - before >= 10, "it is read on");
    for pair in asked.windows(2) {
        let apart = pair[1].since(pair[0]);
        assert!(apart >= Duration::from_millis(100), "{apart:?} apart");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_within_100_ms_of_a_read_gets_that_reads_answer() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(3_600)).await;
    let purchase = world.purchase(id).await;
    world.wire.say([shows("FUNDS_RECEIVED")]);
    world.tracker.refresh(&purchase).await.unwrap();
    let asked = world.wire.asked();
    world.wire.say([shows("PAYMENT_PROCESSED")]);
    tokio::time::sleep(Duration::from_millis(99)).await;
    world.tracker.refresh(&purchase).await.unwrap();
    assert_eq!(world.wire.asked(), asked);
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.tracker.refresh(&purchase).await.unwrap();
    assert_eq!(world.wire.asked(), asked + 1);
    assert_eq!(
        world.history(id).await.last().unwrap(),
        "COMPLETED TERMINAL"
    );
}
