//! Callers of a fleet, as behind a balancer: they buy, watch and follow the feed all the time, each at one
//! process, and go on at the next if theirs fails them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use tillwatch_proto::v1::{
    Cause, CreatePurchaseRequest, Finality, PurchaseTransition, Transition, WatchPurchasesRequest,
    WatchStatusRequest, watch_purchases_response, watch_status_response,
};
use tillwatch_sandbox::{PROVIDERS, Scenario};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::Fleet;
use crate::{
    house::{Stub, stub_of},
    kill_loop::Shared,
    orders::request,
    process::until_within,
};

/// The interval in which callers buy at each process.
const BUY_EVERY: Duration = Duration::from_millis(600);
/// Every so many orders are given at two processes at once.
const DOUBLED_EVERY: usize = 3;
/// The purchases under way of a process's buyers.
const BUYING_MAX: usize = 64;
/// The longest wait for the answer to a create, and for the beginning of a stream.
const PATIENCE: Duration = Duration::from_secs(3);
/// The time without a message after which a stream is dead: two heartbeats.
const SILENCE: Duration = Duration::from_secs(10);
const HEARTBEAT: prost_types::Duration = prost_types::Duration {
    seconds: 5,
    nanos: 0,
};
/// The longest wait for news of each account, some of which may have none for a while.
const NEWS_OF_ALL_WITHIN: Duration = Duration::from_secs(120);
/// The pause before a caller goes on at the next process.
const PAUSE: Duration = Duration::from_millis(100);

/// A caller that watches one purchase from its first revision to its end.
pub struct Watcher {
    pub purchase: String,
    /// The last revision that it has seen.
    pub revision: u32,
    /// True once it has seen an end.
    pub is_over: bool,
}

/// A transition in a feed.
pub struct Step {
    pub purchase: String,
    pub revision: u32,
    account: String,
    cause: Cause,
    /// The time at which its process has observed it.
    observed: SystemTime,
    heard: Instant,
}

/// The things that callers have heard so far.
#[derive(Default)]
pub struct Heard {
    pub watchers: Vec<Watcher>,
    /// The feed as each of its followers has it.
    pub feeds: Vec<Vec<Step>>,
    /// Revisions that a watcher was told again.
    pub duplicates: usize,
    /// Revisions that a watcher was not told.
    pub gaps: usize,
    /// The ends of streams before the end of their purchase, by reason or code.
    pub ends: BTreeMap<String, usize>,
    /// Keys of which one answer has said that the purchase is new.
    news: BTreeSet<String>,
    /// Further answers that said so.
    pub doubled: usize,
}

/// A moment after which polls of these accounts have to bring news again.
#[derive(Debug)]
pub struct Fault {
    began: Instant,
    time: SystemTime,
    accounts: Vec<String>,
}

/// The times from a fault until polls brought news again.
#[derive(Clone, Copy, Debug, Default)]
pub struct News {
    /// Of the first of its accounts.
    pub first: Duration,
    /// Of each of them.
    pub all: Duration,
}

impl News {
    /// The longer times of both.
    pub fn max(self, other: Self) -> Self {
        Self {
            first: self.first.max(other.first),
            all: self.all.max(other.all),
        }
    }
}

/// The callers of a fleet. They end with it.
pub struct Load {
    callers: Arc<Callers>,
    buyers: JoinSet<()>,
    feeds: JoinSet<()>,
}

struct Callers {
    /// The processes, whose addresses stay over restarts.
    stubs: Vec<Stub>,
    known: Shared,
    heard: Mutex<Heard>,
    watches: Mutex<JoinSet<()>>,
}

impl Load {
    /// Begins, and waits until polls of every account bring news.
    pub async fn begin(fleet: &Fleet) -> Self {
        let mut stubs = Vec::new();
        for server in fleet.servers() {
            stubs.push(stub_of(&server.grpc, "shop").await);
        }
        let callers = Arc::new(Callers {
            heard: Mutex::new(Heard {
                feeds: stubs.iter().map(|_| Vec::new()).collect(),
                ..Heard::default()
            }),
            stubs,
            known: Shared::default(),
            watches: Mutex::default(),
        });
        let (mut buyers, mut feeds) = (JoinSet::new(), JoinSet::new());
        for number in 0..callers.stubs.len() {
            buyers.spawn(Arc::clone(&callers).buy(number));
            feeds.spawn(Arc::clone(&callers).follow(number));
        }
        let load = Self {
            callers,
            buyers,
            feeds,
        };
        load.news_after(&load.fault_of_all()).await;
        load
    }

