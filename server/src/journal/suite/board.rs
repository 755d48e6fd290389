//! The board of a store that processes share: wishes, words and snapshots, as each of them reads them.

use std::{any::Any, collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use tillwatch_cluster::{Cluster, Database};

use super::{server, values::id};
use crate::{
    clock::Clock,
    journal::{
        AloneBoard, Board, Outcome, Refresh, Refreshed, ReplicaId, SNAPSHOT_BYTES_MAX, Told,
        Wanted, Wish,
        memory::{MemoryBoard, MemoryJournal},
        postgres::{PostgresBoard, Settings},
    },
    purchase::{AccountName, Moment, PurchaseId},
    testing,
};

/// Three processes' views of one board.
pub struct Boards {
    boards: [Arc<dyn Board>; 3],
    clock: Clock,
    /// Takes everything off it, as a crash of the server does.
    empty: Box<dyn Fn()>,
    /// Lets everything on it grow older.
    age: Box<dyn Fn(Duration) -> BoxFuture<'static, ()>>,
    _kept: Box<dyn Any + Send + Sync>,
}

const NAMES: [&str; 3] = ["first", "second", "third"];

pub async fn memory_boards() -> Boards {
    let (journal, clock) = (MemoryJournal::new("epoch"), testing::clock());
    let of = |name: &str| MemoryBoard::new(&journal, &clock, &ReplicaId::new(name), &clock);
    Boards {
        boards: NAMES.map(|name| Arc::new(of(name)) as _),
        clock,
        empty: Box::new(move || journal.empty_board()),
        age: Box::new(|age| Box::pin(tokio::time::sleep(age))),
        _kept: Box::new(()),
    }
}

pub async fn postgres_boards() -> Boards {
    let (database, clock) = (Arc::new(Cluster::shared().database()), Clock::system());
    server::open(&database.url(), 1).await.unwrap();
    let settings = Settings::parse(&database.url()).unwrap();
    let of = |name: &str| PostgresBoard::new(&settings, &ReplicaId::new(name), &clock).unwrap();
    let (emptied, aged) = (Arc::clone(&database), Arc::clone(&database));
    let age = move |age: Duration| -> BoxFuture<'static, ()> {
        let age = age.as_millis();
        for (table, column) in [
            ("board_mark", "seen"),
            ("wanted", "put_time"),
            ("told", "put_time"),
            ("account_shown", "put_time"),
        ] {
            aged.run(&format!("UPDATE {table} SET {column} = {column} - {age}"));
        }
        Box::pin(std::future::ready(()))
    };
    Boards {
        boards: NAMES.map(|name| Arc::new(of(name)) as _),
        clock,
        empty: Box::new(move || {
            emptied.run("TRUNCATE board_mark, wanted, told, account_shown");
        }),
        age: Box::new(age),
        _kept: Box::new(database),
    }
}

fn shop() -> AccountName {
    AccountName::new("shop")
}

fn wish(number: u64) -> Wish {
    Wish {
        purchase: id(number),
        account: shop(),
        watchers: 1,
        refresh: Refresh::None,
        is_over: false,
    }
}

/// Words that nothing is known by.
fn told(number: u64) -> Told {
    Told {
        purchase: id(number),
        answered: None,
        next_poll: None,
        held_back_since: None,
        failures: 0,
        refreshed: None,
    }
}

async fn wish_under(board: &dyn Board, mark: u64, wishes: &[Wish]) -> Vec<u64> {
    board.wish(mark, wishes).await.unwrap().unwrap()
}

/// The wishes of an account after a number.
async fn wanted(board: &dyn Board, account: &AccountName, after: u64) -> Vec<Wanted> {
    let after = [(account.clone(), after)];
    board.wanted(&after, 100).await.unwrap().wanted
}

fn purchases(wanted: &[Wanted]) -> Vec<PurchaseId> {
    wanted.iter().map(|wanted| wanted.purchase).collect()
}

