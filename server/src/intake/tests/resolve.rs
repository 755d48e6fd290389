//! A person settles purchases that nothing else can.

use super::*;

/// A purchase whose create's answer was lost, with its id.
async fn lost(provider: &'static str) -> (World, PurchaseId) {
    let world = World::open(provider).await;
    world.wire.answer_creates([Reply::Lost]);
    let created = world.create().await.unwrap();
    (world, created.purchase.id)
}

fn named(provider: &str) -> Resolution {
    Resolution::Reference(orders::reference(provider))
}

fn not_created() -> Resolution {
    Resolution::NotCreated("seen in their panel".to_owned())
}

fn stop() -> Resolution {
    Resolution::StopTracking("given up".to_owned())
}

#[tokio::test(start_paused = true)]
async fn c3_a_person_settles_what_cannot_be_asked() {
    for provider in ["phygitals", "carbon"] {
        let (world, id) = lost(provider).await;
        let settled = world.intake.resolve(id, Revision(2), named(provider));
        let settled = settled.await.unwrap();
        // The state stays until the provider has answered for it.
        assert_eq!(words(&settled.status), "OUTCOME_UNKNOWN", "{provider}");
        assert!(settled.status.reference.is_some(), "{provider}");

        let (world, id) = lost(provider).await;
        let settled = world.intake.resolve(id, Revision(2), not_created()).await;
        let status = settled.unwrap().status;
        assert_eq!(words(&status), "FAILED FINAL", "{provider}");
        let reason = status.failure.as_ref().unwrap().reason;
        assert_eq!(reason, FailureReason::NotCreated, "{provider}");
        let note = world.record().await.resolution_note;
        assert_eq!(note.as_deref(), Some("seen in their panel"), "{provider}");
        assert!(world.create().await.unwrap().replayed, "{provider}");
        assert_eq!(world.wire.creates(), 1, "{provider}");

        let (world, id) = lost(provider).await;
        let settled = world.intake.resolve(id, Revision(2), stop()).await;
        let word = words(&settled.unwrap().status);
        assert_eq!(
            word, "OUTCOME_UNKNOWN FINAL",
            "{provider}: nobody has to act"
        );
        let log = world.journal.transitions(id, Revision(2), 9).await.unwrap();
        assert_eq!(log[0].cause, Cause::Operator, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolution_rests_on_the_newest_revision() {
    let (world, id) = lost("carbon").await;
    let changed = world.intake.resolve(id, Revision(1), not_created()).await;
    match changed {
        Err(ResolveError::RevisionChanged { newest }) => assert_eq!(newest, Revision(2)),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.history().await.len(), 2);
    let nobody = PurchaseId::from_u128(1);
    let missing = world.intake.resolve(nobody, Revision(1), stop()).await;
    assert!(matches!(missing, Err(ResolveError::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn a_resolution_fits_its_purchase_or_changes_nothing() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        let id = world.create().await.unwrap().purchase.id;
        for resolution in [named(provider), not_created()] {
            let refused = world.intake.resolve(id, Revision(2), resolution).await;
            let refused = matches!(refused, Err(ResolveError::NotResolvable(_)));
            assert!(refused, "{provider}: it has a reference");
        }
        world.intake.resolve(id, Revision(2), stop()).await.unwrap();
        let again = world.intake.resolve(id, Revision(3), stop()).await;
        assert!(matches!(again, Err(ResolveError::NotResolvable(_))));
        assert_eq!(world.history().await.len(), 3, "{provider}");
    }
    // An operator may state that a purchase that waits for a repeat was never created.
    let world = World::open("carbon").await;
    world.wire.answer_creates([Reply::NotConnected]);
    world.create().await.unwrap_err();
    let id = world.record().await.purchase.id;
    let settled = world.intake.resolve(id, Revision(2), not_created()).await;
    assert_eq!(words(&settled.unwrap().status), "FAILED FINAL");
}

#[tokio::test(start_paused = true)]
async fn a_reference_of_another_purchase_is_no_resolution() {
    let world = World::open("carbon").await;
    world
        .wire
        .answer_creates([orders::accepted("carbon"), Reply::Lost]);
    let first = world.order_of("shop", "first", orders::order("carbon"));
    world.intake.create(first).await.unwrap();
    let id = world.create().await.unwrap().purchase.id;
    let taken = world.intake.resolve(id, Revision(2), named("carbon")).await;
    assert!(matches!(taken, Err(ResolveError::ReferenceTaken)));
    assert_eq!(world.history().await.len(), 2);
}

/// A create in flight may be accepted: no decision may make its answer come too late.
#[tokio::test(start_paused = true)]
async fn nothing_is_decided_while_a_submit_or_an_own_repeat_is_in_flight() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates([Reply::Lost]);
    let id = world.create().await.unwrap().purchase.id;
    *world.wire.pause.lock().unwrap() = seconds(5);
    let early = world.intake.resolve(id, Revision(2), not_created()).await;
    assert!(
        matches!(early, Err(ResolveError::NotResolvable(_))),
        "an own repeat is about to be sent: {early:?}"
    );
    world.pass(seconds(2)).await;
    assert_eq!(world.wire.creates(), 2, "an own repeat is in flight");
    let early = world.intake.resolve(id, Revision(2), not_created()).await;
    assert!(
        matches!(early, Err(ResolveError::NotResolvable(_))),
        "{early:?}"
    );
    world.pass(seconds(10)).await;
    assert_eq!(words(&world.status().await), "CREATED");

    let (world, id) = lost("masumi").await;
    *world.wire.pause.lock().unwrap() = seconds(5);
    let decide = async {
        world.pass(seconds(1)).await;
        world.intake.resolve(id, Revision(2), not_created()).await
    };
    let (created, early) = tokio::join!(world.create(), decide);
    assert!(
        matches!(early, Err(ResolveError::NotResolvable(_))),
        "{early:?}"
    );
    assert_eq!(words(&created.unwrap().purchase.status), "CREATED");

    // A send of a process that died may still be on its way until its time has passed.
    let world = World::open("carbon").await;
    world.wire.answer_creates([Reply::Silence]);
    let _ = tokio::time::timeout(seconds(1), world.create()).await;
    let world = world.killed().await;
    let id = world.record().await.purchase.id;
    let early = world.intake.resolve(id, Revision(1), stop()).await;
    assert!(
        matches!(early, Err(ResolveError::NotResolvable(_))),
        "{early:?}"
    );
}
