//! Faults of replicas, and of their way to the database, under load: three processes on one PostgreSQL.
//!
//! Each fault tells its figures in a line of a table, under [`Tally::HEAD`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tillwatch_cluster::{Cluster, Gate, Options, Way};
use tillwatch_sandbox::Scenario;

use crate::{
    fleet::{
        Fleet,
        crowd::Crowd,
        load::{Load, News},
        seat::Seat,
        tally::Tally,
    },
    orders::request,
    process::{until, within},
    store::{GATED, Store},
};

/// The processes.
const REPLICAS: usize = 3;
/// The short stops, and their lengths in milliseconds.
const STOPS: usize = 4;
const STOP_MS: std::ops::Range<u64> = 300..950;

async fn fleet() -> (Fleet, Load) {
    let fleet = Fleet::start(Fleet::under_load(Store::postgres()), REPLICAS).await;
    let load = Load::begin(&fleet).await;
    (fleet, load)
}

/// A fleet on a database server of its own, whose first other process reaches it through a gate.
async fn behind_a_gate() -> (Cluster, Arc<Gate>, Fleet, Load) {
    let cluster = Cluster::start(Options {
        settings: vec![
            ("max_connections", "48".to_owned()),
            ("superuser_reserved_connections", "0".to_owned()),
        ],
        ..Options::default()
    });
    let store = Store::on(&cluster);
    let (gated, gate) = store.gated().await;
    let others = vec![gated, store.clone()];
    let fleet = Fleet::start_by(Fleet::under_load(store), others).await;
    let load = Load::begin(&fleet).await;
    (cluster, gate, fleet, load)
}

/// The server's processes behind the connections by which a process reads.
struct Readers(Vec<String>);

impl Readers {
    /// Those of the process behind the gate: one for reads of one row, and one for reads of many.
    async fn of(fleet: &Fleet) -> Self {
        // All others serve calls of the store's functions, the board, the log's end, or notifications.
        let reading = format!(
            "SELECT pid, replace(left(query, 200), chr(10), ' ') FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = '{GATED}'
                 AND query !~ '(_1\\(|LISTEN|notify|told|wanted|account_shown|newest)'"
        );
        let mut found = fleet.asked(&reading);
        let pids = |told: &str| -> Vec<String> {
            let pid = |line: &str| line.split('|').next().unwrap_or_default().to_owned();
            told.lines().map(pid).collect()
        };
        let mut kept = pids(&found);
        // The connection that commits reads at times as well, and commits again at once.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            found = fleet.asked(&reading);
            kept.retain(|pid| pids(&found).contains(pid));
        }
        assert_eq!(kept.len(), 2, "{found}");
        Self(kept)
    }

    async fn signal(&self, name: &str) {
        let mut kill = tokio::process::Command::new("kill");
        let sent = kill.arg(format!("-{name}")).args(&self.0).status().await;
        assert!(sent.unwrap().success());
    }
}

/// The time until a process owns nothing.
async fn owns_nothing(fleet: &Fleet, name: &str) -> Duration {
    let began = Instant::now();
    until("others own everything", async || fleet.owned(name) == 0).await;
    began.elapsed()
}

/// Promises S2, S3, P1, P2, C2 and D1: each process is killed once, and starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_each_of_three_replicas_is_killed_in_turn_nothing_is_lost_or_doubled() {
    let (mut fleet, load) = fleet().await;
    let mut longest = News::default();
    for _ in 0..REPLICAS {
        let accounts = fleet.accounts(&fleet.name(0));
        fleet.others[0].server.kill().await;
        let fault = load.fault(accounts);
        longest = longest.max(load.news_after(&fault).await);
        fleet.restart(0).await;
        fleet.next();
    }
    let tally = Tally::of(&fleet, &load).await;
    tally.is_clean("kill -9 of each in turn", longest);
    load.end(&fleet).await;
}

