//! Create, in virtual time: the journal in memory, the real providers, a scripted way out.

mod accepted;
mod adopt;
mod doubt;
mod equal;
mod intent;
mod key;
mod not_yet;
mod open_purchases;
mod orders;
mod origin;
mod outcome;
mod panic;
mod phase;
mod processes;
mod repeated;
mod resolve;
mod start;
mod tenures;
mod time;
mod unclear;

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    sync::Mutex,
    task::Poll,
};

use serde_json::{Value, json};

use super::*;
use crate::{
    account::{Refusal, Sent},
    cadence::Policy,
    journal::memory::MemoryJournal,
    observation::Trouble,
    provider::{self, Registered, Unclear},
    purchase::{AttentionReason, Cause, FailureReason, Finality, Revision},
    testing,
    upstream::{
        Connection, Request, Response, UpstreamError,
        scripted::{Scripted, json_response},
    },
};

/// All providers, for tests of promises that hold for each.
const PROVIDERS: [&str; provider::NAMES.len()] = provider::NAMES;

const START_MS: i64 = 1_800_000_000_000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The scripted provider's reply to one request.
#[derive(Debug, Clone)]
enum Reply {
    /// Answers with this status and body.
    Json(u16, Value),
    /// Answers with this status and these bytes.
    Text(u16, &'static str),
    /// Asks for this pause, in seconds.
    Throttle(u64),
    /// No connection is made.
    NotConnected,
    /// The connection breaks after the request was sent.
    Lost,
    /// No answer, ever.
    Silence,
    /// A defect shows while the answer is read.
    Panic,
}

impl Reply {
    fn result(self) -> Result<Response, UpstreamError> {
        match self {
            Self::Json(status, body) => Ok(json_response(status, &body)),
            Self::Text(status, text) => Ok(Response {
                status,
                headers: ::http::HeaderMap::new(),
                body: bytes::Bytes::from(text),
            }),
            Self::Throttle(pause_s) => {
                let mut answer = json_response(429, &json!({ "message": "slow down" }));
                answer.headers.insert("retry-after", pause_s.into());
                Ok(answer)
            }
            Self::NotConnected => Err(UpstreamError::NotConnected("refused")),
            Self::Lost | Self::Silence => Err(UpstreamError::Lost("reset")),
            Self::Panic => panic!("as told"),
        }
    }
}

/// A hook that runs when a request arrives, before its answer.
type Arrived = Arc<dyn Fn(&Request) + Send + Sync>;

/// The provider's side: the requests that reached it, and its answers.
#[derive(Default)]
struct Wire {
    /// Creates that arrived, with their times.
    creates: Mutex<Vec<(Timestamp, Request)>>,
    /// Everything else that arrived.
    reads: Mutex<Vec<(Timestamp, Request)>>,
    /// The replies to the next creates. After them the provider accepts each.
    create_replies: Mutex<VecDeque<Reply>>,
    /// The replies to the next reads. After them the provider finds nothing.
    read_replies: Mutex<VecDeque<Reply>>,
    /// The time that a create takes.
    pause: Mutex<Duration>,
    /// The time that a read takes.
    read_pause: Mutex<Duration>,
    arrived: Mutex<Option<Arrived>>,
}

impl Wire {
    fn creates(&self) -> usize {
        self.creates.lock().unwrap().len()
    }

    fn reads(&self) -> usize {
        self.reads.lock().unwrap().len()
    }

    fn create(&self, place: usize) -> (Timestamp, Request) {
        self.creates.lock().unwrap()[place].clone()
    }

    fn answer_creates(&self, replies: impl IntoIterator<Item = Reply>) {
        self.create_replies.lock().unwrap().extend(replies);
    }

    fn answer_reads(&self, replies: impl IntoIterator<Item = Reply>) {
        self.read_replies.lock().unwrap().extend(replies);
    }

