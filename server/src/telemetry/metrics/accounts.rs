//! The figures of each account.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{
    count,
    spread::{self, Values},
    whole,
};
use crate::figures::Seen;

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
struct HealthLabels {
    account: String,
    provider: &'static str,
    health: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    account: String,
    provider: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgeLabels {
    account: String,
    provider: &'static str,
    state: &'static str,
    age: &'static str,
}

/// The figures of one account.
#[derive(Debug, Clone)]
pub struct AccountPicture {
    /// Its names.
    pub labels: AccountLabels,
    /// Requests by class and outcome.
    pub requests: Vec<(&'static str, &'static str, u64)>,
    /// The times of requests, by class.
    pub request_times: Vec<(&'static str, Seen)>,
    /// Answers that could not be read.
    pub unreadable: u64,
    /// Answers of something that is not the provider's API.
    pub nowhere: u64,
    /// Purchases that are being polled.
    pub open: usize,
    /// Open purchases by state and age, with those that are not polled yet.
    pub by_age: Vec<(&'static str, &'static str, u64)>,
    /// Purchases whose creates are unclear.
    pub unclear: u64,
    /// Revisions with a word of the provider that has no mapping.
    pub unmapped: u64,
    /// Purchases whose poll is due and has not begun.
    pub due: usize,
    /// The longest wait of them.
    pub late: Duration,
    /// Purchases with an answer that is held back.
    pub held_back: usize,
    /// Requests of the last minute as a part of the limit; `None` if it is unlimited.
    pub budget_used: Option<f64>,
    /// Requests that the limit leaves in this minute; `None` if it is unlimited.
    pub budget_left: Option<u32>,
    /// True if the breaker is open.
    pub breaker_open: bool,
    /// Requests under way.
    pub in_flight: u32,
    /// Its health, one of `HEALTHS`.
    pub health: &'static str,
    /// True if changed files of its TLS cannot be used; `None` if it has no such files.
    pub tls_is_stale: Option<bool>,
    /// The polls' delays.
    pub lag: Histogram,
}

/// The words of an account's health.
pub const HEALTHS: [&str; 3] = ["ok", "degraded", "unauthorized"];

type Gauges = Family<AccountLabels, Gauge>;
type Parts = Family<AccountLabels, Gauge<f64, AtomicU64>>;

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

/// Adds the figures of all accounts.
pub(super) fn register(registry: &mut Registry, accounts: &[AccountPicture]) {
    let requests = Family::<RequestLabels, Counter>::default();
    let unreadable = Family::<AccountLabels, Counter>::default();
    let nowhere = Family::<AccountLabels, Counter>::default();
    let health = Family::<HealthLabels, Gauge>::default();
    let [open, due, held_back, breaker, in_flight, stale, left] =
        [(); 7].map(|()| Gauges::default());
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
        if let Some(requests) = account.budget_left {
            left.get_or_create(labels).set(i64::from(requests));
        }
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
    let words = "Requests that the limit leaves in this minute";
    registry.register("budget_left", words, left);
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
    purchases(registry, accounts);
    let lags = accounts.iter();
    registry.register_collector(Box::new(Lags(
        lags.map(|lag| (lag.labels.clone(), lag.lag.clone()))
            .collect(),
    )));
}

/// Adds the figures of accounts' purchases, and of the requests about them.
fn purchases(registry: &mut Registry, accounts: &[AccountPicture]) {
    let unclear = Gauges::default();
    let unmapped = Family::<AccountLabels, Counter>::default();
    let by_age = Family::<AgeLabels, Gauge>::default();
    let mut times = Vec::new();
    for account in accounts {
        let labels = &account.labels;
        for (class, seen) in &account.request_times {
            let labels = ClassLabels {
                account: labels.account.clone(),
                provider: labels.provider,
                class,
            };
            times.push((labels, seen.clone()));
        }
        for (state, age, purchases) in &account.by_age {
            let labels = AgeLabels {
                account: labels.account.clone(),
                provider: labels.provider,
                state,
                age,
            };
            by_age.get_or_create(&labels).set(whole(*purchases));
        }
        unclear.get_or_create(labels).set(whole(account.unclear));
        unmapped.get_or_create(labels).inc_by(account.unmapped);
    }
    let words = (
        "upstream_request",
        "The times of requests to the provider, by class",
    );
    spread::register(registry, words, Values::Times, times);
    let words = "Revisions committed with a word of the provider that has no mapping";
    registry.register("unmapped_words", words, unmapped);
    let words = "Purchases whose creates are unclear";
    registry.register("unclear_creates", words, unclear);
    let words = "Purchases that are not final, by state and age class";
    registry.register("open_purchases_by_age", words, by_age);
}
