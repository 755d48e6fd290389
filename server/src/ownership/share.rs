//! The accounts that each replica should own: pure, and the same in every replica that sees the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::{journal::ReplicaId, purchase::AccountName};

/// The leases as one replica sees them.
pub(super) struct Scene<'a> {
    /// This replica.
    pub(super) me: &'a ReplicaId,
    /// The replicas that live and stay.
    pub(super) living: &'a BTreeSet<ReplicaId>,
    /// The accounts that somebody has to own.
    pub(super) accounts: &'a BTreeSet<AccountName>,
    /// The owners of those that are owned, the dead among them.
    pub(super) owners: &'a BTreeMap<AccountName, ReplicaId>,
    /// Those that may be taken.
    pub(super) free: &'a [Free],
}

/// An account that may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) account: AccountName,
    /// True if nobody has taken it for so long that nobody else seems to want it.
    pub(super) is_left: bool,
}

/// The next step of a replica.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// The accounts to take.
    pub(super) takes: Vec<AccountName>,
    /// The account to give away.
    pub(super) releases: Option<AccountName>,
}

/// The number of accounts that a replica should own: all own equally many, and the first ones one more
/// if they do not come out even.
pub(super) fn share(accounts: usize, replica: &ReplicaId, living: &BTreeSet<ReplicaId>) -> usize {
    let Some(place) = living.iter().position(|one| one == replica) else {
        return 0;
    };
    let (each, rest) = (accounts / living.len(), accounts % living.len());
    each + usize::from(place < rest)
}

