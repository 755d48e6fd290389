//! A database that has lost commits: a standby that was promoted without the newest. Deleted rows stand for
//! them, and a failover cuts all connections.

use std::{sync::Arc, time::Duration};

use tillwatch_cluster::{Cluster, Database};
use tokio_util::task::AbortOnDropHandle;

use super::{
    server::{open, open_shared},
    shared::{follow, told},
    until,
    values::{at, begin, begin_write, finish, id, record, retire},
};
use crate::{
    journal::{Journal, JournalError, Loss, Position, Witness, postgres::PostgresJournal},
    purchase::Revision,
};

/// The loss of the first revision of a purchase.
fn loss(position: u64, number: u64) -> Loss {
    Loss::Commits(Witness {
        position: Position(position),
        purchase: id(number),
        revision: Revision(1),
    })
}

/// Promotes a standby on which these statements have been run.
fn fail_over(database: &Database, lost: &str) {
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.run(lost);
    database.run(cut);
}

/// Nothing more is committed.
async fn is_over(journal: &dyn Journal, number: u64) {
    let answer = journal.write(begin_write(record(number))).await;
    assert!(
        matches!(answer, Err(JournalError::Unusable(_))),
        "{answer:?}"
    );
    assert!(!*journal.available().borrow());
    assert_eq!(journal.record(id(number)).await.unwrap(), None);
}

async fn lost(journal: &PostgresJournal) -> Loss {
    let lost = journal.lost();
    let waited = tokio::time::timeout(Duration::from_secs(20), lost.wait()).await;
    *waited.expect("the loss is noticed")
}

/// Two processes on a database, with one purchase. The second follows the first.
struct Pair {
    database: Database,
    first: Arc<PostgresJournal>,
    second: Arc<PostgresJournal>,
    _follows: AbortOnDropHandle<()>,
}

impl Pair {
    async fn open() -> Self {
        let database = Cluster::shared().database();
        let url = database.url();
        let first = Arc::new(open_shared(&url, 1).await.unwrap());
        let second = Arc::new(open_shared(&url, 2).await.unwrap());
        let follows = follow(Arc::clone(&second) as Arc<dyn Journal>);
        begin(&*first, record(1)).await;
        Self {
            database,
            first,
            second,
            _follows: follows,
        }
    }
}

const LOST: &str =
    "DELETE FROM transition_log WHERE position > 1; DELETE FROM purchase WHERE id IN (
     SELECT id FROM purchase EXCEPT SELECT purchase FROM transition_log)";

#[tokio::test]
async fn a_commit_that_was_told_and_is_gone_ends_the_process_that_told_it() {
    let database = Cluster::shared().database();
    let journal = open(&database.url(), 1).await.unwrap();
    for number in 1..=3 {
        begin(&journal, record(number)).await;
    }
    fail_over(&database, LOST);
    let answer = journal.write(begin_write(record(4))).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(lost(&journal).await, loss(3, 3));
    is_over(&journal, 4).await;
    journal.close().await;
    let next = open(&database.url(), 2).await.unwrap();
    begin(&next, record(4)).await;
    assert!(!next.lost().initialized());
}

#[tokio::test]
async fn a_process_that_writes_nothing_notices_lost_commits_as_well() {
    let database = Cluster::shared().database();
    let first = open(&database.url(), 1).await.unwrap();
    begin(&first, record(1)).await;
    begin(&first, record(2)).await;
    first.close().await;
    // It has committed nothing itself: others may have read this of it.
    let second = open(&database.url(), 2).await.unwrap();
    fail_over(&database, LOST);
    assert_eq!(lost(&second).await, loss(2, 2));
    is_over(&second, 3).await;
}

#[tokio::test]
async fn a_process_that_told_of_others_commits_alone_ends_if_they_are_gone() {
    let Pair {
        database,
        first,
        second,
        ..
    } = &Pair::open().await;
    begin(&**first, record(2)).await;
    told(&**second, 2).await;
    // The position was given to another transition meanwhile.
    let replaced = format!("{LOST}; UPDATE transition_log SET position = 2 WHERE position = 1");
    fail_over(database, &replaced);
    assert_eq!(lost(second).await, loss(2, 2));
    is_over(&**second, 3).await;
    let third = open_shared(&database.url(), 3).await.unwrap();
    begin(&third, record(3)).await;
}

#[tokio::test]
async fn transitions_that_retention_has_taken_or_a_rollback_has_left_out_are_no_loss() {
    let Pair {
        database,
        first,
        second,
        ..
    } = &Pair::open().await;
    finish(&**first, 1).await;
    told(&**second, 2).await;
    assert_eq!(retire(&**first, at(90_000), at(0), 10).await.unwrap(), 3);
    fail_over(database, "SELECT nextval('feed_position')");
    let begins = async || first.write(begin_write(record(2))).await.ok();
    until("the store is opened again", begins).await;
    told(&**second, 4).await;
    assert!(!first.lost().initialized() && !second.lost().initialized());
}