    fn scripted(self: &Arc<Self>, provider: &'static str, clock: &Clock) -> Scripted {
        let (wire, clock) = (Arc::clone(self), clock.clone());
        Scripted::new(move |request: Request| {
            let (wire, clock) = (Arc::clone(&wire), clock.clone());
            async move {
                let arrived = wire.arrived.lock().unwrap().clone();
                if let Some(arrived) = arrived {
                    arrived(&request);
                }
                let is_create = request.connection == Connection::Fresh;
                let (seen, replies, otherwise) = if is_create {
                    (
                        &wire.creates,
                        &wire.create_replies,
                        orders::accepted(provider),
                    )
                } else {
                    (&wire.reads, &wire.read_replies, orders::missing(provider))
                };
                seen.lock().unwrap().push((clock.now(), request));
                let reply = replies.lock().unwrap().pop_front().unwrap_or(otherwise);
                let pause = if is_create {
                    &wire.pause
                } else {
                    &wire.read_pause
                };
                let pause = *pause.lock().unwrap();
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                if matches!(reply, Reply::Silence) {
                    std::future::pending::<()>().await;
                }
                reply.result()
            }
        })
    }
}

/// One process over a store that outlives it, with one account.
struct World {
    provider: &'static str,
    clock: Clock,
    journal: Arc<MemoryJournal>,
    wire: Arc<Wire>,
    account: Arc<Account>,
    tenures: Tenures,
    intake: Intake,
    /// The intake's loop, which ends with the process. The feed does not run: nobody listens to its
    /// heartbeats here, and they would take a step in each second of 400 days.
    work: tokio::task::JoinSet<()>,
}

/// A provider's policy without limits.
fn policy(registered: &Registered) -> Policy {
    Policy {
        requests_per_minute: 0,
        creates_per_minute: 0,
        timeout: seconds(15),
        ..(registered.policy)()
    }
}

fn keyring(id: &str) -> Keyring {
    Keyring::parse(&Keyring::new_file(id, [7; 32])).unwrap()
}

impl World {
    async fn open(provider: &'static str) -> Self {
        Self::limited(provider, |_| ()).await
    }

    /// An account without limits but those that `limit` sets.
    async fn limited(provider: &'static str, limit: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = policy(provider::registered(provider).unwrap());
        limit(&mut policy);
        let clock = Clock::simulated(Timestamp::from_millis(START_MS).unwrap(), 1);
        let journal = Arc::new(MemoryJournal::new("test"));
        let wire = Arc::new(Wire::default());
        Self::life(provider, policy, clock, journal, wire, "k1").await
    }

    /// One life of the process: it takes up what the journal has.
    async fn life(
        provider: &'static str,
        policy: Policy,
        clock: Clock,
        journal: Arc<MemoryJournal>,
        wire: Arc<Wire>,
        key: &str,
    ) -> Self {
        let shared: Arc<dyn Journal> = Arc::clone(&journal) as _;
        let upstream = Arc::new(wire.scripted(provider, &clock));
        let budgets = Arc::clone(&shared);
        let account = testing::account("main", provider, policy, upstream, &clock, budgets).await;
        let feed = Feed::new(Arc::clone(&shared), clock.clone());
        let accounts = Accounts::new([Arc::clone(&account)]);
        let tenures = testing::alone(&accounts);
        let intake = Intake::new(
            Arc::clone(&shared),
            feed,
            clock.clone(),
            (accounts, tenures.clone()),
            keyring(key),
            Creates::default(),
        );
        for record in shared.open_records(None, 1_000).await.unwrap() {
            intake.recover(&record);
        }
        let mut work = tokio::task::JoinSet::new();
        work.spawn({
            let intake = intake.clone();
            async move { intake.run().await }
        });
        Self {
            provider,
            clock,
            journal,
            wire,
            account,
            tenures,
            intake,
            work,
        }
    }

    /// The process dies, and loses all that it has not committed. Another takes up the store.
    async fn killed(self) -> Self {
        self.killed_with("k1").await
    }

    async fn killed_with(mut self, key: &str) -> Self {
        // Work of the dead process that is still under way can neither commit nor read.
        self.journal.close().await;
        self.work.abort_all();
        let journal = Arc::new(self.journal.reopened());
        Self::life(
            self.provider,
            self.account.settings().policy.clone(),
            self.clock.clone(),
            journal,
            Arc::clone(&self.wire),
            key,
        )
        .await
    }

    fn order(&self) -> NewPurchase {
        self.order_of("shop", "key", orders::order(self.provider))
    }

    fn order_of(&self, caller: &str, key: &str, order: Order) -> NewPurchase {
        let purpose = match &order {
            Order::Existing(reference) => Purpose::Adopt(reference.clone()),
            order => Purpose::Place(self.account.provider().order(order).unwrap()),
        };
        NewPurchase {
            purpose,
            caller: CallerName::new(caller),
            key: key.to_owned(),
            account: Arc::clone(&self.account),
            settings: self.account.settings(),
            labels: BTreeMap::new(),
            order: Arc::new(order),
            deadline: None,
            open_purchases: 0,
        }
    }

    async fn create(&self) -> Result<Created, CreateError> {
        self.intake.create(self.order()).await
    }

