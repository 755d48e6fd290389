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
    journal::{
        Alone, AloneBoard, AloneBudgets, Board, Budgets, Journal, JournalError, Ownership,
        ReplicaId,
        memory::{Chances, MemoryBoard, MemoryBudgets, MemoryJournal, MemoryOwnership},
    },
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
    board::MortalBoard,
    fences::Fences,
    limits,
    providers::Sender,
    seat::{MortalBudgets, MortalOwnership},
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
    /// Its clocks.
    machine: Clock,
    /// Its opening of the store.
    opened: Arc<MemoryJournal>,
    /// Its number in the network.
    server: u64,
}

/// The parts of a process that depend on whether others share the store.
struct Place {
    machine: Clock,
    clock: Clock,
    life: Life,
    opened: Arc<MemoryJournal>,
    journal: Arc<dyn Journal>,
    ownership: Arc<dyn Ownership>,
    budgets: Arc<dyn Budgets>,
    board: Arc<dyn Board>,
    fences: Option<(Fences, ReplicaId)>,
}

impl Process {
    /// Starts over what the store holds, as its only process.
    pub async fn start(world: &World, number: u64) -> Self {
        let clock = world.machine.restarted();
        let life = Life::new();
        let opened = Arc::new(world.journal.reopened());
        let mortal = Mortal::new(Arc::clone(&opened), life.clone(), seed(world, number), None);
        let journal: Arc<dyn Journal> = Arc::new(mortal);
        let place = Place {
            machine: world.machine.clone(),
            opened,
            ownership: Arc::new(Alone::default()),
            budgets: Arc::new(AloneBudgets::new(&journal, &clock)),
            board: Arc::new(AloneBoard),
            journal,
            clock,
            life,
            fences: None,
        };
        Self::open(world, number, place).await.unwrap()
    }

    /// Starts over what the store holds, beside other processes, on a machine of its own.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn join(
        world: &World,
        fences: &Fences,
        machine: &Clock,
        number: u64,
    ) -> Result<Self, JournalError> {
        let name = format!("replica{number}");
        let replica = ReplicaId::new(&name);
        let seed = seed(world, number);
        let clock = machine.restarted();
        let opened = Arc::new(world.journal.shared(Chances {
            seed: seed ^ 0x7461,
            delay_max: Duration::from_millis(30),
            read_every: Duration::from_millis(1_000),
            hints_lost: 100,
            answers_lost: 5,
        }));
        let life = Life::new();
        let judged = Some((fences.clone(), replica.clone()));
        let journal = Mortal::new(Arc::clone(&opened), life.clone(), seed, judged.clone());
        let leases = MemoryOwnership::new(&opened, &world.store_clock, &name);
        let ownership = MortalOwnership::new(leases, life.clone(), fences.clone(), seed ^ 0x6c65);
        let budgets = MemoryBudgets::new(&opened, &world.store_clock, &replica, &clock);
        let budgets = MortalBudgets::new(budgets, life.clone(), seed ^ 0x6275);
        let board = MemoryBoard::new(&opened, &world.store_clock, &replica, &clock);
        let board = MortalBoard::new(board, life.clone(), seed ^ 0x626f);
        let place = Place {
            machine: machine.clone(),
            clock,
            life,
            opened,
            journal: Arc::new(journal),
            ownership: Arc::new(ownership),
            budgets: Arc::new(budgets),
            board: Arc::new(board),
            fences: judged,
        };
        Self::open(world, number, place).await
    }

    async fn open(world: &World, number: u64, place: Place) -> Result<Self, JournalError> {
        let Place {
            clock,
            life,
            budgets,
            ..
        } = place;
        let sender = Sender {
            life: life.clone(),
            fences: place.fences,
        };
        let accounts = accounts(world, &clock, &budgets, &sender).await;
        let parts = Parts {
            clock,
            journal: place.journal,
            ownership: place.ownership,
            budgets,
            board: place.board,
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
        let house = House::open(parts).await?;
        let router = listener::server()
            .layer(MapResponseLayer::new(dated))
            .layer(PanicLayer)
            .layer(grpc::DeadlineLayer)
            .add_service(house.service())
            .add_service(house.health());
        let (server, incoming) = world.network.listen();
        let incoming = UnboundedReceiverStream::new(incoming);
        let serving = tokio::spawn(async move {
            drop(router.serve_with_incoming(incoming).await);
        });
        Ok(Self {
            house,
            life,
            serving,
            machine: place.machine,
            opened: place.opened,
            server,
        })
    }

    /// The process is gone from one moment to the next.
    pub fn kill(self, world: &World) {
        self.life.end();
        self.serving.abort();
        world.network.close(self.server);
    }

    /// The process ends as a SIGTERM asks it to.
    pub async fn drain(self, world: &World) {
        world.network.disturbed_now();
        let drained = tokio::time::timeout(Duration::from_secs(20), self.house.drain()).await;
        drop(drained);
        self.life.end();
        self.serving.abort();
        world.network.close(self.server);
    }

    /// The process is stopped for so long, and then goes on: its clocks have stood still, and jump.
    pub fn stop(&self, world: &World, duration: Duration) {
        self.stopping(world, duration)();
    }

    /// The same in the middle of its next write under a fence: what it has decided comes late.
    pub fn stop_in_write(&self, world: &World, duration: Duration) {
        self.life.at_next_write(self.stopping(world, duration));
    }

    fn stopping(&self, world: &World, duration: Duration) -> impl FnOnce() + Send + use<> {
        let (machine, life) = (self.machine.clone(), self.life.clone());
        let (network, server) = (world.network.clone(), self.server);
        move || {
            machine.stop_for(duration);
            life.stop_for(duration);
            network.stop(server, duration);
        }
    }

    /// True while it is stopped.
    pub fn is_stopped(&self) -> bool {
        self.life.is_stopped()
    }

    /// Its opening of the store.
    pub fn opened(&self) -> &Arc<MemoryJournal> {
        &self.opened
    }
}

/// The seed of a process's own accidents.
fn seed(world: &World, number: u64) -> u64 {
    world.seed ^ (number << 32)
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
    sender: &Sender,
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
        if let Some(limit) = limits::requests_per_minute(name, world.is_shared) {
            policy.requests_per_minute = limit;
        }
        if name == "phygitals" {
            policy.schedule = Schedule::of(&[(60, 1)], 10_000);
            policy.creates_per_minute = limits::CREATES_OF_PHYGITALS;
        }
        if name == "carbon" {
            policy.schedule = Schedule::of(&[(300, 5)], 60_000);
        }
        let (providers, sender) = (Arc::clone(&world.providers), sender.clone());
        let upstream = Scripted::new(move |request| {
            Arc::clone(&providers).answer(name, request, sender.clone())
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
