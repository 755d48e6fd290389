//! C3: what a provider has accepted, in whatever way its answer is damaged.

use super::*;

const UNNAMED: &str = "OUTCOME_UNKNOWN!NO_REFERENCE";

#[tokio::test(start_paused = true)]
async fn c3_what_a_provider_accepted_is_never_told_as_refused() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        *world.wire.pause.lock().unwrap() = seconds(2);
        // Under both keys the provider names the same purchase.
        let other = world.order_of("shop", "other", orders::order(provider));
        let (slow, other) = tokio::join!(world.create(), async {
            world.pass(seconds(1)).await;
            *world.wire.pause.lock().unwrap() = Duration::ZERO;
            world.intake.create(other).await
        });
        let (slow, other) = (slow.unwrap(), other.unwrap());
        assert_eq!(words(&slow.purchase.status), UNNAMED, "{provider}");
        assert!(other.purchase.status.reference.is_some(), "{provider}");
        assert!(!slow.replayed && !other.replayed, "{provider}");
        world.pass(seconds(7_200)).await;
        assert_eq!(words(&world.status().await), UNNAMED, "{provider}");
        let again = world.create().await;
        assert_eq!(kind(&again), "created", "{provider}");
    }
}

/// The provider itself has refused a second create of the order.
#[tokio::test(start_paused = true)]
async fn c3_a_conflict_that_names_what_another_key_tracks_is_a_refusal() {
    let world = World::open("masumi").await;
    let other = world.order_of("shop", "other", orders::order("masumi"));
    world.intake.create(other).await.unwrap();
    let conflict = json!({
        "status": "error",
        "error": { "message": "exists" },
        "id": "row",
        "object": orders::masumi_row(orders::HASH),
    });
    world.wire.answer_creates([Reply::Json(409, conflict)]);
    assert_eq!(kind(&world.create().await), "rejected");
    assert_eq!(words(&world.status().await), "FAILED FINAL");
}

#[tokio::test(start_paused = true)]
async fn an_unread_answer_to_a_create_is_counted() {
    let table = [
        (Reply::Text(200, "<html>ok</html>"), 1),
        (Reply::Text(404, "nothing here"), 1),
        (Reply::Json(500, json!({})), 0),
        (Reply::Lost, 0),
    ];
    for provider in PROVIDERS {
        for (reply, expected) in &table {
            let world = World::open(provider).await;
            world.wire.answer_creates([reply.clone()]);
            world.create().await.unwrap();
            let unreadable = world.account.snapshot().figures.unreadable;
            assert_eq!(unreadable, *expected, "{provider}: {reply:?}");
        }
    }
    let world = World::open("carbon").await;
    let unnamed = json!({ "details": { "charge3denrolled": "Y" } });
    world.wire.answer_creates([Reply::Json(200, unnamed)]);
    world.create().await.unwrap();
    assert_eq!(world.account.snapshot().figures.unreadable, 1);
}
