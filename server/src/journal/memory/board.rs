//! The board of a store in memory.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;

use super::MemoryJournal;
use crate::{
    clock::Clock,
    journal::{
        BOARD_ROWS_MAX, Board, JournalError, Refresh, Refreshed, ReplicaId, SNAPSHOT_BYTES_MAX,
        Sheet, Told, Wanted, Wish,
        board::{KEPT_FOR, SHOWN_FOR},
    },
    purchase::{AccountName, Moment, PurchaseId, Timestamp},
};

/// Everything that processes have left for each other.
#[derive(Debug, Default)]
pub(super) struct Sheets {
    /// The last number that was given.
    number: u64,
    /// The mark of each process, and when the process has shown itself last.
    marks: BTreeMap<ReplicaId, (u64, Timestamp)>,
    /// Wishes, and when they were put.
    wanted: BTreeMap<(PurchaseId, ReplicaId), (Wanted, Timestamp)>,
    told: BTreeMap<PurchaseId, Kept>,
    snapshots: BTreeMap<AccountName, (String, Timestamp)>,
}

/// Words about a purchase, by the store's clock.
#[derive(Debug)]
struct Kept {
    answered: Option<Timestamp>,
    next_poll: Option<Timestamp>,
    held_back_since: Option<Timestamp>,
    failures: u32,
    /// The end of a refresh, without its time, and the time to try again.
    refreshed: Option<(Refreshed, Option<Timestamp>)>,
    at: Timestamp,
}

/// One moment by both clocks: the store's, and a process's.
#[derive(Debug, Clone, Copy)]
struct Both {
    store: Timestamp,
    process: Moment,
}

impl Both {
    fn kept(self, moment: Moment) -> Timestamp {
        match moment >= self.process {
            true => self.store.plus(moment.since(self.process)),
            false => self.store.minus(self.process.since(moment)),
        }
    }

    fn told(self, time: Timestamp) -> Moment {
        match time >= self.store {
            true => self.process.plus(time.since(self.store)),
            false => self.process.minus(self.store.since(time)),
        }
    }
}

impl Sheets {
    /// Everything is gone, as after a crash; the numbers go on.
    pub(super) fn empty(&mut self) {
        *self = Self {
            number: self.number,
            ..Self::default()
        };
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn mark(&mut self, replica: &ReplicaId, now: Timestamp) -> u64 {
        let mark = self.next();
        self.marks.insert(replica.clone(), (mark, now));
        self.wanted.retain(|(_, of), _| of != replica);
        mark
    }

    fn wish(
        &mut self,
        replica: &ReplicaId,
        mark: u64,
        wishes: &[Wish],
        now: Timestamp,
    ) -> Option<Vec<u64>> {
        let known = self.marks.get_mut(replica);
        let (_, seen) = known.filter(|(known, _)| *known == mark)?;
        *seen = now;
        let numbers = wishes.iter().map(|wish| {
            let number = self.next();
            let wanted = Wanted {
                purchase: wish.purchase,
                account: wish.account.clone(),
                replica: replica.clone(),
                watchers: wish.watchers,
                refresh: match wish.refresh {
                    Refresh::None => None,
                    Refresh::New => Some(number),
                    Refresh::Waits(since) => Some(since),
                },
                is_over: wish.is_over,
                number,
            };
            let place = (wish.purchase, replica.clone());
            self.wanted.insert(place, (wanted, now));
            number
        });
        Some(numbers.collect())
    }

    fn wanted(&self, replica: &ReplicaId, after: &[(AccountName, u64)], limit: usize) -> Sheet {
        let marks = self.marks.iter();
        let marks = marks.map(|(of, (mark, _))| (of.clone(), *mark));
        let is_asked = |wanted: &&Wanted| {
            let mark = self.marks.get(&wanted.replica);
            wanted.replica != *replica
                && mark.is_some_and(|(mark, _)| wanted.number > *mark)
                && after
                    .iter()
                    .any(|(account, number)| *account == wanted.account && wanted.number > *number)
        };
        let wanted = self.wanted.values().map(|(wanted, _)| wanted);
        let mut wanted: Vec<Wanted> = wanted.filter(is_asked).cloned().collect();
        wanted.sort_by_key(|wanted| wanted.number);
        wanted.truncate(limit);
        Sheet {
            marks: marks.filter(|(of, _)| of != replica).collect(),
            wanted,
        }
    }

    fn tell(&mut self, told: &Told, now: Both) {
        let before = self.told.get(&told.purchase);
        let before = before.and_then(|kept| kept.refreshed);
        let refreshed = told.refreshed.map(|refreshed| {
            let at = refreshed.retry_at.map(|at| now.kept(at));
            (refreshed, at)
        });
        let number = |refreshed: &(Refreshed, Option<Timestamp>)| refreshed.0.number;
        let kept = Kept {
            answered: told.answered.map(|at| now.kept(at)),
            next_poll: told.next_poll.map(|at| now.kept(at)),
            held_back_since: told.held_back_since.map(|at| now.kept(at)),
            failures: told.failures,
            refreshed: before.into_iter().chain(refreshed).max_by_key(number),
            at: now.store,
        };
        self.told.insert(told.purchase, kept);
    }

    fn told(&self, purchase: PurchaseId, now: Both) -> Option<Told> {
        let kept = self.told.get(&purchase)?;
        Some(Told {
            purchase,
            answered: kept.answered.map(|at| now.told(at)),
            next_poll: kept.next_poll.map(|at| now.told(at)),
            held_back_since: kept.held_back_since.map(|at| now.told(at)),
            failures: kept.failures,
            refreshed: kept.refreshed.map(|(refreshed, at)| Refreshed {
                retry_at: at.map(|at| now.told(at)),
                ..refreshed
            }),
        })
    }

    fn tidy(&mut self, now: Timestamp) -> usize {
        let is_old = |at: Timestamp| now.since(at) >= KEPT_FOR;
        let before = self.rows();
        self.marks.retain(|_, (_, seen)| !is_old(*seen));
        let marks = &self.marks;
        let is_needed = |wanted: &Wanted, at| {
            marks.contains_key(&wanted.replica) && !(wanted.is_over && is_old(at))
        };
        self.wanted.retain(|_, (wanted, at)| is_needed(wanted, *at));
        let wanted = &self.wanted;
        let is_wanted = |purchase: PurchaseId| {
            let mut from = wanted.range((purchase, ReplicaId::new(""))..);
            from.next().is_some_and(|((next, _), _)| *next == purchase)
        };
        (self.told).retain(|purchase, kept| is_wanted(*purchase) || !is_old(kept.at));
        self.snapshots.retain(|_, (_, at)| !is_old(*at));
        before - self.rows()
    }

    fn rows(&self) -> usize {
        self.marks.len() + self.wanted.len() + self.told.len() + self.snapshots.len()
    }
}

/// The board of a store in memory, as one of its openings uses it.
pub struct MemoryBoard {
    journal: MemoryJournal,
    /// The store's clock.
    store: Clock,
    /// The process's.
    clock: Clock,
    replica: ReplicaId,
}

impl fmt::Debug for MemoryBoard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryBoard")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl MemoryBoard {
    /// The board of this journal's store for the process with this name and clock. `store` is the store's
    /// clock. It is away while commits fail.
    pub fn new(journal: &MemoryJournal, store: &Clock, replica: &ReplicaId, clock: &Clock) -> Self {
        Self {
            journal: journal.of_same_process(),
            store: store.clone(),
            clock: clock.clone(),
            replica: replica.clone(),
        }
    }

