//! A key that is known already: compare, join, repeat or replay.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    CreateError, Created, Inner, NewPurchase, Told, Wish,
    attempt::{self, Ending, Start},
    attempts::Sending,
    phase::{Phase, Remedy},
    starting::Starter,
};
use crate::{
    feed::End,
    fingerprint,
    journal::{Attempt, AttemptChange, Record, Write},
    lifecycle,
    provider::Placed,
    purchase::{AttentionReason, Cause, PurchaseId},
};

/// The longest that a duplicate waits for an attempt of another process.
const JOIN_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// The action that a known key calls for.
enum Call {
    /// Tell what is known.
    Tell,
    /// Send again.
    Send,
    /// Wait for the attempt under way.
    Join,
}

/// A send that was made for this call, or that it joins.
struct Again {
    ended: Ending,
    /// True if somebody else is told of it first: all earlier sends are known to have reached nobody,
    /// so only this call can be the first to hear that the order may exist.
    replayed: bool,
}

impl Inner {
    /// Answers for a key that has a record.
    pub(super) async fn again(
        self: &Arc<Self>,
        mut record: Record,
        new: &NewPurchase,
    ) -> Result<Created, CreateError> {
        self.compare(&record, new)?;
        loop {
            let id = record.purchase.id;
            let under_way = self.attempts.ending(id);
            if let Some(ended) = under_way {
                match Self::told(ended, true).await? {
                    Told::Created(created) => return Ok(created),
                    Told::Elsewhere => {}
                }
                record = self.reread(new, id).await?;
                continue;
            }
            match (self.call(&record), &new.wish) {
                // An adopted purchase has a reference, so nothing of it is sent.
                (Call::Tell, _) | (Call::Send, Wish::Adopt(_)) => return tell(record),
                (Call::Send, Wish::Place(placed)) => {
                    let again = match self.starter(new) {
                        Ok(starter) => self.send_again(record, new, placed, starter).await?,
                        Err(other) => {
                            // It spends the budget for all who repeat this key now.
                            other.ends().await?;
                            None
                        }
                    };
                    if let Some(Again { ended, replayed }) = again
                        && let Told::Created(created) = Self::told(ended, replayed).await?
                    {
                        return Ok(created);
                    }
                }
                (Call::Join, _) => {
                    let revision = record.purchase.status.revision;
                    let until = Instant::now() + JOIN_MAX;
                    let waited = self.feed.wait_past(id, revision, until).await;
                    waited.map_err(|_| CreateError::Journal { purchase: Some(id) })?;
                    match self.feed.ending() {
                        Some(End::JournalLost) => {
                            return Err(CreateError::Journal { purchase: Some(id) });
                        }
                        Some(End::Draining | End::Aged | End::Gone) => {
                            return Err(CreateError::Draining { purchase: Some(id) });
                        }
                        None => {}
                    }
                }
            }
            record = self.reread(new, id).await?;
        }
    }

    async fn reread(&self, new: &NewPurchase, id: PurchaseId) -> Result<Record, CreateError> {
        match self.known(new).await {
            Ok(Some(known)) => Ok(known),
            Ok(None) | Err(_) => Err(CreateError::Journal { purchase: Some(id) }),
        }
    }

    /// Refuses an order that is not the record's.
    fn compare(&self, record: &Record, new: &NewPurchase) -> Result<(), CreateError> {
        let known = &record.fingerprints;
        let fields = (self.keyring)
            .fingerprints(
                &known.key_id,
                new.account.name.as_str(),
                &new.order,
                new.account.provider.decimal_fields(),
            )
            .ok_or(CreateError::FingerprintKeyGone)?;
        let fields = fingerprint::differing(&known.fields, &fields);
        if fields.is_empty() {
            return Ok(());
        }
        Err(CreateError::KeyReused {
            purchase: record.purchase.id,
            fields,
        })
    }

    fn call(&self, record: &Record) -> Call {
        match self.phase(record) {
            Phase::Waiting { .. }
            | Phase::NeverSent
            | Phase::Unclear {
                remedy: Remedy::LookUp {
                    repeat_is_safe: true,
                },
                ..
            } => Call::Send,
            // This process, or another, repeats it by itself as long as one is under way.
            Phase::Unclear {
                remedy: Remedy::Repeat { .. },
                under_way_until: None,
            } if !self.attempts.repeats(record.purchase.id) => Call::Send,
            Phase::Sent { .. } | Phase::Overdue => Call::Join,
            Phase::Settled
            | Phase::Unclear {
                remedy:
                    Remedy::Nobody
                    | Remedy::Repeat { .. }
                    | Remedy::LookUp {
                        repeat_is_safe: false,
                    },
                ..
            } => Call::Tell,
        }
    }

    /// Sends an order again, after its own commit; `None` where that is no longer called for.
    async fn send_again(
        self: &Arc<Self>,
        record: Record,
        new: &NewPurchase,
        placed: &Arc<dyn Placed>,
        starter: Starter,
    ) -> Result<Option<Again>, CreateError> {
        let id = record.purchase.id;
        let admitted = self.admitted(new, Some(id)).await;
        let (admission, under_way) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                starter.ends(Err(error.clone()));
                return Err(error);
            }
        };
        // The time in which a repeat is safe may have passed while the account was waited for.
        if !matches!(self.call(&record), Call::Send) {
            return Ok(None);
        }
        // The first to come here sends; the others join it.
        let (sending, ended) = match Sending::begin(self, id) {
            Ok(begun) => begun,
            Err(ended) => {
                let replayed = true;
                return Ok(Some(Again { ended, replayed }));
            }
        };
        let replayed = record.sends > 0;
        let (begin, record) = self.begin_again(record, new);
        self.start(
            Start {
                placed: Arc::clone(placed),
                begin,
                record,
                admission,
                sending,
                starter,
                under_way,
            },
            new,
        );
        Ok(Some(Again { ended, replayed }))
    }

    /// The commit that precedes a repeated send, and the record as that makes it.
    fn begin_again(&self, mut record: Record, new: &NewPurchase) -> (Write, Record) {
        let (purchase, status) = (record.purchase.id, Arc::clone(&record.purchase.status));
        let (now, expected) = (self.clock.now(), status.revision);
        let transition = match record.sends {
            0 => lifecycle::repeat_begins(&status, now),
            _ => lifecycle::unclear(
                &status,
                AttentionReason::OutcomeUnknown,
                None,
                Cause::Create,
                now,
            ),
        };
        let attempt = AttemptChange::Begin {
            attempt: Attempt {
                submit_until: self.submit_until(&new.account),
            },
            now,
        };
        record.change_attempt(attempt);
        let begin = match transition {
            Some(transition) => {
                record.purchase.status = Arc::new(transition.status.clone());
                Write::Append {
                    purchase,
                    transition: Box::new(transition),
                    expected,
                    attempt,
                    note: None,
                }
            }
            None => Write::ChangeAttempt {
                purchase,
                expected,
                change: attempt,
            },
        };
        (begin, record)
    }
}

/// The answer of a record to a caller who repeats its key.
fn tell(record: Record) -> Result<Created, CreateError> {
    if attempt::is_rejected(&record.purchase.status) {
        return Err(CreateError::Rejected {
            purchase: record.purchase.id,
            message: None,
        });
    }
    Ok(Created {
        purchase: record.purchase,
        replayed: true,
    })
}
