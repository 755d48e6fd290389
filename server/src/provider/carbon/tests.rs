//! Carbon against its fixtures, its page's samples, and answers that no page shows.

use serde_json::json;

use super::*;
use crate::{
    provider::tests::{
        fixture,
        reading::{self, outcome, said},
    },
    purchase::BuyerAction,
};

const ORDER: &str = "7c0e0000-0000-4000-8000-000000000001";
const CONTACT: &str = "ab5b0000-0000-4000-8000-000000000001";

fn provider() -> Arc<dyn Provider> {
    fixture::build(&REGISTERED, &[("secret_key", "sk_test_TESTONLY0000")])
}

fn order() -> CarbonOrder {
    CarbonOrder {
        contact_id: CONTACT.to_owned(),
        credit_debit_id: "0f610000-0000-4000-8000-000000000001".to_owned(),
        fiat_charge_amount: "10.39".to_owned(),
        cryptocurrency_symbol: "eth".to_owned(),
        receive_address: "0x0000000000000000000000000000000000000001".to_owned(),
        confirmation_url: "https://shop.example.test/carbon/confirm".to_owned(),
        success_redirect_url: "https://shop.example.test/ok".to_owned(),
        error_redirect_url: "https://shop.example.test/err".to_owned(),
        ..CarbonOrder::default()
    }
}

fn submit(answer: &Response) -> Submitted {
    let recovery = Recovery::new();
    let intent = fixture::intent(&recovery);
    fixture::placed(&provider(), Order::Carbon(order())).read(&intent, answer, fixture::now())
}

fn status(answer: &Response) -> Answer {
    provider().read_status(&reference(ORDER, CONTACT).unwrap(), answer, fixture::now())
}

/// A status answer like the settled fixture, with other details.
fn with(fields: Value) -> Response {
    let mut body = fixture::file(NAME, "status_100_settled")["body"].clone();
    for (name, value) in fields.as_object().unwrap() {
        body["details"][name] = value.clone();
    }
    fixture::answer_of(200, body.to_string())
}

/// A create's answer like the enrolled fixture, with other fields; null takes one away.
fn enrolled(fields: Value) -> Response {
    let mut body = fixture::file(NAME, "create_response_3ds_enrolled")["body"].clone();
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    fixture::answer_of(200, body.to_string())
}

#[test]
fn requests_are_those_of_the_fixtures() {
    let provider = provider();
    let recovery = Recovery::new();
    let intent = fixture::intent(&recovery);
    let create = fixture::placed(&provider, Order::Carbon(order())).request(&intent);
    fixture::assert_request(&create, NAME, "create_request");
    assert_eq!(create.connection, Connection::Fresh);
    let read = provider.status_request(&reference(ORDER, CONTACT).unwrap());
    fixture::assert_request(&read, NAME, "status_request");
    assert!(read.headers["authorization"].is_sensitive());
    assert!(!format!("{provider:?}").contains("TESTONLY"));
}

#[test]
fn optional_fields_go_out_where_they_are_set() {
    let order = CarbonOrder {
        memo: "m".to_owned(),
        rate_signature: "r".to_owned(),
        verification_redirect_url: "https://shop.example.test/v".to_owned(),
        fiat_charge_amount: "5".to_owned(),
        ..order()
    };
    let body = create::body(&order);
    assert_eq!(body["memo"], "m");
    assert_eq!(body["rateSignature"], "r");
    assert_eq!(
        body["verificationRedirectUrl"],
        "https://shop.example.test/v"
    );
    assert_eq!(body["fiatChargeAmount"], "500");
}

#[test]
fn every_status_fixture_is_read() {
    for file in fixture::names(NAME, "") {
        let expected = match file.as_str() {
            // Read in other tests.
            "create_request"
            | "create_error_412_rate_expired"
            | "create_response_3ds_enrolled"
            | "create_response_not_enrolled"
            | "status_request" => continue,
            "status_0_pending_settlement" => "DELIVERED OPEN 0",
            "status_100_settled" => "COMPLETED FINAL 100",
            "status_10_settling" => "DELIVERED OPEN 10",
            "status_1_manual_settlement" => "DELIVERED OPEN 1",
            "status_2_suspended" => "ON_HOLD OPEN 2",
            "status_3_cancelled" => "CANCELED FINAL 3",
            "status_7000_declined" => "FAILED FINAL 7000",
            "status_error_400_not_found" => "not found",
            "status_error_500" => "unreachable",
            "status_minus1_no_charge" => "CREATED OPEN -1",
            _ => panic!("{file} has no expectation"),
        };
        let answer = status(&fixture::answer(NAME, &file));
        assert_eq!(said(&answer), expected, "{file}");
    }
}

