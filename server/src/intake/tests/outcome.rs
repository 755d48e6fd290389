//! C3: the four ends of a submit, at each provider.

use super::*;

/// Answers after which nothing was sent, with the call's word and the wait before a repeat.
fn not_sent() -> [(Reply, &'static str, Option<Duration>); 4] {
    [
        (Reply::NotConnected, "unreachable", None),
        (
            Reply::Json(401, json!({})),
            "unauthorized",
            Some(seconds(60)),
        ),
        (
            Reply::Json(403, json!({})),
            "unauthorized",
            Some(seconds(60)),
        ),
        (Reply::Throttle(120), "throttled", Some(seconds(120))),
    ]
}

/// Answers after which nobody knows.
fn unclear() -> [Reply; 6] {
    [
        Reply::Lost,
        Reply::Silence,
        Reply::Json(500, json!({ "error": "oops" })),
        Reply::Json(502, json!({})),
        Reply::Text(200, "<html>ok</html>"),
        // This answer refuses by its number alone, which a proxy can say too.
        Reply::Text(405, "nothing here"),
    ]
}

#[tokio::test(start_paused = true)]
async fn c3_a_refused_order_has_failed_and_a_repeat_is_told_so_and_not_sent() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_creates([orders::refused(provider)]);
        let id = match world.create().await {
            Err(CreateError::Rejected { purchase, message }) => {
                let said = orders::refusal(provider);
                assert_eq!(message.as_deref(), Some(said), "{provider}");
                purchase
            }
            other => panic!("{provider}: {other:?}"),
        };
        assert_eq!(world.history().await, ["PENDING", "FAILED FINAL"]);
        let status = world.status().await;
        let reason = status.failure.unwrap().reason;
        assert_eq!(reason, FailureReason::Rejected, "{provider}");
        match world.create().await {
            Err(CreateError::Rejected { purchase, message }) => {
                assert_eq!((purchase, message), (id, None), "{provider}");
            }
            other => panic!("{provider}: {other:?}"),
        }
        assert_eq!(world.wire.creates(), 1, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_what_was_not_sent_waits_for_a_repeat_that_sends_once_after_its_own_commit() {
    for provider in PROVIDERS {
        for (reply, word, pause) in not_sent() {
            let case = format!("{provider}: {reply:?}");
            let world = World::open(provider).await;
            world.wire.answer_creates([reply]);
            let failed = world.create().await;
            let retry_at = pause.map(|pause| world.clock.moment().plus(pause));
            assert_eq!(failure(&failed), (word, true, retry_at), "{case}");
            let wanted = ["PENDING", "PENDING!REPEAT_WANTED"];
            assert_eq!(world.history().await, wanted, "{case}");
            let record = world.record().await;
            assert_eq!(record.attempt, None, "{case}: no send is recorded as begun");
            let until = record.purchase.status.attention.clone().unwrap();
            let day = world.clock.now().plus(seconds(86_400));
            assert_eq!(until.deadline_time, Some(day), "{case}");
            // The service never sends it by itself, and its time to be sent does not pass.
            world.pass(seconds(3_600)).await;
            assert_eq!(world.wire.creates(), 1, "{case}");
            let store = world.journal.reopened();
            *world.wire.arrived.lock().unwrap() = Some(Arc::new(move |_| {
                let caller = CallerName::new("shop");
                let look = store.record_by_key(&caller, "key");
                let record = futures_util::FutureExt::now_or_never(look).unwrap();
                let record = record.unwrap().unwrap();
                assert_eq!(record.purchase.status.revision, Revision(3));
                assert!(record.attempt.is_some(), "a send is preceded by its commit");
            }));
            let began = world.clock.now();
            let created = world.create().await.unwrap();
            assert!(!created.replayed, "{case}: nobody was told of it before");
            assert!(world.create().await.unwrap().replayed, "{case}");
            assert_eq!(world.wire.creates(), 2, "{case}");
            let state = orders::accepted_state(provider);
            let all = ["PENDING", "PENDING!REPEAT_WANTED", "PENDING", state];
            assert_eq!(world.history().await, all, "{case}");
            assert_eq!(created.purchase.status.revision, Revision(4), "{case}");
            let record = world.record().await;
            assert_eq!(record.attempt, None, "{case}");
            assert!(began >= record.purchase.create_time, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c3_a_repeat_within_the_providers_pause_writes_and_sends_nothing() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_creates([Reply::Throttle(120)]);
        world.create().await.unwrap_err();
        world.pass(seconds(50)).await;
        let again = world.create().await;
        let retry_at = world.clock.moment().plus(seconds(70));
        let expected = ("throttled", true, Some(retry_at));
        assert_eq!(failure(&again), expected, "{provider}");
        assert_eq!(world.wire.creates(), 1, "{provider}");
        assert_eq!(world.history().await.len(), 2, "{provider}");
        world.pass(seconds(71)).await;
        world.create().await.unwrap();
        assert_eq!(world.wire.creates(), 2, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_a_day_without_a_repeat_ends_what_was_not_sent() {
    for provider in PROVIDERS {
        for restart in [false, true] {
            let mut world = World::open(provider).await;
            world.wire.answer_creates([Reply::NotConnected]);
            world.create().await.unwrap_err();
            if restart {
                world = world.killed().await;
            }
            world.pass(seconds(86_390)).await;
            assert_eq!(words(&world.status().await), "PENDING!REPEAT_WANTED");
            world.pass(seconds(11)).await;
            let status = world.status().await;
            assert_eq!(words(&status), "FAILED FINAL", "{provider}");
            assert_eq!(status.failure.unwrap().reason, FailureReason::NotSent);
            let id = world.record().await.purchase.id;
            let log = world.journal.transitions(id, Revision(2), 9).await.unwrap();
            assert_eq!(log[0].cause, Cause::Deadline, "{provider}");
            let late = world.create().await.unwrap();
            assert!(late.replayed, "{provider}");
            assert_eq!(words(&late.purchase.status), "FAILED FINAL", "{provider}");
            assert_eq!(world.wire.creates(), 1, "{provider}");
        }
    }
}

/// No send before it has reached anybody, so a refusal is about the order.
#[tokio::test(start_paused = true)]
async fn c3_a_refusal_after_what_was_not_sent_is_a_refusal() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world
            .wire
            .answer_creates([Reply::NotConnected, orders::refused(provider)]);
        world.create().await.unwrap_err();
        assert_eq!(kind(&world.create().await), "rejected", "{provider}");
        assert_eq!(words(&world.status().await), "FAILED FINAL", "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_an_unclear_submit_is_outcome_unknown_and_never_repeated_blindly() {
    for provider in PROVIDERS {
        for reply in unclear() {
            let case = format!("{provider}: {reply:?}");
            let world = World::open(provider).await;
            // Each own repeat at Devdraft gets the same answer, and more of them if it may mean
            // "not yet".
            let is_not_yet = matches!(reply, Reply::Json(500.., _));
            world.wire.answer_creates(vec![reply; 40]);
            let created = world.create().await.unwrap();
            assert!(!created.replayed, "{case}");
            let status = &created.purchase.status;
            assert_eq!(words(status), "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN", "{case}");
            world.pass(seconds(7_200)).await;
            let remedy = world.account.provider().unclear();
            let (creates, word) = match (remedy, is_not_yet) {
                (Unclear::RepeatWithKey { .. }, true) => (12..=25, "OUTCOME_UNKNOWN!REPEAT_WANTED"),
                (Unclear::RepeatWithKey { .. }, false) => (4..=4, "OUTCOME_UNKNOWN!REPEAT_WANTED"),
                (Unclear::LookUp { .. } | Unclear::AskNobody, _) => {
                    (1..=1, "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN")
                }
            };
            let sent = world.wire.creates();
            assert!(creates.contains(&sent), "{case}: {sent}");
            assert_eq!(words(&world.status().await), word, "{case}");
            let asks = world.wire.reads() > 0;
            assert_eq!(asks, matches!(remedy, Unclear::LookUp { .. }), "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c3_an_acceptance_without_a_name_calls_for_a_person() {
    let table = [
        ("phygitals", json!({ "result": { "nfts": [] } })),
        ("carbon", json!({ "details": { "charge3denrolled": "Y" } })),
    ];
    for (provider, body) in table {
        let world = World::open(provider).await;
        world.wire.answer_creates([Reply::Json(200, body)]);
        let created = world.create().await.unwrap();
        let word = words(&created.purchase.status);
        assert_eq!(word, "OUTCOME_UNKNOWN!NO_REFERENCE", "{provider}");
        world.pass(seconds(7_200)).await;
        let again = world.create().await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.purchase, created.purchase, "{provider}");
        assert_eq!(world.wire.creates() + world.wire.reads(), 1, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_without_budget_or_breaker_nothing_is_written() {
    for provider in PROVIDERS {
        let world = World::limited(provider, |policy| policy.creates_per_minute = 1).await;
        world.account.try_admit(Class::Create).await.unwrap().ends();
        let began = world.clock.now();
        let failed = world.create().await;
        let (word, named, retry_at) = failure(&failed);
        assert_eq!((word, named), ("throttled", false), "{provider}");
        let wait = retry_at.unwrap().since(world.clock.moment());
        assert!(wait > seconds(50), "{provider}: {wait:?}");
        let waited = world.clock.now().since(began);
        assert!(waited <= seconds(2), "{provider}: {waited:?}");
        assert!(world.known().await.is_none(), "{provider}");

        let world = World::open(provider).await;
        world.fail_until_the_breaker_holds_for(seconds(3)).await;
        let refused = world.create().await;
        let (word, named, _) = failure(&refused);
        assert_eq!((word, named), ("unreachable", false), "{provider}");
        assert!(world.known().await.is_none(), "{provider}");
        assert_eq!(world.wire.creates(), 0, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c3_admission_is_never_waited_for_beyond_the_callers_deadline() {
    let world = World::limited("carbon", |policy| policy.creates_per_minute = 60).await;
    world.exhaust().await;
    let began = world.clock.now();
    let mut hurried = world.order();
    hurried.deadline = Some(world.clock.moment().plus(Duration::from_millis(100)));
    let failed = world.intake.create(hurried).await;
    assert_eq!(kind(&failed), "throttled");
    assert!(world.clock.now().since(began) <= Duration::from_millis(100));
    assert!(world.known().await.is_none());
    // A call that may wait longer gets its turn.
    assert_eq!(kind(&world.create().await), "created");
}
