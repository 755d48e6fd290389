//! One open purchase in memory. It decides whether an answer is news, what its silence means, and when
//! it is asked next. Pure but for chance, which comes from the clock.

use std::{num::NonZeroU32, time::Duration};

use super::{
    digest::{digest, told},
    sweep::SingleNews,
};
use crate::{
    account::Times,
    cadence::{Policy, budget::backoff, hazard::Stayed},
    clock::Clock,
    journal::Record,
    lifecycle::{self, HeardAnswers, Horizon, Source, Verdict},
    observation::{Observation, Standing},
    purchase::{
        Finality, Freshness, Moment, Purchase, PurchaseId, Reference, Revision, State, Status,
        Timestamp,
    },
};

/// The time after its creation in which a purchase may be unknown to its provider.
const MISSING_ALLOWED: Duration = Duration::from_secs(60);
/// The wait after a poll without a readable answer; doubled while they come in a row.
pub(super) const RETRY_BASE: Duration = Duration::from_secs(1);
/// The longest of these waits. Ours.
const RETRY_MAX: Duration = Duration::from_secs(120);
/// The time without a readable answer after which a person is told. Ours.
const UNREADABLE_AFTER: Duration = Duration::from_secs(600);
/// The interval of last reads after the horizon, until one is answered. Ours.
const LAST_READ_EVERY: Duration = Duration::from_secs(3_600);
/// The interval of a purchase that has been open and unchanged for too long.
const STALE_EVERY: Duration = Duration::from_secs(86_400);
/// The bounds of the pause between two long polls, in milliseconds. Documented by Phygitals.
const LONG_POLL_GAP_MS: (u64, u64) = (500, 1_000);

/// The least time between two reads of one purchase by timers. Ours.
pub(super) const READ_FLOOR: Duration = Duration::from_millis(100);
/// A horizon that never ends.
const ENDLESS: u64 = u64::MAX;

/// A reference whose canonical text is longer, in bytes, is read from the journal when it is due:
/// memory holds a million of the others.
const REFERENCE_KEPT_MAX: usize = 88;

/// The time that a status may stay as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// While it is open, until somebody should look.
    pub(super) stale_after: Duration,
    /// After its end, until it is FINAL; `None` for as long as it lasts.
    pub(super) horizon: Option<Duration>,
}

/// The meaning of an answer to its purchase.
#[derive(Debug)]
pub(super) enum News {
    /// Another answer is being decided on: this one has to wait.
    Wait,
    /// The same as before.
    Same,
    /// Older than what is known.
    Old,
    /// Held back, since its stamp is older: the purchase is asked again then.
    HeldBack(Moment),
    /// News. No other answer is taken in until these are settled.
    Fresh(Fresh),
}

/// News that have to be committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh {
    /// The digest of the answer.
    seen: u64,
    /// When its request began.
    began: Moment,
    /// The purchase's stay in its state until now, if it was open.
    pub(super) stayed: Option<Stayed>,
    /// Some answer has shown that funds moved.
    pub(super) funds_moved: bool,
    /// The change, if lists should show as well what this single read has shown.
    pub(super) change: Option<SingleNews>,
}

/// A request that brought no answer about its purchase.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoAnswer {
    /// The provider did not know the purchase when this request began.
    Missing { began: Moment },
    /// There was no readable answer.
    Trouble {
        /// The trouble is this purchase's alone.
        is_own: bool,
        /// The purchase is asked about less often for it. It is not if the account waits as a whole.
        backs_off: bool,
        /// The wait that the provider wishes.
        wait: Duration,
    },
}

/// This service's own word about a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnWord {
    /// The provider does not know it, although it should by now.
    Missing,
    /// No answer about it has been readable for long.
    Unreadable,
    /// It is open, and unchanged for long.
    Stale,
    /// The horizon after the end of this revision has passed.
    Over(Revision),
}

/// The terms on which a purchase is asked again.
pub(super) struct Terms<'a> {
    pub(super) policy: &'a Policy,
    pub(super) clock: &'a Clock,
    /// The earliest next single read of a purchase that rounds show.
    pub(super) rare: &'a dyn Fn(Timestamp, Finality) -> Option<Moment>,
}

