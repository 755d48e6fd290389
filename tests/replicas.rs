//! Two server processes on one database of PostgreSQL, in front of one set of simulated providers: accounts
//! have one owner, whatever becomes of it, and callers have the same purchases at both.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use tillwatch::{FeedEvent, FeedOptions, FeedStart, WatchEvent, WatchOptions};
use tillwatch_proto::v1::{Finality, PurchaseFilter, PurchaseStatus};
use tillwatch_sandbox::{Fault, Options, PROVIDERS, Scenario, Target};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tonic_types::StatusExt as _;

use crate::{
    fleet::{
        Fleet,
        tally::{allowed, most_within, times},
    },
    house::{Settings, account, client_of, stub_of},
    kill_loop::{Shared, buy, lost, nothing_was_bought_twice, repeated_keys_name_the_same},
    orders::request,
    process::{Server, until, within},
    store::Store,
};

/// Two processes, each of which owns a part of the accounts.
async fn pair(settings: Settings) -> Fleet {
    let settings = Settings {
        store: Store::postgres(),
        ..settings
    };
    Fleet::start(settings, 2).await
}

/// The same, whose purchases stand still, and the other of which owns the account at Inabit.
async fn still() -> Fleet {
    let mut pair = pair(Settings::default()).await;
    pair.house.sandbox.pause();
    if pair.accounts(&pair.own_name()).contains(&account("inabit")) {
        pair.change_places(0);
    }
    pair
}

/// A watcher of one purchase at one process, from the beginning until its stream is over.
struct Watcher {
    seen: watch::Receiver<Vec<PurchaseStatus>>,
    task: JoinHandle<()>,
}

impl Watcher {
    fn begin(server: &Server, id: &str) -> Self {
        let options = WatchOptions {
            after_revision: Some(0),
            ..WatchOptions::default()
        };
        let mut events = client_of(&server.grpc, "shop").watch(id, options);
        let (tell, seen) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event.unwrap() {
                    WatchEvent::Transition(step) => {
                        let status = step.status.unwrap();
                        tell.send_modify(|seen: &mut Vec<_>| seen.push(status));
                    }
                    WatchEvent::Heartbeat(_) => {}
                    // Its process has gone.
                    WatchEvent::Interrupted { .. } => break,
                    other => panic!("not asked for: {other:?}"),
                }
            }
        });
        Self { seen, task }
    }

    /// Waits until it has seen so many revisions, each once and none left out.
    async fn sees(&mut self, count: usize) {
        let seen = within("news", self.seen.wait_for(|seen| seen.len() >= count)).await;
        let seen = seen.expect("the stream goes on");
        let revisions: Vec<u32> = seen.iter().map(|status| status.revision).collect();
        let dense: Vec<u32> = (1..).take(count).collect();
        assert_eq!(revisions, dense);
    }

    /// Everything that it saw, once its stream has ended by itself.
    async fn end(self) -> Vec<PurchaseStatus> {
        within("the end of a purchase", self.task).await.unwrap();
        self.seen.borrow().clone()
    }
}

/// A purchase at Inabit of the other process's account, with a watcher at each process.
struct Bought {
    id: String,
    reference: String,
    watchers: [Watcher; 2],
    revisions: usize,
}

impl Bought {
    async fn at(pair: &Fleet) -> Self {
        let house = &pair.house;
        let order = request("watched", "inabit", Scenario::Paid);
        let id = house.create("shop", order).await.id;
        let servers = [&house.server, &pair.others[0].server];
        let mut bought = Self {
            reference: house.sandbox.references("inabit").remove(0),
            watchers: servers.map(|server| Watcher::begin(server, &id)),
            revisions: 0,
            id,
        };
        let created = house
            .settled("it is created", &bought.id, |status| {
                status.reference.is_some()
            })
            .await;
        bought.revisions = created.revision as usize;
        bought.brings(pair, "Allocated", 2).await;
        bought
    }

    /// Lets the provider say another word, and waits until so many of the watchers have seen it, the
    /// house's own first.
    async fn brings(&mut self, pair: &Fleet, word: &str, watchers: usize) {
        let sandbox = &pair.house.sandbox;
        assert!(sandbox.set_status("inabit", &self.reference, word));
        self.revisions += 1;
        for watcher in self.watchers.iter_mut().take(watchers) {
            watcher.sees(self.revisions).await;
        }
    }

    /// Nothing of it was committed twice.
    fn has_each_transition_once(&self, pair: &Fleet) {
        let id = self.id.strip_prefix("pur_").expect("an id");
        let count = format!("SELECT count(*) FROM transition_log WHERE purchase = '{id}'");
        assert_eq!(pair.asked(&count), self.revisions.to_string());
    }
}

