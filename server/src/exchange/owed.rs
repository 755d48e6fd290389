//! Pure: the wishes of other processes about purchases whose accounts this process owns, and the words that
//! it owes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    journal::{Refreshed, ReplicaId, Sheet, Told, Wanted},
    purchase::{AccountName, Moment, PurchaseId},
};

/// The least time between two words about a purchase, but for the ends of refreshes.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// The most purchases that others wish to hear of. Wishes about further ones are not heard.
const WANTED_MAX: usize = 1_000_000;
/// The most refreshes for others under way at a time. Further ones wait.
const REFRESHES_MAX: usize = 256;
/// Times that differ by less are the same: they are told by clocks that are read one after the other.
const SAME_TIME: Duration = Duration::from_millis(100);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// The accounts that this process owns, and up to which number wishes about each were read.
    accounts: BTreeMap<AccountName, u64>,
    /// The mark of each other process.
    marks: BTreeMap<ReplicaId, u64>,
    purchases: BTreeMap<PurchaseId, Owing>,
    /// When to look at which purchase next, to tell of it.
    tells: BTreeSet<(Moment, PurchaseId)>,
    /// Purchases with a refresh that has not begun.
    refreshes: BTreeSet<PurchaseId>,
    /// The number of refreshes under way.
    under_way: usize,
}

#[derive(Debug)]
struct Owing {
    account: AccountName,
    by: BTreeMap<ReplicaId, Wanted>,
    /// Its place in `tells`.
    tell_at: Moment,
    /// The number up to which refreshes have begun.
    begun: u64,
    ended: Option<Refreshed>,
    told: Option<Told>,
}

impl Owing {
    /// The number of the newest refresh that is waited for.
    fn wanted(&self) -> u64 {
        let refreshes = self.by.values().filter_map(|wanted| wanted.refresh);
        refreshes.max().unwrap_or(0)
    }

    fn is_under_way(&self) -> bool {
        self.begun > self.ended.map_or(0, |ended| ended.number)
    }
}

impl Owed {
    /// This process owns an account from now on: all wishes about it are read.
    pub(super) fn own(&mut self, account: &AccountName) {
        self.accounts.insert(account.clone(), 0);
    }

    /// This process owns an account no more.
    pub(super) fn disown(&mut self, account: &AccountName) {
        self.accounts.remove(account);
        let of_account = self.purchases.iter();
        let of_account = of_account.filter(|(_, owing)| owing.account == *account);
        let of_account: Vec<PurchaseId> = of_account.map(|(purchase, _)| *purchase).collect();
        for purchase in of_account {
            self.forget(purchase);
        }
    }

    /// The accounts, and up to which number wishes about each were read.
    pub(super) fn accounts(&self) -> Vec<(AccountName, u64)> {
        let accounts = self.accounts.iter();
        accounts
            .map(|(account, read)| (account.clone(), *read))
            .collect()
    }

    /// The streams of other processes that watch a purchase.
    pub(super) fn watchers(&self, purchase: PurchaseId) -> usize {
        let owing = self.purchases.get(&purchase);
        let watchers = owing.into_iter().flat_map(|owing| owing.by.values());
        watchers.map(|wanted| wanted.watchers as usize).sum()
    }

    /// Wishes were read about these accounts.
    pub(super) fn read(&mut self, asked: &[(AccountName, u64)], sheet: Sheet, now: Moment) {
        if sheet.marks != self.marks {
            self.marks = sheet.marks;
            self.forget_passed();
        }
        if let Some(last) = sheet.wanted.last() {
            for (account, before) in asked {
                // An account that was given away and taken again meanwhile is read from its beginning.
                if let Some(read) = self.accounts.get_mut(account)
                    && read == before
                {
                    *read = last.number;
                }
            }
        }
        for wanted in sheet.wanted {
            self.take_in(wanted, now);
        }
    }

    /// Forgets the wishes that are over since their processes have other marks, or none.
    fn forget_passed(&mut self) {
        let marks = &self.marks;
        let stays = |replica: &ReplicaId, wanted: &Wanted| {
            marks.get(replica).is_some_and(|mark| wanted.number > *mark)
        };
        let mut unwanted = Vec::new();
        for (purchase, owing) in &mut self.purchases {
            owing.by.retain(|replica, wanted| stays(replica, wanted));
            if owing.by.is_empty() {
                unwanted.push(*purchase);
            }
        }
        for purchase in unwanted {
            self.forget(purchase);
        }
    }

    fn forget(&mut self, purchase: PurchaseId) {
        if let Some(owing) = self.purchases.remove(&purchase) {
            self.tells.remove(&(owing.tell_at, purchase));
        }
        self.refreshes.remove(&purchase);
    }

