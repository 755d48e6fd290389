//! The provider's requests and answers, held to its fixtures.

mod orders;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tillwatch_proto::v1::{DevdraftOrder, create_purchase_request::Order};

use super::REGISTERED;
use crate::{
    observation::{Answer, Observation, Submitted, Trouble},
    provider::{
        Intent, Provider, Recovery, Unclear,
        tests::{
            fixture::{self, answer_of, answer_with, at},
            reading::{answer_line, submit_line},
        },
    },
    purchase::{PurchaseId, Reference, Secret, Status, Timestamp},
    upstream::Response,
};

const CLOCK: &str = "2026-07-01T10:10:00Z";
const KEY: &str = "11111111-1111-4111-8111-111111111111";
const ID: &str = "txn_01TEST0000000000000000000A";

const CLIENT_KEY: &str = "ck_TESTONLY";
const CLIENT_SECRET: &str = "cs_TESTONLY";

fn secrets(client_key: &str, client_secret: &str) -> BTreeMap<String, Secret> {
    BTreeMap::from([
        ("client_key".to_owned(), Secret::new(client_key)),
        ("client_secret".to_owned(), Secret::new(client_secret)),
    ])
}

fn provider() -> Arc<dyn Provider> {
    (REGISTERED.build)(&secrets(CLIENT_KEY, CLIENT_SECRET)).unwrap()
}

