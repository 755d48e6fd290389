//! The board of a store: the words that its processes leave for each other about purchases and accounts.
//!
//! Nothing on it is kept for long, and the store may lose all of it at once. A process notices that by its
//! own mark, and puts everything again. No promise about a purchase rests on it.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

use super::{JournalError, ReplicaId};
use crate::purchase::{AccountName, Moment, PurchaseId};

/// The most purchases of one call.
pub const BOARD_ROWS_MAX: usize = 5_000;
/// The longest snapshot of an account, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 8_192;
/// The time for which a snapshot is shown after it was put.
pub(super) const SHOWN_FOR: Duration = Duration::from_secs(30);
/// The time after which things that nobody needs are taken away.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(60);

/// A process's wish to hear of a purchase whose account another process owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The purchase.
    pub purchase: PurchaseId,
    /// Its account.
    pub account: AccountName,
    /// The streams that watch it.
    pub watchers: u32,
    /// A refresh that somebody waits for.
    pub refresh: Refresh,
    /// True if nobody wishes it any more.
    pub is_over: bool,
}

/// A wish's refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Nobody waits for one.
    None,
    /// Somebody waits for one from now on: it has the number of the wish.
    New,
    /// The one with this number is waited for.
    Waits(u64),
}

/// A wish, as the owner of its account reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The purchase.
    pub purchase: PurchaseId,
    /// Its account.
    pub account: AccountName,
    /// The process that wishes it.
    pub replica: ReplicaId,
    /// The streams that watch it there.
    pub watchers: u32,
    /// The number of the refresh that is waited for there.
    pub refresh: Option<u64>,
    /// True if nobody wishes it any more.
    pub is_over: bool,
    /// The number of the wish. Later wishes, of whichever process, have greater numbers.
    pub number: u64,
}

/// The wishes of other processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sheet {
    /// Each process's mark. Its wishes with lower numbers are over, and so are those of a process that is
    /// not here.
    pub marks: BTreeMap<ReplicaId, u64>,
    /// Wishes by their numbers.
    pub wanted: Vec<Wanted>,
}

/// The words of an account's owner about one of its purchases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The purchase.
    pub purchase: PurchaseId,
    /// The arrival of the provider's last readable answer.
    pub answered: Option<Moment>,
    /// The next poll; `None` if it is polled no more.
    pub next_poll: Option<Moment>,
    /// The moment since which answers are held back.
    pub held_back_since: Option<Moment>,
    /// Polls in a row without a readable answer.
    pub failures: u32,
    /// The last refresh that was answered.
    pub refreshed: Option<Refreshed>,
}

/// The end of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// Its number. It is the end of all with lower numbers, too.
    pub number: u64,
    /// Its outcome.
    pub outcome: Outcome,
    /// The time to try again, if there is such a time.
    pub retry_at: Option<Moment>,
}

/// The outcome of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that the provider said is committed.
    Heard,
    /// The account's budget or the provider allows no request now.
    Throttled,
    /// The provider refuses the account's credentials.
    Unauthorized,
    /// The provider cannot be reached, or leads nowhere.
    Unreachable,
    /// The provider's answer cannot be read.
    Unreadable,
    /// The owner could not use the journal.
    JournalAway,
    /// The account is not configured.
    AccountMissing,
    /// The owner gives the account away.
    NotOwned,
}

impl Outcome {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Heard, "heard"),
        (Self::Throttled, "throttled"),
        (Self::Unauthorized, "unauthorized"),
        (Self::Unreachable, "unreachable"),
        (Self::Unreadable, "unreadable"),
        (Self::JournalAway, "journal_away"),
        (Self::AccountMissing, "account_missing"),
        (Self::NotOwned, "not_owned"),
    ];

    /// Its word in a store.
    pub(super) fn word(self) -> &'static str {
        let known = Self::ALL.iter().find(|(outcome, _)| *outcome == self);
        known.map_or("not_owned", |(_, word)| word)
    }

    /// The outcome of a word. A word that this build does not know says nothing: asking again may help.
    pub(super) fn of_word(word: &str) -> Self {
        let known = Self::ALL.iter().find(|(_, known)| *known == word);
        known.map_or(Self::NotOwned, |(outcome, _)| *outcome)
    }
}

/// The board of one store, as one of its processes uses it.
///
/// A call has at most [`BOARD_ROWS_MAX`] purchases or accounts, each of them once. All methods are
/// cancel-safe: whatever is dropped may still be done.
#[async_trait]
pub trait Board: fmt::Debug + Send + Sync {
    /// False in a store that has one process, which has nobody to tell.
    fn is_shared(&self) -> bool;

    /// Sets this process's mark anew: all of its wishes so far are over, also those that are on their way.
    /// Returns the mark.
    ///
    /// # Errors
    /// The store is away. It may have set the mark all the same.
    async fn mark(&self) -> Result<u64, JournalError>;

    /// Puts wishes in the place of earlier ones of this process about the same purchases, and shows that
    /// the process lives. Returns their numbers, in their order; `None`, with nothing done, if the mark is
    /// no longer there: the board was emptied, or set anew.
    ///
    /// # Errors
    /// The store is away. It may have put them all the same.
    async fn wish(&self, mark: u64, wishes: &[Wish]) -> Result<Option<Vec<u64>>, JournalError>;

    /// Reads the wishes of other processes about purchases of these accounts, of each after a number, in
    /// order of their numbers; at most `limit`.
    ///
    /// # Errors
    /// The store is away.
    async fn wanted(
        &self,
        after: &[(AccountName, u64)],
        limit: usize,
    ) -> Result<Sheet, JournalError>;

    /// Puts words about purchases in the place of earlier ones. The end of a later refresh stays.
    ///
    /// # Errors
    /// The store is away. It may have put them all the same.
    async fn tell(&self, told: &[Told]) -> Result<(), JournalError>;

    /// Reads the words about these purchases, as far as there are any.
    ///
    /// # Errors
    /// The store is away.
    async fn told(&self, purchases: &[PurchaseId]) -> Result<Vec<Told>, JournalError>;

    /// Puts the snapshots of accounts in the place of earlier ones. One that is longer than
    /// [`SNAPSHOT_BYTES_MAX`] is left out.
    ///
    /// # Errors
    /// The store is away. It may have put them all the same.
    async fn show(&self, snapshots: &[(AccountName, String)]) -> Result<(), JournalError>;

    /// Reads the snapshots of these accounts that were put within the last 30 s.
    ///
    /// # Errors
    /// The store is away.
    async fn shown(
        &self,
        accounts: &[AccountName],
    ) -> Result<Vec<(AccountName, String)>, JournalError>;

    /// Takes away what is a minute old and nobody needs: wishes that are over, marks and wishes of
    /// processes that do not show themselves any more, and words that nobody wishes. Returns the number of
    /// rows that it took; at most [`BOARD_ROWS_MAX`] of each kind.
    ///
    /// # Errors
    /// The store is away. It may have done it all the same.
    async fn tidy(&self) -> Result<usize, JournalError>;
}
