//! Requests that an account lets through, in virtual time.

mod clock;
mod flight;
mod gate;
mod reload;
mod replicas;
mod shares;
mod trouble;

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::{
    cadence::{Policy, Schedule},
    journal::Journal,
    observation::Submitted,
    purchase::Reference,
    testing::{self, clock, journal},
    upstream::{
        Upstream,
        scripted::{Scripted, json_response},
    },
};

fn policy(requests_per_minute: u32) -> Policy {
    Policy {
        requests_per_minute,
        ..Policy::common(Schedule::of(&[], 5_000))
    }
}

/// An account without a past.
async fn open(policy: Policy, status: u16) -> Arc<Account> {
    open_at(policy, status, &journal(), &clock()).await
}

async fn open_at(
    policy: Policy,
    status: u16,
    journal: &Arc<dyn Journal>,
    clock: &Clock,
) -> Arc<Account> {
    let answer = move |_| async move { Ok(json_response(status, &serde_json::json!({}))) };
    let (upstream, journal) = (Arc::new(Scripted::new(answer)), Arc::clone(journal));
    testing::account("a", "devdraft", policy, upstream, clock, journal).await
}

/// An account without a past whose provider answers so.
async fn asking(policy: Policy, upstream: Scripted) -> Arc<Account> {
    let upstream = Arc::new(upstream);
    testing::account("a", "devdraft", policy, upstream, &clock(), journal()).await
}

fn request() -> Request {
    Request::new(::http::Method::GET, ["x"])
}

async fn forever(account: &Arc<Account>, class: Class) -> Admission {
    let deadline = account.clock.moment().plus(Duration::from_secs(86_400));
    account.admit(class, deadline).await.unwrap()
}

/// For all that is asked: status, look-up and page.
#[tokio::test]
async fn a_large_answer_to_any_read_is_read_beside_the_event_loop() {
    let large = serde_json::json!({ "pad": " ".repeat(64 * 1024) });
    let upstream = Scripted::new(move |_| {
        let answer = json_response(200, &large);
        async move { Ok(answer) }
    });
    let account = asking(policy(0), upstream).await;
    let mut admission = forever(&account, Class::LookUp).await;
    let read = |_: &Response, _| Ok(std::thread::current().id());
    let asked = account.read(&mut admission, request(), read).await;
    assert_ne!(asked.said, Ok(std::thread::current().id()));
    assert_eq!(asked.whose, None);
}

#[tokio::test(start_paused = true)]
async fn a_read_without_an_answer_is_trouble_with_an_owner() {
    let table = [
        (UpstreamError::NotConnected("refused"), false),
        (UpstreamError::Lost("reset"), true),
    ];
    for (error, expected) in table {
        let upstream = Scripted::new(move |_| {
            let error = error.clone();
            async move { Err(error) }
        });
        let account = asking(policy(0), upstream).await;
        let mut admission = forever(&account, Class::Poll).await;
        let reference = Reference::new([("transaction_id", "txn_1")]);
        let asked = account.read_status(&mut admission, &reference).await;
        let Err(Trouble::Unreachable { sent, .. }) = asked.said else {
            panic!("{:?}", asked.said);
        };
        assert_eq!(sent, expected);
        assert!(asked.whose.is_some());
    }
}

/// Learns of this trouble from an answer to a request of this class.
async fn learned(account: &Arc<Account>, class: Class, trouble: &Trouble) -> Whose {
    let mut admission = forever(account, class).await;
    account.ask(&mut admission, request()).await.unwrap();
    account.blame(&mut admission, trouble)
}

