//! News bring the schedule of the new state, by any way that they come. And `Freshness` is true.

use super::*;

impl World {
    async fn refreshed(&self, id: PurchaseId, word: &str) {
        self.wire.say([shows(word)]);
        let purchase = self.purchase(id).await;
        self.tracker.refresh(&purchase).await.unwrap();
    }

    async fn last(&self, id: PurchaseId) -> String {
        self.history(id).await.last().unwrap().clone()
    }

    async fn freshness(&self, id: PurchaseId) -> Freshness {
        self.tracker.freshness(&self.purchase(id).await)
    }

    /// The time until the next poll.
    async fn ahead(&self, id: PurchaseId) -> Duration {
        let next = self.freshness(id).await.next_poll_time.unwrap();
        assert!(next >= self.clock.now(), "it lies in the past");
        next.since(self.clock.now())
    }

    /// Commits a status that somebody else has decided.
    async fn decided(&self, id: PurchaseId, cause: Cause, change: impl FnOnce(&mut Status)) {
        let before = self.purchase(id).await.status;
        let mut status = (*before).clone();
        status.revision = before.revision.next();
        status.observe_time = self.clock.now();
        change(&mut status);
        let append = testing::append(id, testing::step(&before, status, cause));
        self.journal.write(append).await.unwrap();
    }
}

/// The schedule of Devdraft for what is older than half an hour, with its jitter and a poll.
const SCHEDULED: Duration = Duration::from_secs(140);

#[tokio::test(start_paused = true)]
async fn news_by_a_refresh_bring_the_schedule_of_the_new_state() {
    // Stale and polled daily; ended and looked at daily; given up.
    for (word, until, news) in [
        ("AWAITING_FUNDS", days(8), "FUNDS_RECEIVED"),
        ("PAYMENT_PROCESSED", days(20), "DISPUTED"),
        ("AWAITING_FUNDS", days(95), "FUNDS_RECEIVED"),
    ] {
        let (world, id) = World::devdraft(word).await;
        tokio::time::sleep(until).await;
        world.refreshed(id, news).await;
        assert!(world.ahead(id).await <= SCHEDULED, "{word} {until:?}");
        world.wire.say([shows("RETURNED")]);
        tokio::time::sleep(SCHEDULED).await;
        let last = world.last(id).await;
        assert!(last.starts_with("RETURNED"), "{word} {until:?}: {last}");
    }
}

#[tokio::test(start_paused = true)]
async fn news_by_a_refresh_end_the_waits_after_failures() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(60)).await;
    world.wire.say([says(404, &json!({ "statusCode": 404 }))]);
    tokio::time::sleep(seconds(200)).await;
    world.refreshed(id, "FUNDS_RECEIVED").await;
    assert!(world.ahead(id).await < seconds(6));
}

#[tokio::test(start_paused = true)]
async fn a_change_by_whomever_brings_the_schedule_of_the_new_state() {
    for cause in [Cause::Operator, Cause::Create, Cause::Poll] {
        let (world, id) = World::devdraft("AWAITING_FUNDS").await;
        tokio::time::sleep(days(8)).await;
        assert!(world.ahead(id).await > seconds(3_600));
        world
            .decided(id, cause, |status| status.state = State::Paid)
            .await;
        assert!(world.ahead(id).await <= SCHEDULED, "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_without_news_leaves_the_schedule_as_it_is() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(days(8)).await;
    let next = world.freshness(id).await.next_poll_time;
    world.refreshed(id, "AWAITING_FUNDS").await;
    assert_eq!(world.freshness(id).await.next_poll_time, next);
}

#[tokio::test(start_paused = true)]
async fn a_create_is_the_providers_first_answer_and_its_last_stays_after_final() {
    let (world, id) = World::devdraft("CANCELED").await;
    let began = world.clock.now();
    let answered = world.freshness(id).await.last_answer_time;
    assert_eq!(answered, Some(began), "the create's");
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(world.last(id).await, "CANCELED FINAL");
    let last = world.freshness(id).await;
    assert!(last.last_answer_time > answered);
    assert_eq!(last.next_poll_time, None);
    tokio::time::sleep(days(1)).await;
    assert_eq!(world.freshness(id).await, last);
}

#[tokio::test(start_paused = true)]
async fn the_next_poll_never_lies_in_the_past() {
    // Nothing has come back yet.
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    *world.wire.pause.lock().unwrap() = seconds(14);
    for _ in 0..40 {
        tokio::time::sleep(seconds(1)).await;
        world.ahead(id).await;
    }
    // The account may not be asked for ten minutes.
    *world.wire.pause.lock().unwrap() = Duration::ZERO;
    let mut throttled = json_response(429, &json!({ "message": "slow down" }));
    let wait = http::HeaderValue::from_static("600");
    throttled.headers.insert(http::header::RETRY_AFTER, wait);
    world.wire.say([Ok(throttled)]);
    tokio::time::sleep(seconds(60)).await;
    let ahead = world.ahead(id).await;
    assert!(
        ahead > seconds(400),
        "it says when it may be asked: {ahead:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_what_its_lane_does_not_know_asks_or_says_an_error() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    let purchase = world.purchase(id).await;
    let World {
        clock,
        journal,
        wire,
        accounts,
        tracker,
        work,
    } = world;
    tracker.drain().await;
    drop(work);
    // This process has not taken the purchase up yet.
    let tracker = Tracker::new(
        Arc::clone(&journal) as _,
        clock.clone(),
        &accounts,
        &testing::alone(&accounts),
    );
    wire.say([shows("FUNDS_RECEIVED")]);
    let asked = wire.asked();
    tracker.refresh(&purchase).await.unwrap();
    assert_eq!(wire.asked(), asked + 1);
    let status = journal.record(id).await.unwrap().unwrap().purchase.status;
    assert_eq!(status.state, State::Paid);
    // The purchase's account is not configured any more.
    let tracker = Tracker::new(journal, clock, &Accounts::default(), &Tenures::default());
    let refused = tracker.refresh(&purchase).await;
    assert!(matches!(refused, Err(Unheard::AccountMissing)));
}

#[tokio::test(start_paused = true)]
async fn a_purchase_that_somebody_has_named_is_asked_about_at_once() {
    let (world, id) = World::devdraft("AWAITING_FUNDS").await;
    tokio::time::sleep(seconds(3_600)).await;
    let lane = world.tracker.0.lanes.get(&AccountName::new("main"));
    lane.unwrap().remove(id);
    let before = world.wire.asked();
    world
        .decided(id, Cause::Operator, |status| {
            status.state = State::OutcomeUnknown;
        })
        .await;
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(world.wire.asked(), before + 1);
}
