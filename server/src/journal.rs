//! The durable log of transitions: one trait, and one behavioural suite that every journal passes.
//!
//! A committer groups writes; readers see nothing that is not committed. Committing is publishing:
//! observers hear of what a process commits before its writers do, and of what others commit soon after.

mod age;
mod alone;
mod attempt;
mod board;
mod budgets;
mod committer;
mod damage;
mod decide;
mod encoding;
mod fence;
mod listing;
mod loss;
pub mod memory;
mod moving;
mod ownership;
pub mod postgres;
mod questions;
mod rules;
mod shared;
mod slots;
pub mod sqlite;
#[cfg(test)]
mod suite;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::SetOnce;

use crate::{
    figures::Seen,
    progress::Progress,
    purchase::{
        AccountName, CallerName, Finality, Purchase, PurchaseId, Reference, Revision, State,
        Timestamp, Transition,
    },
};
pub use alone::{Alone, AloneBoard, AloneBudgets};
pub use attempt::{Attempt, AttemptChange, AttemptId, Expected};
pub use board::{
    BOARD_ROWS_MAX, Board, Outcome, Refresh, Refreshed, SNAPSHOT_BYTES_MAX, Sheet, Told, Wanted,
    Wish,
};
pub use budgets::{
    Arrivals, Budgets, Heard, KeptBudget, Lowered, Purpose, Spacing, Span, Taken, Taking, Verdict,
    Word,
};
use committer::Hears;
pub use committer::Published;
pub use decide::{Decided, Step, decide};
pub use fence::Fence;
pub use loss::{Loss, Witness};
pub use moving::Moved;
pub(crate) use moving::{Movable, move_all};
pub use ownership::{LEASE_LASTS, Lease, Limits, Look, Ownership, Replica, ReplicaId};

/// A place in the order of all commits of one store: 1, 2, 3 …; 0 stands before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// HMACs of an order's fields by field name, made with the fingerprint key `key_id`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprints {
    /// The id of the key that made them.
    pub key_id: String,
    /// One HMAC-SHA-256 per field that is set.
    pub fields: BTreeMap<String, [u8; 32]>,
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
    /// The time at which the order was first sent; `None` if it was never sent (an adopted purchase
    /// has no order), or is known to have reached nobody.
    pub first_send_time: Option<Timestamp>,
    /// The number of sends that were recorded as begun, without those that are known to have reached
    /// nobody.
    pub sends: u32,
    /// The time at which the status last really changed. A revision that only sets or clears an
    /// attention about silence does not count.
    pub change_time: Timestamp,
    /// The note of an operator who settled it by hand.
    pub resolution_note: Option<String>,
}

/// A further key of a purchase: its caller has named the same reference under another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The owner of the key: the purchase's caller.
    pub caller: CallerName,
    /// The key.
    pub key: Arc<str>,
    /// The purchase that it names.
    pub purchase: PurchaseId,
    /// The fingerprints of the request that came with the key.
    pub fingerprints: Fingerprints,
    /// The time at which it was bound. The key is kept from then on as long as a purchase's own key
    /// from its creation on.
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
    /// One more key for a purchase that is no remnant. The key must be new for its caller, remnants
    /// included. From then on it finds the purchase as the purchase's own key does, with its own
    /// fingerprints.
    Bind(Box<Binding>),
    /// One more transition, of a purchase that is not FINAL.
    ///
    /// If it leaves the state, the buyer actions of all revisions before it are wiped.
    Append {
        /// The purchase.
        purchase: PurchaseId,
        /// The right of the account's owner, for a step that its owner alone may make; `None` for a step
        /// that any process may.
        fence: Option<Fence>,
        /// The transition; its status's revision is the guard's next.
        transition: Box<Transition>,
        /// The record must be so still.
        expected: Expected,
        /// The change of the attempt.
        attempt: AttemptChange,
        /// An operator's note, to be kept.
        note: Option<String>,
    },
    /// Records that a submit begins or ends, without a revision, at a purchase that is not FINAL.
    ChangeAttempt {
        /// The purchase.
        purchase: PurchaseId,
        /// The record must be so still.
        expected: Expected,
        /// The change of the attempt.
        change: AttemptChange,
    },
    /// Wipes the buyer actions of all revisions up to `through`. No revision, no guard.
    WipeBuyerActions {
        /// The purchase.
        purchase: PurchaseId,
        /// The last revision to wipe.
        through: Revision,
    },
    /// Keeps a text by a key, for state that must outlive the process and belongs to no purchase: an
    /// account's budget (`budget/<account>`), a sweep's cursor (`sweep/<account>/…`).
    Put {
        /// The key.
        key: String,
        /// The right of the owner of the account that the text is about; `None` for a text that any
        /// process may write.
        fence: Option<Fence>,
        /// The text.
        value: String,
    },
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// It is durable.
    Done,
    /// The key of a `Begin` or `Bind` is taken; this record has it.
    KeyTaken(Box<Record>),
    /// Another purchase of the same account has the reference of a `Begin` or `Append`.
    ReferenceTaken(PurchaseId),
    /// The record is not as expected, or is FINAL, or its revision is not the one before the transition's
    /// (or the purchase is gone: `None`).
    Stale(Option<Box<Record>>),
    /// The account has another owner by now, or none: its lease is not held under the write's fence.
    Fenced,
}

