//! Leases of accounts, as a store keeps them for the processes that share it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Fence, JournalError};
use crate::purchase::{AccountName, Timestamp};

/// The time that a lease lasts after its last renewal.
pub const LEASE_LASTS: Duration = Duration::from_secs(5);

/// One of the processes that share a store, by a name that no other has or ever had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// The replica with this name.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A replica, as the store shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name.
    pub id: ReplicaId,
    /// The number of its looks.
    pub beat: u64,
    /// True if it is about to end, and takes no more accounts.
    pub is_leaving: bool,
    /// The limits by which it is configured; none if it has not told them.
    pub limits: BTreeMap<AccountName, Limits>,
}

/// The limits of an account by which a process is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute; 0 is unlimited.
    pub requests_per_minute: u32,
    /// Creates per minute; 0 is unlimited.
    pub creates_per_minute: u32,
    /// Requests in flight, long polls apart.
    pub max_in_flight: u32,
}

impl Default for Limits {
    /// No limits.
    fn default() -> Self {
        Self {
            requests_per_minute: 0,
            creates_per_minute: 0,
            max_in_flight: u32::MAX,
        }
    }
}

impl Limits {
    /// The lower one of each limit.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        let lower = |one: u32, other: u32| match (one, other) {
            (0, limit) | (limit, 0) => limit,
            (one, other) => one.min(other),
        };
        Self {
            requests_per_minute: lower(self.requests_per_minute, other.requests_per_minute),
            creates_per_minute: lower(self.creates_per_minute, other.creates_per_minute),
            max_in_flight: self.max_in_flight.min(other.max_in_flight),
        }
    }

    /// The limits by the keys of their settings.
    pub fn named(self) -> [(&'static str, u32); 3] {
        [
            ("requests_per_minute", self.requests_per_minute),
            ("creates_per_minute", self.creates_per_minute),
            ("max_in_flight", self.max_in_flight),
        ]
    }
}

/// An account's lease, as the store shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The account.
    pub account: AccountName,
    /// Its owner; `None` once it is released.
    pub owner: Option<ReplicaId>,
    /// The number of its takes.
    pub fence: u64,
    /// The number of its renewals.
    pub beat: u64,
    /// True if it was not renewed for as long as a lease lasts, by the store's clock.
    pub has_expired: bool,
}

/// All replicas and leases of a store at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// The replicas, the looking one among them.
    pub replicas: Vec<Replica>,
    /// The leases of all accounts that were ever taken.
    pub leases: Vec<Lease>,
    /// The time by the store's clock; `None` if the store has no clock of its own.
    pub time: Option<Timestamp>,
}

/// The leases of one store, as one of its processes uses them. The store judges nothing: whoever takes a
/// lease has judged that its owner is gone.
///
/// All methods are cancel-safe: whatever is dropped may still be done.
#[async_trait]
pub trait Ownership: fmt::Debug + Send + Sync {
    /// False in a store that has one process. Its leases last as long as the process, and nobody needs
    /// to look at them.
    fn is_shared(&self) -> bool;

    /// This process.
    fn replica(&self) -> &ReplicaId;

    /// Tells the other processes the limits by which this one is configured, in place of any before.
    ///
    /// # Errors
    /// The store is away. It may have told them all the same.
    async fn configure(&self, limits: &BTreeMap<AccountName, Limits>) -> Result<(), JournalError>;

    /// Tells that this replica lives, renews these leases as far as they are still held under these
    /// fences, and looks at everything.
    ///
    /// # Errors
    /// The store is away. It may have renewed all the same.
    async fn look(&self, renewed: &[Fence]) -> Result<Look, JournalError>;

    /// Takes a lease that is still as it was seen; `None` as seen stands for one that was never taken.
    /// Returns its fence; `None` if it is as seen no more. No write under an older fence is done
    /// afterwards.
    ///
    /// # Errors
    /// The store is away. It may have given the lease all the same.
    async fn take(
        &self,
        account: &AccountName,
        seen: Option<&Lease>,
    ) -> Result<Option<Fence>, JournalError>;

    /// Gives a lease back, so that another replica may take it at once. A lease that is held under this
    /// fence no more stays as it is.
    ///
    /// # Errors
    /// The store is away. It may have taken the lease back all the same.
    async fn release(&self, fence: &Fence) -> Result<(), JournalError>;

    /// Tells that this replica is about to end.
    ///
    /// # Errors
    /// The store is away.
    async fn leave(&self) -> Result<(), JournalError>;
}
