//! An account's requests and their ends, counted since the process began.

use std::collections::BTreeMap;

use super::Class;
use crate::upstream::{Response, UpstreamError};

/// The end of a request, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An answer below 400.
    Answered,
    /// 401 or 403.
    Unauthorized,
    /// 429.
    Throttled,
    /// Another answer from 400 to 499: as a rule about the purchase.
    Refused,
    /// An answer from 500 on.
    Failed,
    /// No connection: nothing was sent.
    NotConnected,
    /// Perhaps sent, and not answered in time.
    Lost,
    /// An answer too large, cut short or elsewhere.
    Unusable,
    /// Given up here, or never sent.
    GivenUp,
}

impl Outcome {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unauthorized => "unauthorized",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::NotConnected => "not_connected",
            Self::Lost => "lost",
            Self::Unusable => "unusable",
            Self::GivenUp => "given_up",
        }
    }

    pub(super) fn of(result: &Result<Response, UpstreamError>) -> Self {
        match result {
            Ok(response) => match response.status {
                401 | 403 => Self::Unauthorized,
                429 => Self::Throttled,
                400..=499 => Self::Refused,
                500.. => Self::Failed,
                _ => Self::Answered,
            },
            Err(UpstreamError::NotConnected(_)) => Self::NotConnected,
            Err(UpstreamError::Lost(_) | UpstreamError::Closed) => Self::Lost,
            Err(UpstreamError::Unusable(_)) => Self::Unusable,
        }
    }
}

/// Upper bounds of how much later than due a poll began, in seconds.
pub(super) const LAG_BOUNDS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0,
];

/// The counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Requests by what they were for and how they ended.
    pub requests: BTreeMap<(Class, Outcome), u64>,
    /// Answers that made no sense.
    pub unreadable: u64,
    /// Answers of something that is not the provider's API.
    pub nowhere: u64,
}
