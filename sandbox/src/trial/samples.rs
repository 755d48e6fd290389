//! The samples against the simulated providers: whatever a sample says, its provider would say.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{keys, whole_fixture};
use crate::{Answer, Call, Engine, Options, REGISTRY, Recipe, Sample, Wall};

/// 2026-07-01T10:00:00Z, an hour before Masumi's fixture has to be paid.
const NOW_S: i64 = 1_782_900_000;
const UNKNOWN: &str = "5a1e0000-0000-4000-8000-000000000009";

fn engine() -> Engine {
    let options = Options {
        long_poll: Duration::ZERO,
        ..Options::default()
    };
    let now = Timestamp::from_second(NOW_S).unwrap();
    Engine::new(options, Wall::new(move || now))
}

fn with_key(mut call: Call) -> Call {
    let names = ["x-api-key", "token", "x-client-key", "x-client-secret"];
    for name in names {
        call.headers.insert(name, HeaderValue::from_static("k"));
    }
    let bearer = HeaderValue::from_static("Bearer k");
    call.headers.insert("authorization", bearer);
    let json = HeaderValue::from_static("application/json");
    call.headers.insert("content-type", json);
    call
}

fn post(path: &str, body: &Value) -> Call {
    let mut call = with_key(Call::new(Method::POST, path));
    call.body = Bytes::from(body.to_string());
    call
}

/// A create as the provider's fixture has it, with other values in some fields.
fn create(provider: &str, changes: &[(&str, Value)]) -> Call {
    let fixture = whole_fixture(&format!("{provider}/create_request.json"));
    let mut body = fixture["body"].clone();
    for (field, value) in changes {
        body[field] = value.clone();
    }
    post(fixture["path"].as_str().unwrap(), &body)
}

/// The look-up of a reference, or of an order if that is how the provider looks up.
fn look_up(provider: &str, reference: &str) -> Call {
    match provider {
        "phygitals" => post("/api/vm/buy/status", &json!({ "session_id": reference })),
        "masumi" => post(
            "/api/v1/purchase/resolve-blockchain-identifier",
            &json!({ "blockchainIdentifier": reference, "network": "Preprod" }),
        ),
        "inabit" => post(
            "/v1/merchant/purchase/search",
            &json!({ "searchText": reference }),
        ),
        "carbon" => {
            let contact = whole_fixture("carbon/create_request.json")["body"]["contactId"].clone();
            let mut call = with_key(Call::new(Method::GET, "/v1/status"));
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            call.query = vec![
                pair("orderId", reference),
                pair("contactId", contact.as_str().unwrap()),
            ];
            call
        }
        "devdraft" => with_key(Call::new(
            Method::GET,
            format!("/api/v0/payment-intents/{reference}/status"),
        )),
        other => panic!("{other} has no look-up here"),
    }
}

/// The change of an order by which its create is refused as in the sample.
fn refusal(provider: &str) -> (&'static str, Value) {
    match provider {
        "phygitals" => ("claw_id", json!("sandbox:refused")),
        "masumi" => ("metadata", json!("sandbox:refused")),
        "inabit" => ("fiatAmount", json!(2.13)),
        "carbon" => ("fiatChargeAmount", json!("10.39")),
        "devdraft" => ("amount", json!("100.13")),
        other => panic!("{other} refuses nothing here"),
    }
}

fn agrees(provider: &str, what: &str, (status, body): &(u16, Value), answer: &Answer) {
    assert_eq!(
        answer.status.as_u16(),
        *status,
        "{provider} {what} {answer:?}"
    );
    let (said, known) = (keys(body), keys(&answer.body));
    let unknown: Vec<_> = said.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "{provider} {what} never has {unknown:?}"
    );
}

#[tokio::test]
async fn a_sample_says_what_its_provider_would_say() {
    for provider in &REGISTRY {
        let name = provider.name;
        let engine = engine();
        let sample: Sample = (provider.sample)(&Recipe::at(Timestamp::UNIX_EPOCH));
        let accepted = provider.answer(&engine, &create(name, &[])).await;
        agrees(name, "accepted", &sample.accepted, &accepted);
        let reference = accepted.created.clone().unwrap();
        assert_eq!(*accepted.told[0].reference, *reference, "{name}");

        // Another identifier, since Masumi would show the purchase that is there already.
        let other = ("blockchainIdentifier", json!("other"));
        let refused = create(name, &[refusal(name), other]);
        let refused = provider.answer(&engine, &refused).await;
        agrees(name, "refused", &sample.refused, &refused);

        let missing = provider.answer(&engine, &look_up(name, UNKNOWN)).await;
        agrees(name, "missing", &sample.missing, &missing);
        assert_eq!(missing.body, sample.missing.1, "{name}");

        // A look-up at Inabit is a search, and a read is not.
        let read = if name == "inabit" {
            let path = format!("/v1/merchant/purchase/{reference}");
            with_key(Call::new(Method::GET, path))
        } else {
            look_up(name, &reference)
        };
        let shown = provider.answer(&engine, &read).await;
        agrees(name, "shown", &sample.shown, &shown);
    }
}
