//! One attempt to submit, from its request to the commit of its answer's meaning.

use std::sync::Arc;

use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{Instrument as _, Span, field::Empty};

use super::{
    CreateError, Inner, NewPurchase, REPEAT_WANTED_FOR, RETRY_AFTER, SUBMIT_SLACK,
    attempts::Sending,
    key_locks::KeyLock,
    phase::{Remedy, is_settled},
};
use crate::{
    account::{Account, Admission, Sent, Settings},
    clock::Now,
    failpoint::{self, Failpoint},
    journal::{self, AttemptChange, Decided, JournalError, Record, Step, Write, Written},
    lifecycle,
    observation::Submitted,
    provider::{self, Intent, Placed, Provider, Unclear},
    purchase::{AttentionReason, Cause, Purchase, Reference, Status, Transition, UnreadId},
    trace::{self, Place},
};

/// The end of an attempt, for the caller who made it and for those who joined. An attempt that ends
/// without one has panicked.
#[derive(Debug, Clone)]
pub(super) enum Conclusion {
    /// The purchase has a status to show.
    Known(Box<Purchase>),
    /// The call fails.
    Failed(CreateError),
    /// Another call came first; nothing was sent.
    Elsewhere,
}

/// A submission that is about to begin.
pub(super) struct Prepared {
    /// The order that is sent.
    pub(super) placed: Arc<dyn Placed>,
    /// The commit that precedes it.
    pub(super) begin: Write,
    /// The purchase as that makes it.
    pub(super) record: Record,
    /// The right to make the request.
    pub(super) admission: Admission,
    /// Its place among the attempts.
    pub(super) sending: Sending,
    /// The right to start this key, told of the commit.
    pub(super) key_lock: KeyLock,
    /// A drain waits for it.
    pub(super) under_way: TaskTrackerToken,
}

/// One send, with all that is needed to make it and to read its answer.
pub(super) struct Submission {
    pub(super) account: Arc<Account>,
    /// The account's settings by which the order was read.
    pub(super) settings: Arc<Settings>,
    pub(super) record: Record,
    pub(super) placed: Arc<dyn Placed>,
    /// True if this process repeats it by itself if its outcome is unclear.
    pub(super) repeats: bool,
    /// The number of times that the clock had been set back when it began.
    pub(super) set_back: u64,
    /// The time at which its commit was made up.
    pub(super) begun: Now,
}

impl Submission {
    /// True if the record's attempt is this one, or none is under way and this one's send is the only one.
    fn is_its(&self, record: &Record) -> bool {
        let by = |record: &Record| record.attempt.map(|attempt| attempt.by);
        by(record).is_none() || by(record) == by(&self.record)
    }

    /// True if all other sends of the order are known to have reached nobody. Then the end of this one is
    /// the end of the order.
    fn speaks_for_the_order(&self, record: &Record) -> bool {
        record.sends == 1 && self.is_its(record)
    }

    /// The time until which it may go. If it went later, the answer could come after `submit_until`.
    fn until(&self) -> Now {
        Now {
            wall: self.begun.wall.plus(SUBMIT_SLACK),
            moment: self.begun.moment.plus(SUBMIT_SLACK),
        }
    }

    /// True if this process goes on with repeats of its own, after this end.
    fn goes_on(&self, sent: &Sent) -> bool {
        let takes_key = matches!(
            self.settings.provider.unclear(),
            Unclear::RepeatWithKey { .. }
        );
        let is_unclear = match &sent.submitted {
            // A repeat would tell the same again.
            Submitted::Unclear { unread_id, .. } => unread_id.is_none(),
            Submitted::Refused { .. } | Submitted::Taken => {
                self.record.sends > 1 && sent.is_not_yet()
            }
            Submitted::Accepted(_)
            | Submitted::AcceptedWithoutReference
            | Submitted::NotSent(_) => false,
        };
        self.repeats && takes_key && is_unclear
    }
}

