//! A handler's panic becomes INTERNAL. Without this layer the caller would see CANCELLED, as if it had
//! hung up itself. The layer does not see panics inside an answer's stream.

use std::{
    any::Any,
    collections::HashMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{FutureExt as _, future::CatchUnwind};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

/// Puts [`CatchPanic`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct PanicLayer;

impl<S> Layer<S> for PanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic(inner)
    }
}

/// A service whose panics are answered.
#[derive(Debug, Clone)]
pub struct CatchPanic<S>(S);

impl<S, Body, Answer> Service<http::Request<Body>> for CatchPanic<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Answer>>,
    Answer: Default,
{
    type Response = http::Response<Answer>;
    type Error = S::Error;
    type Future = Caught<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // A handler's shared state is behind locks that survive a panic, so nobody meets a half-made
        // change later.
        let called = catch_unwind(AssertUnwindSafe(|| self.0.call(request)));
        Caught(match called {
            Ok(future) => Some(Box::pin(AssertUnwindSafe(future).catch_unwind())),
            Err(_) => None,
        })
    }
}

/// A handler under way; `None` if it panicked before it began.
pub struct Caught<F>(Option<Pin<Box<CatchUnwind<AssertUnwindSafe<F>>>>>);

impl<F> std::fmt::Debug for Caught<F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Caught")
    }
}

impl<F, Answer, E> Future for Caught<F>
where
    F: Future<Output = Result<http::Response<Answer>, E>>,
    Answer: Default,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = self.0.as_mut() else {
            return Poll::Ready(Ok(internal()));
        };
        future
            .as_mut()
            .poll(context)
            .map(|outcome| outcome.unwrap_or_else(|_: Box<dyn Any + Send>| Ok(internal())))
    }
}

/// The answer to a panic. Only the panic hook shows the panic's message: it could hold anything.
fn internal<Answer: Default>() -> http::Response<Answer> {
    tracing::error!("a handler panicked");
    let details = ErrorDetails::with_error_info("INTERNAL", "tillwatch", HashMap::new());
    Status::with_error_details(Code::Internal, "internal error", details).into_http()
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    type Outcome = Result<http::Response<String>, std::convert::Infallible>;

    async fn status_of<S>(service: S) -> Option<Status>
    where
        S: Service<
                http::Request<()>,
                Response = http::Response<String>,
                Error = std::convert::Infallible,
            >,
    {
        let request = http::Request::new(());
        let answer = PanicLayer.layer(service).oneshot(request).await.unwrap();
        Status::from_header_map(answer.headers())
    }

    #[tokio::test]
    async fn a_panic_is_answered_as_internal() {
        let in_future = tower::service_fn(|_: http::Request<()>| async {
            if true {
                panic!("canary");
            }
            Outcome::Ok(http::Response::default())
        });
        let in_call = tower::service_fn(|_: http::Request<()>| -> std::future::Ready<Outcome> {
            panic!("canary")
        });
        for status in [status_of(in_future).await, status_of(in_call).await] {
            let status = status.unwrap();
            assert_eq!(status.code(), Code::Internal);
            assert_eq!(status.get_details_error_info().unwrap().reason, "INTERNAL");
            assert!(!format!("{status:?}").contains("canary"));
        }
    }

    #[tokio::test]
    async fn an_answer_passes_as_it_is() {
        let service = tower::service_fn(|_: http::Request<()>| async {
            Outcome::Ok(http::Response::new("fine".to_owned()))
        });
        assert!(status_of(service).await.is_none());
    }
}
