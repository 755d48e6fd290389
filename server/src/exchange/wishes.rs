//! Pure: the wishes of this process about purchases whose accounts others own, and the words that it has
//! heard about them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::sync::oneshot;

use super::Answer;
use crate::{
    journal::{Refresh, Told, Wish},
    purchase::{AccountName, Moment, PurchaseId},
};

/// The time for which a purchase is wished that somebody has asked about once.
const ASKED_FOR: Duration = Duration::from_secs(60);
/// The most purchases that are wished since somebody has asked about them. Further ones wait until these are
/// forgotten. Those that are watched are as many as there are streams.
const ASKED_MAX: usize = 65_536;
/// The interval of reads of the words about a purchase.
const READ_EVERY: Duration = Duration::from_secs(5);
/// The same, until there are some.
const FIRST_READ_EVERY: Duration = Duration::from_secs(1);

/// All wishes. A process keeps them for its own accounts, too: it may have to give those away.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    purchases: BTreeMap<PurchaseId, Wished>,
    /// The accounts that this process owns.
    owned: BTreeSet<AccountName>,
    /// The purchases whose wishes are to be put.
    changed: BTreeSet<PurchaseId>,
    /// The purchases among them that somebody has begun to wait for.
    urgent: BTreeSet<PurchaseId>,
    /// All that somebody waits for.
    waited: BTreeSet<PurchaseId>,
    /// The purchases that somebody has asked about, in the order in which they may be forgotten.
    asked: VecDeque<(Moment, PurchaseId)>,
    /// When to read the words about which purchase next.
    reads: BTreeSet<(Moment, PurchaseId)>,
}

#[derive(Debug)]
struct Wished {
    account: AccountName,
    watchers: u32,
    /// Present if it is in `asked`.
    asked_until: Option<Moment>,
    waits: Vec<Waits>,
    /// True if there is a wish on the board that is not over.
    is_put: bool,
    /// Its place in `reads`.
    read_at: Option<Moment>,
    told: Option<Told>,
}

/// Somebody who waits for a refresh.
#[derive(Debug)]
struct Waits {
    number: Number,
    answer: oneshot::Sender<Answer>,
}

/// The number of a refresh that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// It has none yet.
    New,
    /// It is on its way to the board, and gets one there.
    OnItsWay,
    Known(u64),
}

impl Wished {
    fn new(account: &AccountName) -> Self {
        Self {
            account: account.clone(),
            watchers: 0,
            asked_until: None,
            waits: Vec::new(),
            is_put: false,
            read_at: None,
            told: None,
        }
    }

    fn is_wished(&self) -> bool {
        self.watchers > 0 || self.asked_until.is_some() || !self.waits.is_empty()
    }

    /// The refresh of the next wish: everybody who has no number yet gets that of the wish.
    fn refresh(&mut self) -> Refresh {
        let mut refresh = Refresh::None;
        for waits in &mut self.waits {
            refresh = match (waits.number, refresh) {
                (Number::New | Number::OnItsWay, _) => {
                    waits.number = Number::OnItsWay;
                    Refresh::New
                }
                (Number::Known(_), Refresh::New) => Refresh::New,
                (Number::Known(one), Refresh::Waits(other)) => Refresh::Waits(one.max(other)),
                (Number::Known(one), Refresh::None) => Refresh::Waits(one),
            };
        }
        refresh
    }
}

impl Wishes {
    fn of(&mut self, purchase: PurchaseId, account: &AccountName) -> &mut Wished {
        let purchases = &mut self.purchases;
        (purchases.entry(purchase)).or_insert_with(|| Wished::new(account))
    }

    /// One more stream watches a purchase.
    pub(super) fn watch(&mut self, purchase: PurchaseId, account: &AccountName) {
        self.of(purchase, account).watchers += 1;
        self.changed.insert(purchase);
    }

    /// One stream fewer watches a purchase.
    pub(super) fn unwatch(&mut self, purchase: PurchaseId) {
        if let Some(wished) = self.purchases.get_mut(&purchase) {
            wished.watchers = wished.watchers.saturating_sub(1);
            self.changed.insert(purchase);
        }
    }

    /// Somebody asks about a purchase, once. Returns the words about it.
    pub(super) fn ask(
        &mut self,
        purchase: PurchaseId,
        account: &AccountName,
        now: Moment,
    ) -> Option<Told> {
        let until = now.plus(ASKED_FOR);
        let has_room = self.asked.len() < ASKED_MAX;
        match self.purchases.get_mut(&purchase) {
            Some(wished) if wished.asked_until.is_some() => wished.asked_until = Some(until),
            known if has_room => {
                if known.is_none() {
                    self.changed.insert(purchase);
                }
                self.of(purchase, account).asked_until = Some(until);
                self.asked.push_back((until, purchase));
            }
            _ => {}
        }
        self.purchases.get(&purchase)?.told
    }

    /// Somebody waits for a refresh. False, with nothing done, if this process owns the account.
    pub(super) fn wait(
        &mut self,
        purchase: PurchaseId,
        account: &AccountName,
        answer: oneshot::Sender<Answer>,
    ) -> bool {
        if self.owned.contains(account) {
            return false;
        }
        let number = Number::New;
        self.of(purchase, account)
            .waits
            .push(Waits { number, answer });
        self.urgent.insert(purchase);
        self.waited.insert(purchase);
        true
    }

    /// Somebody waits no more, answered or not.
    pub(super) fn stop_waiting(&mut self, purchase: PurchaseId) {
        if let Some(wished) = self.purchases.get_mut(&purchase) {
            wished.waits.retain(|waits| !waits.answer.is_closed());
            self.changed.insert(purchase);
            if wished.waits.is_empty() {
                self.waited.remove(&purchase);
            }
        }
    }

