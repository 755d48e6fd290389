//! Two processes on one store in memory, of which one owns the account: watchers, refreshes and freshness on
//! the other.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::{
    engine::{self, Seen, named, record, runs},
    *,
};
use crate::{
    cadence::Schedule,
    exchange::{AccountHealth, AccountView, Answers},
    journal::{
        Outcome, ReplicaId,
        memory::{Chances, MemoryBoard},
    },
    purchase::Moment,
    upstream::Upstream,
};

/// The owner's tracker, as it answers.
struct Owning(Tracker, Arc<MemoryJournal>, Accounts);

#[async_trait]
impl Answers for Owning {
    fn freshness(&self, account: &AccountName, purchase: PurchaseId) -> Freshness {
        self.0.freshness_here(account, purchase).unwrap()
    }

    async fn refresh(&self, purchase: PurchaseId) -> (Outcome, Option<Moment>) {
        let record = self.1.record(purchase).await.unwrap().unwrap();
        ended(&self.0.refresh(&record.purchase).await)
    }

    fn accounts(&self) -> Vec<AccountName> {
        self.2.all().keys().cloned().collect()
    }

    fn view(&self, account: &AccountName) -> Option<AccountView> {
        Some(self.0.view_here(&*self.2.get(account)?))
    }
}

/// One of the processes.
pub(super) struct Side {
    pub(super) tracker: Tracker,
    exchange: Exchange,
    pub(super) journal: Arc<MemoryJournal>,
    pub(super) tenures: Tenures,
    accounts: Accounts,
}

struct Two {
    clock: Clock,
    owner: Side,
    other: Side,
    work: JoinSet<()>,
}

pub(super) fn devdraft() -> AccountName {
    AccountName::new("devdraft")
}

/// A process on a store in memory. It owns the account if it has the tenures for it.
pub(super) fn side(
    store: &MemoryJournal,
    clock: &Clock,
    accounts: &Accounts,
    (name, tenures): (&str, Tenures),
) -> Side {
    let seed = name.len() as u64;
    let journal = Arc::new(store.shared(Chances {
        seed,
        delay_max: Duration::from_millis(20),
        read_every: Duration::from_millis(100),
        hints_lost: 0,
        answers_lost: 0,
    }));
    let board = MemoryBoard::new(&journal, clock, &ReplicaId::new(name), clock);
    let exchange = Exchange::new(Arc::new(board), clock.clone());
    let tracker = Tracker::new(Arc::clone(&journal) as _, clock.clone(), accounts, &tenures);
    tracker.talk_over(exchange.clone());
    Side {
        tracker,
        exchange,
        journal,
        tenures,
        accounts: accounts.clone(),
    }
}

impl Two {
    /// Two processes, with purchases of an account that the first owns.
    async fn open(accounts: [Accounts; 2], clock: Clock, purchases: u128) -> Self {
        let store = MemoryJournal::new("test");
        let [first, second] = accounts;
        let tenures = testing::alone(&first);
        let owner = side(&store, &clock, &first, ("owner", tenures));
        let other = side(&store, &clock, &second, ("other", Tenures::default()));
        other.tenures.are_elsewhere(BTreeSet::from([devdraft()]));
        owner.exchange.own(&devdraft());
        for number in 1..=purchases {
            let mut record = record(number, "devdraft", named("transaction_id", number), &clock);
            let mut status = Status::clone(&record.purchase.status);
            status.revision = Revision(1);
            record.purchase.status = Arc::new(status);
            let begin = testing::begin(record);
            owner.journal.write(begin).await.unwrap();
        }
        let mut work = JoinSet::new();
        for side in [&owner, &other] {
            let exchange = side.exchange.clone();
            let owning = Owning(
                side.tracker.clone(),
                Arc::clone(&side.journal),
                side.accounts.clone(),
            );
            work.spawn(async move { exchange.run(&owning).await });
        }
        Self {
            clock,
            owner,
            other,
            work,
        }
    }

    async fn of(upstream: Arc<dyn Upstream>, limit: u32, purchases: u128) -> Self {
        let clock = testing::clock();
        let change = |policy: &mut Policy| {
            policy.requests_per_minute = limit;
            policy.schedule = Schedule::of(&[], 5_000);
        };
        let first = engine::account("devdraft", Arc::clone(&upstream), &clock, change).await;
        let second = engine::account("devdraft", upstream, &clock, change).await;
        let accounts = [Accounts::new([first]), Accounts::new([second])];
        Self::open(accounts, clock, purchases).await
    }

    async fn purchase(&self, number: u128) -> Purchase {
        let record = self.other.journal.record(PurchaseId::from_u128(number));
        record.await.unwrap().unwrap().purchase
    }
}

/// Promise P6: watched purchases count more, whichever process their watchers are at.
#[tokio::test(start_paused = true)]
async fn p6_a_purchase_that_is_watched_elsewhere_is_polled_as_one_that_is_watched_here() {
    const PURCHASES: u128 = 60;
    let seen = Arc::<Seen>::default();
    let answering = engine::upstream(&seen, Duration::from_millis(200));
    let two = Two::of(answering, 90, PURCHASES).await;
    let here = PurchaseId::from_u128(1);
    two.owner
        .tracker
        .count_watchers(Box::new(move |id| usize::from(id == here)));
    two.other.exchange.watch(&two.purchase(2).await);
    let running = runs(&two.owner.tracker);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    two.owner.tracker.drain().await;
    running.await.unwrap();
    let times = lock(&seen.times);
    let polls = |number: u128| times.get(&format!("{number:032x}")).map_or(0, Vec::len);
    let unwatched = (3..=PURCHASES).map(polls).sum::<usize>() / (PURCHASES as usize - 2);
    let (here, elsewhere) = (polls(1), polls(2));
    assert!(here > unwatched * 3 / 2, "{here} {unwatched}");
    assert!(
        elsewhere.abs_diff(here) < here / 4,
        "{elsewhere} {here} {unwatched}"
    );
}

