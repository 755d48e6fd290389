//! The caller of a call, by its headers alone, and the statuses for calls that a port turns away.

use http::HeaderMap;
use tonic::Status;

use super::{
    error::{Failure, Reason},
    stream,
};
use crate::{
    clock::Clock,
    identity::{Caller, Directory, Unauthenticated},
    limits::Limit,
};

/// The caller that makes a call with these headers, by a client certificate with these names if it has
/// shown one.
///
/// # Errors
/// The caller is not known.
pub fn identify(
    callers: &Directory,
    headers: &HeaderMap,
    names: &[String],
    clock: &Clock,
) -> Result<Caller, Unauthenticated> {
    let header = headers.get("authorization");
    let header = header.map(|value| value.to_str()).transpose();
    let header = header.map_err(|_| Unauthenticated::Unknown)?;
    callers.authenticate(header, names, clock.now())
}

impl From<Unauthenticated> for Failure {
    fn from(error: Unauthenticated) -> Self {
        Self::new(Reason::Unauthenticated, error.to_string())
    }
}

/// The status of a call whose caller is not known.
pub fn stranger(error: Unauthenticated) -> Status {
    Failure::from(error).into()
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