/// One open purchase. With its places in map, wheel and turns at most 512 bytes.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: PurchaseId,
    /// Its reference, as the store compares it; `None` if it is too long to be kept here.
    pub(super) reference: Option<Box<str>>,
    /// Its caller, by the lane's number.
    pub(super) caller: u32,
    /// Its stay in its state.
    pub(super) stayed: Stayed,
    /// When it was created, as it is shown and as a provider's lists are read by.
    pub(super) create_time: Timestamp,
    /// The same moment by the clock of ages.
    pub(super) created: Moment,
    /// When the status last really changed: a revision that only says that no news came does not count.
    /// Staleness and the horizon count from it.
    pub(super) changed: Moment,
    /// A digest of the newest status without this service's own word.
    told: u64,
    /// The newest revision.
    pub(super) revision: Revision,
    pub(super) finality: Finality,
    /// The newest word has no mapping: no deadline of this service runs while it stands.
    unmapped: bool,
    pub(super) heard: HeardAnswers,
    /// An answer is being decided on: others wait.
    is_deciding: bool,
    /// When the request of the last applied answer began.
    pub(super) read: Option<Moment>,
    /// A digest of the last applied observation: the same again is no news. 0 stands for none.
    digest: u64,
    pub(super) failures: u32,
    /// The second since which no answer about it could be read, while its account was well.
    failing_since_s: Option<NonZeroU32>,
    pub(super) due: Moment,
    /// A poll of it is due or under way, so that it is in no timer.
    pub(super) busy: bool,
    /// The time that the status may stay unchanged while it is open, in milliseconds.
    stale_after_ms: u64,
    /// The time that it is followed after its end, in milliseconds; [`ENDLESS`] for as long as it lasts.
    horizon_ms: u64,
    /// Polled no more, since nothing has changed for so long.
    pub(super) given_up: bool,
    /// Some answer that was heard here showed that funds moved.
    funds_moved: bool,
}

impl Entry {
    pub(super) fn new(
        purchase: &Purchase,
        reference: &Reference,
        patience: Patience,
        clock: &Clock,
    ) -> Self {
        let now = clock.moment();
        let mut entry = Self {
            id: purchase.id,
            reference: kept(reference),
            caller: 0,
            stayed: Stayed::new(number(purchase.status.state), now),
            create_time: purchase.create_time,
            created: clock.past_moment_of(purchase.create_time),
            changed: now,
            told: 0,
            revision: Revision::default(),
            finality: Finality::Open,
            unmapped: false,
            heard: HeardAnswers::default(),
            is_deciding: false,
            read: None,
            digest: 0,
            failures: 0,
            failing_since_s: None,
            due: now,
            busy: false,
            stale_after_ms: 0,
            horizon_ms: 0,
            given_up: false,
            funds_moved: false,
        };
        entry.learn(&purchase.status, patience, clock);
        entry
    }

    pub(super) fn recovered(
        record: &Record,
        reference: &Reference,
        patience: Patience,
        clock: &Clock,
    ) -> Self {
        let mut entry = Self::new(&record.purchase, reference, patience, clock);
        let status = &record.purchase.status;
        entry.stayed = Stayed::new(
            number(status.state),
            clock.past_moment_of(status.observe_time.max(record.change_time)),
        );
        entry.changed = clock.past_moment_of(record.change_time);
        entry
    }

    /// Learns a newly committed status. Says whether it is news: a status that only says that no news
    /// came is none.
    pub(super) fn learn(&mut self, status: &Status, patience: Patience, clock: &Clock) -> bool {
        self.wait_for(patience);
        self.finality = status.finality;
        self.unmapped = status.unmapped;
        self.revision = status.revision;
        let told = told(status);
        let is_news = told != self.told;
        if is_news {
            self.told = told;
            self.changed = clock.moment();
        }
        // The answers themselves order what follows: a status that is committed for another reason can
        // carry a stamp that was found to be wrong.
        let known = self.heard.newest_change;
        self.heard.newest_change = known.or(status.provider_change_time);
        is_news
    }

    /// The status may stay as it is for so long.
    pub(super) fn wait_for(&mut self, patience: Patience) {
        self.stale_after_ms = millis(patience.stale_after);
        self.horizon_ms = patience.horizon.map_or(ENDLESS, millis);
    }

    /// Takes a readable answer in. The caller settles its news, or takes them back if they were not
    /// committed.
    pub(super) fn hear(
        &mut self,
        observation: &Observation,
        times: Times,
        source: Source,
        now: Moment,
    ) -> News {
        if self.is_deciding {
            return News::Wait;
        }
        let before = self.heard;
        let change = observation.provider_change_time;
        (self.failures, self.failing_since_s) = (0, None);
        self.funds_moved |= observation.funds_moved;
        match (self.heard).hear(source, change, times.began, times.arrived) {
            Verdict::Apply => {}
            Verdict::HoldBack => {
                return News::HeldBack(self.heard.asked_again_at().unwrap_or(now).max(now));
            }
            Verdict::Drop => return News::Old,
        }
        self.unmapped = observation.standing == Standing::Unmapped;
        let seen = digest(observation);
        if seen == self.digest {
            self.read = Some(times.began);
            return News::Same;
        }
        self.is_deciding = true;
        // The first answer of all may tell of a change that was before the lists were read.
        let is_first = before.answered.is_none();
        let is_newer = |stamp: &_| before.newest_change.is_some_and(|known| *stamp > known);
        let shown = (source == Source::Read && !is_first).then(|| SingleNews {
            purchase: self.id,
            stamp: change.filter(is_newer),
            before: self.digest,
            arrived: times.arrived,
        });
        News::Fresh(Fresh {
            seen,
            began: times.began,
            stayed: self.is_open().then_some(self.stayed),
            funds_moved: self.funds_moved,
            change: shown,
        })
    }

