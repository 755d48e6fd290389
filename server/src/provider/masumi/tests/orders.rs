//! Orders: the requests they become, the rules they are held to, and references.

use std::collections::BTreeMap;

use serde_json::json;
use tillwatch_proto::v1::{
    DevdraftOrder, MasumiAmount, MasumiOrder, MasumiReference, ProviderReference,
    create_purchase_request::Order, provider_reference::Reference as Named,
};

use super::{HAND_MADE_CLOCK, TOKEN, asked, order, order_of, provider, submit_body, with_intent};
use crate::{
    provider::{
        SettingsError, Violation,
        masumi::REGISTERED,
        tests::fixture::{self, assert_request, at},
    },
    purchase::{PurchaseId, Secret},
    upstream::Connection,
};

#[test]
fn requests_are_those_on_file() {
    for name in ["create_request", "create_request_dynamic_pricing"] {
        let order = order_of(&fixture::file("masumi", name)["body"]);
        let order = Order::Masumi(order);
        let request = with_intent("x", "Preprod", "", |intent| {
            fixture::placed(&provider(), order).request(intent)
        });
        assert_request(&request, "masumi", name);
        assert_eq!(request.connection, Connection::Fresh);
    }
    let status = provider().status_request(&asked());
    assert_request(&status, "masumi", "resolve_request");
    let look_up = with_intent("TEST_blockchain_identifier_0001", "Preprod", "", |intent| {
        provider().look_up_request(intent).unwrap()
    });
    assert_request(&look_up, "masumi", "resolve_request");
}

#[test]
fn bodies_are_those_that_the_real_service_took() {
    for name in ["create_200_fixed", "create_200_dynamic", "create_200_v2"] {
        let body = fixture::file("masumi_recorded", name)["request"]["body"].take();
        assert_eq!(submit_body(order_of(&body)), body, "{name}");
    }
}

#[test]
fn every_field_of_an_order_is_sent() {
    let body = submit_body(MasumiOrder {
        payment_source_type: "Web3CardanoV2".to_owned(),
        smart_contract_address: "addr_test1contract".to_owned(),
        supported_payment_source_index: Some(24),
        buyer_return_address: "addr_test1buyer".to_owned(),
        seller_return_address: "addr_test1seller".to_owned(),
        // Cut to the millisecond, as every other time is.
        pay_by_time: Some(prost_types::Timestamp {
            seconds: 1_782_903_600,
            nanos: 123_999_999,
        }),
        ..order()
    });
    assert_eq!(body["paymentSourceType"], "Web3CardanoV2");
    assert_eq!(body["smartContractAddress"], "addr_test1contract");
    assert_eq!(body["supportedPaymentSourceIndex"], json!(24));
    assert_eq!(body["buyerReturnAddress"], "addr_test1buyer");
    assert_eq!(body["sellerReturnAddress"], "addr_test1seller");
    assert_eq!(body["payByTime"], "1782903600123");
}

fn check(order: MasumiOrder) -> Vec<String> {
    let violations =
        fixture::placed(&provider(), Order::Masumi(order)).violations(at(HAND_MADE_CLOCK));
    let line = |violation: &Violation| format!("{} {}", violation.field, violation.rule);
    violations.iter().map(line).collect()
}

fn amounts(amounts: &[(&str, &str)]) -> MasumiOrder {
    let amounts = amounts.iter().map(|(amount, unit)| MasumiAmount {
        amount: (*amount).to_owned(),
        unit: (*unit).to_owned(),
    });
    MasumiOrder {
        amounts: amounts.collect(),
        ..order()
    }
}

#[test]
fn an_order_that_the_provider_takes_has_no_violation() {
    assert_eq!(check(order()), [""; 0]);
    assert_eq!(
        check(MasumiOrder {
            blockchain_identifier: "x".repeat(8_000),
            input_hash: "aF".repeat(125),
            seller_vkey: "v".repeat(250),
            agent_identifier: "a".repeat(250),
            identifier_from_purchaser: "a".repeat(26),
            network: "Mainnet".to_owned(),
            payment_source_type: "Web3CardanoV1".to_owned(),
            supported_payment_source_index: Some(0),
            metadata: "two\nlines".to_owned(),
            ..amounts(&[
                ("9223372036854775807", ""),
                ("0000000000000000000000001", "lovelace")
            ])
        }),
        [""; 0]
    );
}

type Change = fn(&mut MasumiOrder);

fn check_changes(table: &[(Change, &[&str])]) {
    for (place, (change, expected)) in table.iter().enumerate() {
        let mut order = order();
        change(&mut order);
        assert_eq!(check(order), *expected, "row {place}");
    }
}