pub async fn wishes_are_read_by_others_in_order_after_a_number_and_by_account(boards: Boards) {
    let [first, second, third] = &boards.boards;
    let mark = first.mark().await.unwrap();
    let kiosk = AccountName::new("kiosk");
    let other = Wish {
        account: kiosk.clone(),
        watchers: 7,
        refresh: Refresh::New,
        ..wish(2)
    };
    let numbers = wish_under(&**first, mark, &[wish(3), other, wish(1)]).await;
    assert!(mark < numbers[0] && numbers[0] < numbers[1] && numbers[1] < numbers[2]);
    let found = wanted(&**third, &shop(), 0).await;
    assert_eq!(purchases(&found), [id(3), id(1)]);
    let expected = Wanted {
        purchase: id(2),
        account: kiosk.clone(),
        replica: ReplicaId::new("first"),
        watchers: 7,
        refresh: Some(numbers[1]),
        is_over: false,
        number: numbers[1],
    };
    assert_eq!(wanted(&**third, &kiosk, 0).await, [expected]);
    let found = wanted(&**third, &shop(), numbers[0]).await;
    assert_eq!(purchases(&found), [id(1)]);
    assert_eq!(wanted(&**first, &shop(), 0).await, [], "its own");
    // A row that is put again is read again, in its new place.
    let waits = Wish {
        refresh: Refresh::Waits(numbers[1]),
        is_over: true,
        ..wish(3)
    };
    let theirs = second.mark().await.unwrap();
    wish_under(&**second, theirs, &[wish(3)]).await;
    let again = wish_under(&**first, mark, &[waits]).await;
    let after = [(shop(), numbers[0]), (kiosk, numbers[1])];
    let sheet = third.wanted(&after, 2).await.unwrap();
    let marks: Vec<(&str, u64)> = (sheet.marks.iter())
        .map(|(replica, mark)| (replica.as_str(), *mark))
        .collect();
    assert_eq!(marks, [("first", mark), ("second", theirs)]);
    assert_eq!(purchases(&sheet.wanted), [id(1), id(3)], "at most two");
    let after = sheet.wanted[1].number;
    let [last] = &wanted(&**third, &shop(), after).await[..] else {
        panic!("one is left");
    };
    assert_eq!((last.number, last.is_over), (again[0], true));
    assert_eq!(last.refresh, Some(numbers[1]));
}

pub async fn wishes_under_a_passed_mark_are_over_and_no_more_are_put(boards: Boards) {
    let [first, second, _] = &boards.boards;
    let passed = first.mark().await.unwrap();
    wish_under(&**first, passed, &[wish(1), wish(2)]).await;
    let mark = first.mark().await.unwrap();
    assert!(mark > passed);
    assert_eq!(first.wish(passed, &[wish(3)]).await.unwrap(), None);
    assert_eq!(wanted(&**second, &shop(), 0).await, []);
    wish_under(&**first, mark, &[wish(2)]).await;
    assert_eq!(purchases(&wanted(&**second, &shop(), 0).await), [id(2)]);
}

pub async fn an_emptied_board_is_noticed_and_numbers_go_on(boards: Boards) {
    let [first, second, _] = &boards.boards;
    let mark = first.mark().await.unwrap();
    let before = wish_under(&**first, mark, &[wish(1)]).await;
    second.tell(&[told(1)]).await.unwrap();
    assert_eq!(first.wish(mark, &[]).await.unwrap(), Some(vec![]));
    (boards.empty)();
    assert_eq!(first.wish(mark, &[]).await.unwrap(), None);
    assert_eq!(first.wish(mark, &[wish(1)]).await.unwrap(), None);
    let sheet = second.wanted(&[(shop(), 0)], 100).await.unwrap();
    assert_eq!(sheet, crate::journal::Sheet::default());
    assert_eq!(first.told(&[id(1)]).await.unwrap(), []);
    let mark = first.mark().await.unwrap();
    let after = wish_under(&**first, mark, &[wish(1)]).await;
    assert!(mark > before[0] && after[0] > mark);
    assert_eq!(wanted(&**second, &shop(), before[0]).await.len(), 1);
}

pub async fn words_are_read_as_they_were_told_and_the_end_of_a_later_refresh_stays(boards: Boards) {
    let [first, second, _] = &boards.boards;
    let now = boards.clock.moment();
    let second_ago = now.minus(Duration::from_secs(1));
    let hour = Duration::from_secs(3_600);
    let ended = |number, outcome| Refreshed {
        number,
        outcome,
        retry_at: Some(now.plus(hour)),
    };
    let all = Told {
        answered: Some(second_ago),
        next_poll: Some(now.plus(hour)),
        held_back_since: Some(now.minus(hour)),
        failures: 3,
        refreshed: Some(ended(8, Outcome::Throttled)),
        ..told(1)
    };
    first.tell(&[all, told(2)]).await.unwrap();
    let read = async |number| {
        let read = second.told(&[id(number), id(9)]).await.unwrap();
        assert_eq!(read.len(), 1);
        read[0]
    };
    assert_eq!(read(2).await, told(2));
    // Times come by the store's clock, to the length of two calls.
    let near = |time: Option<Moment>, expected: Option<Moment>| {
        let (time, expected) = (time.unwrap(), expected.unwrap());
        let off = time.since(expected).max(expected.since(time));
        assert!(off < Duration::from_secs(2), "{time:?} {expected:?}");
    };
    let found = read(1).await;
    near(found.answered, all.answered);
    near(found.next_poll, all.next_poll);
    near(found.held_back_since, all.held_back_since);
    near(found.refreshed.unwrap().retry_at, Some(now.plus(hour)));
    let end = |told: Told| told.refreshed.map(|end| (end.number, end.outcome));
    assert_eq!(
        (found.failures, end(found)),
        (3, Some((8, Outcome::Throttled)))
    );
    for (refreshed, expected) in [
        (None, (8, Outcome::Throttled)),
        (Some(ended(7, Outcome::Heard)), (8, Outcome::Throttled)),
        (Some(ended(9, Outcome::Heard)), (9, Outcome::Heard)),
    ] {
        first
            .tell(&[Told {
                refreshed,
                ..told(1)
            }])
            .await
            .unwrap();
        let found = read(1).await;
        assert_eq!((found.answered, found.failures), (None, 0));
        assert_eq!(end(found), Some(expected));
    }
}

