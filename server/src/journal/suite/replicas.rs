//! A database that several processes use: commits that meet, takes of leases in the middle of them, and the
//! rows of the processes.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use futures_util::future::join_all;
use tillwatch_cluster::{Cluster, Database, Gate, Way};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::{
    bound::binding,
    fences::{account, append_under, put_under, retire_under, seen, take},
    server::{foreign, open, open_shared, refused},
    shared::follow,
    until,
    values::{
        append_write, begin, begin_write, finish, following, id, newest, record, reference, step,
    },
};
use crate::{
    journal::{Fence, Journal, JournalError, Position, Write, Written, postgres::PostgresJournal},
    purchase::{PurchaseId, State, Status},
};

struct Bench {
    journals: [Arc<PostgresJournal>; 2],
    /// A connection that knows nothing of the journals.
    other: Client,
    _driver: JoinHandle<()>,
    database: Database,
}

async fn bench() -> Bench {
    let database = Cluster::shared().database();
    let url = database.url();
    let (other, driver) = foreign(&url).await;
    Bench {
        journals: [
            Arc::new(open_shared(&url, 1).await.unwrap()),
            Arc::new(open_shared(&url, 2).await.unwrap()),
        ],
        other,
        _driver: driver,
        database,
    }
}

impl Bench {
    /// Waits until so many calls wait for another transaction.
    async fn waits(&self, expected: i64) {
        const WAITS: &str = "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting = async || {
            let waits = self.count(WAITS).await;
            (waits == expected).then_some(())
        };
        until("calls wait", waiting).await;
    }

    /// Lets commits take some time after they have drawn their positions, each its own, so that they meet.
    async fn slow_down(&self) {
        const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN PERFORM pg_sleep(0.004 * random()); RETURN null; END $$;
             CREATE TRIGGER slow AFTER INSERT ON transition_log
                 FOR EACH STATEMENT EXECUTE FUNCTION slow()";
        self.other.batch_execute(SLOW).await.unwrap();
    }

    /// Notes each take of a lease from now on, with a place of its own in the order of the feed.
    async fn note_takes(&self) {
        const NOTES: &str = "CREATE TABLE took (fence bigint, position bigint);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO took VALUES (new.fence, nextval('feed_position')); RETURN null;
             END $$;
             CREATE TRIGGER note AFTER INSERT OR UPDATE OF fence ON lease
                 FOR EACH ROW EXECUTE FUNCTION note()";
        self.other.batch_execute(NOTES).await.unwrap();
    }

    /// A count out of the database.
    async fn count(&self, sql: &str) -> i64 {
        self.other.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// The answers to two processes whose commits meet: each has looked at the store before the other's
    /// commit.
    async fn at_once(&self, one: Write, other: Write) -> [Written; 2] {
        let (holder, _driver) = foreign(&self.database.url()).await;
        holder
            .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1, 1)")
            .await
            .unwrap();
        let [first, second] = &self.journals;
        let (one, other, ()) = tokio::join!(first.write(one), second.write(other), async {
            self.waits(2).await;
            holder.batch_execute("COMMIT").await.unwrap();
        });
        [one.unwrap(), other.unwrap()]
    }
}

/// A step of a purchase that gives it this reference.
async fn referring(journal: &dyn Journal, number: u64, name: &str) -> Write {
    let previous = newest(journal, number).await;
    let mut status = following(&previous, State::Created);
    status.reference = Some(reference(name));
    append_write(id(number), step(&previous, status))
}

fn begin_with(number: u64, key: &str, name: Option<&str>) -> Write {
    let mut record = record(number);
    record.purchase.idempotency_key = key.into();
    let mut status = Status::clone(&record.purchase.status);
    status.reference = name.map(reference);
    record.purchase.status = status.into();
    begin_write(record)
}

fn bind(number: u64, key: &str) -> Write {
    Write::Bind(Box::new(binding(number, key, 0)))
}

