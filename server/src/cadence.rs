//! Pure: when to ask again, and how to share a budget.

pub mod adaptive;
pub mod budget;
#[expect(
    clippy::float_arithmetic,
    reason = "likelihoods and waiting times are estimates; no money is counted here"
)]
pub mod hazard;
pub mod queue;
pub mod shelf;
pub mod turns;
pub mod wheel;
pub mod witness;

use std::time::Duration;

/// The most due purchases of a caller that are compared before one is asked about.
pub const COMPARED_MAX: usize = 512;

/// Long polls that one account holds at once, at the most.
pub const HELD_MAX: u32 = 1_000;

/// The shortest interval that a schedule may name.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Intervals by age: up to each bound, that interval; the last holds for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Phase>);

/// One phase of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// The age at which the phase ends; `None` in the last.
    pub until: Option<Duration>,
    /// The interval within it.
    pub every: Duration,
}

/// A schedule that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There is no phase.
    #[error("a schedule must have at least one phase")]
    Empty,
    /// An interval is too short.
    #[error("an interval must be at least 100 ms")]
    TooFast,
    /// Bounds must rise, and only the last phase has none.
    #[error("the phases' `until` must rise, and the last phase alone must have none")]
    Order,
}

impl Schedule {
    /// A schedule of these phases, checked.
    pub fn new(phases: Vec<Phase>) -> Result<Self, ScheduleError> {
        let Some((last, earlier)) = phases.split_last() else {
            return Err(ScheduleError::Empty);
        };
        if phases.iter().any(|phase| phase.every < INTERVAL_MIN) {
            return Err(ScheduleError::TooFast);
        }
        let bounds: Vec<Option<Duration>> = earlier.iter().map(|phase| phase.until).collect();
        let rising = bounds
            .iter()
            .zip(bounds.iter().skip(1))
            .all(|(left, right)| left < right);
        if last.until.is_some() || bounds.contains(&None) || !rising {
            return Err(ScheduleError::Order);
        }
        Ok(Self(phases))
    }

    /// A schedule from a provider's file: pairs of seconds until and seconds between, then the last
    /// interval in milliseconds.
    pub fn of(phases: &[(u64, u64)], last_every_ms: u64) -> Self {
        let phase = |&(until, every): &(u64, u64)| Phase {
            until: Some(Duration::from_secs(until)),
            every: Duration::from_secs(every),
        };
        let last = Phase {
            until: None,
            every: Duration::from_millis(last_every_ms),
        };
        Self(phases.iter().map(phase).chain([last]).collect())
    }

    /// The interval at this age. A phase's bound belongs to the next phase.
    pub fn every(&self, age: Duration) -> Duration {
        self.0
            .iter()
            .find(|phase| phase.until.is_none_or(|until| age < until))
            .map_or(Duration::from_secs(60), |phase| phase.every)
    }

    /// The phases.
    pub fn phases(&self) -> &[Phase] {
        &self.0
    }

    /// The interval of the first phase.
    pub fn first(&self) -> Duration {
        self.every(Duration::ZERO)
    }
}

/// The polling of an account. Every figure's source stands beside it: at a provider's defaults, or in
/// the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Intervals by a purchase's age.
    pub schedule: Schedule,
    /// Intervals by the age of a terminal status.
    pub after_terminal: Schedule,
    /// Requests of all kinds per minute; 0 is unlimited.
    pub requests_per_minute: u32,
    /// Creates per minute; 0 is unlimited.
    pub creates_per_minute: u32,
    /// Requests under way at once, held long polls not counted.
    pub max_in_flight: u32,
    /// The longest that a request may take.
    pub timeout: Duration,
    /// Many purchases are read by one request, if the provider can.
    pub sweep: bool,
    /// The time that a terminal status is looked at; `None` leaves it to the provider's states.
    pub horizon: Option<Duration>,
    /// The time that an open status may stay unchanged; `None` leaves it to the provider's states.
    pub stale_after: Option<Duration>,
    /// The time without a change after which polling stops.
    pub give_up_after: Duration,
    /// The provider holds a status request until something happens.
    pub long_poll: bool,
    /// Long polls under way at once; fewer if the process may open fewer files.
    pub held_max: u32,
}

impl Policy {
    /// The number of due purchases of a caller that are compared before one is asked about: the fewer,
    /// the more requests the budget allows, so that choosing stays cheap beside asking.
    pub fn compared_max(&self) -> usize {
        const LEAST: usize = 8;
        // A thousand a second: about a thousandth of a processor.
        const PER_MINUTE: u32 = 60_000;
        match PER_MINUTE.checked_div(self.requests_per_minute) {
            None => LEAST,
            Some(each) => usize::try_from(each)
                .unwrap_or(COMPARED_MAX)
                .clamp(LEAST, COMPARED_MAX),
        }
    }

    /// The policy that all providers start from; each provider's file changes its own figures.
    pub fn common(schedule: Schedule) -> Self {
        Self {
            schedule,
            // Ours: refunds and returns come days after the end, so the look at them gets rarer.
            after_terminal: Schedule::of(&[(600, 60), (86_400, 3_600)], 86_400_000),
            requests_per_minute: 600,
            creates_per_minute: 0,
            max_in_flight: 64,
            timeout: Duration::from_secs(15),
            sweep: true,
            horizon: None,
            stale_after: None,
            give_up_after: Duration::from_secs(90 * 86_400),
            long_poll: false,
            held_max: HELD_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_follow_the_age() {
        let schedule = Schedule::of(&[(300, 5), (1_800, 30)], 120_000);
        let table = [
            (0, 5),
            (299, 5),
            (300, 30),
            (1_799, 30),
            (1_800, 120),
            (90_000, 120),
        ];
        for (age, every) in table {
            assert_eq!(
                schedule.every(Duration::from_secs(age)),
                Duration::from_secs(every),
                "{age}"
            );
        }
    }

    #[test]
    fn schedules_that_cannot_be_followed_are_refused() {
        let phase = |until: Option<u64>, every_ms| Phase {
            until: until.map(Duration::from_secs),
            every: Duration::from_millis(every_ms),
        };
        let check = |phases: Vec<Phase>, expected| {
            assert_eq!(Schedule::new(phases).err(), expected);
        };
        check(vec![], Some(ScheduleError::Empty));
        check(vec![phase(None, 99)], Some(ScheduleError::TooFast));
        check(vec![phase(Some(1), 100)], Some(ScheduleError::Order));
        check(
            vec![phase(None, 100), phase(None, 100)],
            Some(ScheduleError::Order),
        );
        check(
            vec![phase(Some(2), 100), phase(Some(2), 100), phase(None, 100)],
            Some(ScheduleError::Order),
        );
        check(
            vec![phase(Some(1), 100), phase(Some(2), 100), phase(None, 100)],
            None,
        );
    }
}
