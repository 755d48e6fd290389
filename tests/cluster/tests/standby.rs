//! Standbys that tests start: they have what is committed, unless they are cut off, and take a server's place.

use tillwatch_cluster::{Cluster, Options, Stop, until};

const ROWS: &str = "SELECT string_agg(number::text, ',' ORDER BY number) FROM kept";

/// A server with a table, and its standby.
fn pair() -> (Cluster, Cluster) {
    let cluster = Cluster::start(Options::default());
    cluster.run("postgres", "CREATE TABLE kept AS SELECT 1 AS number");
    let standby = cluster.standby();
    (cluster, standby)
}

#[test]
fn a_standby_that_commits_wait_for_has_each_of_them_and_takes_the_servers_place() {
    let (cluster, standby) = pair();
    let database = cluster.database().with_standby(&standby);
    cluster.waits_for_standby(true);
    database.run("CREATE TABLE kept AS SELECT 1 AS number");
    database.run("INSERT INTO kept VALUES (2)");
    cluster.kill();
    standby.promote();
    assert_eq!(database.run(ROWS), "1,2");
    database.run("INSERT INTO kept VALUES (3)");
    assert_eq!(database.run(ROWS), "1,2,3");
}

#[test]
fn a_standby_that_is_cut_off_lacks_what_is_committed_from_then_on() {
    let (cluster, standby) = pair();
    cluster.run("postgres", "INSERT INTO kept VALUES (2)");
    until("the standby has it", || {
        standby.run("postgres", ROWS) == "1,2"
    });
    standby.stop_receiving();
    cluster.run("postgres", "INSERT INTO kept VALUES (3)");
    cluster.kill();
    standby.promote();
    assert_eq!(standby.run("postgres", ROWS), "1,2");
}

#[test]
fn a_commit_waits_for_a_standby_that_is_gone_until_it_is_back() {
    let (cluster, standby) = pair();
    cluster.waits_for_standby(true);
    standby.stop(Stop::Fast);
    let inserting = {
        let cluster = cluster.clone();
        std::thread::spawn(move || cluster.run("postgres", "INSERT INTO kept VALUES (2)"))
    };
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("it waits", || cluster.run("postgres", waits) == "1");
    assert_eq!(cluster.run("postgres", ROWS), "1");
    standby.start_again();
    inserting.join().unwrap();
    assert_eq!(cluster.run("postgres", ROWS), "1,2");
}
