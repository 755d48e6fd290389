//! Lists that fail, hang or are too long, and the rounds of the others.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_or_hangs_holds_no_other_up() {
    let world = World::new("masumi", true).await;
    world
        .run(async {
            world.buy(0..40, "FundsLocked").await;
            *lock(&world.second) = Second::Fails;
            // The failing list's waits grow to minutes.
            seconds(1_800).await;
            world.forget();
            seconds(300).await;
            let (pages, _) = world.asked();
            assert!((18..=25).contains(&pages), "{pages} pages in 5 min at 15 s");
            (*lock(&world.second), lock(&world.page_takes)[1]) =
                (Second::Answers, Duration::from_secs(14));
            seconds(600).await;
            world.forget();
            seconds(300).await;
            let (pages, _) = world.asked();
            assert!((27..=34).contains(&pages), "{pages}: 20 and 10");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_defect_that_one_list_meets_is_counted_and_ends_no_other_lists_rounds() {
    let world = World::new("masumi", true).await;
    world
        .run(async {
            world.buy(0..40, "FundsLocked").await;
            *lock(&world.second) = Second::Panics;
            seconds(600).await;
            assert!(world.tracker.defects() >= 3, "it is counted");
            world.forget();
            seconds(300).await;
            let (pages, _) = world.asked();
            assert!((18..=25).contains(&pages), "{pages} pages in 5 min at 15 s");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_list_longer_than_all_single_reads_is_not_read_to_its_end() {
    let world = World::new("inabit", true).await;
    world
        .run(async {
            // A thousand that nobody tracks, and five that are.
            for number in 1_000..2_000 {
                let stamp = world.clock.now();
                lock(&world.bought).insert(number, Bought::new("Expired", stamp));
            }
            world.buy(0..5, "Allocated").await;
            seconds(600).await;
            world.change(2, |bought| bought.word = "Confirming");
            world.forget();
            seconds(150).await;
            assert_eq!(world.code(2).await, "Confirming");
            let (pages, singles) = world.asked();
            assert!(
                pages + singles <= 20,
                "{pages} pages, {singles} single reads"
            );
        })
        .await;
}
