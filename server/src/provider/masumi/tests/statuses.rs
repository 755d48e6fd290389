//! Statuses: the whole table, deadlines, facts, amounts, hashes and steps.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    HAND_MADE_CLOCK, INPUT_HASH, looked_up, observed, provider, purchase, read, read_at, submitted,
    success,
};
use crate::{
    provider::tests::{
        fixture::{self, at},
        reading::{answer_line, submit_line},
    },
    purchase::{Finality, State, Status, Timestamp},
};

#[test]
fn every_word_has_its_row() {
    let table = [
        (
            "",
            "FundsLockingRequested",
            "CREATED OPEN FundsLockingRequested",
        ),
        (
            "",
            "FundsLockingInitiated",
            "CONFIRMING OPEN FundsLockingInitiated",
        ),
        (
            "",
            "WaitingForManualAction",
            "ON_HOLD OPEN WaitingForManualAction, !PROVIDER_MANUAL_ACTION",
        ),
        ("", "Ignore", "CANCELED TERMINAL Ignore, failure CANCELED"),
        ("", "None", "UNMAPPED None"),
        (
            "",
            "WaitingForExternalAction",
            "UNMAPPED WaitingForExternalAction",
        ),
        (
            "",
            "WithdrawRefundRequested",
            "UNMAPPED WithdrawRefundRequested",
        ),
        ("", "SomethingNew", "UNMAPPED SomethingNew"),
        (
            "FundsOrDatumInvalid",
            "WaitingForExternalAction",
            "ON_HOLD OPEN FundsOrDatumInvalid, !PROVIDER_MANUAL_ACTION",
        ),
        (
            "FundsLocked",
            "WaitingForExternalAction",
            "PAID OPEN FundsLocked",
        ),
        (
            "ResultSubmitted",
            "WaitingForExternalAction",
            "DELIVERED OPEN ResultSubmitted",
        ),
        (
            "WithdrawAuthorized",
            "WaitingForExternalAction",
            "DELIVERED OPEN WithdrawAuthorized",
        ),
        (
            "RefundRequested",
            "WithdrawRefundInitiated",
            "REFUND_PENDING OPEN RefundRequested",
        ),
        (
            "RefundAuthorized",
            "WithdrawRefundRequested",
            "REFUND_PENDING OPEN RefundAuthorized",
        ),
        (
            "Disputed",
            "AuthorizeWithdrawalRequested",
            "DISPUTED OPEN Disputed",
        ),
        ("Withdrawn", "None", "COMPLETED TERMINAL Withdrawn"),
        (
            "RefundWithdrawn",
            "None",
            "REFUNDED TERMINAL RefundWithdrawn",
        ),
        (
            "DisputedWithdrawn",
            "None",
            "DISPUTE_SETTLED TERMINAL DisputedWithdrawn",
        ),
        ("SomethingNew", "None", "UNMAPPED SomethingNew"),
        ("fundslocked", "None", "UNMAPPED fundslocked"),
    ];
    for (state, action, expected) in table {
        let state = if state.is_empty() {
            Value::Null
        } else {
            json!(state)
        };
        let data = purchase(state, json!(action), json!({ "PaidFunds": [] }));
        assert_eq!(answer_line(&read(&data)), expected);
    }
}