/// Promises S2, S3, P1, P2 and D1: a process stands still for less than its leases last, at any moment of its
/// commits, and another for longer; then each ends and starts again, as when a newer version is rolled out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_stand_still_or_end_in_turn_hold_nobody_up_and_lose_nothing() {
    let (mut fleet, load) = fleet().await;
    let mut stub = fleet.house.stub("shop").await;
    let mut longest = Duration::ZERO;
    let fault = load.fault_of_all();
    for number in 0..STOPS {
        let stopped = &fleet.others[number % fleet.others.len()].server;
        let stop = Duration::from_millis(rand::random_range(STOP_MS));
        stopped.signal("STOP").await;
        let began = Instant::now();
        let mut count = 0;
        while count == 0 || began.elapsed() < stop {
            let asked = Instant::now();
            let order = request(&format!("stop-{number}-{count}"), "carbon", Scenario::Stuck);
            let created = within("a create beside a stop", stub.create_purchase(order)).await;
            // A create that the budget refuses was answered as well.
            drop(created);
            longest = longest.max(asked.elapsed());
            count += 1;
        }
        stopped.signal("CONT").await;
    }
    eprintln!("the longest create at another process during a stop: {longest:?}");
    let news = load.news_after(&fault).await;
    Tally::of(&fleet, &load)
        .await
        .is_clean("SIGSTOP for under 1 s", news);

    let name = fleet.name(0);
    let fault = load.fault(fleet.accounts(&name));
    fleet.others[0].server.signal("STOP").await;
    let news = load.news_after(&fault).await;
    owns_nothing(&fleet, &name).await;
    fleet.others[0].server.signal("CONT").await;
    fleet.has_even_shares().await;
    Tally::of(&fleet, &load)
        .await
        .is_clean("SIGSTOP past the lease", news);
    assert!(
        !fleet.others[0]
            .log
            .text()
            .contains("taken the journal over")
    );

    load.heard().ends.clear();
    let (mut longest, mut moved) = (News::default(), Duration::ZERO);
    for _ in 0..REPLICAS {
        let name = fleet.name(0);
        let fault = load.fault(fleet.accounts(&name));
        fleet.others[0].server.signal("TERM").await;
        moved = moved.max(owns_nothing(&fleet, &name).await);
        longest = longest.max(load.news_after(&fault).await);
        assert!(fleet.others[0].server.exit().await.success());
        fleet.restart(0).await;
        fleet.has_even_shares().await;
        fleet.next();
    }
    eprintln!("accounts moved within {moved:?} of SIGTERM");
    Tally::of(&fleet, &load)
        .await
        .is_clean("rolling restart", longest);
    // Streams are told that their process ends; whoever comes later finds nobody there, or a connection that ends.
    let ends = load.heard().ends.clone();
    assert!(ends.contains_key("DRAINING"), "{ends:?}");
}

/// Promises S2, S3, S6, P1, P2 and D1: other clients take all connections that the database has left; the reads
/// of one process hang; the database is silent to it; and at last refuses it, and has no connection left for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_database_is_full_busy_or_cut_off_loses_nothing_and_comes_back() {
    let (cluster, gate, fleet, load) = behind_a_gate().await;
    let mut seat = Seat::at(&fleet, 0).await;
    let name = fleet.name(0);
    let owners = "SELECT account, owner, fence FROM lease ORDER BY account";
    let leases = fleet.asked(owners);
    all_connections_are_taken(&cluster, &fleet, &load).await;
    all_readers_are_busy(&fleet, &load, &seat).await;
    assert_eq!(fleet.asked(owners), leases, "no lease has moved");

    let fault = load.fault(fleet.accounts(&name));
    gate.turn(Way::Still);
    let (taken, beats) = tokio::join!(owns_nothing(&fleet, &name), seat.beats(2));
    let news = load.news_after(&fault).await;
    let refused = seat.is_refused("silence").await;
    gate.turn(Way::Open);
    let [(earlier, known), (later, still_known)] = beats[..] else {
        unreachable!("two heartbeats");
    };
    // The first may have been on its way.
    assert!(
        later - earlier >= 4 && still_known - known <= 1,
        "{beats:?}"
    );
    eprintln!("cut off: others own everything after {taken:?}, creates are refused in {refused:?}");
    comes_back(&fleet, &mut seat, "silence").await;
    let tally = Tally::of(&fleet, &load).await;
    tally.is_clean("one replica cut off", news);

    let fault = load.fault(fleet.accounts(&name));
    gate.turn(Way::Closed);
    let news = load.news_after(&fault).await;
    let refused = seat.is_refused("refused").await;
    let crowd = Crowd::at(&cluster).await;
    gate.turn(Way::Open);
    seat.is_refused("refused").await;
    crowd.leave().await;
    eprintln!("refused by the database: creates are refused in {refused:?}");
    comes_back(&fleet, &mut seat, "refused").await;
    let tally = Tally::of(&fleet, &load).await;
    tally.is_clean("one replica refused, then without a connection", news);
    assert!(seat.is_watching());
}

/// Polls and commits go on, although nobody gets a further connection.
async fn all_connections_are_taken(cluster: &Cluster, fleet: &Fleet, load: &Load) {
    let crowd = Crowd::at(cluster).await;
    let news = load.news_after(&load.fault_of_all()).await;
    crowd.leave().await;
    let tally = Tally::of(fleet, load).await;
    tally.is_clean("max_connections reached", news);
}

/// The reads of one process hang. Others of its callers are told so soon, and it polls and commits.
async fn all_readers_are_busy(fleet: &Fleet, load: &Load, seat: &Seat) {
    let readers = Readers::of(fleet).await;
    let fault = load.fault(fleet.accounts(&fleet.name(0)));
    readers.signal("STOP").await;
    let refused = seat.reads_are_refused().await;
    let news = load.news_after(&fault).await;
    readers.signal("CONT").await;
    eprintln!("readers busy: reads are refused in {refused:?}");
    let tally = Tally::of(fleet, load).await;
    tally.is_clean("readers of one replica busy", news);
}

/// A process works for its callers again, and for its share of the accounts.
async fn comes_back(fleet: &Fleet, seat: &mut Seat, key: &str) {
    seat.buys(key).await;
    fleet.has_even_shares().await;
}
