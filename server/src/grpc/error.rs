//! The one error table: each reason, its code, and its details.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    account::{Refusal, Unheard},
    feed::End,
    intake::{CreateError, ResolveError},
    observation::Trouble,
    provider::Violation,
    purchase::{Moment, PurchaseId, Revision},
};

/// The domain of every reason of this service.
pub const DOMAIN: &str = "tillwatch";
/// The wait that an error asks of a caller if nothing says how long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The least wait that an error asks of a caller.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);
/// The longest field or rule in an error; trailers must stay small.
const TEXT_BYTES_MAX: usize = 512;
/// The most violations in one error.
const VIOLATIONS_MAX: usize = 16;

/// The reason of a failed call, as a stable word. `docs/ERRORS.md` has a row for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A field breaks a rule.
    InvalidRequest,
    /// The request shows no known caller.
    Unauthenticated,
    /// The caller may not do this.
    ScopeMissing,
    /// Another caller's purchase has the reference.
    ReferenceTaken,
    /// The caller has no such purchase.
    PurchaseNotFound,
    /// The caller may use no such account.
    AccountUnknown,
    /// The provider does not know the reference.
    ReferenceUnknown,
    /// The key names another order.
    IdempotencyKeyReused,
    /// The provider refused the order.
    ProviderRejected,
    /// The provider refuses the account's credentials.
    AccountUnauthorized,
    /// The decision does not fit the purchase.
    NotResolvable,
    /// The first order's fingerprint key is gone.
    FingerprintKeyGone,
    /// The decision rests on an older revision.
    RevisionChanged,
    /// The cursor is above the newest revision.
    RevisionAhead,
    /// The position is older than all that the journal holds.
    ResumeTokenExpired,
    /// The account's budget is spent, or its provider throttles.
    AccountThrottled,
    /// The caller has as much open as it may have.
    LimitExceeded,
    /// The provider gives no answer.
    ProviderUnreachable,
    /// The journal is unavailable.
    JournalUnavailable,
    /// The process is about to stop.
    Draining,
    /// The stream has reached its maximum age.
    StreamAge,
    /// The caller's deadline has passed.
    DeadlineExceeded,
    /// A defect of this service.
    Internal,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 23] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::ScopeMissing,
        Self::ReferenceTaken,
        Self::PurchaseNotFound,
        Self::AccountUnknown,
        Self::ReferenceUnknown,
        Self::IdempotencyKeyReused,
        Self::ProviderRejected,
        Self::AccountUnauthorized,
        Self::NotResolvable,
        Self::FingerprintKeyGone,
        Self::RevisionChanged,
        Self::RevisionAhead,
        Self::ResumeTokenExpired,
        Self::AccountThrottled,
        Self::LimitExceeded,
        Self::ProviderUnreachable,
        Self::JournalUnavailable,
        Self::Draining,
        Self::StreamAge,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// Its word and its code.
    pub fn row(self) -> (&'static str, Code) {
        match self {
            Self::InvalidRequest => ("INVALID_REQUEST", Code::InvalidArgument),
            Self::Unauthenticated => ("UNAUTHENTICATED", Code::Unauthenticated),
            Self::ScopeMissing => ("SCOPE_MISSING", Code::PermissionDenied),
            Self::ReferenceTaken => ("REFERENCE_TAKEN", Code::PermissionDenied),
            Self::PurchaseNotFound => ("PURCHASE_NOT_FOUND", Code::NotFound),
            Self::AccountUnknown => ("ACCOUNT_UNKNOWN", Code::NotFound),
            Self::ReferenceUnknown => ("REFERENCE_UNKNOWN", Code::NotFound),
            Self::IdempotencyKeyReused => ("IDEMPOTENCY_KEY_REUSED", Code::AlreadyExists),
            Self::ProviderRejected => ("PROVIDER_REJECTED", Code::FailedPrecondition),
            Self::AccountUnauthorized => ("ACCOUNT_UNAUTHORIZED", Code::FailedPrecondition),
            Self::NotResolvable => ("NOT_RESOLVABLE", Code::FailedPrecondition),
            Self::FingerprintKeyGone => ("FINGERPRINT_KEY_GONE", Code::FailedPrecondition),
            Self::RevisionChanged => ("REVISION_CHANGED", Code::Aborted),
            Self::RevisionAhead => ("REVISION_AHEAD", Code::OutOfRange),
            Self::ResumeTokenExpired => ("RESUME_TOKEN_EXPIRED", Code::OutOfRange),
            Self::AccountThrottled => ("ACCOUNT_THROTTLED", Code::ResourceExhausted),
            Self::LimitExceeded => ("LIMIT_EXCEEDED", Code::ResourceExhausted),
            Self::ProviderUnreachable => ("PROVIDER_UNREACHABLE", Code::Unavailable),
            Self::JournalUnavailable => ("JOURNAL_UNAVAILABLE", Code::Unavailable),
            Self::Draining => ("DRAINING", Code::Unavailable),
            Self::StreamAge => ("STREAM_AGE", Code::Unavailable),
            Self::DeadlineExceeded => ("DEADLINE_EXCEEDED", Code::DeadlineExceeded),
            Self::Internal => ("INTERNAL", Code::Internal),
        }
    }

    /// Its place among [`Reason::ALL`].
    fn place(self) -> usize {
        self as usize
    }

    /// Counts that a call or a stream ends with it.
    fn is_told(self) {
        if let Some(count) = TOLD.get(self.place()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of times that each reason was told since the process began.
    pub fn told() -> impl Iterator<Item = (&'static str, u64)> {
        let counts = TOLD.iter().map(|count| count.load(Ordering::Relaxed));
        Self::ALL
            .into_iter()
            .map(|reason| reason.row().0)
            .zip(counts)
    }

    /// True if the error says when to try again.
    pub fn is_retried(self) -> bool {
        matches!(self.row().1, Code::ResourceExhausted | Code::Unavailable)
            || self == Self::AccountUnauthorized
    }
}

/// The number of times that each reason was told, in the order of [`Reason::ALL`].
static TOLD: [AtomicU64; Reason::ALL.len()] = [const { AtomicU64::new(0) }; Reason::ALL.len()];

/// A failure on its way to a caller.
#[derive(Debug, Clone)]
pub struct Failure {
    reason: Reason,
    message: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
    violations: Vec<Violation>,
}

impl Failure {
    /// A failure with a sentence for a person.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let retry_after = reason.is_retried().then_some(RETRY_AFTER);
        let (metadata, violations) = (HashMap::new(), Vec::new());
        Self {
            reason,
            message: message.into(),
            metadata,
            retry_after,
            violations,
        }
    }

    /// Fields that break rules.
    pub fn invalid(violations: Vec<Violation>) -> Self {
        let named = violations.iter().take(VIOLATIONS_MAX);
        let text: Vec<String> = named
            .map(|violation| format!("{}: {}", violation.field, violation.rule))
            .collect();
        Self {
            violations,
            ..Self::new(Reason::InvalidRequest, cut(&text.join("; ")))
        }
    }

    /// One field that breaks a rule.
    pub fn invalid_field(field: &str, rule: impl Into<String>) -> Self {
        Self::invalid(vec![Violation::new(field, rule)])
    }

    /// There is no such purchase for this caller.
    pub fn not_found() -> Self {
        Self::new(Reason::PurchaseNotFound, "no such purchase")
    }

    /// The failure with one more fact.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    fn about(self, purchase: Option<PurchaseId>) -> Self {
        match purchase {
            Some(purchase) => self.with("purchase_id", purchase),
            None => self,
        }
    }

    /// The failure with another time after which to try again.
    #[must_use]
    pub fn after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// Its reason.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

