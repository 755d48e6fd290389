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