fn with_intent<T>(recovery: &Recovery, then: impl FnOnce(&Intent<'_>) -> T) -> T {
    then(&Intent {
        purchase: PurchaseId::from_u128(1),
        create_time: at(CLOCK),
        recovery,
        matches: &|_, _| panic!("no field decides whose an intent is"),
    })
}

fn recovery() -> Recovery {
    Recovery::from([("idempotency_key".to_owned(), KEY.to_owned())])
}

fn asked(id: &str) -> Reference {
    Reference::new([("transaction_id", id)])
}

fn submitted(answer: &Response) -> Submitted {
    with_intent(&recovery(), |intent| {
        let order = Order::Devdraft(DevdraftOrder::default());
        fixture::placed(&provider(), order).read(intent, answer, at(CLOCK))
    })
}

fn read_of(id: &str, answer: &Response) -> Answer {
    provider().read_status(&asked(id), answer, at(CLOCK))
}

fn ok(body: &Value) -> Response {
    answer_of(200, body.to_string().as_bytes())
}

fn observed(body: &Value) -> Observation {
    match read_of(ID, &ok(body)) {
        Answer::Observed(observation) => *observation,
        other => panic!("{other:?}"),
    }
}

/// The fixtures' intent with fields set on top.
fn intent(others: Value) -> Value {
    let mut body = fixture::file("devdraft", "status_awaiting_funds")["body"].take();
    for (field, value) in others.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

/// The status table: each documented answer, and the provider's own page.
const ANSWERS: &[(&str, &str)] = &[
    ("create_error_400", "refused amount must be a number string"),
    (
        "create_error_409_idempotency",
        "refused Idempotency key already used with different parameters",
    ),
    (
        "create_error_idempotency_mismatch_variant",
        "refused Keys can only be used for requests with identical parameters",
    ),
    (
        "create_response_201",
        "accepted CREATED OPEN pending, ASKED 100.00 usdc",
    ),
    (
        "status_awaiting_funds",
        "AWAITING_PAYMENT OPEN AWAITING_FUNDS, ASKED 100.00 usdc",
    ),
    (
        "status_canceled",
        "CANCELED FINAL CANCELED, failure CANCELED, ASKED 100.00 usdc",
    ),
    (
        "status_disputed",
        "DISPUTED OPEN DISPUTED, ASKED 100.00 usdc",
    ),
    (
        "status_error",
        "FAILED TERMINAL ERROR, !PROVIDER_MANUAL_ACTION, failure ERROR, ASKED 100.00 usdc",
    ),
    ("status_error_401", "unauthorized"),
    ("status_error_404", "not found"),
    ("status_error_429", "throttled"),
    (
        "status_funds_received",
        "PAID OPEN FUNDS_RECEIVED, ASKED 100.00 usdc",
    ),
    (
        "status_in_review",
        "IN_REVIEW OPEN IN_REVIEW, ASKED 100.00 usdc",
    ),
    (
        "status_payment_processed",
        "COMPLETED TERMINAL PAYMENT_PROCESSED, ASKED 100.00 usdc",
    ),
    (
        "status_payment_submitted",
        "PROCESSING OPEN PAYMENT_SUBMITTED, ASKED 100.00 usdc",
    ),
    (
        "status_refunded",
        "REFUNDED TERMINAL REFUNDED, ASKED 100.00 usdc",
    ),
    (
        "status_returned",
        "RETURNED TERMINAL RETURNED, failure UNDELIVERABLE, ASKED 100.00 usdc",
    ),
    (
        "status_undeliverable",
        "FAILED TERMINAL UNDELIVERABLE, failure UNDELIVERABLE, ASKED 100.00 usdc",
    ),
];

#[test]
fn documented_answers_are_read_by_the_status_table() {
    let mut present = fixture::names("devdraft", "");
    present.retain(|name| !name.contains("_request"));
    let expected = ANSWERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(present, expected, "each file has one line");
    for (name, line) in ANSWERS {
        let answer = fixture::answer("devdraft", name);
        let read = if name.starts_with("create_") {
            submit_line(&submitted(&answer))
        } else {
            answer_line(&read_of(ID, &answer))
        };
        assert_eq!(read, *line, "{name}");
    }
}

#[test]
fn the_provider_pages_samples_are_read_by_the_status_table() {
    let present = fixture::names("pages", "devdraft");
    let table = [
        (
            "devdraft_status_processed",
            "COMPLETED TERMINAL PAYMENT_PROCESSED, ASKED 100.00 usdc",
        ),
        ("devdraft_unauthorized", "unauthorized"),
    ];
    assert_eq!(
        present,
        table.iter().map(|(name, _)| (*name).to_owned()).collect()
    );
    for (name, line) in table {
        let answer = fixture::answer("pages", name);
        assert_eq!(
            answer_line(&read_of("txn_01HZXK8M9N2P3Q4R5S6T7U8V9W", &answer)),
            line
        );
    }
}

#[test]
fn the_reference_transfer_and_change_time_are_kept_and_the_customer_is_not() {
    let accepted = submitted(&fixture::answer("devdraft", "create_response_201"));
    let Submitted::Accepted(created) = accepted else {
        panic!("{accepted:?}")
    };
    assert_eq!(created.reference, Some(asked(ID)));
    assert_eq!(
        created.facts,
        [("bridge_transfer_id", Some("transfer_test0001".to_owned()))]
    );
    assert_eq!(
        created.provider_change_time,
        Some(at("2023-07-01T12:00:00Z"))
    );
    let observation = observed(&intent(
        json!({ "bridge_transfer_id": null, "updated_at": 5 }),
    ));
    assert_eq!(observation.facts, [("bridge_transfer_id", None)]);
    assert_eq!(observation.provider_change_time, None);
    for observation in [*created, observation] {
        let kept = format!("{observation:?}");
        for personal in ["Person", "t@example.test", "Test St", "+1000"] {
            assert!(!kept.contains(personal), "{personal} in {kept}");
        }
    }
}

/// Promise D2.
#[test]
fn a_transfer_is_a_fact_and_cut_as_facts_are() {
    let fact = |value: Value| observed(&intent(json!({ "bridge_transfer_id": value }))).facts;
    let name = "bridge_transfer_id";
    let long = "é".repeat(300);
    let table = [
        (json!(long), vec![(name, Some("é".repeat(256)))]),
        (json!("a\u{0}b"), vec![(name, Some("ab".to_owned()))]),
        (json!(7), vec![(name, Some("7".to_owned()))]),
        (json!(""), vec![(name, None)]),
        (json!({}), vec![]),
    ];
    for (value, expected) in table {
        assert_eq!(fact(value.clone()), expected, "{value}");
    }
}

#[test]
fn the_wait_of_a_429_is_in_its_body_as_well() {
    let throttled = |headers: Value, body: Value| {
        let answer = answer_with(429, &headers, body.to_string());
        let read = read_of(ID, &answer);
        let submitted = submitted(&answer);
        match (read, submitted) {
            (Answer::Trouble(read), Submitted::NotSent(sent)) if read == sent => match read {
                Trouble::Throttled { retry_after } => retry_after.map(|wait| wait.as_secs()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    let header = json!({ "Retry-After": "7" });
    assert_eq!(throttled(header, json!({ "retryAfter": 45 })), Some(7));
    assert_eq!(throttled(json!({}), json!({ "retryAfter": 45 })), Some(45));
    assert_eq!(
        throttled(json!({}), json!({ "retryAfter": "45" })),
        Some(45)
    );
    assert_eq!(
        throttled(json!({}), json!({ "retryAfter": 9_999 })),
        Some(3_600)
    );
    assert_eq!(throttled(json!({}), json!({ "retryAfter": null })), None);
}

#[test]
fn words_are_read_in_either_field_and_case_and_unknown_ones_are_kept() {
    let table = [
        (
            json!({ "status": null, "state": "awaiting_funds" }),
            "AWAITING_PAYMENT OPEN awaiting_funds",
        ),
        (
            json!({ "status": "", "state": "pending" }),
            "CREATED OPEN pending",
        ),
        (
            json!({ "state": "pending" }),
            "AWAITING_PAYMENT OPEN AWAITING_FUNDS",
        ),
        (
            json!({ "status": "REFUND_IN_FLIGHT" }),
            "REFUND_PENDING OPEN REFUND_IN_FLIGHT",
        ),
        (
            json!({ "status": "refund_failed" }),
            "ON_HOLD OPEN refund_failed, !PROVIDER_MANUAL_ACTION",
        ),
        (
            json!({ "status": "MISSING_RETURN_POLICY" }),
            "ON_HOLD OPEN MISSING_RETURN_POLICY, !PROVIDER_MANUAL_ACTION",
        ),
        (json!({ "status": 7 }), "UNMAPPED 7"),
        (json!({ "status": null }), "unreadable"),
        (json!({ "status": ["CANCELED"] }), "unreadable"),
        (json!({ "status": null, "state": {} }), "unreadable"),
    ];
    for (others, expected) in table {
        let mut body = intent(others.clone());
        body["amount"] = Value::Null;
        assert_eq!(answer_line(&read_of(ID, &ok(&body))), expected, "{others}");
    }
}

#[test]
fn hostile_and_damaged_intents_are_unreadable_or_harmless() {
    for unreadable in [
        json!({ "id": "txn_another" }),
        json!({ "amount": "1e9999" }),
    ] {
        let read = answer_line(&read_of(ID, &ok(&intent(unreadable.clone()))));
        assert_eq!(read, "unreadable", "{unreadable}");
    }
    let table = [
        (json!({ "amount": null }), ""),
        (json!({ "amount": {} }), ""),
        (json!({ "amount": "much" }), ""),
        (json!({ "id": null }), ", ASKED 100.00 usdc"),
        (json!({ "id": [ID] }), ", ASKED 100.00 usdc"),
        (
            json!({ "source": { "currency": "us\u{0}dc" } }),
            ", ASKED 100.00 usdc",
        ),
        (json!({ "amount": 100.10 }), ", ASKED 100.1 usdc"),
        (json!({ "source": null }), ", ASKED 100.00 "),
        (json!({ "source": "usdc" }), ", ASKED 100.00 "),
        (
            json!({ "customer": [], "destination": 1, "created_at": {} }),
            ", ASKED 100.00 usdc",
        ),
        (json!({ "bridge_transfer_id": {} }), ", ASKED 100.00 usdc"),
    ];
    for (others, rest) in table {
        let read = answer_line(&read_of(ID, &ok(&intent(others.clone()))));
        assert_eq!(
            read,
            format!("AWAITING_PAYMENT OPEN AWAITING_FUNDS{rest}"),
            "{others}"
        );
    }
}

#[test]
fn a_submit_that_nobody_answered_in_the_providers_words_stays_unclear() {
    let nest = |status: u16, message: Value| {
        json!({ "statusCode": status, "message": message, "error": "x" }).to_string()
    };
    let table = [
        (400, nest(400, json!("a\u{0}b")), "refused ab"),
        (
            400,
            nest(400, json!(["one", 2, "three"])),
            "refused one; three",
        ),
        (
            404,
            nest(404, json!("App not found")),
            "refused App not found",
        ),
        (409, nest(409, json!("used")), "refused used"),
        (412, nest(412, json!("x")), "refused x"),
        (422, nest(422, json!("x")), "refused x"),
        (
            404,
            nest(404, json!("Cannot POST /v0/x")),
            "not sent, nowhere",
        ),
        (400, nest(404, json!("y")), "refused y"),
        (400, nest(400, json!([])), "refused x"),
        (400, nest(400, json!(null)), "refused x"),
        (400, nest(500, json!("y")), "unclear"),
        (400, json!({ "message": "x" }).to_string(), "refused x"),
        (
            400,
            json!({ "error": { "message": "x" } }).to_string(),
            "refused x",
        ),
        (
            404,
            json!({ "message": "x" }).to_string(),
            "not sent, nowhere",
        ),
        (
            400,
            json!({ "error": { "type": "t", "code": "c" } }).to_string(),
            "refused c",
        ),
        (404, "<html>".to_owned(), "not sent, nowhere"),
        (404, nest(404, json!("Not Found")), "not sent, nowhere"),
        (403, "<html>".to_owned(), "not sent, not reached"),
        (405, nest(405, json!("x")), "unclear"),
        (500, nest(500, json!("x")), "unclear"),
        (302, String::new(), "unclear"),
        (401, String::new(), "not sent, unauthorized"),
        (403, String::new(), "not sent, unauthorized"),
        (429, String::new(), "not sent, throttled"),
        (201, String::new(), "unclear"),
        (201, json!({ "state": "pending" }).to_string(), "unclear"),
        (201, json!({ "id": "../x" }).to_string(), "unclear"),
        (
            201,
            json!({ "id": "txn_a" }).to_string(),
            "accepted CREATED OPEN ",
        ),
        (
            201,
            json!({ "id": "txn_test-0_1" }).to_string(),
            "accepted CREATED OPEN ",
        ),
        (
            200,
            json!({ "id": "txn_a", "state": "new" }).to_string(),
            "accepted UNMAPPED new",
        ),
        (
            201,
            json!({ "id": "6f1c2a5e-2b3d-4e0f-9a01-000000000001" }).to_string(),
            "accepted CREATED OPEN ",
        ),
        (
            201,
            json!({ "data": { "id": "txn_a", "state": "pending" } }).to_string(),
            "accepted CREATED OPEN pending",
        ),
        (
            201,
            json!({ "id": "txn_a", "state": {}, "amount": "7".repeat(9_000) }).to_string(),
            "accepted CREATED OPEN ",
        ),
        (
            201,
            json!({ "id": "ORD:2026|7" }).to_string(),
            "unclear as ORD:2026|7",
        ),
    ];
    for (status, body, expected) in table {
        let answer = answer_of(status, body.as_bytes());
        assert_eq!(
            submit_line(&submitted(&answer)),
            expected,
            "{status} {body}"
        );
    }
}

#[test]
fn a_read_that_is_no_answer_changes_nothing() {
    let unknown_route = json!({ "statusCode": 404, "message": "Cannot GET /x", "error": "x" });
    let table = [
        (200, String::new(), "unreadable"),
        (200, "[]".to_owned(), "unreadable"),
        (404, "<html>".to_owned(), "nowhere"),
        (404, unknown_route.to_string(), "nowhere"),
        (400, String::new(), "unreadable"),
        (302, String::new(), "unreadable"),
        (401, String::new(), "unauthorized"),
        (403, String::new(), "unauthorized"),
        (408, String::new(), "unreachable"),
        (429, String::new(), "throttled"),
        (500, String::new(), "unreachable"),
    ];
    for (status, body, expected) in table {
        let answer = answer_of(status, body.as_bytes());
        assert_eq!(
            answer_line(&read_of(ID, &answer)),
            expected,
            "{status} {body}"
        );
    }
}

#[test]
fn an_unclear_submit_is_repeated_with_its_key_and_ends_are_followed_for_a_month() {
    let within = Duration::from_secs(23 * 3_600);
    assert_eq!(provider().unclear(), Unclear::RepeatWithKey { within });
    let status = Status::pending(Timestamp::default());
    let month = Duration::from_secs(30 * 86_400);
    assert_eq!(provider().horizon(&status, None), Some(month));
    assert_eq!(provider().horizon(&status, Some(within)), Some(within));
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(provider().stale_after(&status), week);
    let policy = (REGISTERED.policy)();
    assert_eq!(policy.requests_per_minute, 100);
    for (age, every) in [(0, 5), (299, 5), (300, 30), (1_799, 30), (1_800, 120)] {
        assert_eq!(
            policy.schedule.every(Duration::from_secs(age)),
            Duration::from_secs(every)
        );
    }
}

#[test]
fn steps_of_the_providers_table_are_expected_and_others_are_not() {
    let table = [
        ("pending", "PAYMENT_PROCESSED", true),
        ("AWAITING_FUNDS", "CANCELED", true),
        ("FUNDS_RECEIVED", "IN_REVIEW", true),
        ("PAYMENT_PROCESSED", "DISPUTED", true),
        ("PAYMENT_PROCESSED", "RETURNED", true),
        ("UNDELIVERABLE", "REFUNDED", true),
        ("DISPUTED", "PAYMENT_PROCESSED", true),
        ("ERROR", "REFUNDED", true),
        ("FUNDS_RECEIVED", "AWAITING_FUNDS", false),
        ("PAYMENT_PROCESSED", "FUNDS_RECEIVED", false),
        ("FUNDS_RECEIVED", "CANCELED", false),
        ("PAYMENT_PROCESSED", "pending", false),
        ("AWAITING_FUNDS", "REFUND_IN_FLIGHT", true),
        ("PAYMENT_SUBMITTED", "MISSING_RETURN_POLICY", true),
        ("PAYMENT_PROCESSED", "REFUND_FAILED", true),
        ("REFUND_FAILED", "REFUNDED", true),
        ("ERROR", "PAYMENT_SUBMITTED", true),
        ("REFUND_IN_FLIGHT", "PAYMENT_SUBMITTED", false),
    ];
    for (from, to, expected) in table {
        assert_eq!(
            provider().graph().allows(from, to),
            expected,
            "{from} → {to}"
        );
    }
    for word in [
        "AWAITING_FUNDS",
        "IN_REVIEW",
        "FUNDS_RECEIVED",
        "PAYMENT_SUBMITTED",
        "PAYMENT_PROCESSED",
        "UNDELIVERABLE",
        "RETURNED",
        "REFUNDED",
        "CANCELED",
        "ERROR",
        "DISPUTED",
        "pending",
    ] {
        assert!(provider().graph().allows(word, "ERROR"), "{word}");
        assert!(provider().graph().allows(word, "DISPUTED"), "{word}");
    }
}
