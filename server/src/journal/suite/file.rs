//! The abilities that only a file has: reopening, locks, foreign and damaged files, groups.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::Connection;

use super::{
    until,
    values::{append, append_write, at, begin, following, id, newest, record, redirect, step},
};
use crate::{
    clock::Clock,
    journal::{Filter, Journal, JournalError, Position, Write, Written, sqlite::SqliteJournal},
    purchase::{Revision, State},
};

async fn open(path: &Path) -> Result<SqliteJournal, JournalError> {
    SqliteJournal::open(path, &Clock::simulated(at(0), 1)).await
}

fn path_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("journal.db")
}

/// Makes commits, not statements, fail: each leaves a row that no parent has.
pub fn fail_commits(path: &Path, fail: bool) {
    let connection = Connection::open(path).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .unwrap();
    let tables = [
        ("transition_log", "INSERT"),
        ("kept_text", "INSERT"),
        ("meta", "UPDATE"),
    ];
    if !fail {
        for (table, _) in tables {
            let sql = format!("DROP TRIGGER fault_on_{table}");
            connection.execute_batch(&sql).unwrap();
        }
        return;
    }
    let sql = "CREATE TABLE fault_parent (id INTEGER PRIMARY KEY);
        CREATE TABLE fault (id INTEGER REFERENCES fault_parent DEFERRABLE INITIALLY DEFERRED);";
    connection.execute_batch(sql).unwrap();
    for (table, event) in tables {
        let sql = format!(
            "CREATE TRIGGER fault_on_{table} AFTER {event} ON {table}
             BEGIN INSERT INTO fault VALUES (1); END"
        );
        connection.execute_batch(&sql).unwrap();
    }
}

fn refused(opened: Result<SqliteJournal, JournalError>, expected: &str) {
    match opened {
        Err(JournalError::Unusable(why)) => {
            assert!(why.contains(expected), "{why}");
            assert!(why.contains("journal.db"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

/// Begins purchase 1 and takes it two steps on, the last with a buyer action.
async fn fill(journal: &SqliteJournal) {
    begin(journal, record(1)).await;
    append(journal, 1, |status| status.state = State::Created).await;
    append(journal, 1, |status| {
        status.buyer_action = redirect("https://a.example");
    })
    .await;
    let write = Write::Put {
        key: "k".to_owned(),
        fence: None,
        value: "v".to_owned(),
    };
    journal.write(write).await.unwrap();
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_close_and_reopen() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let journal = open(&path).await.unwrap();
    fill(&journal).await;
    let kept = journal.record(id(1)).await.unwrap();
    let epoch = journal.epoch().to_owned();
    journal.close().await;
    let log = fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0, "nothing is left in the write-ahead log");

    let journal = open(&path).await.unwrap();
    assert_eq!(journal.epoch(), epoch);
    assert_eq!(journal.epoch().len(), 32);
    assert_eq!(journal.head(), Position(3));
    assert_eq!(journal.record(id(1)).await.unwrap(), kept);
    assert_eq!(journal.get("k").await.unwrap().as_deref(), Some("v"));
    append(&journal, 1, |_| ()).await;
    assert_eq!(journal.head(), Position(4));
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_drop_without_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let journal = open(&path).await.unwrap();
    fill(&journal).await;
    let kept = journal.record(id(1)).await.unwrap();
    drop(journal);
    let reopened = async || open(&path).await.ok();
    let journal = until("the lock is let go", reopened).await;
    assert_eq!(journal.record(id(1)).await.unwrap(), kept);
    assert_eq!(journal.head(), Position(3));
}

#[tokio::test]
async fn a_copy_of_a_living_file_has_everything_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let journal = open(&path).await.unwrap();
    fill(&journal).await;
    // This is the state after kill -9: the file and its log as they are, no connection closed.
    let copied = tempfile::tempdir().unwrap();
    for name in ["journal.db", "journal.db-wal"] {
        fs::copy(folder.path().join(name), copied.path().join(name)).unwrap();
    }
    let copy = open(&path_in(&copied)).await.unwrap();
    assert_eq!(
        copy.record(id(1)).await.unwrap(),
        journal.record(id(1)).await.unwrap()
    );
}

#[tokio::test]
async fn the_head_survives_the_retirement_of_the_newest_transition() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let journal = open(&path).await.unwrap();
    begin(&journal, record(1)).await;
    super::values::finish(&journal, 1).await;
    assert_eq!(
        super::values::retire(&journal, at(90_000), at(0), 10)
            .await
            .unwrap(),
        3
    );
    journal.close().await;
    let journal = open(&path).await.unwrap();
    assert_eq!(journal.head(), Position(2));
}

#[tokio::test]
async fn a_second_opening_is_refused_until_the_first_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let journal = open(&path).await.unwrap();
    refused(open(&path).await, "another process has it");
    let link = folder.path().join("link-to-journal.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    refused(open(&link).await, "another process has it");
    begin(&journal, record(1)).await;
    journal.close().await;
    open(&path).await.unwrap();
}

#[tokio::test]
async fn the_file_and_its_companions_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&path_in(&folder)).await.unwrap();
    begin(&journal, record(1)).await;
    let names = [
        "journal.db",
        "journal.db-wal",
        "journal.db-shm",
        "journal.db.lock",
    ];
    for name in names {
        let mode = fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_wiped_buyer_action_is_nowhere_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let holds = |text: &[u8]| {
        ["db", "db-wal"].into_iter().any(|ending| {
            let bytes = fs::read(path.with_extension(ending)).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text)
        })
    };
    let journal = open(&path).await.unwrap();
    fill(&journal).await;
    journal.close().await;
    assert!(holds(b"https://a.example"));
    let journal = open(&path).await.unwrap();
    append(&journal, 1, |status| {
        status.state = State::Paid;
        status.buyer_action = None;
    })
    .await;
    journal.close().await;
    assert!(!holds(b"https://a.example"));
    assert!(
        holds(b"AWAITING") || holds(b"CREATED"),
        "the rest is legible"
    );
}

