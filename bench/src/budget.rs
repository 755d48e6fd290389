//! The requests of one account with 100 requests a minute, as the upstream sees them: 400 open
//! purchases, 10,000 watchers, callers who refresh all the time, and a process that dies every seven
//! minutes without a word. It runs in virtual time, with the service's own tracker, feed, account and
//! journal; a scripted upstream notes the time of each request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tillwatch_server::{
    account::Accounts,
    clock::Clock,
    feed::{Event, Feed, Rhythm, Until},
    journal::{Journal, Write, memory::MemoryJournal},
    ownership::Tenures,
    purchase::{AccountName, Cause, Status, Timestamp, Transition},
    tracker::Tracker,
    upstream::{Upstream, scripted::Scripted, scripted::json_response},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    memory::{account, record, reference},
    table::Table,
};

const PURCHASES: u32 = 400;
/// Watchers of each purchase, in the benchmark.
pub const WATCHERS_EACH: u32 = 25;
const LIMIT: usize = 100;
/// The life of one process, in the benchmark.
pub const LIFE: Duration = Duration::from_secs(7 * 60);

/// The figures of a run.
#[derive(Debug, Default)]
pub struct Seen {
    /// The time at which each request reached the upstream, in milliseconds since the start.
    pub requests_ms: Vec<u64>,
    /// The time of the last request about each purchase.
    last_ms: HashMap<String, u64>,
    /// The longest time between two requests about one purchase.
    pub longest_gap_ms: u64,
    /// Statuses that reached watchers.
    pub events: u64,
    minutes: u64,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(seen: &Shared) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    /// The most requests within a minute, wherever it begins.
    pub fn busiest_minute(&self) -> usize {
        let times = &self.requests_ms;
        let within = |(place, first): (usize, &u64)| {
            let later = times.iter().skip(place);
            later.take_while(|time| **time < first + 60_000).count()
        };
        times.iter().enumerate().map(within).max().unwrap_or(0)
    }

    /// The most requests within a minute of the clock.
    pub fn busiest_clock_minute(&self) -> usize {
        let mut minutes: HashMap<u64, usize> = HashMap::new();
        for time in &self.requests_ms {
            *minutes.entry(time / 60_000).or_default() += 1;
        }
        minutes.into_values().max().unwrap_or(0)
    }
}

/// An upstream that notes requests on arrival. One purchase in four changes every ten minutes or so;
/// the others never do.
fn upstream(seen: &Shared, start: Instant) -> Arc<dyn Upstream> {
    let seen = Arc::clone(seen);
    let random = Arc::new(Mutex::new(StdRng::seed_from_u64(1)));
    Arc::new(Scripted::new(move |request| {
        let (seen, random) = (Arc::clone(&seen), Arc::clone(&random));
        async move {
            let named = request
                .path
                .iter()
                .find(|part| part.starts_with("00000000-"));
            let name = named.cloned().unwrap_or_default();
            let (there_ms, back_ms) = {
                let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
                (random.random_range(20..300), random.random_range(20..300))
            };
            tokio::time::sleep(Duration::from_millis(there_ms)).await;
            let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            {
                let mut seen = lock(&seen);
                seen.requests_ms.push(now_ms);
                let last = seen.last_ms.insert(name.clone(), now_ms).unwrap_or(0);
                seen.longest_gap_ms = seen.longest_gap_ms.max(now_ms - last);
            }
            tokio::time::sleep(Duration::from_millis(back_ms)).await;
            let number = u64::from_str_radix(name.rsplit('-').next().unwrap_or(""), 16);
            let number = number.unwrap_or(0);
            let turn = (now_ms / 1_000 + number * 37) / 600;
            let word = match (number % 4, turn % 2) {
                (0, 1) => "IN_REVIEW",
                _ => "AWAITING_FUNDS",
            };
            Ok(json_response(200, &json!({ "id": name, "status": word })))
        }
    }))
}

/// Runs it for a span of simulated time, in lives of this length.
pub fn run(span: Duration, watchers_each: u32, length: Duration) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    let seen = Shared::default();
    if let Ok(runtime) = runtime {
        runtime.block_on(lives(span, watchers_each, length, &seen));
    }
    let mut seen = std::mem::take(&mut *lock(&seen));
    seen.minutes = span.as_secs() / 60;
    let end_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let unasked = seen
        .last_ms
        .values()
        .map(|last| end_ms.saturating_sub(*last));
    seen.longest_gap_ms = seen.longest_gap_ms.max(unasked.max().unwrap_or(end_ms));
    seen
}

async fn lives(span: Duration, watchers_each: u32, length: Duration, seen: &Shared) {
    let start = Instant::now();
    let epoch = Timestamp::from_millis(1_800_000_000_000).unwrap_or_default();
    let clock = Clock::simulated(epoch, 1);
    let mut journal = MemoryJournal::new("bench");
    for number in 0..PURCHASES {
        let record = record(number, &AccountName::new("shop"), &reference(number), epoch);
        let mut first = Status::clone(&record.purchase.status);
        first.revision = tillwatch_server::purchase::Revision::FIRST;
        let transitions =
            [first, Status::clone(&record.purchase.status)].map(|status| Transition {
                from_state: None,
                status,
                cause: Cause::Create,
            });
        let begin = Write::Begin {
            record: Box::new(record),
            transitions: transitions.into(),
        };
        let _ = journal.write(begin).await;
    }
    while start.elapsed() < span {
        let rest = span.saturating_sub(start.elapsed());
        life(
            Arc::new(journal.reopened()),
            &clock,
            seen,
            watchers_each,
            start,
            length.min(rest),
        )
        .await;
        journal = journal.reopened();
    }
}

