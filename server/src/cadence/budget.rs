//! Pure: pacing by GCRA, and the breaker.

use std::time::Duration;

use super::witness::{Witness, Witnesses};
use crate::purchase::Moment;

/// A pace: at most so many requests a minute, evenly spread but for a small burst.
///
/// The generic cell rate algorithm, run at the limit less a tenth. The burst is half of what the
/// tenth leaves, so that no window of a minute, wherever it begins, holds more than the limit; the
/// other half is for requests that the network brings closer together: three seconds' worth. From 25
/// a minute on the burst is two at the least, so that a create need not wait behind a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Microseconds between requests in the long run; 0 if unlimited.
    interval_us: i64,
    /// The most by which the arrival time may lie ahead, in microseconds.
    tolerance_us: i64,
    /// The theoretical arrival time of the next request, in microseconds of the monotonic clock.
    arrival_us: i64,
    /// The arrival time that requests under another limit have led to: no later limit forgives it.
    owed_us: i64,
    /// True if somebody else hands the slots out. Each is used at its own time then, whatever now is.
    is_given: bool,
}

/// Microseconds of a minute, at the limit less a tenth.
const PACED_MINUTE_US: i64 = 60_000_000 * 10 / 9;
/// The least limit at which a burst of two leaves a request to spare in any minute.
const BURST_OF_TWO_FROM: i64 = 25;
/// The most by which an arrival time may lie beyond its own reach: a store keeps so much ahead.
const AHEAD_MAX_US: i64 = 6_000_000;

impl Pace {
    /// A pace of at most `per_minute` requests; 0 is unlimited.
    pub fn new(per_minute: u32) -> Self {
        Self::share(per_minute, 1)
    }

    /// A pace of at most one `part`-th of `per_minute` requests; of an unlimited one, unlimited.
    pub fn share(per_minute: u32, part: u32) -> Self {
        let (limit, part) = (i64::from(per_minute), i64::from(part.max(1)));
        let interval_us = if limit == 0 {
            0
        } else {
            (PACED_MINUTE_US * part + limit - 1) / limit
        };
        let least = if limit / part >= BURST_OF_TWO_FROM {
            2
        } else {
            1
        };
        let burst = (limit / part / 20).max(least);
        Self {
            interval_us,
            tolerance_us: interval_us * (burst - 1),
            arrival_us: 0,
            owed_us: 0,
            is_given: false,
        }
    }

    /// The same pace, by slots that somebody else hands out.
    #[must_use]
    pub fn given(self) -> Self {
        Self {
            is_given: true,
            ..self
        }
    }

    /// The next slot that is handed out is at `from`.
    pub fn give(&mut self, from: Moment) {
        if !self.is_unlimited() {
            self.arrival_us = from.as_millis().saturating_mul(1000);
        }
    }

    /// The time of the slot that a request now would use, not after now.
    pub fn slot(&self, now: Moment) -> Moment {
        if !self.is_given || self.is_unlimited() {
            return now;
        }
        Moment::from_millis(self.arrival_us.div_euclid(1000)).min(now)
    }

    /// Says whether there is no limit.
    pub fn is_unlimited(&self) -> bool {
        self.interval_us == 0
    }

    /// When the next request may be made: `now` or later. `thousandths` of the burst are open to
    /// it; the rest is kept for others.
    pub fn earliest(&self, now: Moment, thousandths: i64) -> Moment {
        let tolerance = self.tolerance_us / 1000 * thousandths;
        let earliest_us = self.arrival_us.saturating_sub(tolerance);
        // Rounded up: a request is never early.
        let earliest_ms = earliest_us.saturating_add(999).div_euclid(1000);
        Moment::from_millis(earliest_ms).max(now)
    }

    /// When one request may be made that leaves another its place, to which `thousandths` of the burst
    /// are open: `now` or later.
    pub fn earliest_but_one(&self, now: Moment, thousandths: i64) -> Moment {
        let earliest_us = self
            .arrival_us
            .saturating_add(self.interval_us)
            .saturating_sub(self.tolerance_us / 1000 * thousandths);
        let earliest_ms = earliest_us.saturating_add(999).div_euclid(1000);
        Moment::from_millis(earliest_ms).max(now)
    }

    /// The number of requests that may be made at once, with `thousandths` of the burst.
    pub fn at_once(&self, now: Moment, thousandths: i64) -> u32 {
        let reach_us =
            now.as_millis().saturating_mul(1000) + self.tolerance_us / 1000 * thousandths;
        let spare_us = reach_us - self.arrival_us.max(now.as_millis().saturating_mul(1000));
        match spare_us.checked_div(self.interval_us) {
            None => u32::MAX,
            Some(_) if spare_us < 0 => 0,
            Some(more) => u32::try_from(more + 1).unwrap_or(u32::MAX),
        }
    }

