//! Turns of purchases, long polls and their pauses, in virtual time.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;

use super::super::*;
use crate::{
    account::Account,
    cadence::{Policy, Schedule},
    journal::{Write, memory::MemoryJournal},
    provider::registered,
    purchase::{Reference, Revision, State, Status},
    testing::{self, clock},
    upstream::{
        Upstream,
        scripted::{Scripted, json_response},
    },
};

/// The requests that an upstream saw.
#[derive(Default)]
pub(super) struct Seen {
    now: AtomicU32,
    most_at_once: AtomicU32,
    pub(super) requests: AtomicU64,
    /// When each purchase was asked about, by the last part of its reference.
    pub(super) times: Mutex<HashMap<String, Vec<Instant>>>,
    /// The shortest time from the end of one request to the next about the same purchase.
    ends: Mutex<HashMap<String, Instant>>,
    shortest_gap: Mutex<Option<Duration>>,
}

/// An upstream that holds each request for `hold` and answers that nothing has happened.
pub(super) fn upstream(seen: &Arc<Seen>, hold: Duration) -> Arc<dyn Upstream> {
    let seen = Arc::clone(seen);
    Arc::new(Scripted::new(move |request| {
        let seen = Arc::clone(&seen);
        async move {
            let body: serde_json::Value =
                serde_json::from_slice(&request.body.unwrap_or_default()).unwrap_or_default();
            let name = match body.get("session_id").and_then(|name| name.as_str()) {
                Some(name) => name.to_owned(),
                None => request.path[request.path.len() - 2].clone(),
            };
            let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
            seen.most_at_once.fetch_max(now, Ordering::SeqCst);
            seen.requests.fetch_add(1, Ordering::SeqCst);
            let begins = Instant::now();
            let times = &seen.times;
            lock(times).entry(name.clone()).or_default().push(begins);
            if let Some(ended) = lock(&seen.ends).get(&name) {
                let gap = begins - *ended;
                let mut shortest = lock(&seen.shortest_gap);
                *shortest = Some(shortest.map_or(gap, |known| known.min(gap)));
            }
            tokio::time::sleep(hold).await;
            seen.now.fetch_sub(1, Ordering::SeqCst);
            lock(&seen.ends).insert(name.clone(), Instant::now());
            let body = json!({
                "result": { "session_id": name, "public_id": "_t1", "nfts": [] },
                "id": name,
                "status": "AWAITING_FUNDS",
            });
            Ok(json_response(200, &body))
        }
    }))
}

pub(super) async fn account(
    provider: &str,
    upstream: Arc<dyn Upstream>,
    clock: &Clock,
    change: impl FnOnce(&mut Policy),
) -> Arc<Account> {
    let mut policy = (registered(provider).unwrap().policy)();
    change(&mut policy);
    let budgets = testing::journal();
    testing::account(provider, provider, policy, upstream, clock, budgets).await
}

/// A purchase that has been open since now.
pub(super) fn record(number: u128, account: &str, reference: Reference, clock: &Clock) -> Record {
    let now = clock.now();
    let status = Status {
        revision: Revision(2),
        state: State::AwaitingPayment,
        reference: Some(reference),
        ..Status::pending(now)
    };
    testing::record(PurchaseId::from_u128(number), account, account, status)
}

pub(super) fn named(part: &str, number: u128) -> Reference {
    Reference::new([(part, format!("{number:032x}").as_str())])
}

async fn tracker(clock: &Clock, accounts: Vec<Arc<Account>>, records: Vec<Record>) -> Tracker {
    let journal = Arc::new(MemoryJournal::new("e"));
    let accounts = Accounts::new(accounts);
    let tenures = testing::alone(&accounts);
    let tracker = Tracker::new(journal, clock.clone(), &accounts, &tenures);
    for record in records {
        tracker.recover(&record).await.unwrap();
    }
    tracker
}