    /// Ends the buying. Watchers and feeds go on.
    pub async fn stop_buying(&mut self) {
        self.buyers.shutdown().await;
    }

    /// Ends the watching as well.
    pub async fn stop(&mut self) {
        self.stop_buying().await;
        self.feeds.shutdown().await;
        let watches = std::mem::take(&mut *self.callers.watches.lock().unwrap());
        drop(watches);
    }

    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.callers.heard()
    }

    /// The callers' knowledge.
    pub fn known(&self) -> &Shared {
        &self.callers.known
    }

    /// Something happens now, to the owner of these accounts.
    pub fn fault(&self, accounts: Vec<String>) -> Fault {
        Fault {
            began: Instant::now(),
            time: SystemTime::now(),
            accounts,
        }
    }

    /// Something happens now, to all accounts.
    pub fn fault_of_all(&self) -> Fault {
        self.fault(PROVIDERS.map(crate::house::account).into())
    }

    /// Waits until each account of a fault has had news that a poll has brought since.
    pub async fn news_after(&self, fault: &Fault) -> News {
        let mut came = None;
        until_within(NEWS_OF_ALL_WITHIN, "news after a fault", async || {
            let heard = self.heard();
            let times = fault
                .accounts
                .iter()
                .map(|account| heard.news(account, fault));
            came = times.collect::<Option<Vec<_>>>();
            came.is_some()
        })
        .await;
        let came = came.into_iter().flatten();
        let mut after: Vec<_> = came
            .map(|time| time.saturating_duration_since(fault.began))
            .collect();
        after.sort_unstable();
        let [first, ..] = after[..] else {
            unreachable!("a fault of at least one account");
        };
        News {
            first,
            all: *after.last().unwrap_or(&first),
        }
    }
}

impl Heard {
    /// The first time at which a feed has told what a poll of an account has brought since a fault.
    fn news(&self, account: &str, fault: &Fault) -> Option<Instant> {
        let recent = |feed: &Vec<Step>| {
            let recent = feed.iter().rev();
            let recent = recent.take_while(|step| step.heard >= fault.began);
            recent
                .filter(|step| step.cause == Cause::Poll && step.observed > fault.time)
                .filter(|step| step.account == account)
                .map(|step| step.heard)
                .min()
        };
        self.feeds.iter().filter_map(recent).min()
    }

    fn ended(&mut self, reason: &str) {
        *self.ends.entry(reason.to_owned()).or_default() += 1;
    }

    /// Notes a step that a watcher was told.
    fn step(&mut self, number: usize, step: &Transition) {
        let status = step.status.as_ref().unwrap();
        let watcher = &mut self.watchers[number];
        if status.revision <= watcher.revision {
            self.duplicates += 1;
            return;
        }
        self.gaps += (status.revision - watcher.revision - 1) as usize;
        watcher.revision = status.revision;
        watcher.is_over = status.finality() != Finality::Open;
    }
}

impl Callers {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    fn stub(&self, turn: usize) -> Stub {
        self.stubs[turn % self.stubs.len()].clone()
    }

