//! Committing a step against a record that may have moved on.

use super::{AttemptChange, Fence, Journal, JournalError, Record, Write, Written};
use crate::purchase::Transition;

/// The most decisions about one step if other writers commit in between.
const DECISIONS_MAX: usize = 16;

/// The result of a step, with the record as it is now.
#[derive(Debug)]
pub enum Decided {
    /// The step is made.
    Stepped(Box<Record>),
    /// No step was needed, and nothing was written.
    Unchanged(Box<Record>),
    /// Another purchase has the reference; nothing was written.
    ReferenceTaken(Box<Record>),
    /// The account has another owner by now; nothing was written.
    Fenced(Box<Record>),
}

impl Decided {
    /// The record as it is now.
    pub fn into_record(self) -> Record {
        match self {
            Self::Stepped(record)
            | Self::Unchanged(record)
            | Self::ReferenceTaken(record)
            | Self::Fenced(record) => *record,
        }
    }
}

/// A step that is decided on.
#[derive(Debug)]
pub struct Step {
    /// The transition.
    pub transition: Transition,
    /// Its effect on the attempt under way.
    pub attempt: AttemptChange,
}

impl Step {
    /// A step that leaves the attempt under way.
    pub fn keeping(transition: Transition) -> Self {
        let attempt = AttemptChange::Keep;
        Self {
            transition,
            attempt,
        }
    }

    /// A step that ends the attempt under way.
    pub fn ending(transition: Transition) -> Self {
        let attempt = AttemptChange::End;
        Self {
            transition,
            attempt,
        }
    }
}

/// Commits the step that `step` decides on from the newest record; `known` is a recent one. If
/// another change came first, `step` decides again. If it decides on none, nothing is written. A step of
/// the account's owner has its fence.
///
/// # Errors
/// The journal is away, the purchase is gone, or others change it at every attempt.
pub async fn decide(
    journal: &dyn Journal,
    known: Record,
    fence: Option<&Fence>,
    step: impl Fn(&Record) -> Option<Step> + Send + Sync,
) -> Result<Decided, JournalError> {
    let mut record = known;
    for _ in 0..DECISIONS_MAX {
        let Some(Step {
            transition,
            attempt,
        }) = step(&record)
        else {
            return Ok(Decided::Unchanged(Box::new(record)));
        };
        let status = transition.status.clone();
        let append = Write::Append {
            purchase: record.purchase.id,
            fence: fence.cloned(),
            transition: Box::new(transition),
            expected: record.expected(),
            attempt,
            note: None,
        };
        match journal.write(append).await? {
            Written::Done => {
                record.purchase.status = status.into();
                record.change_attempt(attempt);
                return Ok(Decided::Stepped(Box::new(record)));
            }
            Written::Stale(Some(newer)) => record = *newer,
            Written::ReferenceTaken(_) => {
                return Ok(Decided::ReferenceTaken(Box::new(record)));
            }
            Written::Fenced => return Ok(Decided::Fenced(Box::new(record))),
            Written::Stale(None) | Written::KeyTaken(_) => break,
        }
    }
    Err(JournalError::unavailable(
        "other writers change the purchase every time",
    ))
}
