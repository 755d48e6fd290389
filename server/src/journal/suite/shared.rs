//! Commits of several processes on one store, as each of them hears of them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio_util::task::AbortOnDropHandle;

use super::{
    Shared,
    values::{append, at, begin, finish, id, record, redirect, retire},
};
use crate::{
    journal::{Committed, Journal, Observer, Position},
    progress::Progress,
    purchase::BuyerAction,
};

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

/// Lets observers hear of everything from now on, until the handle is dropped.
pub fn follow(journal: Arc<dyn Journal>) -> AbortOnDropHandle<()> {
    let progress = Progress::new("news");
    let following = async move { journal.follow(&progress).await };
    AbortOnDropHandle::new(tokio::spawn(following))
}

/// Waits until a process has told its observers of everything up to this position.
pub async fn told(journal: &dyn Journal, position: u64) {
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
            (ordered.0, own.0, follow(Arc::clone(journal)))
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
    for (journal, (ordered, own, _follows)) in shared.journals.iter().zip(heard) {
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
    let _follows = [first, second].map(|journal| follow(Arc::clone(journal)));
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

pub async fn others_commits_are_heard_with_their_buyer_actions(shared: Shared) {
    let [first, second] = &shared.journals;
    let heard = Arc::<Mutex<Vec<Option<BuyerAction>>>>::default();
    let noted = Arc::clone(&heard);
    second.observe(Arc::new(move |committed: &[Arc<Committed>]| {
        let statuses = committed.iter().map(|one| &one.purchase.status);
        let actions = statuses.map(|status| status.buyer_action.clone());
        noted.lock().unwrap().extend(actions);
    }));
    begin(&**first, record(1)).await;
    let action = redirect("https://pay.example/1");
    append(&**first, 1, |status| status.buyer_action = action.clone()).await;
    let _follows = follow(Arc::clone(second));
    told(&**second, 2).await;
    assert_eq!(*heard.lock().unwrap(), [None, action]);
}

pub async fn transitions_that_are_gone_before_they_are_read_hold_nobody_up(shared: Shared) {
    let [first, second] = &shared.journals;
    let (heard, ordered) = hearing();
    second.observe_in_order(ordered);
    begin(&**first, record(1)).await;
    begin(&**first, record(2)).await;
    finish(&**first, 2).await;
    let gone = retire(&**first, at(90_000), at(0), 100).await.unwrap();
    assert_eq!(gone, 3);
    let _follows = follow(Arc::clone(second));
    told(&**second, 3).await;
    assert_eq!(*heard.lock().unwrap(), [1]);
    begin(&**first, record(3)).await;
    told(&**second, 4).await;
    assert_eq!(*heard.lock().unwrap(), [1, 4]);
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
    let _follows = follow(Arc::clone(second));
    told(&**second, 2).await;
    let shown = second.tail(None, Position(0), 10).await.unwrap();
    assert_eq!((shown.0.len(), shown.1), (2, Position(2)));
}