/// Makes a journal's file, closes it, and changes it with SQL.
async fn altered(folder: &tempfile::TempDir, sql: &str) -> PathBuf {
    let path = path_in(folder);
    let journal = open(&path).await.unwrap();
    fill(&journal).await;
    journal.close().await;
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(sql).unwrap();
    path
}

#[tokio::test]
async fn a_newer_or_altered_schema_is_refused() {
    let table = [
        ("PRAGMA user_version = 99", "schema is number 99"),
        ("PRAGMA user_version = -1", "use the newer build"),
        (
            "CREATE INDEX extra ON purchase (provider)",
            "altered by hand",
        ),
        (
            "ALTER TABLE purchase DROP COLUMN resolution_note",
            "altered by hand",
        ),
        ("UPDATE migration SET checksum = 'other'", "migration 1"),
        ("DELETE FROM migration", "migration 1"),
        ("PRAGMA application_id = 7", "another program"),
        ("PRAGMA user_version = 0", "another program"),
    ];
    for (sql, expected) in table {
        let folder = tempfile::tempdir().unwrap();
        let path = altered(&folder, sql).await;
        refused(open(&path).await, expected);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = altered(&folder, "ANALYZE; VACUUM").await;
    open(&path).await.unwrap();
}

/// A file of a build that did not count sends.
#[tokio::test]
async fn a_file_that_counted_no_sends_has_one_if_the_order_may_have_been_sent() {
    for (first_send_time, sends) in [("NULL", 0), ("7", 1)] {
        let folder = tempfile::tempdir().unwrap();
        let sql = "ALTER TABLE purchase DROP COLUMN sends;
             ALTER TABLE purchase DROP COLUMN attempt_by;
             DELETE FROM migration WHERE number >= 5;
             PRAGMA user_version = 4;
             UPDATE purchase SET first_send_time = ";
        let path = altered(&folder, &format!("{sql}{first_send_time}")).await;
        let journal = open(&path).await.unwrap();
        let records = journal.open_records(None, 1_000).await.unwrap();
        assert!(!records.is_empty());
        assert!(records.iter().all(|record| record.sends == sends));
    }
}

/// A file of a build whose attempts had no ids.
#[tokio::test]
async fn a_file_whose_attempts_had_no_ids_has_one_for_each_attempt_under_way() {
    for (submit_until, is_under_way) in [("NULL", false), ("7", true)] {
        let folder = tempfile::tempdir().unwrap();
        let sql = "ALTER TABLE purchase DROP COLUMN attempt_by;
             DELETE FROM migration WHERE number >= 6;
             PRAGMA user_version = 5;
             UPDATE purchase SET submit_until = ";
        let path = altered(&folder, &format!("{sql}{submit_until}")).await;
        let journal = open(&path).await.unwrap();
        let records = journal.open_records(None, 1_000).await.unwrap();
        let attempts: Vec<_> = records.iter().filter_map(|record| record.attempt).collect();
        let expected = if is_under_way { records.len() } else { 0 };
        assert!(!records.is_empty() && attempts.len() == expected);
        // The step that ends such an attempt is made as any other.
        if let Some(record) = records.first() {
            append(&journal, record.purchase.id.as_u128() as u64, |_| ()).await;
        }
    }
}

#[tokio::test]
async fn a_database_of_another_program_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE theirs (id)").unwrap();
    drop(other);
    let before = fs::read(&path).unwrap();
    refused(open(&path).await, "another program");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_file_is_refused_with_a_clear_message() {
    let folder = tempfile::tempdir().unwrap();
    let path = altered(&folder, "").await;
    let whole = fs::read(&path).unwrap();
    let check = async |what: &str, bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let opened = open(&path).await;
        assert!(opened.is_err(), "{what}");
        refused(opened, "damaged");
    };
    check("text", &b"not a database ".repeat(100)).await;
    check("cut short", &whole[..whole.len() - 8_192]).await;
    for start in (4_096..whole.len()).step_by(16_384) {
        let mut bytes = whole.clone();
        bytes[start..start + 4_096].fill(0xA5);
        check(&format!("garbage at {start}"), &bytes).await;
    }
    fs::write(&path, &whole).unwrap();
    open(&path).await.unwrap();
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").join("journal.db");
    refused(open(&missing).await, "cannot be written");
    let directory = path_in(&folder);
    fs::create_dir(&directory).unwrap();
    refused(open(&directory).await, "cannot be written");
    fs::remove_dir(&directory).unwrap();

    open(&directory).await.unwrap().close().await;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o400)).unwrap();
    if fs::OpenOptions::new().write(true).open(&directory).is_ok() {
        println!("skipped: this user may write any file");
        return;
    }
    refused(open(&directory).await, "cannot be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_concurrent_appends_are_grouped() {
    const WRITERS: u64 = 100;
    const STEPS: u32 = 100;
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(&path_in(&folder)).await.unwrap());
    for number in 0..WRITERS {
        begin(&*journal, record(number)).await;
    }
    let (before, start) = (journal.commits(), std::time::Instant::now());
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                let mut previous = newest(&*journal, number).await;
                for _ in 0..STEPS {
                    let next = following(&previous, State::Created);
                    let write = append_write(id(number), step(&previous, next.clone()));
                    assert_eq!(journal.write(write).await.unwrap(), Written::Done);
                    previous = Arc::new(next);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let commits = journal.commits() - before;
    let appends = WRITERS * u64::from(STEPS);
    println!(
        "{appends} appends in {commits} commits, {:?}",
        start.elapsed()
    );
    assert!(commits * 4 < appends, "{commits} commits");
    assert_eq!(newest(&*journal, 7).await.revision, Revision(STEPS + 1));
    assert_eq!(journal.head(), Position(WRITERS + appends));
}

