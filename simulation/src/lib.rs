//! The whole service in virtual time, under faults drawn from a seed.
//!
//! [`run`] opens the real house over the memory journal, the sandbox's five providers and a network in
//! memory, lets callers create and watch by real gRPC while the network parts, connections break,
//! the disk refuses and the process dies, and then checks every history against the journal. In one
//! seed of two the server's wall clock is set forth and back, by seconds to years, while it runs and
//! across restarts; providers and callers keep the true time.
//!
//! A seed is the same run each time, so a failing one replays. All faults, lives and delays are drawn
//! from it. What wakes several tasks at once wakes them in the order in which they came, and nothing
//! on the way is visited in hash order: tokio's `watch` and its `select!` without `biased` draw from
//! the process's own entropy, so the service uses neither if several tasks may be waiting. Nothing on
//! the wire tells the machine's time, not even an answer's `date`, and h2 forgets no stream by it.
//!
//! [`run_replicas`] does the same with two to four processes on one store and one network, which connects
//! each call to a living one. There processes are stopped and go on as well, are cut off from the store,
//! and the store is away, loses answers of commits that were made and everything on its board, and has its clock
//! set. A judge that
//! sees all leases at once holds each poll and each commit against them.
//!
//! The network is this crate's own and not turmoil's: there every host's clock moves by fixed
//! steps, and a run of hours, which horizons and deadlines need, would be millions of them. On one
//! paused clock, time jumps to whatever happens next.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "a harness: whatever it cannot do fails the run with its seed"
)]

mod board;
mod buyer;
mod check;
mod fences;
mod ledger;
mod limits;
mod network;
mod process;
mod providers;
mod replicas;
mod seat;
mod store;
#[cfg(test)]
mod tests;
mod watcher;
mod words;
mod world;

use world::World;

pub use fences::Tally;
pub use ledger::Pages;
pub use replicas::Faults;
pub use world::{Outcome, run, run_replicas};
