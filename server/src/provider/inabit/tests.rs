//! Inabit against its fixtures, its page's sample, and answers that no page shows.

mod look_up;
mod pages;

use serde_json::json;

use super::*;
use crate::provider::tests::{
    fixture,
    reading::{self, outcome, said},
};

const ID: &str = "0b7a1c9e-1111-4222-8333-000000000001";

fn provider() -> Arc<dyn Provider> {
    fixture::build(
        &REGISTERED,
        &[
            ("organization_api_key", "TESTONLY-org-key"),
            ("widget_api_key", "TESTONLY-widget-key"),
        ],
    )
}

fn order() -> InabitOrder {
    InabitOrder {
        title: "Order 3001".to_owned(),
        sub_title: "One item".to_owned(),
        site_name: "shop.example.test".to_owned(),
        purchase_identifier: "ord-3001".to_owned(),
        fiat_amount: "2.50".to_owned(),
        fiat_currency: "USD".to_owned(),
    }
}

fn recovery(order: InabitOrder) -> Recovery {
    fixture::placed(&provider(), Order::Inabit(order))
        .recovery(fixture::purchase(), uuid::Uuid::nil())
}

fn submit(answer: &Response) -> Submitted {
    let recovery = recovery(order());
    let placed = fixture::placed(&provider(), Order::Inabit(order()));
    placed.read(&fixture::intent(&recovery), answer, fixture::now())
}

fn status(answer: &Response) -> Answer {
    provider().read_status(&reference(ID).unwrap(), answer, fixture::now())
}

/// A status answer like the allocated fixture, with other fields.
fn with(fields: Value) -> Response {
    let mut body = fixture::file(NAME, "status_allocated")["body"].clone();
    for (name, value) in fields.as_object().unwrap() {
        body["data"][name] = value.clone();
    }
    fixture::answer_of(200, body.to_string())
}

#[test]
fn requests_are_those_of_the_fixtures() {
    let provider = provider();
    let recovery = recovery(order());
    let intent = fixture::intent(&recovery);
    let create = fixture::placed(&provider, Order::Inabit(order())).request(&intent);
    fixture::assert_request(&create, NAME, "create_request");
    assert_eq!(create.connection, Connection::Fresh);
    let read = provider.status_request(&reference(ID).unwrap());
    fixture::assert_request(&read, NAME, "status_request_org");
    let search = provider.look_up_request(&intent).unwrap();
    fixture::assert_request_but_body(&search, NAME, "search_request");
    let body: Value = serde_json::from_slice(&search.body.unwrap()).unwrap();
    assert_eq!(body, json!({"searchText": "ord-3001"}));
    assert!(
        provider
            .look_up_request(&fixture::intent(&Recovery::new()))
            .is_none()
    );
    for request in [create, read] {
        assert!(request.headers["authorization"].is_sensitive());
    }
    assert!(!format!("{provider:?}").contains("TESTONLY"));
}

#[test]
fn an_order_without_identifier_carries_the_purchases_id() {
    let order = InabitOrder {
        purchase_identifier: String::new(),
        sub_title: String::new(),
        fiat_amount: "1234567.10".to_owned(),
        ..order()
    };
    let recovery = recovery(order.clone());
    let id = fixture::purchase().to_string();
    assert_eq!(recovery[PURCHASE_IDENTIFIER], id);
    let request =
        fixture::placed(&provider(), Order::Inabit(order)).request(&fixture::intent(&recovery));
    let body: Value = serde_json::from_slice(&request.body.unwrap()).unwrap();
    assert_eq!(body["purchaseIdentifier"], id);
    assert_eq!(body["fiatAmount"].to_string(), "1234567.1");
    assert_eq!(body.get("subTitle"), None);
}