#[test]
fn text_that_the_provider_would_refuse_is_refused_by_field_and_rule() {
    check_changes(&[
        (
            |order| order.blockchain_identifier.clear(),
            &["blockchain_identifier must be 1 to 8,000 visible ASCII characters"],
        ),
        (
            |order| order.blockchain_identifier = "x".repeat(8_001),
            &["blockchain_identifier must be 1 to 8,000 visible ASCII characters"],
        ),
        (
            |order| order.blockchain_identifier = "a b".to_owned(),
            &["blockchain_identifier must be 1 to 8,000 visible ASCII characters"],
        ),
        (
            |order| order.network.clear(),
            &["network must be \"Preprod\" or \"Mainnet\""],
        ),
        (
            |order| order.network = "preprod".to_owned(),
            &["network must be \"Preprod\" or \"Mainnet\""],
        ),
        (
            |order| order.input_hash.clear(),
            &["input_hash must be 1 to 250 hexadecimal digits"],
        ),
        (
            |order| order.input_hash = "xy".to_owned(),
            &["input_hash must be 1 to 250 hexadecimal digits"],
        ),
        (
            |order| order.input_hash = "a".repeat(251),
            &["input_hash must be 1 to 250 hexadecimal digits"],
        ),
        (
            |order| order.seller_vkey.clear(),
            &["seller_vkey must be 1 to 250 characters without U+0000, not all blank"],
        ),
        (
            |order| order.seller_vkey = "a".repeat(251),
            &["seller_vkey must be 1 to 250 characters without U+0000, not all blank"],
        ),
        (
            |order| order.agent_identifier.clear(),
            &["agent_identifier must be 57 to 250 characters without U+0000, not all blank"],
        ),
        (
            |order| order.agent_identifier = "a".repeat(56),
            &["agent_identifier must be 57 to 250 characters without U+0000, not all blank"],
        ),
        (
            |order| order.agent_identifier = "a".repeat(251),
            &["agent_identifier must be 57 to 250 characters without U+0000, not all blank"],
        ),
        (
            |order| order.identifier_from_purchaser.clear(),
            &["identifier_from_purchaser must be 14 to 26 hexadecimal digits"],
        ),
        (
            |order| order.identifier_from_purchaser = "a".repeat(13),
            &["identifier_from_purchaser must be 14 to 26 hexadecimal digits"],
        ),
        (
            |order| order.identifier_from_purchaser = "z".repeat(27),
            &["identifier_from_purchaser must be 14 to 26 hexadecimal digits"],
        ),
        (
            |order| order.metadata = "x".repeat(100 * 1024),
            &["metadata must be so short that the whole request has at most 100 KiB"],
        ),
        (
            |order| order.metadata = "a\0b".to_owned(),
            &["metadata must be text without U+0000"],
        ),
        (
            |order| order.payment_source_type = "Web3CardanoV3".to_owned(),
            &["payment_source_type must be \"Web3CardanoV1\" or \"Web3CardanoV2\", or empty"],
        ),
        (
            |order| order.supported_payment_source_index = Some(25),
            &["supported_payment_source_index must be 0 to 24"],
        ),
        (
            |order| order.buyer_return_address = "a".repeat(251),
            &["buyer_return_address must be at most 250 characters without U+0000"],
        ),
    ]);
}

/// Moves a time by milliseconds from the fixture's clock.
fn from_now(millis: i64) -> Option<prost_types::Timestamp> {
    let millis = at(HAND_MADE_CLOCK).as_millis() + millis;
    Some(prost_types::Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: i32::try_from(millis.rem_euclid(1_000)).unwrap() * 1_000_000,
    })
}

const MINUTE: i64 = 60_000;

fn times(pay_by: i64, submit_result: i64, unlock: i64, dispute: i64) -> MasumiOrder {
    MasumiOrder {
        pay_by_time: from_now(pay_by),
        submit_result_time: from_now(submit_result),
        unlock_time: from_now(unlock),
        external_dispute_unlock_time: from_now(dispute),
        ..order()
    }
}

#[test]
fn times_are_held_to_the_providers_order_to_the_millisecond() {
    let table: &[([i64; 4], &[&str])] = &[
        ([-5 * MINUTE, 15 * MINUTE, 30 * MINUTE, 45 * MINUTE], &[]),
        ([10 * MINUTE, 15 * MINUTE, 30 * MINUTE, 45 * MINUTE], &[]),
        (
            [-5 * MINUTE - 1, 15 * MINUTE, 30 * MINUTE, 45 * MINUTE],
            &["pay_by_time must be at most 5 minutes ago"],
        ),
        (
            [10 * MINUTE + 1, 15 * MINUTE, 30 * MINUTE, 45 * MINUTE],
            &["pay_by_time must be at least 5 minutes before submit_result_time"],
        ),
        (
            [0, 15 * MINUTE - 1, 30 * MINUTE, 45 * MINUTE],
            &["submit_result_time must be at least 15 minutes ahead"],
        ),
        (
            [0, 15 * MINUTE, 30 * MINUTE - 1, 45 * MINUTE],
            &["submit_result_time must be at least 15 minutes before unlock_time"],
        ),
        (
            [0, 15 * MINUTE, 30 * MINUTE, 45 * MINUTE - 1],
            &["external_dispute_unlock_time must be at least 15 minutes after unlock_time"],
        ),
    ];
    for ([pay_by, submit_result, unlock, dispute], expected) in table {
        let order = times(*pay_by, *submit_result, *unlock, *dispute);
        assert_eq!(
            check(order),
            *expected,
            "{pay_by} {submit_result} {unlock} {dispute}"
        );
    }
}

