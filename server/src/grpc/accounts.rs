//! An account as its callers see it.

use std::time::Duration;

use tillwatch_proto::v1 as message;

use super::Service;
use crate::{
    account::{Account, Health, Snapshot},
    tracker::Backlog,
};

/// The lateness of polls from which an account's note mentions it.
const LATE_TO_SAY: Duration = Duration::from_secs(5);

impl Service {
    /// An account with its health, as callers see it.
    pub(super) fn account_message(&self, account: &Account) -> message::Account {
        let snapshot = account.snapshot();
        let health = match snapshot.health {
            Health::Ok => message::AccountHealth::Ok,
            Health::Degraded => message::AccountHealth::Degraded,
            Health::Unauthorized => message::AccountHealth::Unauthorized,
        };
        let open = self.rooms.tracker.open_purchases(&account.name);
        let backlog = self.rooms.tracker.backlog(&account.name);
        message::Account {
            name: account.name.to_string(),
            provider: account.provider().row().name.to_owned(),
            health: health.into(),
            note: account_note(&snapshot, backlog),
            open_purchases: u32::try_from(open).unwrap_or(u32::MAX),
            requests_per_minute: snapshot.requests_per_minute,
            requests_last_minute: snapshot.requests_last_minute,
        }
    }
}

/// The reasons, in words, why an account's news are late: the last failure, the breaker, late polls.
fn account_note(snapshot: &Snapshot, backlog: Backlog) -> String {
    let mut parts = Vec::new();
    if !snapshot.note.is_empty() {
        parts.push(snapshot.note.clone());
    }
    if snapshot.breaker_open {
        parts.push("the breaker is open".to_owned());
    }
    if backlog.late >= LATE_TO_SAY {
        let (due, late) = (backlog.due, backlog.late.as_secs());
        parts.push(format!("{due} due, late by {late} s"));
    }
    parts.join("; ")
}