#[test]
fn every_status_fixture_is_read() {
    for file in fixture::names(NAME, "") {
        let expected = match file.as_str() {
            // Read in other tests, or for later.
            "create_request"
            | "create_error_400"
            | "create_response_201"
            | "search_request"
            | "search_response"
            | "status_request_org"
            | "status_request_widget"
            | "webhook_purchase_updated" => continue,
            "status_allocated" => "AWAITING_PAYMENT OPEN Allocated",
            "status_completed" => "COMPLETED TERMINAL Completed",
            "status_confirming" => "CONFIRMING OPEN Confirming",
            "status_error_401" => "unauthorized",
            "status_error_404" => "not found",
            "status_expired" => "EXPIRED TERMINAL Expired",
            "status_failed" => "FAILED TERMINAL Failed",
            "status_generate_address_failed" => "FAILED TERMINAL GenerateAddressFailed",
            "status_initiated" => "CREATED OPEN Initiated",
            "status_overcharge" => "CONFIRMING OPEN Overcharge",
            "status_swept" => "COMPLETED FINAL Swept",
            "status_unconfirmed" => "CONFIRMING OPEN Unconfirmed",
            "status_undercharge" => "PARTIALLY_PAID OPEN Undercharge",
            _ => panic!("{file} has no expectation"),
        };
        let answer = status(&fixture::answer(NAME, &file));
        assert_eq!(said(&answer), expected, "{file}");
    }
}

#[test]
fn the_sample_of_its_page_is_read_whole() {
    let files = fixture::names("pages", NAME);
    assert_eq!(files, ["inabit_status_completed".to_owned()].into());
    let reference = reference("057590e2-002d-4c3b-b646-6a9fbcda89b0").unwrap();
    let sample = fixture::answer("pages", "inabit_status_completed");
    let observation =
        reading::observed(provider().read_status(&reference, &sample, fixture::now()));
    assert_eq!(reading::brief(&observation), "COMPLETED TERMINAL Completed");
    assert_eq!(
        reading::amounts(&observation.amounts),
        ["ASKED 10.174252 TRX", "PAID 10.174252 TRX"]
    );
    assert_eq!(observation.amount_outcome, Some(AmountOutcome::Exact));
    let facts = [
        ("asset", Some("TRX".to_owned())),
        ("blockchain", Some("tron".to_owned())),
    ];
    assert_eq!(observation.facts, facts);
    assert_eq!(
        observation.transaction_hashes.unwrap(),
        ["302ae537cde6d88bafc5f84f8406ffab48f973bd31cce40de15b66d9adcfb00a"]
    );
    assert_eq!(observation.provider_change_time, None);
    assert_eq!(observation.buyer_action, None);
    assert_eq!(observation.failure, None);
}

#[test]
fn creates_end_as_their_fixtures_say() {
    let created = reading::accepted(submit(&fixture::answer(NAME, "create_response_201")));
    assert_eq!(reading::brief(&created), "CREATED OPEN ");
    assert_eq!(created.reference, reference(ID));
    let Some(BuyerAction::Redirect(redirect)) = created.buyer_action else {
        panic!("no redirect");
    };
    assert_eq!(
        redirect.url,
        format!("https://www.inabit.biz/?purchaseId={ID}")
    );
    assert_eq!(redirect.method, "GET");
    assert!(redirect.form_fields.is_empty());

    let refused = submit(&fixture::answer(NAME, "create_error_400"));
    let message = "Bad Request: fiatAmount must be a number".to_owned();
    assert_eq!(refused, Submitted::Refused { message });
}

#[test]
fn submits_end_by_what_the_answer_says() {
    let error = json!({"error": {"message": "no"}});
    let table = [
        (200, json!({"data": {"id": ID.to_uppercase()}}), "accepted"),
        (201, json!({"data": {"id": "../x"}}), "unclear"),
        (201, json!({"data": {}}), "unclear"),
        (201, json!({"id": ID}), "accepted"),
        (
            201,
            json!({"data": {"id": 7, "purchaseId": ID}}),
            "accepted",
        ),
        (201, json!({"data": {"id": 7}}), "unclear as 7"),
        (409, error.clone(), "refused"),
        (
            422,
            json!({"error": {"messages": ["a", 7, "b"]}}),
            "refused",
        ),
        (
            404,
            json!({"message": "Cannot POST /v1/purchase", "error": "Not Found"}),
            "not sent",
        ),
        (404, json!({"error": "Not Found"}), "not sent"),
        (404, json!({"error": {"message": "Not Found"}}), "not sent"),
        (404, json!({"error": {"message": "no widget"}}), "refused"),
        (400, json!({"message": ["fiatAmount"]}), "refused"),
        (400, json!({"error": "no", "statusCode": 400}), "refused"),
        (201, json!({"data": {"purchaseId": ID}}), "accepted"),
        (400, json!({"error": {}}), "unclear"),
        (401, error.clone(), "not sent"),
        (403, error.clone(), "not sent"),
        (429, json!({}), "not sent"),
        (402, error.clone(), "unclear"),
        (500, error.clone(), "unclear"),
        (302, error, "unclear"),
    ];
    for (code, body, expected) in table {
        let submitted = submit(&fixture::answer_of(code, body.to_string()));
        let ended = match &submitted {
            Submitted::Unclear { .. } => reading::submit_line(&submitted),
            _ => outcome(&submitted).to_owned(),
        };
        assert_eq!(ended, expected, "{code} {body}");
    }
}