/// The purchase that an answer names.
fn named(written: &Written) -> Option<PurchaseId> {
    match written {
        Written::KeyTaken(record) => Some(record.purchase.id),
        Written::ReferenceTaken(id) => Some(*id),
        _ => None,
    }
}

#[tokio::test]
async fn of_two_processes_that_want_one_key_or_reference_at_once_one_has_it() {
    let bench = bench().await;
    let [first, _] = &bench.journals;
    for number in [1, 2] {
        begin(&**first, record(number)).await;
    }
    let refers = async |name| referring(&**first, 1, name).await;
    let table = [
        (
            (begin_with(11, "a", None), 11),
            (begin_with(12, "a", None), 12),
        ),
        ((begin_with(13, "b", None), 13), (bind(1, "b"), 1)),
        ((bind(1, "c"), 1), (begin_with(14, "c", None), 14)),
        ((bind(1, "d"), 1), (bind(2, "d"), 2)),
        (
            (begin_with(15, "e", Some("e")), 15),
            (begin_with(16, "f", Some("e")), 16),
        ),
        ((refers("g").await, 1), (begin_with(17, "g", Some("g")), 17)),
    ];
    for ((one, first), (other, second)) in table {
        let shown = format!("{one:?} {other:?}");
        match bench.at_once(one, other).await {
            [Written::Done, other] => assert_eq!(named(&other), Some(id(first)), "{shown}"),
            [one, Written::Done] => assert_eq!(named(&one), Some(id(second)), "{shown}"),
            neither => panic!("{shown}: {neither:?}"),
        }
    }
}

#[tokio::test]
async fn of_two_processes_that_change_a_purchase_at_once_one_does() {
    let bench = bench().await;
    let [first, second] = &bench.journals;
    begin(&**first, record(1)).await;
    let write = referring(&**first, 1, "a").await;
    let mut answers = bench.at_once(write.clone(), write).await;
    answers.sort_by_key(|answer| *answer != Written::Done);
    let now = second.record(id(1)).await.unwrap().unwrap();
    assert_eq!(
        answers,
        [Written::Done, Written::Stale(Some(Box::new(now)))]
    );
}

/// Both processes begin, bind and refer in groups, and want the same keys and references all the time.
#[tokio::test]
async fn keys_and_references_are_given_once_under_hammering_by_two_processes() {
    const ROUNDS: u64 = 24;
    const WIDTH: u64 = 6;
    let bench = bench().await;
    let [first, second] = &bench.journals;
    begin(&**first, record(1)).await;
    bench.slow_down().await;
    let mut done = 0;
    for round in 1..=ROUNDS {
        let [one, other] = match round % 2 {
            0 => [first, second],
            _ => [second, first],
        };
        let writes = (0..WIDTH).map(|place| {
            let number = 100 * round + 10 * place;
            let key = format!("{round}-{place}");
            let rival = match round % 3 {
                0 => bind(1, &key),
                1 => begin_with(number + 1, &key, None),
                _ => begin_with(number + 1, &format!("{key}-other"), Some(&key)),
            };
            let own = begin_with(number, &key, Some(&key));
            [one.write(own), other.write(rival)]
        });
        for answer in join_all(writes.flatten()).await {
            match answer.unwrap() {
                Written::Done => done += 1,
                taken => assert!(named(&taken).is_some(), "{taken:?}"),
            }
        }
    }
    let twice = "SELECT count(*) FROM purchase p JOIN bound_key b USING (caller, key)";
    assert_eq!(bench.count(twice).await, 0);
    let all = "SELECT (SELECT count(*) FROM purchase) + (SELECT count(*) FROM bound_key)";
    assert_eq!(bench.count(all).await, done + 1);
    let shared = "SELECT count(reference) - count(DISTINCT reference) FROM purchase";
    assert_eq!(bench.count(shared).await, 0);
}