    fn take_in(&mut self, wanted: Wanted, now: Moment) {
        let purchase = wanted.purchase;
        if wanted.is_over {
            let owing = self.purchases.get_mut(&purchase);
            let left = owing.map(|owing| {
                owing.by.remove(&wanted.replica);
                owing.by.len()
            });
            if left == Some(0) {
                self.forget(purchase);
            }
            return;
        }
        let has_room = self.purchases.len() < WANTED_MAX;
        let is_known = self.purchases.contains_key(&purchase);
        if !self.accounts.contains_key(&wanted.account) || !(is_known || has_room) {
            return;
        }
        let owing = self.purchases.entry(purchase).or_insert_with(|| Owing {
            account: wanted.account.clone(),
            by: BTreeMap::new(),
            tell_at: now,
            begun: 0,
            ended: None,
            told: None,
        });
        let is_first = owing.by.insert(wanted.replica.clone(), wanted).is_none();
        if owing.wanted() > owing.begun {
            self.refreshes.insert(purchase);
        }
        if is_first {
            // It may have heard of nothing yet, and what was told can be gone.
            owing.told = None;
            self.tell_at(purchase, now);
        }
    }

    fn tell_at(&mut self, purchase: PurchaseId, at: Moment) {
        if let Some(owing) = self.purchases.get_mut(&purchase) {
            let before = std::mem::replace(&mut owing.tell_at, at);
            self.tells.remove(&(before, purchase));
            self.tells.insert((at, purchase));
        }
    }

    /// The purchases to look at now, at most `limit`, with their accounts. Each is looked at again after a
    /// while.
    pub(super) fn due(&mut self, now: Moment, limit: usize) -> Vec<(PurchaseId, AccountName)> {
        let due = self.tells.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<PurchaseId> = due.map(|(_, purchase)| *purchase).take(limit).collect();
        for purchase in &due {
            self.tell_at(*purchase, now.plus(TOLD_EVERY));
        }
        let with_account = |purchase: PurchaseId| {
            let owing = self.purchases.get(&purchase)?;
            Some((purchase, owing.account.clone()))
        };
        due.into_iter().filter_map(with_account).collect()
    }

    /// The words to put, out of those that are known now: the ones that say anything new, with the ends of
    /// refreshes.
    pub(super) fn tell(&mut self, known: Vec<Told>) -> Vec<Told> {
        let news = known.into_iter().filter_map(|known| {
            let owing = self.purchases.get_mut(&known.purchase)?;
            let told = Told {
                refreshed: owing.ended,
                ..known
            };
            let is_news = owing.told.is_none_or(|before| !says_same(&before, &told));
            owing.told = Some(told);
            is_news.then_some(told)
        });
        news.collect()
    }

    /// These words could not be put.
    pub(super) fn untold(&mut self, told: &[Told], now: Moment) {
        for told in told {
            if let Some(owing) = self.purchases.get_mut(&told.purchase) {
                owing.told = None;
                self.tell_at(told.purchase, now);
            }
        }
    }

    /// The refreshes to begin now, with the numbers up to which each of them is.
    pub(super) fn begin(&mut self) -> Vec<(PurchaseId, u64)> {
        let mut begun = Vec::new();
        for purchase in std::mem::take(&mut self.refreshes) {
            let owing = self.purchases.get_mut(&purchase);
            let Some(owing) = owing.filter(|owing| owing.wanted() > owing.begun) else {
                continue;
            };
            // Another of the same purchase would have to wait for its turn anyway.
            if owing.is_under_way() || self.under_way >= REFRESHES_MAX {
                self.refreshes.insert(purchase);
            } else {
                owing.begun = owing.wanted();
                self.under_way += 1;
                begun.push((purchase, owing.begun));
            }
        }
        begun
    }

    /// A refresh has ended: everybody hears of it at once.
    pub(super) fn end(&mut self, purchase: PurchaseId, ended: Refreshed, now: Moment) {
        self.under_way = self.under_way.saturating_sub(1);
        let is_news = |owing: &&mut Owing| {
            let before = owing.ended.map_or(0, |ended| ended.number);
            before < ended.number
        };
        if let Some(owing) = self.purchases.get_mut(&purchase).filter(is_news) {
            owing.ended = Some(ended);
            self.tell_at(purchase, now);
        }
    }

    /// Nobody is at the refreshes that had begun any more.
    pub(super) fn restart(&mut self) {
        self.under_way = 0;
        for (purchase, owing) in &mut self.purchases {
            owing.begun = owing.ended.map_or(0, |ended| ended.number);
            if owing.wanted() > owing.begun {
                self.refreshes.insert(*purchase);
            }
        }
    }
}

/// True if the words are the same, but for the reading of clocks.
fn says_same(before: &Told, now: &Told) -> bool {
    let is_same = |one: Option<Moment>, other: Option<Moment>| match (one, other) {
        (Some(one), Some(other)) => one.since(other).max(other.since(one)) < SAME_TIME,
        (one, other) => one == other,
    };
    is_same(before.answered, now.answered)
        && is_same(before.next_poll, now.next_poll)
        && is_same(before.held_back_since, now.held_back_since)
        && before.failures == now.failures
        && before.refreshed == now.refreshed
}
