//! Answers outside 200 to 299, and what they mean where a provider has no rule of its own.
//!
//! The providers' documents show few of their error bodies, so a text is looked for in every shape
//! that is in use. What a text says is never matched, but for routes that do not exist.

use ::http::header;

use super::wire;
use crate::{
    observation::{Submitted, Trouble},
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
/// What texts about a route that does not exist have in them, in lower case: Express and NestJS,
/// Masumi's framework (recorded), Fastify, Kong, Rails, Laravel, Spring, Flask and Apache.
const NO_ROUTE: [&str; 20] = [
    "cannot post",
    "cannot get",
    "can not post",
    "can not get",
    " post /",
    " get /",
    " post:/",
    " get:/",
    "no route match",
    "no such route",
    "unknown route",
    "route not found",
    "no static resource",
    "no handler found",
    "endpoint not found",
    "unknown endpoint",
    "no such endpoint",
    "page not found",
    "path not found",
    "requested url",
];
/// What a text can have around the words "Not Found" and still say nothing more.
const NOT_FOUND: [&str; 5] = [
    "not found",
    "404 not found",
    "not found 404",
    "error 404 not found",
    "http 404 not found",
];
/// What a 404 means that is not in the provider's shape, or names a route.
const LEADS_NOWHERE: &str = "HTTP 404: the base URL leads nowhere at the provider";
/// What a web page means in the place of a refusal: the provider's own are JSON.
const IN_FRONT: &str = "something in front of the provider refuses this address";

/// What the provider's own error shape says, in a body that has that shape. The second is the HTTP
/// status.
pub(super) type Own = fn(&Value, u16) -> Option<String>;

/// What an answer outside 200 to 299 means. `now` is its arrival, for a `Retry-After` date in an
/// answer that has no date of its own.
pub(super) fn trouble(answer: &Response, now: Timestamp) -> Trouble {
    match answer.status {
        401 | 403 if is_web_page(answer) => Trouble::Unreachable {
            sent: true,
            why: format!("HTTP {}: {IN_FRONT}", answer.status),
        },
        401 | 403 => Trouble::Unauthorized,
        404 => Trouble::unreadable(LEADS_NOWHERE),
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

/// What a submit's answer outside 200 to 299 means.
///
/// HTTP 400, 409, 412 and 422 with an error text are about the order. A 404 is so in the provider's
/// own shape alone and if it says what is not there: whatever stands behind a wrong base URL answers
/// it as well, and has bought nothing. Without any text something in between may have answered, and
/// the order may exist.
pub(super) fn not_accepted(answer: &Response, own: Own, now: Timestamp) -> Submitted {
    let body = wire::object(answer).ok();
    let own = || body.as_ref().and_then(|body| own(body, answer.status));
    let any = || own().or_else(|| body.as_ref().and_then(text));
    let refusal = match answer.status {
        401 | 403 | 429 => return Submitted::NotSent(not_sent(trouble(answer, now))),
        404 => match own().filter(|text| !is_bare(text) && !is_no_route(text)) {
            Some(text) => Some(text),
            None => {
                return Submitted::NotSent(Trouble::Unreachable {
                    sent: false,
                    why: LEADS_NOWHERE.to_owned(),
                });
            }
        },
        400 | 409 | 412 | 422 => any(),
        _ => None,
    };
    match refusal {
        Some(message) => Submitted::Refused { message },
        None => Submitted::unclear(format!("HTTP {}", answer.status)),
    }
}

/// The same trouble before a create: the order did not get past what refused it.
fn not_sent(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Unreachable { why, .. } => Trouble::Unreachable { sent: false, why },
        other => other,
    }
}

/// Whether a 404 says that the provider does not know the purchase.
pub(super) fn is_unknown(answer: &Response, own: Own) -> bool {
    if answer.status != 404 {
        return false;
    }
    let Ok(body) = wire::object(answer) else {
        return false;
    };
    match own(&body, answer.status) {
        Some(text) => !is_no_route(&text),
        // Without the provider's shape, a bare "Not Found" is what every web server says.
        None => text(&body).is_some_and(|text| !is_no_route(&text) && !is_bare(&text)),
    }
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
pub(super) fn text(body: &Value) -> Option<String> {
    let is_servers = ["code", "statusCode", "status"].into_iter().any(|field| {
        let code = wire::text(body, field).and_then(|code| code.parse::<u16>().ok());
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

/// Whether a text names a route, or says that there is none.
fn is_no_route(text: &str) -> bool {
    let text = format!(" {}", text.to_ascii_lowercase());
    NO_ROUTE.iter().any(|words| text.contains(words))
}

/// Whether a text says "Not Found" and no more, in any spelling.
fn is_bare(text: &str) -> bool {
    let words = text.split(|sign: char| !sign.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    NOT_FOUND.contains(&words.join(" ").as_str())
}

/// Whether an answer is for a browser.
fn is_web_page(answer: &Response) -> bool {
    let kind = answer.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.trim_start().to_ascii_lowercase();
    let body = answer.body.trim_ascii_start();
    kind.starts_with("text/html")
        || kind.starts_with("application/xhtml")
        || body.starts_with(b"<")
        || body.starts_with(b"\xef\xbb\xbf<")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::http::{HeaderMap, HeaderValue};
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
            (json!({"data": [], "result": 7, "details": "x"}), None),
            (json!({"error": [[[[["deep"]]]]]}), None),
        ];
        for (body, expected) in table {
            assert_eq!(text(&body).as_deref(), expected, "{body}");
        }
    }

    /// A shape of its own: a text in `own`.
    fn own(body: &Value, _: u16) -> Option<String> {
        wire::text(body, "own")
    }

    #[test]
    fn a_missing_route_is_no_missing_purchase() {
        let table = [
            (404, json!({"own": "Purchase not found"}), true),
            (404, json!({"own": "Not Found"}), true),
            (404, json!({"message": "no such purchase"}), true),
            (404, json!({"message": "Not Found"}), false),
            (404, json!({"message": "not_found"}), false),
            (404, json!({"message": "Cannot GET /x"}), false),
            (404, json!({"own": "Can not POST /x"}), false),
            (404, json!({"message": "Route GET:/x not found"}), false),
            (
                404,
                json!({"message": "no Route matched with those values"}),
                false,
            ),
            (404, json!({}), false),
            (400, json!({"own": "Purchase not found"}), false),
        ];
        for (status, body, expected) in table {
            let read = is_unknown(&answer(status, &body), own);
            assert_eq!(read, expected, "{status} {body}");
        }
    }

    #[test]
    fn a_create_that_found_no_route_was_not_sent() {
        let refused = [
            json!({"own": "contact not found"}),
            json!({"own": "agent not found on network"}),
        ];
        for body in refused {
            let submitted = not_accepted(&answer(404, &body), own, now());
            assert!(matches!(submitted, Submitted::Refused { .. }), "{body}");
        }
        let nowhere = [
            r#"{"own": "Not Found"}"#,
            r#"{"own": "404 Not Found."}"#,
            r#"{"own": "NOT_FOUND"}"#,
            r#"{"own": "Cannot POST /api/v1/purchase"}"#,
            r#"{"own": "The requested URL was not found on the server."}"#,
            r#"{"message": "Not Found"}"#,
            r#"{"message": "No static resource api/v1/purchase."}"#,
            r#"{"detail": "Not Found"}"#,
            r#"{"error": {"code": "NOT_FOUND"}}"#,
            "<html><body><h1>404 Not Found</h1></body></html>",
            "404 page not found",
            "Not Found",
            "{}",
            "",
        ];
        for body in nowhere {
            let mut answer = answer(404, &Value::Null);
            answer.body = body.into();
            let submitted = not_accepted(&answer, own, now());
            let expected = Submitted::NotSent(Trouble::Unreachable {
                sent: false,
                why: LEADS_NOWHERE.to_owned(),
            });
            assert_eq!(submitted, expected, "{body}");
            let read = trouble(&answer, now());
            assert_eq!(read, Trouble::unreadable(LEADS_NOWHERE), "{body}");
        }
    }

    #[test]
    fn a_web_page_that_refuses_is_not_about_the_credentials() {
        let page = "\n<!doctype html><title>Attention Required! | Cloudflare</title>";
        let pages = [
            (page, ""),
            ("blocked", "text/html; charset=UTF-8"),
            ("", "TEXT/HTML"),
        ];
        for status in [401, 403] {
            for (body, kind) in pages {
                let mut answer = answer(status, &Value::Null);
                answer.body = body.into();
                if !kind.is_empty() {
                    let kind = HeaderValue::from_static(kind);
                    answer.headers.insert(header::CONTENT_TYPE, kind);
                }
                let why = format!("HTTP {status}: {IN_FRONT}");
                let unreachable = |sent| Trouble::Unreachable {
                    sent,
                    why: why.clone(),
                };
                assert_eq!(trouble(&answer, now()), unreachable(true), "{body}");
                let submitted = not_accepted(&answer, own, now());
                assert_eq!(submitted, Submitted::NotSent(unreachable(false)), "{body}");
            }
            for body in [json!({"message": "Unauthorized"}), json!({}), json!("no")] {
                let refused = answer(status, &body);
                assert_eq!(trouble(&refused, now()), Trouble::Unauthorized, "{body}");
            }
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_iso("2026-07-01T10:10:00Z").unwrap()
    }

    #[test]
    fn a_wait_is_read_by_the_arrival_where_the_answer_has_no_date() {
        let mut throttled = answer(429, &json!({}));
        let date = HeaderValue::from_static("Wed, 01 Jul 2026 10:10:30 GMT");
        throttled.headers.insert(header::RETRY_AFTER, date);
        let now = now();
        let retry_after = Some(Duration::from_secs(30));
        assert_eq!(trouble(&throttled, now), Trouble::Throttled { retry_after });
        let submitted = not_accepted(&throttled, own, now);
        let throttled = Submitted::NotSent(Trouble::Throttled { retry_after });
        assert_eq!(submitted, throttled);
    }
}
