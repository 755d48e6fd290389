//! Answers beyond the table: adoptions, refusals, unclear outcomes, and shapes that mean harm.

use serde_json::{Value, json};

use super::{
    HAND_MADE_CLOCK, INPUT_HASH, asked, looked_up, observed, provider, purchase, read, submitted,
    success, with_intent,
};
use crate::{
    observation::Answer,
    provider::tests::{
        fixture::{self, answer_of, at},
        reading::{answer_line, submit_line},
    },
    purchase::Timestamp,
};

#[test]
fn a_look_up_adopts_only_what_has_our_input_hash() {
    let data = purchase(Value::Null, json!("FundsLockingRequested"), json!({}));
    let found = looked_up(&data, INPUT_HASH);
    assert_eq!(answer_line(&found), "CREATED OPEN FundsLockingRequested");
    let Answer::Observed(observation) = found else {
        panic!("{found:?}")
    };
    assert_eq!(observation.reference, Some(asked()));
    assert_eq!(answer_line(&looked_up(&data, "other")), "unreadable");
    let without = purchase(Value::Null, json!("None"), json!({ "inputHash": null }));
    assert_eq!(answer_line(&looked_up(&without, "")), "unreadable");
    let missing = with_intent("x", "Preprod", "", |intent| {
        let answer = fixture::answer("masumi", "status_error_404");
        provider().read_look_up(intent, &answer, Timestamp::default())
    });
    assert_eq!(answer_line(&missing), "not found");
}

#[test]
fn a_conflict_is_ours_by_its_input_hash_and_by_nothing_else() {
    let conflict = |change: fn(&mut Value)| {
        let mut body = fixture::file("masumi", "create_error_409_exists")["body"].take();
        change(&mut body);
        submit_line(&submitted(&answer_of(409, body.to_string())))
    };
    let ours = "accepted PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, \
                tx aaaaaa";
    assert_eq!(conflict(|_| ()), ours);
    assert_eq!(
        conflict(|body| body["error"]["message"] = json!("anything")),
        ours
    );
    assert_eq!(
        conflict(|body| body["object"]["inputHash"] = json!("other")),
        "taken"
    );
    assert_eq!(
        conflict(|body| body["object"]["inputHash"] = Value::Null),
        "unclear"
    );
    assert_eq!(
        conflict(|body| body["object"]["blockchainIdentifier"] = json!("x")),
        "unclear"
    );
    // It names our purchase, and the next read tells the rest.
    let wordless = conflict(|body| {
        body["object"]["onChainState"] = Value::Null;
        body["object"]["NextAction"] = Value::Null;
        body["object"]["CurrentTransaction"] = Value::Null;
    });
    assert_eq!(wordless, "accepted CREATED OPEN ");
    assert_eq!(conflict(|body| body["object"] = Value::Null), "unclear");
    assert_eq!(conflict(|body| body["id"] = Value::Null), "unclear");
    assert_eq!(conflict(|body| *body = json!("Purchase exists")), "unclear");
}

