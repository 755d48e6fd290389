//! Pure: an account's budget, its places in flight and its pauses in a store that processes share.
//!
//! All times are microseconds by the store's clock. PostgreSQL decides by a function that does the same.
//!
//! Slots are spaced by the requests' interval and drawn from the arrival time, or from now if that is
//! later, so that no two processes have the same. A slot is used from its time less the tolerance until a
//! second after its time, or it is lost. Requests within 60 s therefore have slots within 61 s and the
//! tolerance. That many slots are no more than the limit, which leaves two seconds' worth to the network.

use std::time::Duration;

use super::budgets::{self, Lowered, Purpose, Spacing, Span, Taken, Taking};
use crate::purchase::Moment;

/// The time that everything taken at a time can be used, from the departure of the question.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// The longest between a take and the end of its requests, beside the time that a request lasts: a
/// second until the last one is let through, a second until it goes, and one for the network.
const GOES_WITHIN: Duration = Duration::from_secs(3);
/// The minute that is owed under another limit.
const MINUTE_US: i64 = 60_000_000;

/// The reach of what is taken at a time, unless one slot is longer.
const AHEAD_US: i64 = 1_000_000;
/// The longest pause that a provider is granted.
const PAUSE_MAX_US: i64 = 3_600_000_000;
/// The longest time for which an open breaker holds others up.
const UNREACHABLE_MAX_US: i64 = 61_000_000;
/// The longest that a slot is kept for a create beyond the time at which it was told to come back.
const CREATE_AWAITED_US: i64 = 5_000_000;
/// The same for the longest overdue, and for a place in flight.
const AWAITED_US: i64 = 1_000_000;
/// A lowered limit rises at this interval, by this part of the full one. It is the schedule of
/// `cadence::adaptive`.
const RAISE_EVERY_US: i64 = 15_000_000;
const RAISES: i64 = 20;
/// One slot in so many is for the longest overdue. It is `cadence::turns`' number.
const LONGEST_EVERY: i64 = 10;

/// The state of one account's budget. [`Purse::follow`] comes before all else that is done with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Purse {
    /// The arrival time of requests of all kinds.
    pub(super) arrival_us: i64,
    /// The arrival time of creates.
    pub(super) creates_us: i64,
    /// The provider asked for a pause until then.
    pub(super) paused_until_us: i64,
    /// A breaker is open until then.
    pub(super) unreachable_until_us: i64,
    /// A create waits for what polls would take, until then.
    pub(super) create_wanted_us: i64,
    /// The longest overdue waits for the next slot, until then.
    pub(super) longest_wanted_us: i64,
    /// The slots that were given since the last one for the longest overdue.
    pub(super) since_longest: i64,
    /// The limit that a throttle without a word led to, its full one and its time; 0 if there is none.
    pub(super) slowed_to: i64,
    pub(super) slowed_full: i64,
    pub(super) slowed_us: i64,
    /// The store's clock as it was when it was last looked at.
    pub(super) seen_us: i64,
}

/// One process's places in flight at an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The requests that it may have in flight.
    pub(super) held: i64,
    /// The time by which they are over, if it says nothing further.
    pub(super) until_us: i64,
}

/// A process's wish, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) purpose: Purpose,
    /// Slots of all requests: so many at the most; 0 if it needs none.
    pub(super) slots: i64,
    pub(super) interval_us: i64,
    pub(super) tolerance_us: i64,
    /// 0 if it needs no slot of creates.
    pub(super) creates_interval_us: i64,
    pub(super) creates_tolerance_us: i64,
    /// The arrival time lies at least so far ahead of its tolerance, or an interval if that is longer: so
    /// much may have been spent that the store knows nothing of. 0 if it knows everything.
    pub(super) owed_us: i64,
    /// The same of creates.
    pub(super) creates_owed_us: i64,
    /// The requests that the process has in flight.
    pub(super) in_flight: i64,
    /// The requests that it wants to have in flight; not more than `in_flight` if it needs no place.
    pub(super) places: i64,
    /// The most requests in flight of all processes.
    pub(super) places_max: i64,
    /// The time by which a request that goes within a second of now is over.
    pub(super) lasts_us: i64,
}

