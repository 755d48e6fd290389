//! The wait before the next attempt.

use std::time::Duration;

/// The bound of the first wait.
const FIRST: Duration = Duration::from_millis(250);
/// The bound that no wait of our own exceeds.
const LONGEST: Duration = Duration::from_secs(30);

/// The most tries in a row after a defect of the service.
pub(crate) const DEFECTS_MAX: u32 = 3;

/// Full-jitter exponential backoff: each wait is evenly spread between zero and a doubling bound.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait, never shorter than what the server asked for.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let bound = bound(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        let jittered = Duration::from_millis(rand::random_range(0..=millis));
        // A server's own wait is spread over its clients already and gets no second jitter.
        asked.map_or(jittered, |asked| asked.max(jittered))
    }

    /// Forgets the failures so far.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

fn bound(attempts: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(attempts))
        .min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_longest() {
        let check = |attempts, millis| {
            assert_eq!(bound(attempts), Duration::from_millis(millis));
        };
        check(0, 250);
        check(1, 500);
        check(6, 16_000);
        check(7, 30_000);
        check(1_000, 30_000);
    }

    #[test]
    fn a_wait_is_within_its_bound_and_never_below_what_was_asked() {
        let mut backoff = Backoff::default();
        for attempt in 0..40 {
            assert!(backoff.next(None) <= bound(attempt));
        }
        let asked = Duration::from_secs(90);
        assert_eq!(backoff.next(Some(asked)), asked);
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }
}