#[test]
fn attention_follows_the_action_on_any_row() {
    let table = [
        (
            "Withdrawn",
            "WaitingForManualAction",
            Value::Null,
            "COMPLETED TERMINAL Withdrawn, !PROVIDER_MANUAL_ACTION",
        ),
        (
            "FundsLocked",
            "None",
            json!("NetworkError"),
            "PAID OPEN FundsLocked, !PROVIDER_MANUAL_ACTION",
        ),
        (
            "FundsLocked",
            "None",
            json!("SomethingNew"),
            "PAID OPEN FundsLocked, !PROVIDER_MANUAL_ACTION",
        ),
        (
            "FundsLocked",
            "Ignore",
            json!(""),
            "PAID OPEN FundsLocked, !IGNORED_BY_PROVIDER",
        ),
        (
            "FundsLocked",
            "Ignore",
            json!("Unknown"),
            "PAID OPEN FundsLocked, !PROVIDER_MANUAL_ACTION",
        ),
        (
            "Withdrawn",
            "Ignore",
            Value::Null,
            "COMPLETED TERMINAL Withdrawn, !IGNORED_BY_PROVIDER",
        ),
        (
            "",
            "Ignore",
            json!("Unknown"),
            "CANCELED TERMINAL Ignore, !PROVIDER_MANUAL_ACTION, failure CANCELED",
        ),
        (
            "SomethingNew",
            "WaitingForManualAction",
            Value::Null,
            "UNMAPPED SomethingNew, !PROVIDER_MANUAL_ACTION",
        ),
    ];
    for (state, action, error, expected) in table {
        let state = if state.is_empty() {
            Value::Null
        } else {
            json!(state)
        };
        let mut data = purchase(state, json!(action), json!({ "PaidFunds": [] }));
        data["NextAction"]["errorType"] = error;
        assert_eq!(answer_line(&read(&data)), expected);
    }
}

const MINUTE: i64 = 60_000;

/// The reading of a purchase so long after its time to pay: by a read, a look-up and a create's
/// answer, of which the last never lets anything expire.
fn check_late(late: i64, state: &str, action: &str, transaction: &Value, expected: &str) {
    let pay_by = at(HAND_MADE_CLOCK).as_millis() - late;
    let state_value = if state.is_empty() {
        Value::Null
    } else {
        json!(state)
    };
    let data = purchase(
        state_value,
        json!(action),
        json!({
            "payByTime": pay_by.to_string(),
            "CurrentTransaction": transaction,
            "PaidFunds": [],
        }),
    );
    let read = answer_line(&read(&data));
    assert!(
        read.starts_with(expected),
        "{late} {state} {action}: {read}"
    );
    assert_eq!(
        answer_line(&looked_up(&data, INPUT_HASH)),
        read,
        "a look-up is a fresh read"
    );
    let created = submit_line(&submitted(&success(&data)));
    assert!(
        created.starts_with("accepted ") && !created.contains("EXPIRED"),
        "{created}"
    );
}

#[test]
fn a_purchase_expires_an_hour_after_its_pay_by_time_and_only_on_a_fresh_read() {
    let (requested, manual) = ("FundsLockingRequested", "WaitingForManualAction");
    let invalid = "FundsOrDatumInvalid";
    let late = "CREATED OPEN FundsLockingRequested, !PAY_BY_TIME_PASSED";
    let held = "ON_HOLD OPEN WaitingForManualAction, !PROVIDER_MANUAL_ACTION";
    let held_invalid = "ON_HOLD OPEN FundsOrDatumInvalid, !PROVIDER_MANUAL_ACTION";
    let expired = "EXPIRED TERMINAL";
    let table = [
        (60 * MINUTE - 1, "", requested, late),
        (60 * MINUTE, "", requested, expired),
        (60 * MINUTE - 1, "", manual, held),
        (60 * MINUTE, "", manual, expired),
        (60 * MINUTE - 1, invalid, manual, held_invalid),
        (60 * MINUTE, invalid, manual, expired),
        (60 * MINUTE, invalid, requested, expired),
        (15 * MINUTE, "", requested, late),
    ];
    for (late, state, action, expected) in table {
        check_late(late, state, action, &Value::Null, expected);
    }
    let created = "CREATED OPEN FundsLockingRequested";
    let data = |late: i64| {
        let pay_by = at(HAND_MADE_CLOCK).as_millis() - late;
        let others = json!({ "payByTime": pay_by.to_string() });
        answer_line(&read(&purchase(Value::Null, json!(requested), others)))
    };
    assert_eq!(data(15 * MINUTE - 1), created);
    assert_eq!(data(-1), created);
}

