//! Orders and a reference of each provider that break no rule.

use tillwatch_proto::v1::{ProviderReference, create_purchase_request::Order};
use tillwatch_sandbox::{Recipe, Sample, simulated};

use super::fixture;

/// One order of each kind that the provider has.
pub(super) fn orders(provider: &str) -> Vec<Order> {
    let sample = sample(provider);
    [vec![sample.order], sample.other_orders].concat()
}

/// A reference as the fixtures have it.
pub(super) fn reference(provider: &str) -> ProviderReference {
    sample(provider).reference
}

fn sample(provider: &str) -> Sample {
    let now = jiff::Timestamp::from_millisecond(fixture::now().as_millis()).unwrap();
    (simulated(provider).unwrap().sample)(&Recipe::at(now))
}
