//! A store's clock, as one process knows it: pure. The process looks at it now and then, and carries it on by
//! its own monotonic clock in between. So nobody who sets the wall clock of a machine changes a time that
//! several processes compare.

use std::time::Duration;

use crate::purchase::{Moment, Timestamp};

/// The longest round trip of a look that is exact enough to follow.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);
/// A larger difference is a step of the store's clock, and is followed at once.
const STEP_MIN: Duration = Duration::from_secs(5);
/// A smaller difference is made up by one part in so many of the time that passes: 0.5 ms per second. Times
/// then never go back.
const SLEWED_PART: i64 = 2_000;

/// A look at the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreTime {
    /// The moment before the store was asked.
    pub asked: Moment,
    /// The moment after its answer had come.
    pub answered: Moment,
    /// The store's time, at some moment between the two.
    pub time: Timestamp,
}

impl StoreTime {
    fn round_trip(self) -> Duration {
        self.answered.since(self.asked)
    }

    fn is_exact(self) -> bool {
        self.round_trip() <= ROUND_TRIP_MAX
    }

    /// The lead of the store's clock over the monotonic one, in microseconds: the store looked halfway.
    fn lead_us(self) -> i64 {
        let twice_ms = (self.asked.as_millis()).saturating_add(self.answered.as_millis());
        micros(self.time).saturating_sub(twice_ms.saturating_mul(500))
    }
}

/// The lead of the store's clock over the monotonic clock of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lead {
    /// The lead at a moment, in microseconds.
    us: i64,
    at: Moment,
    /// The lead that it slowly comes to.
    found_us: i64,
    /// False until a look was quick enough.
    is_exact: bool,
}

impl Lead {
    /// The lead by the first look, however long that took.
    pub(super) fn first(look: StoreTime) -> Self {
        let us = look.lead_us();
        Self {
            us,
            at: look.answered,
            found_us: us,
            is_exact: look.is_exact(),
        }
    }

    /// Learns from one more look. Returns the step of the store's clock in milliseconds, if it was set: a
    /// difference that no round trip explains. Of a smaller difference a look that took long tells nothing.
    pub(super) fn learn(&mut self, look: StoreTime) -> Option<i64> {
        let known_us = self.us(look.answered);
        let found = Self::first(look);
        let difference_us = found.us.saturating_sub(known_us);
        let explained = STEP_MIN + look.round_trip() / 2;
        if u128::from(difference_us.unsigned_abs()) > explained.as_micros() {
            *self = found;
            return Some(difference_us / 1_000);
        }
        if found.is_exact {
            *self = Self {
                // The first exact look takes the place of a rough one.
                us: if self.is_exact { known_us } else { found.us },
                ..found
            };
        }
        None
    }

    /// The store's time at a moment.
    pub(super) fn time(&self, moment: Moment) -> Timestamp {
        let us = (moment.as_millis().saturating_mul(1_000)).saturating_add(self.us(moment));
        Timestamp::from_millis(us.div_euclid(1_000)).unwrap_or_default()
    }

    fn us(&self, moment: Moment) -> i64 {
        let passed_ms = moment.since(self.at).as_millis();
        let passed_us = i64::try_from(passed_ms)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000);
        let most_us = passed_us / SLEWED_PART;
        let missing_us = self.found_us.saturating_sub(self.us);
        self.us.saturating_add(missing_us.clamp(-most_us, most_us))
    }
}

fn micros(time: Timestamp) -> i64 {
    time.as_millis().saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_800_000_000_000;
    const HOUR_MS: i64 = 3_600_000;

    fn moment(ms: i64) -> Moment {
        Moment::from_millis(ms)
    }

    /// A look that was sent then and took so long both ways, at a store's clock that is so far ahead of the
    /// first.
    fn look(asked_ms: i64, round_trip_ms: i64, ahead_ms: i64) -> StoreTime {
        let answered_ms = asked_ms + round_trip_ms;
        let time_ms = START_MS + (asked_ms + answered_ms) / 2 + ahead_ms;
        StoreTime {
            asked: moment(asked_ms),
            answered: moment(answered_ms),
            time: Timestamp::from_millis(time_ms).unwrap(),
        }
    }

    /// By how much a lead is ahead of the first clock at a moment.
    fn ahead_ms(lead: &Lead, at_ms: i64) -> i64 {
        lead.time(moment(at_ms)).as_millis() - START_MS - at_ms
    }

    #[test]
    fn the_first_look_counts_from_halfway_of_its_round_trip() {
        let lead = Lead::first(look(1_000, 400, 0));
        assert_eq!(ahead_ms(&lead, 1_400), 0);
        assert_eq!(
            ahead_ms(&lead, HOUR_MS),
            0,
            "the monotonic clock carries it"
        );
    }

    #[test]
    fn a_small_difference_is_made_up_by_half_a_millisecond_a_second_and_time_never_goes_back() {
        for ahead in [-4_000, -40, 0, 40, 4_000] {
            let mut lead = Lead::first(look(0, 2, 0));
            let mut before = lead.time(moment(2));
            for second in 1..=100 {
                let step = lead.learn(look(second * 1_000, 2, ahead));
                assert_eq!(step, None, "{ahead}");
                for ms in [2, 3, 500, 999] {
                    let now = lead.time(moment(second * 1_000 + ms));
                    assert!(now >= before, "{ahead}: {now} after {before}");
                    before = now;
                }
            }
            let made_up = ahead_ms(&lead, 101_000);
            let most = 50;
            assert!(
                (made_up - ahead.clamp(-most, most)).abs() <= 1,
                "{ahead}: {made_up}"
            );
        }
    }

    #[test]
    fn a_difference_above_five_seconds_is_a_step_and_is_followed_at_once() {
        for step in [-HOUR_MS, -5_100, 5_100, HOUR_MS, 1_000 * HOUR_MS] {
            let mut lead = Lead::first(look(0, 2, 0));
            assert_eq!(lead.learn(look(500, 2, step)), Some(step));
            assert_eq!(ahead_ms(&lead, 502), step);
            assert_eq!(lead.learn(look(1_000, 2, step)), None, "told once");
        }
        let mut lead = Lead::first(look(0, 2, 0));
        assert_eq!(lead.learn(look(500, 2, 5_000)), None);
    }

    #[test]
    fn a_look_that_took_long_tells_of_no_small_difference_and_of_no_step_that_its_length_explains()
    {
        let mut lead = Lead::first(look(0, 2, 0));
        let known = lead;
        assert_eq!(lead.learn(look(500, 1_001, 800)), None);
        // A process that was stopped for an hour in the middle of a look.
        assert_eq!(lead.learn(look(2_000, HOUR_MS, -HOUR_MS / 2)), None);
        assert_eq!(lead, known);
        // A step is seen all the same.
        assert_eq!(lead.learn(look(HOUR_MS, 3_000, HOUR_MS)), Some(HOUR_MS));
    }

    #[test]
    fn a_first_look_that_took_long_is_replaced_by_the_first_quick_one() {
        let mut lead = Lead::first(look(0, 6_000, 2_500));
        assert_eq!(lead.learn(look(7_000, 2_000, 0)), None);
        assert_eq!(ahead_ms(&lead, 9_000), 2_500, "no better");
        assert_eq!(lead.learn(look(10_000, 10, 0)), None);
        assert_eq!(ahead_ms(&lead, 10_010), 0);
    }
}
