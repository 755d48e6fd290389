//! A wall clock that is set moves no account.

use super::*;

const STEPS_S: [i64; 8] = [-34_560_000, -7_200, -60, -5, 5, 7_200, 86_400, 34_560_000];

/// The numbers of requests that were let through in each of four minutes, for a caller that takes all
/// it gets. The wall clock is set in the middle; if `restarts`, the process starts again there.
async fn minutes(limit: u32, step_s: i64, restarts: bool) -> Vec<usize> {
    let journal = journal();
    let clock = testing::clock();
    let mut account = open_at(policy(limit), 200, &journal, &clock).await;
    let start = tokio::time::Instant::now();
    let (mut sent, mut is_set) = (Vec::new(), false);
    while start.elapsed() < Duration::from_secs(240) {
        if !is_set && start.elapsed() >= Duration::from_secs(120) {
            is_set = true;
            clock.step_wall(step_s * 1_000);
            if restarts {
                account = open_at(policy(limit), 200, &journal, &clock).await;
            }
        }
        forever(&account, Class::Create).await.ends();
        sent.push(start.elapsed());
        if limit == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let most = |from: Duration| {
        let minute = from + Duration::from_secs(60);
        let within = sent.iter().filter(|time| (from..minute).contains(*time));
        within.count()
    };
    if limit > 0 {
        for from in &sent {
            let within = most(*from);
            assert!(within <= limit as usize, "{within} of {limit}, {step_s} s");
        }
    }
    (0..4)
        .map(|minute| most(Duration::from_secs(minute * 60)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn p2_a_wall_clock_that_is_set_neither_stops_an_account_nor_lets_it_exceed_its_limit() {
    for limit in [0, 100, 600] {
        for step_s in STEPS_S {
            for restarts in [false, true] {
                let sent = minutes(limit, step_s, restarts).await;
                // A start loses what was kept ahead: five seconds' worth.
                let least = sent[1] * 9 / 10 - usize::from(restarts) * sent[1] / 10;
                assert!(
                    sent[2] >= least,
                    "{limit}, {step_s} s, {restarts}: {sent:?}"
                );
                assert!(sent[3] >= sent[1] * 9 / 10, "{limit}, {step_s} s: {sent:?}");
            }
        }
    }
}
