//! The abilities that only a server's database has: reopening, second processes, foreign schemas, the order
//! of commits of several connections, faults of the server.

use std::sync::Arc;

use tillwatch_cluster::{Cluster, Database, Gate, Options, Tls, Way};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::{
    until,
    values::{
        append, append_write, at, begin, begin_write, caller, finish, following, id, newest,
        record, redirect, retire, step,
    },
};
use crate::{
    clock::Clock,
    journal::{
        Filter, Journal, JournalError, Position, Write, Written,
        postgres::{PostgresJournal, Settings, list_plan},
    },
    purchase::{Revision, State},
    testing::Authority,
};

/// Opens a database as a process whose random numbers are of this seed.
pub async fn open(url: &str, seed: u64) -> Result<PostgresJournal, JournalError> {
    let settings = Settings::parse(url).unwrap();
    PostgresJournal::open(&settings, &Clock::simulated(at(0), seed)).await
}

/// Opens a database beside others, as such a process.
pub async fn open_shared(url: &str, seed: u64) -> Result<PostgresJournal, JournalError> {
    let settings = Settings::parse(url).unwrap();
    PostgresJournal::open_shared(&settings, &Clock::simulated(at(0), seed)).await
}

/// Makes commits, not statements, fail.
pub fn fail_commits(database: &Database, fail: bool) {
    database.run(match fail {
        true => {
            "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN RAISE EXCEPTION 'as told'; END $$;
             CREATE CONSTRAINT TRIGGER fault AFTER INSERT ON commit_answer
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fault()"
        }
        false => "DROP TRIGGER fault ON commit_answer; DROP FUNCTION fault()",
    });
}

fn database() -> Database {
    Cluster::shared().database()
}