/// The part of an answer that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Given,
    /// Not before `wait_us` have passed.
    Later,
    /// All places are held.
    Busy,
}

/// The answer to a wish. Times count from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) wait_us: i64,
    /// The time of the first slot; the arrival time if none was given.
    pub(super) arrival_in_us: i64,
    pub(super) slots: i64,
    /// The same of creates, of which one is given at a time.
    pub(super) creates_in_us: i64,
    /// True if the slot, or the next one, is for the longest overdue.
    pub(super) is_for_longest: bool,
    /// The requests that the process may have in flight.
    pub(super) held: i64,
    pub(super) heard: Heard,
}

/// Everybody's lessons. Times count from now; 0 stands for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) paused_us: i64,
    pub(super) unreachable_us: i64,
    /// The limit that a throttle without a word has left, and its full one.
    pub(super) slowed_to: i64,
    pub(super) slowed_full: i64,
}

/// A process's lessons, and the requests that it has in flight. Times count from now; 0 stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) paused_us: i64,
    pub(super) unreachable_us: i64,
    pub(super) slowed_to: i64,
    pub(super) slowed_full: i64,
    pub(super) in_flight: i64,
    pub(super) lasts_us: i64,
}

impl Place {
    /// The places that count.
    pub(super) fn counts(self, now_us: i64) -> i64 {
        if self.until_us > now_us { self.held } else { 0 }
    }

    /// The place after the store's clock was set back by so much.
    pub(super) fn set_back(self, by_us: i64) -> Self {
        Self {
            until_us: self.until_us - by_us,
            ..self
        }
    }
}

impl Purse {
    /// Looks at the store's clock. If it was set back since the last look, all times move with it, as if no
    /// time had passed in between: nobody waits for longer than was asked, and nothing is given twice.
    /// Returns the microseconds by which it was set back. The account's places move by so much as well.
    pub(super) fn follow(&mut self, now_us: i64) -> i64 {
        let by_us = (self.seen_us - now_us).max(0);
        self.arrival_us -= by_us;
        self.creates_us -= by_us;
        self.paused_until_us -= by_us;
        self.unreachable_until_us -= by_us;
        self.create_wanted_us -= by_us;
        self.longest_wanted_us -= by_us;
        self.slowed_us -= by_us;
        self.seen_us = now_us;
        by_us
    }

    /// Takes what a process wants, or says why not. `others` are the places of all other processes.
    pub(super) fn take(&mut self, others: i64, wish: &Wish, now_us: i64) -> (Answer, Place) {
        self.owe(wish, now_us);
        let (verdict, opens_us) = self.judge(others, wish, now_us);
        let mut answer = Answer {
            verdict,
            wait_us: (opens_us - now_us).max(0),
            arrival_in_us: self.arrival_us - now_us,
            slots: 0,
            creates_in_us: self.creates_us - now_us,
            is_for_longest: self.is_for_longest(wish),
            held: wish.in_flight,
            heard: self.heard(now_us),
        };
        if verdict == Verdict::Given {
            answer.held = self.places(others, wish, now_us).max(wish.in_flight);
            self.give(wish, now_us, &mut answer);
        }
        let place = Place {
            held: answer.held,
            until_us: now_us + wish.lasts_us,
        };
        (answer, place)
    }

    /// Keeps what a process has learned.
    pub(super) fn tell(&mut self, word: &Word, now_us: i64) -> (Heard, Place) {
        if word.paused_us > 0 {
            let until_us = now_us + word.paused_us.min(PAUSE_MAX_US);
            self.paused_until_us = self.paused_until_us.max(until_us);
        }
        if word.unreachable_us > 0 {
            let until_us = now_us + word.unreachable_us.min(UNREACHABLE_MAX_US);
            self.unreachable_until_us = self.unreachable_until_us.max(until_us);
        }
        let limit = self.limit(now_us);
        if word.slowed_to > 0 && (limit == 0 || word.slowed_to < limit) {
            (self.slowed_to, self.slowed_full) = (word.slowed_to, word.slowed_full);
            self.slowed_us = now_us;
        }
        let place = Place {
            held: word.in_flight,
            until_us: now_us + word.lasts_us,
        };
        (self.heard(now_us), place)
    }

