//! Several processes talk over one board in memory, in virtual time.

use std::sync::atomic::AtomicUsize;

use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::{
    journal::{
        AloneBoard, ReplicaId,
        memory::{MemoryBoard, MemoryJournal},
    },
    purchase::{State, Status, Timestamp},
    testing,
};

/// The answers of one process.
#[derive(Default)]
struct Known {
    freshness: Mutex<Freshness>,
    outcome: Mutex<Option<(Outcome, Option<Moment>)>>,
    /// The time that a refresh takes.
    takes: Mutex<Duration>,
    /// When refreshes began.
    refreshes: Mutex<Vec<(PurchaseId, Instant)>>,
    /// The number of times that somebody wanted to know a freshness.
    told: AtomicUsize,
}

#[async_trait]
impl Answers for Known {
    fn freshness(&self, _account: &AccountName, _purchase: PurchaseId) -> Freshness {
        self.told.fetch_add(1, Ordering::Relaxed);
        *lock(&self.freshness)
    }

    async fn refresh(&self, purchase: PurchaseId) -> (Outcome, Option<Moment>) {
        lock(&self.refreshes).push((purchase, Instant::now()));
        let takes = *lock(&self.takes);
        tokio::time::sleep(takes).await;
        lock(&self.outcome).unwrap_or((Outcome::Heard, None))
    }

    fn accounts(&self) -> Vec<AccountName> {
        vec![shop()]
    }

    fn view(&self, _account: &AccountName) -> Option<AccountView> {
        Some(AccountView {
            health: AccountHealth::Unauthorized,
            note: "as told".to_owned(),
            open_purchases: 7,
            requests_per_minute: 60,
            requests_last_minute: 50,
        })
    }
}

/// Three processes. The first owns the account.
struct World {
    clock: Clock,
    store: MemoryJournal,
    exchanges: [Exchange; 3],
    known: [Arc<Known>; 3],
    running: Vec<JoinSet<()>>,
}

impl World {
    async fn open() -> Self {
        let (clock, store) = (testing::clock(), MemoryJournal::new("test"));
        let exchanges = ["first", "second", "third"].map(|name| {
            let board = MemoryBoard::new(&store, &clock, &ReplicaId::new(name), &clock);
            Exchange::new(Arc::new(board), clock.clone())
        });
        let known: [Arc<Known>; 3] = Default::default();
        let running = exchanges.iter().zip(&known).map(|(exchange, known)| {
            let (exchange, known) = (exchange.clone(), Arc::clone(known));
            let mut running = JoinSet::new();
            running.spawn(async move { exchange.run(&*known).await });
            running
        });
        let running = running.collect();
        exchanges[0].own(&shop());
        let world = Self {
            clock,
            store,
            exchanges,
            known,
            running,
        };
        pass(1).await;
        world
    }

    fn refreshes(&self) -> usize {
        lock(&self.known[0].refreshes).len()
    }
}

/// So many seconds pass.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn shop() -> AccountName {
    AccountName::new("shop")
}

fn purchase(number: u128) -> Purchase {
    let status = Status {
        state: State::AwaitingPayment,
        ..Status::pending(Timestamp::default())
    };
    testing::record(PurchaseId::from_u128(number), "shop", "any", status).purchase
}

fn id(number: u128) -> PurchaseId {
    PurchaseId::from_u128(number)
}

