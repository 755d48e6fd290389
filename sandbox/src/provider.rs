//! The registry of simulated providers, and what a call and an answer are to them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::Value;

use crate::engine::Engine;
use crate::life::Life;
use crate::scenario::Scenario;
use crate::{carbon, devdraft, inabit, masumi, phygitals};

/// The word of an answer that no documentation knows.
pub(crate) const UNKNOWN_WORD: &str = "SANDBOX_UNKNOWN";

/// A simulated provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Provider {
    Phygitals,
    Masumi,
    Inabit,
    Carbon,
    Devdraft,
}

impl Provider {
    pub(crate) const ALL: [Self; 5] = [
        Self::Phygitals,
        Self::Masumi,
        Self::Inabit,
        Self::Carbon,
        Self::Devdraft,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Phygitals => "phygitals",
            Self::Masumi => "masumi",
            Self::Inabit => "inabit",
            Self::Carbon => "carbon",
            Self::Devdraft => "devdraft",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// The words that a purchase walks through; empty where its create is refused.
    pub(crate) fn life(self, scenario: Scenario) -> Life {
        match self {
            Self::Phygitals => phygitals::life(scenario),
            Self::Masumi => masumi::life(scenario),
            Self::Inabit => inabit::life(scenario),
            Self::Carbon => carbon::life(scenario),
            Self::Devdraft => devdraft::life(scenario),
        }
    }

    /// True if a request may create a purchase.
    pub(crate) fn is_create(self, method: &Method, path: &str) -> bool {
        method == Method::POST
            && match self {
                Self::Phygitals => path == phygitals::CREATE,
                Self::Masumi => path == masumi::CREATE,
                Self::Inabit => path == inabit::CREATE,
                Self::Carbon => path == carbon::CREATE,
                Self::Devdraft => path.starts_with(devdraft::CREATE),
            }
    }

    /// The largest body that it reads.
    pub(crate) fn body_bytes_max(self) -> usize {
        match self {
            Self::Masumi => masumi::BODY_BYTES_MAX,
            Self::Phygitals | Self::Inabit | Self::Carbon | Self::Devdraft => 1 << 20,
        }
    }

    /// An error that has nothing to do with the request, in the provider's own shape.
    pub(crate) fn error(self, status: StatusCode, retry_after_s: Option<u64>) -> Value {
        match self {
            Self::Phygitals => phygitals::error(status),
            Self::Masumi => masumi::error(status),
            Self::Inabit => inabit::error(status),
            Self::Carbon => carbon::error(status),
            Self::Devdraft => devdraft::error(status, retry_after_s),
        }
    }

    pub(crate) async fn answer(self, engine: &Engine, call: &Call) -> Answer {
        match self {
            Self::Phygitals => phygitals::answer(engine, call).await,
            Self::Masumi => masumi::answer(engine, call),
            Self::Inabit => inabit::answer(engine, call),
            Self::Carbon => carbon::answer(engine, call),
            Self::Devdraft => devdraft::answer(engine, call),
        }
    }

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Masumi | Self::Devdraft => "application/json; charset=utf-8",
            Self::Phygitals | Self::Inabit | Self::Carbon => "application/json",
        })
    }
}

/// A request as a provider sees it, its path below the provider's own.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// True if the answer is to say a word that nobody knows.
    pub(crate) unknown_word: bool,
}

impl Call {
    /// A header's text; nothing where it is missing or empty.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)?
            .to_str()
            .ok()
            .map(str::trim)
            .filter(|it| !it.is_empty())
    }

    /// The token after `Authorization: Bearer`.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; an empty one is an empty object.
    pub(crate) fn json(&self) -> Result<Value, serde_json::Error> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        serde_json::from_slice(&self.body)
    }

    /// The present word, or the unknown one where this answer is to say it.
    pub(crate) fn word<'a>(&self, word: &'a str) -> &'a str {
        if self.unknown_word {
            UNKNOWN_WORD
        } else {
            word
        }
    }
}

/// True if a credential is accepted.
pub(crate) fn accepted(engine: &Engine, credential: &str) -> bool {
    let known = &engine.options.credentials;
    !credential.to_ascii_lowercase().contains("invalid")
        && (known.is_empty() || known.iter().any(|it| it == credential))
}

/// True if a key has a word among its parts, as in `test-org-key`.
pub(crate) fn has_part(key: &str, part: &str) -> bool {
    key.split(|it: char| !it.is_ascii_alphanumeric())
        .any(|it| it.eq_ignore_ascii_case(part))
}

/// What a provider answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Value,
    /// The reference of the purchase that this call made.
    pub(crate) created: Option<String>,
    /// The purchases that the answer speaks of.
    pub(crate) about: Vec<Arc<str>>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
            created: None,
            about: Vec::new(),
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

    pub(crate) fn about(mut self, references: impl IntoIterator<Item = Arc<str>>) -> Self {
        self.about.extend(references);
        self
    }
}

/// A wall-clock time as ISO 8601 with milliseconds and `Z`.
pub(crate) fn iso(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