/// All transitions of all purchases, as one process tells them, until so many purchases are over.
async fn feed(server: &Server, purchases: usize) -> Vec<(String, u32)> {
    let options = FeedOptions {
        start: FeedStart::Beginning,
        ..FeedOptions::default()
    };
    let mut events =
        client_of(&server.grpc, "shop").watch_purchases(PurchaseFilter::default(), options);
    let (mut told, mut over) = (Vec::new(), BTreeSet::new());
    while over.len() < purchases {
        let event = within("the feed", events.next()).await.unwrap().unwrap();
        if let FeedEvent::Transition { transition, .. } = event {
            let purchase = transition.purchase.unwrap();
            let status = purchase.status.unwrap();
            told.push((purchase.id.clone(), status.revision));
            if status.finality() != Finality::Open {
                over.insert(purchase.id);
            }
        }
    }
    told
}

/// Promises C2, S2, S3 and P1: both are asked with each key at once, and each purchase is watched at both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purchases_created_at_either_of_two_processes_are_watched_to_the_end_at_both() {
    let pair = pair(Settings {
        sandbox: Options {
            speed: 4.0,
            ..Settings::default().sandbox
        },
        ..Settings::default()
    })
    .await;
    let servers = [&pair.house.server, &pair.others[0].server];
    let mut watchers = Vec::new();
    for provider in PROVIDERS {
        for number in 0..2 {
            let order = request(&format!("{provider}-{number}"), provider, Scenario::Paid);
            let mut stubs = Vec::new();
            for server in servers {
                stubs.push(stub_of(&server.grpc, "shop").await);
            }
            // Each is asked first once.
            stubs.rotate_left(number);
            let [one, other] = stubs.as_mut_slice() else {
                unreachable!("two processes");
            };
            let both = async {
                tokio::join!(
                    one.create_purchase(order.clone()),
                    other.create_purchase(order)
                )
            };
            let (one, other) = within("two answers", both).await;
            let answers = [one, other].map(|answer| answer.unwrap().into_inner());
            let firsts = answers.iter().filter(|answer| !answer.replayed).count();
            assert_eq!(firsts, 1, "{answers:?}");
            let ids = answers.map(|answer| answer.purchase.unwrap().id);
            assert_eq!(ids[0], ids[1]);
            watchers.push(servers.map(|server| Watcher::begin(server, &ids[0])));
        }
        assert_eq!(pair.house.sandbox.created(provider), 2, "{provider}");
    }
    let count = watchers.len();
    for [one, other] in watchers {
        let (one, other) = (one.end().await, other.end().await);
        assert_eq!(one, other);
        let revisions: Vec<u32> = one.iter().map(|status| status.revision).collect();
        let dense: Vec<u32> = (1..).take(one.len()).collect();
        assert_eq!(revisions, dense);
    }
    let (one, other) = tokio::join!(feed(servers[0], count), feed(servers[1], count));
    let shared = one.len().min(other.len());
    assert_eq!(one[..shared], other[..shared]);
    for told in [one, other] {
        let each = BTreeSet::from_iter(&told);
        assert_eq!(each.len(), told.len(), "each once");
    }
}

/// Promises S2 and P1, and C1 to C3 over all keys that were under way: the owner is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_owner_is_killed_the_other_process_goes_on_and_nothing_is_lost_or_doubled() {
    let mut pair = still().await;
    let mut bought = Bought::at(&pair).await;
    let (known, mut load) = (Shared::default(), JoinSet::new());
    for (buyer, server) in pair.servers().enumerate() {
        let stub = stub_of(&server.grpc, "shop").await;
        load.spawn(buy(stub, known.clone(), format!("{buyer}")));
    }
    let acknowledged = || known.lock().unwrap().acknowledged.len();
    until("creates are made", async || acknowledged() > 10).await;
    pair.others[0].server.kill().await;
    let killed = Instant::now();
    load.shutdown().await;
    bought.brings(&pair, "Unconfirmed", 1).await;
    let took = killed.elapsed();
    pair.all_are_owned_by(&pair.own_name()).await;
    bought.brings(&pair, "Confirming", 1).await;
    bought.has_each_transition_once(&pair);
    let stub = pair.house.stub("shop").await;
    assert_eq!(lost(stub.clone(), &known, "").await, Vec::<String>::new());
    repeated_keys_name_the_same(&stub, &known).await;
    nothing_was_bought_twice(&pair.house).await;
    eprintln!("news {took:?} after the kill");
}

