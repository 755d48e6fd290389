//! The account that is given after a fault: nothing was lost, doubled or asked too often.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use tillwatch_sandbox::{PROVIDERS, Sandbox};
use tokio::time::{sleep, timeout};

use super::{
    Fleet,
    load::{Load, News},
};
use crate::{
    kill_loop::{lost, nothing_was_bought_twice, repeated_keys_name_the_same},
    process::DEADLINE,
};

/// The windows in which requests are counted: a provider's own, and one that a short test fills.
const WINDOWS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(8)];
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The figures of a fault, of which all but the first three have to be nothing.
#[derive(Debug)]
pub struct Tally {
    watchers: usize,
    transitions: usize,
    reconnects: usize,
    duplicates: usize,
    losses: usize,
    doubled: usize,
    overruns: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} | {} | {} | {} | {} | {} | {}",
            self.watchers,
            self.transitions,
            self.reconnects,
            self.duplicates,
            self.losses,
            self.doubled,
            self.overruns
        )
    }
}

impl Tally {
    /// The head of a table of these.
    pub const HEAD: &str = "fault | watchers | transitions | reconnects | duplicates | losses | \
        doubled creates | overrun budgets | first news after | news of all accounts after";

    /// Waits until everybody has heard everything that is committed by now, and counts. The load may go on.
    pub async fn of(fleet: &Fleet, load: &Load) -> Self {
        let doubled = doubled(fleet) + load.heard().doubled;
        let overruns = overruns(fleet);
        let log = log(fleet);
        let caught_up = async {
            while missing(load, &log) > 0 {
                sleep(LOOK_EVERY).await;
            }
        };
        // Transitions that are missing by then are counted.
        let _ = timeout(DEADLINE, caught_up).await;
        let missing = missing(load, &log);
        let heard = load.heard();
        let mut duplicates = heard.duplicates;
        for feed in &heard.feeds {
            let steps = feed.iter().map(|step| (&step.purchase, step.revision));
            let told: Vec<_> = steps.collect();
            let each: std::collections::BTreeSet<_> = told.iter().collect();
            duplicates += told.len() - each.len();
            let differs = told
                .iter()
                .zip(&log)
                .find(|(told, kept)| (told.0, told.1) != (&kept.0, kept.1));
            assert!(differs.is_none(), "the order of the feed: {differs:?}");
        }
        Self {
            watchers: heard.watchers.len(),
            transitions: log.len(),
            reconnects: heard.ends.values().sum(),
            duplicates,
            losses: heard.gaps + missing,
            doubled,
            overruns,
        }
    }

    /// Tells the figures of a fault, and fails if something was lost, doubled or asked too often. The times are told
    /// alone: a machine that is busy with other tests is no fault of the service.
    pub fn is_clean(&self, fault: &str, news: News) {
        let News { first, all } = news;
        eprintln!("| {fault} | {self} | {first:.1?} | {all:.1?} |");
        let wrong = [self.duplicates, self.losses, self.doubled, self.overruns];
        assert_eq!(wrong, [0; 4], "{fault}: {}\n{self}", Self::HEAD);
    }
}

impl Load {
    /// Ends the load, and looks whether everything that callers know is there, and nothing was bought twice.
    pub async fn end(mut self, fleet: &Fleet) {
        self.stop_buying().await;
        let stub = fleet.house.stub("shop").await;
        let lost = lost(stub.clone(), self.known(), "").await;
        assert_eq!(lost, Vec::<String>::new());
        repeated_keys_name_the_same(&stub, self.known()).await;
        nothing_was_bought_twice(&fleet.house).await;
    }
}

/// All transitions in the order of their commits: purchases and revisions.
fn log(fleet: &Fleet) -> Vec<(String, u32)> {
    let rows =
        "SELECT replace(purchase::text, '-', ''), revision FROM transition_log ORDER BY position";
    let row = |line: &str| {
        let (purchase, revision) = line.split_once('|').unwrap();
        (purchase.to_owned(), revision.parse().unwrap())
    };
    fleet.asked(rows).lines().map(row).collect()
}

/// The number of transitions of the log that some watcher, or some follower of the feed, has not heard yet.
fn missing(load: &Load, log: &[(String, u32)]) -> usize {
    let newest: BTreeMap<&str, u32> = log
        .iter()
        .map(|(id, revision)| (&**id, *revision))
        .collect();
    let heard = load.heard();
    let open = heard.watchers.iter().filter(|watcher| !watcher.is_over);
    let watchers = open.map(|watcher| {
        let newest = newest.get(&*watcher.purchase).copied().unwrap_or_default();
        newest.saturating_sub(watcher.revision) as usize
    });
    let feeds = heard.feeds.iter();
    let feeds = feeds.map(|feed| log.len().saturating_sub(feed.len()));
    watchers.sum::<usize>() + feeds.sum::<usize>()
}

/// The number of purchases at providers that belong to no purchase here.
fn doubled(fleet: &Fleet) -> usize {
    let sandbox = &fleet.house.sandbox;
    let bought = PROVIDERS.map(|provider| (provider, sandbox.created(provider)));
    let doubled = bought.map(|(provider, bought)| {
        // The reference of a purchase can be unknown while its attempt is under way, or unclear.
        let own = format!(
            "SELECT count(*) FROM purchase WHERE provider = '{provider}'
             AND (reference IS NOT NULL OR submit_until IS NOT NULL OR state = 'OUTCOME_UNKNOWN')"
        );
        let own: u64 = fleet.asked(&own).parse().unwrap();
        bought.saturating_sub(own) as usize
    });
    doubled.into_iter().sum()
}

/// The number of providers that were asked more often in some window than the limit allows.
fn overruns(fleet: &Fleet) -> usize {
    let limit = fleet.house.settings.polling.iter();
    let limit = limit.rev().find(|(key, _)| *key == "requests_per_minute");
    let limit: usize = limit.expect("a limit").1.parse().unwrap();
    let is_over = |provider: &&&str| {
        let times = times(&fleet.house.sandbox, provider);
        let most = WINDOWS.map(|window| (most_within(&times, window), allowed(limit, window)));
        let is_over = most.iter().any(|(most, allowed)| most > allowed);
        if is_over {
            eprintln!("{provider}: requests in {WINDOWS:?}, and allowed: {most:?}");
        }
        is_over
    };
    PROVIDERS.iter().filter(is_over).count()
}

/// The times of a provider's requests, in order.
pub fn times(sandbox: &Sandbox, provider: &str) -> Vec<SystemTime> {
    let requests = sandbox.requests().into_iter();
    let of_account = requests.filter(|one| one.provider == provider);
    let mut times: Vec<SystemTime> = of_account.map(|one| one.at).collect();
    times.sort_unstable();
    times
}

/// The most times within any window of this length.
pub fn most_within(times: &[SystemTime], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, time) in times.iter().enumerate() {
        while times[first] + window <= *time {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// The most requests that a limit per minute allows in a window. Slots are spaced at the limit less a tenth; a
/// twentieth of it may come at once, and each may be used a second late.
pub fn allowed(limit: usize, window: Duration) -> usize {
    let seconds = window.as_secs() as usize;
    limit.min(limit * (seconds + 1) / 60 + limit / 20)
}