    /// Moves arrival times on by what may have been spent that the store knows nothing of.
    fn owe(&mut self, wish: &Wish, now_us: i64) {
        let owing = |arrival_us: i64, (interval_us, tolerance_us): (i64, i64), owed_us: i64| {
            if interval_us == 0 || owed_us == 0 {
                return arrival_us;
            }
            arrival_us.max(now_us + tolerance_us + owed_us.max(interval_us))
        };
        let requests = (wish.interval_us, wish.tolerance_us);
        self.arrival_us = owing(self.arrival_us, requests, wish.owed_us);
        let creates = (wish.creates_interval_us, wish.creates_tolerance_us);
        self.creates_us = owing(self.creates_us, creates, wish.creates_owed_us);
    }

    /// The verdict, and the time from which a slot may be given. Whoever is refused what others would
    /// take is waited for.
    fn judge(&mut self, others: i64, wish: &Wish, now_us: i64) -> (Verdict, i64) {
        if self.paused_until_us > now_us {
            return (Verdict::Later, self.paused_until_us);
        }
        let requests_us = self.opens(wish, now_us);
        let creates_us = match wish.creates_interval_us {
            0 => i64::MIN,
            _ => self.creates_us - wish.creates_tolerance_us,
        };
        let opens_us = requests_us.max(creates_us);
        if opens_us > now_us {
            match wish.purpose {
                Purpose::First if creates_us <= requests_us => {
                    let until_us = opens_us + wish.interval_us.min(CREATE_AWAITED_US);
                    self.create_wanted_us = self.create_wanted_us.max(until_us);
                }
                Purpose::Poll if self.is_for_longest(wish) => {
                    let until_us = opens_us + AWAITED_US;
                    self.longest_wanted_us = self.longest_wanted_us.max(until_us);
                }
                Purpose::Poll if wish.slots > 0 => {
                    return (Verdict::Later, self.comes_back(wish, opens_us, now_us));
                }
                Purpose::First | Purpose::Poll | Purpose::Other => {}
            }
            return (Verdict::Later, opens_us);
        }
        let is_placed = wish.places > wish.in_flight;
        if is_placed && self.places(others, wish, now_us) <= wish.in_flight {
            if wish.purpose == Purpose::First {
                let until_us = now_us + AWAITED_US;
                self.create_wanted_us = self.create_wanted_us.max(until_us);
            }
            return (Verdict::Busy, now_us);
        }
        (Verdict::Given, now_us)
    }

    /// True if the next slot is for the longest overdue, and the wish is a poll's.
    fn is_for_longest(&self, wish: &Wish) -> bool {
        let is_next = self.since_longest + 1 >= LONGEST_EVERY;
        wish.purpose == Purpose::Poll && wish.slots > 0 && is_next
    }

    /// The time at which a refused poll comes back: when its own turn is, or the longest overdue's if all
    /// slots before that are taken by others.
    fn comes_back(&self, wish: &Wish, opens_us: i64, now_us: i64) -> i64 {
        let before = LONGEST_EVERY - 1 - self.since_longest;
        let next_us = self.arrival_us - wish.tolerance_us;
        let longest_us = next_us + before * wish.interval_us;
        match longest_us > now_us {
            true => opens_us.min(longest_us),
            false => opens_us,
        }
    }

