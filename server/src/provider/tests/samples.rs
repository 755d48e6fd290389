//! Orders and a reference of each provider that break no rule.

use tillwatch_proto::v1::{
    CarbonOrder, CarbonReference, DevdraftBankIntent, DevdraftCustomer, DevdraftOrder,
    DevdraftReference, DevdraftStablecoinIntent, InabitOrder, InabitReference, MasumiAmount,
    MasumiOrder, MasumiReference, PhygitalsOrder, PhygitalsReference, ProviderReference,
    create_purchase_request::Order, devdraft_order::Intent, provider_reference::Reference as Named,
};

use super::fixture;

const CONTACT: &str = "ab5b0000-0000-4000-8000-000000000001";
const IDENTIFIER: &str = "TEST_blockchain_identifier_0001";

/// One order of each kind that the provider has.
pub(super) fn orders(provider: &str) -> Vec<Order> {
    match provider {
        "phygitals" => vec![Order::Phygitals(PhygitalsOrder {
            claw_id: "CLaw111111111111111111111111111111111111111".to_owned(),
            amount: 1,
            currency: "usdc".to_owned(),
            chain: "solana".to_owned(),
            txs: vec!["AQIDBAUGBwg=".to_owned()],
            ..PhygitalsOrder::default()
        })],
        "masumi" => vec![Order::Masumi(masumi())],
        "inabit" => vec![Order::Inabit(InabitOrder {
            fiat_amount: "2.50".to_owned(),
            fiat_currency: "USD".to_owned(),
            ..InabitOrder::default()
        })],
        "carbon" => vec![Order::Carbon(CarbonOrder {
            contact_id: CONTACT.to_owned(),
            credit_debit_id: "0f610000-0000-4000-8000-000000000001".to_owned(),
            fiat_charge_amount: "10.39".to_owned(),
            cryptocurrency_symbol: "eth".to_owned(),
            receive_address: "0x0000000000000000000000000000000000000001".to_owned(),
            confirmation_url: "https://shop.example.test/carbon/confirm".to_owned(),
            success_redirect_url: "https://shop.example.test/ok".to_owned(),
            error_redirect_url: "https://shop.example.test/err".to_owned(),
            ..CarbonOrder::default()
        })],
        "devdraft" => devdraft(),
        _ => panic!("{provider} has no sample order"),
    }
}

fn masumi() -> MasumiOrder {
    let minutes = |minutes: i64| {
        let seconds = fixture::now().as_millis() / 1_000 + minutes * 60;
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    };
    MasumiOrder {
        blockchain_identifier: IDENTIFIER.to_owned(),
        network: "Preprod".to_owned(),
        input_hash: "ab12cd".to_owned(),
        seller_vkey: "TEST_vkey".to_owned(),
        agent_identifier: "a".repeat(57),
        identifier_from_purchaser: "ab".repeat(7),
        pay_by_time: minutes(60),
        submit_result_time: minutes(120),
        unlock_time: minutes(180),
        external_dispute_unlock_time: minutes(240),
        amounts: vec![MasumiAmount {
            amount: "1000000".to_owned(),
            unit: String::new(),
        }],
        ..MasumiOrder::default()
    }
}

fn devdraft() -> Vec<Order> {
    let customer = DevdraftCustomer {
        first_name: "Test".to_owned(),
        last_name: "Only".to_owned(),
        ..DevdraftCustomer::default()
    };
    let stablecoin = Intent::Stablecoin(DevdraftStablecoinIntent {
        source_currency: "usdc".to_owned(),
        source_network: "ethereum".to_owned(),
        destination_network: "base".to_owned(),
        ..DevdraftStablecoinIntent::default()
    });
    let bank = Intent::Bank(DevdraftBankIntent {
        source_payment_rail: "wire".to_owned(),
        source_currency: "usd".to_owned(),
        destination_currency: "usdc".to_owned(),
        destination_network: "base".to_owned(),
        ..DevdraftBankIntent::default()
    });
    let order = |intent| {
        Order::Devdraft(DevdraftOrder {
            intent: Some(intent),
            customer: Some(customer.clone()),
        })
    };
    [stablecoin, bank].into_iter().map(order).collect()
}

/// A reference as the fixtures have it.
pub(super) fn reference(provider: &str) -> ProviderReference {
    let named = match provider {
        "phygitals" => Named::Phygitals(PhygitalsReference {
            session_id: "6f1c2a5e-2b3d-4e0f-9a01-000000000001".to_owned(),
        }),
        "masumi" => Named::Masumi(MasumiReference {
            blockchain_identifier: IDENTIFIER.to_owned(),
            network: "Preprod".to_owned(),
        }),
        "inabit" => Named::Inabit(InabitReference {
            purchase_id: "0b7a1c9e-1111-4222-8333-000000000001".to_owned(),
        }),
        "carbon" => Named::Carbon(CarbonReference {
            order_id: "7c0e0000-0000-4000-8000-000000000001".to_owned(),
            contact_id: CONTACT.to_owned(),
        }),
        "devdraft" => Named::Devdraft(DevdraftReference {
            transaction_id: "txn_01TEST0000000000000000000A".to_owned(),
        }),
        _ => panic!("{provider} has no sample reference"),
    };
    ProviderReference {
        reference: Some(named),
    }
}
