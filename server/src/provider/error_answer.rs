//! Answers outside 200 to 299, and what they mean where a provider has no rule of its own.
//!
//! The providers' documents show few of their error bodies, so a text is looked for in every shape
//! that is in use. What a text says is never matched, but for routes that do not exist.

use super::wire;
use crate::{
    observation::{self, Submitted, Trouble},
    purchase::Timestamp,
    upstream::{Response, retry_after},
};
use serde_json::Value;

/// Where error bodies have their texts, the more telling first.
const TEXT_FIELDS: [&str; 9] = [
    "message", "messages", "errors", "error", "detail", "msg", "reason", "code", "title",
];
/// How deep below such a field a text is looked for.
const DEPTH_MAX: usize = 3;
/// How texts about a route that does not exist begin, in lower case: Express and NestJS, Masumi's
/// framework (recorded), Fastify, Kong.
const NO_ROUTE: [&str; 7] = [
    "cannot post /",
    "cannot get /",
    "can not post /",
    "can not get /",
    "route post:",
    "route get:",
    "no route matched",
];

/// What an answer outside 200 to 299 means. `now` is its arrival, for a `Retry-After` date in an
/// answer that has no date of its own.
pub(super) fn trouble(answer: &Response, now: Timestamp) -> Trouble {
    match answer.status {
        401 | 403 => Trouble::Unauthorized,
        429 => Trouble::Throttled {
            retry_after: retry_after::of(&answer.headers, now),
        },
        408 | 425 | 500..=599 => Trouble::Unreachable {
            sent: true,
            why: format!("HTTP {}", answer.status),
        },
        status => Trouble::unreadable(format!("HTTP {status}")),
    }
}

/// What a submit's answer outside 200 to 299 means. `own` is what the provider's own error shape
/// says, where the answer has that shape.
///
/// HTTP 400, 409, 412 and 422 with an error text are about the order. A 404 is so in the provider's
/// own shape alone, since whatever stands behind a wrong base URL answers it. Without any text
/// something in between may have answered, and the order may exist.
pub(super) fn not_accepted(answer: &Response, own: Option<String>, now: Timestamp) -> Submitted {
    let any = || own.clone().or_else(|| text(answer));
    let refusal = match answer.status {
        401 | 403 | 429 => return Submitted::NotSent(trouble(answer, now)),
        404 if any().is_some_and(|text| is_no_route(&text)) => {
            return Submitted::NotSent(Trouble::Unreachable {
                sent: false,
                why: "the base URL is not the provider's".to_owned(),
            });
        }
        404 => own,
        400 | 409 | 412 | 422 => any(),
        _ => None,
    };
    match refusal {
        Some(message) => Submitted::Refused {
            message: observation::word(&message),
        },
        None => Submitted::unclear(format!("HTTP {}", answer.status)),
    }
}

/// Whether a 404 says that the provider does not know the purchase. `own` is what the provider's own
/// error shape says, where the answer has that shape.
pub(super) fn is_unknown(answer: &Response, own: Option<String>) -> bool {
    if answer.status != 404 {
        return false;
    }
    let is_own = own.is_some();
    own.or_else(|| text(answer)).is_some_and(|text| {
        // Without the provider's shape, a bare "Not Found" is what every web server says.
        !is_no_route(&text) && (is_own || !text.trim().eq_ignore_ascii_case("not found"))
    })
}

/// A submit whose answer cannot be read: the order may exist.
pub(super) fn unclear(trouble: Trouble) -> Submitted {
    Submitted::unclear(match trouble {
        Trouble::Unreadable { why } | Trouble::Unreachable { why, .. } => why,
        Trouble::Throttled { .. } | Trouble::Unauthorized => "no definite answer".to_owned(),
    })
}

/// The text of an error body in any usual shape; nothing where it has none, or where it says by its
/// own code that the fault is the server's.
pub(super) fn text(answer: &Response) -> Option<String> {
    let body = wire::object(answer).ok()?;
    let is_servers = ["code", "statusCode", "status"].into_iter().any(|field| {
        let code = wire::text(&body, field).and_then(|code| code.parse::<u16>().ok());
        code.is_some_and(|code| (500..600).contains(&code))
    });
    if is_servers {
        return None;
    }
    let fields = TEXT_FIELDS.into_iter().filter(|field| *field != "code");
    fields
        .filter_map(|field| body.get(field))
        .find_map(|value| text_in(value, DEPTH_MAX))
}

