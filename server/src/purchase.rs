//! The nouns: what a purchase is, and every fact that can be known about one.
//!
//! No IO, nothing async, no clock: whoever makes these values passes the time in.

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

    /// One part by its name; empty where the reference has no such part.
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

/// A purchase at a provider, as this service tracks it: what never changes, and the newest status.
#[derive(Debug, Clone, PartialEq)]
pub struct Purchase {
    /// Assigned by this service.
    pub id: PurchaseId,
    /// The account that it was made with.
    pub account: AccountName,
    /// The name of the provider behind that account.
    pub provider: Arc<str>,
    /// Whose it is.
    pub caller: CallerName,
    /// The caller's key; unique per caller.
    pub idempotency_key: Arc<str>,
    /// The caller's own annotations.
    pub labels: Arc<BTreeMap<String, String>>,
    /// When the intent was recorded.
    pub create_time: Timestamp,
    /// The newest committed status.
    pub status: Arc<Status>,
}

/// The freshness of the newest status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    /// The provider's last answer that could be read.
    pub last_answer_time: Option<Timestamp>,
    /// When it will be asked next; `None` once it is no longer polled.
    pub next_poll_time: Option<Timestamp>,
    /// Polls in a row without an answer that could be read.
    pub consecutive_failures: u32,
    /// Since when the provider's answers are held back, since their stamps are older than the one of
    /// the newest that was applied.
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
