//! P3 to P5 and refreshes, through the tracker's public face and in virtual time.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::*;
use crate::{
    cadence::Policy,
    journal::memory::MemoryJournal,
    provider,
    purchase::{AttentionReason, Cause, Reference, Revision, State, Status, Timestamp},
    testing,
    upstream::{
        Request, Response, UpstreamError,
        scripted::{Scripted, json_response},
    },
};

mod absent;
mod elsewhere;
mod engine;
mod floor;
mod news;
mod order;
mod tenures;
mod trouble;
mod unmapped;

type Reply = Result<Response, UpstreamError>;

/// The provider's side of the wire.
struct Wire {
    asked: Mutex<Vec<Timestamp>>,
    /// The next answers; the last one stays.
    replies: Mutex<VecDeque<Reply>>,
    /// The time that an answer takes.
    pause: Mutex<Duration>,
    /// The request meets a defect.
    panics: AtomicBool,
}

impl Wire {
    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn say(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.replies.lock().unwrap() = replies.into_iter().collect();
    }
}

struct World {
    clock: Clock,
    journal: Arc<MemoryJournal>,
    wire: Arc<Wire>,
    accounts: Accounts,
    tracker: Tracker,
    work: tokio::task::JoinSet<()>,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn days(days: u64) -> Duration {
    seconds(days * 86_400)
}

fn shows(word: &str) -> Reply {
    Ok(json_response(
        200,
        &json!({ "id": "txn_1", "status": word }),
    ))
}

fn says(status: u16, body: &Value) -> Reply {
    Ok(json_response(status, body))
}

fn unknown() -> Reply {
    says(404, &json!({ "statusCode": 404, "message": "not found" }))
}

impl World {
    /// A tracker over an empty store, with one account of a provider.
    async fn open(provider: &str, first: Reply) -> Self {
        let row = provider::registered(provider).unwrap();
        let policy = Policy {
            requests_per_minute: 0,
            ..(row.policy)()
        };
        let clock = testing::clock();
        let wire = Arc::new(Wire {
            asked: Mutex::default(),
            replies: Mutex::new(VecDeque::from([first])),
            pause: Mutex::default(),
            panics: AtomicBool::default(),
        });
        let (heard, time) = (Arc::clone(&wire), clock.clone());
        let upstream = Scripted::new(move |_: Request| {
            heard.asked.lock().unwrap().push(time.now());
            assert!(!heard.panics.load(Ordering::Relaxed), "a defect, as wished");
            let mut replies = heard.replies.lock().unwrap();
            let reply = match replies.len() {
                1 => replies[0].clone(),
                _ => replies.pop_front().unwrap(),
            };
            let pause = *heard.pause.lock().unwrap();
            async move {
                tokio::time::sleep(pause).await;
                reply
            }
        });
        let journal = Arc::new(MemoryJournal::new("test"));
        let (upstream, shared) = (Arc::new(upstream), Arc::clone(&journal) as _);
        let account = testing::account("main", provider, policy, upstream, &clock, shared).await;
        Self::life(clock, journal, wire, Accounts::new([account])).await
    }

    async fn life(
        clock: Clock,
        journal: Arc<MemoryJournal>,
        wire: Arc<Wire>,
        accounts: Accounts,
    ) -> Self {
        let tracker = Tracker::new(
            Arc::clone(&journal) as _,
            clock.clone(),
            &accounts,
            &testing::alone(&accounts),
        );
        for record in journal.open_records(None, 100).await.unwrap() {
            tracker.recover(&record).await.unwrap();
        }
        let mut work = tokio::task::JoinSet::new();
        work.spawn({
            let tracker = tracker.clone();
            async move { tracker.run().await }
        });
        Self {
            clock,
            journal,
            wire,
            accounts,
            tracker,
            work,
        }
    }

    async fn killed(mut self) -> Self {
        self.journal.close().await;
        self.work.shutdown().await;
        self.tracker.drain().await;
        let journal = Arc::new(self.journal.reopened());
        Self::life(self.clock, journal, self.wire, self.accounts).await
    }

    /// Commits a purchase that the provider has named, in this state.
    async fn track(&self, part: (&str, &str), state: State) -> PurchaseId {
        let now = self.clock.now();
        let id = self.clock.purchase_id();
        let status = Status {
            revision: Revision(1),
            state,
            reference: Some(Reference::new([part])),
            ..Status::pending(now)
        };
        let begin = testing::begin(testing::record(id, "main", "any", status));
        self.journal.write(begin).await.unwrap();
        id
    }

    async fn devdraft(word: &str) -> (Self, PurchaseId) {
        let world = Self::open("devdraft", shows(word)).await;
        let id = world
            .track(("transaction_id", "txn_1"), State::Created)
            .await;
        (world, id)
    }

