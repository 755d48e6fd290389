//! C1 and C5: the intent is durable before anything is sent, and an order's content is never
//! stored.

use super::*;

#[tokio::test(start_paused = true)]
async fn c1_the_intent_is_durable_before_the_provider_is_called() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        let seen: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
        // Another opening of the store has only committed states, as a next process finds them.
        let (store, looks) = (world.journal.reopened(), Arc::clone(&seen));
        *world.wire.arrived.lock().unwrap() = Some(Arc::new(move |_| {
            let caller = CallerName::new("shop");
            let look = store.record_by_key(&caller, "key");
            let record = futures_util::FutureExt::now_or_never(look).unwrap();
            let record = record.unwrap().expect("the intent is durable");
            let words = words(&record.purchase.status);
            looks
                .lock()
                .unwrap()
                .push((words, record.attempt.is_some()));
        }));
        let created = world.create().await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [("PENDING".to_owned(), true)]);
        assert!(!created.replayed);
        let expected = ["PENDING", orders::accepted_state(provider)];
        assert_eq!(world.history().await, expected, "{provider}");
        assert_eq!(created.purchase.status.revision, Revision(2), "{provider}");
        assert!(created.purchase.status.reference.is_some(), "{provider}");
        let record = world.record().await;
        assert_eq!(record.attempt, None, "{provider}: the attempt has ended");
    }
}

/// The caller's future is dropped after each number of polls that it can have.
#[tokio::test(start_paused = true)]
async fn c1_a_caller_that_hangs_up_at_any_moment_does_not_stop_the_call() {
    let mut durable = 0;
    for polls in 0..200 {
        let world = World::open("devdraft").await;
        let finished = world.created_within(polls).await;
        world.pass(seconds(1)).await;
        if let Some(record) = world.known().await {
            durable += 1;
            assert_eq!(words(&record.purchase.status), "CREATED", "{polls} polls");
            assert_eq!(world.wire.creates(), 1, "{polls} polls");
        } else {
            assert_eq!(
                world.wire.creates(),
                0,
                "{polls} polls: sent without intent"
            );
            assert!(!finished);
        }
        // A repeat finds it, or begins it.
        world.create().await.unwrap();
        assert_eq!(world.wire.creates(), 1, "{polls} polls");
        if finished {
            assert!(polls > 3, "each await was cut once");
            assert!(durable > 2, "the call was cut after its commit, too");
            return;
        }
    }
    panic!("the create never ended");
}

#[tokio::test(start_paused = true)]
async fn c1_nothing_is_sent_when_the_intent_cannot_be_committed() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.journal.fail_writes(true);
        let failed = world.create().await;
        assert_eq!(failure(&failed), ("journal", false, None), "{provider}");
        world.journal.fail_writes(false);
        world.pass(seconds(60)).await;
        assert_eq!(world.wire.creates(), 0, "{provider}");
        assert!(world.known().await.is_none(), "{provider}: nothing exists");
        assert!(!world.create().await.unwrap().replayed, "a repeat is new");
        assert_eq!(world.wire.creates(), 1, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c1_nothing_is_sent_while_the_disk_is_silent() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.journal.stall_writes(true);
        let journal = Arc::clone(&world.journal);
        let stalled = tokio::spawn(async move {
            let (key, value) = ("k".to_owned(), "v".to_owned());
            journal
                .write(Write::Put {
                    key,
                    fence: None,
                    value,
                })
                .await
        });
        world.pass(seconds(6)).await;
        let failed = world.create().await;
        assert_eq!(failure(&failed), ("journal", false, None), "{provider}");
        world.journal.stall_writes(false);
        stalled.await.unwrap().unwrap();
        world.pass(seconds(60)).await;
        assert_eq!(world.wire.creates(), 0, "{provider}");
        assert!(!world.create().await.unwrap().replayed, "a repeat is new");
    }
}

/// Creates while the disk is silent for this long.
async fn create_on_a_slow_disk(world: &World, silence: Duration) -> Result<Created, CreateError> {
    world.journal.stall_writes(true);
    let speaks = async {
        world.pass(silence).await;
        world.journal.stall_writes(false);
    };
    let (created, ()) = tokio::join!(world.create(), speaks);
    created
}

