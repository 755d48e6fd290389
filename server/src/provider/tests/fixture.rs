//! The fixtures in `tests/fixtures` as requests and answers, and the parts of every provider's tests.
//!
//! Their shape: requests have `method`, `path`, `headers`, `query` and `body`; answers have
//! `http_status`, `headers` and `body`; both name their source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde_json::Value;
use tillwatch_proto::v1::create_purchase_request::Order;

use crate::{
    provider::{Intent, Placed, Provider, Recovery, Registered, Violation},
    purchase::{Finality, PurchaseId, Secret, State, Status, Timestamp},
    upstream::{Request, Response},
};

/// The folder of one provider's fixtures, or `pages`.
fn folder(of: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", of]
        .iter()
        .collect()
}

/// The names of a folder's files that begin with `prefix`, without `.json`.
pub(in crate::provider) fn names(of: &str, prefix: &str) -> BTreeSet<String> {
    fs::read_dir(folder(of))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|file| file.strip_suffix(".json").unwrap().to_owned())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// A file as JSON.
pub(in crate::provider) fn file(of: &str, name: &str) -> Value {
    let path = folder(of).join(format!("{name}.json"));
    let text = fs::read(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|_| panic!("{} is no JSON", path.display()))
}

/// A file as an answer.
pub(in crate::provider) fn answer(of: &str, name: &str) -> Response {
    let file = file(of, name);
    let status = file["http_status"].to_string().parse().unwrap();
    answer_with(status, &file["headers"], file["body"].to_string())
}

/// An answer with this body, without headers.
pub(in crate::provider) fn answer_of(status: u16, body: impl AsRef<[u8]>) -> Response {
    answer_with(status, &Value::Null, body)
}

/// An answer of these parts.
pub(in crate::provider) fn answer_with(
    status: u16,
    headers: &Value,
    body: impl AsRef<[u8]>,
) -> Response {
    Response {
        status,
        headers: header_map(headers),
        body: Bytes::copy_from_slice(body.as_ref()),
    }
}

fn header_map(headers: &Value) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers.as_object().into_iter().flatten() {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value.as_str().unwrap()).unwrap(),
        );
    }
    map
}

/// Holds a request to a file: method, path, query, headers and body, with nothing more and nothing
/// less; numbers by their text.
#[track_caller]
pub(in crate::provider) fn assert_request(request: &Request, of: &str, name: &str) {
    assert_request_but_body(request, of, name);
    let body = request.body.as_ref();
    let body: Option<Value> = body.map(|body| serde_json::from_slice(body).unwrap());
    assert_eq!(body.as_ref(), file(of, name).get("body"), "{name}: body");
}

/// As [`assert_request`], for a request whose body is another than the file's.
#[track_caller]
pub(in crate::provider) fn assert_request_but_body(request: &Request, of: &str, name: &str) {
    let file = file(of, name);
    assert_eq!(request.method.as_str(), file["method"], "{name}: method");
    let path = format!("/{}", request.path.join("/"));
    assert_eq!(path, file["path"], "{name}: path");
    let query = file["query"].as_object().into_iter().flatten();
    let query: BTreeMap<String, String> = query
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(request.query.len(), query.len(), "{name}: query");
    let sent: BTreeMap<String, String> = request.query.iter().cloned().collect();
    assert_eq!(sent, query, "{name}: query");
    let expected = header_map(&file["headers"]);
    assert_eq!(request.headers, expected, "{name}: headers");
}

/// A provider with these secrets.
pub(in crate::provider) fn build(row: &Registered, secrets: &[(&str, &str)]) -> Arc<dyn Provider> {
    let secrets = secrets
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Secret::new(*value)))
        .collect();
    (row.build)(&secrets).unwrap()
}

/// An order in the hands of its provider.
#[track_caller]
pub(in crate::provider) fn placed(provider: &Arc<dyn Provider>, order: Order) -> Arc<dyn Placed> {
    provider.order(&order).expect("the provider's own order")
}

/// A time from its text.
pub(in crate::provider) fn at(text: &str) -> Timestamp {
    Timestamp::from_iso(text).unwrap()
}

/// The time at which the fixtures are read.
pub(in crate::provider) fn now() -> Timestamp {
    at("2026-07-01T10:10:00Z")
}

/// The id of the purchase that the tests submit.
pub(in crate::provider) fn purchase() -> PurchaseId {
    PurchaseId::from_u128(0x0197_c000_0000_7000_8000_0000_0000_0001)
}

/// An intent with these recovery facts whose order had none of any field.
pub(in crate::provider) fn intent(recovery: &Recovery) -> Intent<'_> {
    intent_with(recovery, &|_, _| false)
}

/// An intent whose order's fields are compared by `matches`.
pub(in crate::provider) fn intent_with<'a>(
    recovery: &'a Recovery,
    matches: &'a (dyn Fn(&str, &str) -> bool + Send + Sync),
) -> Intent<'a> {
    Intent {
        purchase: purchase(),
        create_time: now(),
        recovery,
        matches,
    }
}

/// A status in this state, for horizons and staleness.
pub(in crate::provider) fn status(state: State, finality: Finality) -> Status {
    Status {
        state,
        finality,
        ..Status::pending(now())
    }
}

/// The fields that break a rule, sorted.
pub(in crate::provider) fn fields(violations: &[Violation]) -> Vec<&str> {
    let mut fields: Vec<&str> = violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    fields.sort_unstable();
    fields
}

/// Bodies that are no answer of any provider, each with what it is.
pub(in crate::provider) fn hostile_bodies() -> Vec<(&'static str, String)> {
    vec![
        ("empty", String::new()),
        ("html", "<html><body>Bad gateway</body></html>".to_owned()),
        ("null", "null".to_owned()),
        ("text", "\"ok\"".to_owned()),
        ("number", "7".to_owned()),
        ("array", "[{\"status\":\"Completed\"}]".to_owned()),
        ("empty object", "{}".to_owned()),
        ("cut short", "{\"data\":{\"status\":\"Comp".to_owned()),
        (
            "too deep",
            "{\"data\":".repeat(500) + "1" + &"}".repeat(500),
        ),
        ("not utf-8 text", "{\"a\":\"\\ud800\"}".to_owned()),
        (
            "wrong types",
            "{\"data\":[],\"result\":7,\"details\":\"x\"}".to_owned(),
        ),
    ]
}
