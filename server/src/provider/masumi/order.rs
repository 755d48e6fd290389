//! The form of `POST /api/v1/purchase`, and every rule that the provider holds an order to.
//!
//! The provider answers some broken rules with 500, after which nobody knows whether the order exists; so
//! this service refuses all of them. Only the provider checks signatures and prices.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tillwatch_proto::v1::{MasumiAmount, MasumiOrder};

use super::{IDENTIFIER, IDENTIFIER_FORM, NETWORK, NETWORK_FORM};
use crate::{
    provider::{
        Stated, Violation,
        rules::{Form, Row, Table, time_of},
    },
    purchase::Timestamp,
};

/// The provider's schema.
const PAYMENT_SOURCE_TYPES: &[&str] = &["Web3CardanoV1", "Web3CardanoV2"];
const AMOUNTS_MAX: usize = 7;
const SOURCE_INDEX_MAX: u32 = 24;
/// The longest body that the provider's JSON parser takes (recorded). A longer order is answered 413
/// before anything else is looked at, also when it is repeated.
const BODY_BYTES_MAX: usize = 100 * 1024;

/// The provider's margins between its four times.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const FIFTEEN_MINUTES: Duration = Duration::from_secs(900);

/// The form of an address.
const ADDRESS: Form = Form::Units(0, 250);

const ORDER: Table<MasumiOrder> = Table {
    message: "MasumiOrder",
    path: "",
    rows: &[
        Row::required(IDENTIFIER, IDENTIFIER_FORM, |order| {
            &order.blockchain_identifier
        }),
        Row::required(NETWORK, NETWORK_FORM, |order| &order.network),
        Row::required("input_hash", Form::Hexadecimal(1, 250), |order| {
            &order.input_hash
        }),
        Row::required("seller_vkey", Form::Units(1, 250), |order| {
            &order.seller_vkey
        }),
        Row::required("agent_identifier", Form::Units(57, 250), |order| {
            &order.agent_identifier
        }),
        Row::required(
            "identifier_from_purchaser",
            Form::Hexadecimal(14, 26),
            |order| &order.identifier_from_purchaser,
        ),
        Row::time("pay_by_time", |order| order.pay_by_time.as_ref()),
        Row::other("pay_by_time", "at most 5 minutes ago", |order, now| {
            let oldest = Some(now.minus(FIVE_MINUTES));
            is_before(oldest, Duration::ZERO, read(order.pay_by_time.as_ref()))
        }),
        Row::other(
            "pay_by_time",
            "at least 5 minutes before submit_result_time",
            |order, _| {
                let submit_result = read(order.submit_result_time.as_ref());
                is_before(
                    read(order.pay_by_time.as_ref()),
                    FIVE_MINUTES,
                    submit_result,
                )
            },
        ),
        Row::time("submit_result_time", |order| {
            order.submit_result_time.as_ref()
        }),
        Row::other(
            "submit_result_time",
            "at least 15 minutes ahead",
            |order, now| {
                let submit_result = read(order.submit_result_time.as_ref());
                is_before(Some(now), FIFTEEN_MINUTES, submit_result)
            },
        ),
        Row::other(
            "submit_result_time",
            "at least 15 minutes before unlock_time",
            |order, _| {
                let submit_result = read(order.submit_result_time.as_ref());
                is_before(
                    submit_result,
                    FIFTEEN_MINUTES,
                    read(order.unlock_time.as_ref()),
                )
            },
        ),
        Row::time("unlock_time", |order| order.unlock_time.as_ref()),
        Row::time("external_dispute_unlock_time", |order| {
            order.external_dispute_unlock_time.as_ref()
        }),
        Row::other(
            "external_dispute_unlock_time",
            "at least 15 minutes after unlock_time",
            |order, _| {
                let dispute = read(order.external_dispute_unlock_time.as_ref());
                is_before(read(order.unlock_time.as_ref()), FIFTEEN_MINUTES, dispute)
            },
        ),
        Row::list("amounts", AMOUNTS_MAX, "entries", |order, most| {
            order.amounts.len() <= most
        }),
        Row::optional("metadata", Form::Any, |order| &order.metadata),
        // Only the metadata has no limit of its own.
        Row::other(
            "metadata",
            "so short that the whole request has at most 100 KiB",
            |order, _| body(order).to_string().len() <= BODY_BYTES_MAX,
        ),
        Row::optional(
            "payment_source_type",
            Form::Words(PAYMENT_SOURCE_TYPES),
            |order| &order.payment_source_type,
        ),
        Row::optional("smart_contract_address", ADDRESS, |order| {
            &order.smart_contract_address
        }),
        Row::number(
            "supported_payment_source_index",
            0,
            Some(SOURCE_INDEX_MAX),
            |order| order.supported_payment_source_index,
        ),
        Row::optional("buyer_return_address", ADDRESS, |order| {
            &order.buyer_return_address
        }),
        Row::optional("seller_return_address", ADDRESS, |order| {
            &order.seller_return_address
        }),
    ],
};

