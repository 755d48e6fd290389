//! One attempt to submit, from its request to the commit of what its answer means.

use std::{sync::Arc, time::Duration};

use tillwatch_proto::v1::create_purchase_request::Order;
use tokio::sync::watch;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{CreateError, Inner, NewPurchase, REPEAT_WANTED_FOR, RETRY_AFTER, starting::Starter};
use crate::{
    account::{Account, Admission, Class},
    failpoint::{self, Failpoint},
    journal::{Attempt, AttemptChange, JournalError, Record, Write, Written},
    lifecycle,
    observation::{Submitted, Trouble},
    provider::{Intent, Unclear},
    purchase::{
        AttentionReason, Cause, Purchase, PurchaseId, State, Status, Timestamp, Transition,
    },
    upstream::{Request, UpstreamError},
};

/// How often this process repeats a send whose answer was lost, where the provider takes a key.
const REPEATS: u32 = 3;
/// The wait before the first repeat; doubled for each further one.
const REPEAT_BACKOFF: Duration = Duration::from_millis(500);
/// How long a repeat waits for budget and breaker.
const REPEAT_ADMISSION: Duration = Duration::from_secs(60);

/// How an attempt ended, for the caller who made it and for those who joined.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    /// The purchase has a status to show.
    Known(Box<Purchase>),
    /// The call fails.
    Failed(CreateError),
    /// Another call came first; nothing was sent.
    Elsewhere,
}

/// A send that is about to begin.
pub(super) struct Start {
    /// The commit that precedes it.
    pub(super) begin: Write,
    /// The purchase as it is before that, or as that makes it.
    pub(super) record: Record,
    /// The right to make the request.
    pub(super) admission: Admission,
    /// Who waits for its end hears it here.
    pub(super) live: watch::Sender<Option<Ended>>,
    /// The right to start this key, told of the commit.
    pub(super) starter: Option<Starter>,
    /// A drain waits for it.
    pub(super) under_way: TaskTrackerToken,
}

/// What this process does about a purchase, taken off its lists even by a panic: a purchase that
/// stayed there would never be settled.
struct UnderWay {
    inner: Arc<Inner>,
    purchase: PurchaseId,
    /// Whether something is left to settle.
    unclear: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self {
            inner, purchase, ..
        } = self;
        inner.attempts().remove(purchase);
        inner.repeating().remove(purchase);
        if self.unclear || std::thread::panicking() {
            inner.deadlines.at(inner.clock.now(), *purchase);
        }
    }
}

/// One send: what is needed to make it and to read its answer.
struct Send {
    account: Arc<Account>,
    record: Record,
    order: Arc<Order>,
    request: Request,
    /// Whether all earlier attempts are known to have sent nothing, so that a refusal of this one
    /// is a refusal of the order.
    first: bool,
    /// Whether this process repeats it by itself where its outcome is unclear.
    repeats: bool,
}

