//! The promises over the wire. Tests start, kill and drain real executables in front of simulated
//! providers.
//!
//! All tests are one binary, which is linked once. Build the executables first:
//! `cargo build --workspace`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    reason = "a test ends at the first thing that is not as promised, and has no readers"
)]

mod collector;
mod executables;
mod fleet;
mod house;
mod orders;
mod process;
mod raw;
mod store;
mod transport;

mod adoption;
mod audit;
mod backup;
mod canary;
mod chart;
mod clock;
mod command;
mod consumers;
mod crash_matrix;
mod creates;
mod demo;
mod disk;
mod drain;
mod endings;
mod exchange;
mod failover;
mod faults;
mod health_probes;
mod kill_loop;
mod limits;
mod liveness;
mod log;
mod metrics;
mod migrate;
mod nowhere;
mod outage;
mod port;
mod probes;
mod providers;
mod proxies;
mod readme;
mod reads;
mod refusals;
mod registry;
mod reload;
mod reload_accounts;
mod replicas;
mod restart;
mod slow;
mod sweeps;
mod systemd;
mod tidy;
mod tls;
mod traces;
mod unclear;
mod upstream_tls;
mod watchers;
mod web;
mod wire;
mod workloads;
