//! Compressed time, and a purchase's time line of words.
//! Life time is real time multiplied by the speed; it can be paused and pushed ahead.

use std::time::Duration;

use tokio::time::Instant;

/// The words of a purchase and the life time after its creation at which each begins, in
/// milliseconds.
pub(crate) type Life = &'static [(u64, &'static str)];

/// How much longer each step of the slow scenario takes.
pub(crate) const SLOW: u64 = 10;

/// The clock of all lives in one sandbox.
#[derive(Debug)]
pub(crate) struct LifeClock {
    anchor: Instant,
    life: Duration,
    speed: f64,
    paused: bool,
}

impl LifeClock {
    pub(crate) fn new(speed: f64, now: Instant) -> Self {
        Self {
            anchor: now,
            life: Duration::ZERO,
            speed,
            paused: false,
        }
    }

    /// The life time at the real time `now`.
    pub(crate) fn at(&self, now: Instant) -> Duration {
        if self.paused {
            return self.life;
        }
        self.life
            + now
                .saturating_duration_since(self.anchor)
                .mul_f64(self.speed)
    }

    pub(crate) fn pause(&mut self, now: Instant, paused: bool) {
        self.life = self.at(now);
        self.anchor = now;
        self.paused = paused;
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.life = self.life.saturating_add(by);
    }

    /// The real time until a life time, or nothing while paused.
    pub(crate) fn until(&self, due: Duration, now: Instant) -> Option<Duration> {
        if self.paused {
            return None;
        }
        Some(due.saturating_sub(self.at(now)).div_f64(self.speed))
    }
}

/// Writes a life time as the README does.
#[cfg(test)]
pub(crate) fn seconds(after_ms: u64) -> String {
    format!("{} s", after_ms / 1000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::LifeClock;

    #[test]
    fn lives_stand_still_while_paused_and_jump_when_advanced() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = LifeClock::new(10.0, start);
        assert_eq!(clock.at(start + second), 10 * second);
        clock.pause(start + second, true);
        assert_eq!(clock.at(start + 5 * second), 10 * second);
        assert_eq!(clock.until(20 * second, start + 5 * second), None);
        clock.advance(3 * second);
        clock.pause(start + 5 * second, false);
        assert_eq!(clock.at(start + 6 * second), 23 * second);
        assert_eq!(clock.until(33 * second, start + 6 * second), Some(second));
    }
}