/// Promise S7: any replica serves any refresh.
#[tokio::test(start_paused = true)]
async fn s7_a_refresh_elsewhere_is_answered_once_its_owner_has_committed_what_was_said() {
    let seen = Arc::<Seen>::default();
    let answering = engine::upstream(&seen, Duration::from_secs(1));
    // Nothing is polled: the loops do not run.
    let two = Two::of(answering, 0, 2).await;
    let purchase = two.purchase(1).await;
    let refused = two.other.tracker.refresh(&purchase).await;
    assert!(matches!(refused, Err(Unheard::NotOwned)), "{refused:?}");
    let passed = || two.other.tracker.pass_on(&purchase);
    let (one, other) = tokio::join!(passed(), passed());
    assert!(matches!((&one, &other), (Some(Ok(())), Some(Ok(())))));
    assert_eq!(seen.requests.load(Ordering::SeqCst), 1, "both share it");
    // The other process hears of it before it is answered, or reads it at once.
    let before = purchase.status.revision;
    let known = two.purchase(1).await;
    assert!(known.status.revision > before, "{known:?}");
    // Nobody owns it: an error at once.
    two.other.tenures.are_elsewhere(BTreeSet::new());
    let began = tokio::time::Instant::now();
    let unowned = two.other.tracker.pass_on(&purchase).await;
    assert!(matches!(unowned, Some(Err(Unheard::NotOwned))));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(seen.requests.load(Ordering::SeqCst), 1);
    // A drain holds no caller up.
    two.other
        .tenures
        .are_elsewhere(BTreeSet::from([devdraft()]));
    two.owner.exchange.disown(&devdraft());
    let (drained, ()) = tokio::join!(passed(), async {
        tokio::time::sleep(seconds(5)).await;
        two.other.tracker.drain().await;
    });
    assert!(matches!(drained, Some(Err(Unheard::Draining))));
    assert_eq!(began.elapsed(), seconds(5));
    assert!(two.work.len() == 2, "both talk");
}

#[tokio::test(start_paused = true)]
async fn s7_an_owners_trouble_is_told_elsewhere_with_the_time_to_try_again() {
    let throttling = Scripted::new(|_: Request| async {
        Ok(json_response(429, &json!({ "message": "slow down" })))
    });
    let two = Two::of(Arc::new(throttling), 0, 1).await;
    let purchase = two.purchase(1).await;
    let here = two.owner.tracker.refresh(&purchase).await;
    let passed = two.other.tracker.pass_on(&purchase).await;
    let (here, passed) = (here.unwrap_err(), passed.unwrap().unwrap_err());
    let is_throttled = |unheard: &Unheard| ended(&Err(unheard.clone())).0 == Outcome::Throttled;
    assert!(
        is_throttled(&here) && is_throttled(&passed),
        "{here:?} {passed:?}"
    );
    let retry_at = passed.retry_at().expect("a time to try again");
    assert!(retry_at > two.clock.moment());
}

/// Promise S7: any replica serves any read.
#[tokio::test(start_paused = true)]
async fn s7_freshness_and_accounts_are_their_owners_on_every_replica() {
    let seen = Arc::<Seen>::default();
    let answering = engine::upstream(&seen, Duration::ZERO);
    let two = Two::of(answering, 90, 2).await;
    let running = runs(&two.owner.tracker);
    let purchase = two.purchase(1).await;
    assert_eq!(two.other.tracker.freshness(&purchase), Freshness::default());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let own = two.owner.tracker.freshness(&purchase);
    let told = two.other.tracker.freshness(&purchase);
    // It is at most as old as its way.
    let answered = |freshness: Freshness| freshness.last_answer_time.unwrap();
    assert!(answered(own).since(answered(told)) <= Duration::from_secs(20));
    assert!(two.clock.now().since(answered(told)) <= Duration::from_secs(25));
    assert!(told.next_poll_time.is_some());
    let account = two.other.accounts.get(&devdraft()).unwrap();
    let view = two.other.tracker.view(&account);
    assert_eq!((view.open_purchases, view.health), (2, AccountHealth::Ok));
    assert!(view.requests_last_minute > 0);
    two.owner.tracker.drain().await;
    running.await.unwrap();
}

/// Each end of a refresh says the same on the replica that was asked as on the owner.
#[test]
fn every_outcome_is_told_elsewhere_as_what_it_is() {
    let now = Moment::from_millis(7);
    for outcome in [
        Outcome::Heard,
        Outcome::Throttled,
        Outcome::Unauthorized,
        Outcome::Unreachable,
        Outcome::Unreadable,
        Outcome::JournalAway,
        Outcome::AccountMissing,
        Outcome::NotOwned,
    ] {
        let told = super::super::elsewhere::result(outcome, Some(now));
        assert_eq!(ended(&told).0, outcome);
        assert_eq!(told.is_ok(), outcome == Outcome::Heard);
    }
    assert_eq!(ended(&Err(Unheard::Draining)).0, Outcome::NotOwned);
}