impl Inner {
    /// Commits that a send begins, then sends, in a task that no caller can cancel.
    pub(super) fn start(self: &Arc<Self>, start: Start, new: &NewPurchase) {
        let Start {
            begin,
            record,
            admission,
            live,
            starter,
            under_way,
        } = start;
        let account = Arc::clone(&new.account);
        let request = self.with_intent(&account, &record, |intent| {
            account.provider.submit_request(&new.order, intent)
        });
        let first = record.purchase.status.state == State::Pending;
        let order = Arc::new(new.order.clone());
        let send = Send {
            account,
            record,
            order,
            request,
            first,
            repeats: true,
        };
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            let id = send.record.purchase.id;
            let mut listed = UnderWay {
                inner: Arc::clone(&inner),
                purchase: id,
                unclear: false,
            };
            let begun = inner.begin(begin, send).await;
            if let Some(starter) = starter {
                starter.ends(match &begun {
                    Err(Ended::Failed(error)) => Err(error.clone()),
                    Ok(_) | Err(Ended::Known(_) | Ended::Elsewhere) => Ok(()),
                });
            }
            match begun {
                Ok(send) => {
                    if inner.attempt(&send, admission, &live).await {
                        listed.unclear = true;
                        inner.repeating().insert(id);
                        inner.attempts().remove(&id);
                        inner.repeat_with_key(&send).await;
                    }
                }
                Err(ended) => drop(live.send_replace(Some(ended))),
            }
            drop(under_way);
        });
    }

    /// Every send is preceded by its own commit.
    async fn begin(&self, begin: Write, mut send: Send) -> Result<Send, Ended> {
        let id = send.record.purchase.id;
        failpoint::reach(Failpoint::BeforeIntent);
        let is_new = matches!(begin, Write::Begin { .. });
        let purchase = (!is_new).then_some(id);
        match self.journal.write(begin).await {
            Ok(Written::Done) => {}
            Ok(Written::KeyTaken(_) | Written::Stale(_)) => return Err(Ended::Elsewhere),
            Ok(Written::ReferenceTaken(_)) | Err(_) => {
                return Err(Ended::Failed(CreateError::Journal { purchase }));
            }
        }
        if !is_new && let Ok(Some(newest)) = self.journal.record(id).await {
            send.record = newest;
        }
        failpoint::reach(Failpoint::IntentCommitted);
        Ok(send)
    }

    /// Calls `with` with what is known of a record's order.
    pub(super) fn with_intent<T>(
        &self,
        account: &Account,
        record: &Record,
        with: impl FnOnce(&Intent<'_>) -> T,
    ) -> T {
        let fingerprints = &record.fingerprints;
        let decimals = account.provider.decimal_fields();
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

    /// Sends once, commits what the answer means and tells who waits. Returns whether the outcome
    /// is unclear.
    async fn attempt(
        self: &Arc<Self>,
        send: &Send,
        admission: Admission,
        live: &watch::Sender<Option<Ended>>,
    ) -> bool {
        let submitted = self.send(send, admission).await;
        failpoint::reach(Failpoint::Answered);
        let unclear = matches!(submitted, Submitted::Unclear { .. });
        let mut kept = false;
        let purchase = loop {
            match self.settle_submit(send, &submitted).await {
                Ok(record) => break record.purchase,
                Err(_) => {
                    if !kept {
                        kept = true;
                        self.say_kept(send, &submitted, live);
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        };
        failpoint::reach(Failpoint::Settled);
        live.send_replace(Some(self.ended(send, &submitted, purchase)));
        unclear
    }

    /// The commit failed: the answer is kept here and committed again until the process ends.
    fn say_kept(&self, send: &Send, submitted: &Submitted, live: &watch::Sender<Option<Ended>>) {
        let purchase = send.record.purchase.id;
        let reference = match submitted {
            Submitted::Accepted(observation) => observation
                .reference
                .as_ref()
                .map(crate::purchase::Reference::canonical),
            _ => None,
        };
        tracing::error!(
            %purchase,
            account = %send.account.name,
            reference = reference.as_deref().unwrap_or("none"),
            "the provider's answer could not be committed; it is kept and tried again"
        );
        let error = CreateError::Journal {
            purchase: Some(purchase),
        };
        live.send_replace(Some(Ended::Failed(error)));
    }

    /// Makes the request and reads its answer.
    async fn send(&self, send: &Send, admission: Admission) -> Submitted {
        let account = &send.account;
        let mut admission = admission.about(send.record.purchase.id);
        let answer = account.ask(&mut admission, send.request.clone()).await;
        let submitted = match answer {
            Ok(answer) => {
                let now = self.clock.now();
                self.with_intent(account, &send.record, |intent| {
                    account
                        .provider
                        .read_submit_of(&send.order, intent, &answer, now)
                })
            }
            Err(UpstreamError::NotConnected(why)) => Submitted::NotSent(Trouble::Unreachable {
                sent: false,
                why: why.to_owned(),
            }),
            Err(error @ (UpstreamError::Lost(_) | UpstreamError::Unusable(_))) => {
                Submitted::Unclear {
                    why: error.to_string(),
                }
            }
        };
        if let Submitted::NotSent(trouble @ (Trouble::Throttled { .. } | Trouble::Unauthorized)) =
            &submitted
        {
            account.learn(Class::Create, trouble);
        }
        if let Submitted::Unclear { why } = &submitted {
            tracing::warn!(purchase = %send.record.purchase.id, account = %account.name, why, "the outcome of a create is unclear");
        }
        submitted
    }

    /// Commits what a submit's end means, guarded by revision and state: a late answer wins over
    /// OUTCOME_UNKNOWN, and nothing wins over an end or a reference that is known by now.
    async fn settle_submit(
        &self,
        send: &Send,
        submitted: &Submitted,
    ) -> Result<Record, JournalError> {
        let id = send.record.purchase.id;
        let settled = self
            .commit(id, &send.record, AttemptChange::End, None, |record| {
                let status = &record.purchase.status;
                if status.is_terminal() || status.reference.is_some() {
                    return None;
                }
                self.meaning(send, submitted, status)
            })
            .await?;
        match settled {
            super::commit::Settled::Record(record) => Ok(*record),
            super::commit::Settled::ReferenceTaken(record) => {
                self.reference_is_taken(send, *record).await
            }
        }
    }

    /// The step that a submit's end makes of this status.
    fn meaning(&self, send: &Send, submitted: &Submitted, status: &Status) -> Option<Transition> {
        let now = self.clock.now();
        let account = &send.account;
        match submitted {
            Submitted::Accepted(observation) => {
                lifecycle::accepted(status, observation, account.provider.graph(), now)
            }
            Submitted::AcceptedWithoutReference => lifecycle::unclear(
                status,
                AttentionReason::NoReference,
                None,
                Cause::Create,
                now,
            ),
            // A refusal of a repeat proves nothing about the first attempt.
            Submitted::Refused { .. } | Submitted::Taken if send.first => {
                lifecycle::refused(status, now)
            }
            Submitted::NotSent(_) if send.first => {
                lifecycle::repeat_wanted(status, now.plus(REPEAT_WANTED_FOR), now)
            }
            Submitted::Unclear { .. }
            | Submitted::Refused { .. }
            | Submitted::Taken
            | Submitted::NotSent(_) => {
                // This process repeats by itself first, where the provider takes a key.
                let repeats = send.repeats && matches!(submitted, Submitted::Unclear { .. });
                let (reason, deadline) = if repeats {
                    (AttentionReason::OutcomeUnknown, None)
                } else {
                    self.unclear_attention(account, &send.record, now)
                };
                lifecycle::unclear(status, reason, deadline, Cause::Create, now)
            }
        }
    }

    /// What a person is asked to do about an unclear submit that this process does not repeat.
    pub(super) fn unclear_attention(
        &self,
        account: &Account,
        record: &Record,
        now: Timestamp,
    ) -> (AttentionReason, Option<Timestamp>) {
        if let Unclear::RepeatWithKey { within } = account.provider.unclear() {
            let first = record
                .first_send_time
                .unwrap_or(record.purchase.create_time);
            let deadline = first.plus(within);
            if now < deadline {
                return (AttentionReason::RepeatWanted, Some(deadline));
            }
        }
        (AttentionReason::OutcomeUnknown, None)
    }

    /// The provider named something that another purchase of this account tracks already.
    async fn reference_is_taken(
        &self,
        send: &Send,
        record: Record,
    ) -> Result<Record, JournalError> {
        let now = self.clock.now();
        // A provider that refuses a second create of the same order has just done so.
        let refuses = matches!(
            send.account.provider.unclear(),
            Unclear::LookUp {
                repeat_is_safe: true
            }
        );
        let settled = self
            .commit(
                record.purchase.id,
                &record,
                AttemptChange::End,
                None,
                |record| {
                    let status = &record.purchase.status;
                    if refuses && send.first {
                        return lifecycle::refused(status, now);
                    }
                    lifecycle::unclear(
                        status,
                        AttentionReason::NoReference,
                        None,
                        Cause::Create,
                        now,
                    )
                },
            )
            .await?;
        Ok(settled.into_record())
    }

    /// What to tell the caller of an attempt.
    fn ended(&self, send: &Send, submitted: &Submitted, purchase: Purchase) -> Ended {
        let id = Some(purchase.id);
        let pause = |after: Option<Duration>| after.unwrap_or(RETRY_AFTER);
        let rejected = |message: Option<String>| {
            Ended::Failed(CreateError::Rejected {
                purchase: purchase.id,
                message,
            })
        };
        let is_refused = is_rejected(&purchase.status);
        match submitted {
            Submitted::Refused { message } if is_refused => rejected(Some(message.clone())),
            _ if is_refused => rejected(None),
            // Somebody else has settled it in the meantime.
            _ if purchase.status.reference.is_some() => Ended::Known(Box::new(purchase)),
            Submitted::NotSent(trouble) => Ended::Failed(match trouble {
                Trouble::Throttled { retry_after } => {
                    let retry_after = retry_after.unwrap_or_else(|| {
                        let snapshot = send.account.paused_for(self.clock.now());
                        snapshot.max(RETRY_AFTER)
                    });
                    CreateError::Throttled {
                        purchase: id,
                        retry_after,
                    }
                }
                Trouble::Unauthorized => CreateError::Unauthorized {
                    purchase: id,
                    retry_after: Duration::from_secs(60),
                },
                Trouble::Unreachable { .. } | Trouble::Unreadable { .. } => {
                    CreateError::Unreachable {
                        purchase: id,
                        retry_after: pause(None),
                    }
                }
            }),
            Submitted::Accepted(_)
            | Submitted::AcceptedWithoutReference
            | Submitted::Refused { .. }
            | Submitted::Taken
            | Submitted::Unclear { .. } => Ended::Known(Box::new(purchase)),
        }
    }

    /// Repeats an unclear send with the same provider key, a few times; then a caller is asked to.
    async fn repeat_with_key(self: &Arc<Self>, send: &Send) {
        let Unclear::RepeatWithKey { .. } = send.account.provider.unclear() else {
            return;
        };
        let id = send.record.purchase.id;
        for repeat in 0..REPEATS {
            let wait = REPEAT_BACKOFF * 2_u32.saturating_pow(repeat);
            tokio::time::sleep(wait / 2 + self.clock.up_to(wait)).await;
            if self.tasks.is_closed() {
                return;
            }
            let deadline = self.clock.now().plus(REPEAT_ADMISSION);
            let Ok(admission) = send.account.admit(Class::Create, deadline).await else {
                continue;
            };
            let Ok(Some(record)) = self.journal.record(id).await else {
                continue;
            };
            let status = &record.purchase.status;
            if status.is_terminal() || status.reference.is_some() {
                return;
            }
            // Every send is preceded by its own commit.
            let begin = Write::BeginAttempt {
                purchase: id,
                expected: status.revision,
                attempt: Attempt {
                    submit_until: self.submit_until(&send.account),
                },
                now: self.clock.now(),
            };
            if !matches!(self.journal.write(begin).await, Ok(Written::Done)) {
                continue;
            }
            let again = Send {
                account: Arc::clone(&send.account),
                record,
                order: Arc::clone(&send.order),
                request: send.request.clone(),
                first: false,
                repeats: false,
            };
            let submitted = self.send(&again, admission).await;
            let settles = match &submitted {
                Submitted::Accepted(_) | Submitted::AcceptedWithoutReference => true,
                // It proves nothing about the first attempt, and would come again.
                Submitted::Refused { .. } | Submitted::Taken => true,
                Submitted::NotSent(_) | Submitted::Unclear { .. } => repeat + 1 == REPEATS,
            };
            if !settles {
                continue;
            }
            while self.settle_submit(&again, &submitted).await.is_err() {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            return;
        }
    }
}

/// Whether a status says that the provider refused the order.
pub(super) fn is_rejected(status: &Status) -> bool {
    status
        .failure
        .as_ref()
        .is_some_and(|failure| failure.reason == crate::purchase::FailureReason::Rejected)
}
