//! The outcome of a commit whose answer is lost: done or nothing done, and never unknown.

use std::sync::{Arc, Mutex};

use tillwatch_cluster::{Cluster, Database, Gate, Way};

use super::{
    server::open,
    until,
    values::{
        append, append_write, at, begin, begin_write, finish, following, id, newest, record,
        retire, step,
    },
};
use crate::{
    journal::{
        Committed, Journal, JournalError, Position, Write, Written, postgres::PostgresJournal,
    },
    purchase::State,
};

struct Bench {
    journal: Arc<PostgresJournal>,
    gate: Gate,
    /// Positions and purchases, as an observer has heard them.
    heard: Arc<Mutex<Vec<Arc<Committed>>>>,
    database: Database,
}

async fn bench() -> Bench {
    let database = Cluster::shared().database();
    let gate = Gate::before(&database).await;
    let journal = Arc::new(open(gate.url(), 1).await.unwrap());
    let heard = Arc::<Mutex<Vec<_>>>::default();
    let hearing = Arc::clone(&heard);
    journal.observe(Arc::new(move |committed| {
        hearing.lock().unwrap().extend(committed.iter().cloned());
    }));
    Bench {
        journal,
        gate,
        heard,
        database,
    }
}

impl Bench {
    /// Waits until a statement that counts says so many.
    async fn counts(&self, statement: &str, expected: &str) {
        let counted = async || (self.database.run(statement) == expected).then_some(());
        until(statement, counted).await;
    }
}

async fn created(journal: &dyn Journal, number: u64) -> Write {
    let previous = newest(journal, number).await;
    append_write(
        id(number),
        step(&previous, following(&previous, State::Created)),
    )
}

const TRANSITIONS: &str = "SELECT count(*) FROM transition_log";

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_told_as_it_was_done() {
    let bench = bench().await;
    let journal = &*bench.journal;
    begin(journal, record(1)).await;
    begin(journal, record(2)).await;
    append(journal, 2, |status| status.state = State::Created).await;
    let mut same_key = record(4);
    same_key.purchase.idempotency_key = "key-1".into();
    let mut stale = created(journal, 2).await;
    if let Write::Append {
        expected,
        transition,
        ..
    } = &mut stale
    {
        expected.revision.0 -= 1;
        transition.status.revision.0 -= 1;
    }
    let writes = [
        created(journal, 1).await,
        begin_write(record(3)),
        begin_write(same_key),
        stale,
    ];
    let second = journal.record(id(2)).await.unwrap().unwrap();

    bench.gate.turn(Way::LosesAnswers);
    let writing = futures_util::future::join_all(writes.map(|write| journal.write(write)));
    let losing = async {
        bench.counts(TRANSITIONS, "5").await;
        bench.gate.turn(Way::Open);
        bench.gate.cut();
    };
    let (answers, ()) = tokio::join!(writing, losing);
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let first = journal.record(id(1)).await.unwrap().unwrap();
    let expected = [
        Written::Done,
        Written::Done,
        Written::KeyTaken(Box::new(first.clone())),
        Written::Stale(Some(Box::new(second))),
    ];
    assert_eq!(answers, expected);
    assert_eq!(journal.head(), Position(5));
    assert!(*journal.available().borrow());
    let heard = bench.heard.lock().unwrap().clone();
    let positions: Vec<u64> = heard.iter().map(|one| one.position.0).collect();
    assert_eq!(positions, [1, 2, 3, 4, 5], "each is told once");
    assert_eq!(heard[3].purchase, first.purchase);
    begin(journal, record(5)).await;
}

#[tokio::test]
async fn a_retirement_whose_answer_was_lost_is_told_as_it_was_done() {
    let bench = bench().await;
    let journal = &*bench.journal;
    begin(journal, record(1)).await;
    finish(journal, 1).await;
    // A first call of each kind prepares its statement, which takes an answer of its own.
    assert_eq!(retire(journal, at(0), at(0), 10).await.unwrap(), 0);
    bench.gate.turn(Way::LosesAnswers);
    let losing = async {
        bench.counts(TRANSITIONS, "0").await;
        bench.gate.turn(Way::Open);
        bench.gate.cut();
    };
    let (retired, ()) = tokio::join!(retire(journal, at(90_000), at(0), 10), losing);
    assert_eq!(retired.unwrap(), 3);
}

