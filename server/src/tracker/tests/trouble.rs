//! One account in trouble beside one that is well, in virtual time.

mod probes;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;

use super::super::*;
use crate::{
    account::{Account, Class, Health},
    cadence::{Policy, Schedule},
    journal::{Record, memory::MemoryJournal},
    purchase::{AttentionReason, Reference, State, Status, Timestamp},
    testing,
    upstream::{
        Request, Response, UpstreamError,
        scripted::{Scripted, json_response},
    },
};

/// The fate of an account's requests.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Well,
    Hangs,
    NoConnection,
    TooLarge,
    ServerError,
    Unauthorized,
    Throttled,
    Html,
    CutShort,
    Redirect,
    /// The last purchase alone cannot be read.
    One(One),
    /// The purchases from this one on cannot be read.
    From(u128, One),
}

/// The fate of all requests about one purchase.
#[derive(Debug, Clone, Copy, PartialEq)]
enum One {
    Status(u16),
    /// With this Retry-After.
    Throttled(u16, &'static str),
    Hangs,
    Garbage,
    Html,
}

const ONES: [One; 11] = [
    One::Status(401),
    One::Status(403),
    One::Status(404),
    One::Status(429),
    One::Throttled(429, "30"),
    One::Status(500),
    One::Status(503),
    One::Throttled(503, "60"),
    One::Hangs,
    One::Garbage,
    One::Html,
];

const TROUBLES: [Mode; 9] = [
    Mode::Hangs,
    Mode::NoConnection,
    Mode::TooLarge,
    Mode::ServerError,
    Mode::Unauthorized,
    Mode::Throttled,
    Mode::Html,
    Mode::CutShort,
    Mode::Redirect,
];

const LAST: u128 = 5;

async fn answer_to_one(one: One, mut response: Response) -> Response {
    match one {
        One::Status(404) => {
            let unknown = json!({ "statusCode": 404, "message": "not found" });
            response = json_response(404, &unknown);
        }
        One::Status(status) => response.status = status,
        One::Throttled(status, seconds) => {
            response.status = status;
            (response.headers).insert("retry-after", seconds.parse().unwrap());
        }
        One::Hangs => std::future::pending().await,
        One::Garbage => response.body = "{\"id\":7".into(),
        One::Html => {
            response.status = 403;
            response.body = "<html>Forbidden</html>".into();
        }
    }
    response
}

async fn answer(mode: Mode, request: Request) -> Result<Response, UpstreamError> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let id = request.path.get(3).cloned().unwrap_or_default();
    let whole = json!({ "id": id, "status": "FUNDS_RECEIVED" });
    let mut response = json_response(200, &whole);
    match mode {
        Mode::One(one) if id == format!("txn_{LAST:026}") => {
            response = answer_to_one(one, response).await;
        }
        Mode::From(first, one) if id >= format!("txn_{first:026}") => {
            response = answer_to_one(one, response).await;
        }
        Mode::Well | Mode::One(_) | Mode::From(..) => {}
        Mode::Hangs => std::future::pending().await,
        Mode::NoConnection => return Err(UpstreamError::NotConnected("connection failed")),
        Mode::TooLarge => return Err(UpstreamError::Unusable("body too large")),
        Mode::Redirect => return Err(UpstreamError::Unusable("redirect")),
        Mode::ServerError => response.status = 503,
        Mode::Unauthorized => response.status = 401,
        Mode::Throttled => response.status = 429,
        Mode::Html => response.body = "<html>Bad gateway</html>".into(),
        Mode::CutShort => response.body = response.body.slice(..20),
    }
    Ok(response)
}

struct House {
    clock: Clock,
    journal: Arc<MemoryJournal>,
    accounts: Accounts,
    tracker: Tracker,
    mode: Arc<Mutex<Mode>>,
    /// Requests of the account in trouble, and of the one that is well.
    sent: Arc<[AtomicUsize; 2]>,
    /// Requests about the purchases that cannot be read.
    vain: Arc<AtomicUsize>,
    /// The purchases that the account in trouble was asked about, by their names there.
    asked: Arc<Mutex<Vec<String>>>,
}

const NAMES: [&str; 2] = ["troubled", "well"];

impl House {
    async fn new() -> Self {
        Self::with(0, Schedule::of(&[], 5_000)).await
    }

