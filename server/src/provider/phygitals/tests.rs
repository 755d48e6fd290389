//! Phygitals against its fixtures, its page's samples, and answers that no page shows.

use serde_json::json;

use super::*;
use crate::provider::tests::{
    fixture,
    reading::{self, outcome, said},
};

const SESSION: &str = "6f1c2a5e-2b3d-4e0f-9a01-000000000001";

fn provider() -> Arc<dyn Provider> {
    fixture::build(&REGISTERED, &[("api_key", "phy_TESTONLY0000000000000000")])
}

fn order() -> PhygitalsOrder {
    PhygitalsOrder {
        claw_id: "CLaw111111111111111111111111111111111111111".to_owned(),
        amount: 1,
        currency: "usdc".to_owned(),
        chain: "solana".to_owned(),
        txs: vec!["AQIDBAUGBwg=".to_owned()],
        extra_data_json: "{\"client_ref\": \"ord-1001\"}".to_owned(),
        ..PhygitalsOrder::default()
    }
}

fn submit(answer: &Response) -> Submitted {
    let recovery = Recovery::new();
    let order = Order::Phygitals(order());
    fixture::placed(&provider(), order).read(&fixture::intent(&recovery), answer, fixture::now())
}

fn status(session: &str, answer: &Response) -> Answer {
    provider().read_status(&reference(session).unwrap(), answer, fixture::now())
}

#[test]
fn requests_are_those_of_the_fixtures() {
    let provider = provider();
    let recovery = Recovery::new();
    let order = Order::Phygitals(order());
    let create = fixture::placed(&provider, order).request(&fixture::intent(&recovery));
    fixture::assert_request(&create, NAME, "create_request");
    assert_eq!(create.connection, Connection::Fresh);
    let read = provider.status_request(&reference(SESSION).unwrap());
    fixture::assert_request(&read, NAME, "status_request");
    assert_eq!(read.connection, Connection::Pooled);
    assert!(read.headers["x-api-key"].is_sensitive());
    assert!(!format!("{provider:?}").contains("TESTONLY"));
}

#[test]
fn optional_fields_go_out_untouched() {
    let order = PhygitalsOrder {
        voucher_id: "v1".to_owned(),
        buyer_wallet: "w1".to_owned(),
        permit_data_json: "{\"value\": 1.50, \"z\":1e400,\"a\" :[2]}".to_owned(),
        ..order()
    };
    let recovery = Recovery::new();
    let order = Order::Phygitals(order);
    let request = fixture::placed(&provider(), order).request(&fixture::intent(&recovery));
    let body = String::from_utf8(request.body.unwrap().to_vec()).unwrap();
    assert!(body.contains("\"permit_data\":{\"value\": 1.50, \"z\":1e400,\"a\" :[2]}"));
    assert!(body.contains("\"voucher_id\":\"v1\",\"buyer_wallet\":\"w1\""));
    assert!(body.contains("\"extraData\":{\"client_ref\": \"ord-1001\"}"));
}

#[test]
fn every_status_fixture_is_read() {
    for file in fixture::names(NAME, "status_") {
        let expected = match file.as_str() {
            "status_request" => continue,
            "status_error_400_failed" => "FAILED FINAL Transaction failed",
            "status_error_401" => "unauthorized",
            "status_error_429" => "throttled",
            "status_fulfilled" => "COMPLETED FINAL fulfilled",
            "status_pending_empty_nfts" | "status_pending_toplevel" => "PROCESSING OPEN pending",
            _ => panic!("{file} has no expectation"),
        };
        let answer = status(SESSION, &fixture::answer(NAME, &file));
        assert_eq!(said(&answer), expected, "{file}");
    }
}

#[test]
fn every_create_fixture_is_read() {
    for file in fixture::names(NAME, "create_") {
        let expected = match file.as_str() {
            "create_request" => continue,
            "create_error_400" => "refused",
            "create_error_401" | "create_error_429" => "not sent",
            "create_response_fulfilled" | "create_response_pending" => "accepted",
            _ => panic!("{file} has no expectation"),
        };
        let submitted = submit(&fixture::answer(NAME, &file));
        assert_eq!(outcome(&submitted), expected, "{file}");
    }
    let others = fixture::names(NAME, "").len()
        - fixture::names(NAME, "status_").len()
        - fixture::names(NAME, "create_").len();
    assert_eq!(
        others, 0,
        "a fixture is neither of a create nor of a status"
    );
}

