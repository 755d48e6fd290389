//! A request as a provider sees it, and its answer, both without HTTP's sockets.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use crate::{
    book::Purchase,
    life::{self, Life, TimeLine},
    scenario::Scenario,
};

/// A word that no documentation knows.
pub const UNKNOWN_WORD: &str = "SANDBOX_UNKNOWN";

/// A difference between an answer and the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The answer says this word in place of the present one.
    Word(String),
    /// The answer tells the purchase as it was during its first words, this many.
    Earlier(usize),
    /// The time of the last change is off by this much.
    Stamp(SignedDuration),
    /// The answer is about another purchase, of this reference.
    Other(String),
}

/// A request, its path below the provider's own.
#[derive(Clone, Debug)]
pub struct Call {
    /// The HTTP method.
    pub method: Method,
    /// The path, encoded as it came, with a slash at its beginning.
    pub path: String,
    /// The parameters of the query, decoded.
    pub query: Vec<(String, String)>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The life of the purchase that this call makes, if it is not its scenario's.
    pub life: Option<TimeLine>,
    /// The difference between the answer and the truth, in each purchase that the answer shows.
    pub lie: Option<Lie>,
}

impl Call {
    /// A request without query, headers and body.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            life: None,
            lie: None,
        }
    }

    /// A header's text; `None` if it is missing or empty.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let text = self.headers.get(name)?.to_str().ok()?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// The token after `Authorization: Bearer`.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let mut parameters = self.query.iter();
        let (_, value) = parameters.find(|(key, _)| key == name)?;
        Some(value)
    }

    /// The body as JSON; an empty one is an empty object.
    pub(crate) fn json(&self) -> Result<Value, serde_json::Error> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Object(Map::new()));
        }
        serde_json::from_slice(&self.body)
    }

    /// The life of the purchase that this call makes.
    pub(crate) fn time_line(&self, life: Life, scenario: Scenario) -> TimeLine {
        let own = self.life.clone();
        own.unwrap_or_else(|| life::time_line(life, scenario))
    }

    /// A purchase as the answer shows it.
    pub(crate) fn shown<'a>(&self, purchase: &'a Purchase) -> Cow<'a, Purchase> {
        let Some(lie) = &self.lie else {
            return Cow::Borrowed(purchase);
        };
        let mut shown = purchase.clone();
        match lie {
            Lie::Word(word) => shown.say(word),
            Lie::Earlier(words) => shown.past.truncate((*words).max(1)),
            Lie::Stamp(off) => shown.shift(*off),
            Lie::Other(reference) => shown.reference = reference.as_str().into(),
        }
        Cow::Owned(shown)
    }
}

/// True if a key has a word among its parts, as in `test-org-key`.
pub(crate) fn has_part(key: &str, part: &str) -> bool {
    key.split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|own| own.eq_ignore_ascii_case(part))
}

/// The words of an answer about one purchase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The purchase that was meant, also if the answer lies about its reference.
    pub reference: Arc<str>,
    /// The word that the answer says; the first one if it says none, as some answers to creates do.
    pub word: String,
    /// The time of the last change that the answer says, or would.
    pub changed: Timestamp,
}

/// A provider's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers, without the content type.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Value,
    /// The reference of the purchase that the call made.
    pub created: Option<String>,
    /// Everything that the answer says about purchases.
    pub told: Vec<Told>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            created: None,
            told: Vec::new(),
        }
    }

    pub(crate) fn ok(body: Value) -> Self {
        Self::new(StatusCode::OK, body)
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    pub(crate) fn created(mut self, reference: impl Into<String>) -> Self {
        self.created = Some(reference.into());
        self
    }

    /// Notes that the answer tells of a purchase as it is shown.
    pub(crate) fn tells(self, purchase: &Purchase, shown: &Purchase) -> Self {
        self.says(purchase, shown.word(), shown.updated())
    }

    /// Notes that the answer says a word about a purchase.
    pub(crate) fn says(mut self, purchase: &Purchase, word: &str, changed: Timestamp) -> Self {
        self.told.push(Told {
            reference: Arc::clone(&purchase.reference),
            word: word.to_owned(),
            changed,
        });
        self
    }
}

/// A wall-clock time as ISO 8601 with milliseconds and `Z`.
pub(crate) fn iso(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
