//! The purposes of requests, and the reasons why one may not be made now.

use std::sync::Arc;

use super::Settings;
use crate::{
    cadence::{Policy, witness::Witness},
    purchase::Moment,
};

/// The purpose of a request. Creates go first; the others share what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A create, or a repeat of one.
    Create,
    /// An adoption's first read: as a create, but for the limit of creates, which it is none of.
    Adopt,
    /// A look-up of an unclear create: at most a tenth of the budget.
    LookUp,
    /// A read of one open purchase.
    Poll,
    /// A read of one purchase after its end: at most a fifth of the budget.
    AfterTerminal,
    /// A caller's wish to be told now: at most a quarter of the budget.
    Refresh,
    /// A page of many purchases: at most half of the budget, and before single polls.
    Sweep,
}

impl Class {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Adopt,
        Self::LookUp,
        Self::Poll,
        Self::AfterTerminal,
        Self::Refresh,
        Self::Sweep,
    ];

    /// Its place among [`Class::ALL`].
    pub(super) fn place(self) -> usize {
        self as usize
    }

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::LookUp => "look_up",
            Self::Poll => "poll",
            Self::AfterTerminal => "after_terminal",
            Self::Refresh => "refresh",
            Self::Sweep => "sweep",
        }
    }

    /// True if it takes one of the places of long polls. A request that a caller waits for takes
    /// another place, so that a thousand long polls do not stand in its way.
    pub(super) fn is_held(self, policy: &Policy) -> bool {
        policy.long_poll && matches!(self, Self::Poll | Self::AfterTerminal)
    }

    /// True if it falls due by a schedule.
    pub(super) fn is_poll(self) -> bool {
        matches!(self, Self::Poll | Self::AfterTerminal)
    }

    /// True if a caller's create waits for it. Such requests go first.
    pub(super) fn is_first(self) -> bool {
        matches!(self, Self::Create | Self::Adopt)
    }
}

/// A request that was let through: what it is for and about.
#[derive(Debug, Clone, Copy)]
pub struct Inquiry {
    pub(super) class: Class,
    /// The number of its subject, any one of its own.
    pub(super) subject: u64,
    /// Its number: requests are counted as they are let through.
    pub(super) number: u64,
    /// True if what it met is its purchase's own trouble, once that is judged.
    pub(super) own: Option<bool>,
}

impl Inquiry {
    /// The witness of the trouble that it meets.
    pub(super) fn witness(&self) -> Witness {
        match self.class {
            Class::Poll | Class::Refresh => Witness::Open(self.subject),
            Class::Create | Class::Adopt => Witness::Create(self.subject),
            Class::LookUp | Class::AfterTerminal | Class::Sweep => Witness::Other(self.subject),
        }
    }
}

/// The reasons for which a request may not be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The budget is spent, or the provider asked for a pause.
    #[error("the account is throttled")]
    Throttled {
        /// When to try again.
        retry_at: Moment,
    },
    /// As many requests are in flight as may be.
    #[error("the account has as many requests under way as it may have")]
    Busy {
        /// When to look again, if no answer comes before.
        retry_at: Moment,
    },
    /// The breaker is open.
    #[error("the provider was not reached by the last requests")]
    Unreachable {
        /// When to try again.
        retry_at: Moment,
    },
    /// The credentials are refused.
    #[error("the provider refuses the account's credentials")]
    Unauthorized {
        /// When to try again.
        retry_at: Moment,
    },
    /// The store could not keep what would be spent.
    #[error("the journal is unavailable")]
    BudgetUnkept {
        /// When to try again.
        retry_at: Moment,
    },
}

impl Refusal {
    /// When to try again.
    pub fn retry_at(self) -> Moment {
        match self {
            Self::Throttled { retry_at }
            | Self::Busy { retry_at }
            | Self::Unreachable { retry_at }
            | Self::Unauthorized { retry_at }
            | Self::BudgetUnkept { retry_at } => retry_at,
        }
    }
}

/// A grant of [`Live::admit`].
pub(super) struct Granted {
    /// The settings that the request is made by.
    pub(super) settings: Arc<Settings>,
    /// True if it takes one of the places of long polls.
    pub(super) held: bool,
    /// The request's number.
    pub(super) number: u64,
    /// True if it shows if the account is well again.
    pub(super) is_probe: bool,
    /// True if it is for the purchase that is overdue for longest.
    pub(super) longest_due: bool,
    /// The number of further polls that could be made at once.
    pub(super) more: u32,
    /// The last time at which it may go by its slot.
    pub(super) goes_by: Moment,
}

/// The reasons for which [`Live::admit`] does not admit.
pub(super) enum Denied {
    /// Not now.
    Refused(Refusal),
    /// A part of the budget must be taken first.
    Untaken,
}
