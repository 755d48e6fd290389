//! The gate that every request passes just before it goes. It looks at everything that can have changed
//! since the request was let through.

use std::time::Duration;

use super::{Account, Admission, Refusal};
use crate::{clock::Now, observation::Trouble, purchase::Moment, upstream::UpstreamError};

/// The time that a slot of the budget can be used. The limit leaves three seconds to a request that
/// goes later than its slot allowed, and the network needs most of them.
pub(super) const SLOT_LASTS: Duration = Duration::from_secs(1);

/// The words for a request whose tenure is over.
const NOT_OWNED: &str = "this process does not own the account any more";

/// The reasons for which there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Nothing was sent: the time in which it could be has passed.
    Late,
    /// Nothing was sent: the account may not be asked any more.
    Refused(Refusal),
    /// Nothing was sent, or nobody waits for the answer: this process does not own the account any more.
    NotOwned,
    /// No connection was made, or the answer was lost.
    Failed(UpstreamError),
}

impl Unanswered {
    /// The trouble that stands for the answer.
    pub(super) fn trouble(self, now: Moment) -> Trouble {
        let (sent, why) = match self {
            Self::Failed(error @ UpstreamError::Unusable(_)) => {
                return Trouble::unreadable(error.to_string());
            }
            Self::Failed(error @ UpstreamError::NotConnected(_)) => (false, error.to_string()),
            Self::Failed(error @ (UpstreamError::Lost(_) | UpstreamError::Closed)) => {
                (true, error.to_string())
            }
            Self::Late => (false, "the intent took too long to be kept".to_owned()),
            Self::NotOwned => (false, NOT_OWNED.to_owned()),
            Self::Refused(Refusal::Unauthorized { .. }) => return Trouble::Unauthorized,
            Self::Refused(refusal @ Refusal::Unreachable { .. }) => (false, refusal.to_string()),
            Self::Refused(
                Refusal::Throttled { retry_at }
                | Refusal::Busy { retry_at }
                | Refusal::BudgetUnkept { retry_at },
            ) => {
                let retry_after = Some(retry_at.since(now));
                return Trouble::Throttled { retry_after };
            }
        };
        Trouble::Unreachable { sent, why }
    }
}

impl Account {
    /// Says if the request may go. If its slot has lapsed, it takes another: the provider counts a
    /// request when it goes.
    pub(super) async fn pass(&self, admission: &mut Admission) -> Result<(), Unanswered> {
        loop {
            let now = self.clock.both();
            if admission.until.is_some_and(|until| is_past(until, now)) {
                return Err(Unanswered::Late);
            }
            let tenure = admission.tenure.as_ref();
            if tenure.is_some_and(|tenure| !tenure.is_trusted(now.moment)) {
                return Err(Unanswered::NotOwned);
            }
            let (class, is_probe) = (admission.class(), admission.is_probe);
            let held_back = self
                .lock()
                .condition
                .holds_back(class, is_probe, now.moment);
            if let Some(refusal) = held_back {
                return Err(Unanswered::Refused(refusal));
            }
            if now.moment <= admission.goes_by {
                return Ok(());
            }
            let timeout = now.moment.plus(admission.settings.policy.timeout);
            let deadline = admission.until.map_or(timeout, |until| until.moment);
            admission
                .renew(deadline)
                .await
                .map_err(Unanswered::Refused)?;
        }
    }
}

/// True if a time has passed by either clock.
fn is_past(until: Now, now: Now) -> bool {
    now.moment > until.moment || now.wall > until.wall
}
