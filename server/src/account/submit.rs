//! The one way to submit an order, and the account's lessons from how that ends.

use super::{Account, Admission, gate::Unanswered};
use crate::{
    observation::{Submitted, Trouble},
    purchase::Timestamp,
    upstream::{self, Request, Response, UpstreamError},
};

/// The end of a submit.
#[derive(Debug)]
pub struct Sent {
    /// Its meaning.
    pub submitted: Submitted,
    /// The HTTP status of the answer; `None` if there was none.
    pub status: Option<u16>,
}

impl Sent {
    /// True if the provider may be at work on an earlier send of the same key still. Inferred: 409 is
    /// documented for another order under the key, which this service never sends.
    pub fn is_not_yet(&self) -> bool {
        matches!(self.status, Some(409 | 425 | 500..))
    }

    /// The lesson for the account, if the answer's status alone does not teach it.
    fn trouble(&self) -> Option<Trouble> {
        let status = self.status?;
        match &self.submitted {
            Submitted::NotSent(trouble) => Some(trouble.clone()),
            Submitted::AcceptedWithoutReference => {
                Some(Trouble::unreadable("an accepted create without a name"))
            }
            Submitted::Unclear { why, .. } if !matches!(status, 408 | 425 | 500..) => {
                Some(Trouble::unreadable(why.as_str()))
            }
            _ => None,
        }
    }
}

impl Account {
    /// Submits one order, has `read` read the answer, with its time of arrival, and learns what it
    /// meant.
    ///
    /// # Panics
    /// As `read` does.
    ///
    /// # Cancel safety
    /// Dropping the future gives the submit up; the order may have been sent.
    pub async fn submit(
        &self,
        admission: &mut Admission,
        request: Request,
        read: impl FnOnce(&Response, Timestamp) -> Submitted + Send + 'static,
    ) -> Sent {
        let answer = self.ask(admission, request).await;
        let now = self.clock.both();
        let status = answer.as_ref().ok().map(|answer| answer.status);
        let submitted = match answer {
            Ok(answer) => upstream::read(answer, move |answer| read(answer, now.wall)).await,
            Err(Unanswered::Failed(
                error @ (UpstreamError::Lost(_)
                | UpstreamError::Closed
                | UpstreamError::Unusable(_)),
            )) => Submitted::unclear(error.to_string()),
            Err(
                unsent @ (Unanswered::Late
                | Unanswered::NotOwned
                | Unanswered::Refused(_)
                | Unanswered::Failed(UpstreamError::NotConnected(_))),
            ) => Submitted::NotSent(unsent.trouble(now.moment)),
        };
        let sent = Sent { submitted, status };
        if let Some(trouble) = sent.trouble() {
            self.blame(admission, &trouble);
        }
        sent
    }
}
