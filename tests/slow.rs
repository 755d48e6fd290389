//! Three processes whose PostgreSQL server is slow, and has transactions of others that stay open: everything goes
//! on, and no account changes its owner.

use std::thread;

use tillwatch_cluster::{Cluster, Options};
use tokio::task::block_in_place;

use crate::{
    fleet::{Fleet, load::Load, streams::Streams, tally::Tally},
    process::until,
    store::Store,
};

async fn begin(options: Options) -> (Fleet, Load, Cluster) {
    let cluster = block_in_place(|| Cluster::start(options));
    let fleet = Fleet::start(Fleet::under_load(Store::on(&cluster)), 3).await;
    let load = Load::begin(&fleet).await;
    (fleet, load, cluster)
}

/// A disk that takes its time for each commit, a dump that reads for long, and a transaction elsewhere that
/// stays open with an id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_bear_a_slow_disk_of_postgresql_and_transactions_that_stay_open() {
    const SLOW: [(&str, &str); 2] = [("commit_delay", "5000"), ("commit_siblings", "0")];
    let (fleet, load, cluster) = begin(Options {
        fsync: true,
        settings: SLOW.map(|(name, value)| (name, value.to_owned())).into(),
        ..Options::default()
    })
    .await;
    let mut streams = Streams::begin(&fleet).await;
    let leases = fleet.leases();
    let store = fleet.house.settings.store.clone();
    let dump = thread::spawn(move || {
        let reads = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM transition_log;
             SELECT pg_sleep(60)";
        store.database().try_run(reads)
    });
    let elsewhere = cluster.clone();
    let elsewhere =
        thread::spawn(move || elsewhere.try_run("postgres", "SELECT txid_current(), pg_sleep(60)"));
    let sleeps = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let asleep = || cluster.run("postgres", sleeps).lines().count();
    until("both are open", async || asleep() == 2).await;
    let fault = load.fault_of_all();
    let news = load.news_after(&fault).await;
    fleet.takes_creates(&load).await;
    let tally = Tally::of(&fleet, &load).await;
    assert_eq!(asleep(), 2, "they are still open");
    assert_eq!(fleet.leases(), leases, "no lease moves");
    streams.are_fresh().await;
    tally.is_clean("slow disk, a dump and an open transaction", news);
    let ended = format!("SELECT pg_terminate_backend(pid) FROM ({sleeps}) open");
    cluster.run("postgres", &ended);
    for open in [dump, elsewhere] {
        open.join().unwrap().unwrap_err();
    }
}
