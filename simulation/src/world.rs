//! One run: the world, the storm over it, the quiet after it.

use std::{
    collections::BTreeMap,
    future::Future,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tillwatch_proto::v1::{
    CarbonReference, DevdraftReference, InabitReference, MasumiReference, NotCreated,
    PhygitalsReference, ProviderReference, ResolvePurchaseRequest,
    provider_reference::Reference as Named, purchase_service_client::PurchaseServiceClient,
    resolve_purchase_request::Resolution,
};
use tillwatch_server::{
    clock::Clock,
    journal::{Journal as _, Record, memory::MemoryJournal},
    purchase::{PurchaseId, Revision, State, Timestamp},
};
use tokio::{sync::SetOnce, task::JoinSet, time::Instant};
use tonic::transport::{Channel, Endpoint};

use crate::{
    buyer::{self, Acknowledged},
    check,
    fences::{self, Fences},
    ledger::{Pages, Sold},
    network::Network,
    process::Process,
    providers::Providers,
    replicas::{Faults, Replicas},
    watcher::{self, Fed},
};

/// 2026-07-01T10:00:00Z.
const START_MS: i64 = 1_782_900_000_000;
/// The time in which everything goes wrong.
const STORM: Duration = Duration::from_secs(2_400);
/// All has to be over this long after the storm: pay-by times, their hour of grace, the horizon.
const QUIET_MAX: Duration = Duration::from_secs(12 * 3_600);
/// Connections that callers share.
const CHANNELS: u64 = 4;

/// The size of a run, and the promises broken in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Broken promises; none if all is well.
    pub violations: Vec<String>,
    /// Purchases in the journal at its end.
    pub purchases: u64,
    /// Their revisions.
    pub revisions: u64,
    /// Streams that were opened.
    pub streams: u64,
    /// Messages that watchers had.
    pub messages: u64,
    /// Watchers' histories that were followed to their end.
    pub histories: u64,
    /// Creates that reached a provider.
    pub creates: u64,
    /// Times that the server began anew.
    pub restarts: u64,
    /// Times that a machine's wall clock was set.
    pub clock_steps: u64,
    /// Things that happened to processes, if several share the store.
    pub faults: Faults,
    /// Leases, polls and refused writes, if several processes share the store.
    pub fences: fences::Tally,
    /// The lists' pages, by provider.
    pub pages: BTreeMap<&'static str, Pages>,
    /// Equal for equal runs.
    pub digest: u64,
}

impl Outcome {
    /// Adds the figures of several processes of another run.
    pub fn add_replicas(&mut self, other: &Self) {
        self.faults.stops += other.faults.stops;
        self.faults.cuts += other.faults.cuts;
        self.faults.outages += other.faults.outages;
        self.faults.emptied += other.faults.emptied;
        self.fences.takeovers += other.fences.takeovers;
        self.fences.polls += other.fences.polls;
        self.fences.refused += other.fences.refused;
    }
}

/// The times at which revisions were committed, by the true clock. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Commits(Arc<Mutex<BTreeMap<(PurchaseId, u32), Timestamp>>>);

impl Commits {
    /// Notes everything that is committed to a store.
    fn note(&self, journal: &MemoryJournal, clock: &Clock) {
        let (noted, clock) = (Arc::clone(&self.0), clock.clone());
        journal.observe_store(Arc::new(move |committed| {
            let now = clock.now();
            let mut noted = noted.lock().unwrap();
            for one in committed {
                noted.insert((one.purchase.id, one.purchase.status.revision.0), now);
            }
        }));
    }

    /// The time at which a revision was committed.
    pub fn time(&self, purchase: PurchaseId, revision: Revision) -> Timestamp {
        self.0.lock().unwrap()[&(purchase, revision.0)]
    }
}

/// Everything that the actors of a run share.
pub struct World {
    pub seed: u64,
    /// The true time, by which providers and callers live.
    pub clock: Clock,
    /// The clocks of the server's machine, whose wall somebody sets in one seed of two. Of several processes
    /// each has a machine of its own.
    pub machine: Clock,
    /// The clock of a store that several processes share.
    pub store_clock: Clock,
    /// The times at which that was set forth, by the true clock.
    store_steps: Mutex<Vec<Timestamp>>,
    /// True if several processes share the store.
    pub is_shared: bool,
    /// The time at which each revision was committed, by the true clock.
    pub commits: Commits,
    /// The disk.
    pub journal: Arc<MemoryJournal>,
    pub network: Network,
    pub providers: Arc<Providers>,
    random: Mutex<StdRng>,
    channels: Vec<Channel>,
    actors: Mutex<JoinSet<()>>,
    outcome: Mutex<Outcome>,
    acknowledged: Mutex<Vec<Acknowledged>>,
    quiet: SetOnce<()>,
    is_over: AtomicBool,
}

