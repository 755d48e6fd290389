//! The decoder gets answers of the service alone.
//!
//! A proxy without a server behind it answers a call with a page of its own. The decoder would read
//! its bytes as messages, and take its HTTP status for the service's word about the call.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    Status,
    body::Body,
    codegen::http::{Request, Response, header::CONTENT_TYPE},
    transport::Channel,
};
use tower::Service;

/// The media type of every gRPC answer. A suffix or a parameter may follow.
const MEDIA_TYPE: &str = "application/grpc";

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Failed>> + Send>>;

/// A channel whose answers are gRPC or UNAVAILABLE.
#[derive(Debug, Clone)]
pub(crate) struct Gateway(pub(crate) Channel);

impl Service<Request<Body>> for Gateway {
    type Response = Response<Body>;
    type Error = Failed;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.0.poll_ready(context).map_err(Failed::from)
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if is_grpc(&answer) {
                return Ok(answer);
            }
            let code = answer.status().as_u16();
            let what = format!("answered by something before the service: HTTP {code}, no gRPC");
            Err(Status::unavailable(what).into())
        })
    }
}

fn is_grpc<B>(answer: &Response<B>) -> bool {
    let media_type = answer.headers().get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok());
    let rest = media_type.and_then(|value| value.strip_prefix(MEDIA_TYPE));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
}
