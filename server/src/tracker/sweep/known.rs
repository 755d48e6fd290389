//! A sweeping account's open purchases, by reference, and the state of its lists. Plain state behind
//! one lock; asks nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use crate::{
    provider::sweep::{Bounds, Coverage, Cursor, ROWS_MAX, Sweep},
    purchase::{Finality, Moment, Purchase, PurchaseId, Reference, Timestamp},
};

/// Pages of one list that fail in a row before purchases are read singly again.
const FAILURES_MAX: u32 = 3;

/// The most by which the stamp of a foreign row may be ahead of the provider's own clock. Less than
/// rounds overlap, so that a row that is stamped now is not passed. Ours.
const STAMP_SLACK: Duration = Duration::from_secs(10);

/// The most changes, shown by single reads, that are looked for in the lists at once. Ours.
const AWAITED_MAX: usize = 256;

/// The most purchases that are looked at while the lock is held. Ours.
pub(super) const SCANNED_AT_ONCE: usize = 1_000;

/// The most news that rows have to bring until lists are trusted again that hid a change. Ours.
const OWED_MAX: u32 = 1_024;

/// The first half of a SHA-256 of a reference: what a row is found by. References can be long.
pub(super) type Key = [u8; 16];

fn key(reference: &Reference) -> Key {
    let whole: [u8; 32] = Sha256::digest(reference.canonical()).into();
    let (half, _) = whole.split_at(16);
    half.try_into().unwrap_or_default()
}

/// One purchase that a row may be about: 20 bytes, since an account can have a million.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// Its id's bytes, which need no alignment.
    id: [u8; 16],
    /// When it was created, in seconds since [`BEGINNING_S`] and rounded down, and above them a bit
    /// for whether it is open.
    packed: u32,
}

/// The beginning of the count of seconds: 2020.
const BEGINNING_S: i64 = 1_577_836_800;
const OPEN_BIT: u32 = 1 << 31;

impl Member {
    fn of(purchase: &Purchase) -> Self {
        let seconds = purchase.create_time.as_millis().div_euclid(1_000) - BEGINNING_S;
        let seconds = u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
        let open = match purchase.status.finality {
            Finality::Open => OPEN_BIT,
            Finality::Terminal | Finality::Final => 0,
        };
        Self {
            id: purchase.id.as_u128().to_ne_bytes(),
            packed: seconds.min(OPEN_BIT - 1) | open,
        }
    }

    pub(super) fn purchase(self) -> PurchaseId {
        PurchaseId::from_u128(u128::from_ne_bytes(self.id))
    }

    pub(super) fn created(self) -> Timestamp {
        let seconds = i64::from(self.packed & !OPEN_BIT) + BEGINNING_S;
        Timestamp::from_millis(seconds * 1_000).unwrap_or_default()
    }

    pub(super) fn is_open(self) -> bool {
        self.packed & OPEN_BIT != 0
    }
}

/// One list of the provider.
#[derive(Debug, Default)]
struct List {
    /// Open purchases that it can show.
    open: usize,
    /// Pages that failed in a row.
    failures: u32,
    /// The place up to which it has been read; `None` while nothing of it was read or taken from the
    /// store.
    kept: Option<Cursor>,
    /// A stamp that was no later than the provider's clock at that moment: since the list was caught
    /// hiding a change, it is read on from no later than that clock can be by now.
    clock: Option<(Timestamp, Moment)>,
}

/// A change that a single read has shown, of a purchase that answers were heard of before.
#[derive(Debug, Clone, Copy)]
pub(in crate::tracker) struct SingleNews {
    pub(in crate::tracker) purchase: PurchaseId,
    /// Its stamp, if that is newer than all that was known.
    pub(in crate::tracker) stamp: Option<Timestamp>,
    /// A digest of what was heard before; 0 stands for nothing.
    pub(in crate::tracker) before: u64,
    /// When the single read's answer arrived.
    pub(in crate::tracker) arrived: Moment,
}

/// A change that a single read has shown, and no row yet.
#[derive(Debug)]
struct Awaited {
    change: SingleNews,
    /// The lists of which no whole round has been read since.
    lists: BTreeSet<String>,
    /// A row that was asked for later has shown the status before it.
    is_hidden: bool,
}

/// A row about a purchase of ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) purchase: PurchaseId,
    pub(super) stamp: Option<Timestamp>,
    /// A digest of all that it says.
    pub(super) digest: u64,
    /// When its page was asked for.
    pub(super) began: Moment,
}

