//! Transitions a second through one database of PostgreSQL by one, two and four processes, against the same
//! calls of the commit's function without a journal around them.
//!
//! Each process is a child of this one, so that processors and locks are shared as between replicas. The
//! sides take turns. Every commit waits for the disk.

mod appends;
mod calls;
mod child;
mod lock;

use std::time::Duration;

use tillwatch_cluster::{Cluster, Database, Options};

use crate::{
    Failure,
    table::{Spread, Table},
    upstream::on_this_thread,
};
pub use appends::append;
pub use calls::call;
pub use child::Arguments;
use child::{Child, WARM_UP};
use lock::Shares;

const ROUNDS: usize = 5;
/// The numbers of processes.
const PROCESSES: [u32; 3] = [1, 2, 4];

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The journal of a process that also hears of the others' commits, as replicas do.
    Following,
    /// The journal alone.
    Journal,
    /// The calls alone.
    Calls,
}

const KINDS: [(Kind, &str); 3] = [
    (Kind::Following, "journal, hears the others"),
    (Kind::Journal, "journal"),
    (Kind::Calls, "bare calls"),
];

/// The figures of one round.
#[derive(Debug, Clone, Copy)]
struct Round {
    kind: Kind,
    processes: u32,
    transitions_per_s: f64,
    per_commit: f64,
    shares: Shares,
}

/// The table.
///
/// # Errors
/// A process fails, or the database does not answer.
pub fn table(length: Duration, writers: u32) -> Result<Table, Failure> {
    let cluster = Cluster::start(Options {
        fsync: true,
        ..Options::default()
    });
    let database = cluster.database();
    let rounds = on_this_thread(run(&database, length, writers))??;
    Ok(drawn(&rounds, length, writers))
}

async fn run(database: &Database, length: Duration, writers: u32) -> Result<Vec<Round>, Failure> {
    let mut rounds = Vec::new();
    // Each has an account and purchases of its own.
    let mut first = 0;
    for _ in 0..ROUNDS {
        for processes in PROCESSES {
            // The calls are as large as the journal's commits have just been.
            let mut per_commit = 1.0;
            for (kind, _) in KINDS {
                let arguments = Arguments {
                    url: database.url(),
                    number: first,
                    writers,
                    per_call: per_commit as u32,
                    seconds: length.as_secs(),
                    follow: kind == Kind::Following,
                };
                let round = measure(database, (kind, processes), &arguments).await?;
                per_commit = f64::max(round.per_commit.round(), 1.0);
                rounds.push(round);
            }
            first += processes;
        }
    }
    Ok(rounds)
}

async fn measure(
    database: &Database,
    (kind, processes): (Kind, u32),
    arguments: &Arguments,
) -> Result<Round, Failure> {
    let mut children = Vec::new();
    for number in arguments.number..arguments.number + processes {
        let arguments = Arguments {
            number,
            ..arguments.clone()
        };
        let name = match kind {
            Kind::Following | Kind::Journal => "append",
            Kind::Calls => "call",
        };
        children.push(Child::start(name, &arguments)?);
    }
    for child in &mut children {
        child.is_ready()?;
    }
    let head = "SELECT coalesce(max(position), 0) FROM transition_log";
    let head: u64 = database.run(head).parse()?;
    for child in &mut children {
        child.go()?;
    }
    tokio::time::sleep(WARM_UP).await;
    let length = Duration::from_secs(arguments.seconds);
    let shares = lock::watch(&database.url(), length, processes).await?;
    let mut transitions = 0;
    for child in children {
        transitions += child.transitions()?;
    }
    let commits = format!(
        "SELECT count(*)::float8 / count(DISTINCT xmin::text) FROM transition_log WHERE position > {head}"
    );
    Ok(Round {
        kind,
        processes,
        transitions_per_s: transitions as f64 / length.as_secs_f64(),
        per_commit: database.run(&commits).parse()?,
        shares,
    })
}

fn drawn(rounds: &[Round], length: Duration, writers: u32) -> Table {
    let title = format!(
        "Transitions a second through one database, {writers} writers in each process, {ROUNDS} rounds of \
         {} s each: median (least to most); shares of time of the lock that orders the feed",
        length.as_secs()
    );
    let columns = [
        "processes, side",
        "transitions a second",
        "of bare",
        "each commit",
        "lock held",
        "a process waits for it",
    ];
    let mut table = Table::new(&title, &columns);
    for processes in PROCESSES {
        let of = |kind: Kind, figure: fn(&Round) -> f64| {
            let mine = |round: &&Round| round.kind == kind && round.processes == processes;
            Spread::of(rounds.iter().filter(mine).map(figure))
        };
        let bare = of(Kind::Calls, |round| round.transitions_per_s);
        for (kind, name) in KINDS {
            let own = of(kind, |round| round.transitions_per_s);
            let cells = [
                own.to_string(),
                format!("{:.2}", own.median / bare.median),
                of(kind, |round| round.per_commit).to_string(),
                format!("{:.2}", of(kind, |round| round.shares.held).median),
                format!("{:.2}", of(kind, |round| round.shares.waited).median),
            ];
            table.row(&format!("{processes}, {name}"), cells);
        }
    }
    table
}
