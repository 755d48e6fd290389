//! The knowledge of a purchase at one revision.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Reference, Revision, Timestamp};

/// Defines a closed list of words, each with its stable text in the contract's spelling.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum $name {
            $($(#[$word_doc])* #[serde(rename = $text)] $word,)+
        }

        impl $name {
            /// All words, in the contract's order.
            pub const ALL: &'static [Self] = &[$(Self::$word),+];

            /// The word as the contract spells it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }

            /// The word with this spelling.
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$word),)+ _ => None }
            }
        }
    };
}

words! {
    /// The normalised state of a purchase. The contract's enum explains each.
    State {
        /// The intent is recorded; the provider has not answered yet.
        Pending = "PENDING",
        /// It is not known whether the provider created the purchase.
        OutcomeUnknown = "OUTCOME_UNKNOWN",
        /// Accepted by the provider; nothing has moved yet.
        Created = "CREATED",
        /// The provider waits for the buyer's funds.
        AwaitingPayment = "AWAITING_PAYMENT",
        /// Too little has arrived, and more can still arrive.
        PartiallyPaid = "PARTIALLY_PAID",
        /// Funds are seen and await confirmation.
        Confirming = "CONFIRMING",
        /// The funds are in the provider's hands or in escrow.
        Paid = "PAID",
        /// The provider is delivering.
        Processing = "PROCESSING",
        /// Held for a review.
        InReview = "IN_REVIEW",
        /// Stopped until a person acts.
        OnHold = "ON_HOLD",
        /// Delivered, while the money side is open.
        Delivered = "DELIVERED",
        /// Delivered and paid.
        Completed = "COMPLETED",
        /// Ended without success.
        Failed = "FAILED",
        /// Ended because its time passed.
        Expired = "EXPIRED",
        /// Ended by somebody's wish.
        Canceled = "CANCELED",
        /// The payment bounced.
        Returned = "RETURNED",
        /// A refund is under way.
        RefundPending = "REFUND_PENDING",
        /// Refunded.
        Refunded = "REFUNDED",
        /// Under dispute.
        Disputed = "DISPUTED",
        /// A dispute was closed.
        DisputeSettled = "DISPUTE_SETTLED",
    }
}

words! {
    /// True if the state can still change.
    Finality {
        /// The provider is still at work.
        Open = "OPEN",
        /// The provider calls it an end; a refund or dispute can still follow.
        Terminal = "TERMINAL",
        /// Nothing follows.
        Final = "FINAL",
    }
}

words! {
    /// The source of the evidence for a transition.
    Cause {
        /// The caller's create and the provider's answer to it.
        Create = "CREATE",
        /// A poll, look-up or sweep.
        Poll = "POLL",
        /// A deadline of this service passed.
        Deadline = "DEADLINE",
        /// An operator's decision.
        Operator = "OPERATOR",
    }
}

words! {
    /// The role of an amount.
    AmountRole {
        /// The amount that the buyer was asked for.
        Asked = "ASKED",
        /// The amount that has arrived.
        Paid = "PAID",
        /// The amount that the buyer received.
        Delivered = "DELIVERED",
        /// The amount that went back to the buyer.
        Refunded = "REFUNDED",
        /// The amount that went to the seller.
        ToSeller = "TO_SELLER",
        /// The fee.
        Fee = "FEE",
    }
}

words! {
    /// The comparison of the paid amount with the amount asked for.
    AmountOutcome {
        /// The same.
        Exact = "EXACT",
        /// Less.
        Underpaid = "UNDERPAID",
        /// More.
        Overpaid = "OVERPAID",
    }
}

words! {
    /// Why a person has to look. In the order of precedence: a status carries the first that holds.
    AttentionReason {
        /// It is not known whether the provider created it.
        OutcomeUnknown = "OUTCOME_UNKNOWN",
        /// The provider accepted it without naming it.
        NoReference = "NO_REFERENCE",
        /// Nothing was sent, or sending again is safe: the caller has to repeat its call.
        RepeatWanted = "REPEAT_WANTED",
        /// Its account is no longer configured.
        AccountMissing = "ACCOUNT_MISSING",
        /// The provider does not know its reference.
        NotFoundAtProvider = "NOT_FOUND_AT_PROVIDER",
        /// The provider gives no answer about it that can be read.
        UnreadableAtProvider = "UNREADABLE_AT_PROVIDER",
        /// The provider used a word without a mapping.
        UnmappedStatus = "UNMAPPED_STATUS",
        /// The provider waits for a person on its side or the merchant's.
        ProviderManualAction = "PROVIDER_MANUAL_ACTION",
        /// The provider ignores a purchase that is on chain.
        IgnoredByProvider = "IGNORED_BY_PROVIDER",
        /// The provider took a step outside its own graph.
        UnexpectedTransition = "UNEXPECTED_TRANSITION",
        /// The time to pay has passed without funds.
        PayByTimePassed = "PAY_BY_TIME_PASSED",
        /// So many revisions that further changes are merged.
        TooManyRevisions = "TOO_MANY_REVISIONS",
        /// Open and unchanged for longer than the account expects.
        Stale = "STALE",
    }
}