#[test]
fn a_submit_that_nobody_answered_in_the_providers_words_stays_unclear() {
    let refused = br#"{"status":"error","error":{"message":"a\u0000b\nc"}}"#;
    let table: &[(u16, &[u8], &str)] = &[
        (400, refused, "refused abc"),
        (404, refused, "refused abc"),
        (412, refused, "refused abc"),
        (422, refused, "refused abc"),
        (409, refused, "unclear"),
        (405, refused, "unclear"),
        (413, refused, "unclear"),
        (415, refused, "unclear"),
        (302, refused, "unclear"),
        (500, refused, "unclear"),
        (502, b"<html>", "unclear"),
        (400, b"<html>", "unclear"),
        (400, br#"{"message":"bad"}"#, "refused bad"),
        (400, br#"{"status":"error","error":"bad"}"#, "refused bad"),
        (404, b"<html>", "not sent, nowhere"),
        (404, br#"{"message":"no such app"}"#, "not sent, nowhere"),
        (403, b"<html>", "not sent, not reached"),
        (
            404,
            br#"{"status":"error","error":{"message":"Not Found"}}"#,
            "not sent, nowhere",
        ),
        (
            400,
            br#"{"status":"error","error":{"message":""}}"#,
            "unclear",
        ),
        (400, br#"{"status":"error","error":[]}"#, "unclear"),
        (401, b"", "not sent, unauthorized"),
        (403, b"", "not sent, unauthorized"),
        (429, b"", "not sent, throttled"),
        (200, b"", "unclear"),
        (200, b"[]", "unclear"),
        (200, br#"{"status":"success"}"#, "unclear"),
        (200, refused, "unclear"),
    ];
    for (status, body, expected) in table {
        let answer = answer_of(*status, body);
        let body = String::from_utf8_lossy(body);
        assert_eq!(
            submit_line(&submitted(&answer)),
            *expected,
            "{status} {body}"
        );
    }
    let other = purchase(
        Value::Null,
        json!("FundsLockingRequested"),
        json!({ "inputHash": "x" }),
    );
    assert_eq!(submit_line(&submitted(&success(&other))), "unclear");
}

#[test]
fn c3_an_accepted_create_keeps_its_reference_whatever_else_is_damaged() {
    let long = "7".repeat(9_000);
    for damage in [
        json!({ "onChainState": [] }),
        json!({ "NextAction": { "requestedAction": {} } }),
        json!({ "NextAction": 7, "PaidFunds": {} }),
        json!({ "CurrentTransaction": { "txHash": "a\tb", "fees": long } }),
        json!({ "WithdrawnForBuyer": [{ "amount": long, "unit": long }] }),
        json!({ "resultHash": "a\u{0}" }),
    ] {
        let data = purchase(Value::Null, json!("FundsLockingRequested"), damage.clone());
        let read = submit_line(&submitted(&success(&data)));
        assert!(
            read.starts_with("accepted CREATED OPEN"),
            "{damage}: {read}"
        );
    }
}

#[test]
fn a_read_that_is_no_answer_changes_nothing() {
    let table: &[(u16, &[u8], &str)] = &[
        (200, b"", "unreadable"),
        (200, b"null", "unreadable"),
        (200, b"<html>", "unreadable"),
        (200, br#"{"status":"success","data":[]}"#, "unreadable"),
        (200, br#"{"status":"success","data":{}}"#, "unreadable"),
        (200, br#"{"status":"error","data":{}}"#, "unreadable"),
        (404, b"<html>", "nowhere"),
        (
            404,
            br#"{"status":"error","error":{"message":"Can not POST /x"}}"#,
            "nowhere",
        ),
        (
            404,
            br#"{"status":"error","error":{"message":"Purchase not found"}}"#,
            "not found",
        ),
        (404, br#"{"error":"Purchase not found"}"#, "not found"),
        (404, br#"{"error":"Not Found"}"#, "nowhere"),
        (302, b"", "unreadable"),
        (400, b"", "unreadable"),
        (401, b"", "unauthorized"),
        (403, b"", "unauthorized"),
        (408, b"", "unreachable"),
        (429, b"", "throttled"),
        (500, b"", "unreachable"),
        (503, b"", "unreachable"),
    ];
    for (status, body, expected) in table {
        let answer = answer_of(*status, body);
        let read = provider().read_status(&asked(), &answer, at(HAND_MADE_CLOCK));
        let body = String::from_utf8_lossy(body);
        assert_eq!(answer_line(&read), *expected, "{status} {body}");
    }
}

#[test]
fn hostile_and_damaged_purchases_are_unreadable_or_harmless() {
    let locked = |others: Value| {
        answer_line(&read(&purchase(
            json!("FundsLocked"),
            json!("None"),
            others,
        )))
    };
    let long = "h".repeat(8_001);
    let many: Vec<Value> = vec![json!({ "amount": "1", "unit": "" }); 257];
    for unreadable in [
        json!({ "blockchainIdentifier": "another" }),
        json!({ "blockchainIdentifier": null }),
        json!({ "blockchainIdentifier": ["TEST_blockchain_identifier_0001"] }),
        json!({ "PaymentSource": { "network": "Mainnet" } }),
        json!({ "onChainState": { "is": "FundsLocked" } }),
        json!({ "onChainState": null, "NextAction": null }),
        json!({ "onChainState": "", "NextAction": { "requestedAction": "" } }),
        json!({ "onChainState": null, "NextAction": { "requestedAction": ["Ignore"] } }),
        json!({ "resultHash": long }),
        json!({ "resultHash": "a\u{0}b" }),
        json!({ "CurrentTransaction": { "txHash": long } }),
        json!({ "CurrentTransaction": { "txHash": "a\nb" } }),
        json!({ "PaidFunds": [{ "amount": "1", "unit": long }] }),
        json!({ "PaidFunds": [{ "amount": "1e9999", "unit": "" }] }),
        json!({ "CurrentTransaction": { "fees": "7".repeat(8_001) } }),
    ] {
        assert_eq!(locked(unreadable.clone()), "unreadable", "{unreadable}");
    }
    for silent in [
        json!({ "PaidFunds": null }),
        json!({ "PaidFunds": "10000000" }),
        json!({ "PaidFunds": many }),
        json!({ "PaidFunds": [{ "amount": "NaN", "unit": "" }] }),
        json!({ "PaidFunds": [], "CurrentTransaction": { "fees": "much" } }),
        json!({ "PaidFunds": [{ "amount": "1" }, { "amount": null, "unit": "" }] }),
        json!({ "PaidFunds": ["10000000"] }),
        json!({ "PaidFunds": [], "agentName": 7, "metadata": {}, "totalBuyerCardanoFees": "x" }),
        json!({ "PaidFunds": [], "CurrentTransaction": "none", "TransactionHistory": 3 }),
        json!({ "PaidFunds": [], "NextAction": 5, "payByTime": [], "PaymentSource": 1 }),
    ] {
        assert_eq!(locked(silent.clone()), "PAID OPEN FundsLocked", "{silent}");
    }
    let word = format!("Funds\u{7}Locked{}", "x".repeat(300));
    let data = purchase(json!(word), json!("None"), json!({ "PaidFunds": [] }));
    let code = observed(&data).code;
    assert_eq!(code.chars().count(), 256);
    assert!(code.starts_with("FundsLockedxx"));
}
