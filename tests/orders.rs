//! Orders for each provider, with the sandbox's magic values for what is to become of them.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;
use tillwatch_proto::v1::{
    CarbonOrder, CreatePurchaseRequest, DevdraftCustomer, DevdraftOrder, DevdraftStablecoinIntent,
    InabitOrder, MasumiOrder, PhygitalsOrder, create_purchase_request::Order,
    devdraft_order::Intent,
};
use tillwatch_sandbox::Scenario;

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
    match provider {
        "phygitals" => Order::Phygitals(phygitals(scenario)),
        "masumi" => Order::Masumi(masumi(scenario)),
        "inabit" => Order::Inabit(inabit(scenario)),
        "carbon" => Order::Carbon(carbon(scenario)),
        "devdraft" => Order::Devdraft(devdraft(scenario)),
        other => panic!("no provider {other}"),
    }
}

pub fn phygitals(scenario: Scenario) -> PhygitalsOrder {
    PhygitalsOrder {
        claw_id: "CLaw111111111111111111111111111111111111111".to_owned(),
        amount: 1,
        currency: "usdc".to_owned(),
        chain: "solana".to_owned(),
        txs: vec!["AQIDBAUGBwg=".to_owned()],
        extra_data_json: format!("{{\"note\": \"sandbox:{}\"}}", scenario.name()),
        ..PhygitalsOrder::default()
    }
}

/// An order with an identifier that no other has.
pub fn masumi(scenario: Scenario) -> MasumiOrder {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    MasumiOrder {
        blockchain_identifier: format!("TEST_blockchain_identifier_{number:04}"),
        network: "Preprod".to_owned(),
        input_hash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
        seller_vkey: "c".repeat(56),
        agent_identifier: "ab".repeat(44),
        identifier_from_purchaser: "aabbaabb11221122aabb".to_owned(),
        pay_by_time: Some(minutes_ahead(60)),
        submit_result_time: Some(minutes_ahead(120)),
        unlock_time: Some(minutes_ahead(180)),
        external_dispute_unlock_time: Some(minutes_ahead(240)),
        metadata: format!("sandbox:{}", scenario.name()),
        ..MasumiOrder::default()
    }
}

pub fn inabit(scenario: Scenario) -> InabitOrder {
    InabitOrder {
        title: "Order 3001".to_owned(),
        sub_title: "One item".to_owned(),
        site_name: "shop.example.test".to_owned(),
        purchase_identifier: String::new(),
        fiat_amount: format!("12.{}", scenario.cents()),
        fiat_currency: "USD".to_owned(),
    }
}

pub fn carbon(scenario: Scenario) -> CarbonOrder {
    CarbonOrder {
        contact_id: "ab5b0000-0000-4000-8000-000000000001".to_owned(),
        credit_debit_id: "0f610000-0000-4000-8000-000000000001".to_owned(),
        fiat_charge_amount: format!("10.{}", scenario.cents()),
        cryptocurrency_symbol: "eth".to_owned(),
        receive_address: "0x0000000000000000000000000000000000000001".to_owned(),
        confirmation_url: "https://shop.example.test/carbon/confirm".to_owned(),
        success_redirect_url: "https://shop.example.test/ok".to_owned(),
        error_redirect_url: "https://shop.example.test/err".to_owned(),
        ..CarbonOrder::default()
    }
}

pub fn devdraft(scenario: Scenario) -> DevdraftOrder {
    DevdraftOrder {
        intent: Some(Intent::Stablecoin(DevdraftStablecoinIntent {
            source_currency: "usdc".to_owned(),
            source_network: "ethereum".to_owned(),
            destination_currency: "eurc".to_owned(),
            destination_network: "base".to_owned(),
            destination_address: "0x0000000000000000000000000000000000000001".to_owned(),
            amount: format!("100.{}", scenario.cents()),
        })),
        customer: Some(DevdraftCustomer {
            first_name: "Test".to_owned(),
            last_name: "Person".to_owned(),
            email: "t@example.test".to_owned(),
            ..DevdraftCustomer::default()
        }),
    }
}

/// A time from now on, without a fraction.
pub fn minutes_ahead(minutes: i64) -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap() + minutes * 60,
        nanos: 0,
    }
}
