//! An attempt to submit, and the effect of each change of it on a record: pure, and the same in every
//! journal.

use super::Record;
use crate::purchase::Timestamp;

/// An attempt to submit that is recorded as begun and not as ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The time from which the attempt may be settled as unclear.
    pub submit_until: Timestamp,
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
    /// Begins an attempt that is sent at `now`.
    Begin {
        /// The attempt.
        attempt: Attempt,
        /// The time at which it is sent; kept as the first send if none is known yet.
        now: Timestamp,
    },
}

impl Record {
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
            AttemptChange::Begin { attempt, now } => {
                self.attempt = Some(attempt);
                self.first_send_time.get_or_insert(now);
                self.sends = self.sends.saturating_add(1);
            }
        }
    }
}