#[test]
fn payments_that_are_short_over_or_late_are_expected() {
    let graph = provider().graph();
    assert!(!graph.is_documented, "its page draws none");
    for (from, to, expected) in [
        ("Unconfirmed", "Undercharge", true),
        ("Undercharge", "Unconfirmed", true),
        ("Unconfirmed", "Overcharge", true),
        ("Overcharge", "Confirming", true),
        ("Overcharge", "Failed", true),
        ("Unconfirmed", "Expired", true),
        ("Expired", "Confirming", true),
        ("UnderchargeExpired", "Completed", true),
        ("Completed", "Allocated", false),
        ("Swept", "Completed", false),
        ("Failed", "Completed", false),
    ] {
        assert_eq!(graph.allows(from, to), expected, "{from} → {to}");
    }
}

#[test]
fn amounts_compare_as_they_stand() {
    let table = [
        (
            json!({"amount": 5.0}),
            Some(AmountOutcome::Underpaid),
            "PAID 5.0 TRX",
        ),
        (
            json!({"amount": "10.1742520"}),
            Some(AmountOutcome::Exact),
            "PAID 10.1742520 TRX",
        ),
        (
            json!({"amount": 12}),
            Some(AmountOutcome::Overpaid),
            "PAID 12 TRX",
        ),
        (
            json!({"amount": 0}),
            Some(AmountOutcome::Underpaid),
            "PAID 0 TRX",
        ),
    ];
    for (fields, outcome, paid) in table {
        let observation = reading::observed(status(&with(fields)));
        assert_eq!(observation.amount_outcome, outcome, "{paid}");
        assert_eq!(reading::amounts(&observation.amounts)[1], paid);
    }
    for amount in [json!(null), json!("some"), json!({"value": 1}), json!(true)] {
        let observation = reading::observed(status(&with(json!({"amount": amount}))));
        assert_eq!(observation.amount_outcome, None);
        assert_eq!(
            reading::amounts(&observation.amounts),
            ["ASKED 10.174252 TRX"]
        );
    }
    let padded = reading::observed(status(&with(json!({"amount": " 5 "}))));
    assert_eq!(reading::amounts(&padded.amounts)[1], "PAID 5 TRX");
    // Promise D2: an amount is never cut; an amount that is too long makes the answer unreadable.
    let digits = "7".repeat(8_000);
    let long = reading::observed(status(&with(json!({"amount": digits}))));
    assert_eq!(long.amounts[1].value, digits);
    for amount in [format!("{digits}7"), "1e999999999".to_owned()] {
        let read = status(&with(json!({ "amount": amount })));
        assert_eq!(said(&read), "unreadable");
    }
    let unconfirmed = fixture::answer(NAME, "status_unconfirmed");
    let observation = reading::observed(status(&unconfirmed));
    assert_eq!(
        reading::amounts(&observation.amounts),
        ["ASKED 0.0000263 BTC", "PAID 0.0000263 BTC"]
    );
}

#[test]
fn a_buyer_pays_to_the_allocated_address() {
    for word in ["Allocated", "Undercharge"] {
        let observation = reading::observed(status(&with(json!({"status": word}))));
        let Some(BuyerAction::Deposit(deposit)) = observation.buyer_action else {
            panic!("no deposit");
        };
        assert_eq!(deposit.address, "TTestAddress1111111111111111111111");
        assert_eq!(deposit.network, "tron");
        let asked: Vec<_> = deposit.amount.into_iter().collect();
        assert_eq!(reading::amounts(&asked), ["ASKED 10.174252 TRX"]);
        let expire_time = Timestamp::from_iso("2025-04-29T15:39:07.974Z").ok();
        assert_eq!(deposit.expire_time, expire_time);
    }
    let initiated = fixture::answer(NAME, "status_initiated");
    let observation = reading::observed(status(&initiated));
    assert_eq!(
        observation.buyer_action,
        Some(widget(&reference(ID).unwrap()))
    );
    assert!(observation.facts.is_empty());
    for fields in [json!({"address": null}), json!({"status": "Confirming"})] {
        assert_eq!(reading::observed(status(&with(fields))).buyer_action, None);
    }
    let fields = json!({"address": "x".repeat(16 * 1024)});
    assert_eq!(said(&status(&with(fields))), "unreadable");
}

