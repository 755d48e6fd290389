//! S2 to S6 at the feed itself, in virtual time.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;

use super::*;
use crate::{
    journal::{
        Filter, Write, Written,
        memory::{Chances, MemoryJournal},
    },
    purchase::{BuyerAction, CallerName, Cause, Finality, Redirect, State, Status},
    testing,
};

mod feeds;
mod waits;

const HEARTBEAT: Duration = Duration::from_secs(10);

struct World {
    journal: Arc<MemoryJournal>,
    clock: Clock,
    feed: Feed,
    _work: tokio::task::JoinSet<()>,
}

fn purchase_id(number: u128) -> PurchaseId {
    PurchaseId::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 + number)
}

impl World {
    fn open() -> Self {
        Self::over(MemoryJournal::new("test"))
    }

    fn over(journal: MemoryJournal) -> Self {
        let journal = Arc::new(journal);
        let clock = testing::clock();
        let feed = Feed::new(Arc::clone(&journal) as Arc<dyn Journal>, clock.clone());
        let mut work = tokio::task::JoinSet::new();
        work.spawn({
            let feed = feed.clone();
            async move { feed.run().await }
        });
        Self {
            journal,
            clock,
            feed,
            _work: work,
        }
    }

    async fn begin(&self, number: u128) -> PurchaseId {
        let id = purchase_id(number);
        let status = Status::pending(self.clock.now());
        let mut record = testing::record(id, "main", "devdraft", status);
        let is_even = number.is_multiple_of(2);
        record.purchase.caller = CallerName::new(if is_even { "even" } else { "odd" });
        let begin = testing::begin(record);
        assert_eq!(self.journal.write(begin).await.unwrap(), Written::Done);
        id
    }

    async fn append(&self, id: PurchaseId, state: State, finality: Finality) -> Revision {
        self.append_with(id, state, finality, None).await
    }

    async fn append_with(
        &self,
        id: PurchaseId,
        state: State,
        finality: Finality,
        buyer_action: Option<BuyerAction>,
    ) -> Revision {
        let record = self.journal.record(id).await.unwrap().unwrap();
        let newest = &record.purchase.status;
        let status = Status {
            revision: newest.revision.next(),
            state,
            finality,
            observe_time: self.clock.now(),
            buyer_action,
            ..Status::clone(newest)
        };
        let revision = status.revision;
        let append = testing::append(id, testing::step(newest, status, Cause::Poll));
        assert_eq!(self.journal.write(append).await.unwrap(), Written::Done);
        revision
    }

    async fn open_steps(&self, id: PurchaseId, count: u32) {
        for place in 0..count {
            let state = [State::Created, State::AwaitingPayment][usize::from(place % 2 == 1)];
            self.append(id, state, Finality::Open).await;
            tokio::task::yield_now().await;
        }
    }

    async fn watch(&self, id: PurchaseId, cursor: Option<u32>, until: Until) -> Watch {
        let rhythm = Rhythm {
            heartbeat: HEARTBEAT,
            ends_at: None,
        };
        let cursor = cursor.map(Revision);
        let opened = self.feed.watch(id, cursor, until, rhythm).await;
        opened.unwrap().expect("it exists").1
    }
}

/// An event in few words: `=n` a snapshot, `n` a transition, `~n` a heartbeat.
fn word(event: Option<Result<Event, End>>) -> String {
    match event {
        Some(Ok(Event::Snapshot(status))) => format!("={}", status.revision),
        Some(Ok(Event::Transition(step))) => step.status.revision.to_string(),
        Some(Ok(Event::Heartbeat { revision })) => format!("~{revision}"),
        Some(Err(end)) => format!("{end:?}"),
        None => "end".to_owned(),
    }
}

async fn words(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut words = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(3_600), watch.next());
        words.push(next.await.map_or_else(|_| "silence".to_owned(), word));
    }
    words
}