    /// True if anybody waits for a refresh.
    pub(super) fn has_waiters(&self) -> bool {
        !self.waited.is_empty()
    }

    /// This process owns an account from now on: its own wishes about it are over, and whoever waits is
    /// answered here.
    pub(super) fn own(&mut self, account: &AccountName) {
        self.owned.insert(account.clone());
        for (purchase, wished) in &mut self.purchases {
            if wished.account == *account {
                for waits in wished.waits.drain(..) {
                    // A caller who has gone needs no answer.
                    waits.answer.send(Answer::Here).ok();
                }
                wished.told = None;
                self.waited.remove(purchase);
                self.changed.insert(*purchase);
            }
        }
    }

    /// This process owns an account no more.
    pub(super) fn disown(&mut self, account: &AccountName) {
        self.owned.remove(account);
        let of_account = self.purchases.iter();
        let of_account = of_account.filter(|(_, wished)| wished.account == *account);
        self.changed
            .extend(of_account.map(|(purchase, _)| *purchase));
    }

    /// Nothing of all this is on the board any more.
    pub(super) fn again(&mut self) {
        for (purchase, wished) in &mut self.purchases {
            wished.is_put = false;
            for waits in &mut wished.waits {
                waits.number = Number::New;
            }
            match wished.waits.is_empty() {
                true => self.changed.insert(*purchase),
                false => self.urgent.insert(*purchase),
            };
        }
    }

    /// The wishes to put next, at most `limit`.
    pub(super) fn put(&mut self, now: Moment, limit: usize) -> Vec<Wish> {
        self.forget_asked(now);
        let mut wishes = Vec::new();
        while wishes.len() < limit {
            let next = self.urgent.pop_first().or_else(|| self.changed.pop_first());
            let Some(purchase) = next else { break };
            self.changed.remove(&purchase);
            wishes.extend(self.wish(purchase, now));
        }
        wishes
    }

    fn forget_asked(&mut self, now: Moment) {
        while let Some(&(until, purchase)) = self.asked.front().filter(|(until, _)| *until <= now) {
            self.asked.pop_front();
            let Some(wished) = self.purchases.get_mut(&purchase) else {
                continue;
            };
            // It may have been asked about again since.
            match wished.asked_until.filter(|again| *again > until) {
                Some(again) => self.asked.push_back((again, purchase)),
                None => {
                    wished.asked_until = None;
                    self.changed.insert(purchase);
                }
            }
        }
    }

    /// The wish of a purchase as it should be on the board, if it should be put.
    fn wish(&mut self, purchase: PurchaseId, now: Moment) -> Option<Wish> {
        let wished = self.purchases.get_mut(&purchase)?;
        let is_over = !wished.is_wished() || self.owned.contains(&wished.account);
        let was_put = std::mem::replace(&mut wished.is_put, !is_over);
        let wish = Wish {
            purchase,
            account: wished.account.clone(),
            watchers: if is_over { 0 } else { wished.watchers },
            refresh: wished.refresh(),
            is_over,
        };
        let is_wished = wished.is_wished();
        let next = (wished.read_at).unwrap_or(now.plus(FIRST_READ_EVERY));
        self.read_at(purchase, (!is_over).then_some(next));
        if !is_wished {
            self.purchases.remove(&purchase);
        }
        (was_put || !is_over).then_some(wish)
    }

    /// Sets when to read the words about a purchase next.
    fn read_at(&mut self, purchase: PurchaseId, at: Option<Moment>) {
        let Some(wished) = self.purchases.get_mut(&purchase) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut wished.read_at, at) {
            self.reads.remove(&(before, purchase));
        }
        self.reads.extend(at.map(|at| (at, purchase)));
    }

    /// Wishes were put under these numbers.
    pub(super) fn were_put(&mut self, wishes: &[Wish], numbers: &[u64]) {
        for (wish, number) in wishes.iter().zip(numbers) {
            let Some(wished) = self.purchases.get_mut(&wish.purchase) else {
                continue;
            };
            let on_their_way = wished.waits.iter_mut();
            for waits in on_their_way.filter(|waits| waits.number == Number::OnItsWay) {
                waits.number = Number::Known(*number);
            }
        }
    }

    /// The purchases about which to read the words next, at most `limit`.
    pub(super) fn read(&mut self, now: Moment, limit: usize) -> Vec<PurchaseId> {
        let waited = self.waited.iter().copied();
        let due = self.reads.iter().take_while(|(at, _)| *at <= now);
        let due = due.map(|(_, purchase)| *purchase);
        let due = due.filter(|purchase| !self.waited.contains(purchase));
        let read: Vec<PurchaseId> = waited.chain(due).take(limit).collect();
        for purchase in &read {
            let is_told = (self.purchases.get(purchase)).is_some_and(|one| one.told.is_some());
            let wait = if is_told {
                READ_EVERY
            } else {
                FIRST_READ_EVERY
            };
            self.read_at(*purchase, Some(now.plus(wait)));
        }
        read
    }

    /// Words were read.
    pub(super) fn hear(&mut self, told: Vec<Told>) {
        for told in told {
            let Some(wished) = self.purchases.get_mut(&told.purchase) else {
                continue;
            };
            if self.owned.contains(&wished.account) {
                continue;
            }
            wished.told = Some(told);
            let Some(end) = told.refreshed else { continue };
            let is_ended =
                |waits: &mut Waits| matches!(waits.number, Number::Known(one) if one <= end.number);
            let ended = wished.waits.extract_if(.., is_ended);
            for waits in ended {
                waits.answer.send(Answer::Ended(end)).ok();
            }
            if wished.waits.is_empty() {
                self.waited.remove(&told.purchase);
            }
        }
    }
}
