//! An upstream that answers from a function: for tests and simulations, with injected faults.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Request, Response, Upstream, UpstreamError};

type Answering = Pin<Box<dyn Future<Output = Result<Response, UpstreamError>> + Send>>;

/// Answers each request by a function; a future that outlasts the timeout is a lost answer.
#[derive(Clone)]
pub struct Scripted(Arc<dyn Fn(Request) -> Answering + Send + Sync>);

impl fmt::Debug for Scripted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scripted")
    }
}

impl Scripted {
    /// An upstream that calls `answer` for each request.
    pub fn new<F, A>(answer: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, UpstreamError>> + Send + 'static,
    {
        Self(Arc::new(move |request| Box::pin(answer(request))))
    }
}

/// An answer with a JSON body.
pub fn json_response(status: u16, body: &serde_json::Value) -> Response {
    let mut headers = ::http::HeaderMap::new();
    headers.insert(
        ::http::header::CONTENT_TYPE,
        ::http::HeaderValue::from_static("application/json"),
    );
    Response {
        status,
        headers,
        body: bytes::Bytes::from(body.to_string()),
    }
}

#[async_trait]
impl Upstream for Scripted {
    async fn send(&self, request: Request, timeout: Duration) -> Result<Response, UpstreamError> {
        match tokio::time::timeout(timeout, (self.0)(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(UpstreamError::Lost("timed out")),
        }
    }
}