#[test]
fn every_sample_of_its_pages_is_read() {
    let order = reference("96010901-5e4a-4731-a9bb-529906af3e35", CONTACT).unwrap();
    let read = |file: &str| {
        let sample = fixture::answer("pages", file);
        provider().read_status(&order, &sample, fixture::now())
    };
    for file in fixture::names("pages", NAME) {
        let expected = match file.as_str() {
            "carbon_error" => "unreachable",
            "carbon_not_found" => "not found",
            "carbon_status_pending_settlement" => "DELIVERED OPEN 0",
            _ => panic!("{file} has no expectation"),
        };
        assert_eq!(said(&read(&file)), expected, "{file}");
    }
    let observation = reading::observed(read("carbon_status_pending_settlement"));
    assert_eq!(
        reading::amounts(&observation.amounts),
        ["ASKED 1.15 EUR", "DELIVERED 0.20166698 EOS"]
    );
    let fact = |text: &str| Some(text.to_owned());
    assert_eq!(
        observation.facts,
        [
            (
                "timeInitiated",
                fact("Tue May 21 2019 20:10:32 GMT-0400 (EDT)")
            ),
            (
                "timeCompleted",
                fact("Tue May 21 2019 20:10:34 GMT-0400 (EDT)")
            ),
        ]
    );
    assert_eq!(
        observation.transaction_hashes.unwrap(),
        ["174805e7149b694a62f6dbe2f2433d7f7ed1956f3df2539ddeec90aba0cc90ce"]
    );
    assert_eq!(observation.provider_change_time, None);
    assert_eq!(observation.buyer_action, None);
}

#[test]
fn a_quoted_amount_is_delivered_only_once_it_was_sent() {
    let quoted = ["-1", "1", "2", "3", "10", "7000", "70000", "new"];
    for word in quoted {
        let read = status(&with(json!({"status": word, "transactionHash": null})));
        let observation = reading::observed(read);
        let amounts = reading::amounts(&observation.amounts);
        let is_delivered = |line: &String| line.starts_with("DELIVERED");
        assert!(!amounts.iter().any(is_delivered), "{word}: {amounts:?}");
        assert!(!amounts.is_empty(), "{word}: what was asked stands");
    }
    for (word, hash) in [
        ("0", json!(null)),
        ("100", json!(null)),
        ("1", json!("0xa")),
        ("10", json!("0xa")),
    ] {
        let read = status(&with(json!({"status": word, "transactionHash": hash})));
        let amounts = reading::amounts(&reading::observed(read).amounts);
        assert_eq!(amounts.len(), 2, "{word}: {amounts:?}");
    }
}

#[test]
fn an_enrolled_card_is_challenged_for_an_hour() {
    let answer = fixture::answer(NAME, "create_response_3ds_enrolled");
    let observation = reading::accepted(submit(&answer));
    assert_eq!(reading::brief(&observation), "CREATED OPEN ");
    assert_eq!(observation.reference, reference(ORDER, CONTACT));
    let Some(BuyerAction::Redirect(redirect)) = observation.buyer_action else {
        panic!("no redirect");
    };
    assert_eq!(redirect.url, "https://acs.example.test/");
    assert_eq!(redirect.method, "POST");
    let form = [
        ("MD", "TUQ="),
        ("PaReq", "UEFSRVE="),
        ("TermUrl", "https://sandbox.carbon.money/v1/card/termurl"),
    ];
    let form = form.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(redirect.form_fields, BTreeMap::from(form));
    let expire_time = Timestamp::from_iso("2026-07-01T11:10:00Z").ok();
    assert_eq!(redirect.expire_time, expire_time);
}