#[test]
fn nothing_expires_while_funds_may_be_on_their_way() {
    let transaction = json!({ "txHash": null, "status": "Pending", "fees": null });
    let manual = "WaitingForManualAction";
    let table = [
        (
            "",
            "FundsLockingRequested",
            &transaction,
            "CREATED OPEN FundsLockingRequested, !PAY_BY",
        ),
        ("", manual, &transaction, "ON_HOLD OPEN"),
        ("FundsOrDatumInvalid", manual, &transaction, "ON_HOLD OPEN"),
        (
            "FundsOrDatumInvalid",
            "WaitingForExternalAction",
            &Value::Null,
            "ON_HOLD OPEN",
        ),
        (
            "",
            "FundsLockingInitiated",
            &Value::Null,
            "CONFIRMING OPEN FundsLockingInitiated, !PAY_BY",
        ),
        (
            "",
            "Ignore",
            &Value::Null,
            "CANCELED TERMINAL Ignore, failure CANCELED",
        ),
        (
            "",
            "SomethingNew",
            &Value::Null,
            "UNMAPPED SomethingNew, !PAY_BY",
        ),
        (
            "FundsLocked",
            manual,
            &Value::Null,
            "PAID OPEN FundsLocked, !PROV",
        ),
        (
            "SomethingNew",
            manual,
            &Value::Null,
            "UNMAPPED SomethingNew, !PROV",
        ),
    ];
    for (state, action, transaction, expected) in table {
        check_late(600 * MINUTE, state, action, transaction, expected);
    }
}

#[test]
fn nothing_expires_once_funds_have_shown_in_any_field() {
    let evidence = [
        json!({ "SmartContractWallet": { "walletVkey": "v" } }),
        json!({ "totalBuyerCardanoFees": "0.17" }),
        json!({ "totalBuyerCardanoFees": 170_000 }),
        json!({ "TransactionHistory": [{ "txHash": "a1" }] }),
    ];
    let nothing = [
        json!({}),
        json!({ "SmartContractWallet": null, "totalBuyerCardanoFees": 0 }),
        json!({ "totalBuyerCardanoFees": "0.0", "TransactionHistory": [{ "txHash": null }] }),
    ];
    let late = |mut fields: Value| {
        fields["payByTime"] = json!((at(HAND_MADE_CLOCK).as_millis() - 120 * MINUTE).to_string());
        fields["CurrentTransaction"] = Value::Null;
        purchase(
            json!("FundsOrDatumInvalid"),
            json!("FundsLockingRequested"),
            fields,
        )
    };
    for fields in evidence {
        let seen = observed(&late(fields.clone()));
        assert_eq!(
            crate::provider::tests::reading::brief(&seen),
            "ON_HOLD OPEN FundsOrDatumInvalid",
            "{fields}"
        );
        assert!(seen.funds_moved, "{fields}");
    }
    for fields in nothing {
        let seen = observed(&late(fields.clone()));
        assert_eq!(
            crate::provider::tests::reading::brief(&seen),
            "EXPIRED TERMINAL FundsOrDatumInvalid",
            "{fields}"
        );
        let before = crate::observation::Standing::Mapped(State::OnHold, Finality::Open);
        assert_eq!(seen.before_deadline, Some(before));
        assert!(!seen.funds_moved, "{fields}");
    }
}

#[test]
fn an_action_that_the_providers_jobs_write_beside_an_error_waits_for_a_person() {
    for action in ["WaitingForExternalAction", "WithdrawRequested", "New"] {
        let mut data = purchase(Value::Null, json!(action), json!({}));
        data["NextAction"]["errorType"] = json!("Unknown");
        data["NextAction"]["errorNote"] = json!("Timeout when locking");
        let expected = format!("ON_HOLD OPEN {action}, !PROVIDER_MANUAL_ACTION");
        let read = answer_line(&read(&data));
        assert!(read.starts_with(&expected), "{read}");
    }
    let mut data = purchase(Value::Null, json!("FundsLockingRequested"), json!({}));
    data["NextAction"]["errorType"] = json!("Unknown");
    let read = answer_line(&read(&data));
    let expected = "CREATED OPEN FundsLockingRequested, !PROVIDER_MANUAL_ACTION";
    assert!(read.starts_with(expected), "{read}");
}

