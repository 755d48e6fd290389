//! Create: intent, submit, join, recover, resolve.
//!
//! The intent is durable before anything is sent. A task of this room owns the send, not the call that
//! asked for it. An unclear create is looked up or left to a person, never sent blindly.

mod adopt;
mod attempt;
mod attempts;
mod completion;
mod deadlines;
mod doubt;
mod key_locks;
mod look_up;
mod open_purchases;
mod own_repeat;
mod phase;
mod repeat;
mod resolve;
mod settle;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tillwatch_proto::v1::{ProviderReference, create_purchase_request::Order};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    account::{Account, Accounts, Admission, Class, Settings, Unheard},
    clock::Clock,
    feed::Feed,
    fingerprint::Keyring,
    journal::{Attempt, AttemptId, Fingerprints, Journal, JournalError, Record, Write},
    lifecycle,
    ownership::Tenures,
    progress::Progress,
    provider::Placed,
    purchase::{CallerName, Moment, Purchase, PurchaseId, Status, Timestamp, Transition},
    trace::Creates,
};
use attempt::{Conclusion, Prepared};
use attempts::{Attempts, Sending};
use completion::Completion;
use deadlines::Deadlines;
use doubt::ORIGIN;
use key_locks::{KeyLock, LockedKeys};
use look_up::LookUpCounts;
use open_purchases::OpenPurchases;
pub use resolve::{Resolution, ResolveError};

/// The time that a create waits for budget and breaker.
const ADMISSION_WAIT: Duration = Duration::from_secs(2);
/// The time beyond the account's timeout after which a send counts as unclear.
const SUBMIT_SLACK: Duration = Duration::from_secs(5);
/// The time that an order which was not sent waits for a repeat.
const REPEAT_WANTED_FOR: Duration = Duration::from_secs(86_400);
/// The wait after a failure of the journal, or of a look-up that had no room.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The purchase that a caller wants, with everything checked that can be checked without asking
/// anybody.
#[derive(Debug)]
pub struct NewPurchase {
    /// The caller that wants it.
    pub caller: CallerName,
    /// The caller's key.
    pub key: String,
    /// The account to use.
    pub account: Arc<Account>,
    /// The account's settings by which everything was checked. An order is sent by them to the end.
    pub settings: Arc<Settings>,
    /// The caller's annotations.
    pub labels: BTreeMap<String, String>,
    /// The order as the caller wrote it, for its fingerprints.
    pub order: Arc<Order>,
    /// The purpose that the order expresses.
    pub purpose: Purpose,
    /// The time until which the caller waits; `None` if it waits as long as it takes.
    pub deadline: Option<Moment>,
    /// The most open purchases that the caller may have; 0 stands for no limit.
    pub open_purchases: u32,
}

/// The purpose of an order.
#[derive(Debug)]
pub enum Purpose {
    /// Place this order.
    Place(Arc<dyn Placed>),
    /// Track this purchase, which exists at the provider already.
    Adopt(ProviderReference),
}

/// A create that succeeded.
#[derive(Debug, Clone)]
pub struct Created {
    /// The purchase with its newest status.
    pub purchase: Purchase,
    /// True if this is not the first answer by which the order may exist, given to the call that sent
    /// it.
    pub replayed: bool,
}

/// The reasons for which a create fails.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CreateError {
    /// The key names another order.
    #[error("the idempotency key was used with another order")]
    KeyReused {
        /// The purchase that has the key.
        purchase: PurchaseId,
        /// The names of the fields that differ.
        fields: Vec<String>,
    },
    /// The key that fingerprinted the first order is gone, so the orders cannot be compared.
    #[error("the fingerprint key of the first order is not configured")]
    FingerprintKeyGone,
    /// The provider refused the order.
    #[error("the provider refused the order")]
    Rejected {
        /// The purchase that says so.
        purchase: PurchaseId,
        /// The provider's message, on the call that sent the order.
        message: Option<String>,
    },
    /// The provider was not heard. Nothing was sent, or the provider refused the account before it
    /// looked at the order, or a purchase to adopt could not be read.
    #[error("{why}")]
    Unheard {
        /// The reason.
        why: Unheard,
        /// The purchase that waits for a repeat, if there is one.
        purchase: Option<PurchaseId>,
    },
    /// The provider does not know the reference to adopt.
    #[error("the provider does not know the reference")]
    ReferenceUnknown,
    /// Another caller's purchase has the reference.
    #[error("the reference belongs to another purchase")]
    ReferenceTaken,
    /// The journal could not be read or written.
    #[error("the journal is unavailable")]
    Journal {
        /// The purchase whose answer is being kept, if there is one.
        purchase: Option<PurchaseId>,
    },
    /// The caller's deadline passed while the attempt goes on.
    #[error("the deadline passed before the provider answered")]
    DeadlineExceeded,
    /// The process is about to stop.
    #[error("the server is draining")]
    Draining {
        /// The purchase that the key names, if there is one.
        purchase: Option<PurchaseId>,
    },
    /// The caller has as many open purchases as it may have. Nothing was written.
    #[error("too many open purchases of this caller: it may have {most}")]
    TooManyOpen {
        /// Its limit.
        most: u32,
    },
    /// A defect of this service ended the attempt; what has become of it shows later.
    #[error("the attempt was cut short by a defect of this service")]
    Internal,
}