fn cut(text: &str) -> String {
    let mut text = text.to_owned();
    while text.len() > TEXT_BYTES_MAX {
        text.pop();
    }
    text
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.reason.is_told();
        let (word, code) = failure.reason.row();
        let mut details = ErrorDetails::new();
        details.set_error_info(word, DOMAIN, failure.metadata);
        if let Some(retry_after) = failure.retry_after {
            details.set_retry_info(Some(retry_after));
        }
        if code == Code::ResourceExhausted {
            details.add_quota_failure_violation(word, failure.message.as_str());
        }
        for violation in failure.violations.iter().take(VIOLATIONS_MAX) {
            details.add_bad_request_violation(cut(&violation.field), cut(&violation.rule));
        }
        Self::with_error_details(code, failure.message, details)
    }
}

impl Failure {
    /// The failure of a create.
    pub fn of_create(error: CreateError, now: Moment) -> Self {
        let text = error.to_string();
        match error {
            CreateError::KeyReused { purchase, fields } => {
                let mut named = String::new();
                for field in fields {
                    if named.len() + field.len() >= TEXT_BYTES_MAX {
                        break;
                    }
                    if !named.is_empty() {
                        named.push(',');
                    }
                    named.push_str(&field);
                }
                let failure = Self::new(Reason::IdempotencyKeyReused, text);
                failure.with("purchase_id", purchase).with("fields", named)
            }
            CreateError::FingerprintKeyGone => Self::new(Reason::FingerprintKeyGone, text),
            CreateError::Rejected { purchase, message } => {
                let text = message
                    .filter(|message| !message.is_empty())
                    .map_or(text.clone(), |message| format!("{text}: {message}"));
                Self::new(Reason::ProviderRejected, text).about(Some(purchase))
            }
            CreateError::Unheard { why, purchase } => Self::of_unheard(&why, now).about(purchase),
            CreateError::ReferenceUnknown => Self::new(Reason::ReferenceUnknown, text),
            CreateError::ReferenceTaken => Self::new(Reason::ReferenceTaken, text),
            CreateError::Journal { purchase } => {
                Self::new(Reason::JournalUnavailable, text).about(purchase)
            }
            CreateError::DeadlineExceeded => Self::new(Reason::DeadlineExceeded, text),
            CreateError::Draining { purchase } => Self::new(Reason::Draining, text).about(purchase),
            CreateError::TooManyOpen { .. } => Self::new(Reason::LimitExceeded, text),
            CreateError::Internal => Self::new(Reason::Internal, text),
        }
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let text = error.to_string();
        match error {
            ResolveError::NotFound => Self::not_found(),
            ResolveError::RevisionChanged { newest } => {
                Self::new(Reason::RevisionChanged, text).with("revision", newest)
            }
            ResolveError::NotResolvable(_) => Self::new(Reason::NotResolvable, text),
            ResolveError::Reference(violations) => Self::invalid(violations),
            ResolveError::ReferenceTaken => Self::new(Reason::ReferenceTaken, text),
            ResolveError::Journal(_) => Self::new(Reason::JournalUnavailable, text),
        }
    }
}

