//! A service before its house is open: its callers wait, since a moment later it is there.
//!
//! The listeners serve from the first moment, so that health can say NOT_SERVING while a long journal
//! is read, and probes of liveness are answered.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{BoxFuture, http},
    server::NamedService,
};
use tower::Service;

/// A service that gets its inner service once, later.
#[derive(Debug)]
pub(super) struct Late<S>(Arc<Inside<S>>);

#[derive(Debug)]
struct Inside<S> {
    service: OnceLock<S>,
    is_open: CancellationToken,
}

impl<S> Clone for Late<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Late<S> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inside {
            service: OnceLock::new(),
            is_open: CancellationToken::new(),
        }))
    }

    /// Serves from now on; the first service given counts.
    pub(super) fn open(&self, service: S) {
        self.0.service.get_or_init(|| service);
        self.0.is_open.cancel();
    }
}

impl<S: NamedService> NamedService for Late<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Late<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = BoxFuture<http::Response<Body>, Infallible>,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if let Some(service) = self.0.service.get() {
            // A generated service is always ready.
            return service.clone().call(request);
        }
        let inside = Arc::clone(&self.0);
        Box::pin(async move {
            inside.is_open.cancelled().await;
            match inside.service.get() {
                Some(service) => service.clone().call(request).await,
                // The service is set before the token says so.
                None => Ok(tonic::Status::unavailable("not open yet").into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::FutureExt as _;

    use super::*;

    #[derive(Clone)]
    struct Answers;

    impl Service<http::Request<Body>> for Answers {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<http::Response<Body>, Infallible>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            Box::pin(ready(Ok(http::Response::new(Body::empty()))))
        }
    }

    #[tokio::test]
    async fn who_calls_before_the_house_is_open_waits_until_it_is() {
        let mut late = Late::new();
        let mut early = late.call(http::Request::default());
        assert!((&mut early).now_or_never().is_none());
        late.open(Answers);
        assert!(early.await.is_ok());
        assert!(late.call(http::Request::default()).now_or_never().is_some());
    }
}