#[test]
fn hashes_are_read_in_all_shapes() {
    let table = [
        (json!({"transactions": ["a", "b"]}), Some(vec!["a", "b"])),
        (
            json!({"transactions": [{"hash": "a"}, {"txHash": "b"}, "a"]}),
            Some(vec!["a", "b"]),
        ),
        (
            json!({"transactions": null, "transaction": "c"}),
            Some(vec!["c"]),
        ),
        (json!({"transaction": ["c", "d"]}), Some(vec!["c", "d"])),
        (json!({"transactions": [null, 7, [], ""]}), None),
        (json!({"transactions": "a"}), Some(vec!["a"])),
    ];
    for (fields, expected) in table {
        let what = fields.to_string();
        let hashes = reading::observed(status(&with(fields))).transaction_hashes;
        let expected: Option<Vec<String>> =
            expected.map(|hashes| hashes.into_iter().map(str::to_owned).collect());
        assert_eq!(hashes, expected, "{what}");
    }
    let many: Vec<String> = (0..2_000).map(|place| place.to_string()).collect();
    for unreadable in [json!(["x".repeat(8_001)]), json!(["a\u{0}"]), json!(many)] {
        let fields = json!({ "transactions": unreadable });
        assert_eq!(said(&status(&with(fields))), "unreadable");
    }
}

#[test]
fn answers_vary() {
    let table = [
        (
            json!({"status": "PendingFork"}),
            "CONFIRMING OPEN PendingFork",
        ),
        (
            json!({"status": "UnderchargeExpired"}),
            "EXPIRED TERMINAL UnderchargeExpired",
        ),
        (json!({"status": "completed"}), "UNMAPPED completed"),
        (json!({"status": "Frozen"}), "UNMAPPED Frozen"),
        (json!({"status": 7}), "UNMAPPED 7"),
        (json!({"status": ""}), "unreadable"),
        (json!({"status": ["Completed"]}), "unreadable"),
        (
            json!({"id": "0b7a1c9e-1111-4222-8333-000000000002"}),
            "unreadable",
        ),
        (
            json!({"id": ID.to_uppercase()}),
            "AWAITING_PAYMENT OPEN Allocated",
        ),
        (
            json!({"asset": {}, "expirationDate": 7, "fiatAmount": "x", "creationDate": []}),
            "AWAITING_PAYMENT OPEN Allocated",
        ),
    ];
    for (fields, expected) in table {
        let what = fields.to_string();
        assert_eq!(said(&status(&with(fields))), expected, "{what}");
    }
    let table = [
        (
            404,
            json!({"message": "Cannot GET /x", "error": "Not Found"}),
            "nowhere",
        ),
        (404, json!({}), "nowhere"),
        (404, json!({"error": "Not Found"}), "nowhere"),
        (404, json!({"message": "no such purchase"}), "not found"),
        (400, json!({"error": {"message": "no"}}), "unreadable"),
        (301, json!({}), "unreadable"),
        (429, json!({}), "throttled"),
        (502, json!({}), "unreachable"),
    ];
    for (code, body, expected) in table {
        let answer = status(&fixture::answer_of(code, body.to_string()));
        assert_eq!(said(&answer), expected, "{code} {body}");
    }
}

#[test]
fn ends_have_their_reasons_and_a_fork_calls_for_a_person() {
    let table = [
        ("Failed", Some(FailureReason::TransactionFailed), None),
        ("GenerateAddressFailed", Some(FailureReason::Error), None),
        ("Expired", Some(FailureReason::TimedOut), None),
        ("UnderchargeExpired", Some(FailureReason::Underpaid), None),
        ("Completed", None, None),
        (
            "PendingFork",
            None,
            Some(AttentionReason::ProviderManualAction),
        ),
    ];
    for (word, failure, attention) in table {
        let observation = reading::observed(status(&with(json!({"status": word}))));
        assert_eq!(observation.failure, failure, "{word}");
        assert_eq!(observation.attention, attention, "{word}");
    }
}

#[test]
fn the_providers_own_clock_is_no_change() {
    let one = status(&with(json!({"currentDate": "2025-05-02T10:52:02.871Z"})));
    let other = status(&with(json!({"currentDate": "2025-05-02T10:54:02.871Z"})));
    assert_eq!(one, other);
}

