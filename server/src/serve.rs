//! The parts meet here and nowhere else: they are opened from the inside out, served, and closed from
//! the outside in.

mod accounts;
mod attempts;
mod backup;
mod certificates;
mod commits;
mod door;
mod exchange;
mod files;
mod follow;
mod front;
mod keys;
mod late;
mod loops;
mod metrics;
mod migrate;
mod probe;
mod process;
mod reload;
mod retention;
mod store;
mod supervisor;
mod tally;
mod tenures;
mod wall;
mod watch;

use std::{
    collections::BTreeSet, future::Future, io, path::PathBuf, pin::pin, sync::Arc, time::Duration,
};

use tillwatch_proto::{
    health::health_server::HealthServer, v1::purchase_service_server::PurchaseServiceServer,
};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    account::Accounts,
    audit::Audit,
    clock::Clock,
    config::{self, Config},
    exchange::Exchange,
    feed::Feed,
    fingerprint::{Keyring, KeyringError},
    grpc,
    health::{self, HealthService, Readiness},
    identity::{Caller, CallerLimits, Callers, Directory, Grant, Scope, Workload},
    intake::Intake,
    journal::{Board, Budgets, Journal, JournalError, Loss, Ownership},
    listener::{self, Listener},
    outlet::Target,
    ownership::{Owner, Tenures},
    progress::Progress,
    purchase::AccountName,
    tls::{Offered, ServerTls, ServerTlsError},
    tracker::Tracker,
};
use accounts::Configured;
pub use backup::back_up;
use front::{Front, health_server};
use loops::Loops;
pub use migrate::migrate;
pub use probe::{ProbeError, probe};
use reload::Changeable;
pub use reload::Reload;
use retention::retire;
pub use supervisor::{Supervisor, SupervisorError};
use tally::Tally;
use tenures::{Work, begin_loops};
use wall::Wall;
use watch::Watcher;

/// Open purchases read at once while recovering.
const RECOVERED_AT_ONCE: usize = 1_000;
/// The interval of looks at the wall clock while nothing else looks at it.
const CLOCK_LOOKED_AT_EVERY: Duration = Duration::from_secs(10);
/// The longest time for which a drain lets streams go on until the accounts are others'.
const MOVES_MAX: Duration = Duration::from_secs(2);

/// The reason why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The fingerprint keys cannot be used.
    #[error("cannot use the fingerprint keys in {path}")]
    Fingerprints {
        /// The file.
        path: PathBuf,
        /// Its fault.
        #[source]
        source: KeyringError,
    },
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// An account cannot be made of its settings.
    #[error("account {account}: {problem}")]
    Account {
        /// The account.
        account: AccountName,
        /// The fault.
        problem: String,
    },
    /// The files of the server's own TLS cannot be used.
    #[error("cannot use the files of listen.tls_cert, tls_key and tls_client_ca")]
    Tls(#[from] ServerTlsError),
    /// The thread that watches the loops did not start.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A backup of a journal in PostgreSQL is wanted.
    #[error(
        "the journal is in PostgreSQL, whose own tools make backups (pg_dump, or pg_basebackup with an \
         archive of the log); keep a copy of the file of store.fingerprint_key_file too"
    )]
    BackupElsewhere,
    /// The contract's descriptors are damaged, which a build cannot be.
    #[error("the contract's descriptors are damaged")]
    Descriptors,
}

/// The parts that a house is built of: the outside world, as a configuration or a simulation gives it.
#[derive(Debug)]
pub struct Parts {
    /// Time and ids.
    pub clock: Clock,
    /// The durable log.
    pub journal: Arc<dyn Journal>,
    /// The leases of accounts in the same store.
    pub ownership: Arc<dyn Ownership>,
    /// The budgets of accounts in the same store.
    pub budgets: Arc<dyn Budgets>,
    /// The board of the same store.
    pub board: Arc<dyn Board>,
    /// Fingerprint keys.
    pub keyring: Keyring,
    /// Accounts, opened.
    pub accounts: Accounts,
    /// The callers that are known.
    pub callers: Directory,
    /// The limits on streams.
    pub limits: grpc::StreamBounds,
    /// The time that purchases are kept after FINAL.
    pub retention: Duration,
    /// The audit log.
    pub audit: Audit,
}

/// The rooms, recovered and at work; its owner serves and drains it.
#[derive(Debug)]
pub struct House {
    /// The rooms behind the service.
    pub rooms: grpc::Rooms,
    limits: grpc::CurrentBounds,
    /// Readiness, as health reports it.
    pub readiness: Readiness,
    health: Arc<HealthService>,
    figures: metrics::Collector,
    configured: Configured,
    owner: Owner,
    /// The loops that run until the drain; aborted when the house is dropped.
    work: Loops,
    /// The thread that tells liveness of the loops, if there is one.
    watcher: Option<Watcher>,
}