    /// The time between two requests in the long run; zero if unlimited.
    pub fn interval(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.interval_us).unwrap_or(0))
    }

    /// The most by which requests may go before their time.
    pub fn tolerance(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.tolerance_us).unwrap_or(0))
    }

    /// Counts one request made now.
    pub fn take(&mut self, now: Moment) {
        if !self.is_unlimited() {
            self.arrival_us = self.after(now);
        }
    }

    /// The arrival time after one more request.
    fn after(&self, now: Moment) -> i64 {
        let slot_us = match self.is_given {
            true => self.arrival_us,
            false => self.arrival_us.max(now.as_millis().saturating_mul(1000)),
        };
        slot_us.saturating_add(self.interval_us)
    }

    /// The furthest ahead of `now` that the arrival time can lie.
    fn reach(&self, now: Moment) -> i64 {
        let reach_us = self.tolerance_us + self.interval_us + AHEAD_MAX_US;
        now.as_millis()
            .saturating_mul(1000)
            .saturating_add(reach_us)
    }

    /// The arrival time after one more request, rounded up to the millisecond, as a store keeps it.
    pub fn arrival_after(&self, now: Moment) -> Moment {
        Moment::from_millis(self.after(now).saturating_add(999).div_euclid(1000))
    }

    /// Goes on from an arrival time that a store kept, and returns it. If the time lay beyond the reach
    /// of this pace at `as_of`, a clock that was ahead had kept it: it is replaced, once and for all.
    pub fn resume(&mut self, arrival: Moment, as_of: Moment) -> Moment {
        let kept_us = arrival
            .as_millis()
            .saturating_mul(1000)
            .min(self.reach(as_of));
        if !self.is_unlimited() {
            self.arrival_us = self.arrival_us.max(kept_us);
        }
        Moment::from_millis(kept_us.div_euclid(1000))
    }

    /// The same pace at a `part`-th of another limit: the arrival time stays, within its reach.
    pub fn set_limit(&mut self, per_minute: u32, part: u32, now: Moment) {
        let (arrival_us, owed_us, is_given) = (self.arrival_us, self.owed_us, self.is_given);
        *self = Self {
            owed_us,
            is_given,
            ..Self::share(per_minute, part)
        };
        self.arrival_us = arrival_us.min(self.reach(now).max(owed_us));
    }

    /// Another limit, which holds for the last minute's requests as well. These are their times, the
    /// oldest first. A minute after the last of them they count no more.
    pub fn hold_to(&mut self, per_minute: u32, recent: impl Iterator<Item = Moment>) {
        *self = Self {
            is_given: self.is_given,
            ..Self::new(per_minute)
        };
        let mut last = None;
        for request in recent {
            self.take(request);
            last = Some(request);
        }
        if let Some(last) = last {
            let forgotten_us = last.as_millis().saturating_mul(1000) + 60_000_000;
            self.arrival_us = self.arrival_us.min(forgotten_us + self.tolerance_us);
        }
        self.owed_us = self.arrival_us;
    }
}

/// Failures in a row that open the breaker. Ours.
const FAILURES_TO_OPEN: u32 = 5;
/// The longest that an open breaker stays closed to everybody.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// Closed, open or half-open, by failures in a row. Its pauses double, with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaker {
    failures: u32,
    /// The witnesses that have failed in a row.
    witnesses: Witnesses,
    open_until: Option<Moment>,
    /// The number of times that it has been opened in a row.
    pauses: u32,
    /// The one probe of the half-open state is under way.
    probing: bool,
    /// Another process has found it open, and said so.
    is_told: bool,
}

/// A breaker's answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Go on.
    Closed,
    /// Go on, as the one probe.
    Probe,
    /// Not before this time.
    Open(Moment),
}

impl Breaker {
    /// Its answer to a request at `now`.
    pub fn gate(&self, now: Moment) -> Gate {
        match self.open_until {
            None => Gate::Closed,
            Some(until) if now < until => Gate::Open(until),
            Some(_) if self.probing => Gate::Open(now.plus(Duration::from_millis(250))),
            Some(_) => Gate::Probe,
        }
    }

    /// The probe is under way.
    pub fn probe_begins(&mut self) {
        self.probing = true;
    }

    /// A request was given up without an answer either way: another may probe.
    pub fn probe_dropped(&mut self) {
        self.probing = false;
    }

