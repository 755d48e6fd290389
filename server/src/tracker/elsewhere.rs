//! Purchases whose accounts other replicas own: their freshness, refreshes of them, and how accounts are
//! shown. The owners' words come over the exchange.

use std::time::Duration;

use super::{Backlog, Tracker};
use crate::{
    account::{Account, Health, Refusal, Snapshot, Unheard},
    exchange::{AccountHealth, AccountView, Exchange, Passed},
    journal::{JournalError, Outcome},
    observation::Trouble,
    purchase::{Freshness, Moment, Purchase},
};

/// The lateness of polls from which an account's note mentions it.
const LATE_TO_SAY: Duration = Duration::from_secs(5);

impl Tracker {
    /// Takes the exchange with the other replicas: their watchers count, and owners are asked. Only the first
    /// call has an effect.
    pub fn talk_over(&self, exchange: Exchange) {
        let _ = self.0.exchange.set(exchange);
    }

    pub(super) fn freshness_elsewhere(&self, purchase: &Purchase) -> Freshness {
        let told = self.0.exchange.get();
        let told = told.and_then(|exchange| exchange.freshness(purchase));
        told.unwrap_or_default()
    }

    /// Lets the owner of a purchase's account ask the provider now, and returns its outcome, once what was
    /// said is committed; `None` if this process owns the account by now. Wishes about one purchase that
    /// overlap share an answer.
    ///
    /// # Errors
    /// See [`Unheard`]; [`Unheard::NotOwned`] at once if no living replica owns the account, and after a
    /// minute without an answer.
    pub async fn pass_on(&self, purchase: &Purchase) -> Option<Result<(), Unheard>> {
        let exchange = self.0.exchange.get();
        let is_elsewhere = self.0.tenures.is_elsewhere(&purchase.account);
        let Some(exchange) = exchange.filter(|_| is_elsewhere) else {
            return Some(Err(Unheard::NotOwned));
        };
        let passed = tokio::select! {
            // The same seed is the same run.
            biased;
            () = self.0.stop.cancelled() => return Some(Err(Unheard::Draining)),
            passed = exchange.refresh(purchase) => passed,
        };
        match passed {
            Passed::Ended { outcome, retry_at } => Some(result(outcome, retry_at)),
            Passed::Here => None,
            Passed::Unanswered => Some(Err(Unheard::NotOwned)),
        }
    }

    /// An account as its callers may see it: as its owner has shown it, if that is another replica.
    pub fn view(&self, account: &Account) -> AccountView {
        let is_here = self.0.lanes.get(&account.name).is_some();
        let exchange = self.0.exchange.get().filter(|_| !is_here);
        let shown = exchange.and_then(|exchange| exchange.account(&account.name));
        shown.unwrap_or_else(|| self.view_here(account))
    }

    /// An account as this process knows it.
    pub fn view_here(&self, account: &Account) -> AccountView {
        let snapshot = account.snapshot();
        let open = self.open_purchases(&account.name);
        AccountView {
            health: match snapshot.health {
                Health::Ok => AccountHealth::Ok,
                Health::Degraded => AccountHealth::Degraded,
                Health::Unauthorized => AccountHealth::Unauthorized,
            },
            note: note(&snapshot, self.backlog(&account.name)),
            open_purchases: u32::try_from(open).unwrap_or(u32::MAX),
            requests_per_minute: snapshot.requests_per_minute,
            requests_last_minute: snapshot.requests_last_minute,
        }
    }
}

/// The reasons, in words, why an account's news are late: the last failure, the breaker, late polls.
fn note(snapshot: &Snapshot, backlog: Backlog) -> String {
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

/// The end of a refresh, as another replica hears of it.
pub fn ended(result: &Result<(), Unheard>) -> (Outcome, Option<Moment>) {
    let Err(unheard) = result else {
        return (Outcome::Heard, None);
    };
    let outcome = match unheard {
        Unheard::AccountMissing => Outcome::AccountMissing,
        // Another owner may answer soon.
        Unheard::NotOwned | Unheard::Draining => Outcome::NotOwned,
        Unheard::Refused(Refusal::Throttled { .. } | Refusal::Busy { .. })
        | Unheard::Trouble {
            trouble: Trouble::Throttled { .. },
            ..
        } => Outcome::Throttled,
        Unheard::Refused(Refusal::Unauthorized { .. })
        | Unheard::Trouble {
            trouble: Trouble::Unauthorized,
            ..
        } => Outcome::Unauthorized,
        Unheard::Refused(Refusal::Unreachable { .. })
        | Unheard::Trouble {
            trouble: Trouble::Unreachable { .. } | Trouble::Nowhere,
            ..
        } => Outcome::Unreachable,
        Unheard::Trouble {
            trouble: Trouble::Unreadable { .. },
            ..
        } => Outcome::Unreadable,
        Unheard::Refused(Refusal::BudgetUnkept { .. }) | Unheard::Journal(_) => {
            Outcome::JournalAway
        }
    };
    (outcome, unheard.retry_at())
}

/// The end of a refresh, as another replica has told it.
pub(super) fn result(outcome: Outcome, retry_at: Option<Moment>) -> Result<(), Unheard> {
    let trouble = match outcome {
        Outcome::Heard => return Ok(()),
        Outcome::AccountMissing => return Err(Unheard::AccountMissing),
        Outcome::NotOwned => return Err(Unheard::NotOwned),
        Outcome::JournalAway => {
            let error = JournalError::unavailable("the account's owner could not use it");
            return Err(Unheard::Journal(error));
        }
        Outcome::Throttled => Trouble::Throttled { retry_after: None },
        Outcome::Unauthorized => Trouble::Unauthorized,
        Outcome::Unreachable => Trouble::Unreachable {
            sent: true,
            why: "the account's owner has not reached it".to_owned(),
        },
        Outcome::Unreadable => Trouble::unreadable("the account's owner could not read it"),
    };
    Err(Unheard::Trouble { trouble, retry_at })
}
