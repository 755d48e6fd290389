//! The reasons for which a caller who wished for an answer has none.

use super::{Account, Refusal, condition::UNAUTHORIZED_PROBE};
use crate::{journal::JournalError, observation::Trouble, purchase::Moment};

/// A provider was not heard, although a caller wished it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unheard {
    /// The account is not configured: nobody asks about its purchases.
    #[error("the purchase's account is not configured any more")]
    AccountMissing,
    /// This process does not own the account, and nobody else can be asked to ask.
    #[error("the account belongs to no replica that can be asked now; nothing was sent")]
    NotOwned,
    /// The account may not be asked now.
    #[error("{0}; nothing was sent")]
    Refused(Refusal),
    /// It was asked, and gave no definite answer.
    #[error("{}", words(.trouble))]
    Trouble {
        /// The trouble.
        trouble: Trouble,
        /// When to try again, if the trouble says so.
        retry_at: Option<Moment>,
    },
    /// The journal could not be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The process is about to stop.
    #[error("the server is draining")]
    Draining,
}

/// The words for a trouble.
fn words(trouble: &Trouble) -> String {
    let kind = match trouble {
        Trouble::Throttled { .. } => "the provider throttles the account",
        Trouble::Unauthorized => "the provider refuses the account's credentials",
        Trouble::Unreachable { .. } | Trouble::Nowhere => "the provider cannot be reached",
        Trouble::Unreadable { .. } => "the provider's answer cannot be read",
    };
    match trouble.why() {
        Some(why) => format!("{kind}: {why}"),
        None => kind.to_owned(),
    }
}

impl Unheard {
    /// When to try again, if there is such a time.
    pub fn retry_at(&self) -> Option<Moment> {
        match self {
            Self::Refused(refusal) => Some(refusal.retry_at()),
            Self::Trouble { retry_at, .. } => *retry_at,
            Self::AccountMissing | Self::NotOwned | Self::Journal(_) | Self::Draining => None,
        }
    }
}

impl Account {
    /// The word to a caller about a trouble that this account has learned.
    pub fn unheard(&self, trouble: Trouble) -> Unheard {
        let now = self.clock.moment();
        let pause = Some(self.paused_for(now)).filter(|pause| !pause.is_zero());
        let wait = match trouble {
            Trouble::Throttled { retry_after } => retry_after.or(pause),
            Trouble::Unauthorized => Some(UNAUTHORIZED_PROBE),
            Trouble::Unreachable { .. } | Trouble::Nowhere | Trouble::Unreadable { .. } => None,
        };
        let retry_at = wait.map(|wait| now.plus(wait));
        Unheard::Trouble { trouble, retry_at }
    }
}
