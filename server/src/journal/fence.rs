//! Fences: the proof that a write was decided on by its account's owner of the moment.

use crate::purchase::AccountName;

/// The number of a take of an account's lease. Each take has a greater number than all before it, so a
/// process that goes on under an older one is refused by the store, however late its write arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The account.
    pub account: AccountName,
    /// The number of the take; 0 in a store in which nobody takes leases.
    pub number: u64,
}

impl Fence {
    /// The fence of an account in a store that has one process.
    pub fn alone(account: AccountName) -> Self {
        Self { account, number: 0 }
    }

    /// The name of the lease that entitles to the work that belongs to no account: retention, and words
    /// about accounts that nobody has. No account has this name.
    pub fn housekeeping() -> AccountName {
        AccountName::new("")
    }
}