impl Scene<'_> {
    /// The next step: whoever owns less than its share takes what is free, and whoever owns more gives
    /// one account away, as long as somebody else lacks one. An account that is left over is taken in
    /// any case: not every replica may have it configured.
    pub(super) fn step(&self) -> Step {
        let place = self.living.iter().position(|one| one == self.me);
        let Some(place) = place else {
            return Step::default();
        };
        let (owned, wanted) = (self.owned(self.me), self.share(self.me));
        // Each begins elsewhere, so that several do not reach for the same.
        let begin = self.free.len() * place / self.living.len();
        let (before, behind) = self.free.split_at(begin);
        let mut room = wanted.saturating_sub(owned);
        let mut takes = Vec::new();
        for free in behind.iter().chain(before) {
            if room > 0 || free.is_left {
                room = room.saturating_sub(1);
                takes.push(free.account.clone());
            }
        }
        let gives = owned > wanted && self.somebody_lacks();
        let mut mine = self.owners.iter().rev().filter(|(_, of)| *of == self.me);
        let releases = mine.next().filter(|_| gives);
        Step {
            takes,
            releases: releases.map(|(account, _)| account.clone()),
        }
    }

    fn share(&self, replica: &ReplicaId) -> usize {
        share(self.accounts.len(), replica, self.living)
    }

    fn owned(&self, replica: &ReplicaId) -> usize {
        self.owners.values().filter(|of| *of == replica).count()
    }

    fn somebody_lacks(&self) -> bool {
        let mut living = self.living.iter();
        // Free accounts make up for the ones that others lack.
        self.free.is_empty() && living.any(|one| self.owned(one) < self.share(one))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names<T: Ord>(count: usize, name: impl Fn(&str) -> T) -> BTreeSet<T> {
        (0..count).map(|one| name(&format!("{one:03}"))).collect()
    }

    fn replicas(count: usize) -> BTreeSet<ReplicaId> {
        names(count, ReplicaId::new)
    }

    fn accounts(count: usize) -> BTreeSet<AccountName> {
        names(count, AccountName::new)
    }

    /// A store in which each replica looks and acts in turn.
    struct Store {
        living: BTreeSet<ReplicaId>,
        accounts: BTreeSet<AccountName>,
        owners: BTreeMap<AccountName, ReplicaId>,
    }

    impl Store {
        fn step_of(&self, me: &ReplicaId) -> Step {
            let free = (self.accounts.iter())
                .filter(|account| {
                    let owner = self.owners.get(*account);
                    owner.is_none_or(|owner| !self.living.contains(owner))
                })
                .map(|account| Free {
                    account: account.clone(),
                    is_left: false,
                });
            let free: Vec<Free> = free.collect();
            let scene = Scene {
                me,
                living: &self.living,
                accounts: &self.accounts,
                owners: &self.owners,
                free: &free,
            };
            scene.step()
        }

        /// Everybody acts once; the number of steps that changed something.
        fn round(&mut self) -> usize {
            let mut moved = 0;
            for me in self.living.clone() {
                let step = self.step_of(&me);
                moved += step.takes.len() + usize::from(step.releases.is_some());
                for account in step.takes {
                    self.owners.insert(account, me.clone());
                }
                if let Some(account) = step.releases {
                    assert_eq!(self.owners.remove(&account), Some(me));
                }
            }
            moved
        }

        fn owned(&self, replica: &ReplicaId) -> usize {
            self.owners.values().filter(|of| *of == replica).count()
        }
    }

    #[test]
    fn shares_are_even_and_the_first_own_one_more() {
        let check = |count: usize, living: usize, expected: &[usize]| {
            let living = replicas(living);
            let shares = living.iter().map(|one| share(count, one, &living));
            assert_eq!(shares.collect::<Vec<_>>(), expected);
        };
        check(7, 3, &[3, 2, 2]);
        check(6, 3, &[2, 2, 2]);
        check(1, 3, &[1, 0, 0]);
        check(0, 2, &[0, 0]);
        check(5, 1, &[5]);
        let stranger = ReplicaId::new("x");
        assert_eq!(share(5, &stranger, &replicas(2)), 0, "it does not live");
    }

    #[test]
    fn nothing_is_given_away_while_nobody_lacks_or_something_is_free() {
        let (living, accounts) = (replicas(2), accounts(4));
        let me = living.first().unwrap().clone();
        let of = |count: usize| -> BTreeMap<_, _> {
            let mine = accounts.iter().take(count);
            mine.map(|account| (account.clone(), me.clone())).collect()
        };
        let step = |owners: &BTreeMap<AccountName, ReplicaId>, free: &[Free]| {
            let scene = Scene {
                me: &me,
                living: &living,
                accounts: &accounts,
                owners,
                free,
            };
            scene.step()
        };
        let last = accounts.last().unwrap();
        assert_eq!(step(&of(4), &[]).releases.as_ref(), Some(last));
        let free = |is_left| Free {
            account: last.clone(),
            is_left,
        };
        assert_eq!(step(&of(3), &[free(false)]), Step::default());
        assert_eq!(
            step(&of(3), &[free(true)]).takes,
            std::slice::from_ref(last)
        );
        assert_eq!(
            step(&of(1), &[free(false)]).takes,
            std::slice::from_ref(last)
        );
    }

    proptest! {
        #[test]
        fn any_owners_end_in_even_shares_and_stay(
            living in 1..6_usize,
            count in 0..20_usize,
            owned in proptest::collection::vec(0..9_usize, 20),
        ) {
            let mut store = Store {
                living: replicas(living),
                accounts: accounts(count),
                owners: BTreeMap::new(),
            };
            // Owners beyond the living ones are dead, and some accounts have none.
            let all: Vec<ReplicaId> = replicas(8).into_iter().collect();
            for (account, place) in store.accounts.iter().zip(owned) {
                if let Some(owner) = all.get(place) {
                    store.owners.insert(account.clone(), owner.clone());
                }
            }
            let rounds = (0..=count + 1).take_while(|_| store.round() > 0).count();
            prop_assert!(rounds <= count + 1, "no end after {} rounds", rounds);
            prop_assert_eq!(store.owners.len(), count);
            for replica in &store.living {
                let share = share(count, replica, &store.living);
                prop_assert_eq!(store.owned(replica), share);
            }
        }
    }
}
