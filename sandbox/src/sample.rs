//! One sample for each provider: an order, its reference, and the usual answers about both.
//!
//! Every test of all providers takes its orders and answers from here, so that a provider is
//! described once. A trial holds the answers against the simulated provider's own.

use jiff::Timestamp;
use serde_json::Value;
use tillwatch::proto::v1::{ProviderReference, create_purchase_request::Order};

use crate::scenario::Scenario;

/// The wishes for a sample.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// The way that the purchase goes at the simulated provider.
    pub scenario: Scenario,
    /// The time of the order, from which its own times are counted.
    pub now: Timestamp,
    /// A text in the field by which orders are told apart here, which is [`Sample::mark_field`];
    /// `None` for the usual one.
    pub mark: Option<&'a str>,
    /// A text in each field whose content no store, log or error may show; empty for none.
    pub planted: &'a str,
}

impl<'a> Recipe<'a> {
    /// A purchase that is paid, ordered at a time.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            scenario: Scenario::Paid,
            now,
            mark: None,
            planted: "",
        }
    }

    /// With another scenario.
    #[must_use]
    pub fn going(self, scenario: Scenario) -> Self {
        Self { scenario, ..self }
    }

    /// With a mark.
    #[must_use]
    pub fn marked(self, mark: &'a str) -> Self {
        Self {
            mark: Some(mark),
            ..self
        }
    }

    /// With a text in each field whose content may show nowhere.
    #[must_use]
    pub fn planted(self, planted: &'a str) -> Self {
        Self { planted, ..self }
    }

    /// The usual content of a field, or the planted text.
    pub(crate) fn text(&self, usual: &str) -> String {
        if self.planted.is_empty() {
            usual.to_owned()
        } else {
            self.planted.to_owned()
        }
    }

    /// The magic words that choose the scenario in a text, and the planted text.
    pub(crate) fn note(&self) -> String {
        let note = format!("sandbox:{} {}", self.scenario.name(), self.planted);
        note.trim_end().to_owned()
    }

    /// A time so many minutes after the order, without a fraction.
    pub(crate) fn minutes(&self, minutes: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp {
            seconds: self.now.as_second().saturating_add(minutes * 60),
            nanos: 0,
        })
    }
}

/// Everything about a provider that is the same in every test of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// An order that the provider takes.
    pub order: Order,
    /// Orders of the other kinds that the provider takes, one of each.
    pub other_orders: Vec<Order>,
    /// The order's field that chooses the scenario, as the service names it.
    pub scenario_field: &'static str,
    /// The field of the provider's own request that holds the mark.
    pub mark_field: &'static str,
    /// The reference that `accepted` gives, as a caller names it. It is that of the recorded answers in
    /// `tests/fixtures`.
    pub reference: ProviderReference,
    /// An answer to a create that names the purchase: status and body.
    pub accepted: (u16, Value),
    /// An answer by which the provider will not have the order.
    pub refused: (u16, Value),
    /// The provider's words in `refused`.
    pub refusal: &'static str,
    /// An answer to the look-up of an order or a reference that the provider does not know.
    pub missing: (u16, Value),
    /// An answer to a read of the purchase of `reference`, in its first word.
    pub shown: (u16, Value),
}