    /// The time from which a slot of all requests may be given. Half of the tolerance is for creates and
    /// the longest overdue alone. Whoever makes way for a waiting one leaves it the next slot.
    fn opens(&self, wish: &Wish, now_us: i64) -> i64 {
        if wish.slots == 0 {
            return i64::MIN;
        }
        let (is_first, is_for_longest) =
            (wish.purpose == Purpose::First, self.is_for_longest(wish));
        let own_us = match is_first || is_for_longest {
            true => wish.tolerance_us,
            // As `Pace` halves it.
            false => wish.tolerance_us / 1000 * 500,
        };
        let for_create = self.create_wanted_us > now_us && !is_first;
        let for_longest = self.longest_wanted_us > now_us;
        let makes_way = !is_for_longest && (for_create || for_longest);
        let opens_us = self.arrival_us - own_us;
        match makes_way {
            true => opens_us.max(self.arrival_us + wish.interval_us - wish.tolerance_us),
            false => opens_us,
        }
    }

    /// The requests that the process may have in flight beside the others' places. The last eighth is for
    /// creates alone, and so is the last place of all while a create waits.
    fn places(&self, others: i64, wish: &Wish, now_us: i64) -> i64 {
        let all = wish.places_max;
        let most = match wish.purpose {
            Purpose::First => all,
            Purpose::Poll | Purpose::Other if self.create_wanted_us > now_us => {
                (all - all / 8).max(1).min(all - 1)
            }
            Purpose::Poll | Purpose::Other => (all - all / 8).max(1),
        };
        wish.places.min(most - others)
    }

    fn give(&mut self, wish: &Wish, now_us: i64, answer: &mut Answer) {
        if wish.purpose == Purpose::First {
            self.create_wanted_us = 0;
        }
        if wish.slots > 0 {
            let within = AHEAD_US.checked_div(wish.interval_us).unwrap_or(0);
            let most = match wish.purpose {
                // The slot for the longest overdue is asked for apart.
                Purpose::Poll => within.min(LONGEST_EVERY - 1 - self.since_longest),
                Purpose::First | Purpose::Other => within,
            };
            answer.slots = wish.slots.min(most).max(1);
            if answer.is_for_longest {
                (self.since_longest, self.longest_wanted_us) = (0, 0);
            } else {
                self.since_longest = (self.since_longest + answer.slots).min(LONGEST_EVERY);
            }
            let first_us = self.arrival_us.max(now_us);
            answer.arrival_in_us = first_us - now_us;
            self.arrival_us = first_us + answer.slots * wish.interval_us;
        }
        if wish.creates_interval_us > 0 {
            let first_us = self.creates_us.max(now_us);
            answer.creates_in_us = first_us - now_us;
            self.creates_us = first_us + wish.creates_interval_us;
        }
    }

    /// The limit that holds after a throttle without a word; 0 if none does.
    fn limit(&self, now_us: i64) -> i64 {
        if self.slowed_to == 0 {
            return 0;
        }
        let raises = (now_us - self.slowed_us) / RAISE_EVERY_US;
        let limit = self.slowed_to + raises * (self.slowed_full / RAISES).max(1);
        if limit < self.slowed_full { limit } else { 0 }
    }

    fn heard(&self, now_us: i64) -> Heard {
        Heard {
            paused_us: (self.paused_until_us - now_us).max(0),
            unreachable_us: (self.unreachable_until_us - now_us).max(0),
            slowed_to: self.limit(now_us),
            slowed_full: self.slowed_full,
        }
    }
}

impl Wish {
    /// A wish in numbers.
    pub(super) fn of(taking: &Taking) -> Self {
        let spacing = |spacing: Option<Spacing>| {
            spacing.map_or((0, 0), |one| (micros(one.interval), micros(one.tolerance)))
        };
        let minute = |is_owed: bool| if is_owed { MINUTE_US } else { 0 };
        let (interval_us, tolerance_us) = spacing(taking.requests);
        let (creates_interval_us, creates_tolerance_us) = spacing(taking.creates);
        Self {
            purpose: taking.purpose,
            slots: match taking.requests {
                None => 0,
                Some(_) => taking.slots.into(),
            },
            interval_us,
            tolerance_us,
            creates_interval_us,
            creates_tolerance_us,
            owed_us: minute(taking.owes_minute),
            creates_owed_us: minute(taking.creates_owe_minute),
            in_flight: taking.in_flight.into(),
            places: taking.places.into(),
            places_max: taking.places_max.into(),
            lasts_us: micros(taking.lasts + GOES_WITHIN),
        }
    }