const AMOUNT: Table<MasumiAmount> = Table {
    message: "MasumiAmount",
    path: "amounts[]",
    rows: &[
        // The provider takes 25 digits, keeps 64 bits with a sign, and answers 500 in between. Zero
        // it takes for no price at all.
        Row::required("amount", Form::Integer(25), |amount| &amount.amount),
        Row::optional("unit", Form::Units(0, 150), |amount| &amount.unit),
    ],
};

pub(super) fn stated() -> Vec<Stated> {
    [ORDER.stated(), AMOUNT.stated()].concat()
}

/// The rules that an order breaks.
pub(super) fn violations(order: &MasumiOrder, now: Timestamp) -> Vec<Violation> {
    let mut violations = ORDER.check(order, now);
    for (place, amount) in order.amounts.iter().enumerate().take(AMOUNTS_MAX) {
        violations.extend(AMOUNT.check_in(&format!("amounts[{place}]"), amount, now));
    }
    violations
}

/// A time, if it is there and is one.
fn read(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(time_of)
}

/// True if a time lies before another by a margin. A time that is missing breaks a rule of its own.
fn is_before(earlier: Option<Timestamp>, margin: Duration, later: Option<Timestamp>) -> bool {
    (earlier.zip(later)).is_none_or(|(earlier, later)| earlier <= later.minus(margin))
}

/// The body that orders it. Empty fields are left out, since the provider takes an empty text for a
/// value.
pub(super) fn body(order: &MasumiOrder) -> Value {
    let mut body = Map::new();
    for (field, text) in [
        ("identifierFromPurchaser", &order.identifier_from_purchaser),
        ("network", &order.network),
        ("sellerVkey", &order.seller_vkey),
        ("blockchainIdentifier", &order.blockchain_identifier),
        ("agentIdentifier", &order.agent_identifier),
        ("inputHash", &order.input_hash),
        ("metadata", &order.metadata),
        ("paymentSourceType", &order.payment_source_type),
        ("smartContractAddress", &order.smart_contract_address),
        ("buyerReturnAddress", &order.buyer_return_address),
        ("sellerReturnAddress", &order.seller_return_address),
    ] {
        if !text.is_empty() {
            body.insert(field.to_owned(), json!(text));
        }
    }
    for (field, time) in [
        ("payByTime", &order.pay_by_time),
        ("submitResultTime", &order.submit_result_time),
        ("unlockTime", &order.unlock_time),
        (
            "externalDisputeUnlockTime",
            &order.external_dispute_unlock_time,
        ),
    ] {
        // Text of unix milliseconds: the provider's own samples are in seconds, which it refuses.
        if let Some(time) = time.as_ref().and_then(time_of) {
            body.insert(field.to_owned(), json!(time.as_millis().to_string()));
        }
    }
    if !order.amounts.is_empty() {
        let amounts: Vec<Value> = order
            .amounts
            .iter()
            .map(|amount| json!({ "amount": amount.amount, "unit": amount.unit }))
            .collect();
        body.insert("Amounts".to_owned(), Value::Array(amounts));
    }
    if let Some(index) = order.supported_payment_source_index {
        body.insert("supportedPaymentSourceIndex".to_owned(), json!(index));
    }
    Value::Object(body)
}
