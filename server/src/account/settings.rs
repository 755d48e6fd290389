//! The settings of an account that can change while it is at work.

use std::{fmt, sync::Arc};

use crate::{cadence::Policy, journal::Limits, provider::Provider, upstream::Upstream};

/// The settings that an account's requests are made by. They change as one value: a request is made by
/// the settings of one moment, so that no secret ever goes to an origin that it was not configured with.
#[derive(Clone)]
pub struct Settings {
    /// The provider, with the account's credentials.
    pub provider: Arc<dyn Provider>,
    /// The polling policy.
    pub policy: Policy,
    /// The service at the end of the way out, by its base URL; empty if the way has none.
    pub service: Arc<str>,
    /// The way out.
    pub(super) upstream: Arc<dyn Upstream>,
    /// The number of times that the credentials or the way out have changed.
    pub(super) access: u64,
}

impl Settings {
    /// The settings of a new account.
    pub fn new(provider: Arc<dyn Provider>, policy: Policy, upstream: Arc<dyn Upstream>) -> Self {
        Self {
            provider,
            policy,
            service: Arc::from(""),
            upstream,
            access: 0,
        }
    }

    /// The limits by which this process is configured.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            requests_per_minute: self.policy.requests_per_minute,
            creates_per_minute: self.policy.creates_per_minute,
            max_in_flight: self.policy.max_in_flight,
        }
    }

    /// The same on a way to the service with this base URL.
    #[must_use]
    pub fn at(self, base_url: &str) -> Self {
        Self {
            service: Arc::from(base_url),
            ..self
        }
    }

    /// The same credentials and the same way out, under another policy.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self {
            policy,
            ..self.clone()
        }
    }

    /// The newer settings, whose credentials or way out are other than these.
    #[must_use]
    pub fn moved_to(&self, newer: Self) -> Self {
        Self {
            access: self.access + 1,
            ..newer
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}