    async fn with<T>(&self, act: impl FnOnce(&mut Sheets, Both) -> T) -> Result<T, JournalError> {
        let call = self.journal.call(|state| {
            let now = Both {
                store: self.store.now(),
                process: self.clock.moment(),
            };
            act(&mut state.sheets, now)
        });
        call.await
    }
}

#[async_trait]
impl Board for MemoryBoard {
    fn is_shared(&self) -> bool {
        true
    }

    async fn mark(&self) -> Result<u64, JournalError> {
        let marked = self.with(|sheets, now| sheets.mark(&self.replica, now.store));
        marked.await
    }

    async fn wish(&self, mark: u64, wishes: &[Wish]) -> Result<Option<Vec<u64>>, JournalError> {
        self.with(|sheets, now| sheets.wish(&self.replica, mark, wishes, now.store))
            .await
    }

    async fn wanted(
        &self,
        after: &[(AccountName, u64)],
        limit: usize,
    ) -> Result<Sheet, JournalError> {
        let limit = limit.min(BOARD_ROWS_MAX);
        self.with(|sheets, _| sheets.wanted(&self.replica, after, limit))
            .await
    }

    async fn tell(&self, told: &[Told]) -> Result<(), JournalError> {
        self.with(|sheets, now| told.iter().for_each(|told| sheets.tell(told, now)))
            .await
    }

    async fn told(&self, purchases: &[PurchaseId]) -> Result<Vec<Told>, JournalError> {
        let told = self.with(|sheets, now| {
            let told = purchases.iter().filter_map(|one| sheets.told(*one, now));
            told.collect()
        });
        told.await
    }

    async fn show(&self, snapshots: &[(AccountName, String)]) -> Result<(), JournalError> {
        let short = |(_, text): &&(AccountName, String)| text.len() <= SNAPSHOT_BYTES_MAX;
        self.with(|sheets, now| {
            for (account, text) in snapshots.iter().filter(short) {
                let kept = (text.clone(), now.store);
                sheets.snapshots.insert(account.clone(), kept);
            }
        })
        .await
    }

    async fn shown(
        &self,
        accounts: &[AccountName],
    ) -> Result<Vec<(AccountName, String)>, JournalError> {
        let shown = self.with(|sheets, now| {
            let shown = accounts.iter().filter_map(|account| {
                let (text, at) = sheets.snapshots.get(account)?;
                let is_fresh = now.store.since(*at) < SHOWN_FOR;
                is_fresh.then(|| (account.clone(), text.clone()))
            });
            shown.collect()
        });
        shown.await
    }

    async fn tidy(&self) -> Result<usize, JournalError> {
        self.with(|sheets, now| sheets.tidy(now.store)).await
    }
}
