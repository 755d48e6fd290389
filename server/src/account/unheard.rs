//! The reasons for which a caller who wished for an answer has none.

use super::Refusal;
use crate::{journal::JournalError, observation::Trouble};

/// A provider was not heard, although a caller wished it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unheard {
    /// The account is not configured: nobody asks about its purchases.
    #[error("the purchase's account is not configured any more")]
    AccountMissing,
    /// The account may not be asked now.
    #[error("the account cannot be asked now")]
    Refused(Refusal),
    /// It was asked, and gave no definite answer.
    #[error("the provider gave no definite answer")]
    Trouble(Trouble),
    /// The journal could not be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The process is about to stop.
    #[error("the server is draining")]
    Draining,
}