impl Inner {
    /// Commits that a send begins, then sends, in a task that no caller can cancel.
    pub(super) fn start(self: &Arc<Self>, prepared: Prepared, new: &NewPurchase) {
        let Prepared {
            placed,
            begin,
            record,
            admission,
            mut sending,
            key_lock,
            under_way,
        } = prepared;
        let send = Submission {
            account: Arc::clone(&new.account),
            settings: Arc::clone(&new.settings),
            record,
            placed,
            repeats: true,
            set_back: self.clock.set_back(),
            begun: self.clock.both(),
        };
        let inner = Arc::clone(self);
        let create = Place::current();
        let span = attempt_span(&send.record);
        self.tasks.spawn(async move {
            let begun = inner.begin(begin, send).instrument(span.clone()).await;
            key_lock.release(match &begun {
                Err(Conclusion::Failed(error)) => Err(error.clone()),
                Ok(_) | Err(Conclusion::Known(_) | Conclusion::Elsewhere) => Ok(()),
            });
            match begun {
                Ok(send) => {
                    (inner.creates).created(send.record.purchase.id, create);
                    let attempt = inner.attempt(&send, admission, &mut sending);
                    let goes_on = attempt.instrument(span).await;
                    drop(sending);
                    if goes_on {
                        inner.repeat_with_key(&send).await;
                    }
                }
                Err(conclusion) => sending.conclude(conclusion),
            }
            drop(under_way);
        });
    }

    /// Every send is preceded by its own commit.
    async fn begin(&self, begin: Write, send: Submission) -> Result<Submission, Conclusion> {
        let id = send.record.purchase.id;
        failpoint::reach(Failpoint::BeforeIntent);
        let is_new = matches!(begin, Write::Begin { .. });
        let purchase = (!is_new).then_some(id);
        match self.journal.write(begin).await {
            Ok(Written::Done) => {}
            Ok(Written::KeyTaken(_) | Written::Stale(_)) => return Err(Conclusion::Elsewhere),
            Ok(Written::ReferenceTaken(_) | Written::Fenced) | Err(_) => {
                return Err(Conclusion::Failed(CreateError::Journal { purchase }));
            }
        }
        failpoint::reach(Failpoint::IntentCommitted);
        Ok(send)
    }

