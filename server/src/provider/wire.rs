//! Reading providers' JSON leniently: numbers that are text, text that is numbers, and fields that
//! are missing, null or empty, which all mean the same.

use ::http::HeaderValue;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::SettingsError;
use crate::{
    observation::{self, Submitted, Trouble},
    purchase::{Amount, AmountRole, Decimal, Secret, Timestamp},
    upstream::Response,
};

/// The text of a field: a string as it is, a number or bool by its digits; nothing where it is
/// missing, null, an empty string, or anything nested.
pub(super) fn text(object: &Value, field: &str) -> Option<String> {
    match object.get(field)? {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// A word that an answer cannot do without: as [`text`], yet unreadable where it is nested, so that
/// a damaged word is never taken for a missing one.
pub(super) fn word(object: &Value, field: &str) -> Result<Option<String>, Trouble> {
    match object.get(field) {
        Some(Value::Array(_) | Value::Object(_)) => {
            Err(Trouble::unreadable(format!("{field} is no word")))
        }
        _ => Ok(text(object, field)),
    }
}

/// A field that holds an identifier, hash or address: never cut and never cleaned, so one that is
/// too long or has control characters (which no store takes) makes the answer unreadable.
pub(super) fn identifier(object: &Value, field: &str) -> Result<Option<String>, Trouble> {
    let Some(text) = text(object, field) else {
        return Ok(None);
    };
    if text.chars().any(char::is_control) {
        return Err(Trouble::unreadable(format!(
            "{field} has control characters"
        )));
    }
    observation::identifier(field, &text).map(Some)
}

/// A field that holds an ISO-8601 time; nothing where it holds anything else.
pub(super) fn time(object: &Value, field: &str) -> Option<Timestamp> {
    Timestamp::from_iso(object.get(field)?.as_str()?).ok()
}

/// A field that holds a decimal number, as a JSON number or as text.
///
/// Anything else in it is unreadable: an amount is never guessed.
pub(super) fn decimal(object: &Value, field: &str) -> Result<Option<Decimal>, Trouble> {
    let Some(text) = text(object, field) else {
        return Ok(None);
    };
    match Decimal::parse_json(&text) {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Trouble::unreadable(format!(
            "{field} is not a decimal number"
        ))),
    }
}

/// An amount that no state hangs on: left out where the field holds no decimal number, since a
/// wrong amount must not hide a right status.
pub(super) fn amount(object: &Value, field: &str, role: AmountRole, unit: &str) -> Option<Amount> {
    let value = decimal(object, field).ok()??;
    Some(Amount {
        role,
        value: value.to_string(),
        unit: observation::word(unit),
    })
}

/// A field that holds a list; nothing where it is missing, null or no list.
pub(super) fn list<'a>(object: &'a Value, field: &str) -> Option<&'a [Value]> {
    object.get(field)?.as_array().map(Vec::as_slice)
}

/// The answer's body as a JSON object.
pub(super) fn object(answer: &Response) -> Result<Value, Trouble> {
    match answer.json() {
        Some(value) if value.is_object() => Ok(value),
        Some(_) => Err(Trouble::unreadable("the answer is not a JSON object")),
        None => Err(Trouble::unreadable("the answer is not JSON")),
    }
}

/// What an HTTP status outside 200 to 299 means where a provider has no rule of its own for it.
pub(super) fn trouble(answer: &Response) -> Trouble {
    trouble_at(answer, None)
}

/// As [`trouble`], with the time of the answer's arrival, for a `Retry-After` date in an answer
/// that has no date of its own.
pub(super) fn trouble_at(answer: &Response, now: Option<Timestamp>) -> Trouble {
    let now = now.and_then(|now| {
        let since_epoch = Duration::from_millis(u64::try_from(now.as_millis()).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since_epoch)
    });
    match answer.status {
        401 | 403 => Trouble::Unauthorized,
        429 => Trouble::Throttled {
            retry_after: crate::upstream::retry_after::at(&answer.headers, now),
        },
        408 | 425 | 500..=599 => Trouble::Unreachable {
            sent: true,
            why: format!("HTTP {}", answer.status),
        },
        status => Trouble::unreadable(format!("HTTP {status}")),
    }
}

/// What a submit's answer outside 200 to 299 means where a provider has no rule of its own for it.
///
/// `message` is what the provider's own error shape says; without it a proxy may have answered, and
/// the order may exist.
pub(super) fn not_accepted(answer: &Response, message: Option<&str>) -> Submitted {
    match (answer.status, message) {
        (401 | 403 | 429, _) => Submitted::NotSent(trouble(answer)),
        (400 | 404 | 409 | 412 | 422, Some(message)) => Submitted::Refused {
            message: observation::word(message),
        },
        (status, _) => Submitted::Unclear {
            why: format!("HTTP {status}"),
        },
    }
}

/// A submit whose answer cannot be read: the order may exist.
pub(super) fn unclear(trouble: Trouble) -> Submitted {
    Submitted::Unclear {
        why: match trouble {
            Trouble::Unreadable { why } | Trouble::Unreachable { why, .. } => why,
            Trouble::Throttled { .. } | Trouble::Unauthorized => "no definite answer".to_owned(),
        },
    }
}

/// A secret as a header value that no log shows, after `prefix`.
pub(super) fn secret_header(
    secrets: &BTreeMap<String, Secret>,
    name: &'static str,
    prefix: &str,
) -> Result<HeaderValue, SettingsError> {
    let secret = secrets.get(name).ok_or(SettingsError::Missing(name))?;
    if secret.expose().is_empty() {
        return Err(SettingsError::Missing(name));
    }
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", secret.expose()))
        .map_err(|_| SettingsError::NoHeader(name))?;
    value.set_sensitive(true);
    Ok(value)
}
