//! What is in memory of one open purchase: just what decides when to ask and whether an answer is
//! news.

use std::{num::NonZeroU32, time::Duration};

use super::{
    digest::told,
    poll::{RETRY_BASE, RETRY_MAX, Times},
};
use crate::{
    cadence::{Policy, budget::backoff, hazard::Stayed},
    clock::Clock,
    journal::Record,
    lifecycle::{Heard, Source, Verdict},
    observation::{Observation, Standing},
    purchase::{
        Finality, Freshness, Moment, Purchase, PurchaseId, Reference, Revision, State, Status,
        Timestamp,
    },
};

/// How often a purchase is polled that is open and unchanged for too long.
pub(super) const STALE_EVERY: Duration = Duration::from_secs(86_400);
/// The bounds of the pause between two long polls, in milliseconds. Documented by Phygitals.
const LONG_POLL_GAP_MS: (u64, u64) = (500, 1_000);

/// The least time between two reads of one purchase by timers. Ours.
pub(super) const READ_FLOOR: Duration = Duration::from_millis(100);
/// A horizon that never ends.
const ENDLESS: u64 = u64::MAX;

/// A reference whose canonical text is longer, in bytes, is read from the journal when it is due:
/// memory holds a million of the others.
const REFERENCE_KEPT_MAX: usize = 88;

/// One open purchase. With its places in map, wheel and turns at most 512 bytes.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: PurchaseId,
    /// Its reference, as the store compares it; `None` where it is too long to be kept here.
    pub(super) reference: Option<Box<str>>,
    /// Whose it is, by the lane's number.
    pub(super) caller: u32,
    /// What is known of its stay in its state.
    pub(super) stayed: Stayed,
    /// When it was created, as it is shown and as a provider's lists are read by.
    pub(super) create_time: Timestamp,
    /// The same moment, which ages count from.
    pub(super) created: Moment,
    /// When the newest revision was observed that is news: more than this service's own word that
    /// there are none. Staleness and the horizon count from it.
    pub(super) changed: Moment,
    /// A digest of the newest status without what is this service's own word.
    told: u64,
    /// The newest revision.
    pub(super) revision: Revision,
    pub(super) finality: Finality,
    /// Whether the newest word has no mapping: no deadline of this service runs while it stands.
    pub(super) unmapped: bool,
    pub(super) heard: Heard,
    /// When the request of the last readable answer began.
    pub(super) read: Option<Moment>,
    /// A digest of the last applied observation: the same again is no news.
    pub(super) digest: u64,
    pub(super) failures: u32,
    /// Since which second no answer about it could be read, while its account was well.
    failing_since_s: Option<NonZeroU32>,
    pub(super) due: Moment,
    /// Whether a poll of it is due or under way, so that it is in no timer.
    pub(super) busy: bool,
    /// The revision that the next two belong to.
    pub(super) limits_of: Revision,
    /// How long the status may stay unchanged while it is open, in milliseconds.
    stale_after_ms: u64,
    /// How long it is followed after its end, in milliseconds; [`ENDLESS`] for as long as it lasts.
    horizon_ms: u64,
    /// Polled no more, since nothing has changed for so long.
    pub(super) given_up: bool,
    /// Whether any answer that was heard here showed that funds moved.
    pub(super) funds_moved: bool,
}

impl Entry {
    pub(super) fn new(purchase: &Purchase, reference: &Reference, clock: &Clock) -> Self {
        let now = clock.moment();
        let mut entry = Self {
            id: purchase.id,
            reference: kept(reference),
            caller: 0,
            stayed: Stayed::new(number(purchase.status.state), now),
            create_time: purchase.create_time,
            created: past(purchase.create_time, clock),
            changed: now,
            told: 0,
            revision: Revision::default(),
            finality: Finality::Open,
            unmapped: false,
            heard: Heard::default(),
            read: None,
            digest: 0,
            failures: 0,
            failing_since_s: None,
            due: now,
            busy: false,
            limits_of: Revision::default(),
            stale_after_ms: millis(STALE_EVERY),
            horizon_ms: ENDLESS,
            given_up: false,
            funds_moved: false,
        };
        entry.learn(&purchase.status, clock);
        entry
    }

    pub(super) fn recovered(record: &Record, reference: &Reference, clock: &Clock) -> Self {
        let mut entry = Self::new(&record.purchase, reference, clock);
        let status = &record.purchase.status;
        entry.stayed = Stayed::new(number(status.state), past(status.observe_time, clock));
        entry.changed = past(record.change_time, clock);
        entry
    }

