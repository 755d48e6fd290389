//! One life of the server process: the whole house over the store, the providers and the network.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderValue, Response, header::DATE};
use tillwatch_server::{
    House, Parts,
    account::{Account, Accounts, Settings},
    audit::Audit,
    cadence::Schedule,
    clock::Clock,
    fingerprint::Keyring,
    grpc,
    identity::{Caller, CallerLimits, Callers, Directory, Grant, Scope},
    journal::{Alone, AloneBudgets, Budgets, Journal},
    listener::{self, PanicLayer},
    provider,
    purchase::{AccountName, CallerName, Secret},
    upstream::scripted::Scripted,
};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::util::MapResponseLayer;

use crate::{
    World,
    store::{Life, Mortal},
    words::PROVIDERS,
};

/// The time for which a terminal status is followed in a run.
pub const HORIZON: Duration = Duration::from_secs(1_800);

/// A running server.
pub struct Process {
    house: House,
    life: Life,
    serving: JoinHandle<()>,
}

impl Process {
    /// Starts over what the store holds.
    pub async fn start(world: &World, number: u64) -> Self {
        let life = Life::new();
        let opened = world.journal.reopened();
        world.commits.note(&opened, &world.clock);
        let clock = world.machine.restarted();
        let journal: Arc<dyn Journal> = Arc::new(Mortal::new(
            opened,
            life.clone(),
            world.seed ^ (number << 32),
        ));
        let budgets: Arc<dyn Budgets> = Arc::new(AloneBudgets::new(&journal, &clock));
        let accounts = accounts(world, &clock, &budgets, &life).await;
        let parts = Parts {
            clock,
            journal,
            ownership: Arc::new(Alone::default()),
            budgets,
            keyring: Keyring::parse(&Keyring::new_file("k1", [7; 32])).unwrap(),
            accounts,
            callers: Directory::new(callers()),
            limits: grpc::StreamBounds {
                streams: 10_000,
                stream_age: (number % 2 == 1).then_some(Duration::from_secs(600)),
            },
            retention: Duration::from_secs(90 * 86_400),
            audit: Audit::default(),
        };
        let house = House::open(parts).await.unwrap();
        let router = listener::server()
            .layer(MapResponseLayer::new(dated))
            .layer(PanicLayer)
            .layer(grpc::DeadlineLayer)
            .add_service(house.service())
            .add_service(house.health());
        let incoming = UnboundedReceiverStream::new(world.network.listen());
        let serving = tokio::spawn(async move {
            drop(router.serve_with_incoming(incoming).await);
        });
        Self {
            house,
            life,
            serving,
        }
    }

    /// The process is gone from one moment to the next.
    pub fn kill(self, world: &World) {
        self.life.end();
        self.serving.abort();
        world.network.close();
    }

    /// The process ends as a SIGTERM asks it to.
    pub async fn drain(self, world: &World) {
        world.network.disturbed_now();
        let drained = tokio::time::timeout(Duration::from_secs(20), self.house.drain()).await;
        drop(drained);
        self.life.end();
        self.serving.abort();
        world.network.close();
    }
}

/// The answer with a fixed date. hyper's own follows the machine's clock, and an answer's length on the
/// wire, by which connections break, depends on whether the date has changed since the one before.
fn dated<B>(mut response: Response<B>) -> Response<B> {
    let date = HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT");
    response.headers_mut().insert(DATE, date);
    response
}

async fn accounts(
    world: &World,
    clock: &Clock,
    budgets: &Arc<dyn Budgets>,
    life: &Life,
) -> Accounts {
    let mut opened = Vec::new();
    for name in PROVIDERS {
        let row = provider::registered(name).unwrap();
        let secrets: BTreeMap<String, Secret> = (row.secrets.iter())
            .map(|secret| ((*secret).to_owned(), Secret::new("simulated")))
            .collect();
        let mut policy = (row.policy)();
        policy.horizon = Some(HORIZON);
        policy.after_terminal = Schedule::of(&[], 120_000);
        if name == "phygitals" {
            policy.schedule = Schedule::of(&[(60, 1)], 10_000);
            policy.creates_per_minute = 6;
        }
        if name == "carbon" {
            policy.schedule = Schedule::of(&[(300, 5)], 60_000);
        }
        let (providers, life) = (Arc::clone(&world.providers), life.clone());
        let upstream = Scripted::new(move |request| {
            Arc::clone(&providers).answer(name, request, life.clone())
        });
        let account = Account::open(
            AccountName::new(name),
            Settings::new((row.build)(&secrets).unwrap(), policy, Arc::new(upstream)),
            clock.clone(),
            budgets,
        );
        opened.push(account.await);
    }
    Accounts::new(opened)
}

fn callers() -> Callers {
    let grant = Grant {
        name: CallerName::new("shop"),
        scopes: [Scope::Create, Scope::Adopt, Scope::Read, Scope::Operate].into(),
        accounts: None,
        limits: CallerLimits::default(),
    };
    Callers::default().with(Caller::new(grant), &[], true)
}
