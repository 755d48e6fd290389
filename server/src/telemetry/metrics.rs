//! The figures of this process for Prometheus: a picture of them as OpenMetrics text.
//!
//! Labels are the operator's own names and fixed words: never a purchase, a caller or a provider's
//! text. This module collects nothing itself.

mod accounts;
mod format;
mod process;
mod spread;
mod streams;

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::traces;
use crate::{figures::Seen, outlet};
pub use accounts::{AccountLabels, AccountPicture};
pub use format::Format;
pub use process::ProcessPicture;
use process::{common, runtime};
use spread::Values;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoopLabels {
    r#loop: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransitionLabels {
    account: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// The figures of the process.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The figures of each account.
    pub accounts: Vec<AccountPicture>,
    /// Open streams.
    pub streams: usize,
    /// Open streams, by kind.
    pub streams_open: Vec<(&'static str, usize)>,
    /// Streams that have ended, by kind and reason.
    pub streams_ended: Vec<(&'static str, &'static str, u64)>,
    /// The times from a stream's opening to its first event, by kind.
    pub first_event: Vec<(&'static str, Seen)>,
    /// The delays of news on streams, by what they are counted from.
    pub push_delay: Vec<(&'static str, Seen)>,
    /// True if the journal works.
    pub journal_available: bool,
    /// Transitions committed by this process.
    pub transitions: Vec<(String, &'static str, u64)>,
    /// The times that commits took.
    pub commits: Histogram,
    /// The writes of each commit.
    pub group_sizes: Seen,
    /// Connections to the service's own port.
    pub connections: usize,
    /// Calls that have ended, by method and code.
    pub calls: Vec<(&'static str, &'static str, u64)>,
    /// Calls whose callers are not known, by reason.
    pub refused_attempts: Vec<(&'static str, u64)>,
    /// The times of calls that were let in, by method.
    pub call_times: Vec<(&'static str, Seen)>,
    /// Calls and streams that ended with an error of this service, by its reason.
    pub refusals: Vec<(&'static str, u64)>,
    /// The times that limits were met, by their names.
    pub limits: Vec<(&'static str, u64)>,
    /// The size of the write-ahead log in use.
    pub log_bytes: u64,
    /// True if a reader keeps the log from being emptied.
    pub log_is_pinned: bool,
    /// The time for which a reader has done so.
    pub oldest_reader: Duration,
    /// Rows met that cannot be read.
    pub unreadable_rows: u64,
    /// True if the settings could not be used when they were read last.
    pub settings_are_stale: bool,
    /// Reloads of the settings that failed.
    pub reloads_failed: u64,
    /// The TLS of the service's own port; `None` if it is plain.
    pub tls: Option<TlsPicture>,
    /// The audit log's lines.
    pub audit: outlet::Figures,
    /// The log's lines.
    pub log: outlet::Figures,
    /// Spans that were exported and dropped; `None` if there is no collector.
    pub traces: Option<traces::Figures>,
    /// The loops of the process, with the number of restarts of each after a defect.
    pub restarts: Vec<(&'static str, u64)>,
    /// The loops whose progress is watched.
    pub loops: Vec<LoopPicture>,
    /// The lead of the machine's wall clock over the store's; `None` if the store has no clock.
    pub machine_ahead_ms: Option<i64>,
    /// The process and its runtime.
    pub process: ProcessPicture,
}

/// The progress of one loop.
#[derive(Debug, Clone, Copy)]
pub struct LoopPicture {
    /// Its name; loops of several accounts share one.
    pub name: &'static str,
    /// True if it has ended or makes no progress.
    pub is_stuck: bool,
    /// The time without progress.
    pub silent: Duration,
}

/// The figures of the TLS of the service's own port.
#[derive(Debug, Clone, Copy)]
pub struct TlsPicture {
    /// The end of the certificate's time, in seconds since 1970.
    pub expires_s: i64,
    /// True if changed files cannot be used.
    pub is_stale: bool,
    /// Changes of the files that could not be used.
    pub reloads_failed: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LineLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: &'static str,
}

/// The picture as OpenMetrics text.
///
/// # Errors
/// None can happen: a text takes all that is written to it.
pub fn render(picture: &Picture) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tillwatch");
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "This executable", build);
    accounts::register(&mut registry, &picture.accounts);
    let streams = Gauge::<i64>::default();
    streams.set(count(picture.streams));
    registry.register("streams", "Open streams", streams);
    streams::register(&mut registry, picture);
    port(&mut registry, picture);
    if let Some(picture) = &picture.tls {
        tls(&mut registry, picture);
    }
    settings(&mut registry, picture);
    lines(&mut registry, "audit", "the audit log", picture.audit);
    lines(&mut registry, "log", "the log", picture.log);
    if let Some(figures) = &picture.traces {
        spans(&mut registry, figures);
    }
    let journal = Gauge::<i64>::default();
    journal.set(i64::from(picture.journal_available));
    registry.register("journal_available", "1 if the last commit worked", journal);
    stored(&mut registry, picture);
    let transitions = Family::<TransitionLabels, Counter>::default();
    for (account, state, times) in &picture.transitions {
        let account = account.clone();
        let labels = TransitionLabels { account, state };
        transitions.get_or_create(&labels).inc_by(*times);
    }
    let words = "Transitions committed, by the state they led to";
    registry.register("transitions", words, transitions);
    let words = "How long a group commit took";
    registry.register_with_unit("commit", words, Unit::Seconds, picture.commits.clone());
    let words = ("commit_writes", "The writes of each group commit");
    let sizes = picture.group_sizes.clone();
    spread::register_one(&mut registry, words, Values::Numbers, sizes);
    runtime(&mut registry, &picture.process);
    let mut text = String::new();
    text::encode_registry(&mut text, &common(&picture.process))?;
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The ends of spans.
fn spans(registry: &mut Registry, figures: &traces::Figures) {
    let exported = Counter::<u64>::default();
    exported.inc_by(figures.exported);
    let words = "Spans that the collector has taken";
    registry.register("trace_spans_exported", words, exported);
    let dropped = Family::<DropLabels, Counter>::default();
    let reasons = [
        ("queue_full", figures.overflowed),
        ("undelivered", figures.undelivered),
    ];
    for (reason, times) in reasons {
        dropped.get_or_create(&DropLabels { reason }).inc_by(times);
    }
    let words = "Spans that were dropped, by reason";
    registry.register("trace_spans_dropped", words, dropped);
}

/// The state of the settings.
fn settings(registry: &mut Registry, picture: &Picture) {
    let stale = Gauge::<i64>::default();
    stale.set(i64::from(picture.settings_are_stale));
    let words = "1 if the settings could not be used when they were read last";
    registry.register("settings_stale", words, stale);
    let failed = Counter::<u64>::default();
    failed.inc_by(picture.reloads_failed);
    registry.register(
        "reload_failures",
        "Reloads of the settings that failed",
        failed,
    );
}

/// The lines that go through a queue to a log: `name` begins the names, `which` ends the sentences.
fn lines(registry: &mut Registry, name: &str, which: &str, figures: outlet::Figures) {
    let lines = Family::<LineLabels, Counter>::default();
    for (outcome, times) in [("written", figures.written), ("left_out", figures.left_out)] {
        lines.get_or_create(&LineLabels { outcome }).inc_by(times);
    }
    let words = format!("Lines of {which}, by outcome");
    registry.register(format!("{name}_lines"), words, lines);
    let failed = Counter::<u64>::default();
    failed.inc_by(figures.failures);
    let words = format!("Tries to write a line of {which} that failed");
    registry.register(format!("{name}_write_failures"), words, failed);
}

/// The state of the TLS of the service's own port.
fn tls(registry: &mut Registry, picture: &TlsPicture) {
    let expires = Gauge::<i64>::default();
    expires.set(picture.expires_s);
    let words = "The end of the certificate's time, in seconds since 1970";
    registry.register("tls_certificate_expiry_timestamp_seconds", words, expires);
    let stale = Gauge::<i64>::default();
    stale.set(i64::from(picture.is_stale));
    let words = "1 if changed files of TLS cannot be used, so that older settings hold on";
    registry.register("tls_files_stale", words, stale);
    let failed = Counter::<u64>::default();
    failed.inc_by(picture.reloads_failed);
    let words = "Changes of the files of TLS that could not be used";
    registry.register("tls_reload_failures", words, failed);
    let failed = Counter::<u64>::default();
    failed.inc_by(picture.handshakes_failed);
    registry.register("tls_handshake_failures", "Handshakes that failed", failed);
}

/// The state of the store beside its commits.
fn stored(registry: &mut Registry, picture: &Picture) {
    let log = Gauge::<i64>::default();
    log.set(i64::try_from(picture.log_bytes).unwrap_or(i64::MAX));
    let words = "What is committed and not in the database's file yet";
    registry.register_with_unit("journal_log", words, Unit::Bytes, log);
    let pinned = Gauge::<i64>::default();
    pinned.set(i64::from(picture.log_is_pinned));
    let reader = Gauge::<f64, AtomicU64>::default();
    reader.set(picture.oldest_reader.as_secs_f64());
    let words = "The time for which a reader of the database has kept its log from being emptied";
    registry.register_with_unit("journal_oldest_reader", words, Unit::Seconds, reader);
    let words = "Whether a reader of the database keeps its log from being emptied";
    registry.register("journal_log_pinned", words, pinned);
    if let Some(ahead_ms) = picture.machine_ahead_ms {
        let ahead = Gauge::<f64, AtomicU64>::default();
        let seconds = Duration::from_millis(ahead_ms.unsigned_abs()).as_secs_f64();
        ahead.set(seconds.copysign(if ahead_ms < 0 { -1.0 } else { 1.0 }));
        let words = "The lead of this machine's wall clock over the database's";
        registry.register_with_unit("machine_clock_ahead", words, Unit::Seconds, ahead);
    }
    let unreadable = Counter::<u64>::default();
    unreadable.inc_by(picture.unreadable_rows);
    let words = "Reads that met a row that cannot be read";
    registry.register("journal_unreadable_rows", words, unreadable);
    let restarts = Family::<LoopLabels, Counter>::default();
    for (name, times) in &picture.restarts {
        let labels = LoopLabels { r#loop: name };
        restarts.get_or_create(&labels).inc_by(*times);
    }
    let words = "How often a loop of the process was begun again after a defect";
    registry.register("loop_restarts", words, restarts);
    loops(registry, &picture.loops);
}

/// The progress of the loops: of those that share a name, the number that stand still and the longest
/// time.
fn loops(registry: &mut Registry, loops: &[LoopPicture]) {
    let mut by_name: BTreeMap<&'static str, (i64, Duration)> = BTreeMap::new();
    for one in loops {
        let (stuck, silent) = by_name.entry(one.name).or_default();
        *stuck += i64::from(one.is_stuck);
        *silent = one.silent.max(*silent);
    }
    let stuck = Family::<LoopLabels, Gauge>::default();
    let silent = Family::<LoopLabels, Gauge<f64, AtomicU64>>::default();
    for (name, (are_stuck, longest)) in by_name {
        let labels = LoopLabels { r#loop: name };
        stuck.get_or_create(&labels).set(are_stuck);
        silent.get_or_create(&labels).set(longest.as_secs_f64());
    }
    let words = "Loops of the process that have ended or make no progress";
    registry.register("loop_stuck", words, stuck);
    let words = "The longest time for which a loop has made no progress";
    registry.register_with_unit("loop_silent", words, Unit::Seconds, silent);
}

/// The figures of the port: connections, calls, and the limits that they met.
fn port(registry: &mut Registry, picture: &Picture) {
    let connections = Gauge::<i64>::default();
    connections.set(count(picture.connections));
    registry.register(
        "connections",
        "Connections to the service's port",
        connections,
    );
    let calls = Family::<CallLabels, Counter>::default();
    for (method, code, times) in &picture.calls {
        let labels = CallLabels { method, code };
        calls.get_or_create(&labels).inc_by(*times);
    }
    registry.register("calls", "Calls that have ended, by method and code", calls);
    let attempts = Family::<AttemptLabels, Counter>::default();
    for (reason, times) in &picture.refused_attempts {
        attempts
            .get_or_create(&AttemptLabels { reason })
            .inc_by(*times);
    }
    let words = "Calls whose callers are not known, by reason";
    registry.register("refused_attempts", words, attempts);
    let times = (picture.call_times.iter())
        .map(|(method, seen)| (MethodLabels { method }, seen.clone()))
        .collect();
    let words = ("call", "The times of calls that were let in, by method");
    spread::register(registry, words, Values::Times, times);
    let refusals = Family::<ReasonLabels, Counter>::default();
    for (reason, times) in &picture.refusals {
        let labels = ReasonLabels { reason };
        refusals.get_or_create(&labels).inc_by(*times);
    }
    let words = "Calls and streams that ended with an error of this service, by its reason";
    registry.register("refusals", words, refusals);
    let limits = Family::<LimitLabels, Counter>::default();
    for (limit, times) in &picture.limits {
        limits.get_or_create(&LimitLabels { limit }).inc_by(*times);
    }
    registry.register("limits_met", "The times that each limit was met", limits);
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

fn whole(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