/// The purchases that retention takes away. Both times are of retention's clock ([`Journal::age`]).
#[derive(Debug, Clone)]
pub struct Retirement {
    /// The right to keep house.
    pub fence: Fence,
    /// Purchases that became FINAL before this time become remnants.
    pub finals_before: Timestamp,
    /// Remnants that became FINAL, and whose further keys were bound, before this time are deleted.
    pub remnants_before: Timestamp,
    /// About the most rows to take. A purchase counts as one row and one more for each of its revisions,
    /// a remnant as one.
    pub limit: usize,
}

/// A transition that is durable, as observers and feeds see it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its place in the order of commits.
    pub position: Position,
    /// The purchase, with the status after the step.
    pub purchase: Purchase,
    /// The step. Its status is `purchase.status`.
    pub from_state: Option<State>,
    /// The source of the evidence.
    pub cause: crate::purchase::Cause,
}

/// A choice of purchases; an empty list stands for all.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Filter {
    /// The caller whose purchases are meant; `None` for all callers (the operator's view).
    pub caller: Option<CallerName>,
    /// The accounts.
    pub accounts: Vec<String>,
    /// The providers.
    pub providers: Vec<String>,
    /// The states.
    pub states: Vec<State>,
    /// The finalities.
    pub finalities: Vec<Finality>,
    /// The labels; all must match.
    pub labels: BTreeMap<String, String>,
    /// True if only purchases in need of a person are meant.
    pub needs_attention: bool,
    /// The time at or after which they were created.
    pub created_from: Option<Timestamp>,
    /// The time before which they were created.
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

/// The records that a look through all of them reads at a time.
const PAGE: usize = 1_000;

/// The most purchases that one page of a list looks at. The page may therefore be short, or empty,
/// although the list goes on.
pub(crate) const LOOKED_AT_MAX: usize = 10_000;

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listed {
    /// The purchases that the filter admits, out of the ones that the page looked at; newest first,
    /// without buyer actions.
    pub purchases: Vec<Purchase>,
    /// The last purchase that the page looked at, after which to go on; `None` at the end.
    pub next: Option<Place>,
}

/// The reason why the store could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// It failed now and may work again; nothing of the write is done.
    #[error("the journal is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The answer needs a row that this build cannot read (this column of it). The trouble is this
    /// reader's alone: everything else can be read. Reading again does not help.
    #[error("a row of the journal cannot be read (column {0})")]
    Unreadable(usize),
    /// It cannot be opened (another process has it, its schema is newer, it is damaged), or another
    /// process has taken it over since.
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
    /// The size of the commits that are not in the file yet, in bytes.
    pub log_bytes: u64,
    /// True if a reader keeps these commits from being moved into the file.
    pub log_is_pinned: bool,
    /// The time for which a reader has done so; zero if nobody does.
    pub oldest_reader: Duration,
    /// The number of rows met that cannot be read.
    pub unreadable_rows: u64,
    /// The number of times that the committing task was begun again after a defect.
    pub restarts: u64,
}

/// The key of the text by which [`Journal::retire`] keeps the newest position it has taken.
pub(crate) const FLOOR_KEY: &str = "floor";

/// A listener to commits: called after the commit. Must not block.
pub type Observer = Arc<dyn Fn(&[Arc<Committed>]) + Send + Sync>;

