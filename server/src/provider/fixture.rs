//! The fixtures in `tests/fixtures` as requests and responses, for the providers' tests.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use ::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use serde_json::Value;

use super::{Intent, Provider, Recovery, Registered};
use crate::{
    observation::{Answer, Observation, Submitted, Trouble},
    purchase::{Amount, Finality, PurchaseId, Secret, State, Status, Timestamp},
    upstream::{Request, Response},
};

/// The folder of one provider's fixtures, or `pages`.
fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", name]
        .iter()
        .collect()
}

/// The names of a folder's fixtures that begin with `prefix`, sorted.
pub(super) fn names(name: &str, prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|file| file.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// One fixture as it stands in its file.
pub(super) fn read(name: &str, file: &str) -> Value {
    let path = folder(name).join(file);
    let text = fs::read(&path).unwrap_or_else(|_| panic!("{} is missing", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|_| panic!("{} is no JSON", path.display()))
}

/// A fixture as an answer.
pub(super) fn response(name: &str, file: &str) -> Response {
    let fixture = read(name, file);
    let status = fixture["http_status"].as_u64().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in fixture["headers"].as_object().unwrap() {
        let name: HeaderName = name.parse().unwrap();
        headers.insert(name, value.as_str().unwrap().parse().unwrap());
    }
    Response {
        status: status.try_into().unwrap(),
        headers,
        body: Bytes::from(fixture["body"].to_string()),
    }
}

/// An answer with this text as its body.
pub(super) fn answer(status: u16, body: impl Into<String>) -> Response {
    Response {
        status,
        headers: HeaderMap::new(),
        body: Bytes::from(body.into()),
    }
}

/// Checks that a request is the one of a fixture: method, path, query, headers and body, numbers
/// compared by their text.
#[track_caller]
pub(super) fn assert_request(request: &Request, name: &str, file: &str) {
    assert_request_but_body(request, name, file);
    let body = request.body.as_ref();
    let body: Option<Value> = body.map(|body| serde_json::from_slice(body).unwrap());
    assert_eq!(body.as_ref(), read(name, file).get("body"), "{file}: body");
}

/// As [`assert_request`], for a request whose body is another than the fixture's.
#[track_caller]
pub(super) fn assert_request_but_body(request: &Request, name: &str, file: &str) {
    let fixture = read(name, file);
    assert_eq!(request.method.as_str(), fixture["method"], "{file}: method");
    let path = format!("/{}", request.path.join("/"));
    assert_eq!(path, fixture["path"].as_str().unwrap(), "{file}: path");
    let texts = |object: &Value, lower: bool| -> BTreeMap<String, String> {
        let pairs = object.as_object().into_iter().flatten();
        pairs
            .map(|(name, text)| {
                let name = if lower {
                    name.to_lowercase()
                } else {
                    name.clone()
                };
                (name, text.as_str().unwrap().to_owned())
            })
            .collect()
    };
    let query: BTreeMap<String, String> = request.query.iter().cloned().collect();
    assert_eq!(query, texts(&fixture["query"], false), "{file}: query");
    let headers: BTreeMap<String, String> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(headers, texts(&fixture["headers"], true), "{file}: headers");
}

/// A provider with these secrets.
pub(super) fn build(row: &Registered, secrets: &[(&str, &str)]) -> Arc<dyn Provider> {
    let secrets = secrets
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Secret::new(*value)))
        .collect();
    (row.build)(&secrets).unwrap()
}

/// The time at which the fixtures are read.
pub(super) fn now() -> Timestamp {
    Timestamp::from_iso("2026-07-01T10:10:00Z").unwrap()
}

/// The id of the purchase that the tests submit.
pub(super) fn purchase() -> PurchaseId {
    PurchaseId::from_u128(0x0197_c000_0000_7000_8000_0000_0000_0001)
}

/// An intent with these recovery facts whose order had none of any field.
pub(super) fn intent(recovery: &Recovery) -> Intent<'_> {
    intent_with(recovery, &|_, _| false)
}

/// An intent whose order's fields are compared by `matches`.
pub(super) fn intent_with<'a>(
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

/// What a test expects of one answer, in few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    /// A mapped word.
    Is(&'static str, State, Finality),
    /// A word without a mapping.
    Unmapped(&'static str),
    NotFound,
    Throttled,
    Unauthorized,
    Unreachable,
    Unreadable,
}

/// An answer in the same few words.
pub(super) fn brief(answer: &Answer) -> Read {
    match answer {
        Answer::Observed(observation) => brief_observation(observation),
        Answer::NotFound => Read::NotFound,
        Answer::Trouble(Trouble::Throttled { .. }) => Read::Throttled,
        Answer::Trouble(Trouble::Unauthorized) => Read::Unauthorized,
        Answer::Trouble(Trouble::Unreachable { sent, .. }) => {
            assert!(sent, "an answer proves that the request was sent");
            Read::Unreachable
        }
        Answer::Trouble(Trouble::Unreadable { .. }) => Read::Unreadable,
    }
}

/// An observation in the same few words.
pub(super) fn brief_observation(observation: &Observation) -> Read {
    use crate::observation::Standing;
    // Tests are short-lived: leaking lets expectations stand as plain literals.
    let code: &'static str = Box::leak(observation.code.clone().into_boxed_str());
    match observation.standing {
        Standing::Mapped(state, finality) => Read::Is(code, state, finality),
        Standing::Unmapped => Read::Unmapped(code),
    }
}

/// A submit's end in one word.
pub(super) fn outcome(submitted: &Submitted) -> &'static str {
    match submitted {
        Submitted::Accepted(_) => "accepted",
        Submitted::AcceptedWithoutReference => "accepted without reference",
        Submitted::Refused { .. } => "refused",
        Submitted::Taken => "taken",
        Submitted::NotSent(_) => "not sent",
        Submitted::Unclear { .. } => "unclear",
    }
}

/// The observation in an answer that has to have one.
#[track_caller]
pub(super) fn observed(answer: Answer) -> Observation {
    match answer {
        Answer::Observed(observation) => *observation,
        other => panic!("nothing observed: {other:?}"),
    }
}

/// The observation in a submit that has to be accepted.
#[track_caller]
pub(super) fn accepted(submitted: Submitted) -> Observation {
    match submitted {
        Submitted::Accepted(observation) => *observation,
        other => panic!("not accepted: {other:?}"),
    }
}

/// Amounts as `ROLE value unit`.
pub(super) fn amounts(amounts: &[Amount]) -> Vec<String> {
    let text = |amount: &Amount| {
        format!("{} {} {}", amount.role.as_str(), amount.value, amount.unit)
            .trim_end()
            .to_owned()
    };
    amounts.iter().map(text).collect()
}

/// A status in this state, for horizons and staleness.
pub(super) fn status(state: State, finality: Finality) -> Status {
    Status {
        state,
        finality,
        ..Status::pending(now())
    }
}

/// The fields that break a rule, sorted.
pub(super) fn fields(violations: &[super::Violation]) -> Vec<&str> {
    let mut fields: Vec<&str> = violations.iter().map(|it| it.field.as_str()).collect();
    fields.sort_unstable();
    fields
}

/// Bodies that are no answer of any provider, each with what it is.
pub(super) fn hostile_bodies() -> Vec<(&'static str, String)> {
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