impl House {
    /// Builds the rooms, takes up open purchases, and begins to work.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn open(parts: Parts) -> Result<Self, JournalError> {
        let (readiness, health) = health::health().await;
        let configured = Configured::new(&parts.budgets);
        Self::open_as(parts, configured, readiness, Arc::new(health)).await
    }

    /// Like [`House::open`], with a health service that is served already, and with accounts whose
    /// settings can change.
    async fn open_as(
        parts: Parts,
        configured: Configured,
        readiness: Readiness,
        health: Arc<HealthService>,
    ) -> Result<Self, JournalError> {
        let Parts {
            clock,
            journal,
            ownership,
            // The accounts have them.
            budgets: _,
            board,
            keyring,
            accounts,
            callers,
            limits,
            retention,
            audit,
        } = parts;
        let is_shared = ownership.is_shared();
        commits::tell(journal.as_ref(), audit.clone());
        let feed = Feed::new(Arc::clone(&journal), clock.clone());
        let owner = Owner::new(ownership, clock.clone(), accounts.limits());
        owner.start().await?;
        accounts.others_allow(&owner.limits_of_others());
        let tenures = owner.tenures();
        let tracker = Tracker::new(Arc::clone(&journal), clock.clone(), &accounts, tenures);
        let exchange = Exchange::new(board, clock.clone());
        exchange::join(&exchange, &feed, &tracker);
        let intake = Intake::new(
            Arc::clone(&journal),
            feed.clone(),
            clock.clone(),
            (accounts.clone(), tenures.clone()),
            keyring,
            tracker.creates(),
        );
        if callers.limit_open_purchases() {
            intake.count_open_purchases();
        }
        let wall = Arc::new(Wall::open(&journal, &clock).await?);
        let tally = tally_of(journal.as_ref(), is_shared);
        recover(journal.as_ref(), &tracker, &intake, &tally).await?;
        if is_shared {
            tally.started(journal.newest().await?);
        }
        intake.mind_the_clock().await?;
        let work = Loops::default();
        if is_shared {
            follow::hear_others(&work, &journal);
        }
        if let Some(committing) = journal.progress() {
            work.adopt(committing);
        }
        work.begin(feed.progress(), feed.clone(), |feed| async move {
            feed.run().await;
        });
        begin_loops(&work, tracker.loops());
        let follower = Arc::new(Work {
            journal: Arc::clone(&journal),
            accounts: accounts.clone(),
            tracker: tracker.clone(),
            intake: intake.clone(),
            exchange: exchange.clone(),
            loops: work.within(),
        });
        let owned = (owner.clone(), follower);
        work.begin(owner.progress(), owned, |(owner, follower)| async move {
            owner.run(&*follower).await;
        });
        work.begin(intake.progress(), intake.clone(), |intake| async move {
            intake.run().await;
        });
        let kept = (Arc::clone(&journal), tenures.clone());
        keep_house(&work, kept, &wall, &intake, retention);
        follow::begin(&work, &journal, &readiness);
        let rooms = grpc::Rooms {
            journal,
            feed,
            intake,
            tracker,
            accounts,
            callers,
            clock,
            audit,
        };
        exchange::begin(&work, &exchange, &rooms);
        Ok(Self {
            figures: metrics::Collector::new(
                rooms.clone(),
                tally,
                work.all().clone(),
                configured.clone(),
            ),
            configured,
            rooms,
            limits: grpc::CurrentBounds::new(limits),
            readiness,
            health,
            owner,
            work,
            watcher: None,
        })
    }

    /// Lets liveness follow the loops, by a thread and the clock of the machine.
    ///
    /// # Errors
    /// The system starts no thread.
    fn watch(&mut self, clock: Clock) -> io::Result<()> {
        let watcher = Watcher::start(self.work.watch(), self.readiness.clone(), clock)?;
        self.watcher = Some(watcher);
        Ok(())
    }

    /// The purchase service of this house.
    pub fn service(&self) -> PurchaseServiceServer<grpc::Service> {
        let service = grpc::Service::new(self.rooms.clone(), self.limits.clone());
        PurchaseServiceServer::new(service).max_decoding_message_size(grpc::REQUEST_BYTES_MAX)
    }

    /// The health service of this house.
    pub fn health(&self) -> HealthServer<HealthService> {
        health_server(&self.health)
    }

    /// Gives the accounts to other processes, if there can be any, so that watchers who come back elsewhere
    /// find them polled. Ends the streams, then waits for submits and polls whose answers must be kept.
    pub async fn drain(&self) {
        self.work.drain();
        self.readiness.drain().await;
        let mut given = pin!(self.owner.drain());
        let are_given =
            self.owner.is_shared() && tokio::time::timeout(MOVES_MAX, &mut given).await.is_ok();
        self.rooms.feed.drain();
        self.readiness.close();
        tokio::join!(
            self.rooms.intake.drain(),
            self.rooms.tracker.drain(),
            async {
                if !are_given {
                    given.await;
                }
            }
        );
    }

    /// Stops working and closes the journal.
    pub async fn close(self) {
        self.work.shutdown().await;
        self.rooms.journal.close().await;
    }
}