/// One process, from its start to its sudden death.
async fn life(
    journal: Arc<MemoryJournal>,
    clock: &Clock,
    seen: &Shared,
    watchers_each: u32,
    start: Instant,
    length: Duration,
) {
    let journal: Arc<dyn Journal> = journal;
    let Some(account) = account("shop", upstream(seen, start), clock, &journal).await else {
        return;
    };
    let feed = Feed::new(Arc::clone(&journal), clock.clone());
    let accounts = Accounts::new([account]);
    let tenures = Tenures::alone(accounts.all().keys().cloned());
    let tracker = Tracker::new(Arc::clone(&journal), clock.clone(), &accounts, &tenures);
    tracker.count_watchers({
        let feed = feed.clone();
        Box::new(move |purchase| feed.watchers(purchase))
    });
    let records = journal
        .open_records(None, PURCHASES as usize)
        .await
        .unwrap_or_default();
    let mut work = JoinSet::new();
    for record in &records {
        let _ = tracker.recover(record).await;
        for _ in 0..watchers_each {
            let (feed, id, seen) = (feed.clone(), record.purchase.id, Arc::clone(seen));
            work.spawn(async move {
                let rhythm = Rhythm {
                    heartbeat: Duration::from_secs(15),
                    ends_at: None,
                };
                let opened = feed.watch(id, None, Until::Terminal, rhythm).await;
                let Ok(Some((_, mut watch))) = opened else {
                    return;
                };
                while let Some(Ok(event)) = watch.next().await {
                    if matches!(event, Event::Transition(_)) {
                        lock(&seen).events += 1;
                    }
                }
            });
        }
    }
    for caller in 0..10 {
        let (tracker, records) = (tracker.clone(), records.clone());
        work.spawn(async move {
            for record in records.iter().cycle().skip(caller * 40) {
                let _ = tracker.refresh(&record.purchase).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    work.spawn(async move { feed.run().await });
    work.spawn({
        let tracker = tracker.clone();
        async move { tracker.run().await }
    });
    tokio::time::sleep(length).await;
    work.shutdown().await;
    // A drain gives requests under way up, as a death does.
    tracker.drain().await;
}

/// The table.
pub fn table(seen: &Seen) -> Table {
    let title = format!(
        "{PURCHASES} purchases, {} watchers, ten callers who refresh, a death every 7 minutes; limit \
         {LIMIT} a minute; {} simulated minutes",
        PURCHASES * WATCHERS_EACH,
        seen.minutes
    );
    let mut table = Table::new(&title, &["what", "figure"]);
    let mut row = |name: &str, figure: String| table.row(name, [figure]);
    row("requests in all", seen.requests_ms.len().to_string());
    let mean = seen.requests_ms.len() as f64 / seen.minutes as f64;
    row("requests a minute, mean", format!("{mean:.1}"));
    row("most within any 60 s", seen.busiest_minute().to_string());
    row(
        "most within a clock minute",
        seen.busiest_clock_minute().to_string(),
    );
    row("statuses pushed to watchers", seen.events.to_string());
    row(
        "longest gap, s",
        format!("{:.0}", seen.longest_gap_ms as f64 / 1e3),
    );
    // `cadence::turns` states this bound; polls have three quarters of 90, refreshes the rest.
    let bound_s = 1.1 * 120.0 + 10.0 * f64::from(PURCHASES) / (90.0 * 0.75) * 60.0;
    row("its bound, s", format!("{bound_s:.0}"));
    let alone = PURCHASES * WATCHERS_EACH * (60 / 5);
    row("if each watcher polled at 5 s, a minute", alone.to_string());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise P2, as the upstream sees it, over deaths of the process.
    #[test]
    fn an_upstream_never_sees_more_than_the_limit_in_a_minute() {
        let seen = run(Duration::from_secs(16 * 60), 1, LIFE);
        let busiest = seen.busiest_minute();
        assert!(busiest <= LIMIT, "{busiest} within a minute");
        assert!(seen.busiest_clock_minute() <= LIMIT);
        assert!(seen.requests_ms.len() > 16 * 75, "the budget is used");
        assert!(seen.events > 0, "watchers are told");
    }

    /// Promise P2, as the upstream sees it, for a process that dies each time it has begun.
    #[test]
    fn an_upstream_never_sees_more_than_the_limit_of_a_process_in_a_crash_loop() {
        for life_s in [1, 3, 10] {
            let seen = run(Duration::from_secs(180), 1, Duration::from_secs(life_s));
            let busiest = seen.busiest_minute();
            assert!(
                busiest <= LIMIT,
                "{busiest} within a minute, {life_s} s each"
            );
            assert!(busiest > 5, "{busiest} within a minute, {life_s} s each");
        }
    }
}
