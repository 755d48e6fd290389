//! C3: a provider accepts an order, and its answer is damaged in many ways.

use tillwatch_proto::v1::{ProviderReference, provider_reference::Reference as Named};

use super::*;
use crate::observation::Submitted;

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

/// The reference of a provider, by another id.
fn named(provider: &str, id: &str) -> ProviderReference {
    let mut reference = orders::reference(provider);
    let place = match reference.reference.as_mut().unwrap() {
        Named::Phygitals(named) => &mut named.session_id,
        Named::Masumi(named) => &mut named.blockchain_identifier,
        Named::Inabit(named) => &mut named.purchase_id,
        Named::Carbon(named) => &mut named.order_id,
        Named::Devdraft(named) => &mut named.transaction_id,
    };
    id.clone_into(place);
    reference
}

/// A world whose create was accepted under an id that is of no known shape.
async fn accepted_as(provider: &'static str, id: &str) -> World {
    let world = World::open(provider).await;
    world.wire.answer_creates([Reply::Silence]);
    let _ = tokio::time::timeout(seconds(1), world.create()).await;
    let world = world.killed().await;
    let send = attempt::Submission {
        set_back: 0,
        account: Arc::clone(&world.account),
        settings: world.account.settings(),
        record: world.record().await,
        placed: (world.account.provider())
            .order(&orders::order(provider))
            .unwrap(),
        repeats: true,
        begun: world.clock.both(),
    };
    let sent = Sent {
        submitted: Submitted::unread_id("the id has another shape", id),
        status: Some(200),
    };
    let settled = world.intake.0.settle_submit(&send, &sent).await;
    settled.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn c3_an_accepted_orders_id_of_an_unknown_shape_is_kept_until_somebody_names_it() {
    for provider in PROVIDERS {
        let world = accepted_as(provider, "ORD(1)").await;
        let fact = |status: &Status| status.facts.get("unread_id").cloned();
        world.pass(seconds(7_200)).await;
        let status = world.status().await;
        assert_eq!(words(&status), UNNAMED, "{provider}");
        assert_eq!(fact(&status).as_deref(), Some("ORD(1)"), "{provider}");
        assert_eq!(world.wire.creates(), 1, "{provider}: nothing is sent again");
        let id = world.record().await.purchase.id;
        let resolution = Resolution::Reference(named(provider, "ORD(1)"));
        let resolved = world.intake.resolve(id, status.revision, resolution).await;
        let status = resolved.unwrap().status;
        let row = provider::registered(provider).unwrap();
        let reference = status.reference.as_ref().unwrap();
        let message = (row.reference_message)(reference);
        assert_eq!(message, named(provider, "ORD(1)"), "{provider}");
        // The service keeps no id that could lead a path elsewhere.
        for id in ["a/b", "..", "a b", ""] {
            let status = accepted_as(provider, id).await.status().await;
            assert_eq!(words(&status), UNNAMED, "{provider}: {id:?}");
            assert_eq!(fact(&status), None, "{provider}: {id:?}");
        }
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
        (Reply::Text(405, "nothing here"), 1),
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
