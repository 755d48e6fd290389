//! The forms of `POST /api/v0/payment-intents/{stablecoin|bank}` and their documented limits.

use serde_json::{Map, Value, json};
use tillwatch_proto::v1::{
    DevdraftBankIntent, DevdraftCustomer, DevdraftOrder, DevdraftStablecoinIntent,
    devdraft_order::Intent,
};

use crate::{
    provider::{
        Stated, Violation,
        rules::{Form, Row, Table},
    },
    purchase::{Decimal, Timestamp},
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

/// Above this amount the provider wants the customer's name. It says dollars; other currencies are
/// compared by their number here, and by itself as it likes.
const NAMELESS_MAX: &str = "1000";

const NETWORK: Form = Form::Words(NETWORKS);
/// An amount that is left out lets the payer choose. Ours: the longest one.
const AMOUNT: Form = Form::Decimal(64);

const ORDER: Table<DevdraftOrder> = Table {
    message: "DevdraftOrder",
    path: "",
    rows: &[Row::other("intent", "stablecoin or bank", |order, _| {
        order.intent.is_some()
    })],
};

const STABLECOIN: Table<DevdraftStablecoinIntent> = Table {
    message: "DevdraftStablecoinIntent",
    path: "stablecoin",
    rows: &[
        Row::required("source_currency", Form::Words(STABLECOINS), |intent| {
            &intent.source_currency
        }),
        Row::required("source_network", NETWORK, |intent| &intent.source_network),
        Row::optional("destination_currency", Form::Any, |intent| {
            &intent.destination_currency
        }),
        Row::required("destination_network", NETWORK, |intent| {
            &intent.destination_network
        }),
        Row::optional("destination_address", Form::Any, |intent| {
            &intent.destination_address
        }),
        Row::optional("amount", AMOUNT, |intent| &intent.amount),
    ],
};

const BANK: Table<DevdraftBankIntent> = Table {
    message: "DevdraftBankIntent",
    path: "bank",
    rows: &[
        Row::required("source_payment_rail", NETWORK, |intent| {
            &intent.source_payment_rail
        }),
        Row::required("source_currency", Form::Words(BANK_CURRENCIES), |intent| {
            &intent.source_currency
        }),
        Row::required("destination_currency", Form::Any, |intent| {
            &intent.destination_currency
        }),
        Row::required("destination_network", NETWORK, |intent| {
            &intent.destination_network
        }),
        Row::optional("destination_address", Form::Any, |intent| {
            &intent.destination_address
        }),
        Row::optional("amount", AMOUNT, |intent| &intent.amount),
        Row::optional("wire_message", Form::Units(0, 256), |intent| {
            &intent.wire_message
        }),
        Row::optional("sepa_reference", Form::Units(6, 140), |intent| {
            &intent.sepa_reference
        }),
        Row::optional("ach_reference", Form::Units(0, 10), |intent| {
            &intent.ach_reference
        }),
    ],
};

/// The customer's fields, whose rules depend on the order's amount.
const CUSTOMER: Table<DevdraftOrder> = Table {
    message: "DevdraftCustomer",
    path: "customer",
    rows: &[
        Row::optional("first_name", Form::Units(0, 100), |order| {
            customer(order, |customer| &customer.first_name)
        }),
        Row::other("first_name", "set for amounts above 1,000", |order, _| {
            !is_large(order) || !customer(order, |customer| &customer.first_name).is_empty()
        }),
        Row::optional("last_name", Form::Units(0, 100), |order| {
            customer(order, |customer| &customer.last_name)
        }),
        Row::other("last_name", "set for amounts above 1,000", |order, _| {
            !is_large(order) || !customer(order, |customer| &customer.last_name).is_empty()
        }),
        Row::optional("email", Form::Units(0, 255), |order| {
            customer(order, |customer| &customer.email)
        }),
        Row::optional("address", Form::Units(0, 500), |order| {
            customer(order, |customer| &customer.address)
        }),
        Row::optional("country", Form::Any, |order| {
            customer(order, |customer| &customer.country)
        }),
        Row::optional("country_iso", Form::Any, |order| {
            customer(order, |customer| &customer.country_iso)
        }),
        Row::optional("province", Form::Any, |order| {
            customer(order, |customer| &customer.province)
        }),
        Row::optional("province_iso", Form::Any, |order| {
            customer(order, |customer| &customer.province_iso)
        }),
        Row::optional("phone_number", Form::Any, |order| {
            customer(order, |customer| &customer.phone_number)
        }),
    ],
};

pub(super) fn stated() -> Vec<Stated> {
    [
        ORDER.stated(),
        STABLECOIN.stated(),
        BANK.stated(),
        CUSTOMER.stated(),
    ]
    .concat()
}

/// The rules that an order breaks.
pub(super) fn violations(order: &DevdraftOrder, now: Timestamp) -> Vec<Violation> {
    let intent = match &order.intent {
        None => Vec::new(),
        Some(Intent::Stablecoin(intent)) => STABLECOIN.check(intent, now),
        Some(Intent::Bank(intent)) => BANK.check(intent, now),
    };
    [ORDER.check(order, now), intent, CUSTOMER.check(order, now)].concat()
}

/// A text of the customer; empty if there is none.
fn customer(order: &DevdraftOrder, of: fn(&DevdraftCustomer) -> &str) -> &str {
    order.customer.as_ref().map_or("", of)
}

/// The order's amount as it was written.
fn amount(order: &DevdraftOrder) -> &str {
    match &order.intent {
        Some(Intent::Stablecoin(intent)) => &intent.amount,
        Some(Intent::Bank(intent)) => &intent.amount,
        None => "",
    }
}

/// True if the provider wants to know the customer's name.
fn is_large(order: &DevdraftOrder) -> bool {
    match (Decimal::parse(amount(order)), Decimal::parse(NAMELESS_MAX)) {
        (Ok(amount), Ok(most)) => amount > most,
        _ => false,
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
    let amount = canonical(amount(order));
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
