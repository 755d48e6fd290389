//! Points on the process's monotonic clock, to the millisecond.

use std::time::Duration;

/// A point on the clock that nobody can set. Waits, paces, pauses, deadlines in memory and the order of
/// answers count by it. It counts from the machine's start, and goes on while the machine is suspended.
/// It is signed, since a purchase can be older than the machine's start.
///
/// It means nothing to another machine, nor after a restart of this one: it is never shown.
/// [`Timestamp`](super::Timestamp) is the time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(i64);

impl Moment {
    /// Before all others.
    pub const EARLIEST: Self = Self(i64::MIN);
    /// After all others.
    pub const LATEST: Self = Self(i64::MAX);

    /// The moment so many milliseconds after the machine's start.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the machine's start.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The moment `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The moment `duration` earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// The time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_can_be_older_than_the_machine_is_up_and_what_lies_ahead_has_none() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
        let up = Moment::from_millis(5_000);
        let before = up.minus(hour);
        assert!(before < Moment::default());
        assert_eq!(up.since(before), hour);
        assert_eq!(before.since(up), Duration::ZERO);
        assert_eq!(up.plus(second).minus(second), up);
        assert_eq!(
            up.plus(Duration::MAX).since(up),
            Duration::from_millis((i64::MAX - 5_000) as u64)
        );
    }
}