#[test]
fn an_expired_purchase_keeps_its_word_and_names_the_deadline() {
    let read_an_hour_late = |state: Value, action: &str| {
        let data = purchase(state, json!(action), json!({ "PaidFunds": [] }));
        answer_line(&read_at(&data, at("2026-07-01T12:00:00Z")))
    };
    assert_eq!(
        read_an_hour_late(Value::Null, "FundsLockingRequested"),
        "EXPIRED TERMINAL FundsLockingRequested, !PAY_BY_TIME_PASSED, failure TIMED_OUT, \
         cause DEADLINE"
    );
    assert_eq!(
        read_an_hour_late(json!("FundsOrDatumInvalid"), "WaitingForManualAction"),
        "EXPIRED TERMINAL FundsOrDatumInvalid, !PROVIDER_MANUAL_ACTION, failure TIMED_OUT, \
         cause DEADLINE"
    );
}

#[test]
fn a_pay_by_time_that_is_none_lets_nothing_expire() {
    // The samples of the provider's schema are in seconds.
    for pay_by in [
        json!(null),
        json!(""),
        json!("0"),
        json!("1713626260"),
        json!("soon"),
        json!({}),
    ] {
        let data = purchase(
            Value::Null,
            json!("FundsLockingRequested"),
            json!({ "payByTime": pay_by }),
        );
        let read = answer_line(&read_at(&data, at("2027-07-01T00:00:00Z")));
        assert_eq!(read, "CREATED OPEN FundsLockingRequested", "{pay_by}");
    }
}

#[test]
fn facts_speak_only_of_what_the_answer_has() {
    let data = fixture::file("masumi", "status_withdrawn")["body"]["data"].take();
    let facts = |data: &Value| -> Vec<(&'static str, Option<String>)> { observed(data).facts };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        facts(&data),
        [
            ("requestedAction", some("None")),
            ("errorType", None),
            ("resultHash", some(&"b1".repeat(32))),
            ("payByTime", some("1782903600000")),
            ("submitResultTime", some("1782907200000")),
            ("unlockTime", some("1782910800000")),
            ("externalDisputeUnlockTime", some("1782914400000")),
            ("transactionStatus", some("Confirmed")),
        ]
    );
    let mut older = data;
    for field in [
        "payByTime",
        "submitResultTime",
        "unlockTime",
        "externalDisputeUnlockTime",
    ] {
        older.as_object_mut().unwrap().remove(field);
    }
    older["resultHash"] = json!("");
    older["NextAction"] = json!({ "requestedAction": "None" });
    older["CurrentTransaction"] = Value::Null;
    assert_eq!(
        facts(&older),
        [
            ("requestedAction", some("None")),
            // An action without an error has none, whatever an earlier one had.
            ("errorType", None),
            ("resultHash", None),
            ("transactionStatus", None)
        ]
    );
    older["resultHash"] = json!({ "nested": true });
    older["NextAction"] = json!("None");
    older["CurrentTransaction"] = json!([]);
    assert_eq!(facts(&older), []);
}

#[test]
fn the_newest_of_three_stamps_is_the_change_time() {
    let stamps = |next: &str, chain: &str, either: &str| {
        let mut data = purchase(json!("FundsLocked"), json!("None"), json!({}));
        data["nextActionLastChangedAt"] = json!(next);
        data["onChainStateOrResultLastChangedAt"] = json!(chain);
        data["nextActionOrOnChainStateOrResultLastChangedAt"] = json!(either);
        observed(&data).provider_change_time
    };
    let (early, late) = ("2026-07-01T10:00:00.001Z", "2026-07-01T10:00:00.002Z");
    assert_eq!(stamps(early, late, early), Some(at(late)));
    assert_eq!(stamps(late, early, early), Some(at(late)));
    assert_eq!(stamps(early, early, late), Some(at(late)));
    assert_eq!(stamps("", "never", early), Some(at(early)));
    assert_eq!(stamps("", "", ""), None);
}

