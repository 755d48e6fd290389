//! One account in trouble beside one that is well, in virtual time.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::{
    account::{Account, Arrivals, BudgetStore, Class, Health, Kept},
    cadence::{Policy, Schedule},
    journal::{Record, memory::MemoryJournal},
    provider::registered,
    purchase::{CallerName, Cause, Reference, Secret, State, Status, Timestamp, Transition},
    upstream::{
        Request, Response, UpstreamError,
        scripted::{Scripted, json_response},
    },
};

struct Unkept;

#[async_trait]
impl BudgetStore for Unkept {
    async fn load(&self, _: &AccountName) -> Option<Kept> {
        None
    }

    async fn save(&self, _: &AccountName, _: Arrivals) -> bool {
        true
    }
}

/// What happens to an account's requests.
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
    /// The fourth purchase alone cannot be read.
    OneServerError,
    OneHangs,
}

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

const FOURTH: &str = "txn_00000000000000000000000003";

async fn answer(mode: Mode, request: Request) -> Result<Response, UpstreamError> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let id = request.path.get(3).cloned().unwrap_or_default();
    let whole = json!({ "id": id, "status": "FUNDS_RECEIVED" });
    let mut response = json_response(200, &whole);
    match mode {
        Mode::OneServerError if id == FOURTH => response.status = 500,
        Mode::OneHangs if id == FOURTH => std::future::pending().await,
        Mode::Well | Mode::OneServerError | Mode::OneHangs => {}
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
}

const NAMES: [&str; 2] = ["troubled", "well"];

impl House {
    async fn new() -> Self {
        let start = Timestamp::from_millis(1_800_000_000_000).unwrap();
        let clock = Clock::simulated(start, 3);
        let journal = Arc::new(MemoryJournal::new("e"));
        let mode = Arc::new(Mutex::new(Mode::Well));
        let sent: Arc<[AtomicUsize; 2]> = Arc::default();
        let mut accounts = Vec::new();
        for (place, name) in NAMES.into_iter().enumerate() {
            let row = registered("devdraft").unwrap();
            let secret = |name: &&str| ((*name).to_owned(), Secret::new("x"));
            let provider = (row.build)(&row.secrets.iter().map(secret).collect()).unwrap();
            let (mode, sent) = (Arc::clone(&mode), Arc::clone(&sent));
            let upstream = Scripted::new(move |request| {
                sent[place].fetch_add(1, Ordering::Relaxed);
                let mode = if place == 0 { *lock(&mode) } else { Mode::Well };
                answer(mode, request)
            });
            let policy = Policy {
                timeout: Duration::from_secs(2),
                requests_per_minute: 0,
                ..Policy::common(Schedule::of(&[], 5_000))
            };
            let name = AccountName::new(name);
            let account = Account::open(
                name,
                provider,
                policy,
                Arc::new(upstream),
                clock.clone(),
                Arc::new(Unkept),
            );
            accounts.push(account.await);
        }
        let accounts = Accounts::new(accounts);
        let tracker = Tracker::new(Arc::clone(&journal) as _, clock.clone(), &accounts);
        Self {
            clock,
            journal,
            accounts,
            tracker,
            mode,
            sent,
        }
    }

    async fn buy(&self, number: u128, account: &str) {
        let now = self.clock.now();
        let mut status = Status::pending(now);
        status.state = State::Created;
        let id = format!("txn_{number:026}");
        status.reference = Some(Reference::new([("transaction_id", id.as_str())]));
        let record = Record {
            purchase: Purchase {
                id: PurchaseId::from_u128(number),
                account: AccountName::new(account),
                provider: Arc::from("devdraft"),
                caller: CallerName::new("c"),
                idempotency_key: Arc::from(number.to_string()),
                labels: Arc::default(),
                create_time: now,
                status: Arc::new(status.clone()),
            },
            fingerprints: Default::default(),
            recovery: Default::default(),
            attempt: None,
            first_send_time: None,
            change_time: now,
            resolution_note: None,
        };
        let begin = Write::Begin {
            record: Box::new(record),
            transitions: vec![Transition {
                from_state: None,
                status,
                cause: Cause::Create,
            }],
        };
        self.journal.write(begin).await.unwrap();
    }

    async fn purchase(&self, number: u128) -> Purchase {
        let id = PurchaseId::from_u128(number);
        let record = self.journal.record(id).await.unwrap();
        record.unwrap().purchase
    }

    fn account(&self, place: usize) -> &Arc<Account> {
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
            // And it recovers by itself.
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
        () = house.tracker.run() => panic!("the tracker stopped by itself"),
        () = told => {}
    }
}

/// One purchase that its provider cannot show backs off by itself; creates and others go on.
#[tokio::test(start_paused = true)]
async fn one_purchases_trouble_leaves_the_rest_of_its_account_as_it_was() {
    let house = House::new().await;
    let told = async {
        for number in 0..4 {
            house.buy(number, NAMES[0]).await;
        }
        seconds(30).await;
        for trouble in [Mode::OneServerError, Mode::OneHangs] {
            *lock(&house.mode) = trouble;
            house.sent(0);
            for _ in 0..120 {
                seconds(5).await;
                for number in 0..3 {
                    let fresh = house.tracker.freshness(&house.purchase(number).await);
                    let age = house.clock.now().since(fresh.last_answer_time.unwrap());
                    assert!(age < Duration::from_secs(10), "{trouble:?}: {age:?}");
                }
                let create = house.account(0).try_admit(Class::Create).await;
                create.unwrap().ends();
            }
            let fresh = house.tracker.freshness(&house.purchase(3).await);
            assert!(fresh.consecutive_failures > 5, "{trouble:?}");
            let asked = house.sent(0);
            assert!((330..=400).contains(&asked), "{trouble:?}: {asked}");
            *lock(&house.mode) = Mode::Well;
            seconds(150).await;
        }
        // Also where nobody else's answer says that the provider is well.
        let alone = House::new().await;
        alone.buy(3, NAMES[0]).await;
        *lock(&alone.mode) = Mode::OneServerError;
        let waiting = async {
            seconds(1_200).await;
            assert!(!alone.account(0).snapshot().breaker_open);
            let asked = alone.sent(0);
            assert!((10..=60).contains(&asked), "it backs off: {asked}");
        };
        tokio::select! {
            () = alone.tracker.run() => panic!("the tracker stopped by itself"),
            () = waiting => {}
        }
    };
    tokio::select! {
        () = house.tracker.run() => panic!("the tracker stopped by itself"),
        () = told => {}
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
        () = house.tracker.run() => panic!("the tracker stopped by itself"),
        () = told => {}
    }
}
