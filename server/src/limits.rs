//! Limits that are met: each is counted every time, and told in the log at most once in ten
//! seconds, so that neither a slow leak nor a flood goes unseen or fills the disk.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::{Duration, Instant};

/// The shortest time between two lines about one limit.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The things that are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Connections of a listener.
    Connections,
    /// Control frames of a connection.
    ControlFrames,
    /// Calls of a connection whose callers are not known.
    RefusedAttempts,
    /// The time and the bytes that a connection has until it must show who it is.
    Strangers,
    /// Bytes of requests that have not arrived whole.
    RequestBytes,
    /// The time that a request may take to arrive.
    RequestTime,
    /// Bytes of answers that are not read yet.
    AnswerBytes,
    /// The time that an answer may wait for its reader.
    AnswerTime,
    /// Calls that need no token.
    OpenCalls,
    /// Watches of health.
    HealthWatches,
    /// Streams of reflection.
    ReflectionStreams,
    /// Streams and waits, of all callers.
    Streams,
    /// Streams and waits of one caller.
    StreamsPerCaller,
    /// Streams over many purchases, of one caller.
    FeedsPerCaller,
    /// Pages of lists that are read at once, of one caller.
    ListsPerCaller,
    /// Creates of one caller in a second.
    CreatesPerCaller,
    /// Open purchases of one caller.
    OpenPurchasesPerCaller,
}

impl Limit {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 17] = [
        Self::Connections,
        Self::ControlFrames,
        Self::RefusedAttempts,
        Self::Strangers,
        Self::RequestBytes,
        Self::RequestTime,
        Self::AnswerBytes,
        Self::AnswerTime,
        Self::OpenCalls,
        Self::HealthWatches,
        Self::ReflectionStreams,
        Self::Streams,
        Self::StreamsPerCaller,
        Self::FeedsPerCaller,
        Self::ListsPerCaller,
        Self::CreatesPerCaller,
        Self::OpenPurchasesPerCaller,
    ];

    /// Its name in metrics and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ControlFrames => "control_frames",
            Self::RefusedAttempts => "refused_attempts",
            Self::Strangers => "strangers",
            Self::RequestBytes => "request_bytes",
            Self::RequestTime => "request_time",
            Self::AnswerBytes => "answer_bytes",
            Self::AnswerTime => "answer_time",
            Self::OpenCalls => "open_calls",
            Self::HealthWatches => "health_watches",
            Self::ReflectionStreams => "reflection_streams",
            Self::Streams => "streams",
            Self::StreamsPerCaller => "streams_per_caller",
            Self::FeedsPerCaller => "feeds_per_caller",
            Self::ListsPerCaller => "lists_per_caller",
            Self::CreatesPerCaller => "creates_per_second_per_caller",
            Self::OpenPurchasesPerCaller => "open_purchases_per_caller",
        }
    }

    /// Counts that it was met.
    pub fn met(self) {
        let Some(times) = self.tally().met(Instant::now()) else {
            return;
        };
        tracing::warn!(limit = self.name(), times, "a limit was met");
    }

    /// The number of times that it was met since the process began.
    pub fn times(self) -> u64 {
        self.tally().times()
    }

    fn tally(self) -> &'static Tally {
        static TALLIES: [Tally; Limit::ALL.len()] = [const { Tally::new() }; Limit::ALL.len()];
        let place = Self::ALL.iter().position(|one| *one == self);
        place
            .and_then(|place| TALLIES.get(place))
            .unwrap_or(&TALLIES[0])
    }
}

/// The number of times that something happened, and when that was told.
#[derive(Debug, Default)]
pub struct Tally {
    times: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Tally {
    const fn new() -> Self {
        Self {
            times: AtomicU64::new(0),
            told: Mutex::new(None),
        }
    }

    /// The number of times.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::Relaxed)
    }

    /// Counts one more, and returns the sum if it is time to log it.
    pub fn met(&self, now: Instant) -> Option<u64> {
        let times = self.times.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
        if is_due {
            *told = Some(now);
        }
        is_due.then_some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_counted_each_time_and_told_once_in_ten_seconds() {
        let tally = Tally::new();
        let began = Instant::now();
        let told: Vec<_> = [0, 1, 9_999, 10_000, 10_001, 20_000]
            .map(|millis| tally.met(began + Duration::from_millis(millis)))
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(told, [1, 4, 6]);
    }

    #[test]
    fn each_limit_has_a_name_and_a_count_of_its_own() {
        let names: std::collections::BTreeSet<_> = Limit::ALL.map(Limit::name).into();
        assert_eq!(names.len(), Limit::ALL.len());
        let before = Limit::ReflectionStreams.times();
        Limit::ReflectionStreams.met();
        // Other tests of this process meet it too.
        assert!(Limit::ReflectionStreams.times() > before);
    }
}