    async fn purchase(&self, id: PurchaseId) -> Purchase {
        self.journal.record(id).await.unwrap().unwrap().purchase
    }

    /// State, attention and finality of each revision.
    async fn history(&self, id: PurchaseId) -> Vec<String> {
        let all = self
            .journal
            .transitions(id, Revision(0), 600)
            .await
            .unwrap();
        let word = |status: &Status| {
            let mut word = status.state.as_str().to_owned();
            if let Some(reason) = status.attention_reason() {
                word.push('!');
                word.push_str(reason.as_str());
            }
            if status.finality != Finality::Open {
                word.push(' ');
                word.push_str(status.finality.as_str());
            }
            word
        };
        all.iter().map(|one| word(&one.status)).collect()
    }

    /// Requests within the next `time`.
    async fn asked_in(&self, time: Duration) -> usize {
        let before = self.wire.asked();
        tokio::time::sleep(time).await;
        self.wire.asked() - before
    }
}

#[tokio::test(start_paused = true)]
async fn p5_a_purchase_is_polled_on_its_providers_schedule() {
    let (world, _) = World::devdraft("AWAITING_FUNDS").await;
    // Documented: every 5 s for 5 min, every 30 s to 30 min, then every 2 min; ± 10 % of jitter.
    for (minutes, expected) in [(5, 60), (25, 50), (60, 30)] {
        let asked = world.asked_in(seconds(minutes * 60)).await;
        let slack = expected / 6;
        assert!(
            asked.abs_diff(expected) <= slack,
            "{asked} in {minutes} min"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn p5_a_poll_that_changes_nothing_writes_nothing_and_a_change_is_one_revision() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.history(id).await, ["CREATED", "AWAITING_PAYMENT"]);
    let commits = world.journal.commits();
    assert!(world.asked_in(seconds(60)).await > 5);
    assert_eq!(world.journal.commits(), commits);
    world.wire.say([shows("FUNDS_RECEIVED")]);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.journal.commits(), commits + 1);
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
}

#[tokio::test(start_paused = true)]
async fn p3_no_error_no_silence_and_no_nonsense_changes_a_state() {
    let lost = || Err(UpstreamError::Lost("reset"));
    let table: [Reply; 6] = [
        says(500, &json!({})),
        says(401, &json!({})),
        says(429, &json!({})),
        says(200, &json!({ "id": "txn_2", "status": "CANCELED" })),
        Err(UpstreamError::NotConnected("refused")),
        lost(),
    ];
    for reply in table {
        let (world, id) = World::devdraft("AWAITING_FUNDS").await;
        tokio::time::sleep(seconds(20)).await;
        let head = world.journal.head();
        world.wire.say([reply.clone()]);
        // A minute later a person is told.
        tokio::time::sleep(seconds(560)).await;
        assert_eq!(world.journal.head(), head, "{reply:?}");
        let freshness = world.tracker.freshness(&world.purchase(id).await);
        assert!(freshness.consecutive_failures > 1, "{reply:?}");
        let answered = freshness.last_answer_time.unwrap();
        assert!(
            world.clock.now().since(answered) > seconds(500),
            "{reply:?}"
        );
        world.wire.say([shows("FUNDS_RECEIVED")]);
        tokio::time::sleep(seconds(300)).await;
        assert_eq!(world.history(id).await.last().unwrap(), "PAID", "{reply:?}");
        let freshness = world.tracker.freshness(&world.purchase(id).await);
        assert_eq!(freshness.consecutive_failures, 0, "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p4_a_word_without_a_mapping_keeps_the_state_and_is_polled_on() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(20)).await;
    world.wire.say([shows("TELEPORTED")]);
    tokio::time::sleep(seconds(60)).await;
    let status = world.purchase(id).await.status;
    assert_eq!(status.state, State::AwaitingPayment);
    assert_eq!(
        (status.code.as_str(), status.unmapped),
        ("TELEPORTED", true)
    );
    assert_eq!(
        status.attention_reason(),
        Some(AttentionReason::UnmappedStatus)
    );
    assert_eq!(status.finality, Finality::Open);
    assert!(world.asked_in(seconds(60)).await > 5);
    world.wire.say([shows("FUNDS_RECEIVED")]);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_reference_is_asked_for_a_minute_and_then_needs_a_person() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    world.wire.say([unknown()]);
    tokio::time::sleep(seconds(58)).await;
    assert_eq!(world.history(id).await, ["CREATED"]);
    tokio::time::sleep(seconds(12)).await;
    let missing = ["CREATED", "CREATED!NOT_FOUND_AT_PROVIDER"];
    assert_eq!(world.history(id).await, missing);
    world.wire.say([shows("AWAITING_FUNDS")]);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "AWAITING_PAYMENT");
}

#[tokio::test(start_paused = true)]
async fn p3_an_answer_that_cannot_be_read_is_polled_on_ever_more_seldom() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(20)).await;
    let unreadable = || says(200, &json!({ "id": "txn_1" }));
    world.wire.say([unreadable()]);
    let asked = world.asked_in(seconds(120)).await;
    assert!((5..=15).contains(&asked), "{asked} in 120 s at 5 s");
    let asked = world.asked_in(seconds(1_200)).await;
    assert!((10..=30).contains(&asked), "{asked} in 20 min");
    world.wire.say([shows("FUNDS_RECEIVED")]);
    tokio::time::sleep(seconds(125)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
    let asked = world.asked_in(seconds(300)).await;
    assert!((8..=12).contains(&asked), "{asked} at 30 s again");
}

#[tokio::test(start_paused = true)]
async fn p5_a_purchase_whose_poll_panics_is_polled_on() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(20)).await;
    world.wire.panics.store(true, Ordering::Relaxed);
    tokio::time::sleep(seconds(10)).await;
    world.wire.panics.store(false, Ordering::Relaxed);
    world.wire.say([shows("FUNDS_RECEIVED")]);
    tokio::time::sleep(seconds(61)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
    assert!(world.tracker.defects() >= 1, "it is counted");
}

