//! Orders for each provider, with the sandbox's magic values for what is to become of them.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use tillwatch_proto::v1::{CreatePurchaseRequest, create_purchase_request::Order};
use tillwatch_sandbox::{Recipe, Scenario, simulated};

use crate::house::account;

/// A request that orders something at a provider.
pub fn request(key: &str, provider: &str, scenario: Scenario) -> CreatePurchaseRequest {
    CreatePurchaseRequest {
        idempotency_key: key.to_owned(),
        account: account(provider),
        labels: HashMap::from([("key".to_owned(), key.to_owned())]),
        order: Some(order(provider, scenario)),
    }
}

/// An order that a provider takes.
pub fn order(provider: &str, scenario: Scenario) -> Order {
    planted(provider, scenario, "")
}

/// An order that a provider takes, with a text in each field whose content may show nowhere. Masumi's
/// has an identifier that no other has.
pub fn planted(provider: &str, scenario: Scenario, text: &str) -> Order {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let identifier = match provider {
        "masumi" => Some(format!(
            "TEST_blockchain_identifier_{:04}",
            COUNT.fetch_add(1, Ordering::Relaxed)
        )),
        _every_other => None,
    };
    let recipe = Recipe {
        mark: identifier.as_deref(),
        ..Recipe::at(Timestamp::now()).going(scenario).planted(text)
    };
    (simulated(provider).expect(provider).sample)(&recipe).order
}

/// A time from now on, without a fraction.
pub fn minutes_ahead(minutes: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: Timestamp::now().as_second() + minutes * 60,
        nanos: 0,
    }
}
