//! Orders: the requests they become, the rules they are held to, and references.

use std::collections::BTreeSet;

use serde_json::Value;
use tillwatch_proto::v1::{
    DevdraftBankIntent, DevdraftCustomer, DevdraftOrder, DevdraftReference,
    DevdraftStablecoinIntent, MasumiOrder, ProviderReference, create_purchase_request::Order,
    devdraft_order::Intent, provider_reference::Reference as Named,
};

use super::{
    CLIENT_KEY, CLIENT_SECRET, CLOCK, ID, REGISTERED, asked, provider, recovery, secrets,
    with_intent,
};
use crate::{
    provider::{
        Recovery, SettingsError, Violation,
        tests::fixture::{self, assert_request, at},
    },
    purchase::PurchaseId,
    upstream::{Connection, Request},
};

/// The order that a create's body came from.
fn order_of(body: &Value) -> DevdraftOrder {
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let customer = DevdraftCustomer {
        first_name: text("customer_first_name"),
        last_name: text("customer_last_name"),
        email: text("customer_email"),
        address: text("customer_address"),
        country: text("customer_country"),
        country_iso: text("customer_countryISO"),
        province: text("customer_province"),
        province_iso: text("customer_provinceISO"),
        phone_number: text("phoneNumber"),
    };
    let intent = if body.get("sourcePaymentRail").is_some() {
        Intent::Bank(DevdraftBankIntent {
            source_payment_rail: text("sourcePaymentRail"),
            source_currency: text("sourceCurrency"),
            destination_currency: text("destinationCurrency"),
            destination_network: text("destinationNetwork"),
            destination_address: text("destinationAddress"),
            amount: text("amount"),
            wire_message: text("wire_message"),
            sepa_reference: text("sepa_reference"),
            ach_reference: text("ach_reference"),
        })
    } else {
        Intent::Stablecoin(DevdraftStablecoinIntent {
            source_currency: text("sourceCurrency"),
            source_network: text("sourceNetwork"),
            destination_currency: text("destinationCurrency"),
            destination_network: text("destinationNetwork"),
            destination_address: text("destinationAddress"),
            amount: text("amount"),
        })
    };
    DevdraftOrder {
        intent: Some(intent),
        customer: Some(customer),
    }
}

fn order(name: &str) -> DevdraftOrder {
    order_of(&fixture::file("devdraft", name)["body"])
}

fn submit(order: DevdraftOrder, recovery: &Recovery) -> Request {
    let order = Order::Devdraft(order);
    let placed = fixture::placed(&provider(), order);
    with_intent(recovery, |intent| placed.request(intent))
}

#[test]
fn requests_are_those_on_file() {
    let mut present = fixture::names("devdraft", "");
    present.retain(|name| name.contains("_request"));
    let names = ["create_request", "create_request_bank", "status_request"];
    assert_eq!(present, BTreeSet::from(names.map(str::to_owned)));
    for name in ["create_request", "create_request_bank"] {
        let request = submit(order(name), &recovery());
        assert_request(&request, "devdraft", name);
        assert_eq!(request.connection, Connection::Fresh);
    }
    assert_request(
        &provider().status_request(&asked(ID)),
        "devdraft",
        "status_request",
    );
}

