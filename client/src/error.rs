//! Errors, sorted by the caller's next step.
//!
//! Programs decide by the reason, never by the message. Both come from the server.

use std::{error::Error as _, fmt, time::Duration};

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

/// The domain of every error that the service itself raises.
const DOMAIN: &str = "tillwatch";

/// An error, with one variant per reaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client's own settings are wrong: correct them. Nothing was sent.
    #[error("{0}")]
    Config(String),
    /// The request is wrong: change it, see [`Refusal::violations`].
    #[error("{0}")]
    Invalid(Box<Refusal>),
    /// The cursor or token cannot be resumed: begin again with a snapshot or a list.
    #[error("{0}")]
    CursorLost(Box<Refusal>),
    /// The credentials are missing, unknown or too narrow: correct them.
    #[error("{0}")]
    Denied(Box<Refusal>),
    /// There is no such thing, or it belongs to another caller.
    #[error("{0}")]
    NotFound(Box<Refusal>),
    /// It has changed or is taken: read the newest state and decide again.
    #[error("{0}")]
    Conflict(Box<Refusal>),
    /// It will not be done as things stand; a repeat alone does not help.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The caller asked for too much: repeat after [`Error::retry_after`], a create with the same
    /// key.
    #[error("{0}")]
    Throttled(Box<Refusal>),
    /// The service cannot be reached or cannot answer now: repeat, a create with the same key.
    #[error("{0}")]
    Unavailable(Box<Refusal>),
    /// Time ran out and the outcome is not known: repeat, a create with the same key.
    #[error("{0}")]
    Deadline(Box<Refusal>),
    /// A stream left out a revision: report it, and read again from `expected`.
    #[error("purchase {purchase_id}: revision {expected} is missing before revision {received}")]
    Gap {
        /// The purchase that was watched.
        purchase_id: String,
        /// The revision that should have come next.
        expected: u32,
        /// The revision that came, or that a heartbeat spoke of.
        received: u32,
    },
    /// The service is at fault, or speaks another contract: report it.
    #[error("{0}")]
    Server(Box<Refusal>),
}

/// The service's words with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC status code.
    pub code: Code,
    /// A stable word such as `PURCHASE_NOT_FOUND`. Empty if the error did not come from the service
    /// itself, but from a transport or a proxy.
    pub reason: String,
    /// For a person to read.
    pub message: String,
    /// The purchase that the error is about, if the service named one.
    pub purchase_id: Option<String>,
    /// The shortest wait before a repeat, if the service said one.
    pub retry_after: Option<Duration>,
    /// Each field that was refused and the rule it broke.
    pub violations: Vec<Violation>,
    /// The order's fields that differ from those first sent under the same key.
    pub differing_fields: Vec<String>,
}

/// A field of a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, with dots between nested fields.
    pub field: String,
    /// The rule that it breaks.
    pub rule: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            // Only the code's own description is known.
            write!(formatter, "{}", self.code)?;
        } else {
            write!(formatter, "{}", self.reason)?;
        }
        if self.message.is_empty() {
            return Ok(());
        }
        write!(formatter, ": {}", self.message)
    }
}

impl Refusal {
    /// A refusal of this side: the service said nothing.
    pub(crate) fn local(code: Code, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            code,
            reason: String::new(),
            message: message.into(),
            purchase_id: None,
            retry_after: None,
            violations: Vec::new(),
            differing_fields: Vec::new(),
        })
    }

    fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let metadata = |key| info.and_then(|info| info.metadata.get(key)).cloned();
        let violations = details.bad_request().into_iter();
        let violations = violations.flat_map(|request| &request.field_violations);
        let fields = metadata("fields").unwrap_or_default();
        let fields = fields.split(',').map(str::trim);
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            purchase_id: metadata("purchase_id"),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            violations: violations
                .map(|violation| Violation {
                    field: violation.field.clone(),
                    rule: violation.description.clone(),
                })
                .collect(),
            differing_fields: fields
                .filter(|field| !field.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }
}

impl Error {
    /// The service's words, unless the error arose on this side.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Config(_) | Self::Gap { .. } => None,
            Self::Invalid(refusal)
            | Self::CursorLost(refusal)
            | Self::Denied(refusal)
            | Self::NotFound(refusal)
            | Self::Conflict(refusal)
            | Self::Refused(refusal)
            | Self::Throttled(refusal)
            | Self::Unavailable(refusal)
            | Self::Deadline(refusal)
            | Self::Server(refusal) => Some(refusal),
        }
    }

    /// The error's stable word. Empty if the service itself said nothing.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.refusal().map_or("", |refusal| &refusal.reason)
    }

    /// The purchase that the error is about, if it is known.
    #[must_use]
    pub fn purchase_id(&self) -> Option<&str> {
        match self {
            Self::Gap { purchase_id, .. } => Some(purchase_id),
            _ => self.refusal()?.purchase_id.as_deref(),
        }
    }

    /// The shortest wait before a repeat, if the service said one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }

    /// True if the same request may succeed later; a create only with the same key.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Throttled(_) | Self::Unavailable(_) | Self::Deadline(_)
        )
    }
}

impl Error {
    /// True if the service met a defect of its own: one more try may avoid it, many more will not.
    pub(crate) fn is_defect(&self) -> bool {
        matches!(self, Self::Server(refusal) if refusal.reason == "INTERNAL")
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let refusal = Box::new(Refusal::from_status(&status));
        if refusal.reason.is_empty() {
            return from_transport(&status, refusal);
        }
        by_code(refusal)
    }
}

