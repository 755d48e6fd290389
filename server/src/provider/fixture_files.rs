//! The fixtures' requests and answers for the providers' tests, and one line per reading.
//!
//! Their shape: requests have `method`, `path`, `headers`, `query` and `body`; answers have
//! `http_status`, `headers` and `body`; both say where they come from.

use std::{collections::BTreeSet, fs, path::PathBuf};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde_json::Value;

use crate::{
    observation::{Answer, Observation, Standing, Submitted, Trouble},
    purchase::Timestamp,
    upstream::{Request, Response},
};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

/// The names of a folder's files, without `.json`.
pub(super) fn names(of: &str) -> BTreeSet<String> {
    fs::read_dir(folder(of))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(".json").unwrap().to_owned())
        .collect()
}

/// A file as JSON.
pub(super) fn file(of: &str, name: &str) -> Value {
    let text = fs::read(folder(of).join(format!("{name}.json"))).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// An answer of these parts.
pub(super) fn answer_of(status: u16, headers: &Value, body: &[u8]) -> Response {
    let mut map = HeaderMap::new();
    for (name, value) in headers.as_object().into_iter().flatten() {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value.as_str().unwrap()).unwrap(),
        );
    }
    Response {
        status,
        headers: map,
        body: Bytes::copy_from_slice(body),
    }
}

/// A file as an answer.
pub(super) fn answer(of: &str, name: &str) -> Response {
    let file = file(of, name);
    let status = file["http_status"].to_string().parse().unwrap();
    answer_of(
        status,
        &file["headers"],
        file["body"].to_string().as_bytes(),
    )
}

/// Holds a request to a file: method, path, query, headers and body, with nothing more and nothing
/// less.
pub(super) fn assert_sent(request: &Request, of: &str, name: &str) {
    let file = file(of, name);
    assert_eq!(request.method.as_str(), file["method"], "{name}");
    assert_eq!(
        format!("/{}", request.path.join("/")),
        file["path"],
        "{name}"
    );
    assert!(file.get("query").is_none() && request.query.is_empty());
    let mut expected = HeaderMap::new();
    for (field, value) in file["headers"].as_object().unwrap() {
        expected.append(
            HeaderName::from_bytes(field.as_bytes()).unwrap(),
            HeaderValue::from_str(value.as_str().unwrap()).unwrap(),
        );
    }
    assert_eq!(request.headers, expected, "{name}");
    let body = request.body.as_ref();
    let body: Option<Value> = body.map(|body| serde_json::from_slice(body).unwrap());
    assert_eq!(body.as_ref(), file.get("body"), "{name}");
}

/// A time from its text.
pub(super) fn at(text: &str) -> Timestamp {
    Timestamp::from_iso(text).unwrap()
}

/// An observation as one line: state, finality, code, then what else it says.
pub(super) fn line(observation: &Observation) -> String {
    let mut parts = vec![match observation.standing {
        Standing::Mapped(state, finality) => {
            format!(
                "{} {} {}",
                state.as_str(),
                finality.as_str(),
                observation.code
            )
        }
        Standing::Unmapped => format!("UNMAPPED {}", observation.code),
    }];
    parts.extend(
        observation
            .attention
            .map(|reason| format!("!{}", reason.as_str())),
    );
    parts.extend(
        observation
            .failure
            .map(|reason| format!("failure {}", reason.as_str())),
    );
    parts.extend(
        observation
            .cause
            .map(|cause| format!("cause {}", cause.as_str())),
    );
    for amount in &observation.amounts {
        let unit: String = amount.unit.chars().take(12).collect();
        parts.push(format!("{} {} {unit}", amount.role.as_str(), amount.value));
    }
    for hash in observation.transaction_hashes.iter().flatten() {
        let start: String = hash.chars().take(6).collect();
        parts.push(format!("tx {start}"));
    }
    parts.join(", ")
}

fn trouble_line(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Throttled { .. } => "throttled".to_owned(),
        Trouble::Unauthorized => "unauthorized".to_owned(),
        Trouble::Unreachable { sent: true, .. } => "unreachable".to_owned(),
        Trouble::Unreachable { sent: false, .. } => "not reached".to_owned(),
        Trouble::Unreadable { .. } => "unreadable".to_owned(),
    }
}

/// What a read said, as one line.
pub(super) fn answer_line(answer: &Answer) -> String {
    match answer {
        Answer::Observed(observation) => line(observation),
        Answer::NotFound => "not found".to_owned(),
        Answer::Trouble(trouble) => trouble_line(trouble),
    }
}

/// How a submit ended, as one line.
pub(super) fn submit_line(submitted: &Submitted) -> String {
    match submitted {
        Submitted::Accepted(observation) => format!("accepted {}", line(observation)),
        Submitted::AcceptedWithoutReference => "accepted without reference".to_owned(),
        Submitted::Refused { message } => format!("refused {message}"),
        Submitted::Taken => "taken".to_owned(),
        Submitted::NotSent(trouble) => format!("not sent, {}", trouble_line(trouble)),
        Submitted::Unclear { .. } => "unclear".to_owned(),
    }
}
