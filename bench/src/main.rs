//! Measures Tillwatch's promises about speed. Each benchmark prints a table and writes its figures as
//! JSON below `target/bench`.
//!
//! ```sh
//! cargo run --release -p tillwatch-bench -- freshness
//! ```
#![expect(clippy::print_stdout, reason = "tables are what this program is for")]

mod allocator;
mod attacks;
mod authority;
mod bare;
mod budget;
mod caller;
mod calls;
mod collector;
mod frames;
mod freshness;
mod memory;
mod polls;
mod renewal;
mod scheduler;
mod server;
mod settings;
mod table;
mod upstream;

use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use table::{Spread, Table};

/// The reason why a benchmark has no figures.
type Failure = Box<dyn std::error::Error + Send + Sync>;

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

/// Measures Tillwatch's promises about speed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// The lateness of news at 90 polls a minute for 400 purchases, by the rule that chooses polls.
    Freshness {
        /// The hours that count, after two that do not.
        #[arg(long, default_value_t = 6)]
        hours: u64,
    },
    /// Bytes of memory per open purchase.
    Memory {
        /// The number of open purchases.
        #[arg(long, default_value_t = 1_000_000)]
        purchases: u32,
    },
    /// Polls per CPU-second, against bare reqwest.
    Polls {
        /// The most open purchases.
        #[arg(long, default_value_t = 1_000_000)]
        purchases: u32,
        /// The seconds of each round.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// The costs of arming, firing, cancelling and choosing.
    Scheduler,
    /// Requests per minute that an upstream sees under 10,000 watchers of 400 purchases.
    Budget {
        /// The minutes of simulated time.
        #[arg(long, default_value_t = 60)]
        minutes: u64,
    },
    /// The server's processor time for each call of GetStatus, plain and over TLS, against bare tonic.
    Calls {
        /// The seconds of each round.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Open streams while certificates, authorities, tokens, secrets, accounts and limits are renewed.
    Renewal {
        /// The number of open streams.
        #[arg(long, default_value_t = 10_000)]
        streams: usize,
    },
    /// Memory, and the waits of another caller, before, during and after attacks over TLS.
    Attacks {
        /// The seconds of each phase.
        #[arg(long, default_value_t = 15)]
        seconds: u64,
    },
    /// Serves one answer with bare tonic; `calls` starts this.
    #[command(hide = true)]
    Bare(bare::Arguments),
}

fn main() -> Result<(), Failure> {
    let (name, tables) = match Arguments::parse().benchmark {
        Benchmark::Freshness { hours } => ("freshness", freshness(hours)),
        Benchmark::Memory { purchases } => ("memory", vec![memory::table(purchases)]),
        Benchmark::Polls { purchases, seconds } => {
            let length = Duration::from_secs(seconds);
            ("polls", vec![polls::table(purchases, length)?])
        }
        Benchmark::Scheduler => ("scheduler", vec![scheduler::table()]),
        Benchmark::Budget { minutes } => {
            let minutes = Duration::from_secs(minutes * 60);
            (
                "budget",
                vec![budget::table(&budget::run(
                    minutes,
                    budget::WATCHERS_EACH,
                    budget::LIFE,
                ))],
            )
        }
        Benchmark::Calls { seconds } => {
            let length = Duration::from_secs(seconds);
            ("calls", vec![calls::table(length)?])
        }
        Benchmark::Renewal { streams } => ("renewal", vec![renewal::table(streams)?]),
        Benchmark::Attacks { seconds } => {
            let length = Duration::from_secs(seconds);
            ("attacks", vec![attacks::table(length)?])
        }
        Benchmark::Bare(arguments) => return bare::serve(&arguments),
    };
    for table in &tables {
        println!("{table}");
    }
    let values: Vec<Value> = tables.iter().map(Table::json).collect();
    let folder = std::path::Path::new("target/bench");
    std::fs::create_dir_all(folder)?;
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, format!("{:#}\n", json!(values)))?;
    println!("written to {}", file.display());
    Ok(())
}

fn freshness(hours: u64) -> Vec<Table> {
    [0, 300]
        .map(|abandoned| freshness_of(abandoned, hours))
        .into()
}

fn freshness_of(abandoned: u32, hours: u64) -> Table {
    let alive = freshness::PURCHASES - abandoned;
    let mut table = Table::new(
        &format!(
            "{alive} alive, {abandoned} abandoned, {} polls a minute, seconds from change to poll; \
             three seeds: median (least to most)",
            freshness::POLLS_PER_MINUTE
        ),
        &["who decides", "mean", "of turns", "p99", "longest gap"],
    );
    let mut turns_mean_s = 0.0;
    let mut rows = Vec::new();
    for (chooser, name) in freshness::CHOOSERS {
        let runs = [1, 2, 3].map(|seed| {
            let setting = freshness::Setting {
                abandoned,
                seed,
                warm_up: Duration::from_secs(2 * 3_600),
                measured: Duration::from_secs(hours * 3_600),
            };
            freshness::run(chooser, setting)
        });
        let mean = Spread::of(runs.iter().map(freshness::Delays::mean_s));
        let p99 = Spread::of(runs.iter().map(freshness::Delays::p99_s));
        let gap = Spread::of(runs.iter().map(|run| run.longest_gap_s));
        if chooser == freshness::Chooser::Turns {
            turns_mean_s = mean.median;
        }
        rows.push((name, mean, p99, gap));
    }
    for (name, mean, p99, gap) in rows {
        let ratio = format!("{:.2}", mean.median / turns_mean_s);
        let cells = [mean.to_string(), ratio, p99.to_string(), gap.to_string()];
        table.row(name, cells);
    }
    table
}