#[test]
fn times_that_are_missing_or_none_are_refused() {
    let none = "must be a time of the years 1 to 9999";
    check_changes(&[
        (
            |order| order.pay_by_time = None,
            &["pay_by_time must be a time of the years 1 to 9999"],
        ),
        (
            |order| order.submit_result_time = None,
            &["submit_result_time must be a time of the years 1 to 9999"],
        ),
        (
            |order| order.unlock_time = None,
            &["unlock_time must be a time of the years 1 to 9999"],
        ),
        (
            |order| order.external_dispute_unlock_time = None,
            &["external_dispute_unlock_time must be a time of the years 1 to 9999"],
        ),
    ]);
    for (seconds, nanos) in [
        (1_782_903_600, -1),
        (1_782_903_600, 1_000_000_000),
        (i64::MAX, 0),
        (i64::MIN, 0),
        (253_402_300_800, 0),
    ] {
        let order = MasumiOrder {
            pay_by_time: Some(prost_types::Timestamp { seconds, nanos }),
            ..order()
        };
        assert_eq!(
            check(order),
            [format!("pay_by_time {none}")],
            "{seconds} {nanos}"
        );
    }
}

#[test]
fn amounts_that_the_provider_would_answer_500_to_are_refused() {
    let integer =
        "amounts[0].amount must be an integer of 1 to 9223372036854775807 in at most 25 digits";
    let table: &[(&str, &[&str])] = &[
        ("1", &[]),
        ("9223372036854775807", &[]),
        ("9223372036854775808", &[integer]),
        ("9999999999999999999999999", &[integer]),
        ("10000000000000000000000000", &[integer]),
        ("0", &[integer]),
        ("1.5", &[integer]),
        ("-1", &[integer]),
        ("+1", &[integer]),
        ("1e3", &[integer]),
        ("", &[integer]),
        (" 1", &[integer]),
        ("１", &[integer]),
    ];
    for (amount, expected) in table {
        assert_eq!(check(amounts(&[(amount, "")])), *expected, "{amount:?}");
    }
    assert_eq!(
        check(amounts(&[("1", ""); 8])),
        ["amounts must be at most 7 entries"]
    );
    let unit = "u".repeat(151);
    assert_eq!(
        check(amounts(&[("1", ""), ("1", &unit)])),
        ["amounts[1].unit must be at most 150 characters without U+0000"]
    );
}

#[test]
fn another_providers_order_is_refused() {
    let order = Order::Devdraft(DevdraftOrder::default());
    assert!(provider().order(&order).is_none());
}

#[test]
fn recovery_facts_and_references_are_identifier_and_network() {
    let key = uuid::Uuid::nil();
    let recovery = fixture::placed(&provider(), Order::Masumi(order()))
        .recovery(PurchaseId::from_u128(1), key);
    let facts: Vec<(&str, &str)> = recovery
        .iter()
        .map(|(name, fact)| (name.as_str(), fact.as_str()))
        .collect();
    assert_eq!(
        facts,
        [
            ("blockchain_identifier", "TEST_blockchain_identifier_0001"),
            ("network", "Preprod")
        ]
    );
    let message = (super::super::REGISTERED.reference_message)(&asked());
    assert_eq!(provider().reference(&message), Ok(asked()));
    let table = [
        ("", "Preprod", "blockchain_identifier"),
        ("a\nb", "Preprod", "blockchain_identifier"),
        ("é", "Preprod", "blockchain_identifier"),
        (&*"x".repeat(8_001), "Preprod", "blockchain_identifier"),
        ("x", "", "network"),
        ("x", "Testnet", "network"),
    ];
    for (identifier, network, field) in table {
        let message = ProviderReference {
            reference: Some(Named::Masumi(MasumiReference {
                blockchain_identifier: identifier.to_owned(),
                network: network.to_owned(),
            })),
        };
        let violations = provider().reference(&message).unwrap_err();
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert_eq!(violations[0].field, field);
    }
    assert!(
        provider()
            .reference(&ProviderReference { reference: None })
            .is_err()
    );
}

#[test]
fn the_token_is_required_and_never_shown() {
    let build = |token: &str| {
        let secrets = BTreeMap::from([("token".to_owned(), Secret::new(token))]);
        (REGISTERED.build)(&secrets).map(|_| ())
    };
    assert_eq!(build(""), Err(SettingsError::Missing("token")));
    assert_eq!(build("a\nb"), Err(SettingsError::NoHeader("token")));
    assert_eq!(build(TOKEN), Ok(()));
    let provider = provider();
    let request = provider.status_request(&asked());
    let shown = format!("{provider:?} {request:?} {:?}", request.headers);
    assert!(!shown.contains(TOKEN), "{shown}");
}
