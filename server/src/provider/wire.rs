//! Reading providers' JSON leniently: numbers that are text, text that is numbers, and fields that
//! are missing, null or empty, which all mean the same.

use std::collections::BTreeMap;

use ::http::HeaderValue;
use serde_json::Value;

use super::SettingsError;
use crate::{
    observation::{self, Trouble},
    purchase::{Amount, AmountRole, Decimal, DecimalError, Secret, Timestamp},
    upstream::Response,
};

/// The effect of a damaged part on its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// It makes the answer unreadable, which is then asked for again.
    Spoils,
    /// It is left out. A create's answer comes once, and its reference is worth more than all else.
    LeftOut,
}

impl Damage {
    /// A part of an answer, or why there is none.
    pub(super) fn hold<T: Default>(self, part: Result<T, Trouble>) -> Result<T, Trouble> {
        match self {
            Self::Spoils => part,
            Self::LeftOut => Ok(part.unwrap_or_default()),
        }
    }
}

/// The object in a field, or the whole answer if it has none: a wrapper may come and go with a
/// provider's version.
pub(super) fn unwrapped<'a>(body: &'a Value, field: &str) -> &'a Value {
    body.get(field)
        .filter(|inner| inner.is_object())
        .unwrap_or(body)
}

/// The text of a field: a string as it is, a number or bool by its digits; nothing if it is
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

/// A text as a value in a URL's query.
pub(super) fn query_value(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A word that an answer cannot do without: as [`text`], yet unreadable if it is nested, so that
/// a damaged word is never taken for a missing one.
pub(super) fn word(object: &Value, field: &str) -> Result<Option<String>, Trouble> {
    match object.get(field) {
        Some(Value::Array(_) | Value::Object(_)) => {
            Err(Trouble::unreadable(format!("{field} is no word")))
        }
        _ => Ok(text(object, field)),
    }
}

/// A field that holds an identifier, hash or address: never cut and never cleaned. If it is
/// too long, has control characters (which no store takes) or has lost characters to U+FFFD, the
/// answer is unreadable.
pub(super) fn identifier(object: &Value, field: &str) -> Result<Option<String>, Trouble> {
    // `false` is a common word for nothing; neither truth is a name.
    let text = text(object, field).filter(|_| !object.get(field).is_some_and(Value::is_boolean));
    let Some(text) = text else {
        return Ok(None);
    };
    if text.chars().any(char::is_control) {
        return Err(Trouble::unreadable(format!(
            "{field} has control characters"
        )));
    }
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Trouble::unreadable(format!("{field} is no whole text")));
    }
    observation::identifier(field, &text).map(Some)
}

/// A field that holds an ISO-8601 time; nothing if it holds anything else.
pub(super) fn time(object: &Value, field: &str) -> Option<Timestamp> {
    Timestamp::from_iso(object.get(field)?.as_str()?).ok()
}

/// A field that holds a decimal number, as a JSON number or as text; nothing if it holds anything
/// else, since no state hangs on an amount and a damaged one must not hide a right status.
///
/// A number that is too long to be kept whole makes the answer unreadable, as every identifier does.
pub(super) fn decimal(object: &Value, field: &str) -> Result<Option<Decimal>, Trouble> {
    let Some(text) = text(object, field) else {
        return Ok(None);
    };
    match Decimal::parse_json(text.trim()) {
        Ok(number) => {
            observation::identifier(field, &number.to_string())?;
            Ok(Some(number))
        }
        Err(DecimalError::NoNumber) => Ok(None),
        Err(DecimalError::TooLong) => {
            Err(Trouble::unreadable(format!("{field} has too many digits")))
        }
    }
}

/// An amount in a field, as [`decimal`] reads it.
pub(super) fn amount(
    object: &Value,
    field: &str,
    role: AmountRole,
    unit: &str,
) -> Result<Option<Amount>, Trouble> {
    let amount = |value: Decimal| Amount {
        role,
        value: value.to_string(),
        unit: observation::word(unit),
    };
    Ok(decimal(object, field)?.map(amount))
}

/// A field that holds a list; nothing if it is missing, null or no list.
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
