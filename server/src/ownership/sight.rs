//! The knowledge of leases and replicas that a replica has by looking: pure. It judges by change and by
//! its own monotonic clock, so that no time of day, of whatever machine, moves a lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{limits::AccountLimits, share::Free};
use crate::{
    journal::{LEASE_LASTS, Lease, Look, Replica, ReplicaId},
    purchase::{AccountName, Moment},
};

/// A replica whose beat has not moved for so long is dead.
const ALIVE_FOR: Duration = Duration::from_secs(6);
/// After a gap between two looks that is longer, all waits begin anew: everybody had time to renew, and
/// nobody was looking.
const GAP_MAX: Duration = Duration::from_millis(1_500);
/// A living owner renews its leases within this time, unless its store is slow. The store's clock alone is
/// not believed: it may have been set forward since the last renewal.
const RENEWS_WITHIN: Duration = Duration::from_secs(2);

/// The knowledge of one replica.
#[derive(Debug, Default)]
pub(super) struct Sight {
    first: Option<Moment>,
    last: Option<Moment>,
    /// Each lease, and since when it has stayed the same.
    leases: BTreeMap<AccountName, (Lease, Moment)>,
    replicas: BTreeMap<ReplicaId, Seen>,
}

/// A replica, as it was seen last.
#[derive(Debug)]
struct Seen {
    replica: Replica,
    /// Its beat has stayed the same since then.
    since: Moment,
    /// True if its beat was seen to move: it has lived beside this replica.
    has_moved: bool,
}

impl Seen {
    fn lives(&self, now: Moment) -> bool {
        now.since(self.since) < ALIVE_FOR
    }
}