/// The worth of a list's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// They take fewer requests than single reads.
    Read,
    /// They would without the oldest open purchases, which are left to single reads.
    Narrower,
    /// They never would.
    Nothing,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Known {
    coverage: Coverage,
    singly_every: Duration,
    members: BTreeMap<Key, Member>,
    lists: BTreeMap<String, List>,
    open: usize,
    /// Lists are to be read, as the account's settings say.
    pub(super) is_allowed: bool,
    /// Some purchase may have the long single-read interval now.
    pub(super) stretched: bool,
    /// The newest stamp of any answer. Rounds go on there, behind a page that cannot be read.
    newest: Option<Timestamp>,
    /// The number of times that the open purchases were halved, since the list of all has too many pages.
    halved: u32,
    /// Purchases created before are not looked for in the list.
    pub(super) since: Option<Timestamp>,
    /// When the next round begins.
    pub(super) next_round: Option<Moment>,
    /// At most [`AWAITED_MAX`].
    awaited: BTreeMap<PurchaseId, Awaited>,
    /// The list of all was caught hiding a change since its last whole round.
    lags: bool,
    /// The purchase that was read singly last to check the list of all.
    checked: Option<Key>,
    /// The news that rows have to bring until the lists are trusted again.
    owed: u32,
    /// The news that they had to bring after the last change that they hid; doubled by each.
    penalty: u32,
}

impl Known {
    pub(super) fn new(sweep: &dyn Sweep, is_allowed: bool) -> Self {
        Self {
            coverage: sweep.coverage(),
            singly_every: sweep.singly_every(),
            members: BTreeMap::new(),
            lists: BTreeMap::new(),
            open: 0,
            is_allowed,
            stretched: false,
            newest: None,
            halved: 0,
            since: None,
            next_round: None,
            awaited: BTreeMap::new(),
            lags: false,
            checked: None,
            owed: 0,
            penalty: 0,
        }
    }

    /// Learns a purchase's newest status. Says whether the purchase is new here.
    pub(super) fn learn(
        &mut self,
        sweep: &dyn Sweep,
        purchase: &Purchase,
        reference: &Reference,
    ) -> bool {
        let member = Member::of(purchase);
        if let Some(stamp) = purchase.status.provider_change_time {
            self.stamped(stamp);
        }
        let before = self.members.insert(key(reference), member);
        let was_open = before.is_some_and(Member::is_open);
        self.count(sweep, reference, was_open, member.is_open());
        before.is_none()
    }

    /// Forgets a purchase that is FINAL.
    pub(super) fn forget(&mut self, sweep: &dyn Sweep, reference: &Reference) {
        if let Some(before) = self.members.remove(&key(reference)) {
            self.awaited.remove(&before.purchase());
            self.count(sweep, reference, before.is_open(), false);
        }
    }

