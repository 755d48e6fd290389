//! The ownership, the budgets and the board of a store that has one process.

mod board;
mod budgets;

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Fence, JournalError, Lease, Limits, Look, Ownership, ReplicaId};
use crate::purchase::AccountName;
pub use board::AloneBoard;
pub use budgets::AloneBudgets;
pub(super) use budgets::{of_text, text_of};

/// The one process of a store. It owns each account as soon as it asks, for as long as it lives.
#[derive(Debug)]
pub struct Alone {
    replica: ReplicaId,
}

impl Default for Alone {
    fn default() -> Self {
        Self {
            replica: ReplicaId::new("alone"),
        }
    }
}

#[async_trait]
impl Ownership for Alone {
    fn is_shared(&self) -> bool {
        false
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    async fn configure(&self, _limits: &BTreeMap<AccountName, Limits>) -> Result<(), JournalError> {
        Ok(())
    }

    async fn look(&self, _renewed: &[Fence]) -> Result<Look, JournalError> {
        Ok(Look::default())
    }

    async fn take(
        &self,
        account: &AccountName,
        _seen: Option<&Lease>,
    ) -> Result<Option<Fence>, JournalError> {
        Ok(Some(Fence::alone(account.clone())))
    }

    async fn release(&self, _fence: &Fence) -> Result<(), JournalError> {
        Ok(())
    }

    async fn leave(&self) -> Result<(), JournalError> {
        Ok(())
    }
}
