//! The demo: sandbox, server and client in one process; or several processes of the server on one
//! database, of which it kills one in the middle.
//!
//! It creates one purchase at each provider through the public gRPC port, as any caller would, and
//! follows each to its end. What it shows goes to a [`Page`]; `main` alone owns the real output.

mod balancer;
mod orders;
mod page;
mod replicas;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod within;

use std::{future::Future, io, pin::pin, time::Duration};

use jiff::Timestamp;
use tillwatch::{
    Client, Config, WatchEvent, WatchOptions,
    proto::v1::{CreatePurchaseRequest, Finality, PurchaseState, PurchaseStatus, Transition},
};
use tillwatch_sandbox::{PROVIDERS, Sandbox, Scenario};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use service::Service;

pub(crate) use orders::SCENARIOS;
pub(crate) use page::Page;
pub(crate) use replicas::Wish;
pub(crate) use service::ServiceError;

/// A purchase that takes this much longer than its life at the provider counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// The part of the longest life after which a replica is killed, if there are several.
const KILLED_AFTER: f64 = 0.3;
/// The events that the page has not shown yet; a follower waits when it is full.
const NEWS_MAX: usize = 64;

/// The user's wishes.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The server listens at the first of these addresses that is free.
    pub(crate) listen: Vec<String>,
    /// The purchases live this many times faster than written.
    pub(crate) speed: f64,
    /// The scenario of all five; absent: a mix.
    pub(crate) scenario: Option<Scenario>,
    /// Several processes on one database; absent: one server within this process.
    pub(crate) replicas: Option<Wish>,
    /// Go on serving afterwards.
    pub(crate) keep: bool,
    /// The call of the `tillwatch` command here.
    pub(crate) command: String,
}

/// The user's wish, made known by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// The end of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All five reached their end, and nothing was lost.
    Well,
    /// Something was lost; the page says what.
    Lost,
    /// It was stopped before the end.
    Stopped(Stop),
}

impl Ended {
    /// Its exit code: the shells' number of the signal that ended it, if a signal did.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Lost => 1,
            Self::Stopped(Stop::Interrupt) => 130,
            Self::Stopped(Stop::Terminate) => 143,
        }
    }
}

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The sandbox could not start.
    #[error("cannot start the sandbox")]
    Sandbox(#[source] io::Error),
    /// The server could not start or stop.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The client refuses the server's address.
    #[error("cannot call the server")]
    Client(#[from] tillwatch::Error),
    /// Nothing can be shown.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// The addresses of everything.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    address: &'a str,
    /// The address at which the server would have listened, were it free.
    taken: Option<&'a str>,
    /// The number of processes behind it, if there are several.
    replicas: Option<usize>,
    sandbox: String,
    speed: f64,
    command: &'a str,
}

impl Setting<'_> {
    /// The `tillwatch` command with these words.
    fn tillwatch(&self, words: &str) -> String {
        format!("{} --server {} {words}", self.command, self.address)
    }

    /// A `grpcurl` call of this method; an empty message is left out.
    fn grpcurl(&self, method: &str, message: &str) -> String {
        let data = match message {
            "" => String::new(),
            message => format!("-d '{message}' "),
        };
        format!(
            "grpcurl -plaintext {data}{} tillwatch.v1.PurchaseService/{method}",
            self.address
        )
    }
}

/// A purchase, as far as its stream has told.
#[derive(Debug)]
pub(crate) struct Purchase {
    provider: &'static str,
    states: Vec<PurchaseState>,
    last: Option<PurchaseStatus>,
    first_observed: Option<Timestamp>,
    took: Duration,
    requests: u64,
    lost: Vec<String>,
    ended: bool,
}

impl Purchase {
    fn of(provider: &'static str) -> Self {
        Self {
            provider,
            states: Vec::new(),
            last: None,
            first_observed: None,
            took: Duration::ZERO,
            requests: 0,
            lost: Vec::new(),
            ended: false,
        }
    }

    /// The newest revision.
    fn revisions(&self) -> u32 {
        self.last.as_ref().map_or(0, |last| last.revision)
    }