    /// Polls a create so many times at the most, then hangs up. Says whether it was answered.
    async fn created_within(&self, polls: usize) -> bool {
        let mut create = Box::pin(self.create());
        let mut left = polls;
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(false);
            }
            left -= 1;
            match create.as_mut().poll(context) {
                Poll::Ready(created) => {
                    created.unwrap();
                    Poll::Ready(true)
                }
                Poll::Pending => {
                    // Polled again as soon as the other tasks have had one turn.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The record of the one key that most tests use.
    async fn known(&self) -> Option<Record> {
        self.journal
            .record_by_key(&CallerName::new("shop"), "key")
            .await
            .unwrap()
    }

    async fn record(&self) -> Record {
        self.known().await.expect("the key has a purchase")
    }

    async fn status(&self) -> Status {
        Status::clone(&self.record().await.purchase.status)
    }

    /// `state`, `attention` and `finality` of each revision, in the words of the contract.
    async fn history(&self) -> Vec<String> {
        let id = self.record().await.purchase.id;
        let all = self
            .journal
            .transitions(id, Revision::default(), 600)
            .await
            .unwrap();
        all.iter().map(|one| words(&one.status)).collect()
    }

    /// Spends the account's budget for creates.
    async fn exhaust(&self) {
        let soon = || self.clock.moment().plus(Duration::from_millis(10));
        while let Ok(admission) = self.account.admit(Class::Create, soon()).await {
            admission.ends();
        }
    }

    /// Lets reads fail until the breaker, whose pauses have jitter, is open for that long.
    async fn fail_until_the_breaker_holds_for(&self, time: Duration) {
        for _ in 0..100 {
            match self.account.try_admit(Class::Poll).await {
                Ok(mut admission) => {
                    self.wire.answer_reads([Reply::NotConnected]);
                    let request = Request::new(::http::Method::GET, ["any"]);
                    let read = |_: &Response, _| Ok(());
                    let asked = self.account.read(&mut admission, request, read).await;
                    assert!(asked.said.is_err());
                }
                Err(refusal) => {
                    let left = refusal.retry_at().since(self.clock.moment());
                    if left > time {
                        return;
                    }
                    self.pass(left).await;
                }
            }
        }
        panic!("the breaker never held for {time:?}");
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// A status in the words of the contract: state, attention after `!`, finality unless it is OPEN.
fn words(status: &Status) -> String {
    let mut words = status.state.as_str().to_owned();
    if let Some(reason) = status.attention_reason() {
        words.push('!');
        words.push_str(reason.as_str());
    }
    if status.finality != Finality::Open {
        words.push(' ');
        words.push_str(status.finality.as_str());
    }
    words
}

/// A failed create: its kind in one word, true if it names a purchase, and the wait that it tells.
fn failure(result: &Result<Created, CreateError>) -> (&'static str, bool, Option<Moment>) {
    match result {
        Ok(_) => ("created", true, None),
        Err(CreateError::KeyReused { .. }) => ("key reused", true, None),
        Err(CreateError::FingerprintKeyGone) => ("fingerprint key gone", false, None),
        Err(CreateError::Rejected { .. }) => ("rejected", true, None),
        Err(CreateError::Unheard { why, purchase }) => {
            (unheard(why), purchase.is_some(), why.retry_at())
        }
        Err(CreateError::ReferenceUnknown) => ("reference unknown", false, None),
        Err(CreateError::ReferenceTaken) => ("reference taken", false, None),
        Err(CreateError::Journal { purchase }) => ("journal", purchase.is_some(), None),
        Err(CreateError::DeadlineExceeded) => ("deadline", false, None),
        Err(CreateError::Draining { purchase }) => ("draining", purchase.is_some(), None),
        Err(CreateError::TooManyOpen { .. }) => ("too many open", false, None),
        Err(CreateError::Internal) => ("internal", false, None),
    }
}

/// The reason, in one word, why the provider was not heard.
fn unheard(why: &Unheard) -> &'static str {
    match why {
        Unheard::Refused(Refusal::Throttled { .. } | Refusal::Busy { .. })
        | Unheard::Trouble {
            trouble: Trouble::Throttled { .. },
            ..
        } => "throttled",
        Unheard::Refused(Refusal::Unreachable { .. }) => "unreachable",
        Unheard::Refused(Refusal::Unauthorized { .. })
        | Unheard::Trouble {
            trouble: Trouble::Unauthorized,
            ..
        } => "unauthorized",
        Unheard::Trouble { .. } => "unreachable",
        Unheard::Refused(Refusal::BudgetUnkept { .. }) | Unheard::Journal(_) => "journal",
        Unheard::AccountMissing => "account missing",
        Unheard::NotOwned => "not owned",
        Unheard::Draining => "draining",
    }
}

#[track_caller]
fn kind(result: &Result<Created, CreateError>) -> &'static str {
    failure(result).0
}
