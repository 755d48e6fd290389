//! A million open purchases over several processes on one database: the memory of each, and the time until
//! the others have taken a killed one's accounts over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tillwatch_cluster::{Cluster, Database, Options};
use tillwatch_server::{
    clock::Clock,
    journal::{
        Journal, Write, Written,
        postgres::{self, PostgresJournal},
    },
    purchase::{AccountName, Cause, Revision, Status, Timestamp, Transition},
};
use tokio::task::JoinSet;

use crate::{
    Failure,
    memory::{record, reference},
    server::{Folder, Server},
    settings::Settings,
    table::{Spread, Table},
    upstream::Upstream,
};

const ROUNDS: usize = 3;
/// The processes.
const REPLICAS: usize = 3;
/// The seconds between two polls of a purchase.
const POLL_EVERY_S: u64 = 600;
/// Creates under way at the same time while the purchases are made.
const WRITERS: u32 = 2_048;
/// The longest wait for a process to have its share of a million purchases.
const PATIENCE: Duration = Duration::from_secs(300);
/// The interval of looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One process with its addresses.
struct Replica {
    folder: Folder,
    server: Server,
    name: String,
    metrics: String,
}

/// The whole under measurement.
struct House {
    database: Database,
    upstream: Upstream,
    accounts: Vec<String>,
    purchases: u32,
    replicas: Vec<Replica>,
}

/// The times after a kill, in seconds.
#[derive(Debug, Clone, Copy)]
struct Takeover {
    first_poll_s: f64,
    each_account_polled_s: f64,
    all_taken_up_s: f64,
    /// From the restart of the killed one until it has its share again.
    share_again_s: f64,
}

/// The choice of one of the times.
type Figure = fn(&Takeover) -> f64;

/// The table.
///
/// # Errors
/// A process does not start, or something does not come in time.
pub fn table(purchases: u32, accounts: u32) -> Result<Table, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(purchases, accounts))
}

async fn run(purchases: u32, accounts: u32) -> Result<Table, Failure> {
    let title = format!(
        "{purchases} open purchases of {accounts} accounts over {REPLICAS} processes, polled each \
         {POLL_EVERY_S} s; one is killed, {ROUNDS} rounds: median (least to most)"
    );
    let mut table = Table::new(&title, &["what", "figure"]);
    let cluster = Cluster::start(Options {
        fsync: true,
        ..Options::default()
    });
    let mut house = House {
        database: cluster.database(),
        upstream: Upstream::start()?,
        accounts: (0..accounts)
            .map(|number| format!("account-{number}"))
            .collect(),
        purchases,
        replicas: Vec::new(),
    };
    let began = Instant::now();
    seed(&house).await?;
    let made = f64::from(purchases) / began.elapsed().as_secs_f64();
    table.row(
        "purchases written by one process, a second",
        [format!("{made:.0}")],
    );
    let began = Instant::now();
    for _ in 0..REPLICAS {
        let replica = house.started(Folder::new()?).await?;
        house.replicas.push(replica);
    }
    house.all_have_their_share().await?;
    let took = began.elapsed().as_secs_f64();
    table.row(
        "all processes started and all taken up, s",
        [format!("{took:.1}")],
    );
    table.row("memory of each, MiB", [house.memory()?.to_string()]);
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push(house.kill(round % REPLICAS).await?);
    }
    let figures: [(&str, Figure); 4] = [
        (
            "after the kill, the first poll of its accounts, s",
            |round| round.first_poll_s,
        ),
        ("a poll of each of its accounts, s", |round| {
            round.each_account_polled_s
        }),
        ("all its purchases taken up, s", |round| {
            round.all_taken_up_s
        }),
        ("from its restart to its share again, s", |round| {
            round.share_again_s
        }),
    ];
    for (name, figure) in figures {
        table.row(name, [Spread::of(rounds.iter().map(figure)).to_string()]);
    }
    table.row(
        "memory of each afterwards, MiB",
        [house.memory()?.to_string()],
    );
    Ok(table)
}