#[test]
fn every_field_of_an_order_is_sent_under_the_providers_name() {
    let customer = DevdraftCustomer {
        first_name: "1".to_owned(),
        last_name: "2".to_owned(),
        email: "3".to_owned(),
        address: "4".to_owned(),
        country: "5".to_owned(),
        country_iso: "6".to_owned(),
        province: "7".to_owned(),
        province_iso: "8".to_owned(),
        phone_number: "9".to_owned(),
    };
    let intent = Intent::Bank(DevdraftBankIntent {
        source_payment_rail: "a".to_owned(),
        source_currency: "b".to_owned(),
        destination_currency: "c".to_owned(),
        destination_network: "d".to_owned(),
        destination_address: "e".to_owned(),
        amount: "f".to_owned(),
        wire_message: "g".to_owned(),
        sepa_reference: "h".to_owned(),
        ach_reference: "i".to_owned(),
    });
    let order = DevdraftOrder {
        intent: Some(intent),
        customer: Some(customer),
    };
    let request = submit(order, &recovery());
    let body: Value = serde_json::from_slice(&request.body.unwrap()).unwrap();
    let sent: Vec<(&str, &str)> = body
        .as_object()
        .unwrap()
        .iter()
        .map(|(field, value)| (field.as_str(), value.as_str().unwrap()))
        .collect();
    assert_eq!(
        BTreeSet::from_iter(sent),
        BTreeSet::from([
            ("customer_first_name", "1"),
            ("customer_last_name", "2"),
            ("customer_email", "3"),
            ("customer_address", "4"),
            ("customer_country", "5"),
            ("customer_countryISO", "6"),
            ("customer_province", "7"),
            ("customer_provinceISO", "8"),
            ("phoneNumber", "9"),
            ("sourcePaymentRail", "a"),
            ("sourceCurrency", "b"),
            ("destinationCurrency", "c"),
            ("destinationNetwork", "d"),
            ("destinationAddress", "e"),
            ("amount", "f"),
            ("wire_message", "g"),
            ("sepa_reference", "h"),
            ("ach_reference", "i"),
        ])
    );
}

