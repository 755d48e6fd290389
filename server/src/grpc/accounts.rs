//! An account as its callers see it.

use tillwatch_proto::v1 as message;

use super::Service;
use crate::{account::Account, exchange::AccountHealth};

impl Service {
    /// An account with its health, as callers see it.
    pub(super) fn account_message(&self, account: &Account) -> message::Account {
        let view = self.rooms.tracker.view(account);
        let health = match view.health {
            AccountHealth::Ok => message::AccountHealth::Ok,
            AccountHealth::Degraded => message::AccountHealth::Degraded,
            AccountHealth::Unauthorized => message::AccountHealth::Unauthorized,
        };
        message::Account {
            name: account.name.to_string(),
            provider: account.provider().row().name.to_owned(),
            health: health.into(),
            note: view.note,
            open_purchases: view.open_purchases,
            requests_per_minute: view.requests_per_minute,
            requests_last_minute: view.requests_last_minute,
        }
    }
}