impl From<JournalError> for CreateError {
    fn from(_: JournalError) -> Self {
        Self::Journal { purchase: None }
    }
}

/// The intake of one process. Cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    journal: Arc<dyn Journal>,
    feed: Feed,
    clock: Clock,
    accounts: Accounts,
    /// Whoever owns an account settles its submits.
    tenures: Tenures,
    keyring: Keyring,
    /// The spans of creates.
    creates: Creates,
    attempts: Attempts,
    /// Attempts and settlements: a drain waits for them.
    tasks: TaskTracker,
    /// Cancelled by a drain: orders that have not been sent are left to the next process.
    stopping: CancellationToken,
    locked_keys: LockedKeys,
    open_purchases: Arc<OpenPurchases>,
    look_ups: LookUpCounts,
    /// The times at which purchases have to be looked at.
    deadlines: Arc<Deadlines>,
    /// The number of times that the clock had been set back when the store was last looked through for
    /// it.
    looked_through: AtomicU64,
    /// Of [`Intake::run`].
    progress: Progress,
}

impl fmt::Debug for Intake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Intake").finish_non_exhaustive()
    }
}

impl Intake {
    /// An intake over these rooms. [`Intake::recover`] and [`Intake::run`] make it whole.
    pub fn new(
        journal: Arc<dyn Journal>,
        feed: Feed,
        clock: Clock,
        (accounts, tenures): (Accounts, Tenures),
        keyring: Keyring,
        creates: Creates,
    ) -> Self {
        let deadlines = Arc::new(Deadlines::default());
        let inner = Arc::new(Inner {
            journal: Arc::clone(&journal),
            feed,
            clock,
            accounts,
            tenures,
            keyring,
            creates,
            attempts: Attempts::default(),
            locked_keys: LockedKeys::default(),
            open_purchases: Arc::default(),
            look_ups: LookUpCounts::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            deadlines,
            looked_through: AtomicU64::new(0),
            progress: Progress::new("intake"),
        });
        let observer = Arc::downgrade(&inner);
        journal.observe(Arc::new(move |committed| {
            if let Some(inner) = observer.upgrade() {
                for one in committed {
                    inner.open_purchases.heard(one);
                    inner.consider(&one.purchase);
                }
            }
        }));
        Self(inner)
    }

    /// Creates a purchase, or answers for the one that the key names already.
    ///
    /// # Errors
    /// See [`CreateError`]. A purchase that it carries is durable.
    ///
    /// # Cancel safety
    /// Once the intent is durable the attempt goes on without the caller.
    pub async fn create(&self, new: NewPurchase) -> Result<Created, CreateError> {
        let deadline = new.deadline;
        let inner = Arc::clone(&self.0);
        let created = async move { inner.create(new).await };
        let Some(deadline) = deadline else {
            return created.await;
        };
        let left = deadline.since(self.0.clock.moment());
        match tokio::time::timeout(left, created).await {
            Ok(result) => result,
            Err(_) => Err(CreateError::DeadlineExceeded),
        }
    }

    /// Settles by hand a purchase that cannot be settled otherwise.
    ///
    /// # Errors
    /// See [`ResolveError`]; nothing is changed then.
    pub async fn resolve(
        &self,
        purchase: PurchaseId,
        expected: crate::purchase::Revision,
        resolution: Resolution,
    ) -> Result<Purchase, ResolveError> {
        self.0.resolve(purchase, expected, resolution).await
    }