#[tokio::test(start_paused = true)]
async fn watchers_elsewhere_are_known_to_the_owner_until_they_end_or_their_process_does() {
    let mut world = World::open().await;
    let [first, second, third] = &world.exchanges;
    first.own(&Fence::housekeeping());
    first.watch(&purchase(1));
    second.watch(&purchase(1));
    second.watch(&purchase(1));
    third.watch(&purchase(1));
    third.watch(&purchase(2));
    assert_eq!(first.watchers(id(1)), 0);
    pass(2).await;
    assert_eq!((first.watchers(id(1)), first.watchers(id(2))), (3, 1));
    assert_eq!(second.watchers(id(1)), 0, "it is no owner");
    second.unwatch(id(1));
    pass(2).await;
    assert_eq!(first.watchers(id(1)), 2);
    second.unwatch(id(1));
    pass(2).await;
    assert_eq!(first.watchers(id(1)), 1);
    world.running[2].shutdown().await;
    pass(125).await;
    assert_eq!((first.watchers(id(1)), first.watchers(id(2))), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_knows_all_watchers_within_seconds_and_the_old_one_none() {
    let world = World::open().await;
    let [first, second, third] = &world.exchanges;
    first.watch(&purchase(1));
    second.watch(&purchase(1));
    third.watch(&purchase(1));
    pass(2).await;
    assert_eq!(first.watchers(id(1)), 2);
    first.disown(&shop());
    assert_eq!(first.watchers(id(1)), 0);
    second.own(&shop());
    pass(2).await;
    assert_eq!((first.watchers(id(1)), second.watchers(id(1))), (0, 2));
    // A refresh that has ended while nobody read is not there afterwards.
    third.unwatch(id(1));
    second.disown(&shop());
    first.own(&shop());
    pass(2).await;
    assert_eq!(first.watchers(id(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn an_emptied_board_is_put_again_within_seconds_with_what_is_waited_for() {
    let world = World::open().await;
    let [first, second, third] = &world.exchanges;
    *lock(&world.known[0].freshness) = Freshness {
        consecutive_failures: 3,
        ..Freshness::default()
    };
    third.watch(&purchase(1));
    pass(3).await;
    assert_eq!(
        third.freshness(&purchase(1)).unwrap().consecutive_failures,
        3
    );
    lock(&world.known[0].freshness).consecutive_failures = 4;
    *lock(&world.known[0].takes) = Duration::from_secs(3);
    let waits = async {
        let began = Instant::now();
        let passed = second.refresh(&purchase(2)).await;
        assert!(matches!(passed, Passed::Ended { .. }), "{passed:?}");
        assert!(began.elapsed() < Duration::from_secs(10));
    };
    let empties = async {
        pass(2).await;
        assert_eq!(world.refreshes(), 1);
        world.store.empty_board();
        pass(3).await;
        assert_eq!(first.watchers(id(1)), 1);
        third.unwatch(id(1));
        pass(2).await;
        assert_eq!(first.watchers(id(1)), 0);
    };
    tokio::join!(waits, empties);
}

#[tokio::test(start_paused = true)]
async fn refreshes_that_overlap_share_an_answer_and_a_later_one_has_its_own() {
    let world = World::open().await;
    let [_, second, third] = &world.exchanges;
    *lock(&world.known[0].takes) = Duration::from_secs(5);
    let heard = Passed::Ended {
        outcome: Outcome::Heard,
        retry_at: None,
    };
    let (one, other) = (purchase(1), purchase(1));
    let early = async {
        let passed = tokio::join!(
            second.refresh(&one),
            second.refresh(&other),
            third.refresh(&one)
        );
        assert_eq!(passed, (heard, heard, heard));
    };
    let late = async {
        pass(3).await;
        assert_eq!(world.refreshes(), 1);
        let asked = Instant::now();
        assert_eq!(third.refresh(&other).await, heard);
        let refreshes = lock(&world.known[0].refreshes).clone();
        assert_eq!(refreshes.len(), 2, "{refreshes:?}");
        assert!(refreshes[1].1 >= asked, "it began before the wish");
        let took = refreshes[1].1.elapsed();
        assert!(took >= Duration::from_secs(5), "an earlier end: {took:?}");
    };
    tokio::join!(early, late);
}

#[tokio::test(start_paused = true)]
async fn an_owners_trouble_comes_back_with_the_time_to_try_again() {
    let world = World::open().await;
    let retry_at = world.clock.moment().plus(Duration::from_secs(90));
    *lock(&world.known[0].outcome) = Some((Outcome::Throttled, Some(retry_at)));
    let began = Instant::now();
    let passed = world.exchanges[1].refresh(&purchase(1)).await;
    let expected = Passed::Ended {
        outcome: Outcome::Throttled,
        retry_at: Some(retry_at),
    };
    assert_eq!(passed, expected);
    assert!(
        began.elapsed() <= Duration::from_millis(1_500),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_after_a_minute_or_where_the_account_comes_here() {
    let world = World::open().await;
    let [first, second, third] = &world.exchanges;
    first.disown(&shop());
    let began = Instant::now();
    assert_eq!(second.refresh(&purchase(1)).await, Passed::Unanswered);
    assert_eq!(began.elapsed(), Duration::from_secs(60));
    // A caller who has given up is not answered by the next owner.
    let one = purchase(1);
    let gives_up = tokio::time::timeout(Duration::from_secs(5), third.refresh(&one));
    assert!(gives_up.await.is_err());
    pass(2).await;
    let waits = async {
        let began = Instant::now();
        assert_eq!(third.refresh(&purchase(2)).await, Passed::Here);
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    };
    let comes = async {
        pass(3).await;
        third.own(&shop());
    };
    tokio::join!(waits, comes);
    assert_eq!(third.refresh(&purchase(2)).await, Passed::Here);
    pass(5).await;
    let begun = world.known.iter().map(|known| lock(&known.refreshes).len());
    assert_eq!(begun.sum::<usize>(), 0);
}

#[tokio::test(start_paused = true)]
async fn freshness_is_absent_until_the_owners_first_word_and_then_as_it_said() {
    let world = World::open().await;
    let [_, second, _] = &world.exchanges;
    let now = world.clock.now();
    let said = Freshness {
        last_answer_time: Some(now.minus(Duration::from_secs(9))),
        next_poll_time: Some(now.plus(Duration::from_secs(3_600))),
        consecutive_failures: 2,
        held_back_since_time: Some(now.minus(Duration::from_secs(99))),
    };
    *lock(&world.known[0].freshness) = said;
    assert_eq!(second.freshness(&purchase(1)), None);
    pass(3).await;
    assert_eq!(second.freshness(&purchase(1)), Some(said));
    // It is told again when it has changed, and every 10 s at the most.
    lock(&world.known[0].freshness).consecutive_failures = 3;
    pass(16).await;
    let told = second.freshness(&purchase(1)).unwrap();
    assert_eq!(told.consecutive_failures, 3);
    let before = world.known[0].told.load(Ordering::Relaxed);
    pass(40).await;
    let asked = world.known[0].told.load(Ordering::Relaxed) - before;
    assert!((3..=5).contains(&asked), "{asked} in 40 s");
    // A next poll that has passed is due now.
    lock(&world.known[0].freshness).next_poll_time = Some(now);
    pass(16).await;
    let told = second.freshness(&purchase(1)).unwrap();
    assert_eq!(told.next_poll_time, Some(world.clock.now()));
    // Nobody asks for a minute.
    pass(65).await;
    let before = world.known[0].told.load(Ordering::Relaxed);
    pass(60).await;
    assert_eq!(world.known[0].told.load(Ordering::Relaxed), before);
    assert_eq!(second.freshness(&purchase(1)), None);
}

#[tokio::test(start_paused = true)]
async fn accounts_are_shown_as_their_owner_knows_them() {
    let world = World::open().await;
    let [first, second, _] = &world.exchanges;
    pass(11).await;
    let expected = world.known[0].view(&shop());
    assert_eq!(second.account(&shop()), expected);
    assert_eq!(first.account(&shop()), None, "it knows better");
    first.disown(&shop());
    pass(60).await;
    assert_eq!(second.account(&shop()), None, "nobody knows it");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_5_000_purchases_pass_in_a_second() {
    let world = World::open().await;
    let spy = MemoryBoard::new(
        &world.store,
        &world.clock,
        &ReplicaId::new("spy"),
        &world.clock,
    );
    let [first, second, _] = &world.exchanges;
    for number in 1..=12_000 {
        second.watch(&purchase(number));
    }
    let (mut put, mut after) = (0, 0);
    for expected in [5_000, 10_000, 12_000] {
        pass(1).await;
        for _ in 0..3 {
            let sheet = spy
                .wanted(&[(shop(), after)], BOARD_ROWS_MAX)
                .await
                .unwrap();
            after = sheet.wanted.last().map_or(after, |last| last.number);
            put += sheet.wanted.len();
        }
        assert_eq!(put, expected);
    }
    pass(3).await;
    let known = (1..=12_000).filter(|number| first.watchers(id(*number)) == 1);
    assert_eq!(known.count(), 12_000);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_alone_keeps_nothing() {
    let alone = Exchange::new(Arc::new(AloneBoard), testing::clock());
    assert!(!alone.is_shared());
    alone.own(&shop());
    alone.watch(&purchase(1));
    assert_eq!(alone.freshness(&purchase(1)), None);
    assert_eq!(alone.refresh(&purchase(1)).await, Passed::Unanswered);
    assert_eq!(alone.watchers(id(1)), 0);
    let kept = format!("{:?} {:?}", lock(&alone.0.wishes), lock(&alone.0.owed));
    assert_eq!(
        kept,
        format!("{:?} {:?}", Wishes::default(), Owed::default())
    );
}