/// The texts in one value, joined.
fn text_in(value: &Value, depth: usize) -> Option<String> {
    match value {
        Value::String(text) => (!text.trim().is_empty()).then(|| text.clone()),
        Value::Array(values) if depth > 0 => {
            let texts: Vec<String> = values
                .iter()
                .filter_map(|value| text_in(value, depth - 1))
                .collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        Value::Object(fields) if depth > 0 => TEXT_FIELDS
            .into_iter()
            .filter_map(|field| fields.get(field))
            .find_map(|value| text_in(value, depth - 1)),
        _ => None,
    }
}

fn is_no_route(text: &str) -> bool {
    let text = text.trim_start().to_ascii_lowercase();
    NO_ROUTE.iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::http::{HeaderMap, HeaderValue, header};
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: &Value) -> Response {
        Response {
            status,
            headers: HeaderMap::new(),
            body: body.to_string().into(),
        }
    }

    #[test]
    fn an_error_text_is_found_in_every_usual_shape() {
        let table = [
            (json!({"error": "e"}), Some("e")),
            (json!({"message": "m", "error": "Bad Request"}), Some("m")),
            (json!({"message": ["a", 7, "b"]}), Some("a; b")),
            (
                json!({"message": null, "error": {"message": "m"}}),
                Some("m"),
            ),
            (json!({"error": {"messages": ["a", "b"]}}), Some("a; b")),
            (json!({"error": {"type": "t", "code": "c"}}), Some("c")),
            (
                json!({"errors": [{"msg": "a"}, {"message": "b"}]}),
                Some("a; b"),
            ),
            (
                json!({"detail": [{"loc": ["body"], "msg": "a"}]}),
                Some("a"),
            ),
            (
                json!({"type": "about:blank", "title": "t", "status": 400}),
                Some("t"),
            ),
            (json!({"error": true, "message": ""}), None),
            (json!({"error": {}}), None),
            (json!({"code": "400"}), None),
            (json!({"message": "m", "code": 500}), None),
            (json!({"statusCode": "502", "message": "m"}), None),
            (json!(["a"]), None),
            (json!({"data": [], "result": 7, "details": "x"}), None),
            (json!({"error": [[[[["deep"]]]]]}), None),
        ];
        for (body, expected) in table {
            let read = text(&answer(400, &body));
            assert_eq!(read.as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn a_missing_route_is_no_missing_purchase() {
        let own = || Some("Purchase not found".to_owned());
        let shaped = |text: &str| json!({ "message": text });
        let table = [
            (404, shaped("x"), own(), true),
            (404, shaped("no such purchase"), None, true),
            (404, shaped("Not Found"), None, false),
            (404, shaped("Not Found"), Some("Not Found".to_owned()), true),
            (404, shaped("Cannot GET /x"), None, false),
            (404, shaped("x"), Some("Can not POST /x".to_owned()), false),
            (404, shaped("Route GET:/x not found"), None, false),
            (
                404,
                shaped("no Route matched with those values"),
                None,
                false,
            ),
            (404, json!({}), None, false),
            (400, shaped("no such purchase"), own(), false),
        ];
        for (status, body, own, expected) in table {
            let read = is_unknown(&answer(status, &body), own.clone());
            assert_eq!(read, expected, "{status} {body} {own:?}");
        }
    }

    #[test]
    fn a_wait_is_read_by_the_arrival_where_the_answer_has_no_date() {
        let mut throttled = answer(429, &json!({}));
        let date = HeaderValue::from_static("Wed, 01 Jul 2026 10:10:30 GMT");
        throttled.headers.insert(header::RETRY_AFTER, date);
        let now = Timestamp::from_iso("2026-07-01T10:10:00Z").unwrap();
        let retry_after = Some(Duration::from_secs(30));
        assert_eq!(trouble(&throttled, now), Trouble::Throttled { retry_after });
        let submitted = not_accepted(&throttled, None, now);
        let throttled = Submitted::NotSent(Trouble::Throttled { retry_after });
        assert_eq!(submitted, throttled);
    }
}
