//! One order for each provider, and the answers about it.

use tillwatch_proto::v1::ProviderReference;
use tillwatch_sandbox::{Recipe, Sample, Scenario, simulated};

use super::*;

pub(super) const UUID: &str = "0b7a1c9e-1111-4222-8333-000000000001";
pub(super) const IDENTIFIER: &str = "7b22c0ffee";
pub(super) const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// A text that no store may hold.
pub(super) const CANARY: &str = "canary-of-the-order";

/// The end of a test that treats a provider by itself: a new provider needs an arm there.
pub(super) fn without_sample(provider: &str) -> ! {
    panic!("{provider} has no arm in this test");
}

fn sample(provider: &str, scenario: Scenario) -> Sample {
    let recipe = Recipe::at(jiff::Timestamp::UNIX_EPOCH).going(scenario);
    let recipe = match provider {
        "masumi" => recipe.marked(IDENTIFIER),
        "inabit" => recipe.marked("order-1"),
        _every_other => recipe,
    };
    let mut sample = (simulated(provider).unwrap().sample)(&recipe.planted(CANARY));
    if let Order::Masumi(order) = &mut sample.order {
        // The tests that are about a time set it.
        order.pay_by_time = None;
        order.submit_result_time = None;
        order.unlock_time = None;
        order.external_dispute_unlock_time = None;
    }
    sample
}

fn reply((status, body): (u16, Value)) -> Reply {
    Reply::Json(status, body)
}

pub(super) fn order(provider: &str) -> Order {
    sample(provider, Scenario::Paid).order
}

/// The same order with another value in one field, and that field's name.
pub(super) fn other(provider: &str) -> (Order, &'static str) {
    let other = sample(provider, Scenario::Declined);
    (other.order, other.scenario_field)
}

/// As much of Masumi's purchase as names it.
pub(super) fn masumi_row(hash: &str) -> Value {
    let (_, body) = sample("masumi", Scenario::Paid).accepted;
    let mut row = body["data"].clone();
    row["inputHash"] = json!(hash);
    row
}

/// An answer to a create that names the purchase.
pub(super) fn accepted(provider: &str) -> Reply {
    reply(sample(provider, Scenario::Paid).accepted)
}

/// The state after [`accepted`].
pub(super) fn accepted_state(provider: &str) -> &'static str {
    match provider {
        "phygitals" => "PROCESSING",
        _every_other => "CREATED",
    }
}

/// An answer by which the provider will not have this order.
pub(super) fn refused(provider: &str) -> Reply {
    reply(sample(provider, Scenario::Paid).refused)
}

/// The provider's words in [`refused`].
pub(super) fn refusal(provider: &str) -> &'static str {
    sample(provider, Scenario::Paid).refusal
}

/// An answer to a read by which the provider does not know the purchase.
pub(super) fn missing(provider: &str) -> Reply {
    reply(sample(provider, Scenario::Paid).missing)
}

/// The reference that [`accepted`] gives, as a caller names it.
pub(super) fn reference(provider: &str) -> ProviderReference {
    sample(provider, Scenario::Paid).reference
}

/// An answer to a status read about the purchase of [`reference`].
pub(super) fn shown(provider: &str) -> Reply {
    reply(sample(provider, Scenario::Paid).shown)
}