    /// Says whether an answer is being decided on.
    pub(super) fn is_deciding(&self) -> bool {
        self.is_deciding
    }

    /// The news are committed, or were none to the status.
    pub(super) fn settle(&mut self, fresh: &Fresh) {
        self.is_deciding = false;
        (self.digest, self.read) = (fresh.seen, Some(fresh.began));
    }

    /// The news were not committed: the same answer is news again.
    pub(super) fn unsettle(&mut self) {
        self.is_deciding = false;
    }

    /// A request brought no answer about it. Returns the word that a person has to be told for it, if
    /// there is one by now.
    pub(super) fn silent(&mut self, silence: NoAnswer, now: Moment) -> Option<OwnWord> {
        match silence {
            // Somebody has asked later, and was told more.
            NoAnswer::Missing { began } if self.heard.answered > Some(began) => None,
            NoAnswer::Missing { .. } => {
                self.failures = self.failures.saturating_add(1);
                // The next answer is news, whatever was heard before.
                self.digest = 0;
                self.fails(now);
                (now.since(self.created) >= MISSING_ALLOWED).then_some(OwnWord::Missing)
            }
            NoAnswer::Trouble { is_own, .. } => {
                self.failures = self.failures.saturating_add(1);
                if !is_own {
                    self.failing_since_s = None;
                    return None;
                }
                if now.since(self.fails(now)) < UNREADABLE_AFTER {
                    return None;
                }
                self.digest = 0;
                Some(OwnWord::Unreadable)
            }
        }
    }

    /// This service's own word about it, if enough time has passed for one.
    pub(super) fn passed(&mut self, give_up_after: Duration, now: Moment) -> Option<OwnWord> {
        if !self.is_open() {
            let horizon = self.horizon().filter(|_| !self.unmapped);
            return match lifecycle::horizon(self.changed, horizon, self.read, now) {
                Horizon::Ahead | Horizon::LastRead => None,
                Horizon::Over => Some(OwnWord::Over(self.revision)),
            };
        }
        let unchanged = now.since(self.changed);
        // Possible news are waited for.
        let waits = self.unmapped || self.heard.held_back_since.is_some();
        if unchanged >= give_up_after && !waits {
            self.given_up = true;
            return None;
        }
        (unchanged >= self.stale_after()).then_some(OwnWord::Stale)
    }

    /// When it is asked next, after an answer or a silence.
    pub(super) fn next(&self, silence: Option<NoAnswer>, terms: &Terms<'_>) -> Moment {
        let now = terms.clock.moment();
        let mut due = self.next_due(terms.policy, terms.clock);
        if let Some(again) = self.asked_again_at(now) {
            due = due.min(again);
        }
        let end = self.horizon_end();
        if end.is_some_and(|end| end <= now) {
            // The last read has failed, or was no answer about the purchase.
            return due.min(now.plus(terms.clock.jittered(LAST_READ_EVERY, 100)));
        }
        if self.failures == 0
            && self.heard.held_back_since.is_none()
            && let Some(rare) = (terms.rare)(self.create_time, self.finality)
        {
            due = due.max(rare);
        }
        // The last read is made in time, also if the one before it has failed.
        due = due.min(end.unwrap_or(due).max(now));
        let wait = match silence {
            None => return due,
            Some(NoAnswer::Missing { began }) if began.since(self.created) < MISSING_ALLOWED => {
                return due;
            }
            Some(NoAnswer::Missing { .. }) => Duration::ZERO,
            Some(NoAnswer::Trouble {
                backs_off, wait, ..
            }) if backs_off => wait,
            Some(NoAnswer::Trouble { .. }) => return due,
        };
        due.max(self.backed_off(wait, terms.clock))
    }