#[test]
fn hostile_answers_change_nothing() {
    for (what, body) in fixture::hostile_bodies() {
        let read = status(&fixture::answer_of(200, body.as_str()));
        assert_eq!(said(&read), "unreadable", "{what}");
        for code in [200, 201, 301, 400, 404, 409, 412, 422, 500] {
            let submitted = submit(&fixture::answer_of(code, body.as_str()));
            let expected = if code == 404 { "not sent" } else { "unclear" };
            assert_eq!(outcome(&submitted), expected, "{code} {what}");
        }
        let recovery = recovery(order());
        let intent = fixture::intent(&recovery);
        let found = fixture::answer_of(201, body);
        let found = provider().read_look_up(&intent, &found, fixture::now());
        assert_eq!(said(&found), "unreadable", "{what}");
    }
}

#[test]
fn orders_are_checked() {
    let check = |change: fn(&mut InabitOrder), expected: &[&str]| {
        let mut order = order();
        change(&mut order);
        let violations =
            fixture::placed(&provider(), Order::Inabit(order)).violations(fixture::now());
        assert_eq!(fixture::fields(&violations), expected);
    };
    check(|_| (), &[]);
    check(
        |order| order.fiat_amount = "0.00".to_owned(),
        &["fiat_amount"],
    );
    check(
        |order| order.fiat_amount = "-2".to_owned(),
        &["fiat_amount"],
    );
    check(
        |order| order.fiat_amount = "2,5".to_owned(),
        &["fiat_amount"],
    );
    check(|order| order.fiat_amount.clear(), &["fiat_amount"]);
    check(
        |order| order.fiat_currency = "usd".to_owned(),
        &["fiat_currency"],
    );
    check(|order| order.title = "x".repeat(256), &["title"]);
    check(
        |order| order.sub_title = "a\u{7}".to_owned(),
        &["sub_title"],
    );
    check(
        |order| order.purchase_identifier = " a".to_owned(),
        &["purchase_identifier"],
    );
    check(|order| order.purchase_identifier.clear(), &[]);
}

#[test]
fn references_are_held_to_their_shape() {
    let message = |purchase_id: &str| ProviderReference {
        reference: Some(Named::Inabit(InabitReference {
            purchase_id: purchase_id.to_owned(),
        })),
    };
    let provider = provider();
    let reference = provider.reference(&message(ID)).unwrap();
    assert_eq!(
        (super::REGISTERED.reference_message)(&reference),
        message(ID)
    );
    assert_eq!(
        provider.reference(&message(&ID.to_uppercase())),
        Ok(reference)
    );
    for bad in ["", "../x", "..", "a b", "0b7a1c9e/1111"] {
        let violations = provider.reference(&message(bad)).unwrap_err();
        assert_eq!(fixture::fields(&violations), ["purchase_id"], "{bad:?}");
    }
    assert!(provider.reference(&ProviderReference::default()).is_err());
}

#[test]
fn times_are_as_the_design_says() {
    let provider = provider();
    let days = |days: u32| Some(DAY * days);
    let horizon = |state, configured| {
        provider.horizon(&fixture::status(state, Finality::Terminal), configured)
    };
    assert_eq!(horizon(State::Completed, None), days(7));
    assert_eq!(horizon(State::Expired, None), days(3));
    assert_eq!(horizon(State::Failed, None), days(3));
    assert_eq!(horizon(State::Completed, days(1)), days(1));
    let open = fixture::status(State::AwaitingPayment, Finality::Open);
    assert_eq!(Some(provider.stale_after(&open)), days(7));
    let policy = (REGISTERED.policy)();
    assert_eq!(policy.schedule.first(), Duration::from_secs(120));
    assert_eq!(
        provider.unclear(),
        Unclear::LookUp {
            repeat_is_safe: false
        }
    );
    assert_eq!(provider.decimal_fields(), ["fiat_amount"]);
    for missing in REGISTERED.secrets {
        let mut secrets: BTreeMap<String, Secret> = REGISTERED
            .secrets
            .iter()
            .map(|name| ((*name).to_owned(), Secret::new("x")))
            .collect();
        secrets.remove(*missing);
        let error = (REGISTERED.build)(&secrets).unwrap_err();
        assert_eq!(error, SettingsError::Missing(missing));
    }
}