/// Runs a seed with one process from its beginning to its end, checks included.
pub fn run(seed: u64) -> Outcome {
    run_with(seed, false)
}

/// Runs a seed with several processes on one store.
pub fn run_replicas(seed: u64) -> Outcome {
    run_with(seed, true)
}

fn run_with(seed: u64, is_shared: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(simulate(seed, is_shared))
}

/// The processes of a run.
enum Service {
    Alone(Box<Process>),
    Shared(Replicas, Fences),
}

impl Service {
    async fn start(world: &World) -> Self {
        match world.is_shared {
            false => Self::Alone(Box::new(Process::start(world, 0).await)),
            true => {
                let fences = Fences::new(Arc::clone(&world.journal));
                Self::Shared(Replicas::start(world, &fences).await, fences)
            }
        }
    }

    async fn storm(self, world: &Arc<World>) -> Self {
        match self {
            Self::Alone(process) => Self::Alone(Box::new(storm(world, *process).await)),
            Self::Shared(mut replicas, fences) => {
                replicas.storm(world).await;
                Self::Shared(replicas, fences)
            }
        }
    }

    fn end(self, world: &World) {
        match self {
            Self::Alone(process) => process.kill(world),
            Self::Shared(replicas, fences) => {
                let (restarts, faults) = replicas.end(world);
                let (tally, violations) = fences.seen();
                let mut outcome = world.outcome.lock().unwrap();
                (outcome.restarts, outcome.faults) = (restarts, faults);
                outcome.fences = tally;
                outcome.violations.extend(violations);
            }
        }
    }
}

async fn simulate(seed: u64, is_shared: bool) -> Outcome {
    let world = Arc::new(World::new(seed, is_shared));
    let follower = tokio::spawn(watcher::follow_all(Arc::clone(&world)));
    let mut service = Service::start(&world).await;
    buyer::spawn_all(&world);
    service = service.storm(&world).await;
    world.providers.calm();
    world.journal.fail_writes(false);
    world.put_clocks_right();
    world.quiet.set(()).unwrap();
    let limit = Instant::now() + QUIET_MAX;
    let mut settles = Instant::now() + Duration::from_secs(1_800);
    while Instant::now() < limit && !world.is_settled().await {
        tokio::time::sleep(Duration::from_secs(60)).await;
        if Instant::now() >= settles {
            settle_by_hand(&world).await;
            settles = Instant::now() + Duration::from_secs(600);
        }
    }
    if !world.is_settled().await {
        let running = world.actors.lock().unwrap().len();
        world.violation(format!("P5: not over in time; {running} actors wait"));
    }
    world.is_over.store(true, Ordering::SeqCst);
    let fed = follower.await.unwrap();
    let acknowledged = std::mem::take(&mut *world.acknowledged.lock().unwrap());
    check::run(&world, &fed, &acknowledged).await;
    service.end(&world);
    world.outcome(&fed).await
}

/// Everything that can go wrong, goes wrong.
async fn storm(world: &Arc<World>, mut process: Process) -> Process {
    let ends = Instant::now() + STORM;
    let mut number = 0;
    while Instant::now() < ends {
        let calm = Duration::from_millis(world.number(240_000));
        tokio::time::sleep(calm).await;
        if world.sets_clock() && world.number(3) == 0 {
            world.set_clock(&world.machine);
        }
        match world.number(8) {
            0 | 1 => world.network.part(world.millis(45_000)),
            2 => world.network.cut(0.5),
            3 if world.number(2) == 0 => {
                world.journal.stall_writes(true);
                tokio::time::sleep(world.millis(30_000)).await;
                world.journal.stall_writes(false);
            }
            3 => {
                world.journal.fail_writes(true);
                tokio::time::sleep(world.millis(15_000)).await;
                world.journal.fail_writes(false);
            }
            4 => {
                process.drain(world).await;
                number += 1;
                process = Process::start(world, number).await;
                world.network.disturbed_now();
            }
            _ => {
                process.kill(world);
                number += 1;
                if world.number(2) == 0 {
                    tokio::time::sleep(world.millis(40_000)).await;
                }
                if world.sets_clock() && world.number(4) == 0 {
                    world.machine.reboot();
                }
                process = Process::start(world, number).await;
                world.network.disturbed_now();
            }
        }
    }
    world.outcome.lock().unwrap().restarts = number;
    process
}