/// The rolling restart: a process that ends gives its accounts away before its streams end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_moves_accounts_to_the_other_process_before_streams_end() {
    let mut pair = still().await;
    let mut bought = Bought::at(&pair).await;
    let mut stub = stub_of(&pair.others[0].server.grpc, "shop").await;
    let watched = tillwatch_proto::v1::WatchStatusRequest {
        purchase_id: bought.id.clone(),
        ..Default::default()
    };
    let mut stream = stub.watch_status(watched).await.unwrap().into_inner();
    let leaving = pair.name(0);
    // Somebody reads the leases, so that they cannot be given away for a moment.
    let hold = format!(
        "BEGIN; SELECT count(*) FROM (SELECT FROM lease WHERE owner = '{leaving}' FOR UPDATE) held;
         SELECT pg_sleep(0.4); COMMIT"
    );
    let store = pair.house.settings.store.clone();
    let held = tokio::task::spawn_blocking(move || store.database().run(&hold));
    let holds = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event = 'PgSleep'";
    until("the leases are held", async || pair.asked(holds) == "1").await;
    pair.others[0].server.signal("TERM").await;
    let told = Instant::now();
    let ended = loop {
        match within("the stream's end", stream.message()).await {
            Ok(message) => assert!(message.is_some(), "a purchase that is open"),
            Err(status) => break status,
        }
    };
    assert_eq!(pair.owned(&leaving), 0, "streams end last");
    assert_eq!(within("the hold's end", held).await.unwrap(), "3");
    let reason = ended.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("DRAINING"), "{ended:?}");
    pair.all_are_owned_by(&pair.own_name()).await;
    let moved = told.elapsed();
    bought.brings(&pair, "Unconfirmed", 1).await;
    bought.has_each_transition_once(&pair);
    assert!(pair.others[0].server.exit().await.success());
    eprintln!("moved {moved:?} after SIGTERM");
}

/// Promise P1: an owner is stopped beyond its lease, with an answer on its way, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_an_owner_that_was_stopped_beyond_its_lease_commits_nothing_late() {
    let pair = still().await;
    let mut bought = Bought::at(&pair).await;
    let sandbox = &pair.house.sandbox;
    let calls = sandbox.calls("inabit");
    // The answer is on its way when the process is stopped, and there when it goes on.
    let slow = Fault::SlowDrip(Duration::from_millis(3));
    sandbox.fault_on("inabit", Target::Read, slow, 1);
    until("the owner asks", async || sandbox.calls("inabit") > calls).await;
    pair.others[0].server.signal("STOP").await;
    bought.brings(&pair, "Unconfirmed", 1).await;
    bought.brings(&pair, "Confirming", 1).await;
    pair.all_are_owned_by(&pair.own_name()).await;
    let created = sandbox.created("inabit");
    pair.others[0].server.signal("CONT").await;
    // Its own watcher sees what the other has committed meanwhile, and nothing else.
    bought.brings(&pair, "Completed", 2).await;
    let back = pair.name(0);
    until("it has its share again", async || pair.owned(&back) == 3).await;
    bought.has_each_transition_once(&pair);
    assert_eq!(sandbox.created("inabit"), created);
    assert!(!pair.others[0].log.text().contains("taken the journal over"));
}

/// Promise P2 over processes: both create, and one polls, at a limit that one of them alone would use up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_two_processes_keep_an_account_s_limit_together() {
    const LIMIT: u32 = 240;
    /// The time that is looked at.
    const WINDOW: Duration = Duration::from_secs(8);
    /// The callers that create at each process at a time.
    const CALLERS: u32 = 4;
    /// The wait of a caller whom the budget has refused.
    const REFUSED_FOR: Duration = Duration::from_millis(200);
    let pair = pair(
        Settings::default()
            .polled("requests_per_minute", "240")
            .polled("creates_per_minute", "240"),
    )
    .await;
    let sandbox = &pair.house.sandbox;
    sandbox.pause();
    let began = SystemTime::now();
    let mut load = JoinSet::new();
    for (buyer, server) in pair.servers().enumerate() {
        for caller in 0..CALLERS {
            let mut stub = stub_of(&server.grpc, "shop").await;
            load.spawn(async move {
                for number in 0.. {
                    let key = format!("{buyer}-{caller}-{number}");
                    let order = request(&key, "inabit", Scenario::Stuck);
                    if stub.create_purchase(order).await.is_err() {
                        tokio::time::sleep(REFUSED_FOR).await;
                    }
                }
            });
        }
    }
    until("the budget is used for a while", async || {
        let last = times(sandbox, "inabit").pop();
        last.is_some_and(|last| last > began + WINDOW + WINDOW / 2)
    })
    .await;
    let most = most_within(&times(sandbox, "inabit"), WINDOW);
    let limit = LIMIT as usize;
    let allowed = allowed(limit, WINDOW);
    assert!(
        most <= allowed,
        "{most} requests in {WINDOW:?}, {allowed} allowed"
    );
    // The whole budget of one process was there to be used.
    assert!(most >= limit / 2 * WINDOW.as_secs() as usize / 60, "{most}");
    eprintln!("{most} requests in {WINDOW:?}, {allowed} allowed");
}
