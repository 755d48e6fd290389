//! How far a list is read on from, where its stamps are wrong.

use super::*;

/// A purchase of somebody else under the same key, stamped an hour ahead.
fn foreign(world: &World) {
    let stamp = world.clock.now().plus(Duration::from_secs(3_600));
    let bought = Bought {
        word: "FundsLocked",
        stamp,
        hidden: false,
        poison: false,
    };
    lock(&world.bought).insert(99, bought);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_row_stamped_ahead_blinds_no_sweep() {
    let world = World::new("masumi", true).await;
    world
        .run(async {
            world.buy(0..6, "FundsLocked").await;
            seconds(60).await;
            foreign(&world);
            seconds(60).await;
            world.change(3, |bought| bought.word = "ResultSubmitted");
            seconds(20).await;
            assert_eq!(world.code(3).await, "ResultSubmitted");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_was_kept_too_far_ahead_is_taken_back_after_a_restart() {
    let journal = Arc::new(MemoryJournal::new("e"));
    let world = World::over("masumi", true, journal, Arc::default()).await;
    let ahead = world.clock.now().plus(Duration::from_secs(3_600));
    let kept = Write::Put {
        key: "sweep/a/Preprod/Web3CardanoV1".to_owned(),
        value: format!("{} cm000099", ahead.as_millis()),
    };
    world.journal.write(kept).await.unwrap();
    world
        .run(async {
            world.buy(0..6, "FundsLocked").await;
            seconds(60).await;
            world.change(3, |bought| bought.word = "ResultSubmitted");
            seconds(20).await;
            assert_eq!(world.code(3).await, "ResultSubmitted");
        })
        .await;
}