    /// When it is asked about again after a failure, if its schedule does not say later: with full
    /// jitter, not before its provider wishes, and in time to say that it cannot be read.
    fn backed_off(&self, wait: Duration, clock: &Clock) -> Moment {
        let now = clock.moment();
        let doubled = self.failures.min(16).saturating_sub(1);
        let longest = backoff(RETRY_BASE, doubled, RETRY_MAX);
        let again = now.plus(clock.up_to(longest));
        if wait > Duration::ZERO {
            return again.max(now.plus(wait));
        }
        let told = self
            .failing_since()
            .map(|since| since.plus(UNREADABLE_AFTER));
        again.min(told.filter(|told| now < *told).unwrap_or(again))
    }

    /// When it is asked again whatever its schedule, since an answer is held back.
    fn asked_again_at(&self, now: Moment) -> Option<Moment> {
        let at = self.heard.asked_again_at()?;
        let wait = match self.failures {
            0 => Duration::ZERO,
            failures => backoff(RETRY_BASE, failures, RETRY_MAX),
        };
        Some(at.max(now.plus(wait)))
    }

    /// The time that the status may stay unchanged while it is open.
    fn stale_after(&self) -> Duration {
        Duration::from_millis(self.stale_after_ms)
    }

    /// The time that it is followed after its end; `None` for as long as it lasts.
    fn horizon(&self) -> Option<Duration> {
        (self.horizon_ms != ENDLESS).then(|| Duration::from_millis(self.horizon_ms))
    }

    /// The earliest time at which a timer reads it, whatever a schedule or a clock says.
    pub(super) fn floor(&self) -> Moment {
        let read = self.heard.arrived.max(self.read);
        let asked = self.stayed.last_asked();
        read.map_or(asked, |read| read.max(asked)).plus(READ_FLOOR)
    }

    /// When it is followed no more, if it has ended and an end to that is known.
    fn horizon_end(&self) -> Option<Moment> {
        let horizon = self
            .horizon()
            .filter(|_| !self.is_open() && !self.unmapped)?;
        Some(self.changed.plus(horizon))
    }

    /// No answer about it could be read, while its account was well. Returns since when.
    fn fails(&mut self, now: Moment) -> Moment {
        let second = u32::try_from(now.as_millis() / 1_000).ok();
        let second = second.and_then(NonZeroU32::new);
        self.failing_since_s = self.failing_since_s.or(second);
        self.failing_since().unwrap_or(now)
    }

    /// Since when no answer about it could be read, while its account was well.
    pub(super) fn failing_since(&self) -> Option<Moment> {
        let second = i64::from(self.failing_since_s?.get());
        Some(Moment::from_millis(second * 1_000))
    }

    pub(super) fn is_open(&self) -> bool {
        self.finality == Finality::Open
    }

    /// Its freshness without the time of its next poll, which its lane knows.
    pub(super) fn freshness(&self, clock: &Clock) -> Freshness {
        Freshness {
            last_answer_time: self.heard.arrived.map(|arrived| clock.wall_of(arrived)),
            next_poll_time: None,
            consecutive_failures: self.failures,
            held_back_since_time: self.heard.held_back_since.map(|since| clock.wall_of(since)),
        }
    }

    /// Its interval now, as scheduled.
    pub(super) fn every(&self, policy: &Policy, now: Moment) -> Duration {
        if self.is_open() {
            policy.schedule.every(now.since(self.created))
        } else {
            policy.after_terminal.every(now.since(self.changed))
        }
    }

    /// The time of the next poll after one that ended now, by the schedule alone.
    pub(super) fn next_due(&self, policy: &Policy, clock: &Clock) -> Moment {
        let now = clock.moment();
        if self.is_open() && now.since(self.changed) >= self.stale_after() {
            return now.plus(clock.jittered(STALE_EVERY, 100));
        }
        let every = self.every(policy, now);
        if self.is_open() && policy.long_poll && every <= Duration::from_millis(LONG_POLL_GAP_MS.1)
        {
            let (least, most) = LONG_POLL_GAP_MS;
            let spread = clock.up_to(Duration::from_millis(most - least));
            return now.plus(Duration::from_millis(least) + spread);
        }
        now.plus(clock.jittered(every, 100))
    }
}

/// A reference as it is kept in memory, if it is.
pub(super) fn kept(reference: &Reference) -> Option<Box<str>> {
    let canonical = reference.canonical();
    (canonical.len() <= REFERENCE_KEPT_MAX).then(|| canonical.into_boxed_str())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A state's number among stays.
pub(super) fn number(state: State) -> u8 {
    state as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_leaves_room_for_its_places_within_512_bytes() {
        // Map: 21 bytes at a load of at least 7/16. Of a sweep: 37 bytes at that load. Wheel and turns:
        // 24 + 16 + 8. Reference: 88.
        let size = size_of::<Option<Entry>>();
        let room = 512 - 48 - 85 - 48 - REFERENCE_KEPT_MAX;
        assert!(size <= room, "{size} of {room}");
    }
}