    /// Learns a newly committed status. Says whether it is news: more than this service's own word
    /// that there are none.
    pub(super) fn learn(&mut self, status: &Status, clock: &Clock) -> bool {
        self.finality = status.finality;
        self.unmapped = status.unmapped;
        self.revision = status.revision;
        let told = told(status);
        let is_news = told != self.told;
        if is_news {
            self.told = told;
            self.changed = past(status.observe_time, clock);
        }
        // What is heard of afterwards is ordered by the answers themselves: a status that is
        // committed for another reason can carry a stamp that was found to be wrong.
        let known = self.heard.newest_change;
        self.heard.newest_change = known.or(status.provider_change_time);
        is_news
    }

    /// Takes a readable answer in, and says what becomes of it. Said before it is committed, so that
    /// an older answer sees it from now on. Where the commit fails it is news again, since its digest
    /// is not kept.
    pub(super) fn hear(
        &mut self,
        observation: &Observation,
        times: Times,
        source: Source,
    ) -> Verdict {
        (self.failures, self.failing_since_s) = (0, None);
        let change = observation.provider_change_time;
        let verdict = self.heard.hear(source, change, times.began, times.arrived);
        if verdict == Verdict::Apply {
            self.unmapped = observation.standing == Standing::Unmapped;
        }
        verdict
    }

    /// When the purchase is asked again whatever its schedule, since an answer is held back.
    pub(super) fn asked_again_at(&self, now: Moment) -> Option<Moment> {
        let at = self.heard.asked_again_at()?;
        let wait = match self.failures {
            0 => Duration::ZERO,
            failures => backoff(RETRY_BASE, failures, RETRY_MAX),
        };
        Some(at.max(now.plus(wait)))
    }

    /// Learns how long its status of this revision may stay as it is.
    pub(super) fn limit(
        &mut self,
        revision: Revision,
        stale_after: Duration,
        horizon: Option<Duration>,
    ) {
        self.limits_of = revision;
        self.stale_after_ms = millis(stale_after);
        self.horizon_ms = horizon.map_or(ENDLESS, millis);
    }

    /// How long the status may stay unchanged while it is open.
    pub(super) fn stale_after(&self) -> Duration {
        Duration::from_millis(self.stale_after_ms)
    }

    /// How long it is followed after its end; `None` for as long as it lasts.
    pub(super) fn horizon(&self) -> Option<Duration> {
        (self.horizon_ms != ENDLESS).then(|| Duration::from_millis(self.horizon_ms))
    }

    /// Before which no timer reads it, whatever a schedule or a clock says.
    pub(super) fn floor(&self) -> Moment {
        let read = self.heard.arrived.max(self.read);
        let asked = self.stayed.last_asked();
        read.map_or(asked, |read| read.max(asked)).plus(READ_FLOOR)
    }

    /// When it is followed no more, where it has ended and that is known.
    pub(super) fn horizon_end(&self) -> Option<Moment> {
        let is_known = self.finality != Finality::Open && self.limits_of == self.revision;
        let horizon = self.horizon().filter(|_| is_known && !self.unmapped)?;
        Some(self.changed.plus(horizon))
    }

    /// No answer about it could be read, while its account was well. Returns since when.
    pub(super) fn fails(&mut self, now: Moment) -> Moment {
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

    /// It is not known to fail by itself.
    pub(super) fn fails_no_more(&mut self) {
        self.failing_since_s = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.finality == Finality::Open
    }

    /// How fresh it is, but for when it is asked next, which its lane knows.
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

    /// The time of the next poll after one that ended now.
    pub(super) fn next_due(&self, policy: &Policy, stale_after: Duration, clock: &Clock) -> Moment {
        let now = clock.moment();
        if self.finality != Finality::Open {
            let every = policy.after_terminal.every(now.since(self.changed));
            return now.plus(clock.jittered(every, 100));
        }
        if now.since(self.changed) >= stale_after {
            return now.plus(clock.jittered(STALE_EVERY, 100));
        }
        let every = policy.schedule.every(now.since(self.created));
        if policy.long_poll && every <= Duration::from_millis(LONG_POLL_GAP_MS.1) {
            let (least, most) = LONG_POLL_GAP_MS;
            let spread = clock.up_to(Duration::from_millis(most - least));
            return now.plus(Duration::from_millis(least) + spread);
        }
        now.plus(clock.jittered(every, 100))
    }
}

/// The moment of a stored time. What was stored by a clock that was ahead has just happened.
fn past(time: Timestamp, clock: &Clock) -> Moment {
    clock.moment_of(time).min(clock.moment())
}

/// A reference as it is kept in memory, where it is.
pub(super) fn kept(reference: &Reference) -> Option<Box<str>> {
    let canonical = reference.canonical();
    (canonical.len() <= REFERENCE_KEPT_MAX).then(|| canonical.into_boxed_str())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A state's number in what is learned of stays.
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
