//! Runs seeds of the simulation: `--seed N` for one, `--seeds A..B` for many.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command: what it finds is what it prints"
)]

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use clap::Parser;
use tillwatch_simulation::{Outcome, Pages, run, run_replicas};

/// Runs the whole service in virtual time, under faults drawn from a seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// One seed, replayed; `TILLWATCH_SIMULATION_LOG` (such as `debug`) shows the service's log.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds from A up to B, without B.
    #[arg(long, value_parser = seeds, conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    /// Runs each seed with two to four processes on one store.
    #[arg(long)]
    replicas: bool,
    /// The number of seeds that run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    parsed.ok_or_else(|| "is two numbers with .. between them".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Ok(filter) = std::env::var("TILLWATCH_SIMULATION_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).init();
    }
    let (from, to) = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => (seed, seed.saturating_add(1)),
        (None, seeds) => seeds.unwrap_or((0, 100)),
    };
    let next = AtomicU64::new(from);
    let work = || {
        let mut total = Outcome::default();
        let mut runs = 0_u64;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= to {
                return (runs, total);
            }
            let outcome = match arguments.replicas {
                true => run_replicas(seed),
                false => run(seed),
            };
            report(&outcome, arguments.replicas);
            runs += 1;
            total.purchases += outcome.purchases;
            total.revisions += outcome.revisions;
            total.streams += outcome.streams;
            total.messages += outcome.messages;
            total.histories += outcome.histories;
            total.creates += outcome.creates;
            total.restarts += outcome.restarts;
            total.clock_steps += outcome.clock_steps;
            total.add_replicas(&outcome);
            for (provider, pages) in outcome.pages {
                total.pages.entry(provider).or_default().add(pages);
            }
            total.violations.extend(outcome.violations);
            if to - from == 1 {
                println!("digest {:016x}", outcome.digest);
            }
        }
    };
    let totals: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..arguments.jobs.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        jobs.into_iter().filter_map(|job| job.join().ok()).collect()
    });
    let sum = |count: fn(&Outcome) -> u64| totals.iter().map(|(_, one)| count(one)).sum::<u64>();
    let runs: u64 = totals.iter().map(|(runs, _)| runs).sum();
    println!(
        "{runs} seeds: {} purchases, {} revisions, {} creates at providers, {} restarts, \
         {} clock steps, {} streams, {} messages, {} histories followed to their end, {} violations",
        sum(|one| one.purchases),
        sum(|one| one.revisions),
        sum(|one| one.creates),
        sum(|one| one.restarts),
        sum(|one| one.clock_steps),
        sum(|one| one.streams),
        sum(|one| one.messages),
        sum(|one| one.histories),
        sum(|one| one.violations.len() as u64),
    );
    if arguments.replicas {
        println!(
            "several processes: {} takeovers, {} stops, {} cuts, {} outages, \
             {} emptied boards, {} polls, {} writes refused by fences",
            sum(|one| one.fences.takeovers),
            sum(|one| one.faults.stops),
            sum(|one| one.faults.cuts),
            sum(|one| one.faults.outages),
            sum(|one| one.faults.emptied),
            sum(|one| one.fences.polls),
            sum(|one| one.fences.refused),
        );
    }
    let mut pages = BTreeMap::<&str, Pages>::new();
    for (provider, more) in totals.iter().flat_map(|(_, one)| &one.pages) {
        pages.entry(provider).or_default().add(*more);
    }
    for (
        provider,
        Pages {
            sweeps,
            pages,
            rows,
        },
    ) in pages
    {
        println!("{provider}: {sweeps} sweeps, {pages} pages, {rows} rows");
    }
    let complete = runs == to.saturating_sub(from);
    if complete && totals.iter().all(|(_, one)| one.violations.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(outcome: &Outcome, replicas: bool) {
    for violation in &outcome.violations {
        eprintln!("seed {}: {violation}", outcome.seed);
    }
    if !outcome.violations.is_empty() {
        eprintln!(
            "replay: cargo run -p tillwatch-simulation -- --seed {}{}",
            outcome.seed,
            if replicas { " --replicas" } else { "" },
        );
    }
}