#[tokio::test(start_paused = true)]
async fn s2_revisions_ascend_from_every_cursor_without_gap_or_duplicate_at_every_moment() {
    let world = Arc::new(World::open());
    let id = world.begin(1).await;
    let mut watchers = tokio::task::JoinSet::new();
    for cursor in 0..30 {
        let world = Arc::clone(&world);
        watchers.spawn(async move {
            // Each stream opens at another moment of the writing, with a cursor that has been reached.
            let opens_at = Revision(cursor);
            while world
                .journal
                .record(id)
                .await
                .unwrap()
                .unwrap()
                .purchase
                .status
                .revision
                < opens_at
            {
                tokio::task::yield_now().await;
            }
            let mut watch = world.watch(id, Some(cursor), Until::Final).await;
            let mut seen = Vec::new();
            while let Some(event) = watch.next().await {
                if let Event::Transition(step) = event.unwrap() {
                    seen.push(step.status.revision.0);
                }
                if cursor % 3 == 0 {
                    // The reader is slow, and the tail leaves it behind.
                    tokio::time::sleep(Duration::from_millis(7)).await;
                }
            }
            let all: Vec<u32> = (cursor + 1..=102).collect();
            assert_eq!(seen, all, "from {cursor}");
        });
    }
    world.open_steps(id, 100).await;
    world.append(id, State::Completed, Finality::Final).await;
    let done = watchers.join_all().await;
    assert_eq!(done.len(), 30);
    assert_eq!(
        world.feed.watchers(id),
        0,
        "a watcher that has gone costs nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn s5_a_watcher_that_does_not_read_misses_nothing_and_holds_nobody_up() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut idle = world.watch(id, Some(1), Until::Final).await;
    let mut quick = world.watch(id, Some(1), Until::Final).await;
    world.open_steps(id, 200).await;
    let all: Vec<String> = (2..=201)
        .map(|revision: u32| revision.to_string())
        .collect();
    assert_eq!(words(&mut quick, 200).await, all);
    assert_eq!(words(&mut idle, 200).await, all);
}

#[tokio::test(start_paused = true)]
async fn s3_nothing_is_lost_between_snapshot_and_live() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut watch = world.watch(id, None, Until::Final).await;
    world.open_steps(id, 2).await;
    assert_eq!(words(&mut watch, 4).await, ["=1", "2", "3", "~3"]);
    // A waiting stream hears of a commit at once, and not with its next heartbeat.
    let waits = tokio::spawn(async move { words(&mut watch, 1).await });
    tokio::task::yield_now().await;
    let began = Instant::now();
    world.append(id, State::Paid, Finality::Open).await;
    assert_eq!(waits.await.unwrap(), ["4"]);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn s4_a_heartbeat_follows_once_caught_up_and_after_each_silence() {
    let world = World::open();
    let id = world.begin(1).await;
    world.open_steps(id, 1).await;
    let mut watch = world.watch(id, Some(0), Until::Final).await;
    assert_eq!(words(&mut watch, 3).await, ["1", "2", "~2"]);
    for _ in 0..3 {
        let quiet = Instant::now();
        assert_eq!(words(&mut watch, 1).await, ["~2"]);
        let silence = quiet.elapsed();
        let late = HEARTBEAT + Duration::from_secs(2);
        assert!(silence >= HEARTBEAT && silence <= late, "{silence:?}");
    }
    // A transition is a sign of life: the silence begins anew.
    tokio::time::sleep(Duration::from_secs(7)).await;
    world.append(id, State::Paid, Finality::Open).await;
    assert_eq!(words(&mut watch, 1).await, ["3"]);
    let quiet = Instant::now();
    assert_eq!(words(&mut watch, 1).await, ["~3"]);
    assert!(quiet.elapsed() >= HEARTBEAT, "{:?}", quiet.elapsed());
}

#[tokio::test(start_paused = true)]
async fn s6_a_stream_ends_with_the_newest_status_where_that_is_terminal() {
    let world = World::open();
    let id = world.begin(1).await;
    world.append(id, State::Completed, Finality::Terminal).await;
    world.append(id, State::Disputed, Finality::Open).await;
    // A terminal revision that has a later one ends nothing.
    let mut watch = world.watch(id, Some(0), Until::Terminal).await;
    assert_eq!(words(&mut watch, 4).await, ["1", "2", "3", "~3"]);
    world.append(id, State::Refunded, Finality::Terminal).await;
    assert_eq!(words(&mut watch, 3).await, ["4", "end", "end"]);
    let mut at_end = world.watch(id, Some(4), Until::Terminal).await;
    assert_eq!(words(&mut at_end, 1).await, ["end"], "without a message");
    let mut snapshot = world.watch(id, None, Until::Terminal).await;
    assert_eq!(words(&mut snapshot, 2).await, ["=4", "end"]);
    let mut follows = world.watch(id, Some(4), Until::Final).await;
    assert_eq!(words(&mut follows, 1).await, ["~4"]);
    world.append(id, State::Refunded, Finality::Final).await;
    assert_eq!(words(&mut follows, 2).await, ["5", "end"]);
}

#[tokio::test(start_paused = true)]
async fn s6_a_drain_and_the_maximum_age_end_streams_after_what_is_committed() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut watch = world.watch(id, Some(1), Until::Final).await;
    assert_eq!(words(&mut watch, 1).await, ["~1"]);
    world.append(id, State::Created, Finality::Open).await;
    world.feed.drain();
    assert_eq!(words(&mut watch, 3).await, ["2", "Draining", "end"]);
    let mut late = world.watch(id, Some(2), Until::Final).await;
    assert_eq!(words(&mut late, 1).await, ["Draining"]);

    let world = World::open();
    let id = world.begin(1).await;
    let rhythm = Rhythm {
        heartbeat: Duration::from_secs(3_600),
        ends_at: Some(Instant::now() + Duration::from_secs(60)),
    };
    let opened = world
        .feed
        .watch(id, Some(Revision(1)), Until::Final, rhythm);
    let mut watch = opened.await.unwrap().unwrap().1;
    let began = Instant::now();
    assert_eq!(words(&mut watch, 3).await, ["~1", "Aged", "end"]);
    let age = began.elapsed().as_secs();
    assert!((60..=62).contains(&age), "{age} s");
}