pub async fn snapshots_are_shown_for_half_a_minute_and_have_a_bound(boards: Boards) {
    let [first, second, _] = &boards.boards;
    let kiosk = AccountName::new("kiosk");
    let long = "x".repeat(SNAPSHOT_BYTES_MAX);
    let shown = async || second.shown(&[shop(), kiosk.clone()]).await.unwrap();
    let too_long = (kiosk.clone(), format!("{long}x"));
    first
        .show(&[(shop(), long.clone()), too_long])
        .await
        .unwrap();
    assert_eq!(shown().await, [(shop(), long)]);
    first.show(&[(shop(), "b".to_owned())]).await.unwrap();
    assert_eq!(shown().await, [(shop(), "b".to_owned())]);
    (boards.age)(Duration::from_secs(30)).await;
    assert_eq!(shown().await, []);
}

pub async fn what_nobody_needs_is_tidied_after_a_minute_and_nothing_else(boards: Boards) {
    let [first, second, third] = &boards.boards;
    let mark = first.mark().await.unwrap();
    let over = Wish {
        is_over: true,
        ..wish(2)
    };
    wish_under(&**first, mark, &[wish(1), over.clone()]).await;
    let gone = third.mark().await.unwrap();
    wish_under(&**third, gone, &[wish(3)]).await;
    let words = [told(1), told(2), told(3), told(4)];
    second.tell(&words).await.unwrap();
    assert_eq!(second.tidy().await.unwrap(), 0, "nothing is old");
    (boards.age)(Duration::from_secs(60)).await;
    // It shows itself, and is alone in that.
    assert_eq!(first.wish(mark, &[]).await.unwrap(), Some(vec![]));
    // The mark and the wish of the third, the wish that is over, and the words that nobody wishes now.
    assert_eq!(second.tidy().await.unwrap(), 6);
    let sheet = second.wanted(&[(shop(), 0)], 100).await.unwrap();
    assert_eq!(purchases(&sheet.wanted), [id(1)]);
    assert_eq!(sheet.marks.len(), 1);
    let left = second.told(&[1, 2, 3, 4].map(id)).await.unwrap();
    assert_eq!(left, [told(1)]);
    assert_eq!(third.wish(gone, &[wish(3)]).await.unwrap(), None);
    wish_under(&**first, mark, &[over]).await;
    assert_eq!(second.tidy().await.unwrap(), 0, "it is over since now");
}

/// Two processes put wishes all the time, and a third one reads on after the last number that it has read.
pub async fn no_wish_is_stepped_over_under_hammering(boards: Boards) {
    const ROUNDS: u64 = 40;
    let [first, second, reader] = &boards.boards;
    let put = |board: Arc<dyn Board>, place: u64| async move {
        let mark = board.mark().await.unwrap();
        for round in 0..ROUNDS {
            let wishes = (0..5).map(|number| wish(1 + place + 2 * (5 * round + number)));
            let wishes: Vec<Wish> = wishes.collect();
            wish_under(&*board, mark, &wishes).await;
        }
    };
    let read = async {
        let (mut seen, mut after) = (BTreeSet::new(), 0);
        while seen.len() < 10 * ROUNDS as usize {
            let sheet = reader.wanted(&[(shop(), after)], 100).await.unwrap();
            after = sheet.wanted.last().map_or(after, |last| last.number);
            seen.extend(purchases(&sheet.wanted));
            tokio::task::yield_now().await;
        }
    };
    let puts = [put(Arc::clone(first), 0), put(Arc::clone(second), 1)];
    let all = async { tokio::join!(join_all(puts), read) };
    let all = tokio::time::timeout(Duration::from_secs(30), all).await;
    all.expect("everything is read");
}

#[tokio::test]
async fn a_store_of_one_process_has_an_empty_board() {
    let board = AloneBoard;
    assert!(!board.is_shared());
    let mark = board.mark().await.unwrap();
    assert_eq!(board.wish(mark, &[wish(1)]).await.unwrap(), Some(vec![0]));
    board.tell(&[told(1)]).await.unwrap();
    assert_eq!(wanted(&board, &shop(), 0).await, []);
    assert_eq!(board.told(&[id(1)]).await.unwrap(), []);
}

/// A crash of the server empties what is not logged, and only that.
#[tokio::test]
async fn nothing_on_a_servers_board_is_logged_but_its_numbers() {
    let database: Database = Cluster::shared().database();
    server::open(&database.url(), 1).await.unwrap();
    let kinds = database.run(
        "SELECT string_agg(relname::text || ' ' || relpersistence::text, ',' ORDER BY relname) FROM pg_class
             WHERE relname IN ('board_mark', 'wanted', 'told', 'account_shown', 'board_number')",
    );
    let expected = "account_shown u,board_mark u,board_number p,told u,wanted u";
    assert_eq!(kinds, expected);
}
