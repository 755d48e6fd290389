//! Pure: a limit for a provider that throttles without saying what it allows.
//!
//! The first such answer after one that was no throttle halves the pace, at most once in ten seconds;
//! each quarter of a minute gives a twentieth of the full pace back. So the pace swings around what
//! the provider allows. A provider that throttles every request is not asked more slowly for that: the
//! pauses between tries grow.

use std::time::Duration;

use crate::purchase::Moment;

/// Answers to requests that were under way together count once.
const CUT_EVERY: Duration = Duration::from_secs(10);
/// The interval at which the pace rises.
const RAISE_EVERY: Duration = Duration::from_secs(15);
/// The pace never falls below this part of the configured limit.
const FLOOR_PART: u32 = 16;
/// If no limit is configured, it never falls below this many requests a minute.
const FLOOR_UNLIMITED: u32 = 6;
/// Steps of a whole recovery.
const RAISES: u32 = 20;

/// The limit that holds: the configured one, or less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adaptive {
    /// Requests per minute; 0 is unlimited.
    configured: u32,
    slowed: Option<Slowed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slowed {
    limit: u32,
    /// The pace at which it is over.
    full: u32,
    cut: Moment,
    raised: Moment,
}

impl Adaptive {
    /// The configured limit, until a provider throttles.
    pub fn new(configured: u32) -> Self {
        Self {
            configured,
            slowed: None,
        }
    }

    /// The provider throttled and did not say for how long; `last_minute` requests were made in the
    /// last minute.
    pub fn throttled(&mut self, last_minute: u32, now: Moment) {
        let known = self.slowed.as_ref();
        if known.is_some_and(|slowed| now.since(slowed.cut) < CUT_EVERY) {
            return;
        }
        let (full, floor) = match self.configured {
            0 => (
                known.map_or(last_minute, |slowed| slowed.full.max(last_minute)),
                FLOOR_UNLIMITED,
            ),
            configured => (configured, configured.div_ceil(FLOOR_PART)),
        };
        // If the pace was not used up, the requests that were made are too many already.
        let pace = known.map_or(full, |slowed| slowed.limit).min(last_minute);
        let limit = (pace / 2).max(floor);
        self.slowed = Some(Slowed {
            limit,
            full: full.max(limit),
            cut: now,
            raised: now,
        });
    }

    /// Another process has found a lower limit, which is over at `full`.
    pub fn told(&mut self, limit: u32, full: u32, now: Moment) {
        let known = self.limit(now);
        if known == 0 || limit < known {
            self.slowed = Some(Slowed {
                limit,
                full: full.max(limit),
                cut: now,
                raised: now,
            });
        }
    }

    /// The lowered limit, the limit at which that is over, and the time of the last cut; `None` if none
    /// is lowered.
    pub fn lowered(&self) -> Option<(u32, u32, Moment)> {
        let slowed = self.slowed.as_ref();
        slowed.map(|slowed| (slowed.limit, slowed.full, slowed.cut))
    }

    /// It was no limit that was met.
    pub fn forgive(&mut self) {
        self.slowed = None;
    }

    /// The limit at `now`; 0 is unlimited.
    pub fn limit(&mut self, now: Moment) -> u32 {
        if let Some(slowed) = &mut self.slowed {
            while now.since(slowed.raised) >= RAISE_EVERY && slowed.limit < slowed.full {
                slowed.raised = slowed.raised.plus(RAISE_EVERY);
                slowed.limit += (slowed.full / RAISES).max(1);
            }
            if slowed.limit >= slowed.full && now.since(slowed.cut) >= CUT_EVERY {
                self.slowed = None;
            }
        }
        match &self.slowed {
            Some(slowed) => slowed.limit,
            None => self.configured,
        }
    }

    /// Says whether less than the configured limit holds.
    pub fn is_slowed(&self) -> bool {
        self.slowed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Moment {
        Moment::from_millis(1_800_000_000_000 + seconds * 1_000)
    }

    #[test]
    fn it_halves_and_recovers_within_bounds() {
        let mut adaptive = Adaptive::new(100);
        assert_eq!(adaptive.limit(at(0)), 100);
        adaptive.throttled(90, at(0));
        adaptive.throttled(90, at(1));
        assert_eq!(adaptive.limit(at(1)), 45, "once for what was under way");
        for cut in 1..10 {
            adaptive.throttled(90, at(cut * 10));
        }
        assert_eq!(adaptive.limit(at(90)), 7, "the floor");
        assert_eq!(adaptive.limit(at(104)), 7);
        assert_eq!(adaptive.limit(at(105)), 12);
        assert!(adaptive.is_slowed());
        assert_eq!(adaptive.limit(at(90 + 20 * 15)), 100);
        assert!(!adaptive.is_slowed());
    }

    #[test]
    fn an_unlimited_account_finds_a_limit_and_forgets_it() {
        let mut adaptive = Adaptive::new(0);
        adaptive.throttled(1_000, at(0));
        assert_eq!(adaptive.limit(at(0)), 500);
        adaptive.throttled(2, at(60));
        assert_eq!(adaptive.limit(at(60)), 6, "the floor");
        assert_eq!(adaptive.limit(at(60 + 21 * 15)), 0);
    }

    /// Against a provider that allows 40 a minute and says nothing.
    #[test]
    fn the_pace_settles_around_what_the_provider_allows() {
        let mut adaptive = Adaptive::new(100);
        let (mut sent, mut refused) = (0, 0);
        for minute in 0..240 {
            let limit = adaptive.limit(at(minute * 60));
            sent += limit;
            if limit > 40 {
                refused += limit - 40;
                adaptive.throttled(limit, at(minute * 60 + 50));
            }
        }
        let answered = (sent - refused) / 240;
        assert!((24..=40).contains(&answered), "{answered} a minute");
        assert!(refused * 8 < sent, "{refused} of {sent} refused");
    }
}
