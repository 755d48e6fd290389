//! An operator's decision about a purchase that cannot be settled otherwise.

use std::sync::Arc;

use super::{Inner, phase::SubmitPhase};
use crate::{
    journal::{AttemptChange, JournalError, Record, Write, Written},
    lifecycle,
    provider::{self, Violation},
    purchase::{Purchase, PurchaseId, Revision, Status, Timestamp, Transition},
};

/// The reason why nothing is decided while an order may be on its way.
const UNDER_WAY: &str = "a submit is under way";

/// The decision of an operator.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// The provider has it under this name.
    Reference(tillwatch_proto::v1::ProviderReference),
    /// The provider never created it, for this reason.
    NotCreated(String),
    /// It is followed no longer, for this reason.
    StopTracking(String),
}

/// The reasons for which a decision is not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// There is no such purchase.
    #[error("no such purchase")]
    NotFound,
    /// The decision rests on a revision that is no longer the newest.
    #[error("revision {newest} is the newest")]
    RevisionChanged {
        /// The newest.
        newest: Revision,
    },
    /// The decision does not fit the purchase.
    #[error("{0}")]
    NotResolvable(&'static str),
    /// The reference is none of this provider.
    #[error("the reference breaks a rule")]
    Reference(Vec<Violation>),
    /// Another purchase has the reference.
    #[error("the reference belongs to another purchase")]
    ReferenceTaken,
    /// The journal could not be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Inner {
    pub(super) async fn resolve(
        self: &Arc<Self>,
        purchase: PurchaseId,
        expected: Revision,
        resolution: Resolution,
    ) -> Result<Purchase, ResolveError> {
        let record = self
            .journal
            .record(purchase)
            .await?
            .ok_or(ResolveError::NotFound)?;
        let status = &record.purchase.status;
        if status.revision != expected {
            return Err(ResolveError::RevisionChanged {
                newest: status.revision,
            });
        }
        let now = self.clock.now();
        let phase = self.phase(&record);
        if phase.is_under_way() || self.attempts.has(purchase) {
            return Err(ResolveError::NotResolvable(UNDER_WAY));
        }
        let known = record.expected();
        let (transition, note) = match resolution {
            Resolution::Reference(message) => (self.named(&record, &message, now)?, None),
            Resolution::NotCreated(note) => (never_created(status, phase, now)?, Some(note)),
            Resolution::StopTracking(note) => (given_up(status, now)?, Some(note)),
        };
        let append = Write::Append {
            purchase,
            fence: None,
            transition: Box::new(transition.clone()),
            expected: known,
            attempt: AttemptChange::End,
            note,
        };
        match self.journal.write(append).await? {
            Written::Done => Ok(Purchase {
                status: Arc::new(transition.status),
                ..record.purchase
            }),
            Written::ReferenceTaken(_) => Err(ResolveError::ReferenceTaken),
            // A send can begin without a revision.
            Written::Stale(Some(newer)) if newer.purchase.status.revision == expected => {
                Err(ResolveError::NotResolvable(UNDER_WAY))
            }
            Written::Stale(Some(newer)) => Err(ResolveError::RevisionChanged {
                newest: newer.purchase.status.revision,
            }),
            Written::Stale(None) | Written::KeyTaken(_) | Written::Fenced => {
                Err(ResolveError::NotFound)
            }
        }
    }

    /// The operator names the reference. The state stays until the provider has answered for it.
    fn named(
        &self,
        record: &Record,
        message: &tillwatch_proto::v1::ProviderReference,
        now: Timestamp,
    ) -> Result<Transition, ResolveError> {
        let account =
            self.accounts
                .get(&record.purchase.account)
                .ok_or(ResolveError::NotResolvable(
                    "the purchase's account is not configured",
                ))?;
        let reference = provider::reference(account.provider().as_ref(), "reference", message)
            .map_err(ResolveError::Reference)?;
        lifecycle::named(&record.purchase.status, reference, now).ok_or(
            ResolveError::NotResolvable(
                "a reference is named for a purchase in OUTCOME_UNKNOWN alone",
            ),
        )
    }
}

fn never_created(
    status: &Status,
    phase: SubmitPhase,
    now: Timestamp,
) -> Result<Transition, ResolveError> {
    if !matches!(
        phase,
        SubmitPhase::Waiting { .. } | SubmitPhase::NeverSent | SubmitPhase::Unclear { .. }
    ) {
        return Err(ResolveError::NotResolvable(
            "only a purchase in OUTCOME_UNKNOWN, or one that waits for a repeat, can be stated as \
             never created",
        ));
    }
    lifecycle::not_created(status, now).ok_or(ResolveError::NotResolvable("it is FINAL"))
}

fn given_up(status: &Status, now: Timestamp) -> Result<Transition, ResolveError> {
    lifecycle::stopped(status, now).ok_or(ResolveError::NotResolvable("it is FINAL"))
}
