//! Faults of replicas, and of their way to the database, under load: three processes on one PostgreSQL.

use std::time::Duration;

use crate::{
    fleet::{Fleet, load::Load, tally::Tally},
    store::Store,
};

/// The processes.
const REPLICAS: usize = 3;

async fn fleet() -> (Fleet, Load) {
    let fleet = Fleet::start(Fleet::under_load(Store::postgres()), REPLICAS).await;
    let load = Load::begin(&fleet).await;
    (fleet, load)
}

/// Promises S2, S3, P1, P2, C2 and D1: each process is killed once, and starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_each_of_three_replicas_is_killed_in_turn_nothing_is_lost_or_doubled() {
    let (mut fleet, load) = fleet().await;
    let mut longest = Duration::ZERO;
    for _ in 0..REPLICAS {
        let accounts = fleet.accounts(&fleet.name(0));
        fleet.others[0].server.kill().await;
        let fault = load.fault(accounts);
        longest = longest.max(load.news_after(&fault).await);
        fleet.restart(0).await;
        fleet.has_even_shares().await;
        // The next is the one that was the house's.
        fleet.others.rotate_left(1);
        fleet.change_places(0);
    }
    Tally::of(&fleet, &load)
        .await
        .is_clean("kill -9 of each in turn", longest);
    load.end(&fleet).await;
}