#[tokio::test]
async fn the_write_ahead_log_is_checkpointed_beside_the_commits() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let journal = open(&path).await.unwrap();
    let size = || fs::metadata(&path).unwrap().len();
    let before = size();
    for round in 0..10_u64 {
        let begun = (0..200).map(|number| begin(&journal, record(round * 200 + number)));
        futures_util::future::join_all(begun).await;
    }
    let grown = async || (size() > before).then_some(());
    until("the file grows while it is in use", grown).await;
}

#[tokio::test]
async fn lists_follow_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let journal = open(&path).await.unwrap();
    fill(&journal).await;
    let connection = Connection::open(&path).unwrap();
    let caller = Some(super::values::caller("anna"));
    let filters = [
        Filter::default(),
        Filter {
            accounts: vec!["shop".to_owned(), "kiosk".to_owned()],
            states: vec![State::Created],
            created_from: Some(at(0)),
            needs_attention: true,
            ..Filter::default()
        },
        Filter {
            states: vec![State::Created, State::Paid],
            ..Filter::default()
        },
        Filter {
            labels: [("a", "1"), ("b", "2")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Filter::default()
        },
    ];
    let of_caller = filters.clone().map(|filter| Filter {
        caller: caller.clone(),
        ..filter
    });
    for filter in filters.into_iter().chain(of_caller) {
        for after in [None, Some((at(5), id(5)))] {
            let plan = crate::journal::sqlite::list_plan(&connection, &filter, after);
            assert!(
                plan.iter().all(|step| !step.contains("TEMP B-TREE")),
                "{plan:?}"
            );
            assert!(
                plan.iter().all(|step| !step.starts_with("SCAN t")),
                "{plan:?}"
            );
            // A caller's own purchases are found without looking at anybody else's.
            let first = &plan[0];
            let is_narrow = filter.caller.is_none() || first.contains("caller=?");
            assert!(is_narrow, "{filter:?}: {plan:?}");
        }
    }
}
