//! A span for each call of the service: a part of the caller's trace, until the call is answered. A
//! stream is answered when it has begun, so no span lasts as long as a stream.

use std::task::{Context, Poll};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Either},
};
use http::HeaderMap;
use tillwatch_proto::PURCHASE_SERVICE;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{
    Instrument as _, Span,
    field::{self, Empty},
};

use crate::{identity::Caller, listener, purchase::Purchase, trace};

/// The methods of the service. Others are not named: their callers choose the names.
pub const METHODS: [&str; 8] = [
    "CreatePurchase",
    "GetStatus",
    "WatchStatus",
    "WatchPurchases",
    "ListPurchases",
    "RefreshStatus",
    "ResolvePurchase",
    "ListAccounts",
];

/// Puts [`Traced`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceLayer;

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced(inner)
    }
}

/// A service whose calls have spans.
#[derive(Debug, Clone)]
pub struct Traced<S>(S);

impl<S, Body, Answer> Service<http::Request<Body>> for Traced<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Answer>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    Answer: 'static,
{
    type Response = http::Response<Answer>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Self::Response, Self::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let span = span(&request);
        let call = self.0.call(request);
        if span.is_disabled() {
            return Either::Left(call);
        }
        let call = async move {
            let answer = call.await;
            if let Ok(answer) = &answer {
                end(&Span::current(), answer.headers());
            }
            answer
        };
        Either::Right(call.instrument(span).boxed())
    }
}

/// The span of a call, by the OpenTelemetry conventions for gRPC; none for calls of other services:
/// probes come often and tell nothing.
fn span<Body>(request: &http::Request<Body>) -> Span {
    let called = request.uri().path().strip_prefix('/');
    let called = called.and_then(|path| path.strip_prefix(PURCHASE_SERVICE));
    let method = called.and_then(|path| path.strip_prefix('/'));
    if !METHODS.iter().any(|known| Some(*known) == method) {
        return Span::none();
    }
    let method = request.uri().path().trim_start_matches('/');
    let caller = request.extensions().get::<Caller>();
    let span = tracing::info_span!(
        parent: None,
        "call",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        tillwatch.caller = caller.map(|caller| caller.name().as_str()),
        tillwatch.account = Empty,
        tillwatch.purchase = Empty,
    );
    trace::follow_caller(&span, request.headers());
    span
}

/// The call of the current span is about this purchase.
pub(super) fn about(purchase: &Purchase) {
    let span = Span::current();
    span.record("tillwatch.account", purchase.account.as_str());
    span.record("tillwatch.purchase", field::display(purchase.id));
}

/// The end of a call. Its code is in the headers if there is no message.
fn end(span: &Span, headers: &HeaderMap) {
    let code = Status::from_header_map(headers).map_or(Code::Ok, |status| status.code());
    span.record("rpc.response.status_code", listener::code_word(code));
    if is_fault(code) {
        span.record("otel.status_code", "ERROR");
    }
}

/// True if a call's end is this server's fault rather than its caller's, by the conventions.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