#[test]
fn every_sample_of_its_pages_is_read() {
    let session = "550e8400-e29b-41d4-a716-446655440000";
    for file in fixture::names("pages", NAME) {
        let expected = match file.as_str() {
            "phygitals_status_failed" => "FAILED FINAL Transaction failed",
            "phygitals_status_fulfilled" => "COMPLETED FINAL fulfilled",
            "phygitals_unauthorized" => "unauthorized",
            _ => panic!("{file} has no expectation"),
        };
        let answer = status(session, &fixture::answer("pages", &file));
        assert_eq!(said(&answer), expected, "{file}");
    }
}

#[test]
fn a_fulfilled_create_says_all_at_once() {
    let fulfilled = fixture::answer(NAME, "create_response_fulfilled");
    let observation = reading::accepted(submit(&fulfilled));
    assert_eq!(
        observation.standing,
        Standing::Mapped(State::Completed, Finality::Final)
    );
    assert_eq!(observation.code, FULFILLED);
    assert_eq!(observation.reference, reference(SESSION));
    assert_eq!(
        observation.facts,
        [("public_id", Some("_t0000001".to_owned()))]
    );
    assert_eq!(reading::amounts(&observation.amounts), ["ASKED 25.0"]);
    assert_eq!(
        observation.transaction_hashes.as_deref(),
        Some(["5KnTESTsig1111".to_owned()].as_slice())
    );
    let item = Item {
        id: "MiNt1111111111111111111111111111111111111".to_owned(),
        kind: "enft".to_owned(),
        name: "2023 Sample Rookie /99".to_owned(),
        image_url: "https://cdn.example.test/cards/1.png".to_owned(),
    };
    assert_eq!(observation.items, Some(vec![item]));
    assert_eq!(observation.failure, None);
}

#[test]
fn a_pending_create_is_processing_and_silent_about_items() {
    let pending = fixture::answer(NAME, "create_response_pending");
    let observation = reading::accepted(submit(&pending));
    assert_eq!(reading::brief(&observation), "PROCESSING OPEN pending");
    assert_eq!(observation.items, None);
}

#[test]
fn failure_has_its_reason() {
    let failed = fixture::answer(NAME, "status_error_400_failed");
    let observation = reading::observed(status(SESSION, &failed));
    assert_eq!(observation.failure, Some(FailureReason::TransactionFailed));
}

#[test]
fn answers_vary() {
    let pending = "PROCESSING OPEN pending";
    let done = "COMPLETED FINAL fulfilled";
    let partial = "COMPLETED TERMINAL fulfilled";
    let table = [
        (200, json!({"result": {"session_id": SESSION}}), pending),
        (
            200,
            json!({"result": {"session_id": SESSION, "nfts": null}}),
            pending,
        ),
        (
            200,
            json!({"result": {"nfts": [], "status": "pending"}}),
            pending,
        ),
        (200, json!({"result": null, "status": "pending"}), pending),
        (
            200,
            json!({"result": {"session_id": SESSION, "total": "free", "tx_hash": {}, "public_id": []}}),
            pending,
        ),
        (
            200,
            json!({"result": {"session_id": null, "nfts": null, "tx_hash": false}}),
            pending,
        ),
        (200, json!({"result": {"total": "25"}}), pending),
        (200, json!({"result": {}}), pending),
        (
            201,
            json!({"result": {"nfts": [{"mint_address": "m"}]}}),
            done,
        ),
        (
            200,
            json!({"result": {"nfts": [null, {"id": 7, "content": 7}]}, "status": "x"}),
            partial,
        ),
        (200, json!({"status": "refunding"}), "UNMAPPED refunding"),
        (
            200,
            json!({"status": "failed", "result": {"session_id": SESSION, "nfts": []}}),
            "UNMAPPED failed",
        ),
        (
            200,
            json!({"result": {"session_id": "another", "nfts": [{}]}}),
            "unreadable",
        ),
        (200, json!({"result": []}), "unreadable"),
        (
            200,
            json!({"result": {"nfts": vec![json!({}); ITEMS_MAX + 1]}}),
            "unreadable",
        ),
        (
            200,
            json!({"result": {"session_id": SESSION, "nfts": "many"}}),
            "unreadable",
        ),
        (
            200,
            json!({"result": {"session_id": SESSION, "nfts": [1]}}),
            "unreadable",
        ),
        (200, json!({"error": FAILED}), "unreadable"),
        (400, json!({"error": "Session expired"}), "unreachable"),
        (400, json!({"error": [FAILED]}), "unreachable"),
        (400, json!({"message": FAILED}), "unreachable"),
        (404, json!({"error": "Not found"}), "nowhere"),
        (302, json!({"status": "pending"}), "unreadable"),
        (403, json!({}), "unauthorized"),
        (408, json!({}), "unreachable"),
        (503, json!({}), "unreachable"),
    ];
    for (code, body, expected) in table {
        let answer = status(SESSION, &fixture::answer_of(code, body.to_string()));
        assert_eq!(said(&answer), expected, "{code} {body}");
    }
}

