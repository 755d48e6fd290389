//! The ways in which a process loses its store for good, and the transition by which it knows its store again.

use std::fmt;

use super::{Committed, Position};
use crate::purchase::{PurchaseId, Revision};

/// A transition that somebody was told of. Its store has it from then on, until retention takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// Its place in the order of all commits.
    pub position: Position,
    /// Its purchase: a store that has lost commits gives their positions to others.
    pub purchase: PurchaseId,
    /// Its revision.
    pub revision: Revision,
}

impl From<&Committed> for Witness {
    fn from(committed: &Committed) -> Self {
        Self {
            position: committed.position,
            purchase: committed.purchase.id,
            revision: committed.purchase.status.revision,
        }
    }
}

/// The reason why a process can use its store no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Another process has taken the store over.
    TakenOver,
    /// The store has lost commits: the newest transition that this process has told of is gone.
    Commits(Witness),
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakenOver => formatter.write_str("another process has taken the journal over"),
            Self::Commits(Witness {
                position,
                purchase,
                revision,
            }) => write!(
                formatter,
                "the journal has lost commits that were told, such as revision {} of {purchase} at position {}",
                revision.0, position.0
            ),
        }
    }
}