    /// Buys at one process, at each provider in turn.
    async fn buy(self: Arc<Self>, first: usize) {
        let mut ticks = interval(BUY_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buying = JoinSet::new();
        for number in 0.. {
            ticks.tick().await;
            while buying.try_join_next().is_some() {}
            if buying.len() < BUYING_MAX {
                buying.spawn(Arc::clone(&self).purchase(first, number));
            }
        }
    }

    /// Gives an order until it is acknowledged, at two processes at once if it is its turn, and watches the
    /// purchase at each process.
    async fn purchase(self: Arc<Self>, first: usize, number: usize) {
        let key = format!("{first}-{number}");
        let order = request(&key, PROVIDERS[number % PROVIDERS.len()], Scenario::Paid);
        let sent = (key.clone(), order.clone());
        self.known.lock().unwrap().sent.extend([sent]);
        let times = if number.is_multiple_of(DOUBLED_EVERY) {
            2
        } else {
            1
        };
        let answers = (0..times).map(|time| self.create(first + time, &order));
        let ids = join_all(answers).await;
        assert!(ids.iter().all(|id| *id == ids[0]), "{key}: {ids:?}");
        let [id, ..] = ids.as_slice() else {
            unreachable!("at least one answer");
        };
        for turn in 0..self.stubs.len() {
            let watch = Arc::clone(&self).watch(turn, id.clone());
            self.watches.lock().unwrap().spawn(watch);
        }
    }

    async fn create(&self, first: usize, order: &CreatePurchaseRequest) -> String {
        let key = &order.idempotency_key;
        for turn in first.. {
            let mut stub = self.stub(turn);
            let answer = timeout(PATIENCE, stub.create_purchase(order.clone())).await;
            let Ok(Ok(answer)) = answer else {
                sleep(PAUSE).await;
                continue;
            };
            let answer = answer.into_inner();
            let purchase = answer.purchase.unwrap();
            let mut heard = self.heard();
            if !answer.replayed && !heard.news.insert(key.clone()) {
                heard.doubled += 1;
            }
            drop(heard);
            let mut known = self.known.lock().unwrap();
            known.acknowledged.insert(key.clone(), purchase.id.clone());
            return purchase.id;
        }
        unreachable!("turns do not end");
    }

    /// Watches a purchase to its end.
    async fn watch(self: Arc<Self>, first: usize, id: String) {
        let number = {
            let mut heard = self.heard();
            heard.watchers.push(Watcher {
                purchase: plain(&id),
                revision: 0,
                is_over: false,
            });
            heard.watchers.len() - 1
        };
        for turn in first.. {
            let after = self.heard().watchers[number].revision;
            let Err(reason) = self.watch_at(turn, number, &id, after).await else {
                return;
            };
            self.heard().ended(&reason);
            sleep(PAUSE).await;
        }
    }

    /// Watches at one process, until the purchase's end or an untimely end of the stream.
    async fn watch_at(
        &self,
        turn: usize,
        number: usize,
        id: &str,
        after: u32,
    ) -> Result<(), String> {
        let request = WatchStatusRequest {
            purchase_id: id.to_owned(),
            after_revision: Some(after),
            heartbeat_interval: Some(HEARTBEAT),
            ..WatchStatusRequest::default()
        };
        let mut stub = self.stub(turn);
        let mut stream = timed(PATIENCE, stub.watch_status(request))
            .await?
            .into_inner();
        while let Some(message) = timed(SILENCE, stream.message()).await? {
            if let Some(watch_status_response::Event::Transition(step)) = message.event {
                self.heard().step(number, &step);
                let status = step.status.unwrap();
                let place = (id.to_owned(), status.revision);
                self.known.lock().unwrap().seen.insert(place, status.state);
            }
        }
        Ok(())
    }

    /// Follows the feed of all purchases.
    async fn follow(self: Arc<Self>, number: usize) {
        let mut token = String::new();
        for turn in number.. {
            let reason = self.follow_at(turn, number, &mut token).await;
            let reason = reason.err().unwrap_or("a feed ended".to_owned());
            self.heard().ended(&reason);
            sleep(PAUSE).await;
        }
    }

    /// Follows the feed at one process, until its stream ends.
    async fn follow_at(
        &self,
        turn: usize,
        number: usize,
        token: &mut String,
    ) -> Result<(), String> {
        let request = WatchPurchasesRequest {
            from_beginning: token.is_empty(),
            resume_token: token.clone(),
            heartbeat_interval: Some(HEARTBEAT),
            ..WatchPurchasesRequest::default()
        };
        let mut stub = self.stub(turn);
        let opened = timed(PATIENCE, stub.watch_purchases(request)).await?;
        let mut stream = opened.into_inner();
        while let Some(message) = timed(SILENCE, stream.message()).await? {
            *token = message.resume_token;
            if let Some(watch_purchases_response::Event::Transition(step)) = message.event {
                self.heard().feeds[number].push(Step::from(step));
            }
        }
        Ok(())
    }
}

impl From<PurchaseTransition> for Step {
    fn from(step: PurchaseTransition) -> Self {
        let cause = step.cause();
        let purchase = step.purchase.unwrap();
        let status = purchase.status.unwrap();
        Self {
            purchase: plain(&purchase.id),
            revision: status.revision,
            account: purchase.account,
            cause,
            observed: SystemTime::try_from(status.observe_time.unwrap()).unwrap(),
            heard: Instant::now(),
        }
    }
}

/// The id of a purchase as the database has it, without hyphens.
fn plain(id: &str) -> String {
    let id = id.strip_prefix("pur_").expect("an id");
    id.replace('-', "")
}

/// An answer in time, or the reason why there is none.
async fn timed<T>(
    longest: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, String> {
    let answer = timeout(longest, answer).await;
    let answer = answer.map_err(|_| "silence".to_owned())?;
    answer.map_err(|status| {
        let info = status.get_details_error_info();
        info.map_or(format!("{:?}", status.code()), |info| info.reason)
    })
}
