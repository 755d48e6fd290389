//! Budgets of accounts, as a store keeps them for the processes that spend them.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::JournalError;
use crate::purchase::{AccountName, Moment};

/// The spending of an account's budget, as arrival times on the process's monotonic clock: requests go
/// at intervals, and each moves the arrival time of its kind on by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// The arrival time of requests of all kinds.
    pub requests: Moment,
    /// The arrival time of creates.
    pub creates: Moment,
}

/// Arrival times that an earlier process has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBudget {
    /// The arrival times.
    pub arrivals: Arrivals,
    /// The time at which they held: none lay further ahead of it than its pace reaches. A time that
    /// seems to lie further ahead was kept by a clock that was ahead, and is replaced.
    pub as_of: Moment,
}

impl KeptBudget {
    /// Arrival times of an earlier run of the machine, whose moments mean nothing now: spent as far as
    /// they can have been when this run began.
    pub fn before_this_boot() -> Self {
        let latest = Moment::from_millis(i64::MAX);
        Self {
            arrivals: Arrivals {
                requests: latest,
                creates: latest,
            },
            as_of: Moment::default(),
        }
    }
}

/// The distances between requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spacing {
    /// The time from one to the next in the long run; never zero.
    pub interval: Duration,
    /// The most by which requests may go before their time.
    pub tolerance: Duration,
}

/// The purpose of a part of a budget: who makes way for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A create or an adoption. Others leave it the next slot, and some places in flight.
    First,
    /// A poll that fell due. All others leave one slot in ten to the purchase that is overdue for longest.
    Poll,
    /// Everything else.
    Other,
}

/// A wish to spend a part of an account's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taking {
    /// The purpose.
    pub purpose: Purpose,
    /// The arrival times that the process may come to already.
    pub taken: Arrivals,
    /// The arrival times that it has come to once it has spent what it wants.
    pub wanted: Arrivals,
    /// The spacing of requests of all kinds; `None` if they have no limit.
    pub requests: Option<Spacing>,
    /// The slots of all requests that it could use within a second; 0 if it needs none.
    pub slots: u32,
    /// The spacing of creates; `None` if it needs no slot of theirs.
    pub creates: Option<Spacing>,
    /// True if a lower limit holds from now on, and nobody can say how many of the last minute's requests
    /// it would have allowed: a minute is waited for.
    pub owes_minute: bool,
    /// The same of the limit of creates.
    pub creates_owe_minute: bool,
    /// The requests that the process has in flight.
    pub in_flight: u32,
    /// The requests that it wants to have in flight, these among them.
    pub places: u32,
    /// The most that all processes may have in flight together.
    pub places_max: u32,
    /// The longest that a request takes from its beginning.
    pub lasts: Duration,
}

/// A part of a budget: arrival times from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The process's arrival time from now on; `None` if it goes on from its own.
    pub from: Option<Moment>,
    /// The arrival time that it may come to.
    pub until: Moment,
}

/// A store's answer to a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The parts of it that decide.
    pub verdict: Verdict,
    /// The part of the budget of all requests, in place of any before; `None` if it stays as it was.
    pub requests: Option<Span>,
    /// The same of creates.
    pub creates: Option<Span>,
    /// The time until which it may be used. A request goes within a second of its slot.
    pub fresh_until: Moment,
    /// The most by which a slot's time is earlier than it is told here.
    pub late: Duration,
    /// True if the slot, or the one to come, is for the purchase that is overdue for longest.
    pub is_for_longest: bool,
    /// The requests that the process may have in flight.
    pub places: u32,
    /// The lessons of all processes.
    pub heard: Heard,
}

/// The parts of an answer that decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is given.
    Given,
    /// Nothing is given before this time.
    Later(Moment),
    /// Nothing is given: all places are held.
    Busy,
}

/// The lessons of all processes about an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// The provider asked for a pause until then.
    pub paused_until: Option<Moment>,
    /// The provider is not reached, and is not asked until then.
    pub unreachable_until: Option<Moment>,
    /// The limit that throttles without a word have left.
    pub lowered: Option<Lowered>,
}

/// A limit that was lowered since the provider throttles without saying what it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lowered {
    /// Requests per minute.
    pub to: u32,
    /// The requests per minute at which that is over.
    pub full: u32,
}

/// The lessons of this process about an account, and its requests in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The rest of the pause that the provider asks for; zero if there is none.
    pub pause: Duration,
    /// The rest of the time for which a breaker is open; zero if it is not.
    pub unreachable: Duration,
    /// The limit, if it was lowered.
    pub lowered: Option<Lowered>,
    /// The requests that the process has in flight. It wants no further places.
    pub in_flight: u32,
    /// The longest that a request takes from its beginning.
    pub lasts: Duration,
}

/// The budgets of one store, as one of its processes spends them.
///
/// All methods are cancel-safe: a part whose future is dropped may be taken all the same, and is lost.
#[async_trait]
pub trait Budgets: fmt::Debug + Send + Sync {
    /// False in a store that has one process, which counts by itself and tells nobody.
    fn is_shared(&self) -> bool;

    /// The arrival times that an earlier process has left. Nothing if there are none, if they cannot be
    /// read, or if the store counts by itself.
    async fn left(&self, account: &AccountName) -> Option<KeptBudget>;

    /// Takes a part of an account's budget, and perhaps more than is wanted, so that not every request
    /// asks the store.
    ///
    /// # Errors
    /// The store is away. It may have given the part all the same.
    async fn take(&self, account: &AccountName, taking: &Taking) -> Result<Taken, JournalError>;

    /// Tells all other processes what this one has learned. They hear of it with their next take.
    ///
    /// # Errors
    /// The store is away. It may have told it all the same.
    async fn tell(&self, account: &AccountName, word: &Word) -> Result<Heard, JournalError>;
}
