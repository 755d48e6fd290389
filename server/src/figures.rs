//! The counts and times that rooms keep of themselves for the metrics. Everything is an atomic, so that
//! counting costs no lock and no allocation.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the times of calls, in microseconds: from a read out of memory to a long poll.
pub const CALL_BOUNDS: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
    600_000_000,
];
/// Upper bounds of the delays of news, in microseconds: from a wake-up to an hour without a budget.
pub const NEWS_BOUNDS: &[u64] = &[
    500,
    1_000,
    2_500,
    10_000,
    50_000,
    250_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    7_200_000_000,
];
/// Upper bounds of the times of requests to providers, in microseconds.
pub const REQUEST_BOUNDS: &[u64] = &[
    10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    30_000_000, 60_000_000,
];
/// Upper bounds of the writes in one commit.
pub const GROUP_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// The number of values between each two bounds.
#[derive(Debug)]
pub struct Spread {
    bounds: &'static [u64],
    /// One for each bound, and one for all beyond the last.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// The picture of a [`Spread`] at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The upper bounds.
    pub bounds: &'static [u64],
    /// The values up to each bound and above the one before it; the last are beyond all bounds.
    pub counts: Vec<u64>,
    /// The sum of all values.
    pub sum: u64,
}

impl Spread {
    /// A spread over ascending bounds, in which nothing was counted yet.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a value.
    pub fn add(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// Counts a time, in microseconds.
    pub fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The picture of now. Values that are counted meanwhile may be in it in part.
    pub fn seen(&self) -> Seen {
        let counts = self.counts.iter();
        Seen {
            bounds: self.bounds,
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_up_to_the_bound_that_it_reaches() {
        let spread = Spread::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1_000] {
            spread.add(value);
        }
        let seen = spread.seen();
        assert_eq!((seen.counts, seen.sum), (vec![2, 2, 2], 1_062));
    }

    #[test]
    fn a_time_counts_in_microseconds() {
        let spread = Spread::new(CALL_BOUNDS);
        spread.add_time(Duration::from_millis(1));
        assert_eq!((spread.seen().counts[0], spread.seen().sum), (1, 1_000));
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [CALL_BOUNDS, NEWS_BOUNDS, REQUEST_BOUNDS, GROUP_BOUNDS] {
            assert!(bounds.is_sorted() && bounds.first() < bounds.last());
        }
    }
}
