//! An attempt to submit, and the effect of each change of it on a record: pure, and the same in every
//! journal.

use super::Record;
use crate::purchase::{Revision, Timestamp};

/// The id of one attempt. No other attempt has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttemptId(pub u128);

/// An attempt to submit that is recorded as begun and not as ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its id, by which the process that makes it knows it again. A process that repeats a send by itself
    /// goes on with its attempt.
    pub by: AttemptId,
    /// The time from which the attempt may be settled as unclear.
    pub submit_until: Timestamp,
}

/// The part of a record that a change of the purchase rests on. The change is made only if the record is
/// still so, which the store looks at in the statement that changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The newest revision.
    pub revision: Revision,
    /// The attempt under way.
    pub attempt: Option<AttemptId>,
    /// The number of sends.
    pub sends: u32,
}

/// The effect of a write on the attempt under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptChange {
    /// Leaves it.
    Keep,
    /// Ends it.
    End,
    /// Ends it, since the provider has accepted the order. The time of the first send becomes the
    /// earliest time there is, so that no right to send the order again is left.
    Accepted,
    /// Ends it, and forgets the first send: nothing has been sent.
    Unsent,
    /// Leaves it. The time of the first send, if there is one, cannot be believed and becomes the
    /// earliest time there is, so that every right that counts from it is over.
    Undate,
    /// Lets it last until then: its process is about to repeat the send.
    Extend {
        /// The time from which it may be settled as unclear.
        submit_until: Timestamp,
    },
    /// Begins a send at `now`, of a new attempt or of one that goes on.
    Begin {
        /// The attempt.
        attempt: Attempt,
        /// The time at which it is sent; kept as the first send if none is known yet.
        now: Timestamp,
    },
}

impl Record {
    /// The part that a change rests on which was decided on from this record.
    pub fn expected(&self) -> Expected {
        Expected {
            revision: self.purchase.status.revision,
            attempt: self.attempt.map(|attempt| attempt.by),
            sends: self.sends,
        }
    }

    /// Applies a change of the attempt.
    pub fn change_attempt(&mut self, change: AttemptChange) {
        match change {
            AttemptChange::Keep => {}
            AttemptChange::End => self.attempt = None,
            AttemptChange::Accepted => {
                self.attempt = None;
                self.first_send_time = Some(Timestamp::default());
            }
            AttemptChange::Unsent => {
                (self.attempt, self.first_send_time) = (None, None);
                self.sends = 0;
            }
            AttemptChange::Undate => {
                self.first_send_time = self.first_send_time.map(|_| Timestamp::default());
            }
            AttemptChange::Extend { submit_until } => {
                self.attempt = self.attempt.map(|attempt| Attempt {
                    submit_until,
                    ..attempt
                });
            }
            AttemptChange::Begin { attempt, now } => {
                self.attempt = Some(attempt);
                self.first_send_time.get_or_insert(now);
                self.sends = self.sends.saturating_add(1);
            }
        }
    }
}