    fn state(&self) -> PurchaseState {
        self.last
            .as_ref()
            .map_or(PurchaseState::Unspecified, PurchaseStatus::state)
    }

    /// Takes the next revision in, which has to be the next indeed.
    fn take(&mut self, status: PurchaseStatus) {
        let expected = self.revisions().saturating_add(1);
        if status.revision != expected {
            let came = status.revision;
            self.lost
                .push(format!("revision {came} came in place of {expected}"));
        }
        let observed = page::observed(&status);
        self.first_observed = self.first_observed.or(observed);
        if let Some((from, to)) = self.first_observed.zip(observed) {
            self.took = Duration::try_from(to.duration_since(from)).unwrap_or_default();
        }
        self.states.push(status.state());
        self.last = Some(status);
    }

    /// Compares what the stream has told with what the provider has seen.
    fn settle(&mut self, sandbox: &Sandbox) {
        self.requests = sandbox.calls(self.provider);
        let is_open = self.last.as_ref().is_none_or(|last| {
            let finality = last.finality();
            !matches!(finality, Finality::Terminal | Finality::Final)
        });
        let revision = self.revisions();
        if !self.ended && self.lost.is_empty() {
            self.lost
                .push(format!("its stream stands at revision {revision}"));
        } else if self.ended && is_open {
            self.lost.push(format!(
                "its stream ended at revision {revision}, which is no end"
            ));
        }
        let created = sandbox.created(self.provider);
        if created != 1 {
            self.lost.push(format!(
                "the provider has {created} purchases in place of 1"
            ));
        }
    }
}

/// The news of a follower.
#[derive(Debug)]
enum News {
    Transition(Box<Transition>),
    Note(String),
    Lost(String),
    Ended,
}

/// Shows the demo, until its end or until `stop`.
pub(crate) async fn run(
    options: &Options,
    page: &mut Page<'_>,
    stop: impl Future<Output = Stop>,
) -> Result<Ended, DemoError> {
    let sandbox = Sandbox::start(tillwatch_sandbox::Options {
        speed: options.speed,
        // A database that is used again knows the ids of an earlier demo.
        seed: options.replicas.as_ref().map_or(0, |_| seed()),
        // The demo polls far faster than the provider would like.
        devdraft_calls_per_window: 0,
        ..tillwatch_sandbox::Options::default()
    })
    .await
    .map_err(DemoError::Sandbox)?;
    let mut service = Service::start(&sandbox, options).await?;
    let shown = show(options, &sandbox, &mut service, page, stop).await;
    service.stop().await?;
    sandbox.stop().await;
    let ended = shown?;
    if let Ended::Stopped(_) = ended {
        page.stopped()?;
    }
    Ok(ended)
}

/// Another one each time.
fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

async fn show(
    options: &Options,
    sandbox: &Sandbox,
    service: &mut Service,
    page: &mut Page<'_>,
    stop: impl Future<Output = Stop>,
) -> Result<Ended, DemoError> {
    let address = service.address().to_owned();
    let setting = Setting {
        address: &address,
        taken: options
            .listen
            .first()
            .filter(|wished| !wished.ends_with(":0") && **wished != address)
            .map(String::as_str),
        replicas: service.replicas(),
        sandbox: format!("http://{}", sandbox.address()),
        speed: options.speed,
        command: &options.command,
    };
    page.head(&setting)?;
    let clients = connect(&address)?;
    let began = Instant::now();
    let mut purchases = PROVIDERS.map(Purchase::of);
    let mut stop = pin!(stop);
    tokio::select! {
        followed = follow_all(options, clients, service, page, &mut purchases) => followed?,
        stop = &mut stop => return Ok(Ended::Stopped(stop)),
    }
    for purchase in &mut purchases {
        purchase.settle(sandbox);
    }
    page.table(&purchases, began.elapsed())?;
    if options.keep {
        let newest = purchases
            .iter()
            .rev()
            .find_map(|purchase| purchase.last.as_ref());
        page.kept(&setting, newest.map_or("", |status| &status.purchase_id))?;
        stop.await;
    }
    Ok(
        match purchases.iter().all(|purchase| purchase.lost.is_empty()) {
            true => Ended::Well,
            false => Ended::Lost,
        },
    )
}

