//! Tillwatch: one gRPC service in front of payment providers.
//!
//! - [`purchase`]: the nouns; [`observation`]: a provider's words; [`lifecycle`]: the changes that
//!   they bring; [`cadence`]: the time of the next question. All pure.
//! - [`clock`], [`fingerprint`]: injected time and ids; order fingerprints.
//! - [`upstream`], [`provider`], [`account`]: the way out: HTTP, each provider's words, and each
//!   account's budget and breaker.
//! - [`journal`]: the durable log; [`feed`]: committed transitions on their way to watchers.
//! - [`ownership`]: the accounts that this process owns; [`exchange`]: the words of replicas for each other.
//! - [`intake`]: create, join, recover, resolve; [`tracker`]: polls until FINAL.
//! - [`grpc`], [`identity`], [`jwt`], [`listener`], [`health`]: the way in.
//! - [`config`], [`telemetry`]: settings, logs and the export of spans; [`trace`]: the spans' places in
//!   traces; [`audit`], [`outlet`]: the audit log and its way out; [`progress`], [`figures`]: the beats of
//!   long-lived loops, and what rooms count for the metrics; [`failpoint`]: deaths and loops that stand
//!   still on demand, for tests.

pub mod account;
pub mod audit;
pub mod cadence;
pub mod clock;
pub mod config;
pub mod exchange;
pub mod failpoint;
pub mod feed;
pub mod figures;
pub mod fingerprint;
pub mod grpc;
pub mod health;
pub mod identity;
pub mod intake;
pub mod journal;
pub mod jwt;
pub mod lifecycle;
pub mod limits;
pub mod listener;
pub mod observation;
pub mod outlet;
pub mod ownership;
pub mod progress;
pub mod provider;
pub mod purchase;
mod serve;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod trace;
pub mod tracker;
pub mod upstream;

pub use serve::{
    Ended, House, Parts, ProbeError, Reload, StartError, Supervisor, SupervisorError, back_up,
    migrate, probe, run, run_with,
};
