//! Committing a step against a record that may have moved on.

use super::Inner;
use crate::{
    journal::{AttemptChange, JournalError, Record, Write, Written},
    purchase::{PurchaseId, Transition},
};

/// How often a step is decided anew when others commit in between.
const DECISIONS_MAX: usize = 16;

/// What became of a step.
pub(super) enum Settled {
    /// The step is made; the record as it is now.
    Stepped(Box<Record>),
    /// No step was needed, and nothing was written; the record as it is now.
    Unchanged(Box<Record>),
    /// Another purchase has the reference; nothing was written.
    ReferenceTaken(Box<Record>),
}

impl Settled {
    /// The record as it is now.
    pub(super) fn into_record(self) -> Record {
        match self {
            Self::Stepped(record) | Self::Unchanged(record) | Self::ReferenceTaken(record) => {
                *record
            }
        }
    }
}

impl Inner {
    /// Commits the step that `decide` makes of the newest record. It decides again where another
    /// step came first, and nothing is written where it decides on nothing.
    pub(super) async fn commit(
        &self,
        purchase: PurchaseId,
        known: &Record,
        attempt: AttemptChange,
        note: Option<String>,
        decide: impl Fn(&Record) -> Option<Transition> + Send + Sync,
    ) -> Result<Settled, JournalError> {
        let mut record = known.clone();
        for _ in 0..DECISIONS_MAX {
            let Some(transition) = decide(&record) else {
                return Ok(Settled::Unchanged(Box::new(record)));
            };
            let status = transition.status.clone();
            let append = Write::Append {
                purchase,
                transition: Box::new(transition),
                expected: record.purchase.status.revision,
                attempt,
                note: note.clone(),
            };
            match self.journal.write(append).await? {
                Written::Done => {
                    record.purchase.status = status.into();
                    if attempt != AttemptChange::Keep {
                        record.attempt = None;
                    }
                    return Ok(Settled::Stepped(Box::new(record)));
                }
                Written::Stale(Some(newer)) => record = *newer,
                Written::ReferenceTaken(_) => {
                    return Ok(Settled::ReferenceTaken(Box::new(record)));
                }
                Written::Stale(None) | Written::KeyTaken(_) => break,
            }
        }
        Err(JournalError::unavailable(
            "the purchase does not hold still",
        ))
    }
}
