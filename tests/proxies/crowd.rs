//! Callers of a service behind a proxy, who go on through its restarts: they create, read, and watch
//! each purchase and all of them. They repeat what they are told to repeat, as docs/CLIENTS.md says.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tillwatch::{Client, Error, FeedEvent, FeedOptions, FeedStart};
use tillwatch_proto::v1::{
    PurchaseFilter, WatchStatusRequest, get_status_request::Key, watch_status_response::Event,
};
use tillwatch_sandbox::Scenario;
use tokio::task::JoinSet;

use super::proxy::Proxy;
use crate::{
    house::Stub,
    orders::request,
    process::{DEADLINE, until, within},
};

/// Callers that create at once.
const BUYERS: usize = 3;
/// The pause between a buyer's creates.
const PACE: Duration = Duration::from_millis(100);
/// Purchases that make a crowd busy.
const BUSY: u64 = 15;
/// The wait after an error without a RetryInfo.
const PAUSE: Duration = Duration::from_millis(100);

/// The events of a crowd and its proxy.
#[derive(Debug, Default)]
pub struct Seen {
    /// Purchases.
    pub bought: u64,
    reads: u64,
    events: usize,
    /// Streams that ended before their purchase did, and were resumed.
    pub interrupted: u64,
    /// Errors of calls that were repeated as they should be, and came to nothing.
    pub failed: Vec<String>,
    /// Revisions that a stream should have told and did not.
    pub lost: usize,
    /// Revisions that a stream told twice.
    pub doubled: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} creates, {} reads, {} events, {} streams resumed; failed for good: {}, events lost: {}, doubled: {}",
            self.bought,
            self.reads,
            self.events,
            self.interrupted,
            self.failed.len(),
            self.lost,
            self.doubled
        )
    }
}

/// The parts that all callers of a crowd share.
#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    bought: AtomicU64,
    interrupted: AtomicU64,
    failed: Mutex<Vec<String>>,
    /// The revisions of each purchase, in the order in which the feed told them.
    fed: Mutex<BTreeMap<String, Vec<u32>>>,
}

impl Shared {
    fn fail(&self, what: &str, error: &dyn fmt::Debug) {
        self.failed
            .lock()
            .unwrap()
            .push(format!("{what}: {error:?}"));
    }
}

/// A crowd behind a proxy.
#[derive(Debug)]
pub struct Crowd {
    pub proxy: Proxy,
    shared: Arc<Shared>,
    /// Each buyer's purchases, with the revisions that their watchers were told.
    buyers: JoinSet<Vec<(String, Vec<u32>)>>,
    reader: JoinSet<u64>,
    feed: JoinSet<()>,
}

impl Crowd {
    /// A crowd that begins at once.
    pub async fn through(proxy: Proxy) -> Self {
        let shared = Arc::new(Shared::default());
        let stub = proxy.stub("shop").await;
        let mut buyers = JoinSet::new();
        for number in 0..BUYERS {
            let (client, shared) = (proxy.client("shop"), Arc::clone(&shared));
            let name = format!("{}-{number}", proxy.kind);
            buyers.spawn(buy(client, stub.clone(), name, shared));
        }
        let mut reader = JoinSet::new();
        reader.spawn(read(proxy.client("shop"), Arc::clone(&shared)));
        let mut feed = JoinSet::new();
        feed.spawn(follow(proxy.client("shop"), Arc::clone(&shared)));
        Self {
            proxy,
            shared,
            buyers,
            reader,
            feed,
        }
    }

    /// Waits until it has bought some more.
    pub async fn busy(&self) {
        let bought = || self.shared.bought.load(Ordering::Relaxed);
        let wanted = bought() + BUSY;
        until("a crowd buys", async || bought() >= wanted).await;
    }

    /// Lets the crowd go home once each purchase has ended, and counts.
    pub async fn end(mut self) -> Seen {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut watched = Vec::new();
        while let Some(bought) = within("the buyers' end", self.buyers.join_next()).await {
            watched.extend(bought.unwrap());
        }
        let read = within("the reader's end", self.reader.join_next()).await;
        let told = |id: &str| self.shared.fed.lock().unwrap().get(id).cloned();
        // Each watcher has seen the end of its purchase; the feed has to come as far.
        for (id, revisions) in &watched {
            let last = revisions.last();
            until("the feed tells an end", async || {
                told(id).is_some_and(|fed| fed.iter().max() >= last)
            })
            .await;
        }
        self.feed.shutdown().await;
        let mut seen = Seen {
            bought: self.shared.bought.load(Ordering::Relaxed),
            reads: read.unwrap().unwrap(),
            interrupted: self.shared.interrupted.load(Ordering::Relaxed),
            failed: self.shared.failed.lock().unwrap().clone(),
            ..Seen::default()
        };
        for (id, revisions) in watched {
            for told in [revisions, told(&id).unwrap_or_default()] {
                seen.count(&told);
            }
        }
        seen
    }
}

