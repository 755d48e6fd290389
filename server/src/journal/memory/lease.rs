//! The leases of a store in memory.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;

use super::MemoryJournal;
use crate::{
    clock::Clock,
    journal::{
        Fence, JournalError, LEASE_LASTS, Lease, Limits, Look, Ownership, Replica, ReplicaId,
    },
    purchase::{AccountName, Timestamp},
};

/// The leases of all accounts, and the replicas.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: BTreeMap<AccountName, Held>,
    replicas: BTreeMap<ReplicaId, Life>,
}

#[derive(Debug)]
struct Held {
    owner: Option<ReplicaId>,
    fence: u64,
    beat: u64,
    expires: Timestamp,
}

#[derive(Debug, Default)]
struct Life {
    beat: u64,
    is_leaving: bool,
    limits: BTreeMap<AccountName, Limits>,
}

impl Held {
    fn is(&self, fence: u64) -> bool {
        self.owner.is_some() && self.fence == fence
    }

    fn shown(&self, account: &AccountName, now: Timestamp) -> Lease {
        Lease {
            account: account.clone(),
            owner: self.owner.clone(),
            fence: self.fence,
            beat: self.beat,
            has_expired: self.expires <= now,
        }
    }
}

impl Leases {
    /// True if a write with this fence may be made.
    pub(super) fn admit(&self, fence: Option<&Fence>) -> bool {
        fence.is_none_or(|fence| match self.leases.get(&fence.account) {
            Some(held) => held.is(fence.number),
            None => fence.number == 0,
        })
    }

    /// The owner of an account, and the number of the lease's last take.
    pub(super) fn owner(&self, account: &AccountName) -> (Option<ReplicaId>, u64) {
        let held = self.leases.get(account);
        held.map_or((None, 0), |held| (held.owner.clone(), held.fence))
    }

    fn life(&mut self, replica: &ReplicaId) -> &mut Life {
        self.replicas.entry(replica.clone()).or_default()
    }

    fn look(&mut self, replica: &ReplicaId, renewed: &[Fence], now: Timestamp) -> Look {
        self.life(replica).beat += 1;
        for fence in renewed {
            let held = self.leases.get_mut(&fence.account);
            if let Some(held) = held.filter(|held| held.is(fence.number)) {
                held.beat += 1;
                held.expires = now.plus(LEASE_LASTS);
            }
        }
        let shown = |(id, life): (&ReplicaId, &Life)| Replica {
            id: id.clone(),
            beat: life.beat,
            is_leaving: life.is_leaving,
            limits: life.limits.clone(),
        };
        let leases = self.leases.iter();
        Look {
            replicas: self.replicas.iter().map(shown).collect(),
            leases: leases
                .map(|(account, held)| held.shown(account, now))
                .collect(),
            time: Some(now),
        }
    }

    fn take(
        &mut self,
        replica: &ReplicaId,
        account: &AccountName,
        seen: Option<&Lease>,
        now: Timestamp,
    ) -> Option<Fence> {
        let known = self.leases.get(account);
        let is_as_seen = match (known, seen) {
            (None, None) => true,
            (Some(held), Some(seen)) => held.fence == seen.fence && held.beat == seen.beat,
            _ => false,
        };
        if !is_as_seen {
            return None;
        }
        let number = known.map_or(0, |held| held.fence) + 1;
        let held = Held {
            owner: Some(replica.clone()),
            fence: number,
            beat: 0,
            expires: now.plus(LEASE_LASTS),
        };
        self.leases.insert(account.clone(), held);
        Some(Fence {
            account: account.clone(),
            number,
        })
    }

    fn release(&mut self, fence: &Fence) {
        let held = self.leases.get_mut(&fence.account);
        if let Some(held) = held.filter(|held| held.is(fence.number)) {
            held.owner = None;
        }
    }
}

/// The leases of a store in memory, as one of its openings uses them.
pub struct MemoryOwnership {
    journal: MemoryJournal,
    /// The store's clock.
    clock: Clock,
    replica: ReplicaId,
}

impl fmt::Debug for MemoryOwnership {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryOwnership")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

impl MemoryOwnership {
    /// The leases of this journal's store for the process with this name, by the store's clock. They are
    /// away while commits fail.
    pub fn new(journal: &MemoryJournal, clock: &Clock, replica: &str) -> Self {
        Self {
            journal: journal.of_same_process(),
            clock: clock.clone(),
            replica: ReplicaId::new(replica),
        }
    }

    async fn with<T>(
        &self,
        act: impl FnOnce(&mut Leases, Timestamp) -> T,
    ) -> Result<T, JournalError> {
        let call = (self.journal).call(|state| act(&mut state.leases, self.clock.now()));
        call.await
    }
}

#[async_trait]
impl Ownership for MemoryOwnership {
    fn is_shared(&self) -> bool {
        true
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    async fn configure(&self, limits: &BTreeMap<AccountName, Limits>) -> Result<(), JournalError> {
        let configured = self.with(|leases, _| {
            leases.life(&self.replica).limits.clone_from(limits);
        });
        configured.await
    }

    async fn look(&self, renewed: &[Fence]) -> Result<Look, JournalError> {
        self.with(|leases, now| leases.look(&self.replica, renewed, now))
            .await
    }

    async fn take(
        &self,
        account: &AccountName,
        seen: Option<&Lease>,
    ) -> Result<Option<Fence>, JournalError> {
        self.with(|leases, now| leases.take(&self.replica, account, seen, now))
            .await
    }

    async fn release(&self, fence: &Fence) -> Result<(), JournalError> {
        self.with(|leases, _| leases.release(fence)).await
    }

    async fn leave(&self) -> Result<(), JournalError> {
        let left = self.with(|leases, _| {
            leases.life(&self.replica).is_leaving = true;
        });
        left.await
    }
}
