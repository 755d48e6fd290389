//! The word of a provider, or the reason why it could not be heard.
//!
//! Providers turn answers into these values; `lifecycle` alone decides what they change.

use std::time::Duration;

use crate::purchase::{
    Amount, AmountOutcome, AttentionReason, BuyerAction, Cause, FailureReason, Finality, Item,
    Reference, State, Timestamp, UnreadId,
};

/// The longest word, fact or item text that is kept, in characters.
pub const WORD_CHARACTERS_MAX: usize = 256;
/// The longest reference, hash or address, in bytes: Masumi's own limit for its identifier.
pub const IDENTIFIER_BYTES_MAX: usize = 8_000;
/// The largest buyer action, all of its texts together, in bytes.
pub const BUYER_ACTION_BYTES_MAX: usize = 16 * 1024;

/// The place in which a provider's word puts a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The word has a row in the status table.
    Mapped(State, Finality),
    /// The word has none: the state stays as it is.
    Unmapped,
}

/// One readable answer about one purchase. It speaks only for the fields that the answer has: a
/// `None`, an absent fact and an absent role leave the known value as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The place in which the word puts the purchase.
    pub standing: Standing,
    /// The main word, verbatim.
    pub code: String,
    /// Further words by the provider's field name; `None` if the answer says that there is none.
    pub facts: Vec<(&'static str, Option<String>)>,
    /// The reason of an end without success.
    pub failure: Option<FailureReason>,
    /// The reason why a person has to look, if the answer itself gives one.
    pub attention: Option<AttentionReason>,
    /// The comparison of paid and asked.
    pub amount_outcome: Option<AmountOutcome>,
    /// Amounts; each role that is present replaces all amounts of that role.
    pub amounts: Vec<Amount>,
    /// On-chain hashes, oldest first.
    pub transaction_hashes: Option<Vec<String>>,
    /// The delivered items.
    pub items: Option<Vec<Item>>,
    /// The provider's change clock.
    pub provider_change_time: Option<Timestamp>,
    /// The provider's name for the purchase.
    pub reference: Option<Reference>,
    /// The buyer's task in this state.
    pub buyer_action: Option<BuyerAction>,
    /// The cause, if a deadline of this service, and not the answer alone, makes the state.
    pub cause: Option<Cause>,
    /// The standing by the answer alone, if such a deadline makes the state. It holds if anything has
    /// ever shown that funds moved.
    pub before_deadline: Option<Standing>,
    /// True if the answer shows that funds moved.
    pub funds_moved: bool,
}

impl Observation {
    /// An observation of a word alone.
    pub fn of(code: &str, standing: Standing) -> Self {
        Self {
            standing,
            code: word(code),
            facts: Vec::new(),
            failure: None,
            attention: None,
            amount_outcome: None,
            amounts: Vec::new(),
            transaction_hashes: None,
            items: None,
            provider_change_time: None,
            reference: None,
            buyer_action: None,
            cause: None,
            before_deadline: None,
            funds_moved: false,
        }
    }

    /// The same without a deadline of this service; `None` if no deadline has made it.
    pub fn without_deadline(&self) -> Option<Self> {
        let standing = self.before_deadline?;
        Some(Self {
            standing,
            failure: None,
            cause: None,
            before_deadline: None,
            ..self.clone()
        })
    }
}

/// The provider's answer to a status read or look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A definite answer about the purchase.
    Observed(Box<Observation>),
    /// The provider does not know the reference.
    NotFound,
    /// No definite answer.
    Trouble(Trouble),
}

impl From<Result<Observation, Trouble>> for Answer {
    fn from(read: Result<Observation, Trouble>) -> Self {
        match read {
            Ok(observation) => Self::Observed(Box::new(observation)),
            Err(trouble) => Self::Trouble(trouble),
        }
    }
}

impl Answer {
    /// The observation, or nothing if the provider does not know the reference.
    ///
    /// # Errors
    /// The trouble, if there is no definite answer.
    pub fn said(self) -> Result<Option<Box<Observation>>, Trouble> {
        match self {
            Self::Observed(observation) => Ok(Some(observation)),
            Self::NotFound => Ok(None),
            Self::Trouble(trouble) => Err(trouble),
        }
    }
}

/// The reason why there is no definite answer. None of these ever changes a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Too many requests; for the whole account.
    Throttled {
        /// The provider's Retry-After, if it gave one.
        retry_after: Option<Duration>,
    },
    /// The credentials are refused; for the whole account.
    Unauthorized,
    /// No answer, or a server's error.
    Unreachable {
        /// True if the request may have reached the provider.
        sent: bool,
        /// The event, in this service's words.
        why: String,
    },
    /// A 404 from something that is not the provider's API.
    Nowhere,
    /// An answer that cannot be read.
    Unreadable {
        /// Its fault, in this service's words.
        why: String,
    },
}

impl Trouble {
    /// The trouble of an answer that cannot be read, for this reason.
    pub fn unreadable(why: impl Into<String>) -> Self {
        Self::Unreadable { why: why.into() }
    }

    /// Its kind, in one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Nowhere => "nowhere",
            Self::Unreadable { .. } => "unreadable",
            Self::Throttled { .. } => "throttled",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// The event, in this service's words; nothing if the kind of trouble says it all.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Unreachable { why, .. } | Self::Unreadable { why } => Some(why),
            Self::Nowhere => Some("HTTP 404: the base URL leads nowhere at the provider"),
            Self::Throttled { .. } | Self::Unauthorized => None,
        }
    }
}

