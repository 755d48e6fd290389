//! A key that is known already: compare, join, repeat or replay.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    CreateError, Created, Inner, NewPurchase, Purpose,
    attempt::{self, Conclusion, Prepared},
    attempts::Sending,
    completion::Completion,
    key_locks::KeyLock,
    phase::{Remedy, SubmitPhase},
};
use crate::{
    feed::End,
    fingerprint,
    journal::{AttemptChange, Record, Write},
    lifecycle,
    provider::Placed,
    purchase::{AttentionReason, Cause, PurchaseId},
};

/// The longest that a duplicate waits for an attempt of another process.
const JOIN_MAX: std::time::Duration = std::time::Duration::from_secs(600);

/// The action that a known key calls for.
enum Action {
    /// Answer with the record.
    Answer,
    /// Send again.
    Send,
    /// Wait for the attempt under way.
    Join,
}

/// A send that was made for this call, or that it joins.
struct Joined {
    conclusion: Completion<Conclusion>,
    /// False if all earlier sends are known to have reached nobody: then this call is the first to hear
    /// that the order may exist.
    replayed: bool,
}

impl Inner {
    /// Answers for a key that has a record.
    pub(super) async fn answer_known(
        self: &Arc<Self>,
        mut record: Record,
        new: &NewPurchase,
    ) -> Result<Created, CreateError> {
        self.compare(&record, new)?;
        loop {
            let id = record.purchase.id;
            let under_way = self.attempts.concluding(id);
            let joined = match (under_way, self.action(&record, new), &new.purpose) {
                (Some(conclusion), ..) => Some(Joined {
                    conclusion,
                    replayed: true,
                }),
                // An adopted purchase has a reference, so nothing of it is sent.
                (None, Action::Answer, _) | (None, Action::Send, Purpose::Adopt(_)) => {
                    return answer_of(record);
                }
                (None, Action::Send, Purpose::Place(placed)) => match self.lock_key(new) {
                    Ok(key_lock) => self.send_again(record, new, placed, key_lock).await?,
                    Err(other) => {
                        // That call spends the budget for all that repeat this key now.
                        other.released().await?;
                        None
                    }
                },
                (None, Action::Join, _) => {
                    self.join_elsewhere(&record).await?;
                    None
                }
            };
            if let Some(Joined {
                conclusion,
                replayed,
            }) = joined
                && let Some(created) = Self::concluded(conclusion, replayed).await?
            {
                return Ok(created);
            }
            record = self.reread(new, id).await?;
        }
    }

    /// Waits for the end of an attempt that is no work of this process.
    async fn join_elsewhere(&self, record: &Record) -> Result<(), CreateError> {
        let (id, revision) = (record.purchase.id, record.purchase.status.revision);
        let until = Instant::now() + JOIN_MAX;
        let waited = self.feed.wait_past(id, revision, until).await;
        waited.map_err(|_| CreateError::Journal { purchase: Some(id) })?;
        match self.feed.ending() {
            Some(End::JournalLost) => Err(CreateError::Journal { purchase: Some(id) }),
            Some(End::Draining | End::Aged | End::Gone) => {
                Err(CreateError::Draining { purchase: Some(id) })
            }
            None => Ok(()),
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
                new.settings.provider.decimal_fields(),
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

    fn action(&self, record: &Record, new: &NewPurchase) -> Action {
        // The order would be sent by these settings.
        let circumstances = self.circumstances_by(&new.settings, record);
        match SubmitPhase::of(record, &circumstances, self.clock.now()) {
            SubmitPhase::Waiting { .. }
            | SubmitPhase::NeverSent
            | SubmitPhase::Unclear {
                remedy: Remedy::LookUp {
                    repeat_is_safe: true,
                },
                ..
            } => Action::Send,
            // This process, or another, repeats it by itself as long as one is under way.
            SubmitPhase::Unclear {
                remedy: Remedy::Repeat { .. },
                under_way_until: None,
            } => Action::Send,
            SubmitPhase::Sent { .. } | SubmitPhase::Overdue => Action::Join,
            SubmitPhase::Settled
            | SubmitPhase::Unclear {
                remedy:
                    Remedy::Nobody
                    | Remedy::Repeat { .. }
                    | Remedy::LookUp {
                        repeat_is_safe: false,
                    },
                ..
            } => Action::Answer,
        }
    }

    /// Sends an order again, after its own commit; `None` if that is no longer called for.
    async fn send_again(
        self: &Arc<Self>,
        record: Record,
        new: &NewPurchase,
        placed: &Arc<dyn Placed>,
        key_lock: KeyLock,
    ) -> Result<Option<Joined>, CreateError> {
        let id = record.purchase.id;
        let admitted = self.admitted(new, Some(id)).await;
        let (admission, under_way) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                key_lock.release(Err(error.clone()));
                return Err(error);
            }
        };
        // The time in which a repeat is safe may have passed while the account was waited for.
        if !matches!(self.action(&record, new), Action::Send) {
            return Ok(None);
        }
        // The first to come here sends; the others join it.
        let (sending, conclusion) = match Sending::begin(self, id) {
            Ok(begun) => begun,
            Err(conclusion) => {
                let replayed = true;
                return Ok(Some(Joined {
                    conclusion,
                    replayed,
                }));
            }
        };
        let replayed = record.sends > 0;
        let (begin, record) = self.begin_again(record, new);
        self.start(
            Prepared {
                placed: Arc::clone(placed),
                begin,
                record,
                admission,
                sending,
                key_lock,
                under_way,
            },
            new,
        );
        Ok(Some(Joined {
            conclusion,
            replayed,
        }))
    }

    /// The commit that precedes a repeated send, and the record as that makes it.
    fn begin_again(&self, mut record: Record, new: &NewPurchase) -> (Write, Record) {
        let (purchase, status) = (record.purchase.id, Arc::clone(&record.purchase.status));
        let (now, expected) = (self.clock.now(), record.expected());
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
            attempt: self.new_attempt(&new.settings),
            now,
        };
        record.change_attempt(attempt);
        let begin = match transition {
            Some(transition) => {
                record.purchase.status = Arc::new(transition.status.clone());
                Write::Append {
                    purchase,
                    fence: None,
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
fn answer_of(record: Record) -> Result<Created, CreateError> {
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
