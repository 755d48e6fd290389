//! The durable log of transitions: one trait, and one behavioural suite that every journal passes.
//!
//! Writes are grouped by a committer; what is visible to a reader is committed. Committing is
//! publishing: observers hear of each committed transition in commit order, before the writer does.

mod age;
mod committer;
mod decide;
pub mod memory;
mod rules;
pub mod sqlite;
#[cfg(test)]
mod suite;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;

use crate::purchase::{
    AccountName, CallerName, Finality, Purchase, PurchaseId, Reference, Revision, State, Timestamp,
    Transition,
};
pub use committer::Published;
pub use decide::{Decided, decide};

/// A place in the order of all commits of one store: 1, 2, 3 …; 0 stands before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// HMACs of an order's fields by field name, made with the fingerprint key `key_id`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprints {
    /// Which key made them.
    pub key_id: String,
    /// One HMAC-SHA-256 per field that is set.
    pub fields: BTreeMap<String, [u8; 32]>,
}

/// An attempt to submit that is recorded as begun and not as ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// From then on it may be settled as unclear.
    pub submit_until: Timestamp,
}

/// Everything that is kept of one purchase, besides its transitions.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The purchase with its newest status.
    pub purchase: Purchase,
    /// The order's fingerprints.
    pub fingerprints: Fingerprints,
    /// The order's recovery facts.
    pub recovery: BTreeMap<String, String>,
    /// The attempt under way, if any.
    pub attempt: Option<Attempt>,
    /// When the order was first sent; `None` where it never was, as with an adopted one, or is known
    /// to have reached nobody.
    pub first_send_time: Option<Timestamp>,
    /// When the newest revision was observed that changed more than its STALE attention: one that
    /// has that attention, or follows one that has, and is equal in all but attention and stamps
    /// leaves it.
    pub change_time: Timestamp,
    /// The note of an operator who settled it by hand.
    pub resolution_note: Option<String>,
}

/// A further key of a purchase: its caller has named the same reference under another key again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Whose key it is: the purchase's caller.
    pub caller: CallerName,
    /// The key.
    pub key: Arc<str>,
    /// The purchase that it names.
    pub purchase: PurchaseId,
    /// Of what came with it.
    pub fingerprints: Fingerprints,
    /// When it was bound. It is kept as long from then on as a purchase's own key from its creation
    /// on.
    pub bind_time: Timestamp,
}

/// The rest of a purchase whose retention has passed: enough to answer a repeat of its key.
///
/// Its status has no buyer action.
pub type Remnant = Record;

/// A change to the store. All guards are checked and all parts applied in one transaction.
#[derive(Debug, Clone)]
pub enum Write {
    /// A new purchase with its first transitions (revisions from 1, dense): one for an intent, two
    /// for a purchase that was adopted. Its key must be new for its caller, remnants included, and
    /// its reference, if it has one, new for its account, remnants not included.
    Begin {
        /// Everything known of it; `purchase.status` is the last transition's status.
        record: Box<Record>,
        /// Its transitions.
        transitions: Vec<Transition>,
    },
    /// One more key for a purchase that is there, no remnant. It must be new for its caller, remnants
    /// included. From then on it is found as the purchase's own key is, with its own fingerprints.
    Bind(Box<Binding>),
    /// One more transition, of a purchase that is not FINAL.
    ///
    /// If it leaves the state, the buyer actions of all revisions before it are wiped.
    Append {
        /// Whose.
        purchase: PurchaseId,
        /// The transition; its status's revision is the guard's next.
        transition: Box<Transition>,
        /// The newest revision must be this one.
        expected: Revision,
        /// The change of the attempt.
        attempt: AttemptChange,
        /// An operator's note, to be kept.
        note: Option<String>,
    },
    /// Records that a submit begins or ends, without a revision, at a purchase that is not FINAL.
    ChangeAttempt {
        /// Whose.
        purchase: PurchaseId,
        /// The newest revision must be this one.
        expected: Revision,
        /// The change of the attempt.
        change: AttemptChange,
    },
    /// Wipes the buyer actions of all revisions up to `through`. No revision, no guard.
    WipeBuyerActions {
        /// Whose.
        purchase: PurchaseId,
        /// The last revision to wipe.
        through: Revision,
    },
    /// Keeps a text by a key, for what must outlive the process and is no purchase: an account's
    /// budget (`budget/<account>`), a sweep's cursor (`sweep/<account>/…`).
    Put {
        /// The key.
        key: String,
        /// The text.
        value: String,
    },
}