    /// Asks the provider now about an unclear create, if it can be asked, and returns once its answer is
    /// committed.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub async fn look_up(&self, purchase: PurchaseId) -> Result<(), Unheard> {
        self.0.look_up_now(purchase).await
    }

    /// Looks through the stored purchases if the wall clock was set back since the last time. Until
    /// then nothing is sent again by a right that time gives.
    ///
    /// # Errors
    /// The journal failed: call this again.
    pub async fn mind_the_clock(&self) -> Result<(), JournalError> {
        match self.0.is_in_doubt() {
            true => self.0.look_through().await,
            false => Ok(()),
        }
    }

    /// Counts the open purchases of each caller, since some caller has a limit for them. Called before
    /// [`Intake::recover`].
    pub fn count_open_purchases(&self) {
        self.0.open_purchases.count();
    }

    /// Takes up an open purchase that an earlier process, or an earlier owner of its account, has left.
    pub fn recover(&self, record: &Record) {
        self.0.open_purchases.recovered(&record.purchase);
        self.0.recovered(record);
    }

    /// Settles each purchase when it becomes due. Runs for ever.
    pub async fn run(&self) {
        self.0.settle_forever().await;
    }

    /// The progress of [`Intake::run`].
    pub fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// Takes no new attempts, settles nothing more, and waits for attempts under way.
    pub async fn drain(&self) {
        self.0.tasks.close();
        self.0.stopping.cancel();
        self.0.deadlines.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    async fn create(self: &Arc<Self>, new: NewPurchase) -> Result<Created, CreateError> {
        // Only the call that may start the key reads it, so that no start can end in between. Duplicates
        // wait for that, and mostly find the record.
        let key_lock = loop {
            match self.lock_key(&new) {
                Ok(key_lock) => break key_lock,
                Err(other) => other.released().await?,
            }
            if let Some(record) = self.known(&new).await? {
                return self.answer_known(record, &new).await;
            }
        };
        if let Some(record) = self.known(&new).await? {
            key_lock.release(Ok(()));
            return self.answer_known(record, &new).await;
        }
        let reserved = (self.open_purchases).begin(&new.caller, &new.key, new.open_purchases);
        let _reservation = match reserved {
            Ok(reservation) => reservation,
            Err(error) => {
                key_lock.release(Err(error.clone()));
                return Err(error);
            }
        };
        let placed = match &new.purpose {
            Purpose::Place(placed) => placed,
            Purpose::Adopt(reference) => {
                let adopted = self.adopt(&new, reference).await;
                key_lock.release(adopted.as_ref().map(drop).map_err(CreateError::clone));
                return adopted;
            }
        };
        let conclusion = self.begin_create(&new, placed, key_lock).await?;
        match Self::concluded(conclusion, false).await? {
            Some(created) => Ok(created),
            None => self.answer_known_key(&new).await,
        }
    }

    /// Asks budget and breaker, then hands the order to a task that no caller can cancel.
    async fn begin_create(
        self: &Arc<Self>,
        new: &NewPurchase,
        placed: &Arc<dyn Placed>,
        key_lock: KeyLock,
    ) -> Result<Completion<Conclusion>, CreateError> {
        let prepared = self.prepare(new, placed.as_ref()).await;
        let (admission, under_way, record, transition) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                key_lock.release(Err(error.clone()));
                return Err(error);
            }
        };
        let begin = Write::Begin {
            record: Box::new(record.clone()),
            transitions: vec![transition],
        };
        let (sending, conclusion) = match Sending::begin(self, record.purchase.id) {
            Ok(begun) => begun,
            // Nobody else has a new id.
            Err(other) => return Ok(other),
        };
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
        Ok(conclusion)
    }

    async fn prepare(
        self: &Arc<Self>,
        new: &NewPurchase,
        placed: &dyn Placed,
    ) -> Result<(Admission, TaskTrackerToken, Record, Transition), CreateError> {
        let (admission, under_way) = self.admitted(new, None).await?;
        let (record, transition) = self.intent(new, placed, self.clock.now())?;
        Ok((admission, under_way, record, transition))
    }

    /// Waits for the right to send. A drain waits for each call that was let in here, until the call's
    /// token is gone.
    async fn admitted(
        &self,
        new: &NewPurchase,
        purchase: Option<PurchaseId>,
    ) -> Result<(Admission, TaskTrackerToken), CreateError> {
        let under_way = self.tasks.token();
        if self.tasks.is_closed() {
            return Err(CreateError::Draining { purchase });
        }
        let deadline = self.admission_deadline(new);
        match new
            .account
            .admit_for(Class::Create, &new.caller, deadline)
            .await
        {
            Ok(admission) => Ok((admission, under_way)),
            Err(refusal) => Err(CreateError::Unheard {
                why: Unheard::Refused(refusal),
                purchase,
            }),
        }
    }

    /// The record that a key names already.
    async fn known(&self, new: &NewPurchase) -> Result<Option<Record>, JournalError> {
        self.journal.record_by_key(&new.caller, &new.key).await
    }

    /// Answers for a key that another call has made known in the meantime.
    async fn answer_known_key(self: &Arc<Self>, new: &NewPurchase) -> Result<Created, CreateError> {
        let known = self.known(new).await?;
        let record = known.ok_or(CreateError::Journal { purchase: None })?;
        self.answer_known(record, new).await
    }

    /// The time until which a create may wait for admission.
    fn admission_deadline(&self, new: &NewPurchase) -> Moment {
        let longest = self.clock.moment().plus(ADMISSION_WAIT);
        new.deadline
            .map_or(longest, |deadline| deadline.min(longest))
    }

    /// The record of a new intent, with its first transition.
    fn intent(
        &self,
        new: &NewPurchase,
        placed: &dyn Placed,
        now: Timestamp,
    ) -> Result<(Record, Transition), CreateError> {
        let id = self.clock.purchase_id();
        let begun = lifecycle::begun(now);
        let mut recovery = placed.recovery(id, self.clock.uuid());
        let origin = self.origin(self.keyring.current(), &new.settings);
        recovery.extend(origin.map(|origin| (ORIGIN.to_owned(), origin)));
        let record = self.record(new, id, &begun.status, now, recovery)?;
        let record = Record {
            attempt: Some(self.new_attempt(&new.settings)),
            first_send_time: Some(now),
            sends: 1,
            ..record
        };
        Ok((record, begun))
    }

    /// The record of a new purchase that nothing has been sent for.
    fn record(
        &self,
        new: &NewPurchase,
        id: PurchaseId,
        status: &Status,
        now: Timestamp,
        recovery: BTreeMap<String, String>,
    ) -> Result<Record, CreateError> {
        let provider = &new.settings.provider;
        let fingerprints = self.fingerprints(new)?;
        Ok(Record {
            purchase: Purchase {
                id,
                account: new.account.name.clone(),
                provider: Arc::from(provider.row().name),
                caller: new.caller.clone(),
                idempotency_key: Arc::from(new.key.as_str()),
                labels: Arc::new(new.labels.clone()),
                create_time: now,
                status: Arc::new(status.clone()),
            },
            fingerprints,
            recovery,
            attempt: None,
            first_send_time: None,
            sends: 0,
            change_time: now,
            resolution_note: None,
        })
    }

    /// The fingerprints of an order, by the key that is used now.
    fn fingerprints(&self, new: &NewPurchase) -> Result<Fingerprints, CreateError> {
        let key_id = self.keyring.current().to_owned();
        let fields = (self.keyring)
            .fingerprints(
                &key_id,
                new.account.name.as_str(),
                &new.order,
                new.settings.provider.decimal_fields(),
            )
            .ok_or(CreateError::FingerprintKeyGone)?;
        Ok(Fingerprints { key_id, fields })
    }

    /// A new attempt, whose send begins now.
    fn new_attempt(&self, settings: &Settings) -> Attempt {
        Attempt {
            by: AttemptId(self.clock.uuid().as_u128()),
            submit_until: self.submit_until(settings),
        }
    }

    /// The time until which a send that begins now may take.
    fn submit_until(&self, settings: &Settings) -> Timestamp {
        self.clock
            .now()
            .plus(settings.policy.timeout + SUBMIT_SLACK)
    }

    /// Waits for an attempt to end, and answers its caller. `None` if another call came first: then
    /// the record of the key has to be read anew.
    async fn concluded(
        conclusion: Completion<Conclusion>,
        replayed: bool,
    ) -> Result<Option<Created>, CreateError> {
        match conclusion.await {
            Ok(Conclusion::Known(purchase)) => Ok(Some(Created {
                purchase: *purchase,
                replayed,
            })),
            Ok(Conclusion::Failed(error)) => Err(error),
            Ok(Conclusion::Elsewhere) => Ok(None),
            // The attempt's task is gone without a word: it panicked.
            Err(_) => Err(CreateError::Internal),
        }
    }
}

#[cfg(test)]
mod tests;
