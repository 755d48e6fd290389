//! Owners of one store in virtual time, with the faults that move accounts and those that must not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    clock::Clock,
    journal::{
        Alone, Fence, JournalError, Limits, Ownership,
        memory::{MemoryJournal, MemoryOwnership},
    },
    purchase::AccountName,
    testing,
};

/// The accounts and their owners: at most one works for each at any time.
type Owners = Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>;

/// Notes who works for which account.
struct Note {
    name: &'static str,
    owners: Owners,
    /// The time that commits under way take at the end of a tenure.
    commits: Duration,
    /// The requests per minute that others allow, for each account.
    allowed: Arc<Mutex<Vec<u32>>>,
}

#[async_trait]
impl Follower for Note {
    async fn begin(&self, tenure: &Tenure) -> Result<(), JournalError> {
        let mut owners = self.owners.lock().unwrap();
        let of = owners.entry(tenure.account().to_string()).or_default();
        of.push(self.name);
        Ok(())
    }

    fn others_allow(&self, limits: &AccountLimits) {
        let requests = limits.values().map(|one| one.requests_per_minute);
        *self.allowed.lock().unwrap() = requests.collect();
    }

    async fn end(&self, tenure: &Tenure) {
        tokio::time::sleep(self.commits).await;
        let mut owners = self.owners.lock().unwrap();
        let of = owners.get_mut(tenure.account().as_str()).unwrap();
        of.retain(|one| *one != self.name);
    }
}

/// So many accounts, each with so many requests per minute.
fn limited(count: usize, requests_per_minute: u32) -> AccountLimits {
    let limits = Limits {
        requests_per_minute,
        ..Limits::default()
    };
    (0..count)
        .map(|one| (AccountName::new(&format!("a{one:02}")), limits))
        .collect()
}

fn names(count: usize) -> AccountLimits {
    limited(count, 0)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Replicas over one store.
struct World {
    clock: Clock,
    journal: MemoryJournal,
    owners: Owners,
    accounts: usize,
}

#[tokio::test(start_paused = true)]
async fn a_replica_goes_by_the_stores_clock_from_its_start_on_and_one_alone_by_its_machines() {
    let (store, machine) = (testing::clock(), testing::clock());
    machine.step_wall(7_200_000);
    let journal = MemoryJournal::new("e");
    let shared = MemoryOwnership::new(&journal, &store, "first");
    let (of_replica, of_one) = (machine.restarted(), machine.restarted());
    let replica = Owner::new(Arc::new(shared), of_replica.clone(), names(1));
    replica.start().await.unwrap();
    assert_eq!(of_replica.both(), store.both());
    let alone = Owner::new(Arc::new(Alone::default()), of_one.clone(), names(1));
    alone.start().await.unwrap();
    assert_eq!(of_one.both(), machine.both());
    // The store's clock is set, and a look follows it.
    let note = Note {
        name: "first",
        owners: Owners::default(),
        commits: Duration::ZERO,
        allowed: Arc::default(),
    };
    let running = tokio::spawn(async move { replica.run(&note).await });
    store.step_wall(-86_400_000);
    tokio::time::sleep(millis(600)).await;
    assert_eq!(of_replica.both(), store.both());
    running.abort();
}

/// One replica.
struct Replica {
    owner: Owner,
    running: JoinHandle<()>,
    /// The requests per minute that others allow, for each account.
    allowed: Arc<Mutex<Vec<u32>>>,
}

impl World {
    fn new(accounts: usize) -> Self {
        Self {
            clock: testing::clock(),
            journal: MemoryJournal::new("e"),
            owners: Owners::default(),
            accounts,
        }
    }

    fn replica_over(&self, store: Arc<dyn Ownership>, name: &'static str) -> Replica {
        let owner = Owner::new(store, self.clock.clone(), names(self.accounts));
        let allowed = Arc::default();
        let note = Note {
            name,
            owners: Arc::clone(&self.owners),
            commits: Duration::from_millis(100),
            allowed: Arc::clone(&allowed),
        };
        let runs = owner.clone();
        let running = tokio::spawn(async move { runs.run(&note).await });
        Replica {
            owner,
            running,
            allowed,
        }
    }

    fn replica(&self, name: &'static str) -> Replica {
        let store = MemoryOwnership::new(&self.journal, &self.clock, name);
        self.replica_over(Arc::new(store), name)
    }

    /// The numbers of accounts that each works for, housekeeping among them.
    fn shares(&self) -> BTreeMap<&'static str, usize> {
        let mut shares = BTreeMap::new();
        for owner in self.owners.lock().unwrap().values().flatten() {
            *shares.entry(*owner).or_default() += 1;
        }
        shares
    }

    /// True if each account has exactly one owner.
    fn is_whole(&self) -> bool {
        let owners = self.owners.lock().unwrap();
        owners.len() == self.accounts + 1 && owners.values().all(|of| of.len() == 1)
    }

    /// Waits until this is so, and says how long that took.
    async fn until(&self, what: &str, so: impl Fn() -> bool) -> Duration {
        let began = tokio::time::Instant::now();
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(
                began.elapsed() < millis(60_000),
                "{what}: {:?}",
                self.shares()
            );
        }
        began.elapsed()
    }
}

