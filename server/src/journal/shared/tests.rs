//! The merge, with a log that says what it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{
    journal::Observer,
    purchase::{Cause, State, Status, Timestamp},
    testing,
};

/// The positions that each kind of observer has heard.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    purchases: Vec<u64>,
    in_order: Vec<u64>,
    own: Vec<u64>,
}

struct Bench {
    published: Published,
    heard: Arc<Mutex<Heard>>,
}

impl Bench {
    fn new() -> Self {
        let published = Published::shared(Position(0));
        let heard = Arc::<Mutex<Heard>>::default();
        let noting = |note: fn(&mut Heard) -> &mut Vec<u64>| -> Observer {
            let heard = Arc::clone(&heard);
            Arc::new(move |committed| {
                let positions = committed.iter().map(|one| one.position.0);
                note(&mut heard.lock().unwrap()).extend(positions);
            })
        };
        let observers = &published.observers;
        observers.add(Hears::Purchases, noting(|heard| &mut heard.purchases));
        observers.add(Hears::InOrder, noting(|heard| &mut heard.in_order));
        observers.add(Hears::Own, noting(|heard| &mut heard.own));
        Self { published, heard }
    }

    fn merge(&self) -> &Merge {
        self.published.merge().unwrap()
    }

    fn own(&self, committed: &[Arc<Committed>]) {
        self.published.publish(Position(99), committed, true);
    }

    fn read(&self, committed: &[Arc<Committed>], through: u64) {
        let read = Logged {
            committed: committed.to_vec(),
            through: Position(through),
            is_whole: true,
        };
        self.merge().read(read, Instant::now(), &self.published);
        assert_eq!(self.published.head(), Position(through));
    }

    fn check(&self, purchases: &[u64], in_order: &[u64], own: &[u64]) {
        let heard = self.heard.lock().unwrap();
        assert_eq!(heard.purchases, purchases, "of single purchases");
        assert_eq!(heard.in_order, in_order, "in order");
        assert_eq!(heard.own, own, "own");
    }
}

/// A step of purchase `purchase` to this revision.
fn step(position: u64, purchase: u128, revision: u32) -> Arc<Committed> {
    let id = PurchaseId::from_u128(purchase);
    let mut status = Status::pending(Timestamp::default());
    status.revision = Revision(revision);
    Arc::new(Committed {
        position: Position(position),
        purchase: testing::record(id, "shop", "masumi", status).purchase,
        from_state: Some(State::Pending),
        cause: Cause::Poll,
    })
}

#[tokio::test(start_paused = true)]
async fn of_one_purchase_nobody_hears_an_older_revision_after_a_newer_one() {
    let bench = Bench::new();
    let log = [
        step(1, 7, 1),
        step(2, 7, 2),
        step(3, 8, 1),
        step(4, 7, 3),
        step(5, 7, 4),
    ];
    // Another process has made the first ones, and this one the fourth, before it has read them.
    bench.own(&log[3..4]);
    bench.check(&[4], &[], &[4]);
    bench.read(&log[..3], 3);
    bench.check(&[4, 3], &[1, 2, 3], &[4]);
    bench.read(&log[3..], 5);
    bench.check(&[4, 3, 5], &[1, 2, 3, 4, 5], &[4]);
}

#[tokio::test(start_paused = true)]
async fn an_own_commit_whose_outcome_was_long_unknown_is_heard_once_by_each() {
    let bench = Bench::new();
    let log = [step(1, 7, 1), step(2, 7, 2)];
    bench.read(&log, 2);
    bench.check(&[1, 2], &[1, 2], &[]);
    bench.own(&log[..1]);
    bench.check(&[1, 2], &[1, 2], &[1]);
    bench.read(&log, 2);
    bench.check(&[1, 2], &[1, 2], &[1]);
}

#[tokio::test(start_paused = true)]
async fn own_commits_that_are_never_read_do_not_pile_up() {
    let bench = Bench::new();
    let most = OWN_MAX as u64;
    for position in 1..=most + 5 {
        bench.own(&[step(position, u128::from(position), 1)]);
    }
    assert_eq!(bench.merge().lock().own.len(), OWN_MAX);
    // Retention has taken all of them.
    bench.read(&[], most + 5);
    assert_eq!(bench.merge().lock().own.len(), 0);
}

/// A log that counts its reads.
#[derive(Default)]
struct Counted {
    reads: AtomicUsize,
    /// Full reads that are left.
    full: AtomicUsize,
    fails: std::sync::atomic::AtomicBool,
}

impl Log for Arc<Counted> {
    async fn read(&self, after: Position, _limit: usize) -> Result<Logged, JournalError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            return Err(JournalError::unavailable("as told"));
        }
        let full = (self.full).fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        Ok(Logged {
            committed: Vec::new(),
            through: after,
            is_whole: full.is_err(),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_at_once_and_without_hints_the_log_is_read_all_the_same() {
    let bench = Bench::new();
    let log = Arc::new(Counted::default());
    let (hints, published) = (Arc::new(Notify::new()), Arc::new(bench.published));
    let (counted, hinted, told) = (log.clone(), hints.clone(), published.clone());
    let following = tokio::spawn(async move {
        let news = (&*hinted, Duration::from_millis(100));
        let progress = Progress::new("news");
        follow(&counted, (told.merge().unwrap(), &told), news, &progress).await;
    });
    let reads = || log.reads.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_001)).await;
    assert_eq!(reads(), 10, "one each 105 ms");
    // Many hints at once are one read, and it does not come within 5 ms of the last one.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let before = reads();
    for _ in 0..50 {
        hints.notify_one();
    }
    tokio::time::sleep(Duration::from_millis(4)).await;
    assert_eq!(reads(), before + 1);
    hints.notify_one();
    tokio::time::sleep(Duration::from_millis(3)).await;
    assert_eq!(reads(), before + 2);
    // More than one read brings is read on at once.
    log.full.store(10, Ordering::SeqCst);
    hints.notify_one();
    let before = reads();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(reads(), before + 11);
    assert!(published.behind() < Duration::from_millis(10));
    log.fails.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(7)).await;
    let behind = published.behind();
    assert!(behind > Duration::from_secs(6), "{behind:?}");
    following.abort();
}
