//! Outbound HTTP behind one trait.
//!
//! [`http`] is the only user of reqwest; [`scripted`] answers from a test or simulation. Neither
//! knows any provider: requests come in whole and answers go out as they came, up to their limits.

pub mod address;
pub mod http;
pub mod rate_headers;
mod reading;
pub mod retry_after;
pub mod scripted;
mod surrogates;
pub mod tls;

pub use reading::read;

use std::{fmt, time::Duration};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use async_trait::async_trait;
use bytes::Bytes;

use crate::purchase::Timestamp;

/// The largest answer body that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The use of connections by a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Any connection of the pool.
    Pooled,
    /// A new connection that nothing has used: a create must not meet a half-closed connection, and
    /// the client beneath must not repeat it.
    Fresh,
}

/// One request, relative to the account's origin.
#[derive(Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path segments below the origin's own path; encoded one by one, so none can leave its place.
    pub path: Vec<String>,
    /// Query parameters, in order.
    pub query: Vec<(String, String)>,
    /// Headers. Values that are secrets are marked sensitive.
    pub headers: HeaderMap,
    /// The body, if any.
    pub body: Option<Bytes>,
    /// The connection to use.
    pub connection: Connection,
}

impl fmt::Debug for Request {
    /// Shows the method and the first segment of the path, never headers or body.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} /{}",
            self.method,
            self.path.first().map_or("", String::as_str)
        )
    }
}

impl Request {
    /// A request without query, headers or body.
    pub fn new<const N: usize>(method: Method, path: [&str; N]) -> Self {
        Self {
            method,
            path: path.into_iter().map(str::to_owned).collect(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            body: None,
            connection: Connection::Pooled,
        }
    }

    /// The request with one more header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    /// The request with one more query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The request with a JSON body.
    #[must_use]
    pub fn json(self, body: &serde_json::Value) -> Self {
        self.json_bytes(Bytes::from(body.to_string()))
    }

    /// The request with a body that is JSON already.
    #[must_use]
    pub fn json_bytes(mut self, body: Bytes) -> Self {
        self.headers.insert(
            ::http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        self.body = Some(body);
        self
    }

    /// The request on another kind of connection.
    #[must_use]
    pub fn on(mut self, connection: Connection) -> Self {
        self.connection = connection;
        self
    }
}

/// A whole answer.
#[derive(Clone)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most [`BODY_BYTES_MAX`] bytes.
    pub body: Bytes,
}

impl fmt::Debug for Response {
    /// Shows the status alone: bodies can hold anything.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HTTP {}", self.status)
    }
}

impl Response {
    /// The body as JSON; `None` if it is not JSON. A byte order mark before it is skipped (RFC 8259,
    /// 8.1), and the lone half of a UTF-16 pair is read as U+FFFD.
    pub fn json(&self) -> Option<serde_json::Value> {
        let body = self.body.strip_prefix(b"\xef\xbb\xbf");
        let body = body.unwrap_or(&self.body);
        serde_json::from_slice(body).ok().or_else(|| {
            // The parser refuses a text with such a half, so only a refused text is searched for one.
            serde_json::from_slice(&surrogates::replaced(body)?).ok()
        })
    }

    /// The time at which it was sent by the provider's own clock; `None` if it does not say.
    pub fn date(&self) -> Option<Timestamp> {
        let date = self.headers.get(::http::header::DATE)?.to_str().ok()?;
        let sent = httpdate::parse_http_date(date.trim()).ok()?;
        let since = sent
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .ok()?;
        Some(Timestamp::default().plus(since))
    }
}

/// The reason why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No connection was made, its use was refused here, or the provider refused this client's
    /// certificate: the provider has read nothing of the request.
    #[error("no connection: {0}")]
    NotConnected(&'static str),
    /// The request may have reached the provider.
    #[error("answer lost: {0}")]
    Lost(&'static str),
    /// A kept connection was closed before an answer began. The request may have reached the provider,
    /// but most often the provider had given the connection up already.
    #[error("answer lost: a kept connection was closed")]
    Closed,
    /// An answer arrived that is too large, is cut short or redirects: it is no answer.
    #[error("answer unusable: {0}")]
    Unusable(&'static str),
}

/// One account's way out.
#[async_trait]
pub trait Upstream: fmt::Debug + Send + Sync {
    /// Sends one request once and returns the whole answer, within `timeout`.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up; the request may have been sent.
    async fn send(&self, request: Request, timeout: Duration) -> Result<Response, UpstreamError>;
}
