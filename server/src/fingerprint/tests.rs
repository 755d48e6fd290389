use tillwatch_proto::v1::{
    DevdraftCustomer, DevdraftOrder, DevdraftStablecoinIntent, InabitOrder, MasumiAmount,
    MasumiOrder, devdraft_order::Intent,
};

use super::*;

fn keyring() -> Keyring {
    Keyring::parse(&Secret::new(format!(
        "new:{}\nold:{}\n",
        "11".repeat(32),
        "22".repeat(32)
    )))
    .unwrap()
}

fn devdraft(amount: &str, email: &str) -> Order {
    Order::Devdraft(DevdraftOrder {
        customer: Some(DevdraftCustomer {
            email: email.to_owned(),
            ..Default::default()
        }),
        intent: Some(Intent::Stablecoin(DevdraftStablecoinIntent {
            amount: amount.to_owned(),
            source_currency: "usdc".to_owned(),
            ..Default::default()
        })),
    })
}

fn fields(order: &Order) -> Fields {
    keyring()
        .fingerprints("new", "main", order, &["stablecoin.amount", "fiat_amount"])
        .unwrap()
}

#[test]
fn the_names_of_differing_fields_are_told_and_never_their_values() {
    let first = fields(&devdraft("100.00", "a@example.test"));
    let check = |other: &Order, expected: &[&str]| {
        assert_eq!(differing(&first, &fields(other)), expected);
    };
    check(&devdraft("100.00", "a@example.test"), &[]);
    check(&devdraft("100", "a@example.test"), &[]);
    check(
        &devdraft("100.01", "b@example.test"),
        &["customer.email", "stablecoin.amount"],
    );
    check(&devdraft("100.00", ""), &["customer", "customer.email"]);
    let text = format!("{first:?}");
    assert!(!text.contains("example"));
}

#[test]
fn lists_numbers_and_times_count_as_fields() {
    let masumi = |amount: &str, index, seconds| {
        Order::Masumi(MasumiOrder {
            amounts: vec![MasumiAmount {
                amount: amount.to_owned(),
                unit: String::new(),
            }],
            supported_payment_source_index: index,
            pay_by_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        })
    };
    let first = fields(&masumi("1", Some(0), 5));
    let check = |order: Order, expected: &[&str]| {
        assert_eq!(differing(&first, &fields(&order)), expected);
    };
    check(masumi("2", Some(0), 5), &["amounts"]);
    check(masumi("1", None, 5), &["supported_payment_source_index"]);
    check(masumi("1", Some(0), 6), &["pay_by_time"]);
}

#[test]
fn another_kind_of_order_and_another_account_differ() {
    let inabit = Order::Inabit(InabitOrder::default());
    let first = keyring().fingerprints("new", "one", &inabit, &[]).unwrap();
    let second = keyring().fingerprints("new", "two", &inabit, &[]).unwrap();
    assert_eq!(differing(&first, &second), ["account"]);
    let other = fields(&devdraft("", ""));
    assert!(differing(&first, &other).contains(&"inabit".to_owned()));
}

#[test]
fn a_field_can_be_checked_against_an_answer() {
    let order = Order::Inabit(InabitOrder {
        fiat_amount: "2.50".to_owned(),
        ..Default::default()
    });
    let fields = fields(&order);
    let matches = |text| keyring().matches("new", &fields, "fiat_amount", text, &["fiat_amount"]);
    assert!(matches("2.5") && matches("2.50"));
    assert!(!matches("2.51"));
    assert!(!keyring().matches("old", &fields, "fiat_amount", "2.50", &["fiat_amount"]));
    assert!(keyring().fingerprints("gone", "a", &order, &[]).is_none());
}

#[test]
fn key_files_are_read_strictly() {
    let check = |text: &str, expected: KeyringError| {
        assert_eq!(
            Keyring::parse(&Secret::new(text)).err(),
            Some(expected),
            "{text}"
        );
    };
    check("", KeyringError::Empty);
    check("# nothing\n", KeyringError::Empty);
    check("a", KeyringError::Line(1));
    check("a:00", KeyringError::Line(1));
    let key = "00".repeat(32);
    check(&format!("a:{key}\n\na:{key}"), KeyringError::Repeated(3));
}
