//! What the demo buys: one valid order per provider, whose magic value chooses the purchase's life.

use std::time::Duration;

use jiff::Timestamp;
use tillwatch::proto::v1::{
    CarbonOrder, DevdraftOrder, DevdraftStablecoinIntent, InabitOrder, MasumiOrder, PhygitalsOrder,
    create_purchase_request::Order, devdraft_order::Intent,
};
use tillwatch_sandbox::Scenario;

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

/// The order for a provider; `None` for a name that is none of the five.
pub(crate) fn order(provider: &str, scenario: Scenario, now: Timestamp) -> Option<Order> {
    let (mark, cents) = (format!("sandbox:{}", scenario.name()), scenario.cents());
    Some(match provider {
        "phygitals" => Order::Phygitals(PhygitalsOrder {
            claw_id: "CLaw111111111111111111111111111111111111111".to_owned(),
            amount: 1,
            currency: "usdc".to_owned(),
            chain: "solana".to_owned(),
            txs: vec!["AQIDBAUGBwg=".to_owned()],
            extra_data_json: serde_json::json!({ "note": mark }).to_string(),
            ..PhygitalsOrder::default()
        }),
        "masumi" => Order::Masumi(masumi(mark, now)),
        "inabit" => Order::Inabit(InabitOrder {
            title: "Order 3001".to_owned(),
            sub_title: "One espresso machine".to_owned(),
            site_name: "shop.example.test".to_owned(),
            fiat_amount: format!("25.{cents}"),
            fiat_currency: "USD".to_owned(),
            ..InabitOrder::default()
        }),
        "carbon" => Order::Carbon(CarbonOrder {
            contact_id: "ab5b0000-0000-4000-8000-000000000001".to_owned(),
            credit_debit_id: "0f610000-0000-4000-8000-000000000001".to_owned(),
            fiat_charge_amount: format!("49.{cents}"),
            cryptocurrency_symbol: "eth".to_owned(),
            receive_address: "0x0000000000000000000000000000000000000001".to_owned(),
            confirmation_url: "https://shop.example.test/confirm".to_owned(),
            success_redirect_url: "https://shop.example.test/done".to_owned(),
            error_redirect_url: "https://shop.example.test/error".to_owned(),
            ..CarbonOrder::default()
        }),
        "devdraft" => Order::Devdraft(DevdraftOrder {
            intent: Some(Intent::Stablecoin(DevdraftStablecoinIntent {
                source_currency: "usdc".to_owned(),
                source_network: "ethereum".to_owned(),
                destination_currency: "usdc".to_owned(),
                destination_network: "base".to_owned(),
                destination_address: "0x0000000000000000000000000000000000000001".to_owned(),
                amount: format!("100.{cents}"),
            })),
            customer: None,
        }),
        // No such provider is simulated.
        _unknown => return None,
    })
}

fn masumi(metadata: String, now: Timestamp) -> MasumiOrder {
    let in_hours = |hours: i64| {
        Some(prost_types::Timestamp {
            seconds: now.as_second().saturating_add(hours.saturating_mul(3_600)),
            nanos: 0,
        })
    };
    MasumiOrder {
        blockchain_identifier: "c0ffee".repeat(8),
        network: "Preprod".to_owned(),
        input_hash: "c6f9".repeat(16),
        seller_vkey: "c8c4".repeat(14),
        agent_identifier: "ab".repeat(40),
        identifier_from_purchaser: "ccddccdd112211220002".to_owned(),
        pay_by_time: in_hours(1),
        submit_result_time: in_hours(2),
        unlock_time: in_hours(3),
        external_dispute_unlock_time: in_hours(4),
        metadata,
        ..MasumiOrder::default()
    }
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
                assert!(order(provider, scenario, Timestamp::UNIX_EPOCH).is_some());
                assert!(Sandbox::walk(provider, scenario).len() > 1);
                assert!(longest_life(chosen) >= LIFE);
            }
        }
        assert!(order("nobody", Scenario::Paid, Timestamp::UNIX_EPOCH).is_none());
    }
}