#[tokio::test(start_paused = true)]
async fn c1_an_intent_that_took_over_5_s_to_be_kept_is_never_sent() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        let failed = create_on_a_slow_disk(&world, Duration::from_millis(5_100)).await;
        let expected = ("unreachable", true, None);
        assert_eq!(failure(&failed), expected, "{provider}");
        world.pass(seconds(3_600)).await;
        assert_eq!(world.wire.creates(), 0, "{provider}");
        let wanted = ["PENDING", "PENDING!REPEAT_WANTED"];
        assert_eq!(world.history().await, wanted, "{provider}");
        assert_eq!(world.record().await.first_send_time, None, "{provider}");
        // The same before the repeat.
        let failed = create_on_a_slow_disk(&world, Duration::from_millis(5_100)).await;
        assert_eq!(failure(&failed), expected, "{provider}");
        assert_eq!(world.wire.creates(), 0, "{provider}");
        let created = create_on_a_slow_disk(&world, Duration::from_millis(4_900)).await;
        assert!(!created.unwrap().replayed, "{provider}: in time");
        assert_eq!(world.wire.creates(), 1, "{provider}");
    }
}

/// Of both clocks the longer time counts.
#[tokio::test(start_paused = true)]
async fn c1_a_wall_clock_that_steps_lets_no_late_intent_be_sent() {
    for (silence_ms, step_ms, sent) in [
        (5_100, -3_600_000, 0),
        (1_000, 4_200_000, 0),
        (1_000, -3_600_000, 1),
    ] {
        let world = World::open("carbon").await;
        let step = async {
            world.pass(Duration::from_millis(500)).await;
            world.clock.step_wall(step_ms);
        };
        let silence = Duration::from_millis(silence_ms);
        let (created, ()) = tokio::join!(create_on_a_slow_disk(&world, silence), step);
        assert_eq!(created.is_ok(), sent == 1, "{silence_ms} {step_ms}");
        assert_eq!(world.wire.creates(), sent, "{silence_ms} {step_ms}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_a_repeat_whose_commit_took_over_5_s_is_not_sent() {
    let world = World::open("masumi").await;
    world.wire.answer_creates([Reply::Lost]);
    world.create().await.unwrap();
    let failed = create_on_a_slow_disk(&world, seconds(6)).await;
    assert_eq!(kind(&failed), "unreachable");
    assert_eq!(world.wire.creates(), 1);
    let word = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";
    assert_eq!(words(&world.status().await), word);
    assert_eq!(world.record().await.attempt, None);

    // Devdraft's own repeats: the first three commits take too long.
    let world = World::open("devdraft").await;
    world.wire.answer_creates([Reply::Lost]);
    world.create().await.unwrap();
    for _ in 0..3 {
        world.journal.stall_writes(true);
        world.pass(seconds(12)).await;
        world.journal.stall_writes(false);
        tokio::task::yield_now().await;
    }
    world.pass(seconds(60)).await;
    assert_eq!(world.wire.creates(), 1);
    assert_eq!(
        words(&world.status().await),
        "OUTCOME_UNKNOWN!REPEAT_WANTED"
    );
}

#[tokio::test(start_paused = true)]
async fn c5_of_an_order_only_fingerprints_and_recovery_facts_are_stored() {
    let recovery: [(&str, &[&str]); PROVIDERS.len()] = [
        ("phygitals", &["pulls"]),
        ("masumi", &["blockchain_identifier", "network", "origin"]),
        ("inabit", &["purchase_identifier"]),
        ("carbon", &[]),
        ("devdraft", &["idempotency_key", "origin"]),
    ];
    assert_eq!(recovery.map(|(provider, _)| provider), PROVIDERS);
    for (provider, facts) in recovery {
        let world = World::open(provider).await;
        world.create().await.unwrap();
        let record = world.record().await;
        let names: Vec<&str> = record.recovery.keys().map(String::as_str).collect();
        assert_eq!(names, facts, "{provider}");
        assert!(record.fingerprints.fields.len() > 2, "{provider}");
        let id = record.purchase.id;
        let log = world
            .journal
            .transitions(id, Revision::default(), 100)
            .await
            .unwrap();
        let stored = format!("{record:?} {log:?}");
        assert!(!stored.contains(orders::CANARY), "{provider}: {stored}");
    }
}

#[tokio::test(start_paused = true)]
async fn c5_without_the_fingerprint_key_a_repeat_is_refused_and_nothing_is_sent() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        // Even if a repeat is wanted, it cannot be told from another order.
        world.wire.answer_creates([Reply::NotConnected]);
        world.create().await.unwrap_err();
        let world = world.killed_with("k2").await;
        let again = world.create().await;
        assert_eq!(kind(&again), "fingerprint key gone", "{provider}");
        world.pass(seconds(3_600)).await;
        assert_eq!(world.wire.creates(), 1, "{provider}");
        assert_eq!(words(&world.status().await), "PENDING!REPEAT_WANTED");
    }
}