    /// If it is open, the next request from this time on is the probe.
    pub fn probe_at(&mut self, time: Moment) {
        match &mut self.open_until {
            Some(until) => (*until, self.probing) = ((*until).min(time), false),
            None => *self = Self::default(),
        }
    }

    /// Another process has opened its own until this time.
    pub fn told(&mut self, until: Moment) {
        let open_until = self.open_until.map_or(until, |known| known.max(until));
        (self.open_until, self.is_told) = (Some(open_until), true);
    }

    /// The time until which nobody else needs to try; `None` if it is closed, or if somebody else may
    /// still be answered.
    pub fn certain_until(&self) -> Option<Moment> {
        self.open_until.filter(|_| !self.is_doubtful())
    }

    /// The provider answered.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The provider did not answer, while `open` purchases are polled. `jitter` draws a duration
    /// between zero and its argument.
    pub fn failed(
        &mut self,
        witness: Witness,
        open: usize,
        now: Moment,
        jitter: impl FnOnce(Duration) -> Duration,
    ) {
        self.failures = self.failures.saturating_add(1);
        self.probing = false;
        self.witnesses.add(witness);
        if self.witnesses.suffice(open) && self.failures >= FAILURES_TO_OPEN {
            let longest = backoff(Duration::from_secs(1), self.pauses, OPEN_MAX);
            self.pauses = self.pauses.saturating_add(1);
            self.open_until = Some(now.plus(Duration::from_millis(100) + jitter(longest)));
        }
    }

    /// Says whether it is open or half-open.
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Says whether fewer witnesses opened it than are needed if there are enough: somebody else may
    /// still be answered.
    pub fn is_doubtful(&self) -> bool {
        self.is_open() && !self.is_told && !self.witnesses.are_all()
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// `base` doubled `times` times, at most `longest`.
pub fn backoff(base: Duration, times: u32, longest: Duration) -> Duration {
    base.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
        .min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(millis: i64) -> Moment {
        Moment::from_millis(1_800_000_000_000 + millis)
    }

    /// All times at which a greedy caller may send, within `span_ms`.
    fn greedy(per_minute: u32, span_ms: i64) -> Vec<i64> {
        let mut pace = Pace::new(per_minute);
        let mut now = at_ms(0);
        let mut sent = Vec::new();
        loop {
            now = pace.earliest(now, 1000);
            if now >= at_ms(span_ms) {
                return sent;
            }
            pace.take(now);
            sent.push(now.as_millis());
        }
    }

    #[test]
    fn no_window_of_a_minute_holds_more_than_the_limit() {
        for limit in [1, 2, 5, 9, 10, 19, 20, 25, 30, 39, 40, 60, 100, 600, 1000] {
            let sent = greedy(limit, 300_000);
            for first in 0..sent.len() {
                let within = sent[first..]
                    .iter()
                    .take_while(|time| *time - sent[first] < 60_000)
                    .count();
                assert!(within <= limit as usize, "{within} of {limit} from {first}");
            }
            let wanted = i64::from(limit) * 5 * 85 / 100;
            assert!(
                sent.len() as i64 >= wanted.min(4),
                "{limit}: {} sent",
                sent.len()
            );
        }
    }

    #[test]
    fn a_resumed_pace_does_not_overspend() {
        let mut first = Pace::new(100);
        for _ in 0..5 {
            first.take(at_ms(0));
        }
        let kept = first.arrival_after(at_ms(0));
        let mut second = Pace::new(100);
        second.resume(kept, at_ms(0));
        assert!(second.earliest(at_ms(0), 1000) > at_ms(0));
    }

    #[test]
    fn a_part_of_the_burst_is_kept_for_creates() {
        let mut pace = Pace::new(100);
        let mut polls = 0;
        while pace.earliest(at_ms(0), 500) == at_ms(0) {
            pace.take(at_ms(0));
            polls += 1;
        }
        assert!(polls < 5);
        assert_eq!(
            pace.earliest(at_ms(0), 1000),
            at_ms(0),
            "a create still goes at once"
        );
    }

    #[test]
    fn the_breaker_opens_probes_and_closes() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            assert_eq!(breaker.gate(at_ms(0)), Gate::Closed);
            breaker.failed(Witness::Way, 9, at_ms(0), |longest| longest);
        }
        assert_eq!(breaker.gate(at_ms(0)), Gate::Open(at_ms(1_100)));
        assert_eq!(breaker.gate(at_ms(1_100)), Gate::Probe);
        breaker.probe_begins();
        assert!(
            matches!(breaker.gate(at_ms(1_100)), Gate::Open(_)),
            "one probe at a time"
        );
        breaker.failed(Witness::Way, 9, at_ms(1_100), |longest| longest);
        assert_eq!(breaker.gate(at_ms(1_100)), Gate::Open(at_ms(3_200)));
        breaker.succeeded();
        assert_eq!(breaker.gate(at_ms(3_200)), Gate::Closed);
    }