impl Sight {
    /// Takes a look in that was begun then.
    pub(super) fn look(&mut self, look: Look, now: Moment) {
        let gap = self.last.is_none_or(|last| now.since(last) > GAP_MAX);
        let leases = std::mem::take(&mut self.leases);
        for lease in look.leases {
            let known = leases.get(&lease.account).filter(|_| !gap);
            let known = known.filter(|(known, _)| is_unchanged(known, &lease));
            let since = known.map_or(now, |(_, since)| *since);
            self.leases.insert(lease.account.clone(), (lease, since));
        }
        let replicas = std::mem::take(&mut self.replicas);
        for replica in look.replicas {
            let known = replicas.get(&replica.id);
            let is_same = |known: &&Seen| known.replica.beat == replica.beat;
            let seen = Seen {
                since: known
                    .filter(|_| !gap)
                    .filter(is_same)
                    .map_or(now, |known| known.since),
                has_moved: known.is_some_and(|known| known.has_moved || !is_same(&known)),
                replica,
            };
            self.replicas.insert(seen.replica.id.clone(), seen);
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// The replicas that live and stay.
    pub(super) fn living(&self, now: Moment) -> BTreeSet<ReplicaId> {
        (self.replicas.values())
            .filter(|seen| !seen.replica.is_leaving && seen.lives(now))
            .map(|seen| seen.replica.id.clone())
            .collect()
    }

    /// An account's lease as it was seen last; `None` if it was never taken.
    pub(super) fn lease(&self, account: &AccountName) -> Option<&Lease> {
        self.leases.get(account).map(|(lease, _)| lease)
    }

    /// The owners of accounts, the dead among them.
    pub(super) fn owners(&self) -> BTreeMap<AccountName, ReplicaId> {
        let owned = |(account, (lease, _)): (&AccountName, &(Lease, Moment))| {
            Some((account.clone(), lease.owner.clone()?))
        };
        self.leases.iter().filter_map(owned).collect()
    }

    /// The accounts that other living replicas own, those that are leaving among them.
    pub(super) fn owned_by_others(&self, me: &ReplicaId, now: Moment) -> BTreeSet<AccountName> {
        let lives = |replica: &ReplicaId| {
            let known = self.replicas.get(replica);
            known.is_some_and(|seen| seen.lives(now))
        };
        let others = self.owners().into_iter();
        let others = others.filter(|(_, owner)| owner != me && lives(owner));
        others.map(|(account, _)| account).collect()
    }

    /// The limits of the other living replicas, those that are leaving among them.
    pub(super) fn limits_of_others(
        &self,
        me: &ReplicaId,
        now: Moment,
    ) -> impl Iterator<Item = &AccountLimits> {
        let others = self.replicas.values();
        let others = others.filter(move |seen| seen.replica.id != *me && seen.lives(now));
        others.map(|seen| &seen.replica.limits)
    }

    /// The same of those that have been seen to live, with their names.
    pub(super) fn limits_of_neighbours(
        &self,
        me: &ReplicaId,
        now: Moment,
    ) -> impl Iterator<Item = (&ReplicaId, &AccountLimits)> {
        let lives = move |seen: &&Seen| seen.has_moved && seen.lives(now);
        let others = self.replicas.values().filter(lives);
        let others = others.filter(move |seen| seen.replica.id != *me);
        others.map(|seen| (&seen.replica.id, &seen.replica.limits))
    }

    /// The account as one that may be taken, if it may: nobody has it, or its owner is gone, since the lease
    /// has stayed the same for as long as it lasts. Its owner trusts it for a second less.
    pub(super) fn free(&self, account: &AccountName, now: Moment) -> Option<Free> {
        let first = self.first?;
        let is_new = now.since(first) < LEASE_LASTS;
        let since = match self.leases.get(account) {
            None => first,
            Some((lease, since)) => {
                let is_stale = now.since(*since) >= LEASE_LASTS;
                // Nobody could see a lease stay the same for long if all replicas began just now.
                let is_quiet = now.since(*since) >= RENEWS_WITHIN;
                let has_expired = is_new && lease.has_expired && is_quiet;
                let is_free = lease.owner.is_none() || is_stale || has_expired;
                is_free.then_some(*since)?
            }
        };
        Some(Free {
            account: account.clone(),
            is_left: now.since(since) >= 2 * LEASE_LASTS,
        })
    }
}

fn is_unchanged(known: &Lease, lease: &Lease) -> bool {
    let facts = |lease: &Lease| (lease.owner.clone(), lease.fence, lease.beat);
    facts(known) == facts(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Moment {
        Moment::from_millis(millis)
    }

    fn account() -> AccountName {
        AccountName::new("shop")
    }

    fn lease(owner: Option<&str>, beat: u64, has_expired: bool) -> Lease {
        Lease {
            account: account(),
            owner: owner.map(ReplicaId::new),
            fence: 1,
            beat,
            has_expired,
        }
    }

    fn look(leases: Vec<Lease>, beats: &[(&str, u64, bool)]) -> Look {
        let replica = |(name, beat, is_leaving): &(&str, u64, bool)| Replica {
            id: ReplicaId::new(name),
            beat: *beat,
            is_leaving: *is_leaving,
            limits: BTreeMap::new(),
        };
        Look {
            replicas: beats.iter().map(replica).collect(),
            leases,
            time: None,
        }
    }

    /// Looks each half second, from `from` to `to`, and always sees this.
    fn sees(sight: &mut Sight, (from, to): (i64, i64), seen: &Look) {
        for millis in (from..=to).step_by(500) {
            sight.look(seen.clone(), at(millis));
        }
    }

    fn is_free(sight: &Sight, millis: i64) -> bool {
        sight.free(&account(), at(millis)).is_some()
    }

    #[test]
    fn a_lease_is_free_once_it_has_stayed_the_same_for_as_long_as_it_lasts() {
        let mut sight = Sight::default();
        assert!(!is_free(&sight, 0), "nobody has looked");
        let seen = look(vec![lease(Some("a"), 7, false)], &[]);
        sees(&mut sight, (10_000, 14_500), &seen);
        assert!(!is_free(&sight, 14_999));
        assert!(is_free(&sight, 15_000));
        let renewed = look(vec![lease(Some("a"), 8, false)], &[]);
        sees(&mut sight, (15_000, 15_000), &renewed);
        assert!(!is_free(&sight, 15_000));
        sees(&mut sight, (15_500, 20_000), &renewed);
        assert!(is_free(&sight, 20_000));
    }

    #[test]
    fn a_gap_between_looks_lets_all_waits_begin_anew() {
        for (gap, expected) in [(1_500, true), (1_501, false)] {
            let mut sight = Sight::default();
            let seen = look(vec![lease(Some("a"), 7, false)], &[]);
            sees(&mut sight, (0, 4_000), &seen);
            sight.look(seen.clone(), at(4_000 + gap));
            assert_eq!(is_free(&sight, 5_600), expected, "{gap}");
        }
    }

    #[test]
    fn what_nobody_has_is_free_at_once_and_left_over_after_a_while() {
        for leases in [vec![], vec![lease(None, 7, false)]] {
            let mut sight = Sight::default();
            let seen = look(leases, &[]);
            sees(&mut sight, (0, 10_000), &seen);
            let left = |millis| sight.free(&account(), at(millis)).unwrap().is_left;
            assert!(!left(9_999) && left(10_000));
        }
    }

    #[test]
    fn the_stores_clock_counts_in_the_first_seconds_of_a_replica_alone() {
        let seen = |beat| look(vec![lease(Some("a"), beat, true)], &[]);
        let mut sight = Sight::default();
        sees(&mut sight, (0, 1_500), &seen(1));
        assert!(!is_free(&sight, 1_999), "its owner may be about to renew");
        assert!(is_free(&sight, 2_000), "its owner is gone for long");
        sees(&mut sight, (2_000, 4_500), &seen(1));
        sight.look(seen(2), at(5_000));
        assert!(
            !is_free(&sight, 5_000),
            "a clock that was set moves nothing"
        );
    }

    #[test]
    fn an_account_is_others_while_its_owner_lives() {
        let mut sight = Sight::default();
        let me = ReplicaId::new("b");
        let of = |sight: &Sight, millis| sight.owned_by_others(&me, at(millis)).len();
        for (owner, expected) in [(None, 0), (Some("b"), 0), (Some("a"), 1)] {
            let seen = look(
                vec![lease(owner, 7, false)],
                &[("a", 1, true), ("b", 1, false)],
            );
            sight.look(seen, at(0));
            assert_eq!(of(&sight, 0), expected, "{owner:?}");
        }
        assert_eq!((of(&sight, 5_999), of(&sight, 6_000)), (1, 0));
        sight.look(look(vec![lease(Some("c"), 7, false)], &[]), at(6_000));
        assert_eq!(of(&sight, 6_000), 0, "nobody has seen its owner");
    }

    #[test]
    fn a_replica_lives_while_its_beat_moves_and_is_not_counted_while_it_leaves() {
        let mut sight = Sight::default();
        let living = |sight: &Sight, millis| -> Vec<String> {
            let living = sight.living(at(millis)).into_iter();
            living.map(|one| one.as_str().to_owned()).collect()
        };
        for round in 0..=12 {
            let beats = [("a", round, false), ("b", 7, false), ("c", round, true)];
            let millis = i64::try_from(round).unwrap() * 500;
            sight.look(look(vec![], &beats), at(millis));
            let expected: &[&str] = if millis < 6_000 { &["a", "b"] } else { &["a"] };
            assert_eq!(living(&sight, millis), expected, "{millis}");
        }
    }
}
