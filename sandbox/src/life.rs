//! Compressed time, and a purchase's time line of words.
//! Life time is real time multiplied by the speed; it can be paused and pushed ahead.

use std::time::Duration;

use tokio::time::Instant;

use crate::scenario::Scenario;

/// The words of a purchase and the life time after its creation at which each begins, in
/// milliseconds.
pub(crate) type Life = &'static [(u64, &'static str)];

/// The words of one purchase, with the life time after its creation at which each begins.
pub type TimeLine = Vec<(Duration, String)>;

/// Each step of the slow scenario takes this many times as long.
const SLOW: u64 = 10;

/// The time line of a purchase that goes the way of its scenario.
pub(crate) fn time_line(life: Life, scenario: Scenario) -> TimeLine {
    let stretch = if scenario == Scenario::Slow { SLOW } else { 1 };
    let step = |(after_ms, word): &(u64, &str)| {
        let after = Duration::from_millis(after_ms.saturating_mul(stretch));
        (after, (*word).to_owned())
    };
    life.iter().map(step).collect()
}

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

    pub(crate) fn advance(&mut self, now: Instant, by: Duration) {
        self.life = self.at(now).saturating_add(by);
        self.anchor = now;
    }

    /// The real time since a life time was reached.
    pub(crate) fn since(&self, due: Duration, now: Instant) -> Duration {
        let since_anchor = now.saturating_duration_since(self.anchor);
        if due <= self.life || self.paused {
            return since_anchor;
        }
        self.at(now).saturating_sub(due).div_f64(self.speed)
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
        clock.advance(start + 5 * second, 3 * second);
        clock.pause(start + 5 * second, false);
        assert_eq!(clock.at(start + 6 * second), 23 * second);
        assert_eq!(clock.until(33 * second, start + 6 * second), Some(second));
    }

    #[test]
    fn a_life_time_was_reached_when_it_came_or_when_it_was_jumped_over() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = LifeClock::new(10.0, start);
        let since = |clock: &LifeClock, due, now| clock.since(due * second, start + now * second);
        assert_eq!(since(&clock, 20, 5), 3 * second);
        clock.advance(start + 5 * second, 100 * second);
        assert_eq!(since(&clock, 120, 6), second, "jumped over a second ago");
        assert_eq!(since(&clock, 155, 6), second / 2);
    }
}
