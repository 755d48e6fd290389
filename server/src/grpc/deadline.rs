//! The caller's deadline: read once, when a request's headers arrive, and kept for every call.
//!
//! The transport's own timer would answer CANCELLED. This layer ends each call a little earlier, with
//! the code that the protocol promises.

use std::{
    future::Future,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use tokio::time::Instant;
use tonic::Status;
use tower::{Layer, Service};

use super::error::Failure;

/// The longest time by which a call is answered before the caller's deadline.
const MARGIN: Duration = Duration::from_millis(20);

/// The time by which a call has to be answered: an extension of each request whose caller names one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

/// Puts [`WithDeadline`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> WithDeadline<S> {
        WithDeadline(inner)
    }
}

/// A service whose calls end with DEADLINE_EXCEEDED. Streams that have begun end themselves.
#[derive(Debug, Clone)]
pub struct WithDeadline<S>(S);

impl<S, Body, Answer> Service<http::Request<Body>> for WithDeadline<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Answer>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    Answer: Default + 'static,
{
    type Response = http::Response<Answer>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Self::Response, Self::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let header = request.headers().get("grpc-timeout");
        let left = header
            .and_then(|value| value.to_str().ok())
            .and_then(timeout);
        let Some(left) = left else {
            return Either::Left(self.0.call(request));
        };
        let margin = (left / 20).min(MARGIN);
        let now = Instant::now();
        // A handler that keeps the deadline itself has a better answer, so its deadline comes first.
        let limit = now + (left - margin / 2);
        request
            .extensions_mut()
            .insert(Deadline(now + (left - margin)));
        Either::Right(bounded(limit, self.0.call(request)).boxed())
    }
}

async fn bounded<Answer: Default, E>(
    limit: Instant,
    call: impl Future<Output = Result<http::Response<Answer>, E>>,
) -> Result<http::Response<Answer>, E> {
    match tokio::time::timeout_at(limit, call).await {
        Ok(answered) => answered,
        Err(_) => Ok(Status::from(Failure::deadline()).into_http()),
    }
}

/// The time that a `grpc-timeout` header leaves; `None` if its text is not valid.
///
/// The gRPC protocol over HTTP/2 allows at most 8 digits and a unit of H, M, S, m, u or n.
pub(super) fn timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let is_number = !digits.is_empty()
        && digits.len() <= 8
        && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_number {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use tonic::Code;
    use tonic_types::StatusExt as _;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let table = [
            ("1S", Some(1_000)),
            ("250m", Some(250)),
            ("2M", Some(120_000)),
            ("1H", Some(3_600_000)),
            ("99999999H", Some(359_999_996_400_000)),
            ("1000000n", Some(1)),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("123456789S", None),
            ("1x", None),
            ("1é", None),
        ];
        for (header, expected_ms) in table {
            assert_eq!(
                timeout(header).map(|left| left.as_millis()),
                expected_ms,
                "{header}"
            );
        }
    }

    /// The status of a call with this header that nothing answers, and the time until it came.
    async fn told(header: &str) -> (Status, Duration) {
        let silent = tower::service_fn(|_: http::Request<()>| {
            pending::<Result<http::Response<String>, Infallible>>()
        });
        let mut request = http::Request::new(());
        let header = header.parse().unwrap();
        request.headers_mut().insert("grpc-timeout", header);
        let began = Instant::now();
        let answered = DeadlineLayer.layer(silent).oneshot(request);
        let answered = tokio::time::timeout(Duration::from_secs(60), answered).await;
        let answer = answered.expect("an answer").unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        (status, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nothing_answers_ends_before_its_deadline_with_deadline_exceeded() {
        for (header, deadline_ms) in [("10S", 10_000), ("200m", 200), ("0m", 0)] {
            let (status, took) = told(header).await;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{header}");
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (info.domain.as_str(), info.reason.as_str()),
                ("tillwatch", "DEADLINE_EXCEEDED")
            );
            let deadline = Duration::from_millis(deadline_ms);
            assert!(took <= deadline && took >= deadline * 9 / 10, "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_is_told_a_deadline_that_comes_before_the_layers_own() {
        let keeps = tower::service_fn(|request: http::Request<()>| async move {
            let deadline = request.extensions().get::<Deadline>().unwrap().0;
            tokio::time::sleep_until(deadline).await;
            Ok::<_, Infallible>(http::Response::new("in time".to_owned()))
        });
        for header in ["10S", "100m", "30m"] {
            let mut request = http::Request::new(());
            let value = header.parse().unwrap();
            request.headers_mut().insert("grpc-timeout", value);
            let answer = DeadlineLayer.layer(keeps).oneshot(request).await.unwrap();
            assert_eq!(answer.body(), "in time", "{header}");
        }
    }
}
