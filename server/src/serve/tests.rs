//! The loops of a house over months, in virtual time.

mod clock;
mod defects;

use tokio::time::Instant;

use super::{
    retention::{RETIREMENT_LASTS, next_rows},
    *,
};
use crate::{
    journal::{Alone, AloneBoard, AloneBudgets, Record, Write, memory::MemoryJournal},
    ownership::Tenures,
    purchase::{CallerName, Cause, Finality, PurchaseId, Revision, State, Status, Transition},
    testing,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A final status of now.
fn canceled(clock: &Clock) -> Status {
    Status {
        state: State::Canceled,
        finality: Finality::Final,
        ..Status::pending(clock.now())
    }
}

/// A purchase whose only revision has this status.
async fn begun(journal: &dyn Journal, id: u128, status: Status) -> PurchaseId {
    begun_as(journal, id, "key", status).await
}

async fn begun_as(journal: &dyn Journal, id: u128, key: &str, status: Status) -> PurchaseId {
    let id = PurchaseId::from_u128(id);
    let mut record = testing::record(id, "main", "carbon", status);
    record.purchase.idempotency_key = key.into();
    let begin = testing::begin(record);
    journal.write(begin).await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn c2_a_key_is_kept_for_400_days_and_its_purchase_for_as_long_as_configured() {
    let clock = testing::clock();
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::new("test"));
    let finished = canceled(&clock);
    let id = begun(&*journal, 1, finished).await;
    let mut work = tokio::task::JoinSet::new();
    let wall = Arc::new(Wall::open(&journal, &clock).await.unwrap());
    let progress = Progress::new("retention");
    work.spawn(retire(
        (Arc::clone(&journal), Tenures::alone([])),
        wall,
        90 * DAY,
        progress,
    ));
    let begun = tokio::time::Instant::now();
    let mut ends = (None, None);
    for day in 0..=402_u32 {
        tokio::time::sleep_until(begun + DAY * day).await;
        let purchase = journal.record(id).await.unwrap();
        let key = journal.record_by_key(&CallerName::new("shop"), "key").await;
        let key = key.unwrap();
        if let Some(kept) = &key {
            assert_eq!(kept.purchase.status.revision, Revision(1));
        }
        ends.0 = ends.0.or(purchase.is_none().then_some(day));
        ends.1 = ends.1.or(key.is_none().then_some(day));
    }
    let (purchase, key) = ends;
    assert!(
        purchase.is_some_and(|day| (90..=91).contains(&day)),
        "{purchase:?}"
    );
    assert_eq!(key, Some(401), "400 days later it is there");
}

/// A house with nothing in it, over a journal.
pub(super) async fn empty(journal: Arc<dyn Journal>) -> House {
    House::open(parts(journal)).await.unwrap()
}

/// The parts of a house with nothing in it.
fn parts(journal: Arc<dyn Journal>) -> Parts {
    let clock = testing::clock();
    Parts {
        budgets: Arc::new(AloneBudgets::new(&journal, &clock)),
        board: Arc::new(AloneBoard),
        clock,
        journal,
        ownership: Arc::new(Alone::default()),
        keyring: Keyring::parse(&Keyring::new_file("k", [7; 32])).unwrap(),
        accounts: Accounts::default(),
        callers: Directory::default(),
        limits: grpc::StreamBounds {
            streams: 1,
            stream_age: None,
        },
        retention: DAY,
        audit: Audit::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_house_is_alive_without_an_account_on_a_silent_disk_and_in_a_drain() {
    let journal = Arc::new(MemoryJournal::new("e"));
    let house = empty(Arc::clone(&journal) as Arc<dyn Journal>).await;
    let clock = house.rooms.clock.clone();
    let mut watch = house.work.watch();
    let mut is_alive_for_minutes = async |minutes: usize| {
        for _ in 0..60 * minutes {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !watch.look(clock.moment()) {
                return false;
            }
        }
        true
    };
    assert!(is_alive_for_minutes(90).await, "idle is going on");
    journal.stall_writes(true);
    let silent = is_alive_for_minutes(90).await;
    assert!(silent, "waiting for a disk is going on");
    journal.stall_writes(false);
    house.drain().await;
    assert!(is_alive_for_minutes(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_silent_disk_turns_readiness_until_it_answers() {
    let journal = Arc::new(MemoryJournal::new("e"));
    let house = empty(Arc::clone(&journal) as Arc<dyn Journal>).await;
    let settles = Duration::from_millis(10);
    tokio::time::sleep(settles).await;
    assert!(house.readiness.is_ready().await);
    journal.stall_writes(true);
    let put = Write::Put {
        key: "k".to_owned(),
        fence: None,
        value: "v".to_owned(),
    };
    let stalled = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move { journal.write(put).await }
    });
    tokio::time::sleep(Duration::from_secs(5) - settles).await;
    assert!(house.readiness.is_ready().await, "it may still answer");
    tokio::time::sleep(2 * settles).await;
    assert!(!house.readiness.is_ready().await);
    assert!(
        house
            .figures
            .text(None, None, &reload::Reloads::default(), &[])
            .contains("journal_available 0")
    );
    journal.stall_writes(false);
    stalled.await.unwrap().unwrap();
    tokio::time::sleep(settles).await;
    assert!(house.readiness.is_ready().await);
    assert!(
        house
            .figures
            .text(None, None, &reload::Reloads::default(), &[])
            .contains("journal_available 1")
    );
}

#[test]
fn a_batch_of_retention_takes_about_as_long_as_commits_may_be_held_up() {
    let check = |rows, took_ms, expected| {
        let next = next_rows(rows, Duration::from_millis(took_ms));
        assert_eq!(next, expected, "{rows} rows took {took_ms} ms");
    };
    check(100, 10, 100);
    check(100, 5, 200);
    check(100, 40, 25);
    check(100, 0, 1_000);
    check(100, 60_000, 10);
    check(10, 1, 100);
}

/// A process that dies in a simulation must not go on in the background.
#[tokio::test(start_paused = true)]
async fn a_house_that_is_dropped_leaves_no_task_behind() {
    let tasks = || {
        let runtime = tokio::runtime::Handle::current();
        runtime.metrics().num_alive_tasks()
    };
    let before = tasks();
    let house = empty(Arc::new(MemoryJournal::new("e"))).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(tasks() > before);
    drop(house);
    tokio::task::yield_now().await;
    assert_eq!(tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn retention_is_the_work_of_the_process_that_keeps_house() {
    let clock = testing::clock();
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::new("e"));
    let id = begun(&*journal, 1, canceled(&clock)).await;
    let wall = Arc::new(Wall::open(&journal, &clock).await.unwrap());
    for (tenures, keeps) in [(Tenures::default(), false), (Tenures::alone([]), true)] {
        let mut work = tokio::task::JoinSet::new();
        let (kept, wall) = ((Arc::clone(&journal), tenures), Arc::clone(&wall));
        work.spawn(retire(kept, wall, DAY, Progress::new("retention")));
        tokio::time::sleep(3 * DAY).await;
        let record = journal.record(id).await.unwrap();
        assert_eq!(record.is_none(), keeps);
    }
}

#[tokio::test(start_paused = true)]
async fn retention_leaves_commits_as_much_time_as_it_takes() {
    let clock = testing::clock();
    let memory = Arc::new(MemoryJournal::new("e"));
    for number in 1..=300_u128 {
        let status = canceled(&clock);
        begun_as(&*memory, number, &number.to_string(), status).await;
    }
    let (began, mut retired_at) = (Instant::now(), Vec::new());
    tokio::time::sleep(DAY).await;
    let journal: Arc<dyn Journal> = Arc::clone(&memory) as _;
    let mut work = tokio::task::JoinSet::new();
    let wall = Arc::new(Wall::open(&journal, &clock).await.unwrap());
    let progress = Progress::new("retention");
    work.spawn(retire(
        (journal, Tenures::alone([])),
        wall,
        Duration::from_secs(1),
        progress,
    ));
    let mut left = 300;
    while left > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = memory
            .list(&crate::journal::Filter::default(), None, 1_000)
            .await;
        let now = now.unwrap().purchases.len();
        if now < left {
            retired_at.push((began.elapsed(), left - now));
        }
        left = now;
    }
    assert!(retired_at.len() > 1, "{retired_at:?}");
    for pair in retired_at.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= RETIREMENT_LASTS, "{retired_at:?}");
    }
}
