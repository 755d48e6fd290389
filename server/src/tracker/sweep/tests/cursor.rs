//! Lists whose stamps are wrong, and lists that show less than single reads find.

use super::*;

/// A purchase of somebody else under the same key, stamped an hour ahead.
fn foreign(world: &World) {
    let stamp = world.clock.now().plus(Duration::from_secs(3_600));
    lock(&world.bought).insert(99, Bought::new("FundsLocked", stamp));
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
        fence: None,
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

#[tokio::test(start_paused = true)]
async fn an_own_row_stamped_ahead_hides_no_other_for_longer_than_a_single_read() {
    let world = World::new("masumi", true).await;
    world
        .run(async {
            world.buy(0..6, "FundsLocked").await;
            seconds(60).await;
            // The row is of a purchase that is tracked here, so that the cursor may follow it.
            world.change(5, |bought| {
                bought.word = "ResultSubmitted";
                bought.stamp = bought.stamp.plus(Duration::from_secs(86_400));
            });
            seconds(60).await;
            world.change(3, |bought| bought.word = "ResultSubmitted");
            // A single read finds it: one is made each quarter of an hour.
            seconds(17 * 60).await;
            assert_eq!(world.code(3).await, "ResultSubmitted");
            // From now on single reads are as frequent as without rounds, and rounds see what is
            // new.
            world.change(2, |bought| bought.word = "ResultSubmitted");
            seconds(20).await;
            assert_eq!(world.code(2).await, "ResultSubmitted");
            // Rows have brought news: single reads are rare again.
            seconds(17 * 60).await;
            world.forget();
            world.change(1, |bought| bought.word = "ResultSubmitted");
            seconds(20).await;
            assert_eq!(world.code(1).await, "ResultSubmitted");
            let (_, singles) = world.asked();
            assert!(singles <= 3, "{singles} single reads while rounds go well");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_shows_less_than_single_reads_find_is_not_well() {
    let world = World::new("masumi", true).await;
    world
        .run(async {
            world.buy(0..6, "FundsLocked").await;
            world.change(3, |bought| bought.hidden = true);
            seconds(1_200).await;
            world.forget();
            seconds(60).await;
            let (_, singles) = world.asked();
            assert!(
                singles <= 3,
                "{singles} single reads while nothing is known against the list"
            );
            world.change(3, |bought| bought.word = "ResultSubmitted");
            seconds(17 * 60).await;
            assert_eq!(world.code(3).await, "ResultSubmitted");
            world.forget();
            world.change(3, |bought| bought.word = "Withdrawn");
            seconds(20).await;
            assert_eq!(world.code(3).await, "Withdrawn", "it is read by itself");
            let (_, singles) = world.asked();
            assert!(
                singles >= 6,
                "{singles} single reads of six purchases in 20 s"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_list_of_all_that_lags_behind_single_reads_is_not_well() {
    let world = World::new("inabit", true).await;
    let lags = |bought: &mut Bought| {
        (bought.word, bought.listed) = ("Confirming", Some("Allocated"));
    };
    world
        .run(async {
            world.buy(0..6, "Allocated").await;
            seconds(1_200).await;
            world.change(3, lags);
            // In each round one purchase of the page is read singly, another each time.
            seconds(15 * 60).await;
            assert_eq!(world.code(3).await, "Confirming");
            // The list is known to lag: all are read on their schedule.
            seconds(180).await;
            world.change(2, lags);
            seconds(270).await;
            assert_eq!(world.code(2).await, "Confirming");
            for number in [2, 3] {
                let words = world.words(number).await;
                assert_eq!(
                    words,
                    ["", "Allocated", "Confirming"],
                    "no row takes it back"
                );
            }
            // Rows show what single reads have shown: the list is trusted again.
            for number in [2, 3] {
                world.change(number, |bought| bought.listed = None);
            }
            seconds(600).await;
            world.forget();
            seconds(600).await;
            let (_, singles) = world.asked();
            assert!(
                (3..=6).contains(&singles),
                "{singles} single reads in 5 rounds"
            );
        })
        .await;
}
