//! C4: submits under passing time, late answers, a failing journal and a drain.

use super::*;
use crate::journal::AttemptChange;

const UNKNOWN: &str = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";

/// A provider's answers to a create, and the purchase's words after each.
fn outcomes(provider: &str) -> [(Reply, &'static str); 3] {
    [
        (orders::accepted(provider), orders::accepted_state(provider)),
        (orders::refused(provider), "FAILED FINAL"),
        (Reply::NotConnected, "PENDING!REPEAT_WANTED"),
    ]
}

/// Writes the settlement that the account's timer would write.
async fn settled_as_unclear(world: &World) {
    let record = world.record().await;
    let status = &record.purchase.status;
    let (now, reason) = (world.clock.now(), AttentionReason::OutcomeUnknown);
    let step = crate::lifecycle::unclear(status, reason, None, Cause::Deadline, now);
    let append = Write::Append {
        purchase: record.purchase.id,
        fence: None,
        transition: Box::new(step.unwrap()),
        expected: record.expected(),
        attempt: AttemptChange::End,
        note: None,
    };
    world.journal.write(append).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c4_a_send_that_a_crash_cut_is_unclear_once_its_time_has_passed_and_not_before() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_creates([Reply::Silence]);
        let _ = tokio::time::timeout(seconds(1), world.create()).await;
        let until = world.record().await.attempt.unwrap().submit_until;
        let began = world.wire.create(0).0;
        assert_eq!(until, began.plus(seconds(15 + 5)), "{provider}");
        let world = world.killed().await;
        world.pass(Duration::from_millis(18_900)).await;
        assert_eq!(world.history().await, ["PENDING"], "{provider}");
        world.pass(Duration::from_millis(200)).await;
        let word = match world.account.provider().unclear() {
            Unclear::RepeatWithKey { .. } => "OUTCOME_UNKNOWN!REPEAT_WANTED",
            Unclear::LookUp { .. } | Unclear::AskNobody => UNKNOWN,
        };
        assert_eq!(world.history().await, ["PENDING", word], "{provider}");
        assert_eq!(world.wire.creates(), 1, "{provider}");
        let id = world.record().await.purchase.id;
        let log = world.journal.transitions(id, Revision(1), 9).await.unwrap();
        assert_eq!(log[0].cause, Cause::Deadline, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c4_an_intent_that_waits_for_a_repeat_is_no_send_whose_time_passes() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_creates([Reply::NotConnected]);
        world.create().await.unwrap_err();
        let world = world.killed().await;
        world.pass(seconds(3_600)).await;
        assert_eq!(words(&world.status().await), "PENDING!REPEAT_WANTED");
        assert_eq!(kind(&world.create().await), "created", "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c4_a_late_answer_wins_over_outcome_unknown() {
    for provider in PROVIDERS {
        for (reply, then) in outcomes(provider) {
            let world = World::open(provider).await;
            *world.wire.pause.lock().unwrap() = seconds(5);
            world.wire.answer_creates([reply.clone()]);
            let late = async {
                world.pass(seconds(1)).await;
                settled_as_unclear(&world).await;
            };
            let (answered, ()) = tokio::join!(world.create(), late);
            drop(answered);
            let all = ["PENDING", UNKNOWN, then];
            assert_eq!(world.history().await, all, "{provider}: {reply:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c4_an_answer_that_cannot_be_committed_is_kept_and_committed_later() {
    for provider in PROVIDERS {
        for (reply, then) in outcomes(provider) {
            let world = World::open(provider).await;
            world.wire.answer_creates([reply.clone()]);
            let journal = Arc::clone(&world.journal);
            *world.wire.arrived.lock().unwrap() =
                Some(Arc::new(move |_| journal.fail_writes(true)));
            let failed = world.create().await;
            assert_eq!(failure(&failed), ("journal", true, None), "{provider}");
            world.pass(seconds(600)).await;
            let again = world.create().await;
            assert_eq!(failure(&again), ("journal", true, None), "{provider}");
            assert_eq!(world.history().await, ["PENDING"], "{provider}");
            world.journal.fail_writes(false);
            *world.wire.arrived.lock().unwrap() = None;
            world.pass(seconds(2)).await;
            let all = ["PENDING", then];
            assert_eq!(world.history().await, all, "{provider}: {reply:?}");
            assert_eq!(world.wire.creates(), 1, "{provider}: {reply:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c4_a_drain_waits_for_submits_in_flight_and_takes_no_new_ones() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        *world.wire.pause.lock().unwrap() = seconds(10);
        let began = world.clock.now();
        let mut create = Box::pin(world.create());
        assert!(futures_util::poll!(&mut create).is_pending());
        drop(create);
        world.intake.drain().await;
        let waited = world.clock.now().since(began);
        assert_eq!(waited, seconds(10), "{provider}");
        let state = orders::accepted_state(provider);
        assert_eq!(words(&world.status().await), state, "{provider}");
        let order = orders::order(provider);
        let new = world.order_of("shop", "new", order);
        let refused = world.intake.create(new).await;
        assert_eq!(kind(&refused), "draining", "{provider}");
        assert!(world.create().await.unwrap().replayed, "{provider}");
        assert_eq!(world.wire.creates(), 1, "{provider}");
    }
}

#[tokio::test(start_paused = true)]
async fn c4_a_drain_waits_for_a_create_that_it_has_let_in() {
    let world = World::limited("carbon", |policy| policy.creates_per_minute = 60).await;
    world.exhaust().await;
    let create = async {
        let created = world.create().await;
        (created, world.clock.now())
    };
    let drain = async {
        tokio::task::yield_now().await;
        world.intake.drain().await;
        world.clock.now()
    };
    let ((created, ended), drained) = tokio::join!(create, drain);
    assert_eq!(kind(&created), "created");
    assert!(drained >= ended, "it was sent behind the drain's back");
}

#[tokio::test(start_paused = true)]
async fn c4_a_drain_does_not_wait_for_what_the_next_process_can_look_up() {
    let world = World::open("masumi").await;
    world.wire.answer_creates([Reply::Lost]);
    world.create().await.unwrap();
    world.pass(seconds(3_600)).await;
    world.intake.drain().await;
    let asked = world.wire.reads();
    world.pass(seconds(3_600)).await;
    assert_eq!(
        world.wire.reads(),
        asked,
        "nothing is looked up after a drain"
    );
    let world = world.killed().await;
    world.pass(seconds(60)).await;
    assert!(world.wire.reads() > asked, "the next process goes on");
}

#[tokio::test(start_paused = true)]
async fn c1_a_deadline_ends_the_call_and_not_the_attempt() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        *world.wire.pause.lock().unwrap() = seconds(10);
        let mut hurried = world.order();
        hurried.deadline = Some(world.clock.moment().plus(seconds(3)));
        let began = world.clock.now();
        let failed = world.intake.create(hurried).await;
        assert_eq!(kind(&failed), "deadline", "{provider}");
        assert_eq!(world.clock.now().since(began), seconds(3), "{provider}");
        // A repeat joins the attempt under way.
        let joined = world.create().await.unwrap();
        assert!(joined.replayed, "{provider}");
        let state = orders::accepted_state(provider);
        assert_eq!(words(&joined.purchase.status), state, "{provider}");
        assert_eq!(world.wire.creates(), 1, "{provider}");
    }
}