pub fn refused(opened: Result<PostgresJournal, JournalError>, expected: &str) {
    match opened {
        Err(JournalError::Unusable(why)) => {
            assert!(why.contains(expected), "{why}");
            assert!(why.contains("postgres database"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

/// A connection that knows nothing of the journal.
pub async fn foreign(url: &str) -> (Client, JoinHandle<()>) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let driver = tokio::spawn(async move { drop(connection.await) });
    (client, driver)
}

/// Begins purchase 1 and takes it two steps on, the last with a buyer action.
async fn fill(journal: &PostgresJournal) {
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
async fn everything_acknowledged_is_in_the_database_after_close_and_reopen() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    fill(&journal).await;
    let kept = journal.record(id(1)).await.unwrap();
    let epoch = journal.epoch().to_owned();
    journal.close().await;

    let journal = open(&database.url(), 2).await.unwrap();
    assert_eq!(journal.epoch(), epoch);
    assert_eq!(journal.epoch().len(), 32);
    assert_eq!(journal.head(), Position(3));
    assert_eq!(journal.record(id(1)).await.unwrap(), kept);
    assert_eq!(journal.get("k").await.unwrap().as_deref(), Some("v"));
    append(&journal, 1, |_| ()).await;
    assert_eq!(journal.head(), Position(4));
}

#[tokio::test]
async fn a_process_that_is_gone_without_closing_holds_nobody_up() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    fill(&journal).await;
    let kept = journal.record(id(1)).await.unwrap();
    drop(journal);
    let begun = std::time::Instant::now();
    let journal = open(&database.url(), 2).await.unwrap();
    assert!(
        begun.elapsed().as_secs() < 5,
        "its connections tell that it is gone"
    );
    assert_eq!(journal.record(id(1)).await.unwrap(), kept);
    assert_eq!(journal.head(), Position(3));
}

#[tokio::test]
async fn the_head_of_a_database_survives_the_retirement_of_its_newest_transition() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    begin(&journal, record(1)).await;
    finish(&journal, 1).await;
    assert_eq!(retire(&journal, at(90_000), at(0), 10).await.unwrap(), 3);
    journal.close().await;
    let journal = open(&database.url(), 2).await.unwrap();
    assert_eq!(journal.head(), Position(2));
    assert_eq!(journal.floor().await.unwrap(), Position(2));
}

#[tokio::test]
async fn a_second_process_on_the_same_database_is_refused_until_the_first_has_closed() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    refused(open(&database.url(), 2).await, "another process has it");
    begin(&journal, record(1)).await;
    journal.close().await;
    assert!(!journal.lost().initialized(), "it was let go");
    open(&database.url(), 2).await.unwrap();
}

#[tokio::test]
async fn of_two_processes_that_open_a_new_database_at_once_one_has_it() {
    let database = database();
    let url = database.url();
    let (one, other) = tokio::join!(open(&url, 1), open(&url, 2));
    let (journal, failed) = match (one, other) {
        (Ok(journal), failed) | (failed, Ok(journal)) => (journal, failed),
        neither => panic!("{neither:?}"),
    };
    refused(failed, "another process has it");
    begin(&journal, record(1)).await;
}

#[tokio::test]
async fn a_schema_for_newer_builds_or_an_altered_one_is_refused_and_a_newer_one_is_not() {
    let table = [
        (
            "UPDATE meta SET value = '99' WHERE key = 'oldest'",
            "use the newer build",
        ),
        (
            "UPDATE migration SET checksum = 'other' WHERE number = 2",
            "migration 2",
        ),
        ("DELETE FROM migration WHERE number = 1", "migration 1"),
        (
            "DELETE FROM meta WHERE key = 'application'",
            "another program",
        ),
        ("DROP TABLE migration", "another program"),
    ];
    let database = database();
    open(&database.url(), 1).await.unwrap().close().await;
    // A later migration that older builds may live with.
    database.run("INSERT INTO migration VALUES (99, 'later', 0); CREATE TABLE later ()");
    open(&database.url(), 1).await.unwrap().close().await;
    for (sql, expected) in table {
        let altered = database_like(&database).await;
        altered.run(sql);
        refused(open(&altered.url(), 1).await, expected);
    }
}

/// Another database that a journal has opened and closed.
async fn database_like(database: &Database) -> Database {
    let other = database.cluster().database();
    open(&other.url(), 1).await.unwrap().close().await;
    other
}

#[tokio::test]
async fn a_database_of_another_program_gets_no_table_of_ours() {
    let database = database();
    database.run("CREATE TABLE theirs (id integer)");
    refused(open(&database.url(), 1).await, "another program");
    let tables = database.run("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace");
    assert_eq!(tables, "theirs");
}

#[tokio::test]
async fn a_database_that_could_lose_or_mix_commits_is_refused() {
    let table = [
        ("synchronous_commit", "off", "synchronous_commit is off"),
        ("synchronous_commit", "local", "synchronous_commit is local"),
        (
            "default_transaction_isolation",
            "repeatable read",
            "must be read committed",
        ),
    ];
    for (name, value, expected) in table {
        let database = database();
        let url = database.url();
        let known = url.rsplit('/').next().unwrap();
        database.run(&format!("ALTER DATABASE {known} SET {name} = '{value}'"));
        refused(open(&url, 1).await, expected);
    }
}

#[tokio::test]
async fn no_reader_steps_over_a_transition_that_is_committed_late() {
    let database = database();
    let journal = Arc::new(open(&database.url(), 1).await.unwrap());
    begin(&*journal, record(1)).await;
    // Another process has drawn its position, and is slow to commit.
    let (late, _driver) = foreign(&database.url()).await;
    let drawn = "BEGIN; SELECT pg_advisory_xact_lock(1, 1);
         INSERT INTO transition_log SELECT nextval('feed_position'), purchase, 50, caller, from_state, cause, status
             FROM transition_log";
    late.batch_execute(drawn).await.unwrap();
    let writing = Arc::clone(&journal);
    let writing = tokio::spawn(async move { writing.write(begin_write(record(2))).await });
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let waiting = async || {
        let is_over = writing.is_finished();
        (is_over || database.run(waits) == "1").then_some(())
    };
    until("the second waits for the first", waiting).await;
    let (page, through) = journal.tail(None, Position(1), 9).await.unwrap();
    assert_eq!((page.len(), through), (0, Position(1)));
    late.batch_execute("COMMIT").await.unwrap();
    assert_eq!(writing.await.unwrap().unwrap(), Written::Done);
    let (page, through) = journal.tail(None, through, 9).await.unwrap();
    let positions: Vec<u64> = page.iter().map(|one| one.position.0).collect();
    assert_eq!((positions, through), (vec![2, 3], Position(3)));
}

#[tokio::test]
async fn an_open_transaction_elsewhere_stops_no_reader() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    let url = database.url();
    let (elsewhere, _) = url.rsplit_once('/').unwrap();
    let (same, _first) = foreign(&url).await;
    let (other, _second) = foreign(&format!("{elsewhere}/postgres")).await;
    for client in [&same, &other] {
        let open = "BEGIN; SELECT pg_current_xact_id()";
        client.batch_execute(open).await.unwrap();
    }
    begin(&journal, record(1)).await;
    let (page, through) = journal.tail(None, Position(0), 9).await.unwrap();
    assert_eq!((page.len(), through), (1, Position(1)));
    let anna = caller("anna");
    let (page, _) = journal.tail(Some(&anna), Position(0), 9).await.unwrap();
    assert_eq!(page.len(), 1);
    assert!(journal.record(id(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_commit_whose_lock_nobody_gives_fails_after_5_s_with_nothing_done() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    let mut available = journal.available();
    let (holder, _driver) = foreign(&database.url()).await;
    holder
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1, 1)")
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    let answer = journal.write(begin_write(record(1))).await;
    assert!(
        matches!(answer, Err(JournalError::Unavailable(_))),
        "{answer:?}"
    );
    assert!((4..9).contains(&begun.elapsed().as_secs()));
    assert!(!*available.borrow_and_update());
    assert_eq!(journal.record(id(1)).await.unwrap(), None);
    holder.batch_execute("COMMIT").await.unwrap();
    available.wait_for(|available| *available).await.unwrap();
    begin(&journal, record(1)).await;
}

/// A journal behind a gate, with one purchase and a connection that has read it.
async fn read_through_a_gate() -> (Database, Gate, PostgresJournal) {
    let database = database();
    let gate = Gate::before(&database).await;
    let journal = open(gate.url(), 1).await.unwrap();
    begin(&journal, record(1)).await;
    assert!(journal.record(id(1)).await.unwrap().is_some());
    (database, gate, journal)
}

#[tokio::test]
async fn a_read_whose_connection_broke_is_tried_once_more_over_another() {
    let (database, gate, journal) = read_through_a_gate().await;
    // The server ends the connection with the read in its hands.
    gate.turn(Way::Still);
    let reading = journal.record(id(1));
    let breaking = async {
        let ended = database.run(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND query LIKE 'SELECT p.id%'",
        );
        gate.turn(Way::Open);
        ended
    };
    let (found, ended) = tokio::join!(reading, breaking);
    assert_eq!(ended, "1");
    assert!(found.unwrap().is_some());
    assert!(*journal.available().borrow());
}

#[tokio::test]
async fn while_the_store_is_known_to_be_away_a_read_is_given_up_within_seconds() {
    let (_database, gate, journal) = read_through_a_gate().await;
    gate.turn(Way::Still);
    journal.published().set_available(false);
    let began = std::time::Instant::now();
    // Over the connection that there is, and then over one that does not come.
    for _ in 0..2 {
        let answer = journal.record(id(1)).await;
        assert!(
            matches!(answer, Err(JournalError::Unavailable(_))),
            "{answer:?}"
        );
    }
    assert!((3..7).contains(&began.elapsed().as_secs()));
    gate.turn(Way::Open);
    let mut available = journal.available();
    available.wait_for(|available| *available).await.unwrap();
    assert!(journal.record(id(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_crashes_and_comes_back_is_used_again_with_everything_acknowledged() {
    let cluster = Cluster::start(Options {
        fsync: true,
        ..Options::default()
    });
    let database = cluster.database();
    let journal = open(&database.url(), 1).await.unwrap();
    fill(&journal).await;
    let kept = journal.record(id(1)).await.unwrap();
    cluster.kill();
    let mut available = journal.available();
    let answer = journal.write(begin_write(record(2))).await;
    assert!(
        matches!(answer, Err(JournalError::Unavailable(_))),
        "{answer:?}"
    );
    assert!(!*available.borrow_and_update());
    assert!(journal.record(id(1)).await.is_err());
    cluster.start_again();
    available.wait_for(|available| *available).await.unwrap();
    assert_eq!(journal.record(id(1)).await.unwrap(), kept);
    begin(&journal, record(2)).await;
    assert!(!journal.lost().initialized());
}

#[tokio::test]
async fn a_server_is_verified_by_its_authority_and_its_name() {
    let (ours, theirs) = (Authority::new(), Authority::named("theirs.test"));
    let (certificate, key) = ours.certificate("127.0.0.1");
    let cluster = Cluster::start(Options {
        tls: Some(Tls { certificate, key }),
        password: Some("hush".to_owned()),
        ..Options::default()
    });
    let database = cluster.database();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, authority: &Authority| {
        let path = folder.path().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        path.display().to_string()
    };
    let (good, bad) = (file("ours.pem", &ours), file("theirs.pem", &theirs));
    let url = database.url();
    let of = |parameters: &str| format!("{url}?{parameters}");
    refused(
        open(&of(&format!("sslrootcert={bad}")), 1).await,
        "certificate",
    );
    refused(open(&of("sslmode=verify-full"), 1).await, "certificate");
    let renamed = of(&format!("sslrootcert={good}")).replace("@127.0.0.1", "@localhost");
    refused(open(&renamed, 1).await, "certificate");
    refused(
        open(&of("sslrootcert=/nowhere.pem"), 1).await,
        "cannot be read",
    );
    let wrong = of(&format!("sslrootcert={good}")).replace(":hush@", ":other-secret@");
    let opened = open(&wrong, 1).await;
    let shown = format!("{opened:?}");
    assert!(!shown.contains("other-secret"), "{shown}");
    refused(opened, "password authentication failed");
    let journal = open(&of(&format!("sslrootcert={good}")), 1).await.unwrap();
    begin(&journal, record(1)).await;
    assert!(journal.record(id(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn concurrent_appends_to_a_database_are_grouped() {
    const WRITERS: u64 = 50;
    const STEPS: u32 = 20;
    let database = database();
    let journal = Arc::new(open(&database.url(), 1).await.unwrap());
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
async fn a_database_s_row_that_cannot_be_read_is_its_own_reader_s_trouble_alone() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    super::strain::check_damage(&journal, || {
        let statement = "UPDATE transition_log SET status = replace(status, 'CREATED', 'CREATEE')
             WHERE purchase = '00000000-0000-0000-0000-000000000002'";
        database.run(statement);
    })
    .await;
}

#[tokio::test]
async fn an_item_that_fails_alone_does_not_fail_its_batch() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    let put = |key: &str, value: &str| {
        journal.write(Write::Put {
            key: key.to_owned(),
            fence: None,
            value: value.to_owned(),
        })
    };
    // No text of the server's has a U+0000.
    let writes = [put("a", "1"), put("b", "\0"), put("c", "3")];
    let answers = futures_util::future::join_all(writes).await;
    let done: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, false, true]);
    assert!(*journal.available().borrow(), "the store is not to blame");
    assert_eq!(journal.get("a").await.unwrap().as_deref(), Some("1"));
    assert_eq!(journal.get("c").await.unwrap().as_deref(), Some("3"));
}

#[tokio::test]
async fn lists_of_a_database_follow_an_index() {
    let database = database();
    let journal = open(&database.url(), 1).await.unwrap();
    fill(&journal).await;
    let (client, _driver) = foreign(&database.url()).await;
    // The tables are small: without these a plan would read all of them, and rightly.
    let settings = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off";
    client.batch_execute(settings).await.unwrap();
    let labels = [
        ("a".to_owned(), "1".to_owned()),
        ("b".to_owned(), "2".to_owned()),
    ];
    let filters = [
        (Filter::default(), "purchase_by_time", "purchase_by_caller"),
        (
            Filter {
                accounts: vec!["shop".to_owned()],
                created_from: Some(at(0)),
                needs_attention: true,
                ..Filter::default()
            },
            "purchase_attention",
            "purchase_attention_by_caller",
        ),
        (
            Filter {
                states: vec![State::Created, State::Paid],
                ..Filter::default()
            },
            "purchase_live",
            "purchase_live_by_caller",
        ),
        (
            Filter {
                labels: labels.into(),
                ..Filter::default()
            },
            "purchase_by_time",
            "purchase_label_by_value",
        ),
    ];
    for (filter, of_all, of_caller) in filters {
        for (caller, index) in [(None, of_all), (Some(caller("anna")), of_caller)] {
            let filter = Filter {
                caller,
                ..filter.clone()
            };
            for after in [None, Some((at(5), id(5)))] {
                let plan = list_plan(&client, &filter, after).await;
                assert!(!plan.contains("Sort"), "{filter:?}: {plan}");
                assert!(
                    plan.contains(&format!("using {index} on")),
                    "{filter:?}: {plan}"
                );
            }
        }
    }
}
