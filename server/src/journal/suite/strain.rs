//! The burdens of a file: foreign readers, and rows that cannot be read.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{
    until,
    values::{append, at, begin, id, record},
};
use crate::{
    clock::Clock,
    journal::{Filter, Journal, JournalError, Position, Write, sqlite::SqliteJournal},
    purchase::{Revision, State},
};

/// The log's size beyond which it used to be cut at any price.
const LARGE_LOG: u64 = 64 * 1024 * 1024;

/// The time for which a store waits for a lock of its file.
const LOCK_WAITED_FOR: Duration = Duration::from_secs(5);

async fn opened(folder: &tempfile::TempDir) -> (SqliteJournal, PathBuf) {
    let path = folder.path().join("journal.db");
    let journal = SqliteJournal::open(&path, &Clock::simulated(at(0), 1)).await;
    (journal.unwrap(), path)
}

fn put(key: u64, bytes: usize) -> Write {
    Write::Put {
        key: key.to_string(),
        fence: None,
        value: "x".repeat(bytes),
    }
}

#[tokio::test]
async fn a_foreign_reader_stalls_no_commit_and_only_lets_the_log_grow() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, path) = opened(&folder).await;
    begin(&journal, record(1)).await;
    let foreign = Connection::open(&path).unwrap();
    foreign
        .execute_batch("BEGIN; SELECT * FROM purchase;")
        .unwrap();
    for key in 0..70 {
        journal.write(put(key, 1024 * 1024)).await.unwrap();
    }
    let mut quickest = Duration::MAX;
    for _ in 0..4 {
        // Each group has more than a thousand rows, after which a checkpoint is made.
        let begun = Instant::now();
        let writes = (0..1_100).map(|key| journal.write(put(key, 10)));
        futures_util::future::try_join_all(writes).await.unwrap();
        quickest = quickest.min(begun.elapsed());
    }
    // A checkpoint that waited for the reader would hold up each group for as long as the store waits
    // for a lock; a slow machine holds up some.
    assert!(quickest < LOCK_WAITED_FOR, "all commits stood still");
    let grown = async || (journal.figures().log_bytes > LARGE_LOG).then_some(());
    until("the log is seen to grow", grown).await;
    assert!(*journal.available().borrow());
    drop(foreign);
    // Nobody writes any more; the checkpoint is tried again all the same.
    let emptied = async || (journal.figures().log_bytes < LARGE_LOG).then_some(());
    until("the log is emptied once the reader has gone", emptied).await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_read_is_its_own_reader_s_trouble_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, path) = opened(&folder).await;
    check_damage(&journal, || {
        let foreign = Connection::open(&path).unwrap();
        let sql = "UPDATE transition_log SET status = replace(status, 'CREATED', 'CREATEE')
             WHERE purchase = ?1";
        let changed = foreign.execute(sql, [2_u128.to_be_bytes()]).unwrap();
        assert_eq!(changed, 2);
    })
    .await;
}

/// Fills a journal, damages the rows of purchase 2, and reads everything.
pub async fn check_damage(journal: &dyn Journal, damage: impl FnOnce()) {
    for number in 1..=3 {
        begin(journal, record(number)).await;
        append(journal, number, |status| status.state = State::Created).await;
    }
    damage();

    let read = [1, 2, 3].map(|number| journal.record(id(number)));
    let read = futures_util::future::join_all(read).await;
    let is_damaged = |error: &JournalError| matches!(error, JournalError::Unreadable(_));
    assert!(matches!(&read[0], Ok(Some(_))) && matches!(&read[2], Ok(Some(_))));
    assert!(read[1].as_ref().is_err_and(is_damaged), "{:?}", read[1]);
    let anna = super::values::caller("anna");
    let by_key = journal.record_by_key(&anna, "key-2");
    assert!(by_key.await.is_err_and(|error| is_damaged(&error)));
    let steps = journal.transitions(id(2), Revision(0), 9).await;
    assert!(steps.is_err_and(|error| is_damaged(&error)));

    // A reader of many rows goes on without it.
    let open = journal.open_records(None, 2).await.unwrap();
    let ids: Vec<_> = open.iter().map(|one| one.purchase.id).collect();
    assert_eq!(ids, [id(1), id(3)]);
    let listed = journal.list(&Filter::default(), None, 9).await.unwrap();
    assert_eq!(listed.purchases.len(), 2);
    let (tail, through) = journal.tail(None, Position(0), 9).await.unwrap();
    assert_eq!((tail.len(), through), (5, Position(6)));

    assert!(*journal.available().borrow(), "the store is well");
    assert!(journal.figures().unreadable_rows > 0);
}