    #[test]
    fn what_one_purchase_cannot_be_read_for_opens_no_breaker() {
        let failed = |subjects: &[u64], open: usize| {
            let mut breaker = Breaker::default();
            for subject in subjects {
                breaker.failed(Witness::Open(*subject), open, at_ms(0), |longest| longest);
            }
            (breaker.is_open(), breaker.is_doubtful())
        };
        let (closed, open, doubtful) = ((false, false), (true, false), (true, true));
        assert_eq!(
            failed(&[7; 1_000], 2),
            closed,
            "one purchase, however often"
        );
        assert_eq!(failed(&[7, 8, 7, 8, 7, 8, 8, 7], 3), closed, "or two");
        assert_eq!(
            failed(&[7, 8, 9, 9], 9),
            closed,
            "three that are no row yet"
        );
        assert_eq!(failed(&[7, 8, 9, 9, 9], 9), open);
        assert_eq!(failed(&[7; 4], 1), closed);
        assert_eq!(failed(&[7; 5], 1), doubtful, "all, where fewer are open");
        assert_eq!(failed(&[7, 8, 7, 8, 7], 2), doubtful);
        let mut mixed = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN {
            mixed.failed(Witness::Open(7), 9, at_ms(0), |longest| longest);
        }
        mixed.failed(Witness::Way, 9, at_ms(0), |longest| longest);
        assert!(!mixed.is_open());
        mixed.failed(Witness::Way, 9, at_ms(0), |longest| longest);
        assert_eq!(mixed.gate(at_ms(0)), Gate::Open(at_ms(1_100)));
    }

    #[test]
    fn what_may_be_made_at_once_and_beside_another_follows_from_the_pace() {
        for limit in [1, 10, 30, 100, 600] {
            let mut pace = Pace::new(limit);
            for step in 0..200 {
                let now = at_ms(step * 137);
                let (mut taken, mut copy) = (0, pace.clone());
                while copy.earliest(now, 500) == now {
                    copy.take(now);
                    taken += 1;
                }
                assert_eq!(pace.at_once(now, 500), taken, "{limit} {step}");
                let one = pace.earliest_but_one(now, 1000);
                let mut copy = pace.clone();
                copy.take(one);
                let other = copy.earliest(one, 1000);
                let is_left = other.since(one) <= Duration::from_millis(1);
                assert_eq!(is_left, limit >= 25, "{limit} {step}: the burst is two");
                if step % 3 == 0 && pace.earliest(now, 1000) == now {
                    pace.take(now);
                }
            }
        }
        let unlimited = Pace::new(0);
        assert_eq!(unlimited.at_once(at_ms(0), 500), u32::MAX);
        assert_eq!(unlimited.earliest_but_one(at_ms(0), 1000), at_ms(0));
    }

    #[test]
    fn a_share_is_its_part_of_the_limit_however_small() {
        for (limit, part) in [(4, 5), (7, 2), (100, 5), (100, 4)] {
            let mut pace = Pace::share(limit, part);
            let (mut now, mut sent) = (at_ms(0), 0);
            while now < at_ms(3_600_000) {
                pace.take(now);
                sent += 1;
                now = pace.earliest(now, 1000);
            }
            let most = 60 * limit / part;
            assert!(sent <= most, "{sent} of {most}");
            assert!(sent * 10 >= most * 8, "{sent} of {most}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_an_account() {
        let mut pace = Pace::new(100);
        pace.resume(at_ms(86_400_000), at_ms(0));
        assert!(pace.earliest(at_ms(0), 1000) < at_ms(10_000), "a day back");
        let mut resumed = Pace::new(100);
        resumed.resume(at_ms(86_400_000), at_ms(0));
        assert!(resumed.earliest(at_ms(0), 1000) < at_ms(10_000));
    }

    #[test]
    fn backoff_doubles_to_its_longest() {
        let second = Duration::from_secs(1);
        let table = [
            (0, 1),
            (1, 2),
            (5, 32),
            (6, 60),
            (31, 60),
            (32, 60),
            (u32::MAX, 60),
        ];
        for (times, seconds) in table {
            let longest = Duration::from_secs(60);
            assert_eq!(
                backoff(second, times, longest),
                Duration::from_secs(seconds),
                "{times}"
            );
        }
    }
}
