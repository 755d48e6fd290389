//! The nouns: a purchase, and every fact that can be known about it.
//!
//! No IO, nothing async, no clock: the maker of a value passes the time in.

mod decimal;
mod id;
mod moment;
mod status;
mod time;
mod unread_id;

pub use decimal::{Decimal, DecimalError};
pub use id::{AccountName, CallerName, IdError, PurchaseId, Revision};
pub use moment::Moment;
pub use status::{
    Amount, AmountOutcome, AmountRole, Attention, AttentionReason, BuyerAction, Cause, Deposit,
    Failure, FailureReason, Finality, Item, Redirect, State, Status, Transition,
};
pub use time::{TimeError, Timestamp};
pub use unread_id::UnreadId;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The provider's own name for a purchase, as an ordered list of named parts.
///
/// The parts' names and shapes belong to the provider's file; two references are the same purchase
/// if and only if all parts are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reference(BTreeMap<String, String>);

impl Reference {
    /// A reference of the given parts.
    pub fn new<const N: usize>(parts: [(&str, &str); N]) -> Self {
        Self(
            parts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// One part by its name; empty if the reference has no such part.
    pub fn part(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The one text by which a store compares references: equal texts, equal references.
    pub fn canonical(&self) -> String {
        // JSON escapes every separator that a part could contain.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// The inverse of [`Reference::canonical`]; `None` for any other text.
    pub fn from_canonical(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// A purchase at a provider, as this service tracks it: its constant facts, and the newest status.
#[derive(Debug, Clone, PartialEq)]
pub struct Purchase {
    /// Assigned by this service.
    pub id: PurchaseId,
    /// The account that it was made with.
    pub account: AccountName,
    /// The name of the provider behind that account.
    pub provider: Arc<str>,
    /// The caller that it belongs to.
    pub caller: CallerName,
    /// The caller's key; unique per caller.
    pub idempotency_key: Arc<str>,
    /// The caller's own annotations.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The time at which the intent was recorded.
    pub create_time: Timestamp,
    /// The newest committed status.
    pub status: Arc<Status>,
}

/// The freshness of the newest status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    /// The time of the provider's last readable answer.
    pub last_answer_time: Option<Timestamp>,
    /// The time of the next poll; `None` once it is no longer polled.
    pub next_poll_time: Option<Timestamp>,
    /// Polls in a row without a readable answer.
    pub consecutive_failures: u32,
    /// The time since which the provider's answers are held back, because their stamps are older than
    /// the newest applied one.
    pub held_back_since_time: Option<Timestamp>,
}

/// A text whose value must never be shown: its `Debug` is `[redacted]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value that must not be shown.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}