impl Seen {
    /// Counts a stream's revisions, which ought to be 1, 2, 3 and so on.
    fn count(&mut self, told: &[u32]) {
        let mut last = 0;
        self.events += told.len();
        for revision in told {
            match revision.checked_sub(last + 1) {
                Some(gap) => self.lost += usize::try_from(gap).unwrap(),
                None => self.doubled += 1,
            }
            last = last.max(*revision);
        }
    }
}

async fn buy(
    client: Client,
    stub: Stub,
    name: String,
    shared: Arc<Shared>,
) -> Vec<(String, Vec<u32>)> {
    let mut watches = JoinSet::new();
    let mut pace = tokio::time::interval(PACE);
    for number in 0.. {
        pace.tick().await;
        if shared.is_over.load(Ordering::Relaxed) {
            break;
        }
        let order = request(&format!("{name}-{number}"), "carbon", Scenario::Paid);
        // The library repeats with the same key for as long as an answer is transient.
        match client.create(order).await {
            Ok(created) => {
                shared.bought.fetch_add(1, Ordering::Relaxed);
                let id = created.purchase.unwrap().id;
                watches.spawn(watch(stub.clone(), id, Arc::clone(&shared)));
            }
            Err(error) => shared.fail("create", &error),
        }
    }
    watches.join_all().await
}

/// Watches a purchase to its end, and resumes after the last revision.
async fn watch(mut stub: Stub, id: String, shared: Arc<Shared>) -> (String, Vec<u32>) {
    let mut revisions = Vec::new();
    loop {
        let request = WatchStatusRequest {
            purchase_id: id.clone(),
            after_revision: Some(revisions.last().copied().unwrap_or(0)),
            ..WatchStatusRequest::default()
        };
        let ended = async {
            let mut stream = stub.watch_status(request).await?.into_inner();
            while let Some(message) = stream.message().await? {
                if let Some(Event::Transition(step)) = message.event {
                    revisions.push(step.status.unwrap().revision);
                }
            }
            Ok(())
        };
        let Err(error) = ended
            .await
            .map_err(|status: tonic::Status| Error::from(status))
        else {
            return (id, revisions);
        };
        if !error.is_transient() {
            shared.fail("watch", &error);
            return (id, revisions);
        }
        shared.interrupted.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(error.retry_after().unwrap_or(PAUSE)).await;
    }
}

/// Reads the newest status of a purchase over and over, and returns the number of answers.
async fn read(client: Client, shared: Arc<Shared>) -> u64 {
    let mut reads = 0;
    while !shared.is_over.load(Ordering::Relaxed) {
        let id = shared.fed.lock().unwrap().keys().next_back().cloned();
        let Some(id) = id else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let answer = tokio::time::timeout(DEADLINE, async {
            loop {
                match client.get(Key::PurchaseId(id.clone())).await {
                    Err(error) if error.is_transient() => {
                        tokio::time::sleep(error.retry_after().unwrap_or(PAUSE)).await;
                    }
                    answer => return answer,
                }
            }
        });
        match answer.await {
            Ok(Ok(_)) => reads += 1,
            Ok(Err(error)) => shared.fail("read", &error),
            Err(late) => shared.fail("read", &late),
        }
        tokio::time::sleep(PACE / 4).await;
    }
    reads
}

/// Keeps all that the feed tells, until it is cut off.
async fn follow(client: Client, shared: Arc<Shared>) {
    let options = FeedOptions {
        start: FeedStart::Beginning,
        ..FeedOptions::default()
    };
    let mut feed = client.watch_purchases(PurchaseFilter::default(), options);
    while let Some(event) = feed.next().await {
        match event {
            Ok(FeedEvent::Transition { transition, .. }) => {
                let purchase = transition.purchase.unwrap();
                let revision = purchase.status.unwrap().revision;
                let mut fed = shared.fed.lock().unwrap();
                fed.entry(purchase.id).or_default().push(revision);
            }
            Ok(_) => {}
            Err(error) => shared.fail("feed", &error),
        }
    }
}

#[test]
fn revisions_that_are_lost_or_doubled_are_counted() {
    let mut seen = Seen::default();
    for told in [[1, 2, 3].as_slice(), &[1, 4, 4, 5], &[2, 1, 2, 3]] {
        seen.count(told);
    }
    assert_eq!((seen.events, seen.lost, seen.doubled), (11, 3, 3));
}