#[tokio::test]
async fn a_call_that_was_lost_on_its_way_is_nothing_done_and_refused_if_it_comes_late() {
    let bench = bench().await;
    let journal = &*bench.journal;
    begin(journal, record(1)).await;
    bench.gate.turn(Way::HoldsCalls);
    let losing = async {
        until("the call is held", async || {
            bench.gate.holds().then_some(())
        })
        .await;
        bench.gate.turn(Way::Open);
        bench.gate.cut();
    };
    let (answer, ()) = tokio::join!(journal.write(begin_write(record(2))), losing);
    assert!(
        matches!(answer, Err(JournalError::Unavailable(_))),
        "{answer:?}"
    );
    let late = bench.gate.deliver().await;
    assert!(late.contains("another opening has the store"), "{late}");
    assert_eq!(journal.record(id(2)).await.unwrap(), None);
    let mut available = journal.available();
    available.wait_for(|available| *available).await.unwrap();
    begin(journal, record(2)).await;
    assert_eq!(bench.heard.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn while_an_outcome_is_looked_for_the_journal_is_away_and_others_are_refused_at_once() {
    let bench = bench().await;
    let journal = &*bench.journal;
    let mut available = journal.available();
    begin(journal, record(9)).await;
    bench.gate.turn(Way::LosesAnswers);
    let losing = async {
        bench.counts(TRANSITIONS, "2").await;
        bench.gate.turn(Way::Shut);
        bench.gate.cut();
        let cut = std::time::Instant::now();
        available.wait_for(|available| !*available).await.unwrap();
        assert!(
            cut.elapsed().as_secs() < 3,
            "long before a silent store counts as away"
        );
        let other = journal.write(begin_write(record(2))).await;
        let error = other.unwrap_err().to_string();
        assert!(error.contains("does not answer"), "{error}");
        assert_eq!(bench.heard.lock().unwrap().len(), 1, "nobody knows yet");
        bench.gate.turn(Way::Open);
    };
    let (answer, ()) = tokio::join!(journal.write(begin_write(record(1))), losing);
    assert_eq!(answer.unwrap(), Written::Done);
    assert!(*journal.available().borrow(), "back with the outcome");
    assert_eq!(bench.heard.lock().unwrap().len(), 2);
    assert_eq!(journal.record(id(2)).await.unwrap(), None);
}

#[tokio::test]
async fn a_journal_closes_although_an_outcome_cannot_be_learned() {
    let bench = bench().await;
    let journal = &*bench.journal;
    let mut available = journal.available();
    begin(journal, record(9)).await;
    bench.gate.turn(Way::LosesAnswers);
    let losing = async {
        bench.counts(TRANSITIONS, "2").await;
        bench.gate.turn(Way::Shut);
        bench.gate.cut();
        available.wait_for(|available| !*available).await.unwrap();
        journal.close().await;
    };
    let (answer, ()) = tokio::join!(journal.write(begin_write(record(1))), losing);
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("before the outcome"), "{error}");
}

#[tokio::test]
async fn a_newcomer_takes_over_from_a_process_that_is_cut_off_which_never_commits_again() {
    let bench = bench().await;
    let first = &*bench.journal;
    begin(first, record(1)).await;
    bench.gate.turn(Way::Still);
    let second = open(&bench.database.url(), 2).await.unwrap();
    begin(&second, record(2)).await;
    let lost = first.lost();
    assert!(!lost.initialized(), "it has heard nothing yet");
    bench.gate.turn(Way::Open);
    let answer = first.write(begin_write(record(3))).await;
    assert!(answer.is_err(), "{answer:?}");
    lost.wait().await;
    let answer = first.write(begin_write(record(3))).await;
    assert!(
        matches!(answer, Err(JournalError::Unusable(_))),
        "{answer:?}"
    );
    assert!(!*first.available().borrow());
    assert_eq!(second.record(id(3)).await.unwrap(), None);
    first.close().await;
    begin(&second, record(3)).await;
    assert!(!second.lost().initialized());
}

#[tokio::test]
async fn a_process_that_lost_the_store_in_the_middle_of_a_commit_still_learns_that_it_was_done() {
    let bench = bench().await;
    let first = &*bench.journal;
    begin(first, record(9)).await;
    bench.gate.turn(Way::LosesAnswers);
    let taking = async {
        bench.counts(TRANSITIONS, "2").await;
        bench.gate.turn(Way::Still);
        let second = open(&bench.database.url(), 2).await.unwrap();
        bench.gate.turn(Way::Open);
        bench.gate.cut();
        second
    };
    let (answer, second) = tokio::join!(first.write(begin_write(record(1))), taking);
    assert_eq!(answer.unwrap(), Written::Done);
    assert!(first.lost().initialized());
    assert!(second.record(id(1)).await.unwrap().is_some());
}