/// Writes the purchases.
async fn seed(house: &House) -> Result<(), Failure> {
    let settings = postgres::Settings::parse(&house.database.url())?;
    let clock = Clock::system();
    let journal = Arc::new(PostgresJournal::open(&settings, &clock).await?);
    let names: Vec<_> = house
        .accounts
        .iter()
        .map(|name| AccountName::new(name))
        .collect();
    let (names, now, purchases) = (Arc::new(names), clock.now(), house.purchases);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (journal, names) = (Arc::clone(&journal), Arc::clone(&names));
        writers.spawn(async move {
            for number in (writer..purchases).step_by(WRITERS as usize) {
                let begin = adopted(number, &names, now).ok_or("no account")?;
                let written = journal.write(begin).await?;
                if written != Written::Done {
                    return Err(Failure::from(format!("refused: {written:?}")));
                }
            }
            Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    journal.close().await;
    house.database.run("ANALYZE");
    Ok(())
}

/// The write of one open purchase.
fn adopted(number: u32, names: &[AccountName], now: Timestamp) -> Option<Write> {
    let account = names.get(number as usize % names.len())?;
    let mut record = record(number, account, &reference(number), now);
    let status = Status {
        revision: Revision::FIRST,
        ..Status::clone(&record.purchase.status)
    };
    record.purchase.status = Arc::new(status.clone());
    Some(Write::Begin {
        record: Box::new(record),
        transitions: vec![Transition {
            from_state: None,
            status,
            cause: Cause::Create,
        }],
    })
}

impl House {
    /// Starts a process in its folder.
    async fn started(&self, folder: Folder) -> Result<Replica, Failure> {
        let mut settings = Settings::new(self.upstream.address);
        settings.poll_every_s = POLL_EVERY_S;
        settings.shared = Some((self.database.url(), self.accounts.clone()));
        folder.put("keys", &format!("k1:{}\n", "5a".repeat(32)))?;
        folder.put("tillwatch.toml", &settings.text(folder.path(), false))?;
        let server = Server::start(folder.path()).await?;
        let operations = server.logged(" operations address=").await?;
        Ok(Replica {
            name: server.logged(" replica=").await?,
            metrics: format!("http://{operations}/metrics"),
            folder,
            server,
        })
    }

    /// The accounts that a process owns.
    fn owned(&self, replica: &Replica) -> Vec<String> {
        let owned = format!(
            "SELECT account FROM lease WHERE owner = '{}' AND account <> ''",
            replica.name
        );
        let owned = self.database.run(&owned);
        owned.lines().map(str::to_owned).collect()
    }

    /// Waits until each process polls its share, and together they poll everything.
    async fn all_have_their_share(&self) -> Result<Instant, Failure> {
        let least = self.accounts.len() / REPLICAS;
        self.until("each has its share", async || {
            let mut open = 0;
            for replica in &self.replicas {
                if self.owned(replica).len() < least {
                    return Ok(false);
                }
                open += replica.open().await?;
            }
            Ok(open == u64::from(self.purchases))
        })
        .await
    }

    /// Kills one, and starts it again once the others have taken its accounts over.
    async fn kill(&mut self, victim: usize) -> Result<Takeover, Failure> {
        let victim = self.replicas.remove(victim);
        let accounts = self.owned(&victim);
        let Replica { folder, server, .. } = victim;
        let killed = Instant::now();
        drop(server);
        self.upstream.forget_asks();
        let taken_up = self
            .until("all are taken up", async || {
                let mut open = 0;
                for replica in &self.replicas {
                    open += replica.open().await?;
                }
                Ok(open == u64::from(self.purchases))
            })
            .await?;
        let asks: Vec<Instant> = (accounts.iter())
            .filter_map(|account| self.upstream.first_ask(account))
            .collect();
        if asks.len() < accounts.len() {
            return Err("an account is taken over and not polled".into());
        }
        let since = |time: Option<&Instant>| {
            time.map_or(0.0, |time| time.duration_since(killed).as_secs_f64())
        };
        let (first, last) = (since(asks.iter().min()), since(asks.iter().max()));
        let began = Instant::now();
        let again = self.started(folder).await?;
        self.replicas.push(again);
        let whole = self.all_have_their_share().await?;
        Ok(Takeover {
            first_poll_s: first,
            each_account_polled_s: last,
            all_taken_up_s: taken_up.duration_since(killed).as_secs_f64(),
            share_again_s: whole.duration_since(began).as_secs_f64(),
        })
    }

    /// Waits until a condition holds. Returns the time at which it held.
    async fn until(
        &self,
        name: &str,
        mut holds: impl AsyncFnMut() -> Result<bool, Failure>,
    ) -> Result<Instant, Failure> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if holds().await? {
                return Ok(Instant::now());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!("{name}: not within {PATIENCE:?}").into())
    }

    /// The resident memory of the processes, in MiB.
    fn memory(&self) -> Result<Spread, Failure> {
        let each: Result<Vec<u64>, Failure> = (self.replicas.iter())
            .map(|replica| replica.server.resident_kib())
            .collect();
        Ok(Spread::of(
            each?.into_iter().map(|kib| kib as f64 / 1_024.0),
        ))
    }
}

impl Replica {
    /// The purchases that it polls.
    async fn open(&self) -> Result<u64, Failure> {
        let text = reqwest::get(&self.metrics).await?.text().await?;
        let figures = text.lines().filter_map(|line| {
            let figure = line.strip_prefix("tillwatch_open_purchases{")?;
            figure.rsplit(' ').next()?.parse::<u64>().ok()
        });
        Ok(figures.sum())
    }
}
