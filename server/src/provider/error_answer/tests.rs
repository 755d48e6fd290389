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
        (404, json!({"own": "Resource not found"}), true),
        (404, json!({"message": "Resource not found"}), false),
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
        let expected = Submitted::NotSent(Trouble::Nowhere);
        assert_eq!(submitted, expected, "{body}");
        assert_eq!(trouble(&answer, now()), Trouble::Nowhere, "{body}");
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