#[test]
fn creates_end_by_what_the_answer_says() {
    let accepted = [
        json!({"orderId": null, "orderID": ORDER}),
        json!({"orderId": null, "uuid": ORDER.to_uppercase()}),
        json!({"orderId": "7", "uuid": ORDER}),
        json!({"orderId": null, "details": {"orderId": ORDER}}),
        json!({"orderId": null, "termurl": format!("https://x.test/t?a=b&orderId={ORDER}")}),
        json!({"charge3denrolled": null}),
        json!({"charge3denrolled": true}),
        json!({"acsurl": null, "pareq": {}, "md": 7}),
        json!({"orderId": "7", "orderID": {}, "details": {"uuid": ORDER}}),
    ];
    for fields in accepted {
        let what = fields.to_string();
        let observation = reading::accepted(submit(&enrolled(fields)));
        assert_eq!(observation.reference, reference(ORDER, CONTACT), "{what}");
    }
    let table = [
        (json!({"orderId": null}), "accepted without reference"),
        (
            json!({"orderId": "", "details": []}),
            "accepted without reference",
        ),
        (json!({"orderId": "../x"}), "unclear"),
        (json!({"orderId": 12345}), "unclear as 12345"),
        (
            json!({"orderId": "01J8ZK3V9QW4RX5T6Y7U8I9O0P"}),
            "unclear as 01J8ZK3V9QW4RX5T6Y7U8I9O0P",
        ),
        (json!({"charge3denrolled": "N"}), "refused"),
        (json!({"charge3denrolled": "U", "orderId": null}), "refused"),
        (json!({"charge3denrolled": "E", "message": null}), "refused"),
        (json!({"charge3denrolled": false}), "refused"),
    ];
    for (fields, expected) in table {
        let what = fields.to_string();
        let ended = submit(&enrolled(fields));
        let ended = match ended {
            Submitted::Refused { .. } => "refused".to_owned(),
            ended => reading::submit_line(&ended),
        };
        assert_eq!(ended, expected, "{what}");
    }
    for damaged in [
        json!({"pareq": "x".repeat(20 * 1024)}),
        json!({"md": "x".repeat(20 * 1024)}),
    ] {
        let observation = reading::accepted(submit(&enrolled(damaged)));
        assert_eq!(observation.reference, reference(ORDER, CONTACT));
        assert_eq!(observation.buyer_action, None, "half a form helps nobody");
    }
    let script = reading::accepted(submit(&enrolled(json!({"acsurl": "javascript:alert(1)"}))));
    assert_eq!(script.buyer_action, None);
}

#[test]
fn refusals_are_read_in_the_providers_own_shape() {
    let refused = |file| submit(&fixture::answer(NAME, file));
    let message = |text: &str| Submitted::Refused {
        message: text.to_owned(),
    };
    assert_eq!(
        refused("create_error_412_rate_expired"),
        message("rate signature expired")
    );
    assert_eq!(
        refused("create_response_not_enrolled"),
        message("card not enrolled")
    );
    let table = [
        (400, json!({"message": "bad", "code": 400}), "refused"),
        (422, json!({"message": "bad", "code": "422"}), "refused"),
        (404, json!({"message": "Not Found"}), "not sent"),
        (
            404,
            json!({"message": "Not Found", "code": 404}),
            "not sent",
        ),
        (404, json!({"message": "bad", "code": 404}), "refused"),
        (
            404,
            json!({"message": "Cannot POST /v1/card/charge3d"}),
            "not sent",
        ),
        (400, json!({"message": "bad"}), "refused"),
        (422, json!({"error": {"message": "bad"}}), "refused"),
        (409, json!({"errors": ["bad"]}), "refused"),
        (400, json!({"message": "bad", "code": 500}), "unclear"),
        (400, json!({"code": 400}), "unclear"),
        (402, json!({"message": "bad", "code": 402}), "unclear"),
        (
            500,
            json!({"message": "internal server error", "code": 500}),
            "unclear",
        ),
        (401, json!({}), "not sent"),
        (403, json!({}), "not sent"),
        (429, json!({}), "not sent"),
    ];
    for (code, body, expected) in table {
        let submitted = submit(&fixture::answer_of(code, body.to_string()));
        assert_eq!(outcome(&submitted), expected, "{code} {body}");
    }
}