#[test]
fn a_repeat_carries_the_same_provider_key() {
    let key = uuid::Uuid::from_u128(0x1234);
    let purchase = PurchaseId::from_u128(1);
    let order = order("create_request");
    let facts =
        fixture::placed(&provider(), Order::Devdraft(order.clone())).recovery(purchase, key);
    assert_eq!(
        facts,
        Recovery::from([("idempotency_key".to_owned(), key.to_string())])
    );
    let sent = |recovery: &Recovery| {
        let request = submit(order.clone(), recovery);
        request.headers["idempotency-key"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(sent(&facts), key.to_string());
    let lost = Recovery::new();
    assert_eq!(sent(&lost), sent(&lost));
}

fn check(order: DevdraftOrder) -> Vec<String> {
    let violations = fixture::placed(&provider(), Order::Devdraft(order)).violations(at(CLOCK));
    let line = |violation: &Violation| format!("{} {}", violation.field, violation.rule);
    violations.iter().map(line).collect()
}

/// The fields that break a rule.
fn broken(order: DevdraftOrder) -> Vec<String> {
    let field = |line: String| line.split(' ').next().unwrap_or_default().to_owned();
    check(order).into_iter().map(field).collect()
}

fn stablecoin(change: impl FnOnce(&mut DevdraftStablecoinIntent)) -> Vec<String> {
    let mut order = order("create_request");
    if let Some(Intent::Stablecoin(intent)) = &mut order.intent {
        change(intent);
    }
    check(order)
}

fn bank(change: impl FnOnce(&mut DevdraftBankIntent)) -> Vec<String> {
    let mut order = order("create_request_bank");
    if let Some(Intent::Bank(intent)) = &mut order.intent {
        change(intent);
    }
    check(order)
}

fn customer(change: impl FnOnce(&mut DevdraftCustomer)) -> Vec<String> {
    let mut order = order("create_request");
    change(order.customer.as_mut().unwrap());
    check(order)
}

#[test]
fn orders_that_the_provider_documents_are_taken() {
    assert_eq!(stablecoin(|_| ()), [""; 0]);
    assert_eq!(bank(|_| ()), [""; 0]);
    assert_eq!(
        stablecoin(|intent| {
            intent.amount.clear();
            intent.destination_currency.clear();
            intent.destination_address.clear();
            intent.source_currency = "eurc".to_owned();
            intent.source_network = "avalanche_c_chain".to_owned();
            intent.destination_network = "spei".to_owned();
        }),
        [""; 0]
    );
    assert_eq!(
        check(DevdraftOrder {
            customer: None,
            ..order("create_request")
        }),
        [""; 0]
    );
    assert_eq!(
        bank(|intent| {
            intent.wire_message = "w".repeat(256);
            intent.sepa_reference = "s".repeat(6);
            intent.ach_reference = "a".repeat(10);
            intent.source_currency = "mxn".to_owned();
        }),
        [""; 0]
    );
}

#[test]
fn orders_without_what_the_provider_requires_are_refused_by_field() {
    let intent = Some(Intent::Stablecoin(DevdraftStablecoinIntent::default()));
    let customer = None;
    assert_eq!(
        broken(DevdraftOrder { intent, customer }),
        [
            "stablecoin.source_currency",
            "stablecoin.source_network",
            "stablecoin.destination_network"
        ]
    );
    let intent = Some(Intent::Bank(DevdraftBankIntent::default()));
    let customer = None;
    assert_eq!(
        broken(DevdraftOrder { intent, customer }),
        [
            "bank.source_payment_rail",
            "bank.source_currency",
            "bank.destination_currency",
            "bank.destination_network"
        ]
    );
    assert_eq!(
        check(DevdraftOrder::default()),
        ["intent must be stablecoin or bank"]
    );
    let order = Order::Masumi(MasumiOrder::default());
    assert!(provider().order(&order).is_none());
}

#[test]
fn words_outside_the_documented_lists_are_refused() {
    assert_eq!(
        stablecoin(|intent| intent.source_currency = "usd".to_owned()),
        ["stablecoin.source_currency must be \"usdc\" or \"eurc\""]
    );
    for network in ["Ethereum", "bitcoin", " base"] {
        let violations = stablecoin(|intent| intent.source_network = network.to_owned());
        assert_eq!(violations.len(), 1);
        assert!(violations[0].starts_with("stablecoin.source_network must be \"ethereum\", "));
        let violations = stablecoin(|intent| intent.destination_network = network.to_owned());
        assert!(violations[0].starts_with("stablecoin.destination_network must be \"ethereum\", "));
        let violations = bank(|intent| intent.source_payment_rail = network.to_owned());
        assert!(violations[0].starts_with("bank.source_payment_rail must be \"ethereum\", "));
        let violations = bank(|intent| intent.destination_network = network.to_owned());
        assert!(violations[0].starts_with("bank.destination_network must be \"ethereum\", "));
    }
    assert_eq!(
        bank(|intent| intent.source_currency = "gbp".to_owned()),
        ["bank.source_currency must be \"usd\", \"eur\" or \"mxn\""]
    );
}

#[test]
fn lengths_are_those_of_the_documentation() {
    let table = [
        (
            customer(|customer| customer.first_name = "x".repeat(101)),
            "customer.first_name must be at most 100",
        ),
        (
            customer(|customer| customer.last_name = "x".repeat(101)),
            "customer.last_name must be at most 100",
        ),
        (
            customer(|customer| customer.email = "x".repeat(256)),
            "customer.email must be at most 255",
        ),
        (
            customer(|customer| customer.address = "x".repeat(501)),
            "customer.address must be at most 500",
        ),
        (
            bank(|bank| bank.wire_message = "x".repeat(257)),
            "bank.wire_message must be at most 256",
        ),
        (
            bank(|bank| bank.sepa_reference = "x".repeat(5)),
            "bank.sepa_reference must be 6 to 140",
        ),
        (
            bank(|bank| bank.sepa_reference = "x".repeat(141)),
            "bank.sepa_reference must be 6 to 140",
        ),
        (
            bank(|bank| bank.ach_reference = "x".repeat(11)),
            "bank.ach_reference must be at most 10",
        ),
    ];
    for (violations, expected) in table {
        let [violation] = violations.as_slice() else {
            panic!("{expected}: {violations:?}");
        };
        let rule = format!("{expected} characters without U+0000");
        assert_eq!(violation.trim_end_matches(", or empty"), rule);
    }
    let whole = customer(|customer| {
        customer.first_name = "é".repeat(100);
        customer.email = "x".repeat(255);
        customer.address = "x".repeat(500);
    });
    assert_eq!(whole, [""; 0]);
}

#[test]
fn amounts_are_decimal_numbers_above_zero_and_large_ones_want_a_name() {
    let names = [
        "customer.first_name must be set for amounts above 1,000",
        "customer.last_name must be set for amounts above 1,000",
    ];
    let table: &[(&str, &[&str])] = &[
        ("", &[]),
        ("0.01", &[]),
        ("1000", &[]),
        ("1000.000", &[]),
        ("1000.01", &names),
        ("99999999999999999999", &names),
        (
            "0",
            &["bank.amount must be a decimal number above 0 of at most 64 characters, or empty"],
        ),
        (
            "-1",
            &["bank.amount must be a decimal number above 0 of at most 64 characters, or empty"],
        ),
        (
            "1e3",
            &["bank.amount must be a decimal number above 0 of at most 64 characters, or empty"],
        ),
        (
            "1,000",
            &["bank.amount must be a decimal number above 0 of at most 64 characters, or empty"],
        ),
        (
            &format!("0.{}", "7".repeat(63)),
            &["bank.amount must be a decimal number above 0 of at most 64 characters, or empty"],
        ),
        (
            "ten",
            &["bank.amount must be a decimal number above 0 of at most 64 characters, or empty"],
        ),
    ];
    for (amount, expected) in table {
        assert_eq!(
            bank(|intent| intent.amount = (*amount).to_owned()),
            *expected,
            "{amount}"
        );
    }
    assert_eq!(
        stablecoin(|intent| intent.amount = "5000".to_owned()),
        [""; 0]
    );
    assert_eq!(
        stablecoin(|intent| intent.amount = "0.0".to_owned()),
        ["stablecoin.amount must be a decimal number above 0 of at most 64 characters, or empty"]
    );
    assert_eq!(
        provider().decimal_fields(),
        ["stablecoin.amount", "bank.amount"]
    );
}

#[test]
fn references_are_ids_and_nothing_that_a_path_could_be_built_from() {
    let message = |id: &str| ProviderReference {
        reference: Some(Named::Devdraft(DevdraftReference {
            transaction_id: id.to_owned(),
        })),
    };
    for id in [
        ID,
        "txn_a",
        "txn_a-b_C",
        "01TEST",
        "6f1c2a5e-2b3d-4e0f-9a01-000000000001",
        &format!("txn_{}", "a".repeat(200)),
    ] {
        assert_eq!(provider().reference(&message(id)), Ok(asked(id)));
        assert_eq!(
            (super::super::REGISTERED.reference_message)(&asked(id)),
            message(id)
        );
    }
    for id in [
        "",
        "..",
        "txn_a/../b",
        "txn_a?b",
        "txn_é",
        "txn_a\n",
        &format!("txn_{}", "a".repeat(201)),
        &"a".repeat(205),
    ] {
        let violations = provider().reference(&message(id)).unwrap_err();
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].field, "transaction_id");
    }
    assert!(
        provider()
            .reference(&ProviderReference { reference: None })
            .is_err()
    );
}

#[test]
fn both_secrets_are_required_and_never_shown() {
    let build = |key: &str, secret: &str| (REGISTERED.build)(&secrets(key, secret)).map(|_| ());
    assert_eq!(build("", "x"), Err(SettingsError::Missing("client_key")));
    assert_eq!(build("x", ""), Err(SettingsError::Missing("client_secret")));
    assert_eq!(
        build("x", "a\nb"),
        Err(SettingsError::NoHeader("client_secret"))
    );
    let provider = provider();
    let request = provider.status_request(&asked(ID));
    let shown = format!("{provider:?} {request:?} {:?}", request.headers);
    assert!(
        !shown.contains(CLIENT_KEY) && !shown.contains(CLIENT_SECRET),
        "{shown}"
    );
}
