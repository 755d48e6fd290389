//! The one way to ask a provider: a request, the reading of its answer, and the account's lessons from
//! both.

use std::sync::Arc;

use super::{Account, Admission, Whose};
use crate::{
    clock::Now,
    observation::{Observation, Trouble},
    purchase::{Moment, Reference, Timestamp},
    upstream::{self, Request, Response},
};

/// The times around an answer.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The time at which the request began.
    pub began: Moment,
    /// The time at which its answer arrived.
    pub arrived: Moment,
}

/// A request and its answer, as it was read.
#[derive(Debug)]
pub struct Exchange<T> {
    /// The answer's meaning, or the trouble that stands for it.
    pub said: Result<T, Trouble>,
    /// The trouble's owner, if there was trouble and the provider was asked.
    pub whose: Option<Whose>,
    /// The times around it.
    pub times: Times,
    /// The time of the answer, by the provider's clock if the answer tells it.
    pub answered: Timestamp,
}

impl Account {
    /// Makes one request, has `read` read the answer, with its time of arrival, and learns what it
    /// meant. A large answer is read beside the event loop.
    ///
    /// # Panics
    /// As `read` does.
    ///
    /// # Cancel safety
    /// Dropping the future gives the request up; it may have been sent.
    pub async fn read<T: Send + 'static>(
        &self,
        admission: &mut Admission,
        request: Request,
        read: impl FnOnce(&Response, Timestamp) -> Result<T, Trouble> + Send + 'static,
    ) -> Exchange<T> {
        let began = self.clock.moment();
        let answer = self.ask(admission, request).await;
        let Now {
            wall,
            moment: arrived,
        } = self.clock.both();
        let date = answer.as_ref().ok().and_then(Response::date);
        let said = match answer {
            Ok(answer) => upstream::read(answer, move |answer| read(answer, wall)).await,
            Err(unanswered) => Err(unanswered.trouble(arrived)),
        };
        // A request that was not sent has nothing to teach.
        let whose = said.as_ref().err().filter(|_| admission.ended);
        let whose = whose.map(|trouble| self.blame(admission, trouble));
        Exchange {
            said,
            whose,
            times: Times { began, arrived },
            answered: date.unwrap_or(wall),
        }
    }
}

impl Account {
    /// Reads one purchase's status. See [`Account::read`].
    pub async fn read_status(
        &self,
        admission: &mut Admission,
        reference: &Reference,
    ) -> Exchange<Option<Box<Observation>>> {
        let provider = Arc::clone(&admission.settings().provider);
        let named = reference.clone();
        let request = provider.status_request(reference);
        let read = move |answer: &_, now| provider.read_status(&named, answer, now).said();
        self.read(admission, request, read).await
    }
}
