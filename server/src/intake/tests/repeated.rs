//! Repeats that are many, late, or made while the process is about to stop.

use super::*;
use crate::testing::Log;

const UNKNOWN: &str = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";
const WANTED: &str = "OUTCOME_UNKNOWN!REPEAT_WANTED";

/// Each create that arrives finds a commit that says until when its send may last.
fn each_send_has_its_own_commit(world: &World) -> Arc<Mutex<Vec<Timestamp>>> {
    let seen: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
    let (store, times) = (world.journal.reopened(), Arc::clone(&seen));
    *world.wire.arrived.lock().unwrap() = Some(Arc::new(move |_| {
        let caller = CallerName::new("shop");
        let look = store.record_by_key(&caller, "key");
        let record = futures_util::FutureExt::now_or_never(look).unwrap();
        let record = record.unwrap().expect("the intent is durable");
        let attempt = record.attempt.expect("a send is preceded by its commit");
        times.lock().unwrap().push(attempt.submit_until);
    }));
    seen
}

/// 600 probes with refused credentials: every minute of ten hours.
#[tokio::test(start_paused = true)]
async fn c3_whoever_repeats_all_day_leaves_room_for_the_providers_answer() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        let seen = each_send_has_its_own_commit(&world);
        world
            .wire
            .answer_creates(vec![Reply::Json(401, json!({})); 600]);
        for _ in 0..600 {
            assert_eq!(kind(&world.create().await), "unauthorized", "{provider}");
            let record = world.record().await;
            assert_eq!(record.attempt, None, "{provider}: it has ended");
            assert_eq!(record.first_send_time, None, "{provider}: nothing was sent");
            assert_eq!(words(&record.purchase.status), "PENDING!REPEAT_WANTED");
            world.pass(seconds(60)).await;
        }
        let created = world.create().await.unwrap();
        let status = &created.purchase.status;
        assert_eq!(words(status), orders::accepted_state(provider));
        assert!(status.reference.is_some(), "{provider}");
        assert!(status.revision < Revision(420), "{provider}");
        assert_eq!(world.wire.creates(), 601, "{provider}");
        let mut times = seen.lock().unwrap().clone();
        assert_eq!(times.len(), 601, "{provider}");
        times.dedup();
        assert_eq!(times.len(), 601, "{provider}: each has its own time");
    }
}

/// A world in which a repeat makes no revision any more.
async fn tired(provider: &'static str) -> World {
    let world = World::open(provider).await;
    let many = vec![Reply::Json(401, json!({})); 210];
    world.wire.answer_creates(many);
    for _ in 0..210 {
        world.create().await.unwrap_err();
        world.pass(seconds(60)).await;
    }
    assert_eq!(words(&world.status().await), "PENDING!REPEAT_WANTED");
    world
}

#[tokio::test(start_paused = true)]
async fn c4_a_repeat_without_a_revision_that_a_crash_cut_is_unclear_once_its_time_has_passed() {
    let world = tired("carbon").await;
    let before = world.history().await.len();
    world.wire.answer_creates([Reply::Silence]);
    let _ = tokio::time::timeout(seconds(1), world.create()).await;
    assert_eq!(world.wire.creates(), 211);
    assert_eq!(world.history().await.len(), before, "no revision");
    let world = world.killed().await;
    // A repeat waits now: the order may have been sent.
    let joined = world.create().await.unwrap();
    assert_eq!(words(&joined.purchase.status), UNKNOWN);
    assert_eq!(world.wire.creates(), 211);
}

#[tokio::test(start_paused = true)]
async fn c3_unclear_repeats_leave_room_for_the_providers_answer() {
    let world = World::open("devdraft").await;
    // The answer is unreadable but no failure, so that the breaker stays closed.
    let many = vec![Reply::Text(200, "<html>"); 4 * 300];
    world.wire.answer_creates(many);
    for _ in 0..300 {
        world.create().await.unwrap();
        world.pass(seconds(60)).await;
    }
    assert_eq!(world.wire.creates(), 4 * 300);
    assert_eq!(words(&world.status().await), WANTED);
    assert_eq!(world.record().await.attempt, None);
    world.create().await.unwrap();
    let status = world.status().await;
    assert_eq!(words(&status), "CREATED");
    assert!(status.revision < Revision(420));
}

