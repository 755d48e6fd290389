//! Three processes on a PostgreSQL server with a standby, which takes its place or is gone: nothing that was
//! told is lost while commits wait for it, and where commits are lost nobody goes on as if they were not.

use std::{sync::Arc, time::Instant};

use tillwatch_cluster::{Cluster, Options, Stop};
use tillwatch_proto::v1::Finality;
use tillwatch_sandbox::{PROVIDERS, Scenario};
use tokio::task::block_in_place;

use crate::{
    fleet::{Fleet, load::Load, streams::Streams, tally::Tally},
    orders::request,
    process::{until, within},
    store::Store,
};

/// Processes that find the server of the two that takes writes.
struct Failover {
    fleet: Fleet,
    load: Load,
    primary: Cluster,
    standby: Cluster,
}

impl Failover {
    async fn begin(waits_for_standby: bool) -> Self {
        let (database, primary, standby) = block_in_place(|| {
            let primary = Cluster::start(Options::default());
            let standby = primary.standby();
            let database = primary.database().with_standby(&standby);
            primary.waits_for_standby(waits_for_standby);
            (database, primary, standby)
        });
        let store = Store::Postgres(Arc::new(database));
        let fleet = Fleet::start(Fleet::under_load(store), 3).await;
        Self {
            load: Load::begin(&fleet).await,
            fleet,
            primary,
            standby,
        }
    }

    fn fail_over(&self) {
        block_in_place(|| {
            self.primary.kill();
            self.standby.promote();
        });
    }
}

/// Promise D1: the server is killed under load, and a standby that commits waited for takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_postgresql_to_a_standby_that_commits_wait_for_loses_nothing() {
    let failover = Failover::begin(true).await;
    let Failover { fleet, load, .. } = &failover;
    let mut streams = Streams::begin(fleet).await;
    let fault = load.fault_of_all();
    failover.fail_over();
    let news = load.news_after(&fault).await;
    fleet.takes_creates(load).await;
    let tally = Tally::of(fleet, load).await;
    streams.go_on();
    tally.is_clean("failover, synchronous", news);
    failover.load.end(&failover.fleet).await;
}

/// Promise D1: the standby lacks the newest commits. Whoever told of them ends, and the next process serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_whose_commits_a_failover_of_postgresql_has_lost_end_and_serve_again_anew() {
    let mut failover = Failover::begin(false).await;
    let told = || {
        let heard = failover.load.heard();
        let told = heard.feeds.iter().map(Vec::len);
        told.min().unwrap()
    };
    block_in_place(|| failover.standby.stop_receiving());
    let before = told();
    until("each process tells of what the standby lacks", async || {
        told() > before + 10
    })
    .await;
    let log = "SELECT count(*) FROM transition_log";
    let kept: usize = failover.fleet.asked(log).parse().unwrap();
    let began = Instant::now();
    failover.fail_over();
    let Failover { fleet, load, .. } = &mut failover;
    let house = (&mut fleet.house.server, &fleet.house.log);
    let others = fleet.others.iter_mut();
    let others = others.map(|other| (&mut other.server, &other.log));
    for (server, log) in std::iter::once(house).chain(others) {
        let status = server.exit().await;
        assert_eq!(status.code(), Some(1), "{}", log.text());
        let said = "the journal has lost commits that were told, such as revision ";
        assert!(log.text().contains(said), "{}", log.text());
    }
    let ended = began.elapsed();
    let left: usize = fleet.asked(log).parse().unwrap();
    load.stop().await;
    fleet.house.restart().await;
    for other in 0..fleet.others.len() {
        fleet.restart(other).await;
    }
    for provider in PROVIDERS {
        let order = request(&format!("anew-{provider}"), provider, Scenario::Paid);
        let id = fleet.house.create("shop", order).await.id;
        let ends = fleet
            .house
            .settled("it is polled to its end", &id, |status| {
                status.finality() != Finality::Open
            });
        ends.await;
    }
    eprintln!(
        "| failover, asynchronous | {} of {kept} transitions lost | all ended after {:.1} s | served again |",
        kept - left,
        ended.as_secs_f32()
    );
    assert!(left < kept, "{left}");
}

/// Promises D1 and S6: commits wait for a standby that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_standby_of_postgresql_is_gone_creates_are_refused_and_nothing_is_given_up() {
    let failover = Failover::begin(true).await;
    let Failover {
        fleet,
        load,
        primary,
        standby,
    } = &failover;
    let mut streams = Streams::begin(fleet).await;
    let leases = fleet.leases();
    block_in_place(|| standby.stop(Stop::Fast));
    let refused = within("refusals", fleet.refuses_creates("refused")).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_ne!(fleet.asked(waits), "0", "commits still wait");
    streams.go_on();
    let fault = load.fault_of_all();
    block_in_place(|| standby.start_again());
    let news = load.news_after(&fault).await;
    fleet.takes_creates(load).await;
    assert_eq!(fleet.leases(), leases, "no lease moves");
    let tally = Tally::of(fleet, load).await;
    streams.go_on();
    let log = primary.log();
    assert!(!log.contains("canceling wait"), "{log}");
    eprintln!("creates refused {refused:.1?} after the standby went");
    tally.is_clean("standby gone for a while", news);
}