/// The durable log.
///
/// A write that breaks one of its guards changes nothing, and its answer names the guard. Guards are
/// checked in this order: fence; key, reference of a `Begin`; record, reference of an `Append`. A write
/// that contradicts itself (a `Begin` without dense transitions or with the id of another purchase)
/// fails.
///
/// If a commit fails, its writes fail and none of them is done. [`Journal::available`]
/// turns false before they are answered, and true with the next commit that works; the journal itself
/// tries one each second. If a commit is under way for 5 s, or its way to the store is lost, the journal
/// is unavailable too: the commit's own writers wait for its outcome, and later writers are refused at
/// once, with nothing done.
///
/// All methods are cancel-safe: a write whose future is dropped may still be committed, a read has
/// no effect.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync {
    /// Commits one write, grouped with others that have arrived.
    async fn write(&self, write: Write) -> Result<Written, JournalError>;

    /// The record of a purchase; `None` for a remnant.
    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError>;

    /// The record that has this key as its own or a further key, or the record's remnant; with the
    /// fingerprints that came with the key.
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
    /// `after` in that order; at most `limit`, and fewer if the page has looked at so many that
    /// others should have a turn. Ends soon after its future is dropped.
    async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Listed, JournalError>;

    /// Committed transitions after a position and up to [`Journal::head`], in order, of one caller (or
    /// all), at most `limit`, without buyer actions; each with the status of that step. Positions whose purchases have
    /// become remnants are skipped. Also returns the position after which to go on: the head of the
    /// moment if fewer than `limit` were found, else the last transition's position; never less than
    /// `after`.
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

    /// An account's records that are not FINAL, by id, strictly after `after`; at most `limit`.
    async fn open_of(
        &self,
        account: &AccountName,
        mut after: Option<PurchaseId>,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let records = self.open_records(after, limit).await?;
            let Some(last) = records.last() else { break };
            after = Some(last.purchase.id);
            let of_account = |record: &Record| record.purchase.account == *account;
            found.extend(records.into_iter().filter(of_account));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The accounts that have records that are not FINAL, by name.
    async fn open_accounts(&self) -> Result<Vec<AccountName>, JournalError> {
        let (mut found, mut after) = (BTreeSet::new(), None);
        loop {
            let records = self.open_records(after, PAGE).await?;
            let Some(last) = records.last() else {
                return Ok(found.into_iter().collect());
            };
            after = Some(last.purchase.id);
            found.extend(records.into_iter().map(|record| record.purchase.account));
        }
    }

    /// The text kept by a key.
    async fn get(&self, key: &str) -> Result<Option<String>, JournalError>;

    /// Takes purchases and remnants away, the oldest first, until about `limit` rows are gone. Returns the
    /// number of rows; 0 if nothing is left to do, `None` if another process keeps house by now. It is no
    /// event: it has no position, and no observer hears of it.
    async fn retire(&self, retirement: Retirement) -> Result<Option<usize>, JournalError>;

    /// The position below which some transitions are gone, since retention has taken them; 0 while
    /// it has taken none.
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

    /// The progress of the loop that commits, if this journal has such a loop.
    fn progress(&self) -> Option<&Progress> {
        None
    }

    /// The position up to which observers have been told in order, which the reads of [`Journal::tail`]
    /// do not pass. In a store of one process it is the newest position that is committed.
    fn head(&self) -> Position {
        self.published().head()
    }

    /// The newest position that is committed in the store, by whomever.
    async fn newest(&self) -> Result<Position, JournalError> {
        Ok(self.head())
    }

    /// True if the last commit or read worked and none is silent, as a value that can be waited on.
    fn available(&self) -> tokio::sync::watch::Receiver<bool> {
        self.published().available()
    }

    /// Set once this process has lost the store for good, so that nothing can be committed here any more:
    /// all later writes are [`JournalError::Unusable`], and the process should end.
    fn lost(&self) -> Arc<SetOnce<Loss>> {
        Arc::clone(&self.published().lost)
    }

    /// True if the store is on a server: if that is away, it is away from every process alike.
    fn is_on_a_server(&self) -> bool {
        false
    }

    /// The time since which a commit may have been made of which observers were not told: the time that
    /// the commit under way has taken so far, zero if none is under way; in a store that other processes
    /// share, the time since it was last read to its end.
    fn behind(&self) -> Duration {
        self.published().behind()
    }

    /// The writes of each commit, for metrics.
    fn group_sizes(&self) -> Seen {
        self.published().group_sizes()
    }

    /// Transactions committed since this journal was opened, for metrics.
    fn commits(&self) -> u64 {
        self.published().commits()
    }

    /// The times that group commits took, for metrics.
    fn commit_seconds(&self) -> Histogram {
        self.published().commit_seconds()
    }

    /// Tells the journal the time of the slow clock. Purchases that change or become FINAL from now
    /// on, and keys that are bound, count from that time at the earliest, whatever the wall clock
    /// says.
    fn age(&self, now: Timestamp) {
        self.published().age.set(now);
    }

    /// Adds an observer of single purchases. It hears of a later commit of this process before its writer
    /// is answered, and of others' commits as they are read. Of one purchase it hears no older revision
    /// after a newer one, and may hear of one twice; it misses none but those that a newer one has
    /// overtaken. In a store of one process it hears of each commit once, in order.
    fn observe(&self, observer: Observer) {
        self.published().observers.add(Hears::Purchases, observer);
    }

    /// Adds an observer of the whole log. It hears of every later commit once, in order of position. In a
    /// store of one process it hears of it before the writer is answered.
    fn observe_in_order(&self, observer: Observer) {
        self.published().observers.add(Hears::InOrder, observer);
    }

    /// Adds an observer of this process's own commits. It hears of each later one once, before its writer
    /// is answered, and of no other's.
    fn observe_own(&self, observer: Observer) {
        self.published().observers.add(Hears::Own, observer);
    }

    /// Tells observers of others' commits, and of everything in order from [`Journal::head`] on. Runs for
    /// ever, once at a time, as a loop of a process whose observers are all there. In a store of one process
    /// it only waits: its observers hear from their beginning on.
    ///
    /// # Cancel safety
    /// Nothing is lost: the next one goes on from the head.
    async fn follow(&self, progress: &Progress) {
        progress.across(std::future::pending()).await
    }

    /// The state of the store, for metrics.
    fn figures(&self) -> Figures {
        Figures::default()
    }

    /// Commits the writes that have arrived, then closes. Later writes and reads fail.
    async fn close(&self);
}
