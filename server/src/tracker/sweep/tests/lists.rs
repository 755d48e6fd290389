//! One list's trouble, and the others' rounds.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_or_hangs_holds_no_other_up() {
    let world = World::new("masumi", true).await;
    world
        .run(async {
            world.buy(0..40, "FundsLocked").await;
            *lock(&world.second) = Second::Fails;
            // Long enough for the failing list's waits to grow to minutes.
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
