//! Budgets of a store that processes share: slots, places and lessons of all of them together.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tillwatch_cluster::{Cluster, Database};

use super::server;
use crate::{
    clock::Clock,
    journal::{
        Arrivals, Budgets, Lowered, Purpose, ReplicaId, Spacing, Taken, Taking, Verdict, Word,
        memory::{MemoryBudgets, MemoryJournal},
        postgres::{PostgresBudgets, Settings},
    },
    purchase::AccountName,
    testing,
};

/// Openings of one store, each with its view of the budgets.
pub struct Spenders {
    budgets: Vec<Arc<dyn Budgets>>,
    clock: Clock,
    _kept: Box<dyn Any + Send + Sync>,
}

const NAMES: [&str; 4] = ["first", "second", "third", "fourth"];

pub async fn memory_spenders() -> Spenders {
    let (journal, clock) = (MemoryJournal::new("epoch"), testing::clock());
    let of = |name: &&str| MemoryBudgets::new(&journal, &clock, &ReplicaId::new(name), &clock);
    Spenders {
        budgets: NAMES.iter().map(|name| Arc::new(of(name)) as _).collect(),
        clock,
        _kept: Box::new(()),
    }
}

pub async fn postgres_spenders() -> Spenders {
    let (database, clock) = (Cluster::shared().database(), Clock::system());
    server::open(&database.url(), 1).await.unwrap();
    let of = |name: &&str| over(&database, name, &clock);
    Spenders {
        budgets: NAMES.iter().map(|name| Arc::new(of(name)) as _).collect(),
        clock,
        _kept: Box::new(database),
    }
}

fn over(database: &Database, name: &str, clock: &Clock) -> PostgresBudgets {
    let settings = Settings::parse(&database.url()).unwrap();
    PostgresBudgets::new(&settings, &ReplicaId::new(name), clock).unwrap()
}

fn account() -> AccountName {
    AccountName::new("shop")
}

fn spacing(interval_ms: u64) -> Option<Spacing> {
    (interval_ms > 0).then(|| Spacing {
        interval: Duration::from_millis(interval_ms),
        tolerance: Duration::ZERO,
    })
}

/// A wish for one slot of a pace without a burst, or of none, and for one place.
fn taking(purpose: Purpose, interval_ms: u64) -> Taking {
    Taking {
        purpose,
        taken: Arrivals::default(),
        wanted: Arrivals::default(),
        requests: spacing(interval_ms),
        slots: 1,
        creates: None,
        owes_minute: false,
        creates_owe_minute: false,
        in_flight: 0,
        places: 1,
        places_max: 100,
        lasts: Duration::ZERO,
    }
}

fn word(in_flight: u32) -> Word {
    Word {
        pause: Duration::ZERO,
        unreachable: Duration::ZERO,
        lowered: None,
        in_flight,
        lasts: Duration::from_secs(15),
    }
}

impl Spenders {
    async fn take(&self, opening: usize, taking: &Taking) -> Taken {
        self.budgets[opening]
            .take(&account(), taking)
            .await
            .unwrap()
    }