#[tokio::test(start_paused = true)]
async fn an_older_answer_that_knows_nothing_does_not_overrule_a_newer_one() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(3_600)).await;
    // A poll is asked for, and is told ten seconds later that the reference is not known.
    world.wire.say([unknown()]);
    *world.wire.pause.lock().unwrap() = seconds(10);
    let before = world.wire.asked();
    while world.wire.asked() == before {
        tokio::time::sleep(seconds(1)).await;
    }
    world.wire.say([shows("FUNDS_RECEIVED")]);
    *world.wire.pause.lock().unwrap() = Duration::ZERO;
    let purchase = world.purchase(id).await;
    world.tracker.refresh(&purchase).await.unwrap();
    tokio::time::sleep(seconds(11)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
}

#[tokio::test(start_paused = true)]
async fn what_is_unchanged_for_long_is_stale_polled_daily_and_given_up_after_90_days() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(days(7) + seconds(600)).await;
    assert_eq!(
        world.history(id).await.last().unwrap(),
        "AWAITING_PAYMENT!STALE"
    );
    let daily = world.asked_in(days(10)).await;
    assert!((9..=12).contains(&daily), "{daily} in 10 days");
    // News from the provider are no longer stale.
    world.wire.say([shows("FUNDS_RECEIVED")]);
    tokio::time::sleep(days(2)).await;
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
    tokio::time::sleep(days(95)).await;
    assert_eq!(world.asked_in(days(10)).await, 0, "polling has stopped");
    assert_eq!(world.history(id).await.last().unwrap(), "PAID!STALE");
    // A refresh that brings news takes it up again.
    world.wire.say([shows("PAYMENT_SUBMITTED")]);
    let purchase = world.purchase(id).await;
    world.tracker.refresh(&purchase).await.unwrap();
    assert_eq!(world.history(id).await.last().unwrap(), "PROCESSING");
    assert!(world.asked_in(days(1)).await > 0, "it is polled again");
}

#[tokio::test(start_paused = true)]
async fn p5_after_its_horizon_a_last_read_makes_an_end_final() {
    let (world, id) = World::devdraft("PAYMENT_PROCESSED").await;
    tokio::time::sleep(days(29)).await;
    assert_eq!(world.history(id).await, ["CREATED", "COMPLETED TERMINAL"]);
    let first = world.journal.transitions(id, Revision(1), 1).await.unwrap();
    let end = first[0].status.observe_time.plus(days(30));
    tokio::time::sleep(days(1) + seconds(3_600)).await;
    let last = *world.history(id).await.last().unwrap() == *"COMPLETED FINAL";
    assert!(last, "{:?}", world.history(id).await);
    let last_read = *world.wire.asked.lock().unwrap().last().unwrap();
    assert!(last_read >= end, "a last read was made after its end");
    assert!(last_read < end.plus(seconds(60)), "and at once");
    let log = world.journal.transitions(id, Revision(2), 9).await.unwrap();
    assert_eq!(log[0].cause, Cause::Deadline);
    assert_eq!(world.asked_in(days(10)).await, 0);
    assert_eq!(world.tracker.open_purchases(&AccountName::new("main")), 0);
}