    /// The same after the store was away: it may have forgotten what was taken last.
    pub(super) fn after_outage(self) -> Self {
        Self {
            owed_us: self.owed_us.max(AHEAD_US),
            creates_owed_us: self.creates_owed_us.max(AHEAD_US),
            ..self
        }
    }
}

impl Word {
    /// A word in numbers.
    pub(super) fn of(word: &budgets::Word) -> Self {
        let (slowed_to, slowed_full) =
            (word.lowered).map_or((0, 0), |lowered| (lowered.to.into(), lowered.full.into()));
        Self {
            paused_us: micros(word.pause),
            unreachable_us: micros(word.unreachable),
            slowed_to,
            slowed_full,
            in_flight: word.in_flight.into(),
            lasts_us: micros(word.lasts + GOES_WITHIN),
        }
    }
}

/// A question to the store, by the clock of the process that asks: "not before" counts from the arrival
/// of the answer, "not after" from the departure of the question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    pub(super) departed: Moment,
    pub(super) arrived: Moment,
}

impl Asking {
    /// The answer to a wish. If it took so long that nothing of it can be used, it was given in vain.
    pub(super) fn taken(self, taking: &Taking, answer: &Answer) -> Taken {
        let fresh_until = self.departed.plus(FRESH_FOR);
        let is_late = self.arrived >= fresh_until;
        let verdict = match answer.verdict {
            Verdict::Given if is_late => budgets::Verdict::Later(self.arrived),
            Verdict::Given => budgets::Verdict::Given,
            Verdict::Later => budgets::Verdict::Later(self.not_before(answer.wait_us)),
            Verdict::Busy => budgets::Verdict::Busy,
        };
        let is_given = verdict == budgets::Verdict::Given;
        let span = |spacing: Spacing, first_in_us: i64, slots: i64| {
            let from = self.not_before(first_in_us);
            let given_us = if is_given {
                slots * micros(spacing.interval)
            } else {
                0
            };
            Span {
                from: Some(from),
                until: later(from, given_us),
            }
        };
        let requests = taking.requests.filter(|_| taking.slots > 0);
        Taken {
            verdict,
            requests: requests.map(|one| span(one, answer.arrival_in_us, answer.slots)),
            creates: taking.creates.map(|one| span(one, answer.creates_in_us, 1)),
            fresh_until,
            is_for_longest: answer.is_for_longest,
            late: self.arrived.since(self.departed),
            places: u32::try_from(answer.held).unwrap_or(0),
            heard: self.heard(answer.heard),
        }
    }

    /// The lessons of all processes.
    pub(super) fn heard(self, heard: Heard) -> budgets::Heard {
        let until = |ahead_us: i64| (ahead_us > 0).then(|| self.not_before(ahead_us));
        budgets::Heard {
            paused_until: until(heard.paused_us),
            unreachable_until: until(heard.unreachable_us),
            lowered: lowered(heard),
        }
    }

    /// Rounded up: a request is never early.
    fn not_before(self, ahead_us: i64) -> Moment {
        later(self.arrived, ahead_us)
    }
}

/// So many microseconds later, rounded up to the millisecond.
fn later(moment: Moment, after_us: i64) -> Moment {
    let after_ms = after_us.saturating_add(999).div_euclid(1_000);
    Moment::from_millis(moment.as_millis().saturating_add(after_ms))
}

fn lowered(heard: Heard) -> Option<Lowered> {
    let to = u32::try_from(heard.slowed_to).ok().filter(|to| *to > 0)?;
    let full = u32::try_from(heard.slowed_full).ok()?;
    Some(Lowered { to, full })
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