impl Replica {
    /// It is gone from one moment to the next.
    fn kill(self, name: &'static str, world: &World) {
        self.running.abort();
        for of in world.owners.lock().unwrap().values_mut() {
            of.retain(|one| *one != name);
        }
    }

    fn owned(&self) -> usize {
        let tenures = self.owner.tenures().all();
        let now = tenures.values().filter(|tenure| !tenure.has_ended());
        now.count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_has_the_store_for_itself_owns_everything_for_ever() {
    let world = World::new(3);
    let alone = world.replica_over(Arc::new(Alone::default()), "alone");
    alone.owner.start().await.unwrap();
    assert_eq!(alone.owned(), 4);
    let now = world.clock.moment();
    let tenure = alone.owner.tenures().of(&AccountName::new("a01")).unwrap();
    assert!(tenure.is_trusted(now.plus(Duration::from_secs(400 * 86_400))));
    assert_eq!(tenure.fence().number, 0);
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    assert_eq!(alone.owned(), 4);
    let followed = world.owners.lock().unwrap().len();
    assert_eq!(followed, 0, "whoever has started it follows by itself");
    // Accounts come and go, and only the new one is news to the follower.
    alone.owner.configure(
        ["a01", "b"]
            .map(|name| (AccountName::new(name), Limits::default()))
            .into(),
    );
    assert!(alone.owner.tenures().of(&AccountName::new("a00")).is_none());
    world
        .until("it owns b", || world.shares().get("alone") == Some(&1))
        .await;
    assert_eq!(alone.owned(), 3);
    assert!(tenure.is_trusted(world.clock.moment()), "it goes on");
}

#[tokio::test(start_paused = true)]
async fn replicas_share_accounts_evenly_as_they_come_and_go() {
    let world = World::new(11);
    let first = world.replica("first");
    world.until("one owns all", || world.is_whole()).await;
    let second = world.replica("second");
    let third = world.replica("third");
    let even = BTreeMap::from([("first", 4), ("second", 4), ("third", 4)]);
    world
        .until("even", || world.is_whole() && world.shares() == even)
        .await;
    tokio::time::sleep(millis(60_000)).await;
    assert_eq!(world.shares(), even, "nothing moves without a reason");
    let drained = tokio::time::Instant::now();
    second.owner.drain().await;
    assert!(drained.elapsed() < millis(300), "{:?}", drained.elapsed());
    assert_eq!(world.shares().get("second"), None);
    let took = world.until("the others own all", || world.is_whole()).await;
    assert!(took <= millis(600), "{took:?}");
    assert_eq!(world.shares(), BTreeMap::from([("first", 6), ("third", 6)]));
    drop((first, third));
}

#[tokio::test(start_paused = true)]
async fn the_accounts_of_a_dead_replica_are_taken_after_its_leases_have_run_out() {
    let world = World::new(5);
    let first = world.replica("first");
    let _second = world.replica("second");
    let is_even = || world.is_whole() && world.shares().len() == 2;
    world.until("both own some", is_even).await;
    tokio::time::sleep(millis(10_300)).await;
    first.kill("first", &world);
    let took = world.until("the other owns all", || world.is_whole()).await;
    assert!((millis(4_000)..millis(7_000)).contains(&took), "{took:?}");
}

/// Replicas that cannot reach the store stop by themselves, before anybody can take their accounts. Once
/// it is back, each has again what it had.
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_ends_tenures_and_moves_no_lease() {
    let world = World::new(5);
    let replicas = [world.replica("first"), world.replica("second")];
    let even = BTreeMap::from([("first", 3), ("second", 3)]);
    let is_even = || world.is_whole() && world.shares() == even;
    world.until("even", is_even).await;
    tokio::time::sleep(millis(10_000)).await;
    let fences = || {
        let tenures = replicas.iter().map(|one| one.owner.tenures().all());
        let fences = tenures.map(|all| {
            let now = all.into_values().filter(|tenure| !tenure.has_ended());
            now.map(|tenure| tenure.fence().clone()).collect()
        });
        fences.collect::<Vec<Vec<Fence>>>()
    };
    let before = fences();
    let tenures: Vec<Tenure> = (replicas.iter())
        .flat_map(|one| one.owner.tenures().all().into_values())
        .collect();
    let is_trusted = |tenure: &Tenure| tenure.is_trusted(world.clock.moment());
    assert!(tenures.iter().all(is_trusted));
    world.journal.fail_writes(true);
    let began = tokio::time::Instant::now();
    for tenure in &tenures {
        tenure.ended().await;
    }
    let trusted = began.elapsed();
    assert!(
        (millis(2_900)..=millis(4_000)).contains(&trusted),
        "{trusted:?}"
    );
    tokio::time::sleep(millis(11_000)).await;
    world.journal.fail_writes(false);
    let took = world.until("as before", is_even).await;
    assert!(took <= millis(1_100), "{took:?}");
    tokio::time::sleep(millis(20_000)).await;
    assert_eq!(fences(), before);
    assert!(!tenures.iter().any(is_trusted), "an end is for good");
}

/// A process that was stopped for longer than its leases last finds that out before it asks anybody.
#[tokio::test(start_paused = true)]
async fn a_tenure_whose_time_has_passed_is_trusted_by_nobody_before_anybody_says_so() {
    let world = World::new(1);
    let first = world.replica("first");
    world.until("it owns all", || world.is_whole()).await;
    let tenure = first.owner.tenures().of(&AccountName::new("a00")).unwrap();
    let now = world.clock.moment();
    assert!(tenure.is_trusted(now));
    first.running.abort();
    assert!(!tenure.is_trusted(now.plus(millis(4_001))));
    assert!(!tenure.has_ended(), "nobody was there to end it");
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_the_store_refuses_ends_its_tenure_without_a_release() {
    let world = World::new(1);
    let first = world.replica("first");
    world.until("it owns all", || world.is_whole()).await;
    let thief = MemoryOwnership::new(&world.journal, &world.clock, "thief");
    let account = AccountName::new("a00");
    let look = thief.look(&[]).await.unwrap();
    let lease = look.leases.iter().find(|lease| lease.account == account);
    let stolen = thief.take(&account, lease).await.unwrap().unwrap();
    let tenure = first.owner.tenures().of(&account).unwrap();
    let ended = tokio::time::timeout(millis(600), tenure.ended()).await;
    ended.expect("the next look tells");
    tokio::time::sleep(millis(1_000)).await;
    assert!(first.owner.tenures().of(&account).is_none());
    let look = thief.look(&[]).await.unwrap();
    let lease = look.leases.iter().find(|lease| lease.account == account);
    let lease = lease.unwrap();
    assert_eq!(lease.fence, stolen.number);
    assert_eq!(lease.owner.as_ref(), Some(thief.replica()));
    let keeping = first.owner.tenures().of(&Fence::housekeeping());
    assert!(keeping.is_some(), "the other lease is its own");
}

#[tokio::test(start_paused = true)]
async fn the_least_limit_of_the_living_holds_from_the_start_on_until_its_replica_is_gone_or_changes()
 {
    let world = World::new(1);
    let first = world.replica("first");
    let allowed = |of: &Replica| of.allowed.lock().unwrap().clone();
    first.owner.configure(limited(1, 100));
    world.until("it looks", || allowed(&first).is_empty()).await;
    let low = world.replica("low");
    low.owner.configure(limited(1, 60));
    let took = world.until("the first hears", || allowed(&first) == [60]);
    assert!(took.await <= millis(1_100), "two looks");
    // A newcomer knows before it has looked twice.
    let store = MemoryOwnership::new(&world.journal, &world.clock, "new");
    let newcomer = Owner::new(Arc::new(store), world.clock.clone(), limited(1, 100));
    newcomer.start().await.unwrap();
    assert_eq!(newcomer.limits_of_others(), limited(1, 60));
    // Its own are none of the others'.
    world
        .until("100 is the newcomer's", || allowed(&low) == [100])
        .await;
    low.owner.configure(limited(1, 0));
    world
        .until("the low one was configured", || allowed(&first) == [100])
        .await;
    low.owner.configure(limited(1, 7));
    world.until("and again", || allowed(&first) == [7]).await;
    low.kill("low", &world);
    let took = world
        .until("it is gone", || allowed(&first).is_empty())
        .await;
    assert!((millis(5_000)..=millis(7_500)).contains(&took), "{took:?}");
}