/// The effect of a write on the attempt under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptChange {
    /// Leaves it.
    Keep,
    /// Ends it.
    End,
    /// Ends it, and with it every right to send the order again that time gives: the provider has
    /// accepted it. The first send becomes the earliest that there is.
    Accepted,
    /// Ends it, and forgets the first send: nothing has been sent.
    Unsent,
    /// Leaves it; the time of the first send, where there is one, is not to be believed, and becomes
    /// the earliest that there is: whatever it allows for some time is over.
    Undate,
    /// Begins one that is sent at `now`.
    Begin {
        /// The attempt.
        attempt: Attempt,
        /// When it is sent, kept as the first send where none is known yet.
        now: Timestamp,
    },
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It is durable.
    Done,
    /// A `Begin` or `Bind` met its key: this is the record that has it.
    KeyTaken(Box<Record>),
    /// A `Begin` or `Append` met its reference at another purchase of the same account.
    ReferenceTaken(PurchaseId),
    /// The newest revision is not the expected one, or is FINAL, or is not the one before the
    /// transition's (or the purchase is gone: `None`).
    Stale(Option<Box<Record>>),
}

/// A transition that is durable, as observers and feeds see it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its place in the order of commits.
    pub position: Position,
    /// Whose, with the status after the step.
    pub purchase: Purchase,
    /// The step. Its status is `purchase.status`.
    pub from_state: Option<State>,
    /// The source of the evidence.
    pub cause: crate::purchase::Cause,
}

/// Which purchases are meant; an empty list stands for all.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Filter {
    /// Whose; `None` for everybody's (the operator's view).
    pub caller: Option<CallerName>,
    /// Of these accounts.
    pub accounts: Vec<String>,
    /// Of these providers.
    pub providers: Vec<String>,
    /// In these states.
    pub states: Vec<State>,
    /// With these finalities.
    pub finalities: Vec<Finality>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only those in need of a person.
    pub needs_attention: bool,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
}

impl Filter {
    /// True if a purchase with its status is meant.
    pub fn admits(&self, purchase: &Purchase) -> bool {
        let among =
            |list: &[String], text: &str| list.is_empty() || list.iter().any(|one| one == text);
        let status = &purchase.status;
        self.caller
            .as_ref()
            .is_none_or(|caller| *caller == purchase.caller)
            && among(&self.accounts, purchase.account.as_str())
            && among(&self.providers, &purchase.provider)
            && (self.states.is_empty() || self.states.contains(&status.state))
            && (self.finalities.is_empty() || self.finalities.contains(&status.finality))
            && (self.labels.iter()).all(|(key, value)| purchase.labels.get(key) == Some(value))
            && (!self.needs_attention || status.attention.is_some())
            && self
                .created_from
                .is_none_or(|from| purchase.create_time >= from)
            && self
                .created_before
                .is_none_or(|before| purchase.create_time < before)
    }
}

/// A place in the order of lists: newest first, by create time, then by id.
pub type Place = (Timestamp, PurchaseId);

/// Purchases that one page of a list looks at; it may be short, or empty, and go on.
pub(crate) const LOOKED_AT_MAX: usize = 10_000;

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listed {
    /// The purchases that the filter admits of those that were looked at, newest first, without buyer
    /// actions.
    pub purchases: Vec<Purchase>,
    /// The last that was looked at, after which to go on; `None` at the end.
    pub next: Option<Place>,
}

/// Why the store could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// It failed now and may work again; nothing of the write is done.
    #[error("the journal is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// What was asked for has a row that this build cannot read (this column of it): its reader's
    /// trouble alone. Reading again does not help; everything else can be read.
    #[error("a row of the journal cannot be read (column {0})")]
    Unreadable(usize),
    /// It cannot be opened: another process has it, its schema is newer, it is damaged.
    #[error("the journal cannot be opened: {0}")]
    Unusable(Arc<str>),
}

impl JournalError {
    /// It failed now, for this reason.
    pub fn unavailable(why: impl fmt::Display) -> Self {
        Self::Unavailable(Arc::from(why.to_string()))
    }

    /// It cannot be opened, for this reason.
    pub fn unusable(why: impl fmt::Display) -> Self {
        Self::Unusable(Arc::from(why.to_string()))
    }
}

/// The state of a store, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// The size of what is committed and not in the file yet, in bytes.
    pub log_bytes: u64,
    /// True if a reader keeps that from being moved there.
    pub log_is_pinned: bool,
    /// The number of rows met that cannot be read.
    pub unreadable_rows: u64,
    /// The number of times that the committing task was begun again after a defect.
    pub restarts: u64,
}

/// The key of the text by which [`Journal::retire`] keeps the newest position it has taken.
pub(crate) const FLOOR_KEY: &str = "floor";

/// A listener to commits: called in commit order, after the commit and before its writer is
/// answered. Must not block.
pub type Observer = Arc<dyn Fn(&[Arc<Committed>]) + Send + Sync>;

