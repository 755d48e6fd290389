//! Answers outside 200 to 299, and their meaning if a provider has no rule of its own.
//!
//! The providers' documents show few of their error bodies, so a text is looked for in every shape
//! that is in use. The words of a text are never matched, except for routes that do not exist.

use ::http::header;
use serde_json::Value;

use super::wire;
use crate::{
    observation::{Observation, Submitted, Trouble},
    purchase::Timestamp,
    upstream::{Response, retry_after},
};

/// The fields in which error bodies have their texts, the more telling first.
const TEXT_FIELDS: [&str; 9] = [
    "message", "messages", "errors", "error", "detail", "msg", "reason", "code", "title",
];
/// The depth below such a field to which a text is looked for.
const DEPTH_MAX: usize = 3;
/// The parts of texts about a route that does not exist, in lower case: Express and NestJS,
/// Masumi's framework (recorded), Fastify, Kong, Rails, Laravel, Spring, Flask and Apache.
const NO_ROUTE: [&str; 22] = [
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
    "page could not be found",
    "path could not be found",
    "requested url",
];
/// Texts that say only that nothing is there, in lower case: of any web server, Azure's and Spring's
/// gateways, Google's front ends, Drupal and Vercel.
const NOT_FOUND: [&str; 10] = [
    "not found",
    "404 not found",
    "not found 404",
    "error 404 not found",
    "http 404 not found",
    "resource not found",
    "the resource could not be found",
    "the requested resource was not found",
    "the requested resource could not be found",
    "requested entity was not found",
];
/// The trouble of a web page in the place of a refusal: the provider's own refusals are JSON.
const IN_FRONT: &str = "something in front of the provider refuses this address";

/// Reads the text of a body that has the provider's own error shape. The second is the HTTP
/// status.
pub(super) type Own = fn(&Value, u16) -> Option<String>;

/// The meaning of an answer outside 200 to 299. `now` is its arrival, for a `Retry-After` date in an
/// answer that has no date of its own.
pub(super) fn trouble(answer: &Response, now: Timestamp) -> Trouble {
    match answer.status {
        401 | 403 if is_web_page(answer) => Trouble::Unreachable {
            sent: true,
            why: format!("HTTP {}: {IN_FRONT}", answer.status),
        },
        401 | 403 => Trouble::Unauthorized,
        404 => Trouble::Nowhere,
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

/// The meaning of a submit's answer outside 200 to 299.
///
/// HTTP 400, 409, 412 and 422 with an error text are about the order. A 404 is so in the provider's
/// own shape alone and if it names the missing thing: any server behind a wrong base URL answers
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
            None => return Submitted::NotSent(Trouble::Nowhere),
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

/// True if a 404 says that the provider does not know the purchase.
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

/// An accepted submit, unless its answer cannot be read.
pub(super) fn accepted(read: Result<Observation, Trouble>) -> Submitted {
    match read {
        Ok(observation) => Submitted::Accepted(Box::new(observation)),
        Err(trouble) => unclear(trouble),
    }
}

/// A submit whose answer cannot be read: the order may exist.
pub(super) fn unclear(trouble: Trouble) -> Submitted {
    Submitted::unclear(trouble.why().unwrap_or("no definite answer"))
}

/// The text of an error body in any usual shape; nothing if it has none, or if it says by its
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

/// True if a text names a route, or says that there is none.
fn is_no_route(text: &str) -> bool {
    let text = format!(" {}", text.to_ascii_lowercase());
    NO_ROUTE.iter().any(|words| text.contains(words))
}

/// True if a text says "Not Found" and no more, in any spelling.
fn is_bare(text: &str) -> bool {
    let words = text.split(|sign: char| !sign.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    NOT_FOUND.contains(&words.join(" ").as_str())
}

/// True if an answer is for a browser.
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
mod tests;