#[tokio::test(start_paused = true)]
async fn p5_a_last_read_that_fails_is_tried_for_a_day() {
    let lost = || Err(UpstreamError::Lost("reset"));
    let never = "COMPLETED!UNREADABLE_AT_PROVIDER FINAL";
    for (back, finals) in [(false, never), (true, "RETURNED TERMINAL")] {
        let (world, id) = World::devdraft("PAYMENT_PROCESSED").await;
        tokio::time::sleep(days(29) + seconds(43_200)).await;
        world.wire.say([lost()]);
        tokio::time::sleep(seconds(43_200 + 7_200)).await;
        let finality = world.purchase(id).await.status.finality;
        assert_eq!(finality, Finality::Terminal, "not without its last read");
        if back {
            // The provider is back within the day, so its answer still counts.
            world.wire.say([shows("RETURNED")]);
        }
        let tries = world.asked_in(seconds(86_400)).await;
        assert!(tries > 1 && tries < 40, "{tries} tries within a day");
        assert_eq!(*world.history(id).await.last().unwrap(), *finals);
    }
}

#[tokio::test(start_paused = true)]
async fn p5_an_end_that_its_provider_has_forgotten_becomes_final_without_hot_polling() {
    let (world, id) = World::devdraft("PAYMENT_PROCESSED").await;
    tokio::time::sleep(days(10)).await;
    world.wire.say([unknown()]);
    tokio::time::sleep(days(19)).await;
    let missing = "COMPLETED!NOT_FOUND_AT_PROVIDER TERMINAL";
    assert_eq!(world.history(id).await.last().unwrap(), missing);
    // A missing purchase is no news: the horizon counts from its end, also after a restart.
    let world = world.killed().await;
    let asked = world.asked_in(days(3)).await;
    assert!(asked < 40, "{asked} in the days around the last read");
    let last = "COMPLETED!NOT_FOUND_AT_PROVIDER FINAL";
    assert_eq!(world.history(id).await.last().unwrap(), last);
}

#[tokio::test(start_paused = true)]
async fn p5_polling_survives_restarts() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(20)).await;
    let world = world.killed().await;
    world.wire.say([shows("FUNDS_RECEIVED")]);
    tokio::time::sleep(seconds(20)).await;
    let all = ["CREATED", "AWAITING_PAYMENT", "PAID"];
    assert_eq!(world.history(id).await, all);
    let world = world.killed().await;
    let asked = world.asked_in(seconds(60)).await;
    assert!((10..=15).contains(&asked), "{asked} in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_is_held_and_the_next_begins_half_a_second_to_a_second_after_its_end() {
    let pending = || says(200, &json!({ "status": "pending" }));
    let world = World::open("phygitals", pending()).await;
    *world.wire.pause.lock().unwrap() = seconds(6);
    world.track(("session_id", "s-1"), State::Processing).await;
    tokio::time::sleep(seconds(120)).await;
    let asked = world.wire.asked.lock().unwrap().clone();
    assert!(asked.len() > 15);
    for pair in asked.windows(2) {
        let gap = pair[1].since(pair[0]) - seconds(6);
        let gap_ms = gap.as_millis();
        assert!((500..=1_100).contains(&gap_ms), "{gap_ms} ms");
    }
    // A request that is held does not hold a drain up.
    let began = world.clock.now();
    world.tracker.drain().await;
    assert!(world.clock.now().since(began) < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn refreshes_of_one_purchase_that_overlap_share_one_request() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(3_600)).await;
    for trouble in [false, true] {
        // Right after a poll, so that no other falls between.
        let before = world.wire.asked();
        while world.wire.asked() == before {
            tokio::time::sleep(seconds(1)).await;
        }
        *world.wire.pause.lock().unwrap() = seconds(3);
        if trouble {
            world.wire.say([says(500, &json!({}))]);
        }
        let purchase = world.purchase(id).await;
        let before = world.wire.asked();
        let began = world.clock.now();
        let all = join_all((0..100).map(|_| world.tracker.refresh(&purchase))).await;
        assert_eq!(
            all.iter().filter(|one| one.is_err()).count(),
            if trouble { 100 } else { 0 }
        );
        assert_eq!(world.wire.asked() - before, 1, "trouble: {trouble}");
        assert!(
            world.clock.now().since(began) < seconds(5),
            "trouble: {trouble}"
        );
        *world.wire.pause.lock().unwrap() = Duration::ZERO;
        tokio::time::sleep(seconds(600)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_returns_once_what_was_said_is_committed() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(3_600)).await;
    world.wire.say([shows("FUNDS_RECEIVED")]);
    let purchase = world.purchase(id).await;
    world.tracker.refresh(&purchase).await.unwrap();
    assert_eq!(world.history(id).await.last().unwrap(), "PAID");
    world.wire.say([shows("CANCELED")]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.tracker.refresh(&purchase).await.unwrap();
    let last = "CANCELED!UNEXPECTED_TRANSITION FINAL";
    assert_eq!(world.history(id).await.last().unwrap(), last);
    let asked = world.wire.asked();
    let purchase = world.purchase(id).await;
    world.tracker.refresh(&purchase).await.unwrap();
    assert_eq!(
        world.wire.asked(),
        asked,
        "nothing is asked about what is FINAL"
    );
}