    /// Calls `with` with the known facts of a record's order.
    pub(super) fn with_intent<T>(
        &self,
        provider: &dyn Provider,
        record: &Record,
        with: impl FnOnce(&Intent<'_>) -> T,
    ) -> T {
        let fingerprints = &record.fingerprints;
        let decimals = provider.decimal_fields();
        let matches = |name: &str, text: &str| {
            self.keyring.matches(
                &fingerprints.key_id,
                &fingerprints.fields,
                name,
                text,
                decimals,
            )
        };
        with(&Intent {
            purchase: record.purchase.id,
            create_time: record.purchase.create_time,
            recovery: &record.recovery,
            matches: &matches,
        })
    }

    /// Sends once, commits the answer's meaning and tells the callers. Returns true if this process goes
    /// on with repeats of its own.
    async fn attempt(
        self: &Arc<Self>,
        send: &Submission,
        admission: Admission,
        sending: &mut Sending,
    ) -> bool {
        let sent = self.send(send, admission).await;
        failpoint::reach(Failpoint::Answered);
        let goes_on = send.goes_on(&sent);
        if matches!(sent.submitted, Submitted::Unclear { .. }) || goes_on {
            sending.is_unclear();
        }
        let mut kept = false;
        let purchase = loop {
            match self.settle_submit(send, &sent).await {
                Ok(record) => break record.purchase,
                Err(_) => {
                    if !kept {
                        kept = true;
                        say_kept(send, &sent.submitted);
                        sending.conclude(Conclusion::Failed(CreateError::Journal {
                            purchase: Some(send.record.purchase.id),
                        }));
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        };
        failpoint::reach(Failpoint::Settled);
        sending.conclude(self.conclusion(send, &sent.submitted, purchase));
        goes_on
    }

    /// Sends the order and reads the answer. Nothing is sent if the commit before it took so long that
    /// the time of the send may pass before the answer.
    pub(super) async fn send(self: &Arc<Self>, send: &Submission, admission: Admission) -> Sent {
        let (account, provider) = (&send.account, Arc::clone(&send.settings.provider));
        let mut admission = (admission.about(send.record.purchase.id))
            .until(send.until())
            .by(&send.settings);
        let request = self.with_intent(&*provider, &send.record, |intent| {
            send.placed.request(intent)
        });
        let (inner, record) = (Arc::clone(self), send.record.clone());
        let placed = Arc::clone(&send.placed);
        let read = move |answer: &_, now| {
            inner.with_intent(&*provider, &record, |intent| {
                placed.read(intent, answer, now)
            })
        };
        let span = self.send_span(&send.record);
        let submit = account.submit(&mut admission, request, read);
        let sent = submit.instrument(span.clone()).await;
        span.record("tillwatch.outcome", outcome(&sent.submitted));
        let (purchase, account) = (send.record.purchase.id, &account.name);
        match &sent.submitted {
            Submitted::Unclear { why, unread_id } => {
                let unread_id = unread_id.as_ref().map(UnreadId::shown);
                tracing::warn!(%purchase, %account, why, unread_id, "the outcome of a create is unclear");
            }
            Submitted::NotSent(trouble) if sent.status.is_none() => {
                tracing::warn!(%purchase, %account, why = trouble.why(), "an order was not sent");
            }
            _ => {}
        }
        sent
    }

    /// Commits the meaning of a submit's end, guarded by revision and state. A late answer wins over
    /// OUTCOME_UNKNOWN; nothing wins over an end or a reference that is known by now.
    pub(super) async fn settle_submit(
        &self,
        send: &Submission,
        sent: &Sent,
    ) -> Result<Record, JournalError> {
        let mut known = send.record.clone();
        loop {
            let step = |record: &Record| {
                Some(Step {
                    transition: self.meaning(send, sent, record)?,
                    attempt: self.attempt_ends(send, sent, record),
                })
            };
            let record = match journal::decide(&*self.journal, known, None, step).await? {
                Decided::Stepped(record) => return Ok(*record),
                Decided::ReferenceTaken(record) => {
                    return self.reference_is_taken(send, sent, *record).await;
                }
                Decided::Unchanged(record) | Decided::Fenced(record) => *record,
            };
            // The attempt has ended all the same, if the newest record was looked at.
            let end = Write::ChangeAttempt {
                purchase: record.purchase.id,
                expected: record.expected(),
                change: self.attempt_ends(send, sent, &record),
            };
            match self.journal.write(end).await? {
                Written::Stale(Some(newer)) if newer.expected() != record.expected() => {
                    known = *newer;
                }
                _ => return Ok(record),
            }
        }
    }

    /// The effect of a submit's end on the attempt that this record tells of. Another's goes on, unless
    /// nothing is left to send.
    fn attempt_ends(&self, send: &Submission, sent: &Sent, record: &Record) -> AttemptChange {
        match sent.submitted {
            Submitted::Accepted(_) => AttemptChange::End,
            // The provider would tell the same again.
            Submitted::AcceptedWithoutReference
            | Submitted::Unclear {
                unread_id: Some(_), ..
            } => AttemptChange::Accepted,
            Submitted::NotSent(_) if send.speaks_for_the_order(record) => AttemptChange::Unsent,
            _ if !send.is_its(record) => AttemptChange::Keep,
            _ if send.goes_on(sent) => self.extends(),
            _ => AttemptChange::End,
        }
    }

    /// The step that a submit's end makes of this record.
    fn meaning(&self, send: &Submission, sent: &Sent, record: &Record) -> Option<Transition> {
        let (now, status) = (self.clock.now(), &record.purchase.status);
        if is_settled(status) {
            return None;
        }
        let (settings, is_only) = (&send.settings, send.speaks_for_the_order(record));
        match &sent.submitted {
            Submitted::Accepted(observation) => {
                lifecycle::accepted(status, observation, settings.provider.graph(), now)
            }
            Submitted::AcceptedWithoutReference => lifecycle::unnamed(status, None, now),
            Submitted::Unclear {
                unread_id: Some(id),
                ..
            } => lifecycle::unnamed(status, id.kept(), now),
            // A refusal of a repeat proves nothing about the first attempt.
            Submitted::Refused { .. } | Submitted::Taken if is_only => {
                lifecycle::refused(status, now)
            }
            Submitted::NotSent(_) if is_only => {
                lifecycle::repeat_wanted(status, now.plus(REPEAT_WANTED_FOR), now)
            }
            // Another attempt is under way, and tells by itself how it ends.
            _ if !send.is_its(record) => None,
            Submitted::Unclear { .. }
            | Submitted::Refused { .. }
            | Submitted::Taken
            | Submitted::NotSent(_) => {
                // If the provider takes a key, this process repeats by itself first. Once the clock was
                // set back, the times that were stored with this send cannot be believed.
                let is_undated = send.set_back != self.clock.set_back();
                let (reason, deadline) = if send.goes_on(sent) || is_undated {
                    (AttentionReason::OutcomeUnknown, None)
                } else {
                    Remedy::of(&send.record, &self.circumstances(&send.record), now).attention()
                };
                lifecycle::unclear(status, reason, deadline, Cause::Create, now)
            }
        }
    }

    /// The provider named something that another purchase of this account tracks already.
    async fn reference_is_taken(
        &self,
        send: &Submission,
        sent: &Sent,
        record: Record,
    ) -> Result<Record, JournalError> {
        let now = self.clock.now();
        let step = |record: &Record| {
            let status = &record.purchase.status;
            // A conflict that names what exists refuses this create; an acceptance never does.
            if send.speaks_for_the_order(record) && sent.status == Some(409) {
                return lifecycle::refused(status, now).map(Step::ending);
            }
            Some(Step {
                transition: lifecycle::unnamed(status, None, now)?,
                attempt: AttemptChange::Accepted,
            })
        };
        let settled = journal::decide(&*self.journal, record, None, step).await?;
        Ok(settled.into_record())
    }

    /// The end of an attempt for its caller.
    fn conclusion(
        &self,
        send: &Submission,
        submitted: &Submitted,
        purchase: Purchase,
    ) -> Conclusion {
        let rejected = |message: Option<String>| {
            Conclusion::Failed(CreateError::Rejected {
                purchase: purchase.id,
                message,
            })
        };
        let is_refused = is_rejected(&purchase.status);
        match submitted {
            Submitted::Refused { message } if is_refused => {
                rejected(Some(provider::told(&*send.settings.provider, message)))
            }
            _ if is_refused => rejected(None),
            // Somebody else has settled it in the meantime.
            _ if purchase.status.reference.is_some() => Conclusion::Known(Box::new(purchase)),
            Submitted::NotSent(trouble) => Conclusion::Failed(CreateError::Unheard {
                why: send.account.unheard(trouble.clone()),
                purchase: Some(purchase.id),
            }),
            Submitted::Accepted(_)
            | Submitted::AcceptedWithoutReference
            | Submitted::Refused { .. }
            | Submitted::Taken
            | Submitted::Unclear { .. } => Conclusion::Known(Box::new(purchase)),
        }
    }
}

impl Inner {
    /// The span of one send.
    fn send_span(&self, record: &Record) -> Span {
        let purchase = &record.purchase;
        let span = tracing::info_span!(
            "send",
            otel.kind = "client",
            tillwatch.account = purchase.account.as_str(),
            tillwatch.provider = &*purchase.provider,
            tillwatch.purchase = %purchase.id,
            tillwatch.outcome = Empty,
        );
        // A repeat of this process's own is in no call's trace.
        if Span::current().is_none() {
            self.creates.link(&span, purchase.id);
        }
        span
    }
}

/// The span of an attempt, in the trace of the call that made it. The call may end before it.
fn attempt_span(record: &Record) -> Span {
    let purchase = &record.purchase;
    let span = tracing::info_span!(
        parent: None,
        "attempt",
        tillwatch.account = purchase.account.as_str(),
        tillwatch.purchase = %purchase.id,
    );
    trace::follow_current(&span);
    span
}

/// The end of a send, in one word.
fn outcome(submitted: &Submitted) -> &'static str {
    match submitted {
        Submitted::Accepted(_) => "accepted",
        Submitted::AcceptedWithoutReference => "accepted_without_reference",
        Submitted::Refused { .. } => "refused",
        Submitted::Taken => "taken",
        Submitted::NotSent(_) => "not_sent",
        Submitted::Unclear { .. } => "unclear",
    }
}

/// The commit failed: the answer is kept and committed again until the process ends.
pub(super) fn say_kept(send: &Submission, submitted: &Submitted) {
    let reference = match submitted {
        Submitted::Accepted(observation) => {
            observation.reference.as_ref().map(Reference::canonical)
        }
        Submitted::Unclear { unread_id, .. } => unread_id.as_ref().map(UnreadId::shown),
        _ => None,
    };
    tracing::error!(
        purchase = %send.record.purchase.id,
        account = %send.account.name,
        reference = reference.as_deref().unwrap_or("none"),
        "the provider's answer could not be committed; it is kept and tried again"
    );
}

/// True if a status says that the provider refused the order.
pub(super) fn is_rejected(status: &Status) -> bool {
    status
        .failure
        .as_ref()
        .is_some_and(|failure| failure.reason == crate::purchase::FailureReason::Rejected)
}
