//! Two processes over one store: the record alone tells each what the other is at.

use super::*;
use crate::journal::{AttemptChange, Written};

const UNKNOWN: &str = "OUTCOME_UNKNOWN!OUTCOME_UNKNOWN";

impl World {
    /// Another process over the same store and in front of the same provider.
    async fn beside(&self) -> Self {
        Self::life(
            self.provider,
            self.account.settings().policy.clone(),
            self.clock.clone(),
            Arc::new(self.journal.reopened()),
            Arc::clone(&self.wire),
            "k1",
        )
        .await
    }
}

#[tokio::test(start_paused = true)]
async fn c3_what_one_process_repeats_by_itself_no_other_sends() {
    let world = World::open("devdraft").await;
    let other = world.beside().await;
    let not_yet = Reply::Json(
        409,
        json!({ "statusCode": 409, "message": "being processed" }),
    );
    world.wire.answer_creates([Reply::Lost]);
    world.wire.answer_creates(vec![not_yet; 9]);
    world.create().await.unwrap();
    for _ in 0..40 {
        let sent = world.wire.creates();
        let created = other.create().await.unwrap();
        assert!(created.replayed);
        assert_eq!(world.wire.creates(), sent, "it waits for {sent} and more");
        world.pass(seconds(7)).await;
    }
    world.pass(seconds(120)).await;
    assert_eq!(world.history().await, ["PENDING", UNKNOWN, "CREATED"]);
    assert_eq!(world.wire.creates(), 11);
    assert_eq!(world.record().await.sends, 11);
}

#[tokio::test(start_paused = true)]
async fn c2_of_two_processes_that_repeat_what_was_not_sent_one_sends() {
    for provider in PROVIDERS {
        let world = World::open(provider).await;
        world.wire.answer_creates([Reply::NotConnected]);
        assert!(world.create().await.is_err(), "{provider}");
        let other = world.beside().await;
        *world.wire.pause.lock().unwrap() = seconds(5);
        let (first, second) = tokio::join!(world.create(), other.create());
        assert_eq!(world.wire.creates(), 2, "{provider}: one of them has sent");
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!(first.purchase.id, second.purchase.id, "{provider}");
        assert!(
            first.replayed != second.replayed,
            "{provider}: one is first"
        );
    }
}

/// A process that was stopped for long wakes with a refusal of its send. Meanwhile another has sent as
/// well, and was accepted, or still waits.
#[tokio::test(start_paused = true)]
async fn c3_a_late_refusal_says_nothing_about_what_another_process_has_sent() {
    for (pause, late) in [(1, true), (40, false)] {
        let world = World::limited("masumi", |policy| policy.timeout = seconds(300)).await;
        *world.wire.pause.lock().unwrap() = seconds(60);
        world.wire.answer_creates([orders::refused("masumi")]);
        assert!(!world.created_within(50).await);
        let record = world.record().await;
        // By the clock of a process that was stopped, the answer comes in time.
        let soon = Write::ChangeAttempt {
            purchase: record.purchase.id,
            expected: record.expected(),
            change: AttemptChange::Extend {
                submit_until: world.clock.now().plus(seconds(20)),
            },
        };
        assert_eq!(world.journal.write(soon).await.unwrap(), Written::Done);
        let other = world.beside().await;
        other.pass(seconds(30)).await;
        assert_eq!(world.history().await, ["PENDING", UNKNOWN]);
        *world.wire.pause.lock().unwrap() = seconds(pause);
        let repeated = tokio::join!(other.create(), async {
            other.pass(seconds(35)).await;
            let status = words(&other.status().await);
            let expected = if late { "CREATED" } else { UNKNOWN };
            assert_eq!(status, expected, "the refusal has come by now");
        });
        assert!(repeated.0.unwrap().purchase.status.reference.is_some());
        world.pass(seconds(600)).await;
        assert_eq!(world.history().await, ["PENDING", UNKNOWN, "CREATED"]);
        assert_eq!(world.wire.creates(), 2);
    }
}