/// The durable log.
///
/// A write that meets one of its guards changes nothing and is answered with what it met, in this
/// order: key, reference of a `Begin`; revision, reference of an `Append`. A write that contradicts
/// itself (a `Begin` without dense transitions or with the id of another purchase) fails. A commit
/// that fails fails all writes of its group and none of them is done; [`Journal::available`] turns
/// false before they are answered, and true with the next commit that works, for which the journal
/// itself tries once a second. A commit that is under way for 5 s makes the journal unavailable too:
/// its own writers wait for what becomes of it, later ones are refused at once, and nothing of theirs
/// is done.
///
/// All methods are cancel-safe: a write whose future is dropped may still be committed, a read has
/// no effect.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync {
    /// Commits one write, grouped with others that have arrived.
    async fn write(&self, write: Write) -> Result<Written, JournalError>;

    /// The record of a purchase; `None` for a remnant.
    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError>;

    /// The record that has this key as its own or a further one, or what retention has left of it;
    /// with the fingerprints that came with the key.
    async fn record_by_key(
        &self,
        caller: &CallerName,
        key: &str,
    ) -> Result<Option<Record>, JournalError>;

    /// The purchase that tracks this reference of this account, if any.
    async fn purchase_by_reference(
        &self,
        account: &AccountName,
        reference: &Reference,
    ) -> Result<Option<PurchaseId>, JournalError>;

    /// A purchase's transitions after a revision, in order, at most `limit`, with the buyer actions
    /// that are not wiped.
    async fn transitions(
        &self,
        purchase: PurchaseId,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Transition>, JournalError>;

    /// Purchases that a filter admits, newest first (by create time, then id), strictly after
    /// `after` in that order; at most `limit`, and fewer where so many were looked at that others
    /// should have a turn. Ends soon after its future is dropped.
    async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Listed, JournalError>;

    /// Committed transitions after a position, in order, of one caller (or all), at most `limit`,
    /// without buyer actions; each with the status of that step. Returns the position that was
    /// searched through as well, which is where to go on: the head at the time where fewer than
    /// `limit` were found, else the last one's position; never less than `after`. Positions whose
    /// purchases have become remnants are skipped.
    async fn tail(
        &self,
        caller: Option<&CallerName>,
        after: Position,
        limit: usize,
    ) -> Result<(Vec<Arc<Committed>>, Position), JournalError>;

    /// Records that are not FINAL, by id, strictly after `after`; at most `limit`.
    async fn open_records(
        &self,
        after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError>;

    /// The text kept by a key.
    async fn get(&self, key: &str) -> Result<Option<String>, JournalError>;

    /// Makes remnants of purchases that have been FINAL since before `finals_before`, and deletes
    /// remnants of purchases that have been FINAL, and whose further keys were bound, before
    /// `remnants_before`, by retention's clock ([`Journal::age`]); the oldest first, until about
    /// `limit` rows are gone: a purchase counts one and one more for each of its revisions, a remnant
    /// one. Returns how many rows; 0 where nothing is left to do. Neither is an event: no position, no
    /// observer.
    async fn retire(
        &self,
        finals_before: Timestamp,
        remnants_before: Timestamp,
        limit: usize,
    ) -> Result<usize, JournalError>;

    /// The position below which transitions are no longer all here, since retention has taken
    /// some; 0 while it has taken none.
    async fn floor(&self) -> Result<Position, JournalError> {
        let kept = self.get(FLOOR_KEY).await?;
        Ok(Position(
            kept.and_then(|text| text.parse().ok()).unwrap_or(0),
        ))
    }

    /// A random text that is the same for the life of the store, so that tokens of another store
    /// are recognised.
    fn epoch(&self) -> &str;

    /// Everything that this opening publishes of its commits.
    fn published(&self) -> &Published;

    /// The newest position that is committed.
    fn head(&self) -> Position {
        self.published().head()
    }

    /// True if the last commit or read worked and none is silent, as a value that can be waited on.
    fn available(&self) -> tokio::sync::watch::Receiver<bool> {
        self.published().available()
    }

    /// The time that the commit under way has taken so far; zero if none is under way.
    fn silent_for(&self) -> Duration {
        self.published().under_way.lasts()
    }

    /// Transactions committed since this journal was opened, for metrics.
    fn commits(&self) -> u64 {
        self.published().commits()
    }

    /// The times that group commits took, for metrics.
    fn commit_seconds(&self) -> Histogram {
        self.published().commit_seconds()
    }

    /// Tells the journal what the slow clock says: what changes, becomes FINAL or is bound from now on
    /// counts from then at the earliest, whatever the wall clock says.
    fn age(&self, now: Timestamp) {
        self.published().age.set(now);
    }

    /// Adds an observer; it hears of every later commit.
    fn observe(&self, observer: Observer) {
        self.published().observers.add(observer);
    }

    /// The state of the store, for metrics.
    fn figures(&self) -> Figures {
        Figures::default()
    }

    /// Commits what has arrived, then closes. Later writes and reads fail.
    async fn close(&self);
}