impl Failure {
    /// The failure of a refresh.
    pub fn of_refresh(error: &Unheard, purchase: PurchaseId, now: Moment) -> Self {
        Self::of_unheard(error, now).about(Some(purchase))
    }

    /// The failure of any call for which a provider was not heard.
    fn of_unheard(error: &Unheard, now: Moment) -> Self {
        let reason = match error {
            Unheard::AccountMissing => Reason::AccountUnknown,
            Unheard::Refused(Refusal::Throttled { .. } | Refusal::Busy { .. })
            | Unheard::Trouble {
                trouble: Trouble::Throttled { .. },
                ..
            } => Reason::AccountThrottled,
            Unheard::Refused(Refusal::Unauthorized { .. })
            | Unheard::Trouble {
                trouble: Trouble::Unauthorized,
                ..
            } => Reason::AccountUnauthorized,
            Unheard::NotOwned
            | Unheard::Refused(Refusal::Unreachable { .. })
            | Unheard::Trouble {
                trouble: Trouble::Unreachable { .. } | Trouble::Nowhere | Trouble::Unreadable { .. },
                ..
            } => Reason::ProviderUnreachable,
            Unheard::Refused(Refusal::BudgetUnkept { .. }) | Unheard::Journal(_) => {
                Reason::JournalUnavailable
            }
            Unheard::Draining => Reason::Draining,
        };
        let failure = Self::new(reason, error.to_string());
        match error.retry_at() {
            Some(retry_at) => failure.after(retry_at.since(now).max(RETRY_AFTER_MIN)),
            None => failure,
        }
    }

    /// The failure for the end of a stream that has more to come. `spread` is this stream's share of
    /// the time over which callers come back.
    pub fn of_end(end: End, spread: Duration) -> Self {
        let (reason, text) = match end {
            End::Draining => (
                Reason::Draining,
                "the server is draining; resume with the cursor",
            ),
            End::Aged => (
                Reason::StreamAge,
                "the stream is old; resume with the cursor",
            ),
            End::JournalLost => (Reason::JournalUnavailable, "the journal is unavailable"),
            End::Gone => return Self::not_found(),
        };
        Self::new(reason, text).after(spread)
    }

    /// A cursor above the newest revision.
    pub fn ahead(newest: Revision) -> Self {
        Self::new(
            Reason::RevisionAhead,
            format!("revision {newest} is the newest"),
        )
        .with("revision", newest)
    }

    /// The journal could not be read.
    pub fn journal() -> Self {
        Self::new(Reason::JournalUnavailable, "the journal is unavailable")
    }

    /// The caller's deadline has passed.
    pub fn deadline() -> Self {
        Self::new(Reason::DeadlineExceeded, "the deadline has passed")
    }
}

impl From<crate::journal::JournalError> for Failure {
    fn from(error: crate::journal::JournalError) -> Self {
        match error {
            // A repeat does not help, and everybody else is served.
            crate::journal::JournalError::Unreadable(_) => Self::new(
                Reason::Internal,
                "the purchase cannot be read: a row of the journal is damaged",
            ),
            _ => Self::journal(),
        }
    }
}

#[cfg(test)]
mod tests;
