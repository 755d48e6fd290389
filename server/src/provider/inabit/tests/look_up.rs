//! Finding a purchase whose create went unanswered.

use serde_json::json;

use super::{ID, order, provider, recovery};
use crate::provider::{
    inabit::*,
    tests::{
        fixture,
        reading::{self, said},
    },
};

/// Looks up with the search fixture, changed, as the answer.
fn look_up(change: impl FnOnce(&mut Value)) -> Answer {
    let mut answer = fixture::answer(NAME, "search_response");
    let mut body = answer.json().unwrap();
    change(&mut body);
    answer.body = body.to_string().into();
    let recovery = recovery(order());
    let matches = |field: &str, text: &str| match field {
        "fiat_amount" => Decimal::parse(text) == Decimal::parse("2.50"),
        "fiat_currency" => text == "USD",
        _ => false,
    };
    let mut intent = fixture::intent_with(&recovery, &matches);
    intent.create_time = Timestamp::from_iso("2025-04-29T15:30:00Z").unwrap();
    provider().read_look_up(&intent, &answer, fixture::now())
}

#[test]
fn a_lost_create_is_found_by_its_identifier() {
    let observation = reading::observed(look_up(|_| ()));
    assert_eq!(observation.reference, reference(ID));
    assert_eq!(reading::brief(&observation), "COMPLETED TERMINAL Completed");
    for currency in [json!(["USD"]), json!("usd")] {
        let list = look_up(|body| body["data"]["purchases"][0]["fiatCurrency"] = currency);
        assert_eq!(said(&list), said(&look_up(|_| ())));
    }
}

#[test]
fn only_the_one_row_that_agrees_is_adopted() {
    let row = |field: &'static str, value: Value| {
        said(&look_up(|body| body["data"]["purchases"][0][field] = value))
    };
    for (field, value) in [
        ("purchaseIdentifier", json!("ord-30011")),
        ("purchaseIdentifier", json!(null)),
        ("fiatAmount", json!(2.51)),
        ("fiatAmount", json!(null)),
        ("fiatCurrency", json!("EUR")),
        ("fiatCurrency", json!([])),
        ("creationDate", json!("2025-04-29T15:24:59.999Z")),
        ("creationDate", json!(null)),
    ] {
        let what = format!("{field} {value}");
        assert_eq!(row(field, value), "not found", "{what}");
    }
    assert_eq!(
        row("creationDate", json!("2025-04-29T15:25:00Z")),
        "COMPLETED TERMINAL Completed"
    );
    assert_eq!(row("id", json!("7")), "unreadable");
    let beside = |total: Value| {
        said(&look_up(|body| {
            body["data"]["total"] = Value::Null;
            body["total"] = total;
        }))
    };
    assert_eq!(beside(json!("1")), "COMPLETED TERMINAL Completed");
    assert_eq!(beside(json!(101)), "unreadable");
    assert_eq!(
        said(&look_up(|body| body["data"]["purchases"] = json!([]))),
        "not found"
    );
    assert_eq!(
        said(&look_up(|body| body["data"]["total"] = json!(101))),
        "unreadable"
    );
    let twice = look_up(|body| {
        let row = body["data"]["purchases"][0].clone();
        body["data"]["purchases"].as_array_mut().unwrap().push(row);
    });
    assert_eq!(said(&twice), "unreadable");
}
