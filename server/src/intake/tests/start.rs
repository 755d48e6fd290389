//! Calls that meet before anything of their key is durable, and calls that hang up.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_first_create_reads_its_key_once_and_commits_its_intent_and_its_answer() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        let trips = || (world.journal.reads(), world.journal.commits());
        let (reads, commits) = trips();
        world.create().await.unwrap();
        assert_eq!(trips(), (reads + 1, commits + 2), "{provider}");
        world.create().await.unwrap();
        assert_eq!(trips(), (reads + 2, commits + 2), "{provider}: a repeat");
    }
}

#[tokio::test(start_paused = true)]
async fn c2_repeats_of_a_known_key_meet_and_each_has_its_answer() {
    let world = World::open("carbon").await;
    world.create().await.unwrap();
    let reads = world.journal.reads();
    let all = futures_util::future::join_all((0..100).map(|_| world.create())).await;
    assert!(all.iter().all(|one| one.as_ref().unwrap().replayed));
    assert_eq!(world.journal.reads(), reads + 100);
    assert_eq!(world.wire.creates(), 1);
}

#[tokio::test(start_paused = true)]
async fn c2_who_waits_is_not_failed_by_another_calls_shorter_deadline() {
    let world = World::limited("devdraft", |policy| policy.max_in_flight = 1).await;
    let in_flight = world.account.try_admit(Class::Create).await.unwrap();
    let began = world.clock.now();
    let mut hurried = world.order();
    hurried.deadline = Some(world.clock.moment().plus(Duration::from_millis(700)));
    let ends = async {
        world.pass(Duration::from_millis(1_200)).await;
        in_flight.ends();
    };
    let (first, second, ()) = tokio::join!(world.intake.create(hurried), world.create(), ends);
    assert_eq!(kind(&first), "throttled");
    assert!(!second.unwrap().replayed, "it had two seconds to wait");
    assert!(world.clock.now().since(began) < seconds(2));
    assert_eq!(world.wire.creates(), 1);
}

#[tokio::test(start_paused = true)]
async fn c2_who_waits_is_not_failed_by_another_orders_failure() {
    let world = World::open("devdraft").await;
    *world.wire.read_pause.lock().unwrap() = seconds(1);
    world.wire.answer_reads([orders::missing("devdraft")]);
    let adoption = Order::Existing(orders::reference("devdraft"));
    let adoption = world.order_of("shop", "key", adoption);
    let (first, second) = tokio::join!(world.intake.create(adoption), world.create());
    assert_eq!(kind(&first), "reference unknown");
    // Nothing was written under the key, so it is free for this order.
    assert!(!second.unwrap().replayed);
    assert_eq!(world.wire.creates(), 1);
}

/// A repeat's future is dropped after each number of polls that it can have.
#[tokio::test(start_paused = true)]
async fn c1_a_caller_that_hangs_up_at_any_moment_of_a_repeat_does_not_stop_it() {
    for polls in 0..200 {
        let world = World::open("carbon").await;
        world.wire.answer_creates([Reply::NotConnected]);
        world.create().await.unwrap_err();
        world.pass(seconds(60)).await;
        let finished = world.created_within(polls).await;
        world.pass(seconds(1)).await;
        let word = words(&world.status().await);
        let sent = world.wire.creates() == 2;
        let expected = match sent {
            true => "CREATED",
            false => "PENDING!REPEAT_WANTED",
        };
        assert_eq!(word, expected, "{polls} polls");
        world.create().await.unwrap();
        assert_eq!(world.wire.creates(), 2, "{polls} polls");
        if finished {
            assert!(polls > 3, "each await was cut once");
            return;
        }
    }
    panic!("the repeat never ended");
}

#[tokio::test(start_paused = true)]
async fn c4_a_drain_names_the_purchase_to_who_waits_for_an_earlier_process() {
    let world = World::open("carbon").await;
    world.wire.answer_creates([Reply::Silence]);
    let _ = tokio::time::timeout(seconds(1), world.create()).await;
    let world = world.killed().await;
    let drain = async {
        world.pass(seconds(1)).await;
        world.intake.0.feed.drain();
        world.intake.drain().await;
    };
    let (waited, ()) = tokio::join!(world.create(), drain);
    assert_eq!(failure(&waited), ("draining", true, None));
}
