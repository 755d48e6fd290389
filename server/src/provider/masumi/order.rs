//! The form of `POST /api/v1/purchase`, and every rule that the provider holds an order to.
//!
//! Some of what breaks a rule is answered with 500 by the provider, after which nobody knows whether
//! the order exists; so all of it is refused here. Signatures and prices it checks alone.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tillwatch_proto::v1::{MasumiAmount, MasumiOrder};

use crate::{
    provider::{Violation, rules::Rules},
    purchase::Timestamp,
};

/// The provider's schema.
const PAYMENT_SOURCE_TYPES: &[&str] = &["Web3CardanoV1", "Web3CardanoV2"];
const AMOUNTS_MAX: usize = 7;
const SOURCE_INDEX_MAX: u32 = 24;
/// What the provider's JSON parser takes (recorded). A longer order is answered 413 before anything
/// else is looked at, also when it is repeated.
const BODY_BYTES_MAX: usize = 100 * 1024;

/// The provider's margins between its four times.
const FIVE_MINUTES: Duration = Duration::from_secs(300);
const FIFTEEN_MINUTES: Duration = Duration::from_secs(900);

/// Every field that breaks a rule of the provider.
pub(super) fn check(order: &MasumiOrder, now: Timestamp) -> Vec<Violation> {
    let mut rules = Rules::default();
    super::check_reference(&mut rules, &order.blockchain_identifier, &order.network);
    for (field, text, allowed) in [
        ("input_hash", &order.input_hash, 1..=250),
        ("seller_vkey", &order.seller_vkey, 1..=250),
        ("agent_identifier", &order.agent_identifier, 57..=250),
        (
            "identifier_from_purchaser",
            &order.identifier_from_purchaser,
            14..=26,
        ),
    ] {
        rules.required(field, text);
        rules.length(field, text, allowed);
    }
    rules.hexadecimal("input_hash", &order.input_hash);
    rules.hexadecimal(
        "identifier_from_purchaser",
        &order.identifier_from_purchaser,
    );
    check_times(&mut rules, order, now);
    check_amounts(&mut rules, &order.amounts);
    rules.one_of(
        "payment_source_type",
        &order.payment_source_type,
        PAYMENT_SOURCE_TYPES,
    );
    rules.hold(
        "supported_payment_source_index",
        order
            .supported_payment_source_index
            .is_none_or(|index| index <= SOURCE_INDEX_MAX),
        format!("is 0 to {SOURCE_INDEX_MAX}"),
    );
    for (field, text) in [
        ("smart_contract_address", &order.smart_contract_address),
        ("buyer_return_address", &order.buyer_return_address),
        ("seller_return_address", &order.seller_return_address),
    ] {
        rules.length(field, text, 1..=250);
    }
    for (field, text) in [
        ("seller_vkey", &order.seller_vkey),
        ("agent_identifier", &order.agent_identifier),
        ("metadata", &order.metadata),
        ("smart_contract_address", &order.smart_contract_address),
        ("buyer_return_address", &order.buyer_return_address),
        ("seller_return_address", &order.seller_return_address),
    ] {
        rules.no_zero_character(field, text);
    }
    // Only the metadata has no limit of its own.
    rules.hold(
        "metadata",
        body(order).to_string().len() <= BODY_BYTES_MAX,
        format!("leaves the whole request at most {BODY_BYTES_MAX} bytes"),
    );
    rules.into_violations()
}

/// The four times: each one there, and in the provider's order.
fn check_times(rules: &mut Rules, order: &MasumiOrder, now: Timestamp) {
    let mut read = |field: &str, time: Option<&prost_types::Timestamp>| {
        rules.hold(field, time.is_some(), "is required");
        let millis = time.map(time_of);
        rules.hold(
            field,
            millis != Some(None),
            "is a time of the years 1 to 9999 with 0 to 999999999 nanoseconds",
        );
        millis.flatten()
    };
    let pay_by = read("pay_by_time", order.pay_by_time.as_ref());
    let submit_result = read("submit_result_time", order.submit_result_time.as_ref());
    let unlock = read("unlock_time", order.unlock_time.as_ref());
    let dispute = read(
        "external_dispute_unlock_time",
        order.external_dispute_unlock_time.as_ref(),
    );
    let ordered = |earlier: Option<Timestamp>, margin: Duration, later: Option<Timestamp>| {
        earlier
            .zip(later)
            .is_none_or(|(earlier, later)| earlier <= later.minus(margin))
    };
    rules.hold(
        "pay_by_time",
        pay_by.is_none_or(|time| time >= now.minus(FIVE_MINUTES)),
        "is not more than 5 minutes ago",
    );
    rules.hold(
        "pay_by_time",
        ordered(pay_by, FIVE_MINUTES, submit_result),
        "is at least 5 minutes before submit_result_time",
    );
    rules.hold(
        "submit_result_time",
        ordered(Some(now), FIFTEEN_MINUTES, submit_result),
        "is at least 15 minutes ahead",
    );
    rules.hold(
        "submit_result_time",
        ordered(submit_result, FIFTEEN_MINUTES, unlock),
        "is at least 15 minutes before unlock_time",
    );
    rules.hold(
        "external_dispute_unlock_time",
        ordered(unlock, FIFTEEN_MINUTES, dispute),
        "is at least 15 minutes after unlock_time",
    );
}

fn check_amounts(rules: &mut Rules, amounts: &[MasumiAmount]) {
    rules.hold(
        "amounts",
        amounts.len() <= AMOUNTS_MAX,
        format!("has at most {AMOUNTS_MAX} entries"),
    );
    for (place, amount) in amounts.iter().enumerate().take(AMOUNTS_MAX) {
        let field = |name: &str| format!("amounts[{place}].{name}");
        let digits = amount.amount.bytes().all(|byte| byte.is_ascii_digit());
        rules.hold(
            &field("amount"),
            !amount.amount.is_empty() && digits && amount.amount.len() <= 25,
            "is an integer of 1 to 25 digits",
        );
        // The provider takes 25 digits, keeps 64 bits with a sign, and answers 500 in between. Zero
        // it takes for no price at all.
        let fits = |value: u128| (1..=i64::MAX.unsigned_abs().into()).contains(&value);
        rules.hold(
            &field("amount"),
            amount.amount.parse().map_or(true, fits),
            format!("is 1 to {}", i64::MAX),
        );
        rules.length(&field("unit"), &amount.unit, 1..=150);
        rules.no_zero_character(&field("unit"), &amount.unit);
    }
}

/// The point in time of a proto timestamp, cut to the millisecond; `None` where it is none.
fn time_of(time: &prost_types::Timestamp) -> Option<Timestamp> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    let millis = time
        .seconds
        .checked_mul(1_000)?
        .checked_add(i64::from(time.nanos / 1_000_000))?;
    Timestamp::from_millis(millis).ok()
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