#[test]
fn hashes_are_given_oldest_first_and_once() {
    let hashes = |history: Value, current: Value| {
        let others = json!({ "TransactionHistory": history, "CurrentTransaction": current });
        observed(&purchase(json!("FundsLocked"), json!("None"), others)).transaction_hashes
    };
    let some = |hashes: &[&str]| Some(hashes.iter().map(|hash| (*hash).to_owned()).collect());
    assert_eq!(hashes(Value::Null, Value::Null), None);
    assert_eq!(hashes(json!([]), json!({ "txHash": null })), None);
    assert_eq!(hashes(Value::Null, json!({ "txHash": "c" })), some(&["c"]));
    assert_eq!(
        hashes(
            json!([
                { "txHash": "b", "createdAt": "2026-07-01T10:01:00.000Z" },
                { "txHash": "a", "createdAt": "2026-07-01T10:00:00.000Z" },
                { "txHash": "c", "createdAt": "2026-07-01T10:02:00.000Z" },
                { "txHash": null, "createdAt": "2026-07-01T10:03:00.000Z" },
            ]),
            json!({ "txHash": "c" })
        ),
        some(&["a", "b", "c"])
    );
}

#[test]
fn amounts_keep_their_digits_and_name_their_unit() {
    let exact = json!({ "PaidFunds": [
        { "amount": "9999999999999999999999999", "unit": "" },
        { "amount": 12345678901234567890123_u128, "unit": "policy.token" },
    ] });
    let data = purchase(json!("FundsLocked"), json!("None"), exact);
    assert_eq!(
        answer_line(&read(&data)),
        "PAID OPEN FundsLocked, PAID 9999999999999999999999999 lovelace, \
         PAID 12345678901234567890123 policy.token"
    );
}

#[test]
fn an_end_on_chain_is_held_while_the_provider_is_at_work() {
    let horizon = |state, action: Option<&str>, configured: Option<u64>| {
        let mut status = Status::pending(Timestamp::default());
        status.state = state;
        status.finality = Finality::Terminal;
        let action = action.map(|action| ("requestedAction".to_owned(), action.to_owned()));
        status.facts.extend(action);
        let configured = configured.map(Duration::from_secs);
        provider()
            .horizon(&status, configured)
            .map(|horizon| horizon.as_secs())
    };
    let day = 86_400;
    let open = Status::pending(Timestamp::default());
    assert_eq!(provider().stale_after(&open).as_secs(), 7 * day);
    for state in [State::Completed, State::Refunded, State::DisputeSettled] {
        assert_eq!(horizon(state, Some("None"), None), Some(day));
        assert_eq!(horizon(state, None, None), Some(day));
        assert_eq!(horizon(state, Some("None"), Some(5)), Some(5));
        assert_eq!(horizon(state, Some("WaitingForManualAction"), None), None);
        assert_eq!(
            horizon(state, Some("WaitingForManualAction"), Some(5)),
            None
        );
    }
    assert_eq!(horizon(State::Canceled, Some("Ignore"), None), Some(day));
    assert_eq!(
        horizon(State::Expired, Some("FundsLockingRequested"), Some(5)),
        Some(5)
    );
}

#[test]
fn steps_of_the_providers_table_are_expected_and_others_are_not() {
    let table = [
        ("FundsLockingRequested", "FundsLocked", true),
        ("FundsLockingRequested", "Withdrawn", true),
        ("FundsLockingInitiated", "FundsLockingRequested", true),
        ("WaitingForManualAction", "FundsLockingRequested", true),
        ("Ignore", "FundsLocked", true),
        ("FundsLockingRequested", "FundsOrDatumInvalid", true),
        ("RefundRequested", "FundsLocked", true),
        ("Disputed", "ResultSubmitted", true),
        ("FundsLocked", "FundsLockingRequested", false),
        ("FundsLocked", "FundsOrDatumInvalid", false),
        ("Withdrawn", "FundsLocked", false),
        ("RefundWithdrawn", "Withdrawn", false),
        ("Withdrawn", "SomethingNew", true),
    ];
    for (from, to, expected) in table {
        assert_eq!(
            provider().graph().allows(from, to),
            expected,
            "{from} → {to}"
        );
    }
}