/// The end of a submit (promise C3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// The provider has the order and named it.
    Accepted(Box<Observation>),
    /// The provider has the order, but its answer names nothing to ask about.
    AcceptedWithoutReference,
    /// The provider refused this order.
    Refused {
        /// The provider's message as it came, for the caller who sent the order: see
        /// [`crate::provider::told`].
        message: String,
    },
    /// The provider answered that it holds this order already, and the order is not ours.
    Taken,
    /// Nothing was sent, or the account was refused before the order was looked at.
    NotSent(Trouble),
    /// Everything else: it may exist.
    Unclear {
        /// The event, in this service's words.
        why: String,
        /// The answer's name for the order, if that is of no shape that is known here.
        unread_id: Option<UnreadId>,
    },
}

impl Submitted {
    /// An end that leaves the order unclear, for this reason.
    pub fn unclear(why: impl Into<String>) -> Self {
        Self::Unclear {
            why: why.into(),
            unread_id: None,
        }
    }

    /// An answer that accepts the order under an id of no known shape.
    pub fn unread_id(why: impl Into<String>, id: impl Into<String>) -> Self {
        Self::Unclear {
            why: why.into(),
            unread_id: Some(UnreadId::new(id)),
        }
    }
}

/// A word of a provider with the words that can follow it.
type Steps = (&'static str, &'static [&'static str]);

/// The steps that a provider's words can take.
#[derive(Debug, Clone, Copy)]
pub struct Graph {
    /// Each word with the words that can follow it.
    pub steps: &'static [Steps],
    /// True if the provider's own text has all of them, so that another step contradicts it.
    pub is_documented: bool,
}

impl Graph {
    /// Steps that the provider's own text has.
    pub const fn documented(steps: &'static [Steps]) -> Self {
        Self {
            steps,
            is_documented: true,
        }
    }

    /// Steps that follow from samples, an upstream's rules or the meaning of the words.
    pub const fn inferred(steps: &'static [Steps]) -> Self {
        Self {
            steps,
            is_documented: false,
        }
    }

    /// True if `to` can follow `from` in any number of steps. Words outside the graph always can.
    pub fn allows(&self, from: &str, to: &str) -> bool {
        let known = |word: &str| {
            self.steps
                .iter()
                .any(|(node, next)| *node == word || next.contains(&word))
        };
        if from == to || !known(from) || !known(to) {
            return true;
        }
        let mut seen: Vec<&str> = vec![from];
        let mut place = 0;
        while let Some(node) = seen.get(place).copied() {
            place += 1;
            for (_, next) in self.steps.iter().filter(|(word, _)| *word == node) {
                for word in *next {
                    if *word == to {
                        return true;
                    }
                    if !seen.contains(word) {
                        seen.push(word);
                    }
                }
            }
        }
        false
    }
}

/// A provider's text without control characters, cut to [`WORD_CHARACTERS_MAX`] characters.
pub fn word(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(WORD_CHARACTERS_MAX)
        .collect()
}

/// A provider's identifier. It is never cut: an identifier that is too long makes the answer unreadable.
pub fn identifier(field: &str, text: &str) -> Result<String, Trouble> {
    if text.len() > IDENTIFIER_BYTES_MAX {
        return Err(Trouble::unreadable(format!(
            "{field} is longer than {IDENTIFIER_BYTES_MAX} bytes"
        )));
    }
    Ok(text.to_owned())
}

/// A buyer action. It is never cut: an action that is too large makes the answer unreadable.
pub fn buyer_action(action: BuyerAction) -> Result<BuyerAction, Trouble> {
    let bytes = match &action {
        BuyerAction::Redirect(redirect) => {
            let form: usize = redirect
                .form_fields
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum();
            redirect.url.len() + redirect.method.len() + form
        }
        BuyerAction::Deposit(deposit) => {
            let amount = deposit.amount.as_ref();
            let amount = amount.map_or(0, |amount| amount.value.len() + amount.unit.len());
            deposit.address.len() + deposit.network.len() + amount
        }
    };
    if bytes > BUYER_ACTION_BYTES_MAX {
        return Err(Trouble::unreadable(
            "the buyer action is larger than 16 KiB",
        ));
    }
    Ok(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPH: Graph = Graph::inferred(&[("a", &["b"]), ("b", &["c", "a"]), ("d", &[])]);

    #[test]
    fn steps_are_followed_through_skipped_words() {
        let table = [
            ("a", "c", true),
            ("b", "a", true),
            ("c", "a", false),
            ("a", "d", false),
            ("d", "a", false),
            ("c", "c", true),
            ("c", "new", true),
            ("", "a", true),
        ];
        for (from, to, expected) in table {
            assert_eq!(GRAPH.allows(from, to), expected, "{from} → {to}");
        }
    }

    #[test]
    fn a_buyer_action_counts_with_all_of_its_texts() {
        use crate::purchase::{AmountRole, Deposit};
        let deposit = |more: usize| {
            let amount = Amount {
                role: AmountRole::Asked,
                value: "7".repeat(4_000),
                unit: "u".repeat(1_000),
            };
            BuyerAction::Deposit(Deposit {
                address: "a".repeat(BUYER_ACTION_BYTES_MAX - 5_010 + more),
                network: "n".repeat(10),
                amount: Some(amount),
                expire_time: None,
            })
        };
        assert_eq!(buyer_action(deposit(0)), Ok(deposit(0)));
        assert!(buyer_action(deposit(1)).is_err());
    }

    #[test]
    fn words_lose_control_characters_and_length() {
        assert_eq!(word("a\u{0}b\nc\u{7f}"), "abc");
        assert_eq!(word(&"é".repeat(300)).chars().count(), WORD_CHARACTERS_MAX);
    }
}