#[test]
fn pieces_need_identifiers_and_nothing_beside_them() {
    let pending = "PROCESSING OPEN pending";
    let done = "COMPLETED FINAL fulfilled";
    let partial = "COMPLETED TERMINAL fulfilled";
    let table = [
        (200, json!({"result": {"nfts": ["m"]}}), done),
        (200, json!({"result": {"nfts": ["m", ""]}}), partial),
        (200, json!({"session_id": SESSION, "nfts": []}), pending),
        (
            200,
            json!({"session_id": SESSION, "nfts": [{"id": "m"}]}),
            done,
        ),
        (
            200,
            json!({"session_id": "another", "nfts": [{"id": "m"}]}),
            "unreadable",
        ),
        (
            200,
            json!({"status": "pending", "result": {"nfts": [{"id": "m"}]}}),
            partial,
        ),
        (200, json!({"result": {"nfts": [{}]}}), "unreadable"),
        (
            200,
            json!({"status": "pending", "result": {"nfts": [{"id": null}]}}),
            "unreadable",
        ),
        (
            200,
            json!({"result": {"nfts": [{"id": "m\u{fffd}"}]}}),
            "unreadable",
        ),
    ];
    for (code, body, expected) in table {
        let answer = status(SESSION, &fixture::answer_of(code, body.to_string()));
        assert_eq!(said(&answer), expected, "{code} {body}");
    }
}

#[test]
fn hostile_answers_change_nothing() {
    for (what, body) in fixture::hostile_bodies() {
        let read = status(SESSION, &fixture::answer_of(200, body.as_str()));
        assert_eq!(said(&read), "unreadable", "{what}");
        for code in [200, 201, 301, 400, 402, 404, 409, 412, 422, 500, 502] {
            let submitted = submit(&fixture::answer_of(code, body.as_str()));
            let expected = if code == 404 { "not sent" } else { "unclear" };
            assert_eq!(outcome(&submitted), expected, "{code} {what}");
        }
    }
    let long = "x".repeat(observation::IDENTIFIER_BYTES_MAX + 1);
    let body = json!({"result": {"session_id": SESSION, "tx_hash": long}}).to_string();
    let read = status(SESSION, &fixture::answer_of(200, body.as_str()));
    assert_eq!(said(&read), "unreadable");

    let word = format!("a\u{0}\n{}", "é".repeat(400));
    let body = json!({"status": word, "result": {"session_id": SESSION, "public_id": word}});
    let observation =
        reading::observed(status(SESSION, &fixture::answer_of(200, body.to_string())));
    assert_eq!(observation.code.chars().count(), 256);
    assert!(!observation.code.contains(char::is_control));
    let (_, fact) = &observation.facts[0];
    assert_eq!(fact.as_deref(), Some(observation.code.as_str()));
}

