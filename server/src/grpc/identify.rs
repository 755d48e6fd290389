//! The caller of a call, by its headers alone, and the statuses for calls that a port turns away.

use http::HeaderMap;
use tonic::Status;

use super::{
    error::{Failure, Reason},
    stream,
};
use crate::{
    clock::Clock,
    identity::{Caller, Directory},
    limits::Limit,
};

pub(super) fn caller(
    callers: &Directory,
    headers: &HeaderMap,
    names: &[String],
) -> Result<Caller, Failure> {
    let header = headers.get("authorization");
    let header = match header.map(|value| value.to_str()) {
        None => None,
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => {
            let text = "the bearer token is not known";
            return Err(Failure::new(Reason::Unauthenticated, text));
        }
    };
    (callers.authenticate(header, names))
        .map_err(|error| Failure::new(Reason::Unauthenticated, error.to_string()))
}

/// The caller that makes a call with these headers, by a client certificate with these names if it has
/// shown one.
///
/// # Errors
/// UNAUTHENTICATED: the caller is not known.
pub fn identify(
    callers: &Directory,
    headers: &HeaderMap,
    names: &[String],
) -> Result<Caller, Status> {
    caller(callers, headers, names).map_err(Status::from)
}

/// The status of a call that meets a limit of its port.
pub fn beyond(limit: Limit) -> Status {
    let (reason, text) = match limit {
        Limit::RequestTime => (
            Reason::DeadlineExceeded,
            "the request took too long to arrive",
        ),
        Limit::RequestBytes => (
            Reason::LimitExceeded,
            "too many bytes of unfinished requests",
        ),
        Limit::HealthWatches => (
            Reason::LimitExceeded,
            "too many health watches on this connection",
        ),
        Limit::ReflectionStreams => (Reason::LimitExceeded, "too many streams of reflection"),
        _ => (Reason::LimitExceeded, "too many open calls"),
    };
    Failure::new(reason, text).into()
}

/// The status of a call that has not begun when the server ends.
pub fn ending(clock: &Clock) -> Status {
    let failure = Failure::new(Reason::Draining, "the server is draining");
    failure.after(stream::return_spread(clock)).into()
}
