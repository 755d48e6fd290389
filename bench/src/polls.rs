//! Polls per CPU-second, against bare reqwest that reads the same JSON from the same upstream.
//!
//! Each side runs on a thread of its own, whose processor time the kernel counts. The upstream, on
//! another thread, answers each status request as Devdraft's page shows it. The service is the tracker
//! with its scheduler, account and HTTP client, over a journal in memory.

use std::{fs, sync::Arc, time::Duration};

use tillwatch_server::{
    account::{self, Account, Accounts},
    cadence::{Policy, Schedule},
    clock::Clock,
    journal::{AloneBudgets, Budgets, Journal, Write, memory::MemoryJournal},
    ownership::Tenures,
    provider,
    purchase::{AccountName, Cause, Revision, Secret, Status, Transition},
    tracker::Tracker,
    upstream::http::{HttpUpstream, Settings},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Failure,
    memory::{record, reference},
    table::{Spread, Table},
    upstream::{Upstream, on_this_thread},
};

/// Requests under way at once.
const AT_ONCE: u32 = 64;
/// Rounds of each measurement, side by side.
const ROUNDS: usize = 3;
/// Purchases, if only the requests are to count.
const FEW: u32 = 1_000;
/// The time of each round that does not count.
const WARM_UP: Duration = Duration::from_secs(2);

/// Nanoseconds that this thread has run on a processor.
fn ran_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// Requests per second of this thread's processor time.
fn rate(requests: u64, ns: u64) -> f64 {
    requests as f64 / (ns as f64 / 1e9)
}

/// Bare reqwest, which reads each answer as JSON.
async fn bare(upstream: &Upstream, length: Duration) -> Result<f64, Failure> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .tls_certs_only([])
        .build()?;
    let base = format!("http://{}/api/v0/payment-intents", upstream.address);
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut asking = JoinSet::new();
    for place in 0..AT_ONCE {
        let (client, base, count) = (client.clone(), base.clone(), Arc::clone(&count));
        asking.spawn(async move {
            for number in (place..FEW).step_by(AT_ONCE as usize).cycle() {
                let request = client.get(format!("{base}/{}/status", reference(number)));
                let request = request.header("x-client-key", "x");
                let Ok(answer) = request.header("x-client-secret", "x").send().await else {
                    return;
                };
                let Ok(bytes) = answer.bytes().await else {
                    return;
                };
                if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok() {
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            }
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let counted = || count.load(std::sync::atomic::Ordering::Relaxed);
    let (before, began) = (counted(), ran_ns());
    tokio::time::sleep(length).await;
    Ok(rate(counted() - before, ran_ns() - began))
}

/// The service over so many open purchases; `every` is their schedule.
async fn service(
    upstream: &Upstream,
    purchases: u32,
    every: Duration,
    length: Duration,
) -> Result<f64, Failure> {
    let clock = Clock::system();
    let name = AccountName::new("shop");
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::new("bench"));
    let account = account(upstream, &name, every, &clock, &journal).await?;
    let accounts = Accounts::new([Arc::clone(&account)]);
    let tenures = Tenures::alone(accounts.all().keys().cloned());
    let tracker = Tracker::new(Arc::clone(&journal), clock.clone(), &accounts, &tenures);
    for number in 0..purchases {
        let record = record(number, &name, &reference(number), clock.now());
        if purchases > FEW {
            // The journal stays empty: a million records in it are not what this measures.
            tracker.recover(&record).await?;
            continue;
        }
        let second = Status::clone(&record.purchase.status);
        let first = Status {
            revision: Revision::FIRST,
            ..second.clone()
        };
        let transitions = [first, second].map(|status| Transition {
            from_state: None,
            status,
            cause: Cause::Create,
        });
        let begin = Write::Begin {
            record: Box::new(record),
            transitions: transitions.into(),
        };
        journal.write(begin).await?;
    }
    let mut work = JoinSet::new();
    work.spawn({
        let tracker = tracker.clone();
        async move { tracker.run().await }
    });
    tokio::time::sleep(WARM_UP).await;
    let answered = || -> u64 {
        let figures = account.snapshot().figures;
        figures.requests.values().sum()
    };
    let (before, began, start) = (answered(), ran_ns(), Instant::now());
    tokio::time::sleep_until(start + length).await;
    let rate = rate(answered() - before, ran_ns() - began);
    tracker.drain().await;
    work.shutdown().await;
    Ok(rate)
}

async fn account(
    upstream: &Upstream,
    name: &AccountName,
    every: Duration,
    clock: &Clock,
    journal: &Arc<dyn Journal>,
) -> Result<Arc<Account>, Failure> {
    let row = provider::registered("devdraft").ok_or("no such provider")?;
    let secret = |name: &&str| ((*name).to_owned(), Secret::new("x"));
    let provider = (row.build)(&row.secrets.iter().map(secret).collect())?;
    let policy = Policy {
        schedule: Schedule::of(&[], u64::try_from(every.as_millis())?),
        requests_per_minute: 0,
        max_in_flight: AT_ONCE,
        ..(row.policy)()
    };
    let way_out = HttpUpstream::new(Settings {
        allow_insecure: true,
        allow_private_networks: true,
        ..Settings::new(format!("http://{}", upstream.address).parse()?)
    })?;
    let way_out = Arc::new(way_out);
    let budgets: Arc<dyn Budgets> = Arc::new(AloneBudgets::new(journal, clock));
    let opened = Account::open(
        name.clone(),
        account::Settings::new(provider, policy, way_out),
        clock.clone(),
        &budgets,
    );
    Ok(opened.await)
}

/// The table.
///
/// # Errors
/// A socket or a client cannot be made.
pub fn table(purchases: u32, length: Duration) -> Result<Table, Failure> {
    let upstream = Upstream::start()?;
    let often = Duration::from_millis(100);
    let mut sides: [(String, Vec<f64>); 3] = [
        (format!("the service, {FEW} open"), Vec::new()),
        ("bare reqwest and serde_json".to_owned(), Vec::new()),
        (
            format!("the service, {purchases} open, each 2 min"),
            Vec::new(),
        ),
    ];
    for _ in 0..ROUNDS {
        for (side, (_, rates)) in sides.iter_mut().enumerate() {
            // The service's client is made first, since it sets TLS up for the whole process.
            rates.push(match side {
                0 => on_this_thread(service(&upstream, FEW, often, length))??,
                1 => on_this_thread(bare(&upstream, length))??,
                _ => {
                    let rare = Duration::from_secs(120);
                    on_this_thread(service(&upstream, purchases, rare, length))??
                }
            });
        }
    }
    let title = format!(
        "Polls per CPU-second, {AT_ONCE} at once, {ROUNDS} rounds of {} s: median (least to most)",
        length.as_secs()
    );
    let mut table = Table::new(&title, &["who asks", "polls", "of bare"]);
    let [_, (_, bare), _] = &sides;
    let bare = Spread::of(bare.iter().copied()).median;
    for (name, rates) in &sides {
        let spread = Spread::of(rates.iter().copied());
        let ratio = format!("{:.2}", spread.median / bare);
        table.row(name, [spread.to_string(), ratio]);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_answered() {
        let upstream = Upstream::start().unwrap();
        let length = Duration::from_millis(300);
        let every = Duration::from_millis(100);
        let ours = on_this_thread(service(&upstream, 20, every, length)).unwrap();
        let bare = on_this_thread(bare(&upstream, length)).unwrap();
        let (ours, bare) = (ours.unwrap(), bare.unwrap());
        assert!(ours > 10.0 && bare > 10.0, "{ours} {bare}");
    }
}