#[test]
fn submits_end_by_what_the_answer_says() {
    let table = [
        (
            200,
            json!({"result": {"public_id": "p"}}),
            "accepted without reference",
        ),
        (200, json!({"result": {"session_id": "../x"}}), "unclear"),
        (200, json!({"session_id": SESSION, "nfts": []}), "accepted"),
        (200, json!({"status": "pending"}), "unclear"),
        (
            200,
            json!({"result": {"session_id": SESSION, "nfts": 7}}),
            "accepted",
        ),
        (404, json!({"message": "Not Found"}), "not sent"),
        (400, json!({"error": "claw is sold out"}), "refused"),
        (404, json!({"message": "no such claw"}), "refused"),
        (
            404,
            json!({"message": "Cannot POST /api/vm/buy/crypto"}),
            "not sent",
        ),
        (422, json!({"errors": [{"message": "bad"}]}), "refused"),
        (
            200,
            json!({"result": {"session_id": "sess:aB3=+@|~"}}),
            "accepted",
        ),
        (409, json!({"error": {"nested": true}}), "unclear"),
        (403, json!({}), "not sent"),
        (500, json!({"error": "oops"}), "unclear"),
        (418, json!({"error": "teapot"}), "unclear"),
    ];
    for (code, body, expected) in table {
        let submitted = submit(&fixture::answer_of(code, body.to_string()));
        assert_eq!(outcome(&submitted), expected, "{code} {body}");
    }
    let body = json!({"error": format!("bad\n{}", "x".repeat(300))}).to_string();
    let Submitted::Refused { message } = submit(&fixture::answer_of(400, body)) else {
        panic!("not refused");
    };
    let told = crate::provider::told(&*provider(), &message);
    assert_eq!(told.chars().count(), 256);
    assert!(told.starts_with("badxxx"));
}

#[test]
fn c3_an_accepted_create_keeps_its_session_whatever_else_is_damaged() {
    let many = vec![json!({}); ITEMS_MAX + 1];
    for damage in [
        json!({"nfts": {"0": {}}}),
        json!({"nfts": "many"}),
        json!({"nfts": [{}]}),
        json!({"nfts": many}),
        json!({"total": "9".repeat(9_000)}),
        json!({"tx_hash": "a\tb"}),
        json!({"tx_hash": "x".repeat(9_000)}),
    ] {
        let mut body = json!({"result": damage});
        body["result"]["session_id"] = json!(SESSION);
        let answer = fixture::answer_of(200, body.to_string());
        let observation = reading::accepted(submit(&answer));
        assert_eq!(observation.reference, reference(SESSION));
        assert_eq!(reading::brief(&observation), "PROCESSING OPEN pending");
    }
    let half = r#"{"result":{"session_id":"s-1","nfts":[{"id":"m","content":{"metadata":{"name":"Rookie \ud83d"}}}]}}"#;
    let observation = reading::accepted(submit(&fixture::answer_of(200, half)));
    assert_eq!(observation.items.unwrap()[0].name, "Rookie \u{fffd}");
}

#[test]
fn fewer_pieces_than_were_pulled_are_not_final() {
    let provider = provider();
    let order = PhygitalsOrder {
        amount: 3,
        ..order()
    };
    let order = Order::Phygitals(order);
    let placed = fixture::placed(&provider, order);
    let recovery = placed.recovery(fixture::purchase(), uuid::Uuid::nil());
    let answer = |pieces: usize| {
        let pieces: Vec<Value> = (0..pieces)
            .map(|id| json!({"id": format!("m{id}")}))
            .collect();
        let body = json!({"result": {"session_id": SESSION, "nfts": pieces}});
        fixture::answer_of(200, body.to_string())
    };
    for (pieces, expected) in [
        (1, "COMPLETED TERMINAL fulfilled"),
        (2, "COMPLETED TERMINAL fulfilled"),
        (3, "COMPLETED FINAL fulfilled"),
        (4, "COMPLETED FINAL fulfilled"),
    ] {
        let mut read = reading::observed(status(SESSION, &answer(pieces)));
        provider.compare(&recovery, &mut read);
        assert_eq!(reading::brief(&read), expected, "{pieces}");
        let intent = fixture::intent(&recovery);
        let created = placed.read(&intent, &answer(pieces), fixture::now());
        let created = reading::accepted(created);
        assert_eq!(reading::brief(&created), expected, "{pieces}");
    }
    let mut adopted = reading::observed(status(SESSION, &answer(1)));
    provider.compare(&Recovery::new(), &mut adopted);
    assert_eq!(reading::brief(&adopted), "COMPLETED FINAL fulfilled");
}