#[tokio::test(start_paused = true)]
async fn s6_streams_outlive_the_journal_by_a_minute() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut watch = world.watch(id, Some(1), Until::Final).await;
    assert_eq!(words(&mut watch, 1).await, ["~1"]);
    world.journal.fail_writes(true);
    let put = || Write::Put {
        key: "k".to_owned(),
        fence: None,
        value: "v".to_owned(),
    };
    world.journal.write(put()).await.unwrap_err();
    let lost = Instant::now();
    let as_of = world.feed.as_of();
    assert_eq!(words(&mut watch, 1).await, ["~1"], "heartbeats go on");
    assert!(
        world.feed.as_of() <= as_of.plus(Duration::from_secs(1)),
        "with an ageing time"
    );
    let end = loop {
        match watch.next().await {
            Some(Ok(Event::Heartbeat { .. })) => {}
            other => break word(other),
        }
    };
    assert_eq!(end, "JournalLost");
    let lasted = lost.elapsed().as_secs();
    assert!((60..=62).contains(&lasted), "{lasted} s");
    world.journal.fail_writes(false);
    world.journal.write(put()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut again = world.watch(id, Some(1), Until::Final).await;
    assert_eq!(words(&mut again, 1).await, ["~1"], "work resumes by itself");
}

#[tokio::test(start_paused = true)]
async fn s6_a_silent_disk_is_a_journal_that_is_away() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut watch = world.watch(id, Some(1), Until::Final).await;
    assert_eq!(words(&mut watch, 1).await, ["~1"]);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    world.journal.stall_writes(true);
    let (begun, began) = (world.clock.now(), Instant::now());
    let put = || Write::Put {
        key: "k".to_owned(),
        fence: None,
        value: "v".to_owned(),
    };
    let journal = Arc::clone(&world.journal);
    let stalled = tokio::spawn(async move { journal.write(put()).await });
    for seconds in [1, 3, 3, 20] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        // The time stands at the beginning of the commit that the disk does not answer.
        assert_eq!(world.feed.as_of(), begun, "{:?}", began.elapsed());
    }
    world.journal.write(put()).await.unwrap_err();
    let end = loop {
        match watch.next().await {
            Some(Ok(Event::Heartbeat { .. })) => {}
            other => break word(other),
        }
    };
    assert_eq!(end, "JournalLost");
    let lasted = began.elapsed().as_secs();
    assert!((65..=67).contains(&lasted), "{lasted} s");
    world.journal.stall_writes(false);
    assert_eq!(stalled.await.unwrap().unwrap(), Written::Done);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.feed.as_of(), world.clock.now());
}

