//! Waits for one purchase's next revision.

use super::*;

/// A wait is only in its purchase's channel, and only for as long as it lasts.
#[tokio::test(start_paused = true)]
async fn a_wait_leaves_nothing_behind_however_it_ends() {
    let world = World::open();
    let id = world.begin(1).await;
    for _ in 0..100 {
        let soon = Instant::now() + Duration::from_millis(3);
        assert!(!world.feed.wait_past(id, Revision(1), soon).await.unwrap());
    }
    let given_up = world
        .feed
        .wait_past(id, Revision(1), Instant::now() + HEARTBEAT);
    tokio::time::timeout(Duration::from_millis(1), given_up)
        .await
        .unwrap_err();
    assert_eq!(world.feed.0.alarms.entries(), 0);
    assert_eq!((world.feed.watchers(id), world.feed.streams()), (0, 0));
}

/// The contract: a wait lasts until the revision is greater, or the time has passed. No end shortens it.
#[tokio::test(start_paused = true)]
async fn a_wait_for_what_follows_a_final_status_lasts_its_whole_time() {
    let world = World::open();
    let id = world.begin(1).await;
    world.append(id, State::Completed, Finality::Final).await;
    let began = Instant::now();
    let until = began + Duration::from_secs(5);
    for after in [2, 100] {
        assert!(
            !world
                .feed
                .wait_past(id, Revision(after), until)
                .await
                .unwrap()
        );
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_revision_ends_with_it_with_the_deadline_or_with_a_drain() {
    let world = World::open();
    let id = world.begin(1).await;
    let soon = || Instant::now() + Duration::from_secs(5);
    let wait = |after| world.feed.wait_past(id, Revision(after), soon());
    assert!(wait(0).await.unwrap(), "it is there already");
    assert!(!wait(1).await.unwrap());
    let (waited, ()) = tokio::join!(wait(1), world.open_steps(id, 1));
    assert!(waited.unwrap());
    let drain = async { world.feed.drain() };
    let (waited, ()) = tokio::join!(wait(2), drain);
    assert!(!waited.unwrap());
    let nobody = world.feed.wait_past(purchase_id(9), Revision(0), soon());
    assert!(!nobody.await.unwrap());
}
