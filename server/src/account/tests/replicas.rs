//! Several processes that spend one account's budget, over one store.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::journal::{
    Budgets, Limits, ReplicaId,
    memory::{MemoryBudgets, MemoryJournal},
};

/// A store, and the provider at the end of everybody's way, which notes when requests reach it.
struct World {
    journal: MemoryJournal,
    clock: Clock,
    /// The store's.
    store: Clock,
    status: Arc<AtomicU32>,
    reached: Arc<Mutex<Vec<Duration>>>,
}

impl World {
    fn new() -> Self {
        Self {
            journal: MemoryJournal::new("epoch"),
            clock: clock(),
            store: clock(),
            status: Arc::new(AtomicU32::new(200)),
            reached: Arc::default(),
        }
    }

    /// The account as the process with this name has it.
    async fn replica(&self, name: &str, policy: Policy) -> Arc<Account> {
        let (status, reached) = (Arc::clone(&self.status), Arc::clone(&self.reached));
        let start = tokio::time::Instant::now() - self.since();
        let upstream = Scripted::new(move |_| {
            reached.lock().unwrap().push(start.elapsed());
            let status = u16::try_from(status.load(Ordering::SeqCst)).unwrap();
            let answer = json_response(status, &serde_json::json!({}));
            async move { Ok(answer) }
        });
        let settings = Settings::new(testing::provider("devdraft"), policy, Arc::new(upstream));
        let replica = ReplicaId::new(name);
        let budgets: Arc<dyn Budgets> = Arc::new(MemoryBudgets::new(
            &self.journal,
            &self.store,
            &replica,
            &self.clock,
        ));
        Account::open(
            AccountName::new("a"),
            settings,
            self.clock.clone(),
            &budgets,
        )
        .await
    }

    /// The time since the world began.
    fn since(&self) -> Duration {
        self.clock.now().since(clock_start())
    }

    fn later(&self, seconds: u64) -> Moment {
        self.clock.moment().plus(Duration::from_secs(seconds))
    }

    /// The most requests that reached the provider in any minute.
    fn most_in_a_minute(&self) -> usize {
        self.most_in_a_minute_after(Duration::ZERO)
    }

    /// The same of those that reached it from then on.
    fn most_in_a_minute_after(&self, from: Duration) -> usize {
        let reached = self.reached.lock().unwrap();
        let reached: Vec<&Duration> = reached.iter().filter(|time| **time >= from).collect();
        let minute = Duration::from_secs(60);
        let within = |first: &&Duration| {
            let end = **first + minute;
            reached
                .iter()
                .filter(|time| (*first..&end).contains(*time))
                .count()
        };
        reached.iter().map(within).max().unwrap_or(0)
    }
}

fn clock_start() -> crate::purchase::Timestamp {
    crate::purchase::Timestamp::from_millis(1_800_000_000_000).unwrap()
}