/// Counts of all commits from now on.
fn tally_of(journal: &dyn Journal, is_shared: bool) -> Arc<Tally> {
    let tally = Arc::<Tally>::default();
    if is_shared {
        tally.shares();
    }
    let (heard, made) = (Arc::clone(&tally), Arc::clone(&tally));
    journal.observe_in_order(Arc::new(move |committed| heard.heard(committed)));
    journal.observe_own(Arc::new(move |committed| made.made(committed)));
    tally
}

/// Begins the loops of retention and of the wall clock.
fn keep_house(
    work: &Loops,
    kept: (Arc<dyn Journal>, Tenures),
    wall: &Arc<Wall>,
    intake: &Intake,
    retention: Duration,
) {
    let progress = Progress::new("retention");
    let retired = (kept, Arc::clone(wall), progress.clone());
    work.begin(&progress, retired, move |(kept, wall, progress)| {
        retire(kept, wall, retention, progress)
    });
    let progress = Progress::new("clock");
    let minded = (Arc::clone(wall), intake.clone(), progress.clone());
    work.begin(&progress, minded, |(wall, intake, progress)| {
        mind_the_clock(wall, intake, progress)
    });
}

/// Hands open purchases to the rooms that follow them.
async fn recover(
    journal: &dyn Journal,
    tracker: &Tracker,
    intake: &Intake,
    tally: &Tally,
) -> Result<(), JournalError> {
    let mut after = None;
    let mut open: u64 = 0;
    loop {
        let records = journal.open_records(after, RECOVERED_AT_ONCE).await?;
        let Some(last) = records.last() else { break };
        after = Some(last.purchase.id);
        for record in &records {
            open += 1;
            tally.recovered(&record.purchase);
            intake.recover(record);
            tracker.recover(record).await?;
        }
    }
    tracing::info!(open, "recovered");
    Ok(())
}

/// Notices that the wall clock was set back, lets `intake` act on it, and keeps a record of that.
async fn mind_the_clock(wall: Arc<Wall>, intake: Intake, progress: Progress) {
    loop {
        progress.round().await;
        let minded = async {
            if intake.mind_the_clock().await.is_ok() {
                wall.keep().await;
            }
        };
        progress.across(minded).await;
        tokio::time::sleep(CLOCK_LOOKED_AT_EVERY).await;
    }
}

fn workload(jwt: &config::Jwt) -> Workload {
    Workload {
        terms: jwt.terms.clone(),
        keys: jwt.keys.clone(),
    }
}

/// The callers of a configuration.
pub fn callers(configured: &[config::Caller]) -> Callers {
    configured
        .iter()
        .fold(Callers::default(), |callers, caller| {
            let scopes: BTreeSet<Scope> = caller
                .scopes
                .iter()
                .filter_map(|word| Scope::named(word))
                .collect();
            let accounts = match &caller.accounts {
                config::Allowed::All => None,
                config::Allowed::These(names) => Some(names.clone()),
            };
            let grant = Grant {
                name: caller.name.clone(),
                scopes,
                accounts,
                limits: CallerLimits {
                    streams: caller.limits.streams,
                    feeds: caller.limits.feeds,
                    lists: caller.limits.lists,
                    creates_per_second: caller.limits.creates_per_second,
                    open_purchases: caller.limits.open_purchases,
                },
            };
            let known = Caller::new(grant);
            let callers = callers
                .with(known.clone(), &caller.token_sha256, caller.anonymous)
                .with_names(&known, &caller.cert_san);
            match &caller.jwt {
                None => callers,
                Some(jwt) => callers.with_workload(&known, workload(jwt)),
            }
        })
}

fn open_audit(target: Option<&Target>) -> Result<Audit, StartError> {
    Audit::open(target, Clock::system()).map_err(|source| StartError::File {
        path: match target {
            Some(Target::File(path)) => path.clone(),
            Some(Target::Stderr) | None => PathBuf::from("stderr"),
        },
        source,
    })
}