    /// Takes as soon as the store gives.
    async fn take_in_time(&self, opening: usize, taking: &Taking) -> Taken {
        loop {
            let taken = self.take(opening, taking).await;
            match taken.verdict {
                Verdict::Given => return taken,
                Verdict::Later(at) => self.sleep_until(at).await,
                Verdict::Busy => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn sleep_until(&self, at: crate::purchase::Moment) {
        tokio::time::sleep(at.since(self.clock.moment())).await;
    }
}

/// Four openings that all take what they can get, of a budget in which the next slot is never now.
pub async fn no_slot_is_given_twice_under_hammering(spenders: Spenders) {
    const EACH: usize = 40;
    let interval = Duration::from_secs(10);
    let spenders = Arc::new(spenders);
    let mut takers = tokio::task::JoinSet::new();
    for opening in 0..NAMES.len() {
        let spenders = Arc::clone(&spenders);
        takers.spawn(async move {
            let purpose = [Purpose::First, Purpose::Other][opening % 2];
            let ahead = Taking {
                requests: Some(Spacing {
                    interval,
                    tolerance: Duration::from_secs(36_000),
                }),
                ..taking(purpose, 0)
            };
            let mut slots = Vec::new();
            while slots.len() < EACH {
                let taken = spenders.take_in_time(opening, &ahead).await;
                slots.extend(taken.requests.unwrap().from.map(|from| (from, taken.late)));
            }
            slots
        });
    }
    let mut slots = takers.join_all().await.concat();
    slots.sort();
    assert_eq!(slots.len(), EACH * NAMES.len());
    for pair in slots.windows(2) {
        // Each is known as exactly as its answer was quick.
        let apart = pair[1].0.since(pair[0].0) + pair[0].1 + Duration::from_millis(2);
        assert!(apart >= interval, "{pair:?}");
    }
}

/// Four openings that all have as many requests in flight as they can.
pub async fn places_of_all_processes_never_exceed_the_most_under_hammering(spenders: Spenders) {
    const MOST: u32 = 5;
    let (spenders, held) = (Arc::new(spenders), Arc::new(AtomicU32::new(0)));
    let (most, busy) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut takers = tokio::task::JoinSet::new();
    for opening in 0..NAMES.len() {
        let (spenders, held) = (Arc::clone(&spenders), Arc::clone(&held));
        let (most, busy) = (Arc::clone(&most), Arc::clone(&busy));
        takers.spawn(async move {
            let mut own = 0;
            for round in 0..60 {
                if own > 0 && (round + opening) % 3 == 0 {
                    held.fetch_sub(own, Ordering::SeqCst);
                    own = 0;
                    spenders.budgets[opening]
                        .tell(&account(), &word(0))
                        .await
                        .unwrap();
                    continue;
                }
                let more = Taking {
                    in_flight: own,
                    places: own + 2,
                    places_max: MOST,
                    lasts: Duration::from_secs(15),
                    ..taking(Purpose::First, 0)
                };
                let taken = spenders.take(opening, &more).await;
                if taken.verdict == Verdict::Busy {
                    busy.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let all = held.fetch_add(taken.places - own, Ordering::SeqCst) + taken.places - own;
                own = taken.places;
                most.fetch_max(all, Ordering::SeqCst);
                assert!(all <= MOST, "{all} of {MOST}");
            }
        });
    }
    takers.join_all().await;
    assert_eq!(most.load(Ordering::SeqCst), MOST);
    assert!(busy.load(Ordering::SeqCst) > 0);
}

pub async fn a_lesson_of_one_process_is_heard_by_all_with_their_next_take(spenders: Spenders) {
    let told = Word {
        pause: Duration::from_millis(1_500),
        unreachable: Duration::from_secs(3),
        lowered: Some(Lowered { to: 40, full: 100 }),
        ..word(0)
    };
    let before = spenders.clock.moment();
    spenders.budgets[0].tell(&account(), &told).await.unwrap();
    let after = spenders.clock.moment();
    for opening in 1..NAMES.len() {
        let taken = spenders.take(opening, &taking(Purpose::First, 0)).await;
        let heard = taken.heard;
        let Verdict::Later(at) = taken.verdict else {
            panic!("{taken:?}");
        };
        assert_eq!(heard.paused_until, Some(at));
        assert!(at >= before.plus(told.pause), "{at:?}");
        // As long as the questions take later than it is.
        let slack = spenders.clock.moment().since(after) + Duration::from_millis(2);
        assert!(at <= after.plus(told.pause + slack), "{at:?}");
        let until = heard.unreachable_until.unwrap();
        assert!(until >= before.plus(told.unreachable), "{until:?}");
        assert_eq!(heard.lowered, told.lowered);
    }
    let taken = spenders.take_in_time(1, &taking(Purpose::First, 0)).await;
    assert!(spenders.clock.moment() >= before.plus(told.pause));
    assert_eq!(taken.heard.paused_until, None);
    // Another account has heard nothing.
    let other = AccountName::new("other");
    let taken = spenders.budgets[1]
        .take(&other, &taking(Purpose::First, 0))
        .await
        .unwrap();
    assert_eq!(taken.heard, crate::journal::Heard::default());
}

pub async fn a_create_that_waits_anywhere_has_the_next_slot(spenders: Spenders) {
    let (poll, create) = (taking(Purpose::Other, 600), taking(Purpose::First, 600));
    spenders.take_in_time(0, &poll).await;
    for _ in 0..2 {
        let Verdict::Later(at) = spenders.take(1, &create).await.verdict else {
            panic!("a slot is free");
        };
        // It comes back a little late.
        while spenders.clock.moment() < at.plus(Duration::from_millis(20)) {
            let polled = spenders.take(0, &poll).await.verdict;
            assert!(matches!(polled, Verdict::Later(_)), "{polled:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut created = spenders.take(1, &create).await.verdict;
        // Its time was told to the millisecond, and counts from the arrival of the answer.
        while let Verdict::Later(at) = created {
            spenders.sleep_until(at).await;
            created = spenders.take(1, &create).await.verdict;
        }
        assert_eq!(created, Verdict::Given);
    }
}

pub async fn places_of_a_process_that_is_gone_come_back(spenders: Spenders) {
    let all = Taking {
        places: 2,
        places_max: 2,
        ..taking(Purpose::First, 0)
    };
    let taken = spenders.take(0, &all).await;
    assert_eq!((taken.verdict, taken.places), (Verdict::Given, 2));
    let began = spenders.clock.moment();
    assert_eq!(spenders.take(1, &all).await.verdict, Verdict::Busy);
    let taken = spenders.take_in_time(1, &all).await;
    assert_eq!(taken.places, 2);
    // A request goes within two seconds of its take, and the network has one.
    let waited = spenders.clock.moment().since(began);
    assert!(waited > Duration::from_millis(2_500), "{waited:?}");
}

/// A crash of the server can have forgotten the last takes: they are paid again.
#[tokio::test]
async fn after_its_connections_were_lost_a_process_waits_a_second_for_its_first_slot() {
    let (database, clock) = (Cluster::shared().database(), Clock::system());
    server::open(&database.url(), 1).await.unwrap();
    let budgets = over(&database, "first", &clock);
    let one = taking(Purpose::First, 1);
    let taken = budgets.take(&account(), &one).await.unwrap();
    assert_eq!(
        taken.verdict,
        Verdict::Given,
        "a process that starts has lost nothing"
    );
    database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    let began = clock.moment();
    let taken = loop {
        // Its loss may be met by the first question.
        if let Ok(taken) = budgets.take(&account(), &one).await {
            break taken;
        }
    };
    let Verdict::Later(at) = taken.verdict else {
        panic!("{taken:?}");
    };
    assert!(at >= began.plus(Duration::from_secs(1)), "{at:?}");
    tokio::time::sleep(at.since(clock.moment())).await;
    let taken = budgets.take(&account(), &one).await.unwrap();
    assert_eq!(taken.verdict, Verdict::Given, "once");
}
