//! Commits of several processes on one store, as each of them hears of them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    Shared,
    values::{append, begin, finish, id, record},
};
use crate::journal::{Committed, Journal, Observer, Position};

/// Positions, in the order in which they were heard.
type Heard = Arc<Mutex<Vec<u64>>>;

fn hearing() -> (Heard, Observer) {
    let heard = Heard::default();
    let noted = Arc::clone(&heard);
    let observer = move |committed: &[Arc<Committed>]| {
        let positions = committed.iter().map(|one| one.position.0);
        noted.lock().unwrap().extend(positions);
    };
    (heard, Arc::new(observer))
}

/// Waits until a process has told its observers of everything up to this position.
async fn told(journal: &dyn Journal, position: u64) {
    let reached = async {
        while journal.head() < Position(position) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.expect("everything is heard soon");
}

pub async fn everybody_hears_everything_once_and_in_order_whoever_commits(shared: Shared) {
    let heard: Vec<_> = (shared.journals.iter())
        .map(|journal| {
            let [ordered, own] = [hearing(), hearing()];
            journal.observe_in_order(ordered.1);
            journal.observe_own(own.1);
            journal.follow();
            (ordered.0, own.0)
        })
        .collect();
    let works = (0..40).map(|number| {
        let journals = &shared.journals;
        async move {
            begin(&*journals[number % 2], record(number as u64)).await;
            for step in 0..3 {
                append(&*journals[(number + step) % 2], number as u64, |_| ()).await;
            }
            finish(&*journals[number / 2 % 2], number as u64).await;
        }
    });
    futures_util::future::join_all(works).await;
    let all: Vec<u64> = (1..=200).collect();
    let mut made = Vec::new();
    for (journal, (ordered, own)) in shared.journals.iter().zip(heard) {
        told(&**journal, 200).await;
        // A later read brings nothing twice.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(*ordered.lock().unwrap(), all);
        made.extend(own.lock().unwrap().iter().copied());
    }
    made.sort_unstable();
    assert_eq!(made, all, "each commit is one process's own");
}

pub async fn own_commits_are_heard_before_their_writers_and_others_soon(shared: Shared) {
    let [first, second] = &shared.journals;
    let [(mine, by_first), (others, by_second)] = [hearing(), hearing()];
    first.observe(by_first);
    second.observe(by_second);
    first.follow();
    second.follow();
    begin(&**first, record(1)).await;
    assert_eq!(*mine.lock().unwrap(), [1], "before the answer");
    told(&**second, 1).await;
    assert_eq!(*others.lock().unwrap(), [1]);
    told(&**first, 1).await;
    assert_eq!(
        *mine.lock().unwrap(),
        [1],
        "once, although it is read as well"
    );
}

pub async fn a_tail_ends_where_everything_was_heard_and_the_newest_is_the_stores(shared: Shared) {
    let [first, second] = &shared.journals;
    begin(&**first, record(1)).await;
    append(&**first, 1, |_| ()).await;
    assert_eq!(second.newest().await.unwrap(), Position(2));
    // Nobody has told it to follow.
    assert_eq!(second.head(), Position(0));
    let shown = second.tail(None, Position(0), 10).await.unwrap();
    assert!(shown.0.is_empty(), "{shown:?}");
    assert_eq!(shown.1, Position(0));
    let known = second.record(id(1)).await.unwrap().unwrap();
    assert_eq!(
        known.purchase.status.revision.0, 2,
        "a record is the store's"
    );
    second.follow();
    told(&**second, 2).await;
    let shown = second.tail(None, Position(0), 10).await.unwrap();
    assert_eq!((shown.0.len(), shown.1), (2, Position(2)));
}