async fn listen(address: &config::Address) -> Result<Listener, StartError> {
    let (bound, text) = match address {
        config::Address::Tcp(address) => (Listener::tcp(address).await, address.clone()),
        config::Address::Unix(path) => (Listener::unix(path), format!("unix:{}", path.display())),
    };
    bound.map_err(|source| StartError::Listen {
        address: text,
        source,
    })
}

/// The reason why a server that has served does so no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    AsAsked,
    /// The journal can be used no more.
    JournalLost(Loss),
}

/// Serves a configuration until `shutdown`, or until the journal is lost, then drains. Each word
/// of `reload` lets it take up new settings, as far as it can while it runs. The supervisor hears of all
/// this.
///
/// # Errors
/// See [`StartError`]; nothing is served then.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    reload: Reload,
    supervisor: Supervisor,
) -> Result<Ended, StartError> {
    run_with(config, shutdown, Some(reload), supervisor, |_| {}).await
}

/// Like [`run`]; also tells `bound` the address of the gRPC listener once it serves. Without `reload`
/// only files of TLS are read again.
///
/// # Errors
/// See [`StartError`]; nothing is served then.
pub async fn run_with(
    mut config: Config,
    shutdown: impl Future<Output = ()>,
    reload: Option<Reload>,
    supervisor: Supervisor,
    bound: impl FnOnce(&str),
) -> Result<Ended, StartError> {
    let started = config.clone();
    let offered = match config.listen.web_origins.is_empty() {
        true => Offered::Http2,
        false => Offered::Both,
    };
    let tls = config.listen.tls.clone();
    let tls = (tls.map(|files| ServerTls::load(files, offered))).transpose()?;
    let audit = open_audit(config.telemetry.audit_log.as_ref())?;
    let _summing = AbortOnDropHandle::new(tokio::spawn(audit.clone().run()));
    let file_limit = listener::raise_file_limit();
    let connections = files::share(&mut config.accounts, config.limits.connections, file_limit);
    // The listeners are bound first: a second process with the same settings ends before it touches
    // anything.
    let grpc = listen(&config.listen.grpc).await?;
    let ops = match &config.listen.ops {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let (grpc_at, ops_at) = (grpc.address(), ops.as_ref().map(Listener::address));
    let (readiness, health) = health::health().await;
    let health = Arc::new(health);
    let told = supervisor
        .clone()
        .follow(readiness.clone(), Arc::clone(&health));
    let _told = AbortOnDropHandle::new(tokio::spawn(told));
    let directory = Directory::new(callers(&config.callers));
    let front = Front::new(readiness, health, directory, tls.clone(), audit.clone());
    let look = Arc::<Notify>::default();
    let keeping = certificates::keep(tls, Clock::system(), Arc::clone(&look), audit.clone());
    let _certificates = AbortOnDropHandle::new(tokio::spawn(keeping));
    let mut serving = std::pin::pin!(front.serve(&config, grpc, connections)?);
    let _operators = front.operate(ops, connections);
    let mut shutdown = std::pin::pin!(shutdown);
    let opened = tokio::select! {
        () = &mut serving => return Ok(Ended::AsAsked),
        () = &mut shutdown => return Ok(Ended::AsAsked),
        opened = front.open(&config) => opened,
    };
    let house = opened?;
    let _reloads = reload.map(|reload| {
        let changeable = Changeable {
            started,
            file_limit,
            rooms: house.rooms.clone(),
            configured: house.configured.clone(),
            owner: house.owner.clone(),
            limits: house.limits.clone(),
            log: Arc::clone(&reload.log),
            certificates: look,
            audit,
            supervisor: supervisor.clone(),
        };
        let following = reload::follow(reload, changeable, front.reloads.clone());
        AbortOnDropHandle::new(tokio::spawn(following))
    });
    tracing::info!(address = grpc_at, "gRPC");
    if let Some(address) = ops_at {
        tracing::info!(address, "operations");
    }
    bound(&grpc_at);
    let lost = house.rooms.journal.lost();
    let ended = tokio::select! {
        () = &mut serving => return Ok(Ended::AsAsked),
        () = shutdown => Ended::AsAsked,
        loss = lost.wait() => Ended::JournalLost(*loss),
    };
    if let Ended::JournalLost(loss) = ended {
        tracing::error!("{loss}: draining");
    }
    supervisor.stopping().await;
    front.drain(house, serving, config.listen.drain).await;
    Ok(ended)
}

#[cfg(test)]
mod tests;
