//! A caller's limit of open purchases.

use super::*;

/// A create of a caller that may have two open purchases.
async fn create(world: &World, caller: &str, key: &str) -> &'static str {
    let new = NewPurchase {
        open_purchases: 2,
        ..world.order_of(caller, key, orders::order("carbon"))
    };
    let (word, ..) = failure(&world.intake.create(new).await);
    word
}

#[tokio::test(start_paused = true)]
async fn a_caller_has_no_more_open_purchases_than_it_may_have() {
    let world = World::open("carbon").await;
    world.intake.count_open_purchases();
    *world.wire.pause.lock().unwrap() = seconds(1);
    // Of three at once two are begun, and the third leaves no trace.
    let (one, two, three) = tokio::join!(
        create(&world, "shop", "one"),
        create(&world, "shop", "two"),
        create(&world, "shop", "three"),
    );
    assert_eq!((one, two, three), ("created", "created", "too many open"));
    assert_eq!(world.wire.creates(), 2);
    assert_eq!(create(&world, "shop", "one").await, "created", "a repeat");
    assert_eq!(create(&world, "other", "one").await, "created");
    // An order that is refused gives its place back at once.
    world.wire.answer_creates([orders::refused("carbon")]);
    assert_eq!(create(&world, "other", "two").await, "rejected");
    assert_eq!(create(&world, "other", "three").await, "created");
    assert_eq!(create(&world, "other", "four").await, "too many open");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_writes_nothing_takes_no_place() {
    let world = World::open("carbon").await;
    world.intake.count_open_purchases();
    world.journal.fail_writes(true);
    for key in ["one", "two", "three"] {
        assert_eq!(create(&world, "shop", key).await, "journal");
    }
    world.journal.fail_writes(false);
    assert_eq!(create(&world, "shop", "one").await, "created");
}
