//! Budgets of accounts, as a store keeps them for the processes that spend them.

use std::fmt;

use async_trait::async_trait;

use super::JournalError;
use crate::purchase::{AccountName, Moment};

/// The spending of an account's budget, as arrival times on the process's monotonic clock: requests go
/// at intervals, and each moves the arrival time of its kind on by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// The arrival time of requests of all kinds.
    pub requests: Moment,
    /// The arrival time of creates.
    pub creates: Moment,
}

/// Arrival times that an earlier process has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBudget {
    /// The arrival times.
    pub arrivals: Arrivals,
    /// The time at which they held: none lay further ahead of it than its pace reaches. A time that
    /// seems to lie further ahead was kept by a clock that was ahead, and is replaced.
    pub as_of: Moment,
}

impl KeptBudget {
    /// Arrival times of an earlier run of the machine, whose moments mean nothing now: spent as far as
    /// they can have been when this run began.
    pub fn before_this_boot() -> Self {
        let latest = Moment::from_millis(i64::MAX);
        Self {
            arrivals: Arrivals {
                requests: latest,
                creates: latest,
            },
            as_of: Moment::default(),
        }
    }
}

/// A wish to spend a part of an account's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taking {
    /// The arrival times that the process may come to already.
    pub taken: Arrivals,
    /// The arrival times that it has come to once it has spent what it wants.
    pub wanted: Arrivals,
    /// True if requests of all kinds have a limit.
    pub is_limited: bool,
}

/// The budgets of one store, as one of its processes spends them.
///
/// All methods are cancel-safe: a part whose future is dropped may be taken all the same, and is lost.
#[async_trait]
pub trait Budgets: fmt::Debug + Send + Sync {
    /// The arrival times that an earlier process has left. Nothing if there are none, or if they cannot
    /// be read.
    async fn left(&self, account: &AccountName) -> Option<KeptBudget>;

    /// Takes a part of an account's budget, and perhaps more than is wanted, so that not every request
    /// asks the store. Returns the arrival times that the process may come to.
    ///
    /// # Errors
    /// The store is away. It may have given the part all the same.
    async fn take(&self, account: &AccountName, taking: Taking) -> Result<Arrivals, JournalError>;
}