/// An operator's work on purchases that cannot be settled otherwise: a look at the provider.
async fn settle_by_hand(world: &Arc<World>) {
    for record in world.open_records().await {
        let status = &record.purchase.status;
        if status.state != State::OutcomeUnknown || status.reference.is_some() {
            continue;
        }
        let provider = record.purchase.provider.clone();
        let mark = &*record.purchase.idempotency_key;
        let sold = (world.providers.ledger().of_mark(&provider, mark)).cloned();
        let resolution = match sold {
            Some(sold) => Resolution::Reference(reference(&sold)),
            None => Resolution::NotCreated(NotCreated {
                note: "nothing there".to_owned(),
            }),
        };
        let request = ResolvePurchaseRequest {
            purchase_id: record.purchase.id.to_string(),
            expected_revision: status.revision.0,
            resolution: Some(resolution),
        };
        drop(world.client().resolve_purchase(request).await);
    }
}

fn reference(sold: &Sold) -> ProviderReference {
    let id = sold.reference.clone();
    let named = match sold.provider {
        "phygitals" => Named::Phygitals(PhygitalsReference { session_id: id }),
        "masumi" => Named::Masumi(MasumiReference {
            blockchain_identifier: id,
            network: "Preprod".to_owned(),
        }),
        "inabit" => Named::Inabit(InabitReference { purchase_id: id }),
        "carbon" => Named::Carbon(CarbonReference {
            order_id: id,
            contact_id: "ab5b0000-0000-4000-8000-000000000001".to_owned(),
        }),
        "devdraft" => Named::Devdraft(DevdraftReference { transaction_id: id }),
        other => panic!("{other} is not simulated"),
    };
    ProviderReference {
        reference: Some(named),
    }
}

impl World {
    fn new(seed: u64, is_shared: bool) -> Self {
        let start = Timestamp::from_millis(START_MS).unwrap();
        let clock = Clock::simulated(start, seed ^ 0x7472);
        let machine = Clock::simulated(start, seed);
        let journal = Arc::new(MemoryJournal::new("simulated"));
        let network = Network::new(seed ^ 0x6e65);
        let providers = Providers::new(seed ^ 0x7072, clock.clone(), Arc::clone(&journal));
        let channels = (0..CHANNELS).map(|_| channel(&network)).collect();
        let commits = Commits::default();
        commits.note(&journal, &clock);
        Self {
            seed,
            clock,
            machine,
            store_clock: Clock::simulated(start, seed ^ 0x7374),
            store_steps: Mutex::default(),
            is_shared,
            commits,
            journal,
            network,
            providers,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            channels,
            actors: Mutex::default(),
            outcome: Mutex::new(Outcome {
                seed,
                ..Outcome::default()
            }),
            acknowledged: Mutex::default(),
            quiet: SetOnce::new(),
            is_over: AtomicBool::new(false),
        }
    }

    /// The clock of one more machine.
    pub fn new_clock(&self, number: u64) -> Clock {
        let start = Timestamp::from_millis(START_MS).unwrap();
        Clock::simulated(start, self.seed ^ (number << 40))
    }

    /// True if somebody sets wall clocks in this run: of the server's machine, or of all machines and the
    /// store that they share.
    pub fn sets_clock(&self) -> bool {
        self.seed % 2 == 1
    }

    /// True if the clock by which the service lives can be wrong in this run: the machine's, or the store's.
    pub fn has_wrong_clock(&self) -> bool {
        self.sets_clock() || self.is_shared
    }

    /// Sets a machine's wall clock forth or back, by seconds to years.
    pub fn set_clock(&self, machine: &Clock) {
        machine.step_wall(self.step_ms());
        self.outcome.lock().unwrap().clock_steps += 1;
    }

    /// A step of a clock, forth or back, of seconds to years.
    fn step_ms(&self) -> i64 {
        let most_s = [60, 1_800, 86_400, 3 * 365 * 86_400][self.number(4) as usize];
        let step_ms = self.number(most_s * 1_000) as i64;
        match self.number(2) {
            0 => step_ms,
            _ => -step_ms,
        }
    }

    /// The clocks by which the service lives tell the true time again.
    fn put_clocks_right(&self) {
        let wrong_ms = |clock: &Clock| clock.now().as_millis() - self.clock.now().as_millis();
        self.machine.step_wall(-wrong_ms(&self.machine));
        self.step_store_clock(-wrong_ms(&self.store_clock));
    }

    /// Sets the store's clock forth or back: by up to an hour, or as the machines' are set.
    pub fn set_store_clock(&self) {
        self.step_store_clock(match self.sets_clock() {
            true => self.step_ms(),
            false => self.number(2 * 3_600_000) as i64 - 3_600_000,
        });
    }

