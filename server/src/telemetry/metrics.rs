//! The figures of this process for Prometheus: a picture of them as OpenMetrics text.
//!
//! Labels are the operator's own names and fixed words: never a purchase, a caller or a provider's
//! text. This module collects nothing itself.

use std::{collections::BTreeMap, fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{
        MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::traces;

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An account's name and its provider's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AccountLabels {
    /// The account.
    pub account: String,
    /// Its provider.
    pub provider: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    account: String,
    provider: &'static str,
    class: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoopLabels {
    r#loop: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    account: String,
    provider: &'static str,
    health: &'static str,
}

/// A transition's account and the state that it led to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransitionLabels {
    /// The account.
    pub account: String,
    /// The state's name.
    pub state: &'static str,
}

/// Transitions committed by this process.
pub type Transitions = Family<TransitionLabels, Counter>;

/// The figures of one account.
#[derive(Debug, Clone)]
pub struct AccountPicture {
    /// Its names.
    pub labels: AccountLabels,
    /// Requests by class and outcome.
    pub requests: Vec<(&'static str, &'static str, u64)>,
    /// Answers that could not be read.
    pub unreadable: u64,
    /// Answers of something that is not the provider's API.
    pub nowhere: u64,
    /// Purchases that are being polled.
    pub open: usize,
    /// Purchases whose poll is due and has not begun.
    pub due: usize,
    /// The longest wait of them.
    pub late: Duration,
    /// Purchases with an answer that is held back.
    pub held_back: usize,
    /// Requests of the last minute as a part of the limit; `None` if it is unlimited.
    pub budget_used: Option<f64>,
    /// True if the breaker is open.
    pub breaker_open: bool,
    /// Requests under way.
    pub in_flight: u32,
    /// Its health, one of [`HEALTHS`].
    pub health: &'static str,
    /// True if changed files of its TLS cannot be used; `None` if it has no such files.
    pub tls_is_stale: Option<bool>,
    /// The polls' delays.
    pub lag: Histogram,
}

/// The words of an account's health.
pub const HEALTHS: [&str; 3] = ["ok", "degraded", "unauthorized"];

/// The figures of the process.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The figures of each account.
    pub accounts: Vec<AccountPicture>,
    /// Open streams.
    pub streams: usize,
    /// True if the journal works.
    pub journal_available: bool,
    /// Transitions committed by this process.
    pub transitions: Transitions,
    /// The times that commits took.
    pub commits: Histogram,
    /// Connections to the service's own port.
    pub connections: usize,
    /// Calls that have ended, by method and code.
    pub calls: Vec<(&'static str, &'static str, u64)>,
    /// Calls whose callers are not known, by reason.
    pub refused_attempts: Vec<(&'static str, u64)>,
    /// The times that limits were met, by their names.
    pub limits: Vec<(&'static str, u64)>,
    /// The size of the write-ahead log in use.
    pub log_bytes: u64,
    /// True if a reader keeps the log from being emptied.
    pub log_is_pinned: bool,
    /// Rows met that cannot be read.
    pub unreadable_rows: u64,
    /// True if the settings could not be used when they were read last.
    pub settings_are_stale: bool,
    /// Reloads of the settings that failed.
    pub reloads_failed: u64,
    /// The TLS of the service's own port; `None` if it is plain.
    pub tls: Option<TlsPicture>,
    /// The audit log's lines: written, left out, and tries to write that failed.
    pub audit: AuditPicture,
    /// Spans that were exported and dropped; `None` if there is no collector.
    pub traces: Option<traces::Figures>,
    /// The loops of the process, with the number of restarts of each after a defect.
    pub restarts: Vec<(&'static str, u64)>,
    /// The loops whose progress is watched.
    pub loops: Vec<LoopPicture>,
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

/// The figures of the audit log.
#[derive(Debug, Clone, Copy)]
pub struct AuditPicture {
    /// Lines that were written.
    pub written: u64,
    /// Lines that were left out, since too many waited.
    pub left_out: u64,
    /// Tries to write that failed.
    pub failures: u64,
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

type Gauges = Family<AccountLabels, Gauge>;
type Parts = Family<AccountLabels, Gauge<f64, AtomicU64>>;

/// The picture as OpenMetrics text.
///
/// # Errors
/// None can happen: a text takes all that is written to it.
pub fn render(picture: &Picture) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tillwatch");
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "This executable", build);
    accounts(&mut registry, &picture.accounts);
    let streams = Gauge::<i64>::default();
    streams.set(count(picture.streams));
    registry.register("streams", "Open streams", streams);
    port(&mut registry, picture);
    if let Some(picture) = &picture.tls {
        tls(&mut registry, picture);
    }
    settings(&mut registry, picture);
    audit(&mut registry, picture.audit);
    if let Some(figures) = &picture.traces {
        spans(&mut registry, figures);
    }
    let journal = Gauge::<i64>::default();
    journal.set(i64::from(picture.journal_available));
    registry.register("journal_available", "1 if the last commit worked", journal);
    stored(&mut registry, picture);
    registry.register(
        "transitions",
        "Transitions committed, by the state they led to",
        picture.transitions.clone(),
    );
    let lags = picture.accounts.iter();
    registry.register_collector(Box::new(Lags(
        lags.map(|lag| (lag.labels.clone(), lag.lag.clone()))
            .collect(),
    )));
    let words = "How long a group commit took";
    registry.register_with_unit("commit", words, Unit::Seconds, picture.commits.clone());
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Each account's histogram, which the account itself keeps, as one family.
#[derive(Debug)]
struct Lags(Vec<(AccountLabels, Histogram)>);

impl Collector for Lags {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "poll_lag",
            "The time from a poll's due time to its beginning.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (labels, lag) in &self.0 {
            lag.encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
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

/// The audit log.
fn audit(registry: &mut Registry, picture: AuditPicture) {
    let lines = Family::<LineLabels, Counter>::default();
    for (outcome, times) in [("written", picture.written), ("left_out", picture.left_out)] {
        lines.get_or_create(&LineLabels { outcome }).inc_by(times);
    }
    registry.register("audit_lines", "Lines of the audit log, by outcome", lines);
    let failed = Counter::<u64>::default();
    failed.inc_by(picture.failures);
    let words = "Tries to write a line of the audit log that failed";
    registry.register("audit_write_failures", words, failed);
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
    let words = "Whether a reader of the database keeps its log from being emptied";
    registry.register("journal_log_pinned", words, pinned);
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

fn accounts(registry: &mut Registry, accounts: &[AccountPicture]) {
    let requests = Family::<RequestLabels, Counter>::default();
    let unreadable = Family::<AccountLabels, Counter>::default();
    let nowhere = Family::<AccountLabels, Counter>::default();
    let health = Family::<HealthLabels, Gauge>::default();
    let [open, due, held_back, breaker, in_flight, stale] = [(); 6].map(|()| Gauges::default());
    let (late, budget) = (Parts::default(), Parts::default());
    for account in accounts {
        let labels = &account.labels;
        for (class, outcome, made) in &account.requests {
            let labels = RequestLabels {
                account: labels.account.clone(),
                provider: labels.provider,
                class,
                outcome,
            };
            requests.get_or_create(&labels).inc_by(*made);
        }
        for word in HEALTHS {
            let labels = HealthLabels {
                account: labels.account.clone(),
                provider: labels.provider,
                health: word,
            };
            let is_this = word == account.health;
            health.get_or_create(&labels).set(i64::from(is_this));
        }
        unreadable.get_or_create(labels).inc_by(account.unreadable);
        nowhere.get_or_create(labels).inc_by(account.nowhere);
        open.get_or_create(labels).set(count(account.open));
        due.get_or_create(labels).set(count(account.due));
        held_back
            .get_or_create(labels)
            .set(count(account.held_back));
        late.get_or_create(labels).set(account.late.as_secs_f64());
        if let Some(used) = account.budget_used {
            budget.get_or_create(labels).set(used);
        }
        if let Some(is_stale) = account.tls_is_stale {
            stale.get_or_create(labels).set(i64::from(is_stale));
        }
        let is_open = i64::from(account.breaker_open);
        breaker.get_or_create(labels).set(is_open);
        in_flight
            .get_or_create(labels)
            .set(i64::from(account.in_flight));
    }
    let words =
        "1 if changed files of the account's TLS cannot be used, so that older ones hold on";
    registry.register("account_tls_files_stale", words, stale);
    let words = "Requests to the provider, by class and outcome";
    registry.register("upstream_requests", words, requests);
    let words = "Answers that could not be read";
    registry.register("unreadable_answers", words, unreadable);
    let words = "Answers of something that is not the provider's API: the base URL leads nowhere";
    registry.register("nowhere_answers", words, nowhere);
    registry.register("open_purchases", "Purchases that are polled", open);
    registry.register("due", "Purchases whose poll is due and not begun", due);
    let words = "The longest wait of a purchase whose poll is due";
    registry.register_with_unit("late", words, Unit::Seconds, late);
    let words =
        "Purchases with an answer that is held back, since its stamp is older than a known one";
    registry.register("held_back", words, held_back);
    let words = "Requests of the last minute, as a part of the limit";
    registry.register("budget_used_ratio", words, budget);
    registry.register("breaker_open", "1 if the breaker is open", breaker);
    registry.register("requests_in_flight", "Requests under way", in_flight);
    registry.register("account_health", "1 at the account's health", health);
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
    let limits = Family::<LimitLabels, Counter>::default();
    for (limit, times) in &picture.limits {
        limits.get_or_create(&LimitLabels { limit }).inc_by(*times);
    }
    registry.register("limits_met", "The times that each limit was met", limits);
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with a figure of its own in each place.
    fn picture() -> Picture {
        let labels = AccountLabels {
            account: "shop".to_owned(),
            provider: "masumi",
        };
        let lag = Histogram::new([0.1, 0.25]);
        lag.observe(0.2);
        let transitions = Transitions::default();
        let to = TransitionLabels {
            account: "shop".to_owned(),
            state: "PAID",
        };
        transitions.get_or_create(&to).inc();
        Picture {
            accounts: vec![AccountPicture {
                labels,
                requests: vec![("poll", "answered", 7)],
                unreadable: 1,
                nowhere: 6,
                open: 3,
                due: 2,
                late: Duration::from_millis(1_500),
                held_back: 1,
                budget_used: Some(0.5),
                breaker_open: true,
                in_flight: 4,
                health: "degraded",
                tls_is_stale: Some(true),
                lag,
            }],
            streams: 9,
            journal_available: true,
            transitions,
            commits: Histogram::new([0.1]),
            connections: 5,
            calls: vec![("GetStatus", "UNAUTHENTICATED", 6)],
            refused_attempts: vec![("NO_TOKEN", 14)],
            limits: vec![("connections", 8)],
            settings_are_stale: true,
            reloads_failed: 4,
            tls: Some(TlsPicture {
                expires_s: 4_102_444_800,
                is_stale: true,
                reloads_failed: 2,
                handshakes_failed: 3,
            }),
            log_bytes: 4_096,
            log_is_pinned: true,
            unreadable_rows: 5,
            audit: AuditPicture {
                written: 11,
                left_out: 12,
                failures: 13,
            },
            traces: None,
            restarts: vec![("feed", 2)],
            loops: vec![
                LoopPicture {
                    name: "lane",
                    is_stuck: true,
                    silent: Duration::from_secs(31),
                },
                LoopPicture {
                    name: "lane",
                    is_stuck: false,
                    silent: Duration::from_secs(2),
                },
            ],
        }
    }

    #[test]
    fn a_picture_is_told_by_account_in_fixed_words() {
        let text = render(&picture()).unwrap();
        let of = "account=\"shop\",provider=\"masumi\"";
        for line in [
            format!(
                "tillwatch_upstream_requests_total{{{of},class=\"poll\",outcome=\"answered\"}} 7"
            ),
            format!("tillwatch_unreadable_answers_total{{{of}}} 1"),
            format!("tillwatch_nowhere_answers_total{{{of}}} 6"),
            format!("tillwatch_open_purchases{{{of}}} 3"),
            format!("tillwatch_due{{{of}}} 2"),
            format!("tillwatch_late_seconds{{{of}}} 1.5"),
            format!("tillwatch_held_back{{{of}}} 1"),
            format!("tillwatch_budget_used_ratio{{{of}}} 0.5"),
            format!("tillwatch_breaker_open{{{of}}} 1"),
            format!("tillwatch_requests_in_flight{{{of}}} 4"),
            format!("tillwatch_account_health{{{of},health=\"degraded\"}} 1"),
            format!("tillwatch_account_health{{{of},health=\"ok\"}} 0"),
            format!("tillwatch_account_tls_files_stale{{{of}}} 1"),
            format!("tillwatch_poll_lag_seconds_count{{{of}}} 1"),
            format!("tillwatch_poll_lag_seconds_bucket{{le=\"0.25\",{of}}} 1"),
            "tillwatch_transitions_total{account=\"shop\",state=\"PAID\"} 1".to_owned(),
            "tillwatch_commit_seconds_count 0".to_owned(),
            "tillwatch_streams 9".to_owned(),
            "tillwatch_connections 5".to_owned(),
            "tillwatch_calls_total{method=\"GetStatus\",code=\"UNAUTHENTICATED\"} 6".to_owned(),
            "tillwatch_refused_attempts_total{reason=\"NO_TOKEN\"} 14".to_owned(),
            "tillwatch_limits_met_total{limit=\"connections\"} 8".to_owned(),
            "tillwatch_journal_available 1".to_owned(),
            "tillwatch_journal_log_bytes 4096".to_owned(),
            "tillwatch_journal_log_pinned 1".to_owned(),
            "tillwatch_journal_unreadable_rows_total 5".to_owned(),
            "tillwatch_audit_lines_total{outcome=\"written\"} 11".to_owned(),
            "tillwatch_audit_lines_total{outcome=\"left_out\"} 12".to_owned(),
            "tillwatch_audit_write_failures_total 13".to_owned(),
            "tillwatch_loop_restarts_total{loop=\"feed\"} 2".to_owned(),
            "tillwatch_loop_stuck{loop=\"lane\"} 1".to_owned(),
            "tillwatch_loop_silent_seconds{loop=\"lane\"} 31.0".to_owned(),
            format!(
                "tillwatch_build_info{{version=\"{}\"}} 1",
                env!("CARGO_PKG_VERSION")
            ),
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn spans_are_told_by_their_ends() {
        let mut registry = Registry::with_prefix("tillwatch");
        let figures = traces::Figures {
            exported: 11,
            overflowed: 12,
            undelivered: 13,
        };
        spans(&mut registry, &figures);
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            "tillwatch_trace_spans_exported_total 11",
            "tillwatch_trace_spans_dropped_total{reason=\"queue_full\"} 12",
            "tillwatch_trace_spans_dropped_total{reason=\"undelivered\"} 13",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
    }
}
