//! Observers, faults and the end.

use std::sync::{Arc, Mutex};

use super::{
    Subject,
    values::{
        append_write, at, begin, begin_write, following, id, newest, record, redirect, retire, step,
    },
};
use crate::{
    journal::{JournalError, Position, Write, Written},
    purchase::State,
};

pub async fn observers_hear_in_commit_order_before_the_writer(subject: Subject) {
    let journal = &subject.journal;
    let heard: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let (hearing, asked) = (Arc::clone(&heard), Arc::downgrade(journal));
    journal.observe(Arc::new(move |committed| {
        let head = asked.upgrade().map_or(0, |journal| journal.head().0);
        let positions = committed.iter().map(|one| (one.position.0, head));
        hearing.lock().unwrap().extend(positions);
    }));
    let begun = (1..=50).map(|number| {
        let (journal, heard) = (Arc::clone(journal), Arc::clone(&heard));
        async move {
            begin(&*journal, record(number)).await;
            let known = heard.lock().unwrap().len();
            let previous = newest(&*journal, number).await;
            let mut status = following(&previous, State::Created);
            status.buyer_action = redirect("https://a.example");
            let write = append_write(id(number), step(&previous, status));
            assert_eq!(journal.write(write).await.unwrap(), Written::Done);
            assert!(
                heard.lock().unwrap().len() > known,
                "told before the answer"
            );
        }
    });
    futures_util::future::join_all(begun).await;
    let heard = heard.lock().unwrap().clone();
    let positions: Vec<u64> = heard.iter().map(|(position, _)| *position).collect();
    assert_eq!(positions, (1..=100).collect::<Vec<_>>());
    assert!(heard.iter().all(|(position, head)| head >= position));
}

pub async fn an_observer_that_panics_stops_nobody(subject: Subject) {
    let journal = &subject.journal;
    let heard: Arc<Mutex<Vec<bool>>> = Arc::default();
    let hearing = Arc::clone(&heard);
    journal.observe(Arc::new(|_| panic!("an observer's own fault")));
    journal.observe(Arc::new(move |committed| {
        let has_action =
            |one: &Arc<super::super::Committed>| one.purchase.status.buyer_action.is_some();
        hearing
            .lock()
            .unwrap()
            .extend(committed.iter().map(has_action));
    }));
    begin(&**journal, record(1)).await;
    let previous = newest(&**journal, 1).await;
    let mut status = following(&previous, State::Created);
    status.buyer_action = redirect("https://a.example");
    let write = append_write(id(1), step(&previous, status));
    assert_eq!(journal.write(write).await.unwrap(), Written::Done);
    assert_eq!(
        *heard.lock().unwrap(),
        [false, true],
        "with its buyer action"
    );
}

pub async fn a_failing_commit_is_refused_and_turns_available_off(subject: Subject) {
    let journal = &*subject.journal;
    let mut available = journal.available();
    let heard: Arc<Mutex<Vec<Position>>> = Arc::default();
    let hearing = Arc::clone(&heard);
    journal.observe(Arc::new(move |committed| {
        let positions = committed.iter().map(|one| one.position);
        hearing.lock().unwrap().extend(positions);
    }));
    begin(journal, record(1)).await;
    assert!(*available.borrow_and_update());

    (subject.fail_writes)(true);
    let put = Write::Put {
        key: "k".to_owned(),
        fence: None,
        value: "v".to_owned(),
    };
    let writes = [begin_write(record(2)), begin_write(record(3)), put];
    let answers = futures_util::future::join_all(writes.map(|write| journal.write(write))).await;
    for answer in answers {
        assert!(
            matches!(answer, Err(JournalError::Unavailable(_))),
            "{answer:?}"
        );
    }
    assert!(
        !*available.borrow_and_update(),
        "off before the writers are answered"
    );
    assert!(
        journal.record(id(1)).await.unwrap().is_some(),
        "reads go on"
    );
    assert_eq!(journal.record(id(2)).await.unwrap(), None);
    assert_eq!(journal.get("k").await.unwrap(), None);
    assert_eq!(journal.head(), Position(1));
    assert!(retire(journal, at(0), at(0), 1).await.is_err() || !*available.borrow());

    (subject.fail_writes)(false);
    // Nobody writes: the journal tries by itself.
    available.wait_for(|available| *available).await.unwrap();
    begin(journal, record(2)).await;
    // A commit that failed may have taken positions with it.
    let head = journal.head();
    assert!(head > Position(1));
    assert_eq!(*heard.lock().unwrap(), [Position(1), head]);
}

pub async fn a_closed_journal_refuses(subject: Subject) {
    let journal = &*subject.journal;
    let writing = (1..=20).map(|number| journal.write(begin_write(record(number))));
    let answers = futures_util::future::join_all(writing).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Ok(Written::Done)))
    );
    journal.close().await;
    let refused = |error: JournalError| error.to_string().contains("closed");
    let written = journal.write(begin_write(record(99))).await;
    assert!(written.is_err_and(refused));
    assert!(journal.record(id(1)).await.is_err_and(refused));
    journal.close().await;
}