#[test]
fn answers_vary() {
    let table = [
        (json!({"status": 100}), "COMPLETED FINAL 100"),
        (json!({"status": -1}), "CREATED OPEN -1"),
        (
            json!({"status": "1", "transactionHash": ""}),
            "PROCESSING OPEN 1",
        ),
        (
            json!({"status": 10, "transactionHash": null}),
            "PROCESSING OPEN 10",
        ),
        (json!({"status": "1", "transactionHash": {}}), "unreadable"),
        (
            json!({"status": "1", "transactionHash": true}),
            "unreadable",
        ),
        (
            json!({"status": 1, "transactionHash": false}),
            "PROCESSING OPEN 1",
        ),
        (
            json!({"paymentDetails": {"chargeAmount": "1e9999"}}),
            "unreadable",
        ),
        (
            json!({"status": "100", "transactionHash": {}}),
            "COMPLETED FINAL 100",
        ),
        (
            json!({"status": "0", "transactionHash": null}),
            "DELIVERED OPEN 0",
        ),
        (json!({"status": "70000"}), "FAILED TERMINAL 70000"),
        (json!({"status": "200"}), "UNMAPPED 200"),
        (json!({"status": "settled"}), "UNMAPPED settled"),
        (json!({"status": null}), "unreadable"),
        (json!({"status": {"code": 100}}), "unreadable"),
        (json!({"uuid": CONTACT}), "unreadable"),
        (json!({"uuid": ORDER.to_uppercase()}), "COMPLETED FINAL 100"),
        (
            json!({"uuid": null, "paymentDetails": 7, "timeInitiated": {}}),
            "COMPLETED FINAL 100",
        ),
        (json!({"transactionHash": "x".repeat(8_001)}), "unreadable"),
    ];
    for (fields, expected) in table {
        let what = fields.to_string();
        assert_eq!(said(&status(&with(fields))), expected, "{what}");
    }
    let table = [
        (
            400,
            json!({"message": "No order found ", "code": "400"}),
            "not found",
        ),
        (400, json!({"message": "no order found"}), "not found"),
        (400, json!({"error": "no order found"}), "not found"),
        (
            400,
            json!({"message": "bad contact", "code": 400}),
            "unreadable",
        ),
        (
            404,
            json!({"message": "no order found", "code": 404}),
            "not found",
        ),
        (
            200,
            json!({"message": "no order found", "code": 400}),
            "unreadable",
        ),
        (401, json!({}), "unauthorized"),
        (429, json!({}), "throttled"),
    ];
    for (code, body, expected) in table {
        let answer = status(&fixture::answer_of(code, body.to_string()));
        assert_eq!(said(&answer), expected, "{code} {body}");
    }
}

#[test]
fn ends_have_their_reasons_and_a_suspension_calls_for_a_person() {
    let table = [
        ("3", Some(FailureReason::Canceled), None),
        ("7000", Some(FailureReason::Declined), None),
        ("70000", Some(FailureReason::Declined), None),
        ("100", None, None),
        ("2", None, Some(AttentionReason::ProviderManualAction)),
    ];
    for (code, failure, attention) in table {
        let observation = reading::observed(status(&with(json!({"status": code}))));
        assert_eq!(observation.failure, failure, "{code}");
        assert_eq!(observation.attention, attention, "{code}");
    }
}

#[test]
fn hostile_answers_change_nothing() {
    for (what, body) in fixture::hostile_bodies() {
        let read = status(&fixture::answer_of(200, body.as_str()));
        assert_eq!(said(&read), "unreadable", "{what}");
        for code in [301, 400, 404, 409, 412, 422, 500] {
            let submitted = submit(&fixture::answer_of(code, body.as_str()));
            let expected = if code == 404 { "not sent" } else { "unclear" };
            assert_eq!(outcome(&submitted), expected, "{code} {what}");
        }
        // Nothing but an own, explicit word refuses, and nothing but an id is a name.
        let submitted = submit(&fixture::answer_of(200, body));
        let expected = match what {
            "empty object" | "wrong types" | "not utf-8 text" => "accepted without reference",
            _ => "unclear",
        };
        assert_eq!(outcome(&submitted), expected, "{what}");
    }
}

#[test]
fn steps_back_are_in_the_graph() {
    let graph = provider().graph();
    for (from, to, expected) in [
        ("-1", "100", true),
        ("10", "1", true),
        ("0", "2", true),
        ("100", "10", false),
        ("3", "0", false),
        ("7000", "0", false),
        ("7000", "70000", true),
        ("", "100", true),
    ] {
        assert_eq!(graph.allows(from, to), expected, "{from} to {to}");
    }
}