/// Asks without end, as soon as it is let through.
fn asking_all_the_time(account: &Arc<Account>, class: Class) -> tokio::task::JoinHandle<()> {
    let account = Arc::clone(account);
    tokio::spawn(async move {
        loop {
            let mut admission = forever(&account, class).await;
            let _ = account.ask(&mut admission, request()).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn p2_replicas_together_never_exceed_the_limit_though_they_crash_and_accounts_move() {
    for (seed, limit) in [(1, 1), (2, 20), (3, 100), (4, 600)] {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::new();
        let mut lives = 0;
        while world.since() < Duration::from_secs(300) {
            // One owner polls, all create. All die at once, some in the middle of a take.
            let mut work = tokio::task::JoinSet::new();
            for place in 0..3 {
                lives += 1;
                let account = world
                    .replica(&format!("replica-{lives}"), policy(limit))
                    .await;
                let classes = match place {
                    0 => &[Class::Poll, Class::Refresh, Class::Create][..],
                    _ => &[Class::Create, Class::Adopt],
                };
                for class in classes {
                    let (account, class) = (Arc::clone(&account), *class);
                    let slow = Duration::from_millis(random.random_range(0..900));
                    work.spawn(async move {
                        loop {
                            let mut admission = forever(&account, class).await;
                            // A disk that is slow to keep an intent.
                            tokio::time::sleep(slow).await;
                            let _ = account.ask(&mut admission, request()).await;
                        }
                    });
                }
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(100..90_000))).await;
            work.abort_all();
        }
        let (most, all) = (
            world.most_in_a_minute(),
            world.reached.lock().unwrap().len(),
        );
        let limit = limit as usize;
        assert!(most <= limit, "{most} of {limit} in a minute");
        assert!(all >= limit * 3, "{all} at {limit} in five minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn p2_a_create_on_a_replica_that_owns_nothing_has_its_slot_beside_all_polls() {
    for limit in [6, 20, 30, 100, 600] {
        let world = World::new();
        let owner = world.replica("owner", policy(limit)).await;
        let other = world.replica("other", policy(limit)).await;
        let polls = asking_all_the_time(&owner, Class::Poll);
        let interval = Duration::from_secs(60) * 10 / 9 / limit;
        for _ in 0..5 {
            tokio::time::sleep(interval * 10).await;
            let began = world.clock.moment();
            let mut admission = other.admit(Class::Create, world.later(120)).await.unwrap();
            other.ask(&mut admission, request()).await.unwrap();
            let waited = world.clock.moment().since(began);
            let longest = interval + Duration::from_millis(20);
            assert!(waited <= longest, "{waited:?} at {limit}");
        }
        polls.abort();
        assert!(world.most_in_a_minute() <= limit as usize);
        assert!(world.reached.lock().unwrap().len() > 40, "polls go on");
    }
}

/// Promise P6, over replicas.
#[tokio::test(start_paused = true)]
async fn p6_a_tenth_is_the_longest_overdues_beside_creates_on_other_replicas() {
    for limit in [10, 100] {
        let world = World::new();
        let owner = world.replica("owner", policy(limit)).await;
        let mut creates = Vec::new();
        for name in ["second", "third"] {
            let other = world.replica(name, policy(limit)).await;
            creates.push(asking_all_the_time(&other, Class::Create));
            creates.push(asking_all_the_time(&other, Class::Create));
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (mut polls, end) = (0, world.later(600));
        while world.clock.moment() < end {
            match owner.admit(Class::Poll, world.later(30)).await {
                Ok(mut admission) => {
                    polls += 1;
                    owner.ask(&mut admission, request()).await.unwrap();
                }
                Err(refusal) => {
                    let wait = refusal.retry_at().since(world.clock.moment());
                    tokio::time::sleep(wait + Duration::from_millis(20)).await;
                }
            }
        }
        for task in creates {
            task.abort();
        }
        assert!(world.most_in_a_minute() <= limit as usize);
        let tenth = limit * 9 / 10;
        assert!(
            polls >= tenth * 8 / 10,
            "{polls} polls at {limit}, a tenth is {tenth}"
        );
        assert!(polls <= tenth + tenth / 4 + 1, "{polls} polls at {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn p2_a_pause_that_one_replica_hears_holds_all_within_their_next_take() {
    let world = World::new();
    let first = world.replica("first", policy(0)).await;
    let second = world.replica("second", policy(0)).await;
    drop(second.try_admit(Class::Poll).await.unwrap());
    world.status.store(429, Ordering::SeqCst);
    let retry_after = Some(Duration::from_secs(45));
    learned(&first, Class::Poll, &Trouble::Throttled { retry_after }).await;
    let until = world.later(45);
    // A second after its last take it asks anew.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for class in [Class::Poll, Class::Create] {
        let refusal = second.try_admit(class).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Throttled { .. }), "{refusal:?}");
        let late = refusal.retry_at().since(until);
        assert!(refusal.retry_at() >= until && late < Duration::from_millis(10));
    }
    assert_eq!(second.snapshot().health, Health::Degraded);
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert!(second.try_admit(Class::Create).await.is_ok());
    // A third one hears of nothing that is over.
    let third = world.replica("third", policy(0)).await;
    assert!(third.try_admit(Class::Poll).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn p2_a_breaker_that_one_replica_opens_holds_all_until_it_has_closed() {
    let world = World::new();
    let first = world.replica("first", policy(0)).await;
    let second = world.replica("second", policy(0)).await;
    world.status.store(500, Ordering::SeqCst);
    first.follows(9);
    let mut subject = 0;
    while !first.snapshot().breaker_open {
        subject += 1;
        let mut admission = forever(&first, Class::Poll)
            .await
            .about(PurchaseId::from_u128(subject));
        first.ask(&mut admission, request()).await.unwrap();
    }
    // The store hears of it at once.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refusal = second.try_admit(Class::Create).await.unwrap_err();
    let Refusal::Unreachable { retry_at } = refusal else {
        panic!("{refusal:?}");
    };
    world.status.store(200, Ordering::SeqCst);
    tokio::time::sleep(retry_at.since(world.clock.moment())).await;
    let mut probe = second.try_admit(Class::Create).await.unwrap();
    assert!(probe.is_probe());
    second.ask(&mut probe, request()).await.unwrap();
    assert_eq!(second.snapshot().health, Health::Ok);
}

#[tokio::test(start_paused = true)]
async fn p2_a_limit_that_one_replica_lowers_is_lowered_for_all_and_rises_again() {
    let world = World::new();
    let first = world.replica("first", policy(100)).await;
    let second = world.replica("second", policy(100)).await;
    for _ in 0..90 {
        forever(&first, Class::Poll).await;
    }
    let silent = Trouble::Throttled { retry_after: None };
    learned(&first, Class::Poll, &silent).await;
    let lowered = first.snapshot().requests_per_minute;
    assert!((40..=50).contains(&lowered), "{lowered}");
    // The store hears of it at once.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut admission = forever(&second, Class::Create).await;
    second.ask(&mut admission, request()).await.unwrap();
    assert_eq!(second.snapshot().requests_per_minute, lowered);
    assert!(second.snapshot().note.contains("requests a minute"));
    tokio::time::sleep(Duration::from_secs(1_200)).await;
    drop(forever(&second, Class::Create).await);
    for account in [first, second] {
        assert_eq!(account.snapshot().requests_per_minute, 100);
    }
}

#[tokio::test(start_paused = true)]
async fn places_in_flight_are_shared_and_go_back_a_second_after_they_are_free() {
    let few = |max_in_flight| Policy {
        max_in_flight,
        ..policy(0)
    };
    for most in [1, 4, 16] {
        let world = World::new();
        let owner = world.replica("owner", few(most)).await;
        let other = world.replica("other", few(most)).await;
        let poll = owner.try_admit(Class::Poll).await.unwrap();
        if most == 1 {
            let busy = other.try_admit(Class::Create).await;
            assert!(matches!(busy, Err(Refusal::Busy { .. })), "{busy:?}");
            drop(poll);
        }
        let began = world.clock.moment();
        let mut creates = Vec::new();
        let room = most.saturating_sub(1).max(1);
        for _ in 0..room {
            creates.push(other.admit(Class::Create, world.later(10)).await.unwrap());
        }
        let waited = world.clock.moment().since(began);
        assert!(waited < Duration::from_secs(2), "{waited:?} of {most}");
        let busy = other.try_admit(Class::Create).await;
        assert!(
            matches!(busy, Err(Refusal::Busy { .. })),
            "{busy:?} of {most}"
        );
        drop(creates);
        // The create that was refused is waited for, for a second.
        let began = world.clock.moment();
        let poll = owner.admit(Class::Poll, world.later(10)).await;
        assert!(poll.is_ok(), "of {most}");
        assert!(world.clock.moment().since(began) < Duration::from_secs(3));
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_nothing_goes() {
    let world = World::new();
    let account = world.replica("first", policy(100)).await;
    world.journal.fail_writes(true);
    for class in [Class::Poll, Class::Create] {
        let refusal = account.try_admit(class).await.unwrap_err();
        assert!(
            matches!(refusal, Refusal::BudgetUnkept { .. }),
            "{refusal:?}"
        );
    }
    world.journal.fail_writes(false);
    assert!(account.try_admit(Class::Poll).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn p2_under_a_lower_limit_nothing_goes_for_a_minute_since_nobody_knows_the_last_one() {
    let world = World::new();
    let first = world.replica("first", policy(600)).await;
    let second = world.replica("second", policy(600)).await;
    for _ in 0..10 {
        for account in [&first, &second] {
            let mut admission = forever(account, Class::Create).await;
            account.ask(&mut admission, request()).await.unwrap();
        }
    }
    let changed = world.since();
    let lower = first.settings().with_policy(policy(10));
    first.take_up(lower);
    let mut admission = forever(&first, Class::Create).await;
    first.ask(&mut admission, request()).await.unwrap();
    let went = world.since().saturating_sub(changed);
    assert!(went >= Duration::from_secs(60), "{went:?}");
    assert!(went <= Duration::from_secs(70), "{went:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_dropped_leaves_no_task_behind() {
    let world = World::new();
    let account = world.replica("first", policy(100)).await;
    drop(account.try_admit(Class::Poll).await.unwrap());
    // Everything is told, and it waits for news.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let gone = Arc::downgrade(&account);
    drop(account);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(gone.upgrade().is_none());
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn p2_a_process_alone_exceeds_no_limit_however_often_the_stores_clock_is_set_forth() {
    let creates = |creates_per_minute| Policy {
        creates_per_minute,
        ..policy(0)
    };
    for (policy, class, limit) in [
        (policy(1), Class::Poll, 1),
        (policy(5), Class::Create, 5),
        (policy(100), Class::Poll, 100),
        (creates(6), Class::Create, 6),
    ] {
        let world = World::new();
        let account = world.replica("first", policy).await;
        let asking = asking_all_the_time(&account, class);
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            world.store.step_wall(3_600_000);
        }
        asking.abort();
        let (most, all) = (
            world.most_in_a_minute(),
            world.reached.lock().unwrap().len(),
        );
        assert!(most <= limit, "{most} of {limit} in a minute");
        assert!(all >= limit * 4, "{all} at {limit} in five minutes");
    }
}

fn allowing(requests_per_minute: u32) -> Limits {
    Limits {
        requests_per_minute,
        ..Limits::default()
    }
}

#[tokio::test(start_paused = true)]
async fn p2_the_least_limit_of_the_living_holds_for_all_together_and_ends_with_its_replica() {
    let world = World::new();
    let high = world.replica("high", policy(100)).await;
    let polls = asking_all_the_time(&high, Class::Poll);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(world.most_in_a_minute() > 80);
    // Each hears of the other.
    let low = world.replica("low", policy(20)).await;
    low.others_allow(allowing(100));
    high.others_allow(allowing(20));
    let heard = world.since();
    let creates = asking_all_the_time(&low, Class::Create);
    tokio::time::sleep(Duration::from_secs(400)).await;
    let (most, minute) = (world.most_in_a_minute_after(heard), Duration::from_secs(60));
    assert!((18..=20).contains(&most), "{most}");
    let reached = world.reached.lock().unwrap().clone();
    let soon = reached
        .iter()
        .filter(|time| (heard..heard + minute).contains(*time));
    assert_eq!(
        soon.count(),
        0,
        "the last minute counts under the lower limit"
    );
    assert_eq!(high.snapshot().requests_per_minute, 20);
    // A process that begins now, and has asked nothing, owes nothing for that.
    let newcomer = world.replica("new", policy(100)).await;
    newcomer.others_allow(allowing(20));
    forever(&newcomer, Class::Create).await;
    assert!(world.since() < heard + Duration::from_secs(420));
    creates.abort();
    high.others_allow(allowing(0));
    let gone = world.since();
    tokio::time::sleep(Duration::from_secs(120)).await;
    polls.abort();
    let most = world.most_in_a_minute_after(gone);
    assert!((80..=100).contains(&most), "{most}");
}

#[tokio::test(start_paused = true)]
async fn the_least_places_in_flight_of_the_living_hold_for_all_together() {
    let world = World::new();
    let high = world.replica("high", policy(0)).await;
    let other = world.replica("other", policy(0)).await;
    for account in [&high, &other] {
        account.others_allow(Limits {
            max_in_flight: 3,
            ..Limits::default()
        });
    }
    let mut under_way = Vec::new();
    for account in [&high, &other, &high] {
        under_way.push(account.admit(Class::Create, world.later(10)).await.unwrap());
    }
    for account in [&high, &other] {
        let busy = account.try_admit(Class::Create).await;
        assert!(matches!(busy, Err(Refusal::Busy { .. })), "{busy:?}");
        account.others_allow(Limits::default());
        under_way.push(account.try_admit(Class::Create).await.unwrap());
    }
}