/// Creates the five and shows what their streams tell, until all have ended or time is up.
async fn follow_all(
    options: &Options,
    clients: Vec<Client>,
    service: &mut Service,
    page: &mut Page<'_>,
    purchases: &mut [Purchase],
) -> Result<(), DemoError> {
    let life = orders::longest_life(options.scenario).div_f64(options.speed);
    let limit = Instant::now() + life + PATIENCE;
    let mut kill = pin!(tokio::time::sleep(life.mul_f64(KILLED_AFTER)));
    let mut is_whole = service.replicas().is_some();
    let (news, mut told) = mpsc::channel(NEWS_MAX);
    // Dropped with this set, followers end with it.
    let mut followers = JoinSet::new();
    for (provider, client) in PROVIDERS.into_iter().zip(clients) {
        let (news, chosen) = (news.clone(), options.scenario);
        followers.spawn(async move {
            let last = match follow(&client, provider, chosen, &news).await {
                Ok(()) => News::Ended,
                Err(why) => News::Lost(why),
            };
            // The page is gone: nobody is left to tell.
            let _ = news.send((provider, last)).await;
        });
    }
    drop(news);
    loop {
        let told = tokio::select! {
            told = timeout_at(limit, told.recv()) => told,
            () = &mut kill, if is_whole => {
                is_whole = false;
                if let Some(killed) = service.kill_one().await? {
                    page.killed(&killed)?;
                }
                continue;
            }
        };
        let Ok(Some((provider, news))) = told else {
            return Ok(());
        };
        let mut shown = purchases.iter_mut();
        let Some(purchase) = shown.find(|purchase| purchase.provider == provider) else {
            continue;
        };
        match news {
            News::Transition(step) => {
                page.transition(provider, purchase.last.as_ref(), &step)?;
                if let Some(status) = step.status {
                    purchase.take(status);
                }
            }
            News::Note(note) => page.note(provider, &note)?,
            News::Lost(why) => purchase.lost.push(why),
            News::Ended => purchase.ended = true,
        }
    }
}

/// A client for each purchase: each has a connection of its own, and so a replica of its own.
fn connect(address: &str) -> Result<Vec<Client>, tillwatch::Error> {
    let client = |_provider| Client::connect(Config::new(address));
    PROVIDERS.iter().map(client).collect()
}

/// Creates one purchase and tells what its stream says, until the service ends it.
async fn follow(
    client: &Client,
    provider: &'static str,
    chosen: Option<Scenario>,
    news: &mpsc::Sender<(&'static str, News)>,
) -> Result<(), String> {
    let scenario = orders::scenario(chosen, provider);
    let now = Timestamp::now();
    // The database may know the purchases of an earlier demo.
    let key = format!("demo-{provider}-{}", now.as_millisecond());
    let order = orders::order(provider, scenario, &key, now);
    let created = client
        .create(CreatePurchaseRequest {
            idempotency_key: key,
            labels: [("shop".to_owned(), "demo".to_owned())].into(),
            order,
            ..CreatePurchaseRequest::default()
        })
        .await
        .map_err(|error| format!("not created: {error}"))?;
    let id = created
        .purchase
        .map(|purchase| purchase.id)
        .unwrap_or_default();
    let mut watch = client.watch(
        id,
        WatchOptions {
            after_revision: Some(0),
            ..WatchOptions::default()
        },
    );
    while let Some(event) = watch.next().await {
        let told = match event.map_err(|error| format!("its stream broke: {error}"))? {
            WatchEvent::Transition(step) => News::Transition(Box::new(step)),
            WatchEvent::Interrupted { error, .. } => {
                News::Note(format!("lost the server ({error}); resuming"))
            }
            _ => continue,
        };
        if news.send((provider, told)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
