//! A repeat to which Devdraft answers that it is still at work on the first.

use super::*;

const UNKNOWN: &str = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";
const WANTED: &str = "OUTCOME_UNKNOWN!REPEAT_WANTED";

/// Answers that may mean "not yet" to a repeat.
fn not_yet() -> [Reply; 5] {
    let conflict = json!({ "statusCode": 409, "message": "being processed" });
    [
        Reply::Json(409, conflict),
        Reply::Text(409, ""),
        Reply::Json(425, json!({})),
        Reply::Json(500, json!({ "statusCode": 500, "message": "oops" })),
        Reply::Text(503, "<html>"),
    ]
}

/// A world whose first create's answer was lost, and whose repeats meet so many of these.
async fn lost(reply: &Reply, repeats: usize) -> World {
    let world = World::open("devdraft").await;
    world.wire.answer_creates([Reply::Lost]);
    world.wire.answer_creates(vec![reply.clone(); repeats]);
    let created = world.create().await.unwrap();
    assert_eq!(words(&created.purchase.status), UNKNOWN);
    world
}

#[tokio::test(start_paused = true)]
async fn c3_a_repeat_that_is_answered_not_yet_goes_on_until_it_is_answered() {
    for reply in not_yet() {
        let world = lost(&reply, 9).await;
        world.pass(seconds(400)).await;
        let history = world.history().await;
        assert_eq!(history, ["PENDING", UNKNOWN, "CREATED"], "{reply:?}");
        let sent = world.wire.creates.lock().unwrap().clone();
        let key = |request: &Request| request.headers["idempotency-key"].clone();
        assert_eq!(sent.len(), 11, "{reply:?}");
        assert!(sent.iter().all(|(_, one)| key(one) == key(&sent[0].1)));
        assert_eq!(world.record().await.attempt, None, "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_after_ten_minutes_of_not_yet_a_caller_is_asked_to_repeat() {
    for reply in not_yet() {
        let world = lost(&reply, 100).await;
        world.pass(seconds(590)).await;
        assert_eq!(words(&world.status().await), UNKNOWN, "{reply:?}");
        // A caller who asks meanwhile gets an answer, and sends nothing more.
        let sent = world.wire.creates();
        assert!(world.create().await.unwrap().replayed, "{reply:?}");
        assert_eq!(world.wire.creates(), sent, "{reply:?}");
        world.pass(seconds(110)).await;
        assert_eq!(words(&world.status().await), WANTED, "{reply:?}");
        let sent = world.wire.creates();
        assert!((12..=25).contains(&sent), "{reply:?}: {sent}");
        world.pass(seconds(3_600)).await;
        assert_eq!(world.wire.creates(), sent, "{reply:?}: it has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_a_drain_ends_repeats_that_are_answered_not_yet() {
    let [reply, ..] = not_yet();
    let world = lost(&reply, 100).await;
    world.pass(seconds(200)).await;
    let (began, sent) = (world.clock.now(), world.wire.creates());
    world.intake.drain().await;
    assert_eq!(world.clock.now(), began);
    let world = world.killed().await;
    world.pass(seconds(60)).await;
    assert_eq!(world.wire.creates(), sent);
    assert_eq!(words(&world.status().await), WANTED);
}

#[tokio::test(start_paused = true)]
async fn c3_a_callers_repeat_that_is_answered_not_yet_is_followed_by_own_ones() {
    for reply in not_yet() {
        let world = World::open("devdraft").await;
        world.wire.answer_creates([Reply::Silence]);
        world.wire.answer_creates(vec![reply.clone(); 5]);
        let _ = tokio::time::timeout(seconds(1), world.create()).await;
        let world = world.killed().await;
        world.pass(seconds(60)).await;
        assert_eq!(words(&world.status().await), WANTED, "{reply:?}");
        let again = world.create().await.unwrap();
        assert_eq!(words(&again.purchase.status), UNKNOWN, "{reply:?}");
        assert!(again.replayed, "{reply:?}");
        world.pass(seconds(60)).await;
        assert_eq!(words(&world.status().await), "CREATED", "{reply:?}");
        assert_eq!(world.wire.creates(), 7, "{reply:?}");
    }
}

/// The first send of an order has no earlier one to wait for.
#[tokio::test(start_paused = true)]
async fn c3_a_conflict_with_a_first_send_is_a_refusal() {
    let [reply, ..] = not_yet();
    let world = World::open("devdraft").await;
    world.wire.answer_creates([reply]);
    assert_eq!(kind(&world.create().await), "rejected");
    assert_eq!(words(&world.status().await), "FAILED FINAL");
}
