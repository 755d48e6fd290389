//! The demo's purchases: their scenarios, and the longest of their lives.

use std::time::Duration;

use jiff::Timestamp;
use tillwatch::proto::v1::create_purchase_request::Order;
use tillwatch_sandbox::{Recipe, Scenario, simulated};

/// The scenarios that come to an end at all five providers.
pub(crate) const SCENARIOS: [Scenario; 8] = [
    Scenario::Paid,
    Scenario::Declined,
    Scenario::Refunded,
    Scenario::Disputed,
    Scenario::Slow,
    Scenario::Flaky,
    Scenario::Unknown,
    Scenario::Throttled,
];

/// The longest of those lives as written, and that of the slow one.
const LIFE: Duration = Duration::from_secs(20);
const LIFE_SLOW: Duration = Duration::from_secs(160);

/// The providers whose purchase is not simply paid if nobody chose: a refund, and a review.
const OTHERWISE: [(&str, Scenario); 2] =
    [("masumi", Scenario::Refunded), ("devdraft", Scenario::Held)];

/// The scenario that is shown.
pub(crate) fn scenario(chosen: Option<Scenario>, provider: &str) -> Scenario {
    let other = OTHERWISE.iter().find(|(name, _)| *name == provider);
    let usual = other.map_or(Scenario::Paid, |(_, scenario)| *scenario);
    chosen.unwrap_or(usual)
}

/// The longest that any of the five lives takes at speed 1.
pub(crate) fn longest_life(chosen: Option<Scenario>) -> Duration {
    match chosen {
        Some(Scenario::Slow) => LIFE_SLOW,
        _ => LIFE,
    }
}

/// The order for a provider, with a mark that is no other order's; `None` for a name that is none of the
/// five.
pub(crate) fn order(
    provider: &str,
    scenario: Scenario,
    mark: &str,
    now: Timestamp,
) -> Option<Order> {
    let sample = simulated(provider)?.sample;
    Some(sample(&Recipe::at(now).going(scenario).marked(mark)).order)
}

#[cfg(test)]
mod tests {
    use tillwatch_sandbox::{PROVIDERS, Sandbox};

    use super::*;

    #[test]
    fn each_provider_has_an_order_and_its_life_ends_within_the_time_given() {
        for provider in PROVIDERS {
            for chosen in SCENARIOS.into_iter().map(Some).chain([None]) {
                let scenario = scenario(chosen, provider);
                assert!(order(provider, scenario, "a mark", Timestamp::UNIX_EPOCH).is_some());
                assert!(Sandbox::walk(provider, scenario).len() > 1);
                assert!(longest_life(chosen) >= LIFE);
            }
        }
        assert!(order("nobody", Scenario::Paid, "a mark", Timestamp::UNIX_EPOCH).is_none());
    }
}
