//! A defect in the middle of an attempt: nobody waits for ever, and nothing is taken for unsent.

use futures_util::future::join_all;

use super::*;
use crate::purchase::State;

#[tokio::test(start_paused = true)]
async fn c4_an_attempt_that_panics_hangs_nobody_and_is_settled_as_unclear() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        *world.wire.pause.lock().unwrap() = seconds(1);
        world.wire.answer_creates([Reply::Panic]);
        let began = world.clock.now();
        let all = join_all((0..10).map(|_| world.create())).await;
        assert!(all.iter().all(|one| kind(one) == "internal"), "{provider}");
        let waited = world.clock.now().since(began);
        assert_eq!(waited, seconds(1), "{provider}: nobody waits on");
        assert_eq!(world.history().await, ["PENDING"], "{provider}");
        // It may have been sent: a repeat waits for its time to pass, as after a crash.
        let joined = world.create().await.unwrap();
        assert!(joined.replayed, "{provider}");
        let waited = world.clock.now().since(began);
        assert!(waited >= seconds(20), "{provider}: {waited:?}");
        let history = world.history().await;
        let unknown = history[1].starts_with("OUTCOME_UNKNOWN");
        assert!(unknown, "{provider}: {history:?}");
        // A caller who waited repeats if that is safe.
        let (then, sent) = match world.account.provider().unclear() {
            Unclear::LookUp {
                repeat_is_safe: true,
            }
            | Unclear::RepeatWithKey { .. } => ("CREATED", 2),
            Unclear::LookUp {
                repeat_is_safe: false,
            }
            | Unclear::AskNobody => ("OUTCOME_UNKNOWN!OUTCOME_UNKNOWN", 1),
        };
        assert_eq!(words(&joined.purchase.status), then, "{provider}");
        assert_eq!(world.wire.creates(), sent, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c4_a_repeat_that_panics_is_settled_as_unclear() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_creates([Reply::NotConnected]);
        world.create().await.unwrap_err();
        world.pass(seconds(60)).await;
        world.wire.answer_creates([Reply::Panic]);
        assert_eq!(kind(&world.create().await), "internal", "{provider}");
        world.pass(seconds(30)).await;
        let state = world.status().await.state;
        assert_eq!(state, State::OutcomeUnknown, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_an_own_repeat_that_panics_is_left_to_the_caller() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates([Reply::Lost, Reply::Panic]);
    world.create().await.unwrap();
    world.pass(seconds(60)).await;
    let word = "OUTCOME_UNKNOWN!REPEAT_WANTED";
    assert_eq!(words(&world.status().await), word);
    assert_eq!(kind(&world.create().await), "created");
    assert_eq!(words(&world.status().await), "CREATED");
}

#[tokio::test(start_paused = true)]
async fn c3_a_look_up_that_panics_is_tried_again() {
    let world = World::open("masumi").await;
    world.wire.answer_creates([Reply::Lost]);
    world.create().await.unwrap();
    world.wire.answer_reads(vec![Reply::Panic; 3]);
    let row = json!({ "status": "success", "data": orders::masumi_row(orders::HASH) });
    world.wire.answer_reads(vec![Reply::Json(200, row); 10]);
    world.pass(seconds(600)).await;
    assert_eq!(words(&world.status().await), "CREATED");
}

#[tokio::test(start_paused = true)]
async fn an_adoption_that_panics_leaves_its_key_free() {
    let world = World::open("devdraft").await;
    world.wire.answer_reads([Reply::Panic]);
    let intake = world.intake.clone();
    let adoption = |key: &str| {
        let order = Order::Existing(orders::reference("devdraft"));
        world.order_of("shop", key, order)
    };
    let new = adoption("key");
    let first = tokio::spawn(async move { intake.create(new).await });
    assert!(first.await.unwrap_err().is_panic());
    world.wire.answer_reads([orders::shown("devdraft")]);
    let adopted = world.intake.create(adoption("key")).await.unwrap();
    assert!(!adopted.replayed);
}