/// A stream can have read newer revisions from the journal than its channel has heard of.
#[tokio::test(start_paused = true)]
async fn s6_a_stream_that_is_ahead_of_the_word_does_not_end_with_an_open_status() {
    let world = World::open();
    let id = world.begin(1).await;
    world.append(id, State::Completed, Finality::Terminal).await;
    let mut resumes = world.watch(id, Some(0), Until::Terminal).await;
    // Another opening of the store tells its own observers alone.
    let writer = World::over(world.journal.reopened());
    writer.append(id, State::Disputed, Finality::Open).await;
    assert_eq!(words(&mut resumes, 4).await, ["1", "2", "3", "~3"]);
    writer.append(id, State::Refunded, Finality::Terminal).await;
    let mut resumes = world.watch(id, Some(2), Until::Terminal).await;
    assert_eq!(words(&mut resumes, 3).await, ["3", "4", "end"]);
}

async fn positions(stream: &mut WatchAll, count: usize) -> Vec<(Option<u32>, u64)> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let (event, position) = stream.next().await.unwrap().unwrap();
        let revision = match event {
            FeedEvent::Transition(one) => Some(one.purchase.status.revision.0),
            FeedEvent::Heartbeat => None,
        };
        seen.push((revision, position.0));
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn s3_a_stream_of_many_purchases_joins_what_is_stored_with_what_is_committed_next() {
    let before = World::open();
    let odd = before.begin(1).await;
    let even = before.begin(2).await;
    before.open_steps(odd, 1).await;
    // Another process has none of that in memory.
    let world = World::over(before.journal.reopened());
    let rhythm = Rhythm {
        heartbeat: HEARTBEAT,
        ends_at: None,
    };
    let filter = Filter {
        caller: Some(CallerName::new("odd")),
        ..Filter::default()
    };
    let mut own = world.feed.watch_all(filter, Position(0), rhythm);
    let mut all = world.feed.watch_all(Filter::default(), Position(1), rhythm);
    assert_eq!(
        positions(&mut own, 3).await,
        [(Some(1), 1), (Some(2), 3), (None, 3)]
    );
    world.open_steps(even, 1).await;
    world.open_steps(odd, 1).await;
    assert_eq!(positions(&mut own, 1).await, [(Some(3), 5)]);
    let rest = [
        (Some(1), 2),
        (Some(2), 3),
        (Some(2), 4),
        (Some(3), 5),
        (None, 5),
    ];
    assert_eq!(positions(&mut all, 5).await, rest);
    // A transition that the filter leaves out moves the position on all the same.
    world.open_steps(even, 1).await;
    assert_eq!(positions(&mut own, 1).await, [(None, 6)]);
    world.feed.drain();
    assert!(matches!(own.next().await, Some(Err(End::Draining))));
    assert!(own.next().await.is_none());
}

