//! C3 and C4 on a machine whose clock was ahead: no right to send outlives its grounds.

use super::*;

const UNKNOWN: &str = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";
const WANTED: &str = "OUTCOME_UNKNOWN!REPEAT_WANTED";
const HOUR_MS: i64 = 3_600_000;

/// A Devdraft create whose answers were all lost, so that a caller may repeat it, sent by a clock
/// that was ahead by so much.
async fn wanted(ahead_ms: i64) -> World {
    let world = World::open("devdraft").await;
    world.clock.step_wall(ahead_ms);
    world.wire.answer_creates((0..4).map(|_| Reply::Lost));
    world.create().await.unwrap();
    world.pass(seconds(600)).await;
    assert_eq!(words(&world.status().await), WANTED);
    world
}

/// Repeats over two days, by callers, never reach the provider again.
async fn is_never_repeated(world: &World, sent: usize) {
    for _ in 0..48 {
        let known = world.create().await.unwrap();
        assert_eq!(words(&known.purchase.status), UNKNOWN);
        world.pass(seconds(3_600)).await;
    }
    assert_eq!(world.wire.creates(), sent);
}

#[tokio::test(start_paused = true)]
async fn c3_a_clock_that_is_put_right_ends_the_right_to_repeat_with_a_key_in_the_store() {
    let world = wanted(2 * HOUR_MS).await;
    world.clock.step_wall(-2 * HOUR_MS);
    let sent = world.wire.creates();
    // Nor does the service send anything before it has looked through the store.
    let hurried = world.create().await.unwrap();
    assert_eq!(world.wire.creates(), sent, "{hurried:?}");
    world.intake.mind_the_clock().await.unwrap();
    world.pass(seconds(1)).await;
    assert_eq!(words(&world.status().await), UNKNOWN);
    // The next process has no way to see that the clock was set back.
    let mut world = world.killed().await;
    world.clock = world.clock.restarted();
    let world = world.killed().await;
    is_never_repeated(&world, sent).await;
}

#[tokio::test(start_paused = true)]
async fn c3_a_clock_that_is_put_right_while_a_create_is_under_way_leaves_no_right_to_repeat_it() {
    let world = World::open("devdraft").await;
    world.clock.step_wall(2 * HOUR_MS);
    *world.wire.pause.lock().unwrap() = seconds(5);
    world.wire.answer_creates([Reply::Lost]);
    let set_back = async {
        world.pass(seconds(2)).await;
        world.clock.step_wall(-2 * HOUR_MS);
        world.intake.mind_the_clock().await.unwrap();
    };
    let (created, ()) = tokio::join!(world.create(), set_back);
    created.unwrap();
    world.pass(seconds(600)).await;
    assert_eq!(words(&world.status().await), UNKNOWN);
    is_never_repeated(&world, 1).await;
}

#[tokio::test(start_paused = true)]
async fn c3_a_small_step_of_the_clock_leaves_the_right_to_repeat_as_it_was() {
    let world = wanted(20 * 60_000).await;
    world.clock.step_wall(-20 * 60_000);
    world.intake.mind_the_clock().await.unwrap();
    let world = world.killed().await;
    world.pass(seconds(60)).await;
    assert_eq!(words(&world.status().await), WANTED);
    let sent = world.wire.creates();
    world.create().await.unwrap();
    assert_eq!(world.wire.creates(), sent + 1);
}

#[tokio::test(start_paused = true)]
async fn c4_a_create_that_a_crash_cut_while_the_clock_was_ahead_is_unclear_at_once() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.clock.step_wall(24 * HOUR_MS);
        world.wire.answer_creates([Reply::Silence]);
        let _ = tokio::time::timeout(seconds(1), world.create()).await;
        world.clock.step_wall(-24 * HOUR_MS);
        let mut world = world.killed().await;
        world.clock = world.clock.restarted();
        let mut world = world.killed().await;
        world.pass(seconds(1)).await;
        assert_eq!(words(&world.status().await), UNKNOWN, "{provider}");
        if matches!(
            world.account.provider().unclear(),
            Unclear::RepeatWithKey { .. }
        ) {
            // Nor by a process that comes after this one.
            world = world.killed().await;
            is_never_repeated(&world, 1).await;
        }
        let purchase = world.record().await.purchase;
        let never = Resolution::NotCreated("not there".to_owned());
        let resolved = (world.intake)
            .resolve(purchase.id, purchase.status.revision, never)
            .await;
        assert!(resolved.is_ok(), "{provider}: {resolved:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c4_a_send_of_a_clock_that_was_ahead_does_not_stand_in_the_way_of_an_operator() {
    let world = World::open("devdraft").await;
    world.clock.step_wall(24 * HOUR_MS);
    world.wire.answer_creates([Reply::Silence]);
    let _ = tokio::time::timeout(seconds(1), world.create()).await;
    world.clock.step_wall(-24 * HOUR_MS);
    let world = world.killed().await;
    let purchase = world.record().await.purchase;
    let stop = Resolution::StopTracking("by hand".to_owned());
    let resolved = (world.intake)
        .resolve(purchase.id, purchase.status.revision, stop)
        .await;
    assert!(resolved.is_ok(), "{resolved:?}");
}

/// A wall clock that is years behind for a while makes no day when it is put right.
#[tokio::test(start_paused = true)]
async fn c3_an_order_that_was_not_sent_waits_a_day_for_its_repeat_whatever_the_wall_clock_says() {
    const YEARS_MS: i64 = 2 * 365 * 24 * HOUR_MS;
    let world = World::open("inabit").await;
    let now = world.clock.now();
    world.journal.age(now);
    world.clock.ages_by(now);
    world.clock.step_wall(-YEARS_MS);
    world.wire.answer_creates([Reply::NotConnected]);
    world.create().await.unwrap_err();
    let waits = "PENDING!REPEAT_WANTED";
    assert_eq!(words(&world.status().await), waits);
    world.pass(seconds(3_600)).await;
    world.clock.step_wall(YEARS_MS);
    let world = world.killed().await;
    for hours in 1..23 {
        world.pass(seconds(3_600)).await;
        assert_eq!(
            words(&world.status().await),
            waits,
            "after {hours} more hours"
        );
    }
    world.pass(seconds(2 * 3_600)).await;
    assert_eq!(words(&world.status().await), "FAILED FINAL");
    assert_eq!(world.wire.creates(), 1);
}