pub(super) fn runs(tracker: &Tracker) -> tokio::task::JoinHandle<()> {
    let tracker = tracker.clone();
    tokio::spawn(async move { tracker.run().await })
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_are_held_and_ordinary_polls_go_on_beside_them() {
    let clock = clock();
    let (held, ordinary) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let holding = upstream(&held, Duration::from_secs(6));
    let answering = upstream(&ordinary, Duration::from_millis(20));
    let accounts = vec![
        account("phygitals", holding, &clock, |_| ()).await,
        account("devdraft", answering, &clock, |_| ()).await,
    ];
    let mut records: Vec<Record> = (1..=2_500)
        .map(|number| record(number, "phygitals", named("session_id", number), &clock))
        .collect();
    let ordinary_one = named("transaction_id", 1);
    records.push(record(9_999, "devdraft", ordinary_one, &clock));
    let tracker = tracker(&clock, accounts, records).await;
    let running = runs(&tracker);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(held.most_at_once.load(Ordering::SeqCst), 1_000);
    let asked = lock(&held.times).values().map(Vec::len).min();
    assert_eq!(lock(&held.times).len(), 2_500, "everyone has had a turn");
    assert!(asked >= Some(2), "and another: {asked:?}");
    let polls = ordinary.requests.load(Ordering::SeqCst);
    assert!((20..=28).contains(&polls), "{polls} polls at 5 s in 120 s");
    // A held request ends on drain.
    let began = Instant::now();
    tracker.drain().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_that_answers_at_once_waits_for_the_gap() {
    let clock = clock();
    let seen = Arc::<Seen>::default();
    let account = account(
        "phygitals",
        upstream(&seen, Duration::ZERO),
        &clock,
        |policy| {
            // Faster than the documented gap.
            policy.schedule = Schedule::of(&[], 100);
        },
    );
    let one = record(1, "phygitals", named("session_id", 1), &clock);
    let tracker = tracker(&clock, vec![account.await], vec![one]).await;
    let running = runs(&tracker);
    tokio::time::sleep(Duration::from_secs(60)).await;
    tracker.drain().await;
    running.await.unwrap();
    let shortest = lock(&seen.shortest_gap).unwrap();
    assert!(shortest >= Duration::from_millis(500), "{shortest:?}");
    let requests = seen.requests.load(Ordering::SeqCst);
    assert!((55..=120).contains(&requests), "{requests} in 60 s");
}

/// Promise P6: while the budget suffices, each purchase is polled within twice its interval.
#[tokio::test(start_paused = true)]
async fn what_is_due_is_polled_within_twice_its_interval_while_the_budget_suffices() {
    let clock = clock();
    let seen = Arc::<Seen>::default();
    let answering = upstream(&seen, Duration::from_millis(200));
    // 7 at 5 s are 84 a minute; 90 are allowed.
    let account = account("devdraft", answering, &clock, |_| ()).await;
    let records = (1..=7).map(|number| {
        let reference = named("transaction_id", number);
        record(number, "devdraft", reference, &clock)
    });
    let tracker = tracker(&clock, vec![account], records.collect()).await;
    let running = runs(&tracker);
    tokio::time::sleep(Duration::from_secs(290)).await;
    tracker.drain().await;
    running.await.unwrap();
    for (name, times) in lock(&seen.times).iter() {
        let gaps = times.iter().zip(times.iter().skip(1));
        let longest = gaps.map(|(one, next)| *next - *one).max().unwrap();
        assert!(longest <= Duration::from_secs(10), "{name}: {longest:?}");
    }
}

/// Promise P6: no purchase starves. Ended ones neither starve nor take more than their fifth.
#[tokio::test(start_paused = true)]
async fn when_the_budget_does_not_suffice_no_gap_exceeds_the_stated_bound() {
    const OPEN: u128 = 60;
    const ENDED: u128 = 20;
    let clock = clock();
    let seen = Arc::<Seen>::default();
    let answering = upstream(&seen, Duration::from_millis(200));
    let account = account("devdraft", answering, &clock, |policy| {
        policy.schedule = Schedule::of(&[], 1_000);
        policy.after_terminal = Schedule::of(&[], 1_000);
    })
    .await;
    let records = (1..=OPEN + ENDED).map(|number| {
        let reference = named("transaction_id", number);
        let mut record = record(number, "devdraft", reference, &clock);
        if number > OPEN {
            let mut status = Status::clone(&record.purchase.status);
            status.finality = Finality::Terminal;
            record.purchase.status = Arc::new(status);
        }
        record
    });
    let tracker = tracker(&clock, vec![account], records.collect()).await;
    // One is watched by many, which must not cost the others their turns.
    let favourite = PurchaseId::from_u128(1);
    tracker.count_watchers(Box::new(move |id| usize::from(id == favourite) * 1_000_000));
    let running = runs(&tracker);
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    tracker.drain().await;
    running.await.unwrap();
    let times = lock(&seen.times);
    let gap = |number: u128| {
        let times = times.get(&format!("{number:032x}")).unwrap();
        let before = std::iter::once(&start).chain(times);
        let gaps = before.zip(times).map(|(one, next)| *next - *one);
        gaps.max().unwrap().as_secs()
    };
    let polls = |numbers: std::ops::RangeInclusive<u128>| -> usize {
        let of = |number| times.get(&format!("{number:032x}")).map_or(0, Vec::len);
        numbers.map(of).sum()
    };
    let (open, ended) = (polls(1..=OPEN), polls(OPEN + 1..=OPEN + ENDED));
    assert!(open + ended <= 90 * 60 + 5);
    assert!(
        (open + ended) / 11 <= ended,
        "{ended} of {open} are a tenth"
    );
    assert!(ended <= (open + ended) / 5, "{ended} of {open} are a fifth");
    // The bound that `cadence::turns` states, in seconds; a place that has ended gets each tenth
    // turn.
    let per_minute = open as u64 / 60;
    let open_bound = 2 + 10 * OPEN as u64 * 60 / per_minute;
    let ended_bound = 2 + 10 * ENDED as u64 * 60 / ((open + ended) as u64 / 60);
    let longest_open = (1..=OPEN).map(gap).max().unwrap();
    let longest_ended = (OPEN + 1..=OPEN + ENDED).map(gap).max().unwrap();
    assert!(longest_open <= open_bound, "{longest_open} {open_bound}");
    assert!(
        longest_ended <= ended_bound,
        "{longest_ended} {ended_bound}"
    );
    assert!(
        polls(1..=1) > 3 * open / OPEN as usize,
        "watched ones count more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reference_too_long_for_memory_is_read_from_the_journal() {
    let clock = clock();
    let seen = Arc::<Seen>::default();
    let answering = upstream(&seen, Duration::ZERO);
    let account = account("devdraft", answering, &clock, |_| ()).await;
    let long = "x".repeat(300);
    let known = record(
        1,
        "devdraft",
        Reference::new([("transaction_id", &long)]),
        &clock,
    );
    let journal = Arc::new(MemoryJournal::new("e"));
    let transitions = [1, 2].map(|number| crate::purchase::Transition {
        from_state: None,
        status: Status {
            revision: Revision(number),
            ..Status::clone(&known.purchase.status)
        },
        cause: crate::purchase::Cause::Create,
    });
    let begin = Write::Begin {
        record: Box::new(known),
        transitions: transitions.into(),
    };
    let accounts = Accounts::new([account]);
    let tracker = Tracker::new(
        Arc::clone(&journal) as _,
        clock.clone(),
        &accounts,
        &testing::alone(&accounts),
    );
    journal.write(begin).await.unwrap();
    let running = runs(&tracker);
    tokio::time::sleep(Duration::from_secs(20)).await;
    tracker.drain().await;
    running.await.unwrap();
    assert!(
        lock(&seen.times)
            .get(&long)
            .is_some_and(|times| times.len() >= 2)
    );
}
