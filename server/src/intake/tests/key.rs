//! C2: one key, one purchase.

use futures_util::future::join_all;

use super::*;

const DUPLICATES: usize = 1_000;

#[tokio::test(start_paused = true)]
async fn c2_of_a_thousand_concurrent_duplicates_one_creates_and_all_learn_the_same() {
    for provider in PROVIDERS {
        // A budget for one create and little more: duplicates must not spend it.
        let world = World::limited(provider, |policy| policy.requests_per_minute = 20).await;
        *world.wire.pause.lock().unwrap() = seconds(1);
        let all = join_all((0..DUPLICATES).map(|_| world.create())).await;
        let all: Vec<Created> = all.into_iter().collect::<Result<_, _>>().unwrap();
        let first = all.iter().filter(|created| !created.replayed).count();
        assert_eq!(first, 1, "{provider}: exactly one is not replayed");
        assert!(all.iter().all(|one| one.purchase == all[0].purchase));
        assert_eq!(world.wire.creates(), 1, "{provider}");
        let spent = world.account.snapshot().requests_last_minute;
        assert_eq!(spent, 1, "{provider}: duplicates spend no budget");
    }
}

#[tokio::test(start_paused = true)]
async fn c2_of_a_thousand_concurrent_repeats_of_what_was_not_sent_one_sends() {
    let world = World::limited("phygitals", |policy| policy.requests_per_minute = 20).await;
    world.wire.answer_creates([Reply::NotConnected]);
    world.create().await.unwrap_err();
    *world.wire.pause.lock().unwrap() = seconds(1);
    world.pass(seconds(60)).await;
    let all = join_all((0..DUPLICATES).map(|_| world.create())).await;
    let all: Vec<Created> = all.into_iter().collect::<Result<_, _>>().unwrap();
    assert!(all.iter().all(|one| one.purchase == all[0].purchase));
    let first = all.iter().filter(|created| !created.replayed).count();
    assert_eq!(first, 1, "the one that sent hears that it is new");
    assert_eq!(world.wire.creates(), 2);
    let spent = world.account.snapshot().requests_last_minute;
    assert_eq!(spent, 1, "those who join spend no budget");
}

#[tokio::test(start_paused = true)]
async fn c2_another_order_is_refused_with_the_names_of_the_fields_that_differ() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        let first = world.create().await.unwrap().purchase.id;
        let (order, field) = orders::other(provider);
        let reused = world.intake.create(world.order_of("shop", "key", order));
        let Err(CreateError::KeyReused { purchase, fields }) = reused.await else {
            panic!("{provider}: another order was taken");
        };
        assert_eq!((purchase, fields), (first, vec![field.to_owned()]));
        assert_eq!(world.wire.creates(), 1, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c2_another_order_is_refused_while_the_first_is_in_flight() {
    let world = World::open("carbon").await;
    *world.wire.pause.lock().unwrap() = seconds(5);
    let (order, _) = orders::other("carbon");
    let (first, second) = tokio::join!(
        world.create(),
        world.intake.create(world.order_of("shop", "key", order)),
    );
    assert_eq!((kind(&first), kind(&second)), ("created", "key reused"));
    assert_eq!(world.wire.creates(), 1);
}

#[tokio::test(start_paused = true)]
async fn c2_labels_are_no_part_of_the_order_and_keys_belong_to_their_caller() {
    let world = World::open("phygitals").await;
    world.wire.answer_creates([
        orders::accepted("phygitals"),
        Reply::Json(
            200,
            json!({ "result": { "session_id": "s-2", "nfts": [] } }),
        ),
    ]);
    let first = world.create().await.unwrap();
    let mut labelled = world.order();
    labelled.labels.insert("team".to_owned(), "a".to_owned());
    let again = world.intake.create(labelled).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.purchase, first.purchase);
    let order = orders::order("phygitals");
    let other = world.order_of("market", "key", order);
    let other = world.intake.create(other).await.unwrap();
    assert!(!other.replayed, "another caller's key is another key");
    assert_ne!(other.purchase.id, first.purchase.id);
    assert_eq!(world.wire.creates(), 2);
}

#[tokio::test(start_paused = true)]
async fn c2_a_repeat_answers_the_same_after_final_after_a_crash_and_400_days_later() {
    let world = World::open("devdraft").await;
    let canceled = json!({ "id": "txn_1", "status": "CANCELED" });
    world.wire.answer_creates([Reply::Json(200, canceled)]);
    let first = world.create().await.unwrap().purchase;
    assert_eq!(words(&first.status), "CANCELED FINAL");
    let again = world.create().await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.purchase, first);

    let world = world.killed().await;
    world.pass(seconds(399 * 86_400)).await;
    let now = world.clock.now();
    let retired = testing::retire(
        &*world.journal,
        now.minus(seconds(90 * 86_400)),
        now.minus(seconds(400 * 86_400)),
        10,
    )
    .await;
    assert!(retired.unwrap() > 0, "the purchase is a remnant");
    assert!(world.journal.record(first.id).await.unwrap().is_none());
    let late = world.create().await.unwrap();
    assert!(late.replayed);
    assert_eq!(late.purchase.id, first.id);
    assert_eq!(words(&late.purchase.status), "CANCELED FINAL");
    let (order, field) = orders::other("devdraft");
    let reused = world.intake.create(world.order_of("shop", "key", order));
    match reused.await {
        Err(CreateError::KeyReused { fields, .. }) => assert_eq!(fields, [field]),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.wire.creates(), 1);
}

#[tokio::test(start_paused = true)]
async fn c2_a_duplicate_joins_an_attempt_of_another_process() {
    let world = World::open("masumi").await;
    world.wire.answer_creates([Reply::Silence]);
    let _ = tokio::time::timeout(seconds(1), world.create()).await;
    let world = world.killed().await;
    let began = world.clock.now();
    // The attempt of the dead process ends by its time alone; then a repeat is safe at Masumi.
    let joined = world.create().await.unwrap();
    assert!(joined.replayed);
    let waited = world.clock.now().since(began);
    assert!(waited >= seconds(18) && waited < seconds(25), "{waited:?}");
    assert_eq!(words(&joined.purchase.status), "CREATED");
    assert_eq!(world.wire.creates(), 2);
}

#[tokio::test(start_paused = true)]
async fn c2_who_waits_is_not_failed_by_another_callers_hanging_up() {
    let world = World::limited("devdraft", |policy| policy.creates_per_minute = 60).await;
    world.exhaust().await;
    let mut first = Box::pin(world.create());
    assert!(futures_util::poll!(&mut first).is_pending());
    let second = world.create();
    tokio::pin!(second);
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(first);
    let created = second.await.unwrap();
    assert!(!created.replayed, "it creates in the other's place");
    assert_eq!(world.wire.creates(), 1);
}