#[tokio::test]
async fn a_write_that_waits_while_its_lease_is_taken_is_fenced() {
    let bench = bench().await;
    let [first, second] = &bench.journals;
    let [owner, newcomer] = [first.ownership(), second.ownership()];
    begin(&**first, record(1)).await;
    begin(&**first, record(2)).await;
    finish(&**first, 2).await;
    let leases = [account(), Fence::housekeeping()];
    let mut fences = Vec::new();
    for account in &leases {
        fences.push(take(&*owner, account).await);
    }
    let [fence, keeper] = fences.as_slice() else {
        panic!("{fences:?}")
    };
    // A take has the lock from its beginning until its commit.
    let (taking, _driver) = foreign(&bench.database.url()).await;
    let takes = leases.each_ref().map(|account| {
        let name = newcomer.replica().as_str();
        format!("SELECT take_1('{name}', 5000, '{account}', 1, 0)")
    });
    taking
        .batch_execute(&format!("BEGIN; {}", takes.join(";")))
        .await
        .unwrap();
    let before = first.record(id(1)).await.unwrap();
    let (written, retired, ()) = tokio::join!(
        append_under(&**first, fence),
        retire_under(&**second, keeper.clone()),
        async {
            bench.waits(2).await;
            taking.batch_execute("COMMIT").await.unwrap();
        }
    );
    assert_eq!(written, Written::Fenced);
    assert_eq!(retired, None);
    assert_eq!(first.record(id(1)).await.unwrap(), before);
    assert!(first.record(id(2)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_put_that_waits_while_its_lease_is_taken_is_fenced() {
    let bench = bench().await;
    let [first, second] = &bench.journals;
    let fence = take(&*first.ownership(), &account()).await;
    let (taking, _driver) = foreign(&bench.database.url()).await;
    let name = second.ownership().replica().as_str().to_owned();
    taking
        .batch_execute(&format!(
            "BEGIN; SELECT take_1('{name}', 5000, 'shop', 1, 0)"
        ))
        .await
        .unwrap();
    let (written, ()) = tokio::join!(put_under(&**first, &fence), async {
        bench.waits(1).await;
        taking.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(written, Written::Fenced);
    assert_eq!(first.get("sweep/shop").await.unwrap(), None);
}

/// Two replicas take one lease from each other while writers of both go on under the last fence that their
/// own replica took.
#[tokio::test]
async fn no_commit_under_a_fence_follows_the_next_take_under_hammering() {
    const TAKES: usize = 40;
    const WRITERS: u64 = 4;
    let bench = bench().await;
    let ownerships = bench.journals.each_ref().map(|journal| journal.ownership());
    let believed: [Mutex<Option<Fence>>; 2] = Default::default();
    let (is_over, fenced, done) = (AtomicBool::new(false), AtomicI64::new(0), AtomicI64::new(0));
    for number in 0..2 * WRITERS {
        begin(&*bench.journals[0], record(number)).await;
    }
    bench.slow_down().await;
    bench.note_takes().await;
    let writers = (0..2 * WRITERS).map(|number| {
        let side = usize::from(number >= WRITERS);
        let (journal, believed) = (&*bench.journals[side], &believed[side]);
        let (is_over, fenced, done) = (&is_over, &fenced, &done);
        async move {
            let mut previous = newest(journal, number).await;
            while !is_over.load(Ordering::SeqCst) {
                let Some(under) = believed.lock().unwrap().clone() else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let status = Status {
                    code: under.number.to_string(),
                    ..following(&previous, State::Created)
                };
                let mut write = append_write(id(number), step(&previous, status.clone()));
                if let Write::Append { fence, .. } = &mut write {
                    *fence = Some(under);
                }
                match journal.write(write).await.unwrap() {
                    Written::Done => {
                        previous = Arc::new(status);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                    Written::Fenced => drop(fenced.fetch_add(1, Ordering::SeqCst)),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let taking = async {
        for turn in 0..TAKES {
            let ownership = &*ownerships[turn % 2];
            let known = seen(ownership, &account()).await;
            let taken = ownership.take(&account(), known.as_ref()).await.unwrap();
            let fence = taken.unwrap();
            *believed[turn % 2].lock().unwrap() = Some(fence);
            let before = done.load(Ordering::SeqCst);
            let goes_on = async || (done.load(Ordering::SeqCst) > before + 8).then_some(());
            until("the new owner commits", goes_on).await;
        }
        is_over.store(true, Ordering::SeqCst);
    };
    tokio::join!(join_all(writers), taking);
    let passes = "SELECT count(*) FROM transition_log t JOIN took ON t.position > took.position
         AND t.revision > 1 AND (t.status::json ->> 'code')::bigint < took.fence";
    assert_eq!(bench.count(passes).await, 0);
    let took = bench.count("SELECT count(*) FROM took").await;
    assert_eq!(usize::try_from(took), Ok(TAKES));
    let committed = bench.count("SELECT count(*) FROM transition_log WHERE revision > 1");
    assert_eq!(committed.await, done.load(Ordering::SeqCst));
    assert!(fenced.load(Ordering::SeqCst) >= 20, "{fenced:?}");
}

#[tokio::test]
async fn a_take_gives_up_soon_if_the_order_of_the_feed_is_held() {
    let bench = bench().await;
    let ownership = bench.journals[0].ownership();
    let hold = "BEGIN; SELECT pg_advisory_xact_lock(1, 1)";
    bench.other.batch_execute(hold).await.unwrap();
    let begun = std::time::Instant::now();
    let taken = ownership.take(&account(), None).await;
    assert!(
        matches!(taken, Err(JournalError::Unavailable(_))),
        "{taken:?}"
    );
    assert!(begun.elapsed().as_millis() < 2_000, "{:?}", begun.elapsed());
    bench.other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(take(&*ownership, &account()).await.number, 1);
}

#[tokio::test]
async fn a_reader_steps_over_nothing_while_two_processes_commit() {
    const WRITERS: u64 = 3;
    const STEPS: usize = 25;
    let bench = bench().await;
    let [first, second] = &bench.journals;
    bench.slow_down().await;
    let _follows = follow(Arc::clone(first) as Arc<dyn Journal>);
    let is_over = AtomicBool::new(false);
    let writers = (0..2 * WRITERS).map(|number| {
        let journal = if number < WRITERS { first } else { second };
        async move {
            begin(&**journal, record(number)).await;
            for _ in 0..STEPS {
                super::values::append(&**journal, number, |_| ()).await;
            }
        }
    });
    let reading = async {
        let (mut read, mut after) = (Vec::new(), Position(0));
        loop {
            let is_last = is_over.load(Ordering::SeqCst);
            let (page, through) = first.tail(None, after, 7).await.unwrap();
            read.extend(page.iter().map(|one| one.position));
            if is_last && through == after {
                return read;
            }
            after = through;
        }
    };
    let writing = async {
        join_all(writers).await;
        let newest = first.newest().await.unwrap();
        let told = async || (first.head() == newest).then_some(());
        until("everything is told", told).await;
        is_over.store(true, Ordering::SeqCst);
    };
    let (read, ()) = tokio::join!(reading, writing);
    let all = first.tail(None, Position(0), 10_000).await.unwrap().0;
    let all: Vec<Position> = all.iter().map(|one| one.position).collect();
    assert_eq!(all.len(), 6 * (STEPS + 1));
    assert_eq!(read, all);
}

#[tokio::test]
async fn a_late_call_of_an_older_opening_is_refused_and_holds_no_other_process_up() {
    let database = Cluster::shared().database();
    let gate = Gate::before(&database).await;
    let first = open_shared(gate.url(), 1).await.unwrap();
    let second = open_shared(&database.url(), 2).await.unwrap();
    begin(&first, record(1)).await;
    gate.turn(Way::HoldsCalls);
    let losing = async {
        until("the call is held", async || gate.holds().then_some(())).await;
        begin(&second, record(2)).await;
        gate.turn(Way::Open);
        gate.cut();
    };
    let (answer, ()) = tokio::join!(first.write(begin_write(record(3))), losing);
    assert!(
        matches!(answer, Err(JournalError::Unavailable(_))),
        "{answer:?}"
    );
    let late = gate.deliver().await;
    assert!(late.contains("another opening has the store"), "{late}");
    assert_eq!(second.record(id(3)).await.unwrap(), None);
    begin(&second, record(3)).await;
    let mut available = first.available();
    available.wait_for(|available| *available).await.unwrap();
    begin(&first, record(4)).await;
    assert!(!first.lost().initialized() && !second.lost().initialized());
}

#[tokio::test]
async fn a_process_that_is_alone_and_one_that_is_not_never_have_a_database_at_once() {
    let database = Cluster::shared().database();
    let url = database.url();
    let shared = open_shared(&url, 1).await.unwrap();
    let ownership = shared.ownership();
    let looks = async {
        loop {
            ownership.look(&[]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = looks => {}
        opened = open(&url, 2) => refused(opened, "another process has it"),
    }
    shared.close().await;
    assert!(!shared.lost().initialized(), "it has ended by itself");
    let look = ownership.look(&[]).await;
    assert!(
        matches!(look, Err(JournalError::Unavailable(_))),
        "{look:?}"
    );
    let alone = open(&url, 3).await.unwrap();
    assert!(!alone.ownership().is_shared());
    refused(open_shared(&url, 4).await, "another process has it");
    begin(&alone, record(1)).await;
}

#[tokio::test]
async fn a_process_whose_place_was_taken_learns_it_by_a_look_or_a_commit() {
    let bench = bench().await;
    let [first, second] = &bench.journals;
    begin(&**first, record(1)).await;
    bench
        .other
        .batch_execute("UPDATE replica SET is_gone = true, opening = opening + 1")
        .await
        .unwrap();
    let look = first.ownership().look(&[]).await;
    assert!(matches!(look, Err(JournalError::Unusable(_))), "{look:?}");
    assert!(first.lost().initialized());
    let taken = second.ownership().take(&account(), None).await;
    assert!(matches!(taken, Err(JournalError::Unusable(_))), "{taken:?}");
    assert!(second.lost().initialized());
    for journal in [first, second] {
        let answer = journal.write(begin_write(record(2))).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(first.record(id(2)).await.unwrap(), None);
}

#[tokio::test]
async fn rows_of_processes_that_have_gone_do_not_grow_without_end() {
    let bench = bench().await;
    let [first, second] = &bench.journals;
    first.ownership().look(&[]).await.unwrap();
    // Each with an answer that nobody asked for.
    let crashes = "INSERT INTO replica SELECT 'crashed ' || n, 1, false, 1, 0, n, false, false FROM generate_series(1, 300) n;
         INSERT INTO commit_answer SELECT 'crashed ' || n, 1, 1, 'D', '{}' FROM generate_series(1, 300) n";
    bench.other.batch_execute(crashes).await.unwrap();
    let third = open_shared(&bench.database.url(), 3).await.unwrap();
    let look = third.ownership().look(&[]).await.unwrap();
    assert_eq!(look.replicas.len(), 101);
    let shown = |journal: &PostgresJournal| {
        let ownership = journal.ownership();
        let mut ids = look.replicas.iter().map(|replica| &replica.id);
        ids.any(|id| id == ownership.replica())
    };
    assert!(shown(first) && shown(second) && shown(&third));
    let answers = "SELECT count(*) FROM commit_answer";
    assert_eq!(bench.count(answers).await, 98);
    begin(&**first, record(1)).await;
    third.close().await;
    let look = first.ownership().look(&[]).await.unwrap();
    assert_eq!(look.replicas.len(), 100, "whoever closes leaves nothing");
    let level = "SELECT count(*) FROM replica WHERE level = (SELECT max(number) FROM migration)";
    assert_eq!(bench.count(level).await, 2, "the level of this build");
}