    async fn with(requests_per_minute: u32, schedule: Schedule) -> Self {
        let start = Timestamp::from_millis(1_800_000_000_000).unwrap();
        let clock = Clock::simulated(start, 3);
        let journal = Arc::new(MemoryJournal::new("e"));
        let mode = Arc::new(Mutex::new(Mode::Well));
        let sent: Arc<[AtomicUsize; 2]> = Arc::default();
        let vain: Arc<AtomicUsize> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut accounts = Vec::new();
        for (place, name) in NAMES.into_iter().enumerate() {
            let (mode, sent) = (Arc::clone(&mode), Arc::clone(&sent));
            let (vain, asked) = (Arc::clone(&vain), Arc::clone(&asked));
            let upstream = Scripted::new(move |request| {
                sent[place].fetch_add(1, Ordering::Relaxed);
                if place == 0 {
                    lock(&asked).extend(request.path.get(3).cloned());
                }
                let mode = if place == 0 { *lock(&mode) } else { Mode::Well };
                if let Mode::From(first, _) = mode
                    && request.path.get(3) >= Some(&format!("txn_{first:026}"))
                {
                    vain.fetch_add(1, Ordering::Relaxed);
                }
                answer(mode, request)
            });
            let policy = Policy {
                timeout: Duration::from_secs(2),
                requests_per_minute,
                max_in_flight: 10_000,
                ..Policy::common(schedule.clone())
            };
            let (upstream, shared) = (Arc::new(upstream), Arc::clone(&journal) as _);
            let account = testing::account(name, "devdraft", policy, upstream, &clock, shared);
            accounts.push(account.await);
        }
        let accounts = Accounts::new(accounts);
        let tracker = Tracker::new(
            Arc::clone(&journal) as _,
            clock.clone(),
            &accounts,
            &testing::alone(&accounts),
        );
        Self {
            clock,
            journal,
            accounts,
            tracker,
            mode,
            sent,
            vain,
            asked,
        }
    }

    async fn buy(&self, number: u128, account: &str) {
        let now = self.clock.now();
        let mut status = Status::pending(now);
        status.state = State::Created;
        let id = format!("txn_{number:026}");
        status.reference = Some(Reference::new([("transaction_id", id.as_str())]));
        let id = PurchaseId::from_u128(number);
        let begin = testing::begin(testing::record(id, account, "devdraft", status));
        self.journal.write(begin).await.unwrap();
    }

    async fn purchase(&self, number: u128) -> Purchase {
        self.record(number).await.purchase
    }

    async fn record(&self, number: u128) -> Record {
        let id = PurchaseId::from_u128(number);
        self.journal.record(id).await.unwrap().unwrap()
    }

    fn account(&self, place: usize) -> Arc<Account> {
        self.accounts.get(&AccountName::new(NAMES[place])).unwrap()
    }

