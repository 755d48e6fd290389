//! The effect of a wrong wall clock on retention and budgets, in virtual time.

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn days_ms(days: i64) -> i64 {
    days * 86_400_000
}

/// A journal with the key of a purchase that was taken long ago, and its clock.
async fn remembered() -> (Arc<dyn Journal>, Clock) {
    let clock = testing::clock();
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::new("test"));
    let finished = canceled(&clock);
    begun(&*journal, 1, finished).await;
    (journal, clock)
}

async fn has_key(journal: &dyn Journal) -> bool {
    let key = journal.record_by_key(&CallerName::new("shop"), "key").await;
    key.unwrap().is_some()
}

/// One life of the loops that mind the clock, of this length.
async fn life(journal: &Arc<dyn Journal>, clock: &Clock, length: Duration) {
    let clock = clock.restarted();
    let wall = Arc::new(Wall::open(journal, &clock).await.unwrap());
    let mut work = tokio::task::JoinSet::new();
    let progress = Progress::new("retention");
    work.spawn(retire(
        (Arc::clone(journal), Tenures::alone([])),
        Arc::clone(&wall),
        DAY,
        progress,
    ));
    work.spawn(async move {
        loop {
            wall.keep().await;
            tokio::time::sleep(HOUR / 6).await;
        }
    });
    tokio::time::sleep(length).await;
    work.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn c2_a_clock_that_is_years_ahead_takes_no_keys_over_any_number_of_starts() {
    let (journal, clock) = remembered().await;
    life(&journal, &clock, HOUR).await;
    clock.step_wall(days_ms(500));
    for length in [1, 1, 1, 100, 100] {
        life(&journal, &clock, HOUR * length / 60).await;
    }
    life(&journal, &clock, 3 * HOUR).await;
    assert!(has_key(&*journal).await);
    clock.step_wall(-days_ms(500));
    life(&journal, &clock, HOUR).await;
    assert!(has_key(&*journal).await);
    // Retention's clock follows a step while it runs no faster than twice the time.
    let ahead = clock.clone();
    let running = life(&journal, &clock, 198 * DAY);
    let step = async move {
        tokio::time::sleep(HOUR).await;
        ahead.step_wall(days_ms(5_000));
    };
    tokio::join!(running, step);
    assert!(has_key(&*journal).await, "after 198 days");
}

#[tokio::test(start_paused = true)]
async fn c2_the_keys_of_a_journal_of_an_earlier_version_outlive_a_start_with_a_clock_that_is_ahead()
{
    let (journal, clock) = remembered().await;
    clock.step_wall(days_ms(500));
    for _ in 0..2 {
        life(&journal, &clock, 2 * HOUR).await;
    }
    assert!(has_key(&*journal).await);
}

#[tokio::test(start_paused = true)]
async fn retention_ages_by_the_wall_clock_over_starts_that_are_right() {
    let (journal, clock) = remembered().await;
    for _ in 0..250 {
        life(&journal, &clock, 20 * HOUR).await;
        assert!(has_key(&*journal).await);
        tokio::time::sleep(18 * HOUR).await;
    }
    life(&journal, &clock, 120 * HOUR).await;
    assert!(!has_key(&*journal).await, "after 400 days");
}

#[tokio::test(start_paused = true)]
async fn p5_what_changed_while_the_wall_clock_was_wrong_is_no_older_once_it_is_put_right() {
    for days in [-4_000, -91, 91, 4_000] {
        let (journal, clock) = remembered().await;
        let _wall = Wall::open(&journal, &clock).await.unwrap();
        clock.step_wall(days_ms(days));
        let waiting = Status {
            state: State::Created,
            ..Status::pending(clock.now())
        };
        let id = begun_as(&*journal, 2, "other", waiting).await;
        tokio::time::sleep(HOUR).await;
        for is_right in [false, true] {
            if is_right {
                clock.step_wall(-days_ms(days));
            }
            let process = clock.restarted();
            let _wall = Wall::open(&journal, &process).await.unwrap();
            let changed = journal.record(id).await.unwrap().unwrap().change_time;
            let age = process.moment().since(process.past_moment_of(changed));
            assert!(age <= DAY + HOUR * 2, "{days} days, {is_right}: {age:?}");
        }
    }
}