    fn count(&mut self, sweep: &dyn Sweep, reference: &Reference, was: bool, is: bool) {
        if was == is {
            return;
        }
        let changed = |count: &mut usize| {
            *count = if is {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
        };
        changed(&mut self.open);
        for list in sweep.lists(reference) {
            changed(&mut self.lists.entry(list).or_default().open);
        }
    }

    /// The purchase that a row is about.
    pub(super) fn find(&self, reference: &Reference) -> Option<PurchaseId> {
        let member = self.members.get(&key(reference))?;
        Some(member.purchase())
    }

    /// The lists to read; none if single reads take fewer requests.
    pub(super) fn lists(&self) -> Vec<String> {
        if !self.is_wanted() {
            return Vec::new();
        }
        let used = self.lists.iter().filter(|(_, list)| list.open > 0);
        used.map(|(name, _)| name.clone()).collect()
    }

    fn is_wanted(&self) -> bool {
        self.open > self.lists.values().filter(|list| list.open > 0).count()
    }

    /// The interval of a purchase's single reads while it is swept; `None` if it is not.
    pub(super) fn singly_every(&self, created: Timestamp, finality: Finality) -> Option<Duration> {
        let is_shown = match self.coverage {
            Coverage::Changes => true,
            // A purchase that has ended may be older than the list's beginning.
            Coverage::All => {
                finality == Finality::Open && self.since.is_none_or(|since| created >= since)
            }
        };
        (is_shown && self.is_wanted() && self.goes_well()).then_some(self.singly_every)
    }

    fn goes_well(&self) -> bool {
        let fails = |list: &List| list.open > 0 && list.failures >= FAILURES_MAX;
        self.owed == 0 && !self.lists.values().any(fails)
    }

    /// The wanted ones among the next [`SCANNED_AT_ONCE`] purchases behind a key, and the key to go on
    /// behind, if there are more.
    pub(super) fn scan(
        &self,
        after: Option<Key>,
        wanted: impl Fn(&Self, &Member) -> bool,
    ) -> (Vec<Member>, Option<Key>) {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.members.range((behind, Bound::Unbounded));
        let looked_at: Vec<_> = range.take(SCANNED_AT_ONCE).collect();
        let next = looked_at.last().map(|(key, _)| **key);
        let next = next.filter(|_| looked_at.len() == SCANNED_AT_ONCE);
        let found = looked_at
            .into_iter()
            .filter(|(_, member)| wanted(self, member))
            .map(|(_, member)| *member);
        (found.collect(), next)
    }

    /// Says whether a purchase was created before a time, if one is named.
    pub(super) fn is_before(member: &Member, time: Option<Timestamp>) -> bool {
        time.is_none_or(|time| member.created() < time)
    }

    /// Says whether the list of all has to show a purchase.
    pub(super) fn is_expected(&self, member: &Member) -> bool {
        member.is_open() && self.since.is_none_or(|since| member.created() >= since)
    }

    /// When the oldest open purchase that a round through the list of all looks for was created, of
    /// those that were created at these times.
    pub(super) fn oldest(&self, mut created: Vec<Timestamp>) -> Option<Timestamp> {
        let left_out = created.len().checked_sub(self.covered())?;
        if left_out >= created.len() {
            return None;
        }
        let (_, oldest, _) = created.select_nth_unstable(left_out);
        Some(*oldest)
    }

    /// The number of open purchases that a round looks for.
    fn covered(&self) -> usize {
        let most = self.open.checked_shr(self.halved).unwrap_or(0);
        most.max(1).min(self.open)
    }

    /// Judges the list of all by its pages.
    pub(super) fn worth(&mut self, pages: Option<usize>) -> Worth {
        let Some(pages) = pages.filter(|_| self.coverage == Coverage::All) else {
            return Worth::Read;
        };
        let covered = self.covered();
        if pages > covered && covered > 1 {
            self.halved += 1;
            return Worth::Narrower;
        }
        if pages > covered {
            return Worth::Nothing;
        }
        if pages.saturating_mul(4) <= covered {
            self.halved = self.halved.saturating_sub(1);
        }
        Worth::Read
    }

    pub(super) fn kept(&self, list: &str) -> Option<&Cursor> {
        self.lists.get(list)?.kept.as_ref()
    }

    /// The place to read on from: behind a damaged row, if reading has failed for too long.
    pub(super) fn start(&self, sweep: &dyn Sweep, list: &str, now: Timestamp) -> Cursor {
        let place = sweep.start(Bounds {
            kept: self.kept(list),
            oldest: self.since.unwrap_or(now),
            newest: self.newest,
            now,
        });
        let failures = self.lists.get(list).map_or(0, |list| list.failures);
        match self.newest {
            Some(newest) if failures >= FAILURES_MAX && newest >= place.since => {
                Cursor::start(newest.plus(Duration::from_millis(1)))
            }
            _ => place,
        }
    }

    /// The number of rows to ask for: fewer after failures, so that a damaged row or a large one hides
    /// fewer others.
    pub(super) fn rows(&self, list: &str) -> usize {
        let failures = self.lists.get(list).map_or(0, |list| list.failures);
        (ROWS_MAX >> failures.min(4)).max(2)
    }

    /// A list has been read up to a place, and all that it said is committed; `answered` is when, by
    /// the provider's clock, and `now` by this machine's. The next round begins there, but no later
    /// than the newest stamp of a purchase that is tracked here, or than the provider's clock allows:
    /// one row of anybody's, stamped ahead of its time, would hide all that changes until then. Once a
    /// list has hidden a change, the stamps of tracked purchases count no more.
    pub(super) fn reached(
        &mut self,
        list: &str,
        place: Cursor,
        answered: Timestamp,
        now: Moment,
    ) -> bool {
        let list = self.lists.entry(list.to_owned()).or_default();
        let latest = match list.clock {
            Some((stamp, at)) => stamp.plus(now.since(at)).plus(STAMP_SLACK),
            None => self
                .newest
                .unwrap_or(answered)
                .max(answered.plus(STAMP_SLACK)),
        };
        let place = if place.since > latest {
            Cursor::start(latest)
        } else {
            place
        };
        let known = list.kept.as_ref();
        if known.is_some_and(|known| place.since < known.since || place == *known) {
            return false;
        }
        list.kept = Some(place);
        true
    }

    pub(super) fn succeeded(&mut self, list: &str) {
        self.lists.entry(list.to_owned()).or_default().failures = 0;
    }

    /// A page failed. Returns how many have in a row.
    pub(super) fn failed(&mut self, list: &str) -> u32 {
        if self.coverage == Coverage::Changes {
            // Rows that cannot be read are passed over: that hides changes, and the list does not.
            self.awaited.clear();
        }
        let list = self.lists.entry(list.to_owned()).or_default();
        list.failures = list.failures.saturating_add(1);
        list.failures
    }

    pub(super) fn stamped(&mut self, stamp: Timestamp) {
        self.newest = self.newest.max(Some(stamp));
    }

    /// The lists have to show this change, too: those of changes in their next round, and that of all
    /// by no longer showing what was before it.
    pub(super) fn changed(&mut self, change: SingleNews) {
        let lists: BTreeSet<String> = self.lists().into_iter().collect();
        let is_read = |list: &List| {
            list.failures == 0 && (self.coverage == Coverage::All || list.kept.is_some())
        };
        let are_read = lists
            .iter()
            .all(|list| self.lists.get(list).is_some_and(is_read));
        let is_told = match self.coverage {
            Coverage::Changes => change.stamp.is_some(),
            Coverage::All => change.before != 0,
        };
        let purchase = change.purchase;
        let has_room = self.awaited.len() < AWAITED_MAX || self.awaited.contains_key(&purchase);
        if is_told && !lists.is_empty() && are_read && has_room {
            let awaited = Awaited {
                change,
                lists,
                is_hidden: false,
            };
            self.awaited.insert(purchase, awaited);
        }
    }

    /// A row was about a purchase. Says whether it lags: it shows what was before a change that a
    /// single read has shown, although its page was asked for afterwards.
    pub(super) fn shown(&mut self, row: Shown) -> bool {
        let Some(awaited) = self.awaited.get_mut(&row.purchase) else {
            return false;
        };
        let SingleNews {
            stamp,
            before,
            arrived,
            ..
        } = awaited.change;
        let is_shown = match self.coverage {
            Coverage::Changes => row.stamp >= stamp,
            Coverage::All if row.began < arrived => return false,
            Coverage::All => row.digest != before,
        };
        if is_shown {
            self.awaited.remove(&row.purchase);
            self.brought_news();
            return false;
        }
        if self.coverage == Coverage::Changes {
            return false;
        }
        self.lags |= !awaited.is_hidden;
        awaited.is_hidden = true;
        true
    }

    /// The next purchase that the list of all has to show: read singly, it says whether that list lags.
    pub(super) fn next_to_check(&mut self) -> Option<PurchaseId> {
        let behind = self.checked.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.members.range((behind, Bound::Unbounded));
        let mut all = rest.chain(&self.members).take(SCANNED_AT_ONCE);
        let found = all.find(|(_, member)| self.is_expected(member));
        let (key, purchase) = found.map(|(key, member)| (*key, member.purchase()))?;
        self.checked = Some(key);
        Some(purchase)
    }

    /// A row has brought news, or those that a single read brought first.
    pub(super) fn brought_news(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    /// A whole round through a list that began then has ended. Says whether the lists hid a change
    /// that a single read had shown before: those of changes are read again from there, and single
    /// reads are as frequent as without lists until rows have brought news.
    pub(super) fn ended(&mut self, list: &str, began: Moment) -> bool {
        let hides = match self.coverage {
            Coverage::Changes => self.hides(list, began),
            // A purchase that no page shows is read singly after each round as it is.
            Coverage::All => std::mem::take(&mut self.lags),
        };
        if !hides {
            return false;
        }
        self.penalty = self.penalty.saturating_mul(2).clamp(1, OWED_MAX);
        self.owed = self.penalty;
        true
    }

    /// Says whether all lists have been read by whole rounds and none has shown a change. If so, they
    /// are read again from its stamp.
    fn hides(&mut self, list: &str, began: Moment) -> bool {
        let mut hidden: Option<(Timestamp, Moment)> = None;
        self.awaited.retain(|_, Awaited { change, lists, .. }| {
            if change.arrived <= began {
                lists.remove(list);
            }
            if let (true, Some(stamp)) = (lists.is_empty(), change.stamp) {
                let this = (stamp, change.arrived);
                hidden = Some(hidden.map_or(this, |other| other.min(this)));
            }
            !lists.is_empty()
        });
        let Some((stamp, arrived)) = hidden else {
            return false;
        };
        for list in self.lists.values_mut() {
            list.clock = Some((stamp, arrived));
            let is_past = |place: &Cursor| place.since > stamp;
            if list.kept.as_ref().is_some_and(is_past) {
                list.kept = Some(Cursor::start(stamp));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_takes_20_bytes() {
        assert_eq!(size_of::<(Key, Member)>(), 36);
    }
}