/// Promise P2, for one process and its restarts.
#[tokio::test(start_paused = true)]
async fn no_account_exceeds_its_requests_per_minute_over_restarts() {
    let (journal, clock) = (journal(), clock());
    let start = tokio::time::Instant::now();
    let mut sent = Vec::new();
    while start.elapsed() < Duration::from_secs(180) {
        // Each life of the process makes a few requests and dies without a word.
        let account = open_at(policy(100), 200, &journal, &clock).await;
        for _ in 0..7 {
            forever(&account, Class::Poll).await;
            sent.push(start.elapsed());
        }
    }
    for (place, first) in sent.iter().enumerate() {
        let minute = *first + Duration::from_secs(60);
        let within = sent[place..]
            .iter()
            .take_while(|time| **time < minute)
            .count();
        assert!(within <= 100, "{within} requests in a minute");
    }
}

/// Promise P2, in crash loops: lives of random length, requests of random classes, in any 60 s and
/// in each minute of the clock.
#[tokio::test(start_paused = true)]
async fn no_account_exceeds_its_requests_per_minute_in_crash_loops() {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    const CLASSES: [Class; 6] = [
        Class::Create,
        Class::Adopt,
        Class::LookUp,
        Class::Poll,
        Class::AfterTerminal,
        Class::Refresh,
    ];
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let limit = [1, 7, 20, 100, 100, 600][usize::try_from(seed).unwrap()];
        let journal = journal();
        let clock = clock();
        let mut sent = Vec::new();
        while clock.now().as_millis() < 1_800_000_000_000 + 900_000 {
            let account = open_at(policy(limit), 200, &journal, &clock).await;
            for _ in 0..random.random_range(0..limit * 2) {
                let class = CLASSES[random.random_range(0..CLASSES.len())];
                let wait = Duration::from_millis(random.random_range(0..8_000));
                if account
                    .admit(class, clock.moment().plus(wait))
                    .await
                    .is_ok()
                {
                    sent.push(clock.now().as_millis());
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(1..20_000))).await;
        }
        let most = |window: &dyn Fn(i64, i64) -> bool| {
            let within = |first: &i64| sent.iter().filter(|time| window(*first, **time)).count();
            sent.iter().map(within).max().unwrap()
        };
        let limit = usize::try_from(limit).unwrap();
        let sliding = most(&|first, time| (first..first + 60_000).contains(&time));
        let fixed = most(&|first, time| first / 60_000 == time / 60_000);
        assert!(sliding <= limit, "{sliding} of {limit} in 60 s");
        assert!(
            fixed <= limit,
            "{fixed} of {limit} in a minute of the clock"
        );
        assert!(sent.len() > 2 * limit, "{} sent at {limit}", sent.len());
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_slows_down_where_a_provider_throttles_without_a_word() {
    let account = open(policy(100), 200).await;
    for _ in 0..90 {
        forever(&account, Class::Poll).await;
    }
    learned(
        &account,
        Class::Poll,
        &Trouble::Throttled { retry_after: None },
    )
    .await;
    let slowed = account.snapshot();
    assert!(
        (40..=50).contains(&slowed.requests_per_minute),
        "{slowed:?}"
    );
    assert_eq!(slowed.health, Health::Degraded);
    assert!(slowed.note.contains("requests a minute"), "{}", slowed.note);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let start = tokio::time::Instant::now();
    for _ in 0..30 {
        forever(&account, Class::Poll).await;
    }
    assert!(start.elapsed() > Duration::from_secs(30), "it keeps to it");
    tokio::time::sleep(Duration::from_secs(1_200)).await;
    assert_eq!(account.snapshot().requests_per_minute, 100);
    assert_eq!(account.snapshot().health, Health::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_that_says_how_long_lowers_no_limit() {
    let account = open(policy(100), 429).await;
    let retry_after = Some(Duration::from_secs(1));
    learned(&account, Class::Poll, &Trouble::Throttled { retry_after }).await;
    assert_eq!(account.snapshot().requests_per_minute, 100);
}

#[tokio::test(start_paused = true)]
async fn a_create_does_not_wait_for_polls() {
    let account = open(policy(100), 200).await;
    let polls = tokio::spawn({
        let account = Arc::clone(&account);
        async move {
            loop {
                forever(&account, Class::Poll).await;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(120)).await;
    let deadline = account.clock.moment().plus(Duration::from_secs(2));
    assert!(account.admit(Class::Create, deadline).await.is_ok());
    polls.abort();
}

#[tokio::test(start_paused = true)]
async fn a_block_of_budget_is_one_write() {
    let journal = journal();
    let account = open_at(policy(6_000), 200, &journal, &clock()).await;
    let start = tokio::time::Instant::now();
    for _ in 0..1_000 {
        forever(&account, Class::Poll).await;
    }
    let blocks = start.elapsed().as_secs() / 5 + 2;
    let writes = journal.commits();
    assert!(writes <= blocks, "{writes} writes in {blocks} blocks");
}

#[tokio::test(start_paused = true)]
async fn a_throttle_pauses_the_whole_account_for_as_long_as_it_says() {
    let account = open(policy(0), 429).await;
    let mut admission = forever(&account, Class::Poll).await;
    account.ask(&mut admission, request()).await.unwrap();
    let retry_after = Some(Duration::from_secs(45));
    learned(&account, Class::Poll, &Trouble::Throttled { retry_after }).await;
    let refusal = account.try_admit(Class::Create).await.unwrap_err();
    let retry_at = account.clock.moment().plus(Duration::from_secs(45));
    assert_eq!(refusal, Refusal::Throttled { retry_at });
    assert_eq!(account.snapshot().health, Health::Degraded);
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert!(account.try_admit(Class::Create).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn whoever_is_throttled_without_a_word_is_told_the_accounts_own_pause() {
    let account = open(policy(0), 429).await;
    let trouble = Trouble::Throttled { retry_after: None };
    learned(&account, Class::Poll, &trouble).await;
    let pause = account.paused_for(account.clock.moment());
    assert!(pause >= Duration::from_secs(5), "{pause:?}");
    let retry_at = account.unheard(trouble).retry_at();
    assert_eq!(retry_at, Some(account.clock.moment().plus(pause)));
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_tried_once_a_minute_and_recover() {
    let account = open(policy(0), 200).await;
    learned(&account, Class::Poll, &Trouble::Unauthorized).await;
    assert_eq!(account.snapshot().health, Health::Unauthorized);
    assert!(matches!(
        account.try_admit(Class::Poll).await,
        Err(Refusal::Unauthorized { .. })
    ));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut probe = account.try_admit(Class::Poll).await.unwrap();
    assert!(matches!(
        account.try_admit(Class::Poll).await,
        Err(Refusal::Unauthorized { .. })
    ));
    account.ask(&mut probe, request()).await.unwrap();
    assert_eq!(account.snapshot().health, Health::Ok);
    assert!(account.try_admit(Class::Poll).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded_and_given_back() {
    let bounded = Policy {
        max_in_flight: 8,
        ..policy(0)
    };
    let account = open(bounded, 200).await;
    let mut admissions = Vec::new();
    while let Ok(admission) = account.try_admit(Class::Poll).await {
        admissions.push(admission);
    }
    assert_eq!(admissions.len(), 7, "the last place is for creates");
    let create = account.try_admit(Class::Create).await.unwrap();
    assert!(matches!(
        account.try_admit(Class::Create).await,
        Err(Refusal::Busy { .. })
    ));
    drop((create, admissions));
    assert_eq!(account.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_probes_and_fails_does_not_keep_the_breaker_to_itself() {
    let account = open(policy(0), 500).await;
    let mut probes = 0;
    for _ in 0..40 {
        // A create's answer is judged elsewhere: nothing more is learned of it here.
        let deadline = account.clock.moment().plus(Duration::from_secs(90));
        let mut admission = account.admit(Class::Create, deadline).await.unwrap();
        account.ask(&mut admission, request()).await.unwrap();
        probes += 1;
    }
    assert_eq!(probes, 40);
    assert!(account.snapshot().breaker_open);
}

/// An account whose kept connections are closed for the first so many requests, and the connections
/// that they were made on.
async fn closing(policy: Policy, closed: usize) -> (Arc<Account>, Arc<Mutex<Vec<Connection>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let answer = move |request: Request| {
        let mut noted = noted.lock().unwrap();
        noted.push(request.connection);
        let answer = match noted.len() <= closed {
            true => Err(UpstreamError::Closed),
            false => Ok(json_response(200, &serde_json::json!({}))),
        };
        std::future::ready(answer)
    };
    let account = asking(policy, Scripted::new(answer)).await;
    (account, seen)
}

/// Promise P2: both requests take a slot.
#[tokio::test(start_paused = true)]
async fn a_read_whose_kept_connection_closed_is_sent_again_once_with_a_slot_of_its_own() {
    let narrow = Policy {
        max_in_flight: 1,
        ..policy(60)
    };
    let (account, seen) = closing(narrow, 1).await;
    let mut admission = forever(&account, Class::Poll).await;
    let answer = account.ask(&mut admission, request()).await;
    assert_eq!(answer.unwrap().status, 200);
    assert_eq!(account.snapshot().requests_last_minute, 2);
    let expected = [Connection::Pooled, Connection::Fresh];
    assert_eq!(*seen.lock().unwrap(), expected);
    drop(admission);
    let requests = account.snapshot().figures.requests;
    assert_eq!(requests[&(Class::Poll, Outcome::Lost)], 1);
    assert_eq!(requests[&(Class::Poll, Outcome::Answered)], 1);
    assert_eq!(requests.len(), 2, "{requests:?}");
    let next = tokio::time::timeout(Duration::from_secs(2), forever(&account, Class::Poll));
    assert!(next.await.is_ok(), "both places in flight are given back");
}

#[tokio::test(start_paused = true)]
async fn a_create_is_never_sent_again_and_a_read_once_at_the_most() {
    for (class, sent) in [(Class::Create, 1), (Class::Poll, 2), (Class::Adopt, 2)] {
        let (account, seen) = closing(policy(0), 9).await;
        let mut admission = forever(&account, class).await;
        let answer = account.ask(&mut admission, request()).await;
        assert_eq!(
            answer.unwrap_err(),
            Unanswered::Failed(UpstreamError::Closed)
        );
        assert_eq!(seen.lock().unwrap().len(), sent, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_does_not_stop_single_reads() {
    let account = open(policy(0), 500).await;
    for _ in 0..20 {
        let mut admission = forever(&account, Class::Sweep).await;
        account.ask(&mut admission, request()).await.unwrap();
    }
    assert!(!account.snapshot().breaker_open);
    assert!(account.try_admit(Class::Poll).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn look_ups_of_unclear_creates_take_a_tenth() {
    let account = open(policy(120), 200).await;
    let start = tokio::time::Instant::now();
    for _ in 0..24 {
        forever(&account, Class::LookUp).await;
    }
    let (least, most) = (Duration::from_secs(115), Duration::from_secs(135));
    let took = start.elapsed();
    assert!(least <= took && took <= most, "{took:?}");
    assert!(account.try_admit(Class::Poll).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_sweep_goes_before_polls_and_leaves_them_half() {
    let account = open(policy(100), 200).await;
    let polled = Arc::new(AtomicU32::new(0));
    let mut polls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (account, polled) = (Arc::clone(&account), Arc::clone(&polled));
        polls.spawn(async move {
            loop {
                forever(&account, Class::Poll).await;
                polled.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    polled.store(0, Ordering::Relaxed);
    let swept = Arc::new(AtomicU32::new(0));
    // Behind the others in every queue there is.
    polls.spawn({
        let swept = Arc::clone(&swept);
        async move {
            loop {
                forever(&account, Class::Sweep).await;
                swept.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(120)).await;
    polls.abort_all();
    let (polled, swept) = (
        polled.load(Ordering::Relaxed),
        swept.load(Ordering::Relaxed),
    );
    assert!(swept > 60, "{swept} pages in two minutes");
    assert!(polled > 60, "{polled} polls beside {swept} pages");
}