words! {
    /// Why a purchase ended without success.
    FailureReason {
        /// The card or bank said no.
        Declined = "DECLINED",
        /// The provider refused the order.
        Rejected = "REJECTED",
        /// The goods or funds could not be delivered.
        Undeliverable = "UNDELIVERABLE",
        /// The transaction failed on its network.
        TransactionFailed = "TRANSACTION_FAILED",
        /// Too little was paid in time.
        Underpaid = "UNDERPAID",
        /// Nothing was paid in time.
        TimedOut = "TIMED_OUT",
        /// Somebody canceled it.
        Canceled = "CANCELED",
        /// The provider reports an error.
        Error = "ERROR",
        /// The order was never sent.
        NotSent = "NOT_SENT",
        /// An operator stated that the provider never created it.
        NotCreated = "NOT_CREATED",
    }
}

/// An amount with its role, as exact decimal text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Amount {
    /// Its role.
    pub role: AmountRole,
    /// A plain decimal number, never rounded.
    pub value: String,
    /// Its unit; empty if unknown.
    pub unit: String,
}

/// Something delivered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Item {
    /// The provider's id of it.
    pub id: String,
    /// The provider's word for its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The address of a picture of it.
    pub image_url: String,
}

/// The buyer's next task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BuyerAction {
    /// Go to an address.
    Redirect(Redirect),
    /// Pay to an address.
    Deposit(Deposit),
}

/// An address for the buyer's browser.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Redirect {
    /// The destination.
    pub url: String,
    /// `GET` or `POST`.
    pub method: String,
    /// The form to post.
    pub form_fields: BTreeMap<String, String>,
    /// The time at which it must be forgotten; `None` lets it live as long as its state.
    pub expire_time: Option<Timestamp>,
}

/// An address to pay to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Deposit {
    /// The destination.
    pub address: String,
    /// The network.
    pub network: String,
    /// The amount.
    pub amount: Option<Amount>,
    /// The time until which to pay.
    pub expire_time: Option<Timestamp>,
}

impl BuyerAction {
    /// The time at which it stops making sense; `None` if only the state ends it.
    pub fn expire_time(&self) -> Option<Timestamp> {
        match self {
            Self::Redirect(redirect) => redirect.expire_time,
            Self::Deposit(deposit) => deposit.expire_time,
        }
    }
}

/// A call for a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attention {
    /// The stable word.
    pub reason: AttentionReason,
    /// For a person to read, in this service's words.
    pub note: String,
    /// The time until which acting helps.
    pub deadline_time: Option<Timestamp>,
}

impl AttentionReason {
    /// True if it only says that this service hears no news.
    pub fn is_silence(self) -> bool {
        matches!(
            self,
            Self::Stale
                | Self::NotFoundAtProvider
                | Self::UnreadableAtProvider
                | Self::AccountMissing
        )
    }
}

/// The reason of an end without success.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// The stable word.
    pub reason: FailureReason,
    /// For a person to read, in this service's words.
    pub message: String,
}

/// One committed revision of a purchase's status. It never changes, but for a buyer action that is
/// wiped when its state is left or its time has passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its number.
    pub revision: Revision,
    /// The normalised state.
    pub state: State,
    /// True if that can still change.
    pub finality: Finality,
    /// The provider's main word or code, verbatim; empty before the provider has given one.
    pub code: String,
    /// Further words of the same answers by the provider's field names.
    pub facts: BTreeMap<String, String>,
    /// True if `code` has no mapping, so that `state` is the last one known.
    pub unmapped: bool,
    /// The comparison of the paid amount with the asked one, if the provider tells both.
    pub amount_outcome: Option<AmountOutcome>,
    /// A call for a person.
    pub attention: Option<Attention>,
    /// The reason of an end without success.
    pub failure: Option<Failure>,
    /// Amounts, ordered by role.
    pub amounts: Vec<Amount>,
    /// Hashes of on-chain transactions, oldest first.
    pub transaction_hashes: Vec<String>,
    /// The delivered items.
    pub items: Vec<Item>,
    /// The time of the change by the provider's clock.
    pub provider_change_time: Option<Timestamp>,
    /// The time at which this service first observed this revision.
    pub observe_time: Timestamp,
    /// The provider's own name for the purchase.
    pub reference: Option<Reference>,
    /// The buyer's next task.
    pub buyer_action: Option<BuyerAction>,
}

impl Status {
    /// The status that a purchase begins with: the intent is recorded.
    pub fn pending(now: Timestamp) -> Self {
        Self {
            revision: Revision::FIRST,
            state: State::Pending,
            finality: Finality::Open,
            code: String::new(),
            facts: BTreeMap::new(),
            unmapped: false,
            amount_outcome: None,
            attention: None,
            failure: None,
            amounts: Vec::new(),
            transaction_hashes: Vec::new(),
            items: Vec::new(),
            provider_change_time: None,
            observe_time: now,
            reference: None,
            buyer_action: None,
        }
    }

    /// The reason of its attention, if it has one.
    pub fn attention_reason(&self) -> Option<AttentionReason> {
        self.attention.as_ref().map(|attention| attention.reason)
    }

    /// True if the provider documents it as an end.
    pub fn is_terminal(&self) -> bool {
        self.finality != Finality::Open
    }
}

/// A step from one revision to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The state before; `None` in the first.
    pub from_state: Option<State>,
    /// The status after it.
    pub status: Status,
    /// The source of the evidence.
    pub cause: Cause,
}
