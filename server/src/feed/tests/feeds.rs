//! Streams of many purchases beside the commits of others.

use super::*;

/// A commit concerns its caller's feeds and operators' alone. No other feed is woken, and such a feed
/// still finds its place in the ring when it looks again.
#[tokio::test(start_paused = true)]
async fn a_commit_wakes_no_other_callers_feeds_and_drives_them_to_no_journal() {
    let world = World::open();
    let even = world.begin(2).await;
    let rhythm = Rhythm {
        heartbeat: HEARTBEAT,
        ends_at: None,
    };
    let of = |caller: Option<&str>| Filter {
        caller: caller.map(CallerName::new),
        ..Filter::default()
    };
    let head = world.journal.head();
    let mut odd = world.feed.watch_all(of(Some("odd")), head, rhythm);
    assert_eq!(positions(&mut odd, 1).await, [(None, 1)]);
    let polls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = tokio::spawn({
        let (polls, seen) = (Arc::clone(&polls), Arc::clone(&seen));
        async move {
            loop {
                let next = futures_util::future::poll_fn(|context| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    odd.poll_next_unpin(context)
                });
                let position = next.await.unwrap().unwrap().1;
                seen.store(usize::try_from(position.0).unwrap(), Ordering::Relaxed);
            }
        }
    });
    tokio::task::yield_now().await;
    let before = polls.load(Ordering::Relaxed);
    // Another caller has more than the ring holds.
    world.open_steps(even, 9_000).await;
    assert_eq!(polls.load(Ordering::Relaxed), before);
    // A closed journal answers nobody: the rest comes from memory.
    world.journal.close().await;
    tokio::time::sleep(HEARTBEAT * 2).await;
    assert_eq!(
        seen.load(Ordering::Relaxed),
        9_001,
        "heartbeats reach the newest position"
    );
    assert!(!counted.is_finished());
}

/// One of several processes on a store. Hints of the others' commits are lost.
fn replica(store: &MemoryJournal, seed: u64) -> World {
    let mut world = World::over(store.shared(Chances {
        seed,
        delay_max: Duration::from_millis(20),
        read_every: Duration::from_millis(500),
        hints_lost: 1_000,
        answers_lost: 0,
    }));
    let (journal, progress) = (Arc::clone(&world.journal), Progress::new("news"));
    world
        ._work
        .spawn(async move { journal.follow(&progress).await });
    world
}

fn all(world: &World, after: u64) -> WatchAll {
    let rhythm = Rhythm {
        heartbeat: HEARTBEAT,
        ends_at: None,
    };
    (world.feed).watch_all(Filter::default(), Position(after), rhythm)
}

#[tokio::test(start_paused = true)]
async fn s3_a_feed_has_each_process_s_commits_once_and_in_order() {
    let store = MemoryJournal::new("test");
    let (first, second) = (replica(&store, 1), replica(&store, 2));
    let mut feed = all(&first, 0);
    let id = second.begin(1).await;
    // It is told of its own commit at once, and of the one before it later.
    first.append(id, State::Created, Finality::Open).await;
    second.append(id, State::Paid, Finality::Open).await;
    let seen = positions(&mut feed, 4).await;
    // It says that it is at its beginning before it has heard of anything.
    assert_eq!(seen, [(None, 0), (Some(1), 1), (Some(2), 2), (Some(3), 3)]);
    // A token of one process is good at another that has not heard of its commits.
    first.append(id, State::Paid, Finality::Open).await;
    let mut resumed = all(&second, 4);
    first.append(id, State::Created, Finality::Open).await;
    assert_eq!(positions(&mut resumed, 1).await, [(None, 4)]);
    assert_eq!(positions(&mut resumed, 1).await, [(Some(5), 5)]);
}

#[tokio::test(start_paused = true)]
async fn s2_a_watcher_has_the_commits_of_all_processes_without_a_gap() {
    let store = MemoryJournal::new("test");
    let (first, second) = (replica(&store, 1), replica(&store, 2));
    let id = second.begin(1).await;
    let mut watch = first.watch(id, Some(0), Until::Final).await;
    second.append(id, State::Created, Finality::Open).await;
    first.append(id, State::Paid, Finality::Open).await;
    second.append(id, State::Completed, Finality::Final).await;
    let seen = words(&mut watch, 5).await;
    assert_eq!(seen, ["1", "2", "3", "4", "end"]);
}

#[tokio::test(start_paused = true)]
async fn s4_the_time_up_to_which_a_process_knows_the_others_stands_still_while_it_is_cut_off() {
    let store = MemoryJournal::new("test");
    let world = replica(&store, 1);
    let behind = || world.clock.now().since(world.feed.as_of());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(behind() < Duration::from_secs(1), "{:?}", behind());
    world.journal.cut(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(behind() > Duration::from_secs(29), "{:?}", behind());
    world.journal.cut(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(behind() < Duration::from_secs(1), "{:?}", behind());
}