#[tokio::test(start_paused = true)]
async fn c3_devdraft_is_not_repeated_after_23_hours_by_anybody() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates(vec![Reply::Lost; 100]);
    world.create().await.unwrap();
    let first = world.wire.create(0).0;
    let last = first.plus(seconds(23 * 3_600));
    world
        .pass(last.since(world.clock.now()) - Duration::from_millis(400))
        .await;
    assert_eq!(words(&world.status().await), WANTED);
    let sent = world.wire.creates();
    world.create().await.unwrap();
    world.pass(seconds(600)).await;
    assert_eq!(
        words(&world.status().await),
        UNKNOWN,
        "a person has to look"
    );
    world.create().await.unwrap();
    let creates = world.wire.creates.lock().unwrap().clone();
    assert!(creates.len() > sent, "one was in time");
    assert!(
        creates.iter().all(|(time, _)| *time < last),
        "{:?}",
        creates.last().unwrap().0
    );
}

#[tokio::test(start_paused = true)]
async fn c3_devdrafts_23_hours_begin_with_the_first_send_that_may_have_reached_it() {
    let world = World::open("devdraft").await;
    world.wire.answer_creates([Reply::NotConnected]);
    world.create().await.unwrap_err();
    world.pass(seconds(23 * 3_600 + 1_800)).await;
    world.wire.answer_creates(vec![Reply::Lost; 4]);
    world.create().await.unwrap();
    let first = world.wire.create(1).0;
    world.pass(seconds(60)).await;
    assert_eq!(world.wire.creates(), 5, "once and three own repeats");
    let attention = world.status().await.attention.unwrap();
    assert_eq!(
        attention.deadline_time,
        Some(first.plus(seconds(23 * 3_600)))
    );
}

#[tokio::test(start_paused = true)]
async fn c3_a_masumi_repeat_that_changes_nothing_has_ended() {
    let world = World::open("masumi").await;
    world.wire.answer_creates([
        Reply::Lost,
        Reply::Lost,
        Reply::NotConnected,
        Reply::Json(401, json!({})),
    ]);
    world.create().await.unwrap();
    for sent in 2..=4 {
        world.pass(seconds(60)).await;
        let _ = world.create().await;
        assert_eq!(world.wire.creates(), sent);
        assert_eq!(world.record().await.attempt, None, "{sent} sends");
    }
}

/// Neither a look-up nor an own repeat that has not begun holds a drain up.
#[tokio::test(start_paused = true)]
async fn c4_a_drain_does_not_wait_for_what_has_not_been_sent() {
    for provider in ["masumi", "inabit", "devdraft"] {
        let world = World::limited(provider, |policy| policy.requests_per_minute = 2).await;
        world.wire.answer_creates([Reply::Lost]);
        world.create().await.unwrap();
        world.exhaust().await;
        world.pass(seconds(3)).await;
        let sent = (world.wire.creates(), world.wire.reads());
        let began = world.clock.now();
        world.intake.drain().await;
        assert_eq!(world.clock.now(), began, "{provider}");
        world.pass(seconds(600)).await;
        assert_eq!(
            (world.wire.creates(), world.wire.reads()),
            sent,
            "{provider}"
        );
    }
}

/// If an answer cannot be committed, its ids are in the log.
#[tokio::test(start_paused = true)]
async fn c4_the_reference_of_an_answer_that_cannot_be_committed_is_logged_as_an_error() {
    for own_repeat in [false, true] {
        let world = World::open("devdraft").await;
        if own_repeat {
            world.wire.answer_creates([Reply::Lost]);
            world.create().await.unwrap();
        }
        let (log, _logged) = Log::begin();
        let journal = Arc::clone(&world.journal);
        *world.wire.arrived.lock().unwrap() = Some(Arc::new(move |_| journal.fail_writes(true)));
        let answered = world.create().await;
        assert_eq!(answered.is_ok(), own_repeat);
        world.pass(seconds(10)).await;
        let text = log.text();
        let told: Vec<&str> = text.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(told.len(), 1, "{text}");
        let id = world.record().await.purchase.id.to_string();
        assert!(told[0].contains("txn_") && told[0].contains(&id), "{text}");
        assert!(!text.contains(orders::CANARY), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_record_counts_the_sends_that_may_have_reached_the_provider() {
    let world = World::open("devdraft").await;
    let sends = async || world.record().await.sends;
    for _ in 0..3 {
        world.wire.answer_creates([Reply::NotConnected]);
        world.create().await.unwrap_err();
        assert_eq!(sends().await, 0, "nobody was reached");
        world.pass(seconds(60)).await;
    }
    world.wire.answer_creates(vec![Reply::Lost; 4]);
    world.create().await.unwrap();
    assert_eq!(sends().await, 1);
    world.pass(seconds(600)).await;
    assert_eq!(sends().await, 4, "its own repeats count");
    world.wire.answer_creates([orders::refused("devdraft")]);
    world.create().await.unwrap();
    assert_eq!(sends().await, 5);
    let state = world.status().await.state;
    assert_eq!(state, crate::purchase::State::OutcomeUnknown);
}