#[test]
fn orders_are_checked() {
    let check = |change: fn(&mut PhygitalsOrder), expected: &[&str]| {
        let mut order = order();
        change(&mut order);
        let violations =
            fixture::placed(&provider(), Order::Phygitals(order)).violations(fixture::now());
        assert_eq!(fixture::fields(&violations), expected);
    };
    check(|_| (), &[]);
    check(|order| order.claw_id.clear(), &["claw_id"]);
    check(|order| order.claw_id = "x".repeat(256), &["claw_id"]);
    check(|order| order.claw_id = "a\nb".to_owned(), &["claw_id"]);
    check(|order| order.amount = 0, &["amount"]);
    check(|order| order.currency = " ".to_owned(), &["currency"]);
    check(|order| order.chain.clear(), &["chain"]);
    check(|order| order.txs.clear(), &["txs"]);
    check(|order| order.txs.push("!".to_owned()), &["txs"]);
    check(|order| order.txs.push(String::new()), &["txs"]);
    check(|order| order.txs = vec!["AQIDBAUGBwg".to_owned()], &[]);
    check(|order| order.txs = vec!["AQ==".to_owned(); 65], &["txs"]);
    check(
        |order| {
            order.txs.clear();
            order.voucher_id = "v".to_owned();
        },
        &[],
    );
    check(
        |order| order.extra_data_json = "[1]".to_owned(),
        &["extra_data_json"],
    );
    check(
        |order| order.extra_data_json = "{".to_owned(),
        &["extra_data_json"],
    );
    check(
        |order| order.permit_data_json = format!("{{\"a\":\"{}\"}}", "x".repeat(16 * 1024)),
        &["permit_data_json"],
    );
    let existing = Order::Existing(ProviderReference::default());
    assert!(provider().order(&existing).is_none());
}

#[test]
fn references_are_held_to_their_shape() {
    let message = |session_id: &str| ProviderReference {
        reference: Some(Named::Phygitals(PhygitalsReference {
            session_id: session_id.to_owned(),
        })),
    };
    let provider = provider();
    let longest = "x".repeat(IDENTIFIER_BYTES_MAX);
    for good in [SESSION, "a", "A.b_c-9", "sess:aB3=+@|~", &longest] {
        let reference = provider.reference(&message(good)).unwrap();
        assert_eq!(
            (super::REGISTERED.reference_message)(&reference),
            message(good)
        );
    }
    let longer = format!("{longest}x");
    for bad in ["", "..", "../x", "a b", "a/b", "a%2f", "é", "a\n", &longer] {
        let violations = provider.reference(&message(bad)).unwrap_err();
        assert_eq!(fixture::fields(&violations), ["session_id"], "{bad:?}");
    }
    assert!(provider.reference(&ProviderReference::default()).is_err());
}

#[test]
fn the_policy_is_the_documented_one() {
    let policy = (REGISTERED.policy)();
    assert!(policy.long_poll && !policy.sweep);
    assert_eq!(policy.creates_per_minute, 1);
    assert_eq!(policy.requests_per_minute, 0);
    assert_eq!(policy.schedule.first(), Duration::from_millis(750));
    assert!(policy.timeout >= Duration::from_secs(15));
    let open = fixture::status(State::Processing, Finality::Open);
    assert_eq!(provider().stale_after(&open), Duration::from_secs(3_600));
    assert!(provider().horizon(&open, None).is_some());
    assert_eq!(provider().unclear(), Unclear::AskNobody);
    assert!(matches!(
        (REGISTERED.build)(&BTreeMap::new()),
        Err(SettingsError::Missing("api_key"))
    ));
}