    fn sent(&self, place: usize) -> usize {
        self.sent[place].swap(0, Ordering::Relaxed)
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Each account has 20 purchases; the first gets into each kind of trouble for 5 minutes.
#[tokio::test(start_paused = true)]
async fn one_accounts_trouble_leaves_the_others_freshness_as_it_was() {
    let house = House::new().await;
    let told = async {
        for number in 0..40 {
            let account = NAMES[usize::from(number >= 20)];
            house.buy(number, account).await;
        }
        seconds(30).await;
        house.sent(1);
        seconds(300).await;
        let usual = house.sent(1);
        for trouble in TROUBLES {
            *lock(&house.mode) = trouble;
            let before = house.purchase(3).await;
            house.sent(0);
            for _ in 0..60 {
                seconds(5).await;
                for number in 20..40 {
                    let fresh = house.tracker.freshness(&house.purchase(number).await);
                    let age = house.clock.now().since(fresh.last_answer_time.unwrap());
                    assert!(age < Duration::from_secs(10), "{trouble:?}: {age:?}");
                }
            }
            let during = house.sent(1);
            assert!(
                during.abs_diff(usual) * 20 < usual,
                "{trouble:?}: {during} of {usual}"
            );
            // Nothing is invented, and callers see how old the news are.
            let purchase = house.purchase(3).await;
            assert_eq!(purchase.status, before.status, "{trouble:?}");
            let fresh = house.tracker.freshness(&purchase);
            let mut failures = 0;
            for number in 0..20 {
                let purchase = house.purchase(number).await;
                failures += house.tracker.freshness(&purchase).consecutive_failures;
            }
            // Behind an open breaker not every purchase has its turn in five minutes.
            assert!(failures > 0 || trouble == Mode::Unauthorized, "{trouble:?}");
            let age = house.clock.now().since(fresh.last_answer_time.unwrap());
            assert!(age >= Duration::from_secs(290), "{trouble:?}: {age:?}");
            let asked = house.sent(0);
            match trouble {
                Mode::Unauthorized => assert!((4..=26).contains(&asked), "{asked} probes"),
                Mode::Html | Mode::CutShort => assert!(asked > 100, "{asked} polls"),
                _ => assert!(asked < 400, "{trouble:?}: {asked} requests"),
            }
            // The account recovers by itself.
            *lock(&house.mode) = Mode::Well;
            seconds(150).await;
            let fresh = house.tracker.freshness(&house.purchase(3).await);
            let age = house.clock.now().since(fresh.last_answer_time.unwrap());
            assert!(age < Duration::from_secs(15), "{trouble:?}: {age:?}");
            assert_eq!(
                house.account(0).snapshot().health,
                Health::Ok,
                "{trouble:?}"
            );
            house.sent(1);
        }
    };
    tokio::select! {
        biased;
        () = house.tracker.run() => panic!("the tracker stopped by itself"),
        () = told => {}
    }
}

/// One of six purchases gets a bad answer for ever. Its polls back off, and a person is told. Polls
/// of the others, and creates, go on as before.
#[tokio::test(start_paused = true)]
async fn one_purchases_trouble_leaves_the_rest_of_its_account_as_it_was() {
    for one in ONES {
        let house = House::new().await;
        let told = async {
            for number in 0..=LAST {
                house.buy(number, NAMES[0]).await;
            }
            seconds(30).await;
            *lock(&house.mode) = Mode::One(one);
            // The first bad answer may be the account's trouble.
            seconds(120).await;
            house.sent(0);
            for _ in 0..120 {
                seconds(5).await;
                for number in 0..LAST {
                    let fresh = house.tracker.freshness(&house.purchase(number).await);
                    let age = house.clock.now().since(fresh.last_answer_time.unwrap());
                    assert!(age < Duration::from_secs(6), "{one:?}: {age:?}");
                }
                let create = house.account(0).try_admit(Class::Create).await;
                create.unwrap().ends();
            }
            let asked = house.sent(0);
            let good = usize::try_from(LAST).unwrap() * 120;
            assert!(
                (good * 19 / 20..good + 30).contains(&asked),
                "{one:?}: {asked}"
            );
            let snapshot = house.account(0).snapshot();
            assert_eq!(snapshot.health, Health::Ok, "{one:?}: {}", snapshot.note);
            assert_eq!(snapshot.requests_per_minute, 0, "{one:?}");
            let bad = house.purchase(LAST).await;
            let fresh = house.tracker.freshness(&bad);
            assert!(fresh.consecutive_failures > 5, "{one:?}");
            seconds(60).await;
            let reason = match one {
                One::Status(404) => AttentionReason::NotFoundAtProvider,
                _ => AttentionReason::UnreadableAtProvider,
            };
            let bad = house.purchase(LAST).await.status;
            assert_eq!(bad.attention_reason(), Some(reason), "{one:?}");
            *lock(&house.mode) = Mode::Well;
            seconds(150).await;
            let bad = house.purchase(LAST).await.status;
            assert_eq!(bad.attention_reason(), None, "{one:?}");
        };
        tokio::select! {
            biased;
            () = house.tracker.run() => panic!("the tracker stopped by itself"),
            () = told => {}
        }
    }
}

/// No other purchase's answer says that the provider is well. Polls back off, and after ten minutes
/// a person is told, which is no change. The next readable answer ends that.
#[tokio::test(start_paused = true)]
async fn a_purchase_that_is_never_readable_needs_a_person_after_ten_minutes() {
    for one in ONES {
        let alone = House::new().await;
        let waiting = async {
            alone.buy(LAST, NAMES[0]).await;
            seconds(62).await;
            let before = alone.record(LAST).await;
            assert_eq!(before.purchase.status.state, State::Paid);
            *lock(&alone.mode) = Mode::One(one);
            // All 429s of a purchase that is alone may be the account's.
            let paused = matches!(one, One::Throttled(429, _) | One::Status(429));
            let expected = match one {
                One::Status(404) => Some(AttentionReason::NotFoundAtProvider),
                _ if paused => None,
                _ => Some(AttentionReason::UnreadableAtProvider),
            };
            alone.sent(0);
            for minute in 0..20 {
                seconds(60).await;
                let status = alone.purchase(LAST).await.status;
                let reason = status.attention_reason();
                match minute {
                    0..9 if one == One::Status(404) => assert_eq!(reason, expected),
                    0..9 => assert_eq!(reason, None, "{one:?} in minute {minute}"),
                    9..12 => {}
                    _ => assert_eq!(reason, expected, "{one:?} in minute {minute}"),
                }
                match alone.account(0).try_admit(Class::Create).await {
                    Ok(create) => create.ends(),
                    Err(refusal) => assert!(
                        paused || one == One::Throttled(503, "60"),
                        "{one:?}: {refusal:?}"
                    ),
                }
            }
            let asked = alone.sent(0);
            assert!((10..=60).contains(&asked), "{one:?}: it backs off: {asked}");
            let record = alone.record(LAST).await;
            assert_eq!(record.change_time, before.change_time, "it is no change");
            let told = u32::from(expected.is_some());
            let revisions = |record: &Record| record.purchase.status.revision.0;
            assert_eq!(revisions(&record), revisions(&before) + told, "told once");
            *lock(&alone.mode) = Mode::Well;
            seconds(200).await;
            let status = alone.purchase(LAST).await.status;
            assert_eq!(status.attention_reason(), None, "{one:?}");
            assert_eq!(status.state, State::Paid);
        };
        tokio::select! {
            biased;
            () = alone.tracker.run() => panic!("the tracker stopped by itself"),
            () = waiting => {}
        }
    }
}

/// Right after its start an account has asked so little that half of it is next to nothing.
#[tokio::test(start_paused = true)]
async fn a_purchase_that_is_throttled_from_the_first_second_slows_the_others_for_a_moment() {
    let house = House::with(0, Schedule::of(&[], 500)).await;
    *lock(&house.mode) = Mode::One(One::Status(429));
    let told = async {
        for number in 0..=LAST {
            house.buy(number, NAMES[0]).await;
        }
        seconds(30).await;
        house.sent(0);
        seconds(20).await;
        let good = house.sent(0);
        assert!((180..=205).contains(&good), "{good} polls of 200");
    };
    tokio::select! {
        biased;
        () = house.tracker.run() => panic!("the tracker stopped by itself"),
        () = told => {}
    }
}

/// An account whose budget does not suffice, a fifth of whose purchases cannot be read.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_takes_no_budget_from_what_can() {
    for one in [One::Status(404), One::Status(500), One::Garbage] {
        let house = House::with(300, Schedule::of(&[], 2_000)).await;
        let told = async {
            for number in 0..50 {
                house.buy(number, NAMES[0]).await;
            }
            seconds(10).await;
            *lock(&house.mode) = Mode::From(40, one);
            seconds(120).await;
            house.sent(0);
            house.vain.store(0, Ordering::Relaxed);
            seconds(120).await;
            let (all, vain) = (house.sent(0), house.vain.load(Ordering::Relaxed));
            assert!(vain * 5 < all, "{one:?}: {vain} of {all} in vain");
            assert!(
                (all - vain) * 10 > 540 * 7,
                "{one:?}: {vain} of {all} in vain"
            );
            let create = house.account(0).try_admit(Class::Create).await;
            create.unwrap().ends();
        };
        tokio::select! {
            biased;
            () = house.tracker.run() => panic!("the tracker stopped by itself"),
            () = told => {}
        }
    }
}

/// 400 purchases every 5 s, without a limit, and a quarter of a minute in which nothing is
/// answered.
#[tokio::test(start_paused = true)]
async fn after_an_outage_polls_come_evenly_and_without_an_echo() {
    for trouble in [
        Mode::ServerError,
        Mode::NoConnection,
        Mode::Throttled,
        Mode::Unauthorized,
    ] {
        let house = House::with(0, Schedule::of(&[], 5_000)).await;
        let told = async {
            for number in 0..400 {
                house.buy(number, NAMES[0]).await;
                tokio::time::sleep(Duration::from_millis(12)).await;
            }
            seconds(30).await;
            *lock(&house.mode) = trouble;
            seconds(15).await;
            *lock(&house.mode) = Mode::Well;
            // Until somebody has been answered again.
            house.sent(0);
            while house.account(0).is_held() || house.sent(0) < 20 {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            for second in 0..30 {
                seconds(1).await;
                let sent = house.sent(0);
                assert!(sent <= 160, "{trouble:?}: {sent} in second {second}");
            }
            // An account that was throttled without a word has become slower.
            let slowed = trouble == Mode::Throttled;
            for number in 0..if slowed { 0 } else { 400 } {
                let fresh = house.tracker.freshness(&house.purchase(number).await);
                let age = house.clock.now().since(fresh.last_answer_time.unwrap());
                assert!(age < Duration::from_secs(10), "{trouble:?}: {age:?}");
            }
        };
        tokio::select! {
            biased;
            () = house.tracker.run() => panic!("the tracker stopped by itself"),
            () = told => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_in_trouble_says_so_and_what_waits() {
    let house = House::new().await;
    let told = async {
        for number in 0..20 {
            house.buy(number, NAMES[0]).await;
        }
        seconds(30).await;
        assert_eq!(house.tracker.backlog(&AccountName::new(NAMES[0])).due, 0);
        *lock(&house.mode) = Mode::Unauthorized;
        seconds(45).await;
        let snapshot = house.account(0).snapshot();
        assert_eq!(snapshot.health, Health::Unauthorized);
        assert_eq!(snapshot.note, "the provider refuses the credentials");
        let backlog = house.tracker.backlog(&AccountName::new(NAMES[0]));
        assert!(backlog.due >= 10, "{backlog:?}");
        assert!(backlog.late >= Duration::from_secs(20), "{backlog:?}");
        assert_eq!(house.tracker.backlog(&AccountName::new(NAMES[1])).due, 0);
    };
    tokio::select! {
        biased;
        () = house.tracker.run() => panic!("the tracker stopped by itself"),
        () = told => {}
    }
}
