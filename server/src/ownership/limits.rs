//! The limits of accounts by which replicas are configured: pure. They can differ for a while, and the least of
//! the living holds for all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    journal::{Limits, ReplicaId},
    purchase::AccountName,
};

/// Limits by account.
pub type AccountLimits = BTreeMap<AccountName, Limits>;

/// The least limits of several replicas, by account.
pub(super) fn least<'a>(replicas: impl IntoIterator<Item = &'a AccountLimits>) -> AccountLimits {
    let mut least = AccountLimits::new();
    for (account, limits) in replicas.into_iter().flatten() {
        let known = least.entry(account.clone()).or_default();
        *known = known.least(*limits);
    }
    least
}

/// A limit of an account that another replica has otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Difference {
    pub(super) account: AccountName,
    /// The key of the setting.
    pub(super) key: &'static str,
    /// The limit here; 0 if there is none.
    pub(super) here: u32,
    pub(super) replica: ReplicaId,
    /// The limit there.
    pub(super) there: u32,
}

/// The differences between the limits here and those of other replicas, of the accounts that both have.
pub(super) fn differences<'a>(
    own: &AccountLimits,
    others: impl IntoIterator<Item = (&'a ReplicaId, &'a AccountLimits)>,
) -> BTreeSet<Difference> {
    let mut differences = BTreeSet::new();
    for (replica, theirs) in others {
        for (account, there) in theirs {
            let Some(here) = own.get(account) else {
                continue;
            };
            let pairs = here.named().into_iter().zip(there.named());
            for ((key, here), (_, there)) in pairs.filter(|((_, here), (_, there))| here != there) {
                differences.insert(Difference {
                    account: account.clone(),
                    key,
                    here,
                    replica: replica.clone(),
                    there,
                });
            }
        }
    }
    differences
}

/// The limits of a process, and those that others have told it. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Configured(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    own: AccountLimits,
    /// The limits that the store has been told.
    told: Option<AccountLimits>,
    others: AccountLimits,
    /// The differences that have been logged and last.
    logged: BTreeSet<Difference>,
}

impl Configured {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process has these limits from now on.
    pub(super) fn own(&self, own: AccountLimits) {
        self.state().own = own;
    }

    /// The limits that the store has to be told; `None` if it knows them.
    pub(super) fn untold(&self) -> Option<AccountLimits> {
        let state = self.state();
        (state.told.as_ref() != Some(&state.own)).then(|| state.own.clone())
    }

    /// The store has been told these.
    pub(super) fn told(&self, told: AccountLimits) {
        self.state().told = Some(told);
    }

    /// The others have these at the least.
    pub(super) fn others_have(&self, others: AccountLimits) {
        self.state().others = others;
    }

    /// The least limits of the others.
    pub(super) fn of_others(&self) -> AccountLimits {
        self.state().others.clone()
    }

    /// The differences to these replicas that have not been logged, and are from now on.
    pub(super) fn unlogged<'a>(
        &self,
        others: impl IntoIterator<Item = (&'a ReplicaId, &'a AccountLimits)>,
    ) -> Vec<Difference> {
        let mut state = self.state();
        let differences = differences(&state.own, others);
        let unlogged = differences.difference(&state.logged).cloned().collect();
        state.logged = differences;
        unlogged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(account: &str, requests: u32, creates: u32, in_flight: u32) -> AccountLimits {
        let limits = Limits {
            requests_per_minute: requests,
            creates_per_minute: creates,
            max_in_flight: in_flight,
        };
        [(AccountName::new(account), limits)].into()
    }

    #[test]
    fn the_least_limit_of_each_kind_holds_and_0_is_none() {
        let check = |replicas: &[AccountLimits], expected: AccountLimits| {
            assert_eq!(least(replicas), expected);
        };
        check(&[], AccountLimits::new());
        check(
            &[of("a", 100, 0, 8), of("a", 60, 5, 64), of("a", 0, 9, 64)],
            of("a", 60, 5, 8),
        );
        let mut both = of("a", 0, 0, 1);
        both.extend(of("b", 1, 1, 1));
        check(&[of("a", 0, 0, 1), of("b", 1, 1, 1)], both);
    }

    #[test]
    fn differences_of_accounts_that_both_have_are_told_once_while_they_last() {
        let own = of("a", 100, 0, 8);
        let (same, other) = (ReplicaId::new("same"), ReplicaId::new("other"));
        let mut theirs = of("a", 60, 0, 9);
        theirs.extend(of("b", 1, 1, 1));
        let configured = Configured::default();
        configured.own(own.clone());
        let unlogged = |others: &[(&ReplicaId, &AccountLimits)]| -> Vec<_> {
            let found = configured.unlogged(others.iter().copied()).into_iter();
            let facts = found.map(|one| (one.key, one.here, one.there));
            facts.collect()
        };
        let all = [("max_in_flight", 8, 9), ("requests_per_minute", 100, 60)];
        assert_eq!(unlogged(&[(&same, &own), (&other, &theirs)]), all);
        assert_eq!(unlogged(&[(&other, &theirs)]), [], "once");
        assert_eq!(unlogged(&[]), []);
        assert_eq!(unlogged(&[(&other, &theirs)]), all, "again");
    }
}