#[test]
fn orders_are_checked() {
    let check = |change: fn(&mut CarbonOrder), expected: &[&str]| {
        let mut order = order();
        change(&mut order);
        let violations =
            fixture::placed(&provider(), Order::Carbon(order)).violations(fixture::now());
        assert_eq!(fixture::fields(&violations), expected);
    };
    check(|_| (), &[]);
    check(|order| order.contact_id.clear(), &["contact_id"]);
    check(
        |order| order.contact_id = "../x".to_owned(),
        &["contact_id"],
    );
    check(
        |order| order.credit_debit_id = "a\n".to_owned(),
        &["credit_debit_id"],
    );
    check(
        |order| order.credit_debit_id = "x".repeat(256),
        &["credit_debit_id"],
    );
    check(|order| order.credit_debit_id.clear(), &["credit_debit_id"]);
    check(|order| order.credit_debit_id = "card_1".to_owned(), &[]);
    check(
        |order| order.fiat_charge_amount = "10.391".to_owned(),
        &["fiat_charge_amount"],
    );
    check(
        |order| order.fiat_charge_amount = "0".to_owned(),
        &["fiat_charge_amount"],
    );
    check(
        |order| order.fiat_charge_amount = "1e2".to_owned(),
        &["fiat_charge_amount"],
    );
    check(|order| order.fiat_charge_amount = "10.390".to_owned(), &[]);
    check(
        |order| order.cryptocurrency_symbol.clear(),
        &["cryptocurrency_symbol"],
    );
    check(|order| order.receive_address.clear(), &["receive_address"]);
    check(|order| order.memo = "a\n".to_owned(), &["memo"]);
    check(
        |order| order.confirmation_url.clear(),
        &["confirmation_url"],
    );
    check(
        |order| order.success_redirect_url = "/ok".to_owned(),
        &["success_redirect_url"],
    );
    check(
        |order| order.error_redirect_url = format!("https://x.test/{}", "x".repeat(2_048)),
        &["error_redirect_url"],
    );
    check(
        |order| order.verification_redirect_url = "javascript:1".to_owned(),
        &["verification_redirect_url"],
    );
}

#[test]
fn references_are_held_to_their_shape() {
    let message = |order_id: &str, contact_id: &str| ProviderReference {
        reference: Some(Named::Carbon(CarbonReference {
            order_id: order_id.to_owned(),
            contact_id: contact_id.to_owned(),
        })),
    };
    let provider = provider();
    let reference = provider.reference(&message(ORDER, CONTACT)).unwrap();
    assert_eq!(
        (super::REGISTERED.reference_message)(&reference),
        message(ORDER, CONTACT)
    );
    let upper = message(&ORDER.to_uppercase(), &CONTACT.to_uppercase());
    assert_eq!(provider.reference(&upper), Ok(reference));
    for (order, contact, expected) in [
        ("../x", CONTACT, vec!["order_id"]),
        (ORDER, "", vec!["contact_id"]),
        ("", "a&b=c", vec!["contact_id", "order_id"]),
    ] {
        let violations = provider.reference(&message(order, contact)).unwrap_err();
        assert_eq!(fixture::fields(&violations), expected);
    }
    assert!(provider.reference(&ProviderReference::default()).is_err());
}

#[test]
fn times_are_as_the_design_says() {
    let provider = provider();
    let failed = fixture::status(State::Failed, Finality::Terminal);
    assert_eq!(provider.horizon(&failed, None), Some(DAY * 7));
    assert_eq!(provider.horizon(&failed, Some(DAY)), Some(DAY));
    let open = |state| fixture::status(state, Finality::Open);
    assert_eq!(provider.stale_after(&open(State::Created)), DAY);
    assert_eq!(provider.stale_after(&open(State::Delivered)), DAY * 7);
    let schedule = (REGISTERED.policy)().schedule;
    for (age_s, every_s) in [(0, 5), (299, 5), (300, 30), (1_799, 30), (1_800, 600)] {
        assert_eq!(
            schedule.every(Duration::from_secs(age_s)),
            Duration::from_secs(every_s)
        );
    }
    assert_eq!(provider.unclear(), Unclear::AskNobody);
    assert_eq!(provider.decimal_fields(), ["fiat_charge_amount"]);
    assert!(matches!(
        (REGISTERED.build)(&BTreeMap::new()),
        Err(SettingsError::Missing("secret_key"))
    ));
}
