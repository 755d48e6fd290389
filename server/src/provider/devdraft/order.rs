//! The forms of `POST /api/v0/payment-intents/{stablecoin|bank}` and their documented limits.

use serde_json::{Map, Value, json};
use tillwatch_proto::v1::{
    DevdraftBankIntent, DevdraftCustomer, DevdraftOrder, DevdraftStablecoinIntent,
    devdraft_order::Intent,
};

use crate::{
    provider::{Violation, rules::Rules},
    purchase::Decimal,
};

/// Networks and payment rails, one list for every field of either.
const NETWORKS: &[&str] = &[
    "ethereum",
    "solana",
    "polygon",
    "avalanche_c_chain",
    "base",
    "arbitrum",
    "optimism",
    "stellar",
    "tron",
    "bridge_wallet",
    "wire",
    "ach",
    "ach_push",
    "ach_same_day",
    "sepa",
    "swift",
    "spei",
];
const STABLECOINS: &[&str] = &["usdc", "eurc"];
const BANK_CURRENCIES: &[&str] = &["usd", "eur", "mxn"];

/// Ours: the longest amount.
const AMOUNT_BYTES_MAX: usize = 64;
/// Above this amount the provider wants the customer's name. It says dollars; other currencies are
/// compared by their number here, and by itself as it likes.
const NAMELESS_MAX: &str = "1000";

/// Every field that breaks a documented rule.
pub(super) fn check(order: &DevdraftOrder) -> Vec<Violation> {
    let mut rules = Rules::default();
    let amount = match &order.intent {
        None => {
            rules.hold("intent", false, "is required: stablecoin or bank");
            None
        }
        Some(Intent::Stablecoin(intent)) => check_stablecoin(&mut rules, intent),
        Some(Intent::Bank(intent)) => check_bank(&mut rules, intent),
    };
    let nameless_max = Decimal::parse(NAMELESS_MAX).ok();
    let named = amount.is_some_and(|amount| Some(amount) > nameless_max);
    check_customer(&mut rules, order.customer.as_ref(), named);
    rules.into_violations()
}

fn check_stablecoin(rules: &mut Rules, intent: &DevdraftStablecoinIntent) -> Option<Decimal> {
    required_word(
        rules,
        "stablecoin.source_currency",
        &intent.source_currency,
        STABLECOINS,
    );
    required_word(
        rules,
        "stablecoin.source_network",
        &intent.source_network,
        NETWORKS,
    );
    required_word(
        rules,
        "stablecoin.destination_network",
        &intent.destination_network,
        NETWORKS,
    );
    check_amount(rules, "stablecoin.amount", &intent.amount)
}

fn check_bank(rules: &mut Rules, intent: &DevdraftBankIntent) -> Option<Decimal> {
    required_word(
        rules,
        "bank.source_payment_rail",
        &intent.source_payment_rail,
        NETWORKS,
    );
    required_word(
        rules,
        "bank.source_currency",
        &intent.source_currency,
        BANK_CURRENCIES,
    );
    rules.required("bank.destination_currency", &intent.destination_currency);
    required_word(
        rules,
        "bank.destination_network",
        &intent.destination_network,
        NETWORKS,
    );
    rules.length("bank.wire_message", &intent.wire_message, 1..=256);
    rules.length("bank.sepa_reference", &intent.sepa_reference, 6..=140);
    rules.length("bank.ach_reference", &intent.ach_reference, 1..=10);
    check_amount(rules, "bank.amount", &intent.amount)
}

fn required_word(rules: &mut Rules, field: &str, text: &str, words: &[&str]) {
    rules.required(field, text);
    rules.one_of(field, text, words);
}

/// The amount, where one is given and is one.
fn check_amount(rules: &mut Rules, field: &str, text: &str) -> Option<Decimal> {
    let amount = Decimal::parse(text).ok();
    rules.hold(
        field,
        text.is_empty()
            || (text.len() <= AMOUNT_BYTES_MAX
                && amount.as_ref().is_some_and(Decimal::is_positive)),
        format!("is a decimal number above 0 of at most {AMOUNT_BYTES_MAX} characters"),
    );
    amount
}

fn check_customer(rules: &mut Rules, customer: Option<&DevdraftCustomer>, named: bool) {
    let nobody = DevdraftCustomer::default();
    let customer = customer.unwrap_or(&nobody);
    for (field, text, most) in [
        ("customer.first_name", &customer.first_name, 100),
        ("customer.last_name", &customer.last_name, 100),
        ("customer.email", &customer.email, 255),
        ("customer.address", &customer.address, 500),
    ] {
        rules.length(field, text, 1..=most);
    }
    for (field, text) in [
        ("customer.first_name", &customer.first_name),
        ("customer.last_name", &customer.last_name),
    ] {
        let rule = format!("is required for amounts above {NAMELESS_MAX}");
        rules.hold(field, !named || !text.is_empty(), rule);
    }
}

/// The path's word for the kind of intent.
pub(super) fn kind(order: &DevdraftOrder) -> &'static str {
    match &order.intent {
        Some(Intent::Bank(_)) => "bank",
        Some(Intent::Stablecoin(_)) | None => "stablecoin",
    }
}

/// The one text of an amount's value: equal orders, equal bodies, since the provider refuses its key
/// with another one.
fn canonical(amount: &str) -> String {
    Decimal::parse(amount).map_or_else(|_| amount.to_owned(), |amount| amount.canonical())
}

/// The body that orders it. The names are the provider's, in two spellings; empty fields are left
/// out, since an amount that is left out lets the payer choose.
pub(super) fn body(order: &DevdraftOrder) -> Value {
    let amount = canonical(match &order.intent {
        Some(Intent::Stablecoin(intent)) => &intent.amount,
        Some(Intent::Bank(intent)) => &intent.amount,
        None => "",
    });
    let mut fields: Vec<(&str, &String)> = vec![("amount", &amount)];
    match &order.intent {
        Some(Intent::Stablecoin(intent)) => fields.extend([
            ("sourceCurrency", &intent.source_currency),
            ("sourceNetwork", &intent.source_network),
            ("destinationCurrency", &intent.destination_currency),
            ("destinationNetwork", &intent.destination_network),
            ("destinationAddress", &intent.destination_address),
        ]),
        Some(Intent::Bank(intent)) => fields.extend([
            ("sourcePaymentRail", &intent.source_payment_rail),
            ("sourceCurrency", &intent.source_currency),
            ("destinationCurrency", &intent.destination_currency),
            ("destinationNetwork", &intent.destination_network),
            ("destinationAddress", &intent.destination_address),
            ("wire_message", &intent.wire_message),
            ("sepa_reference", &intent.sepa_reference),
            ("ach_reference", &intent.ach_reference),
        ]),
        None => {}
    }
    if let Some(customer) = &order.customer {
        fields.extend([
            ("customer_first_name", &customer.first_name),
            ("customer_last_name", &customer.last_name),
            ("customer_email", &customer.email),
            ("customer_address", &customer.address),
            ("customer_country", &customer.country),
            ("customer_countryISO", &customer.country_iso),
            ("customer_province", &customer.province),
            ("customer_provinceISO", &customer.province_iso),
            ("phoneNumber", &customer.phone_number),
        ]);
    }
    let given = fields.into_iter().filter(|(_, text)| !text.is_empty());
    let body: Map<String, Value> = given
        .map(|(field, text)| (field.to_owned(), json!(text)))
        .collect();
    Value::Object(body)
}
