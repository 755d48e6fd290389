//! P4: words without a mapping and the deadlines of this service.

use super::*;

#[tokio::test(start_paused = true)]
async fn p4_no_horizon_ends_while_a_word_without_a_mapping_stands() {
    let (world, id) = World::devdraft("PAYMENT_PROCESSED").await;
    tokio::time::sleep(days(29)).await;
    world.wire.say([shows("TELEPORTED")]);
    tokio::time::sleep(days(100)).await;
    let status = world.purchase(id).await.status;
    assert_eq!(
        (status.state, status.finality, status.unmapped),
        (State::Completed, Finality::Terminal, true)
    );
    assert!(world.asked_in(days(3)).await >= 2, "it is polled on");
    // So it is after a restart.
    let world = world.killed().await;
    assert!(world.asked_in(days(40)).await >= 30);
    assert_eq!(world.purchase(id).await.status.finality, Finality::Terminal);
    // A word that is mapped again is a change, and the horizon counts from it.
    world.wire.say([shows("PAYMENT_PROCESSED")]);
    tokio::time::sleep(days(29)).await;
    let status = world.purchase(id).await.status;
    assert_eq!(
        (status.finality, status.unmapped),
        (Finality::Terminal, false)
    );
    tokio::time::sleep(days(3)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "COMPLETED FINAL");
}

#[tokio::test(start_paused = true)]
async fn p4_a_last_read_with_a_word_without_a_mapping_is_no_last_read() {
    let (world, id) = World::devdraft("PAYMENT_PROCESSED").await;
    // Daily looks with a tenth of jitter: the last one before the horizon's end has been.
    tokio::time::sleep(days(29) + seconds(80_000)).await;
    world.wire.say([shows("TELEPORTED")]);
    tokio::time::sleep(days(60)).await;
    let last = "COMPLETED!UNMAPPED_STATUS TERMINAL";
    assert_eq!(world.history(id).await.last().unwrap(), last);
}

#[tokio::test(start_paused = true)]
async fn p4_a_word_without_a_mapping_is_never_given_up() {
    let (world, id) = World::devdraft("TELEPORTED").await;
    tokio::time::sleep(days(120)).await;
    assert!(world.asked_in(days(10)).await >= 9, "it is polled on");
    world.wire.say([shows("FUNDS_RECEIVED")]);
    tokio::time::sleep(days(2)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
}