fn by_code(refusal: Box<Refusal>) -> Error {
    match refusal.code {
        Code::InvalidArgument => Error::Invalid(refusal),
        Code::OutOfRange => Error::CursorLost(refusal),
        Code::Unauthenticated | Code::PermissionDenied => Error::Denied(refusal),
        Code::NotFound => Error::NotFound(refusal),
        Code::AlreadyExists | Code::Aborted => Error::Conflict(refusal),
        Code::FailedPrecondition => Error::Refused(refusal),
        Code::ResourceExhausted => Error::Throttled(refusal),
        Code::Unavailable => Error::Unavailable(refusal),
        Code::DeadlineExceeded => Error::Deadline(refusal),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Error::Server(refusal),
    }
}

/// An error without a reason: the service names one with each of its errors, so this one was made
/// on the way, by a proxy or by this side's transport, which reports a cut connection under many
/// codes.
fn from_transport(status: &Status, mut refusal: Box<Refusal>) -> Error {
    if let Some(root) = root_cause(status) {
        refusal.message = format!("{}: {root}", refusal.message);
    }
    if timed_out(status) {
        return Error::Deadline(refusal);
    }
    // The connection was cut, or something on the way damaged or made the answer.
    let damaged = matches!(
        status.code(),
        Code::Unknown | Code::Cancelled | Code::Internal | Code::DataLoss
    );
    if damaged || status.source().is_some() {
        return Error::Unavailable(refusal);
    }
    match by_code(refusal) {
        // The service's OUT_OF_RANGE is about cursors, the transport's about an oversized message.
        Error::CursorLost(refusal) => Error::Server(refusal),
        other => other,
    }
}

/// The innermost cause, such as "connection refused", unless the message tells it already.
fn root_cause(status: &Status) -> Option<String> {
    let mut root = status.source()?;
    while let Some(deeper) = root.source() {
        root = deeper;
    }
    let root = root.to_string();
    (!status.message().contains(&root)).then_some(root)
}

fn timed_out(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn raised(code: Code, reason: &str) -> Error {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        Status::with_error_details(code, "said", details).into()
    }

    #[test]
    fn each_code_has_its_reaction() {
        let check = |code, expected: fn(&Error) -> bool| {
            let error = raised(code, "SOME_REASON");
            assert!(expected(&error), "{code:?} became {error:?}");
            assert_eq!(error.reason(), "SOME_REASON");
        };
        check(Code::InvalidArgument, |error| {
            matches!(error, Error::Invalid(_))
        });
        check(Code::OutOfRange, |error| {
            matches!(error, Error::CursorLost(_))
        });
        check(Code::Unauthenticated, |error| {
            matches!(error, Error::Denied(_))
        });
        check(Code::PermissionDenied, |error| {
            matches!(error, Error::Denied(_))
        });
        check(Code::NotFound, |error| matches!(error, Error::NotFound(_)));
        check(Code::AlreadyExists, |error| {
            matches!(error, Error::Conflict(_))
        });
        check(Code::Aborted, |error| matches!(error, Error::Conflict(_)));
        check(Code::FailedPrecondition, |error| {
            matches!(error, Error::Refused(_))
        });
        check(Code::ResourceExhausted, |error| {
            matches!(error, Error::Throttled(_))
        });
        check(Code::Unavailable, |error| {
            matches!(error, Error::Unavailable(_))
        });
        check(Code::DeadlineExceeded, |error| {
            matches!(error, Error::Deadline(_))
        });
        check(Code::Internal, |error| matches!(error, Error::Server(_)));
    }

    #[test]
    fn details_of_the_service_are_carried() {
        let metadata = HashMap::from([
            ("purchase_id".to_owned(), "pur_1".to_owned()),
            ("fields".to_owned(), "customer.email, amount".to_owned()),
        ]);
        let mut details = ErrorDetails::with_error_info("WORD", DOMAIN, metadata);
        details.set_retry_info(Some(Duration::from_millis(1_500)));
        details.add_bad_request_violation("labels", "at most 16");
        let status = Status::with_error_details(Code::InvalidArgument, "no", details);
        let error = Error::from(status);
        assert_eq!(error.purchase_id(), Some("pur_1"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1_500)));
        let refusal = error.refusal().unwrap();
        assert_eq!(refusal.differing_fields, ["customer.email", "amount"]);
        assert_eq!(refusal.violations[0].field, "labels");
        assert_eq!(refusal.violations[0].rule, "at most 16");
        assert_eq!(error.to_string(), "WORD: no");
    }

    #[test]
    fn an_error_without_a_reason_comes_from_the_transport() {
        let check = |status: Status, transient| {
            let shown = format!("{status:?}");
            assert_eq!(Error::from(status).is_transient(), transient, "{shown}");
        };
        check(
            Status::unknown("error reading a body from connection"),
            true,
        );
        check(Status::cancelled("reset"), true);
        check(Status::unavailable("connect refused"), true);
        check(Status::from_error(Box::new(TimeoutExpired(()))), true);
        check(Status::internal("invalid compression flag: 60"), true);
        check(Status::data_loss("a proxy's"), true);
        check(Status::unauthenticated("a proxy's"), false);
        check(Status::unimplemented("no such method"), false);
        check(Status::out_of_range("message too large"), false);
        let foreign = ErrorDetails::with_error_info("WORD", "elsewhere", HashMap::new());
        let status = Status::with_error_details(Code::Unknown, "a proxy", foreign);
        assert_eq!(Error::from(status).reason(), "");
    }

    #[test]
    fn an_error_without_words_is_told_by_its_code() {
        let bare = Refusal::local(Code::Unimplemented, "");
        assert_eq!(bare.to_string(), Code::Unimplemented.to_string());
    }

    #[test]
    fn an_expired_local_timeout_is_a_deadline() {
        let status = Status::from_error(Box::new(TimeoutExpired(())));
        assert!(matches!(Error::from(status), Error::Deadline(_)));
    }
}
