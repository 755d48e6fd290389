//! `existing`: a purchase that the provider has already.

use super::*;

impl World {
    async fn adopt_as(&self, caller: &str, key: &str) -> Result<Created, CreateError> {
        let order = Order::Existing(orders::reference(self.provider));
        self.intake.create(self.order_of(caller, key, order)).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_adoption_reads_once_and_commits_two_revisions_together() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        let (store, seen) = (world.journal.reopened(), Arc::new(Mutex::new(0)));
        let looks = Arc::clone(&seen);
        *world.wire.arrived.lock().unwrap() = Some(Arc::new(move |_| {
            *looks.lock().unwrap() += 1;
            assert_eq!(
                store.head().0,
                0,
                "nothing is written before the first read"
            );
        }));
        world.wire.answer_reads([orders::shown(provider)]);
        let commits = world.journal.commits();
        let adopted = world.adopt_as("shop", "key").await.unwrap();
        assert_eq!(*seen.lock().unwrap(), 1, "{provider}");
        assert!(!adopted.replayed, "{provider}");
        assert_eq!(
            world.journal.commits(),
            commits + 1,
            "{provider}: one commit"
        );
        let history = world.history().await;
        assert_eq!(history.len(), 2, "{provider}");
        assert_eq!(history[0], "PENDING", "{provider}");
        let record = world.record().await;
        assert_eq!((record.attempt, record.first_send_time), (None, None));
        assert!(record.purchase.status.reference.is_some(), "{provider}");
        assert_eq!((world.wire.creates(), world.wire.reads()), (0, 1));

        let again = world.adopt_as("shop", "key").await.unwrap();
        assert!(again.replayed, "{provider}");
        let other_key = world.adopt_as("shop", "other").await.unwrap();
        assert!(other_key.replayed, "{provider}");
        assert_eq!(other_key.purchase, adopted.purchase, "{provider}");
        let foreign = world.adopt_as("market", "key").await;
        assert_eq!(kind(&foreign), "reference taken", "{provider}");
        assert_eq!(
            world.wire.reads(),
            1,
            "{provider}: what is known is not asked"
        );
        let reused = world.create().await;
        assert_eq!(kind(&reused), "key reused", "{provider}");
    }
}

/// A second key of a purchase that is tracked already, 300 days after the first.
#[tokio::test(start_paused = true)]
async fn c2_a_second_key_for_a_tracked_reference_names_its_purchase_for_400_days() {
    const DAY: u64 = 86_400;
    let retire = async |world: &World| {
        let now = world.clock.now();
        let (finals, remnants) = (now.minus(seconds(90 * DAY)), now.minus(seconds(400 * DAY)));
        testing::retire(&*world.journal, finals, remnants, 10)
            .await
            .unwrap()
    };
    let by_key = async |world: &World, key: &str| {
        let caller = CallerName::new("shop");
        let record = world.journal.record_by_key(&caller, key).await.unwrap();
        record.map(|record| record.purchase.id)
    };
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_reads([orders::shown(provider)]);
        let first = world.adopt_as("shop", "first").await.unwrap().purchase;
        world.pass(seconds(300 * DAY)).await;
        for _ in 0..2 {
            let second = world.adopt_as("shop", "second").await.unwrap();
            assert!(second.replayed, "{provider}");
            assert_eq!(second.purchase.id, first.id, "{provider}");
        }
        assert_eq!(by_key(&world, "second").await, Some(first.id), "{provider}");
        // Another order under the second key is another order.
        let other = world.order_of("shop", "second", orders::order(provider));
        let reused = world.intake.create(other).await;
        let Err(CreateError::KeyReused { purchase, .. }) = reused else {
            panic!("{provider}: {reused:?}");
        };
        assert_eq!(purchase, first.id, "{provider}");
        assert_eq!(world.wire.creates(), 0, "{provider}");

        let newest = world.journal.record(first.id).await.unwrap().unwrap();
        let revision = newest.purchase.status.revision;
        let stop = Resolution::StopTracking("done".to_owned());
        let stopped = world.intake.resolve(first.id, revision, stop).await;
        stopped.unwrap();
        let world = world.killed().await;
        world.pass(seconds(91 * DAY)).await;
        assert!(retire(&world).await > 0, "{provider}: a remnant");
        // 401 days after the first key.
        world.pass(seconds(10 * DAY)).await;
        assert_eq!(retire(&world).await, 0, "{provider}");
        let late = world.adopt_as("shop", "second").await.unwrap();
        assert!(late.replayed, "{provider}");
        assert_eq!(late.purchase.id, first.id, "{provider}");
        world.pass(seconds(300 * DAY)).await;
        assert_eq!(retire(&world).await, 1, "{provider}");
        assert_eq!(by_key(&world, "second").await, None, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_adoption_without_a_readable_answer_writes_nothing_and_its_key_may_be_used_again() {
    for provider in PROVIDERS {
        let missing = match provider {
            // Its only errors are about the request or end the purchase.
            "phygitals" => (orders::missing(provider), "unreachable"),
            "inabit" => {
                let body = json!({ "error": { "message": "not found" } });
                (Reply::Json(404, body), "reference unknown")
            }
            "masumi" | "carbon" | "devdraft" => (orders::missing(provider), "reference unknown"),
            _ => orders::without_sample(provider),
        };
        let table = [
            missing,
            (Reply::NotConnected, "unreachable"),
            (Reply::Lost, "unreachable"),
            (Reply::Text(200, "<html>"), "unreachable"),
            (Reply::Json(500, json!({})), "unreachable"),
            (Reply::Json(401, json!({})), "unauthorized"),
            (Reply::Throttle(30), "throttled"),
        ];
        for (reply, word) in table {
            let case = format!("{provider}: {reply:?}");
            let world = World::open(provider).await;
            world.wire.answer_reads([reply, orders::shown(provider)]);
            let failed = world.adopt_as("shop", "key").await;
            let (kind, named, _) = failure(&failed);
            assert_eq!((kind, named), (word, false), "{case}");
            assert!(world.known().await.is_none(), "{case}");
            world.pass(seconds(61)).await;
            let adopted = world.adopt_as("shop", "key").await.unwrap();
            assert!(!adopted.replayed, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_adoptions_of_one_reference_one_is_new() {
    let world = World::open("devdraft").await;
    world.wire.answer_reads(vec![orders::shown("devdraft"); 2]);
    let (left, right) = tokio::join!(
        world.adopt_as("shop", "left"),
        world.adopt_as("shop", "right")
    );
    let (left, right) = (left.unwrap(), right.unwrap());
    assert_eq!(left.purchase.id, right.purchase.id);
    assert_ne!(left.replayed, right.replayed);
}

#[tokio::test(start_paused = true)]
async fn an_adoption_without_budget_asks_nobody() {
    let world = World::limited("devdraft", |policy| policy.requests_per_minute = 1).await;
    world.exhaust().await;
    let failed = world.adopt_as("shop", "key").await;
    assert_eq!(kind(&failed), "throttled");
    assert_eq!(world.wire.reads(), 0);
    assert!(world.known().await.is_none());
}