    fn step_store_clock(&self, step_ms: i64) {
        self.store_clock.step_wall(step_ms);
        if step_ms > 0 {
            self.store_steps.lock().unwrap().push(self.clock.now());
        }
    }

    /// The times that the store's clock was set forth between two times, both included.
    pub fn store_steps(&self, from: Timestamp, until: Timestamp) -> usize {
        let steps = self.store_steps.lock().unwrap();
        let within = |time: &&Timestamp| (from..=until).contains(*time);
        steps.iter().filter(within).count()
    }

    /// A number below `below` from the run's seed.
    pub fn number(&self, below: u64) -> u64 {
        self.random.lock().unwrap().random_range(0..below)
    }

    /// A time below so many milliseconds from the run's seed.
    pub fn millis(&self, below: u64) -> Duration {
        Duration::from_millis(self.number(below))
    }

    /// A client on one of the shared connections.
    pub fn client(&self) -> PurchaseServiceClient<Channel> {
        let place = self.number(CHANNELS) as usize;
        PurchaseServiceClient::new(self.channels[place].clone())
    }

    /// One more actor, for whose end the run waits.
    pub fn spawn(&self, actor: impl Future<Output = ()> + Send + 'static) {
        self.actors.lock().unwrap().spawn(actor);
    }

    /// A broken promise.
    pub fn violation(&self, text: String) {
        let now = self.clock.now();
        let mut outcome = self.outcome.lock().unwrap();
        outcome.violations.push(format!("{now} {text}"));
    }

    pub fn acknowledged(&self, acknowledged: Acknowledged) {
        self.acknowledged.lock().unwrap().push(acknowledged);
    }

    pub fn count_stream(&self) {
        self.outcome.lock().unwrap().streams += 1;
    }

    pub fn count_message(&self) {
        self.outcome.lock().unwrap().messages += 1;
    }

    pub fn count_history(&self) {
        self.outcome.lock().unwrap().histories += 1;
    }

    /// The time of day of a moment.
    pub fn time_of(&self, moment: Instant) -> Timestamp {
        self.clock.now().minus(moment.elapsed())
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet.initialized()
    }

    /// Returns once the storm is over.
    pub async fn quiet(&self) {
        self.quiet.wait().await;
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Records that are not FINAL.
    pub async fn open_records(&self) -> Vec<Record> {
        self.journal.open_records(None, 1_000).await.unwrap()
    }

    async fn is_settled(&self) -> bool {
        let mut failed = Vec::new();
        let is_empty = {
            let mut actors = self.actors.lock().unwrap();
            while let Some(ended) = actors.try_join_next() {
                if let Err(error) = ended {
                    failed.push(error.to_string());
                }
            }
            actors.is_empty()
        };
        for error in failed {
            self.violation(format!("an actor failed: {error}"));
        }
        is_empty && self.open_records().await.is_empty()
    }

    async fn outcome(&self, fed: &Fed) -> Outcome {
        let mut hasher = DefaultHasher::new();
        let mut outcome = self.outcome.lock().unwrap().clone();
        let (committed, _) = self
            .journal
            .tail(None, tillwatch_server::journal::Position(0), 1_000_000)
            .await
            .unwrap();
        for one in &committed {
            let status = &one.purchase.status;
            one.purchase.id.to_string().hash(&mut hasher);
            (status.revision.0, status.state.as_str()).hash(&mut hasher);
            status.observe_time.as_millis().hash(&mut hasher);
        }
        fed.by_purchase.hash(&mut hasher);
        let ledger = self.providers.ledger();
        (ledger.given.len(), ledger.sent.len(), outcome.messages).hash(&mut hasher);
        outcome.violations.extend(ledger.violations.iter().cloned());
        outcome.pages = ledger.pages.clone();
        outcome.creates = ledger.sent.len() as u64;
        outcome.revisions = committed.len() as u64;
        outcome.purchases = committed
            .iter()
            .filter(|one| one.from_state.is_none())
            .count() as u64;
        outcome.digest = hasher.finish();
        outcome
    }
}

/// A connection that is made anew whenever it is lost.
fn channel(network: &Network) -> Channel {
    let network = network.clone();
    Endpoint::from_static("http://simulated")
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        // h2 forgets reset streams by the machine's clock, and visits the others in an order that
        // depends on it. A run is over before this.
        .http2_reset_stream_duration(Duration::from_secs(86_400))
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let network = network.clone();
            async move { network.connect().await.map(TokioIo::new) }
        }))
}