/// A reader can find a commit before the observers hear of it. A waiter must not sleep on, since the
/// observers' word is no news by then.
#[tokio::test(start_paused = true)]
async fn s3_who_waits_is_woken_by_a_reader_that_is_ahead_of_the_word() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut waits = world.watch(id, Some(1), Until::Final).await;
    assert_eq!(words(&mut waits, 1).await, ["~1"]);
    // Another opening of the store tells its own observers alone.
    let writer = World::over(world.journal.reopened());
    writer.append(id, State::Paid, Finality::Open).await;
    let began = Instant::now();
    // The wait is a task of its own, which nothing but its waker polls.
    let waits = tokio::spawn(async move { words(&mut waits, 1).await });
    tokio::task::yield_now().await;
    let mut ahead = world.watch(id, Some(1), Until::Final).await;
    assert_eq!(waits.await.unwrap(), ["2"]);
    assert_eq!(words(&mut ahead, 1).await, ["2"]);
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "it slept until a heartbeat"
    );
}

#[tokio::test(start_paused = true)]
async fn s4_a_stream_that_waits_for_the_journal_is_shown_to_be_alive() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut behind = world.watch(id, Some(1), Until::Final).await;
    let rhythm = Rhythm {
        heartbeat: HEARTBEAT,
        ends_at: Some(Instant::now() + Duration::from_secs(35)),
    };
    let mut all = world.feed.watch_all(Filter::default(), Position(0), rhythm);
    // There is more than the tail holds, and nobody can read the journal.
    world.open_steps(id, 40).await;
    let unread = World::over(world.journal.reopened());
    let mut stored = unread
        .feed
        .watch_all(Filter::default(), Position(0), rhythm);
    unread.journal.close().await;
    world.journal.close().await;
    assert_eq!(positions(&mut all, 1).await, [(Some(1), 1)], "from memory");
    for _ in 0..3 {
        let quiet = Instant::now();
        assert_eq!(words(&mut behind, 1).await, ["~1"]);
        let silence = quiet.elapsed();
        let late = HEARTBEAT + Duration::from_secs(2);
        assert!(silence >= HEARTBEAT && silence <= late, "{silence:?}");
    }
    let beats = positions(&mut stored, 1).await;
    assert_eq!(beats, [(None, 0)], "at the position that it has reached");
    assert!(matches!(stored.next().await, Some(Err(End::Aged))));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_where_retention_has_taken_what_it_has_not_sent() {
    let world = World::open();
    let id = world.begin(1).await;
    let mut behind = world.watch(id, Some(1), Until::Final).await;
    world.open_steps(id, 40).await;
    world.append(id, State::Completed, Finality::Final).await;
    let later = world.clock.now().plus(Duration::from_secs(1));
    let retired = testing::retire(&*world.journal, later, Timestamp::default(), 10).await;
    assert!(retired.unwrap() > 0);
    assert_eq!(words(&mut behind, 2).await, ["Gone", "end"]);
}

/// Promise D2: a buyer action that the journal wipes does not live on in memory.
#[tokio::test(start_paused = true)]
async fn d2_a_buyer_action_is_forgotten_with_its_time() {
    let world = World::open();
    let id = world.begin(1).await;
    let _watch = world.watch(id, Some(1), Until::Final).await;
    let life = Duration::from_secs(3_600);
    let form = BuyerAction::Redirect(Redirect {
        url: "https://acs.example.test/".to_owned(),
        method: "POST".to_owned(),
        form_fields: BTreeMap::from([("PaReq".to_owned(), "canary".to_owned())]),
        expire_time: Some(world.clock.now().plus(life)),
    });
    world
        .append_with(id, State::Created, Finality::Open, Some(form))
        .await;
    let holds = |text: &str| text.contains("canary");
    let channels = || format!("{:?}", world.feed.0.channels);
    assert!(holds(&channels()), "as long as it is of use");
    let ring = format!("{:?}", lock(&world.feed.0.ring));
    assert!(!holds(&ring), "feeds never show it: {ring}");
    tokio::time::sleep(life + Duration::from_secs(2)).await;
    assert!(!holds(&channels()), "{}", channels());
}
