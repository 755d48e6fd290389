//! An observation laid over the known status.

use std::collections::BTreeMap;

use super::{NOT_EXPECTED, attempt::UNREAD_ID, attention, step};
use crate::{
    observation::{Graph, Observation, Standing},
    purchase::{
        Amount, AmountRole, Attention, AttentionReason, BuyerAction, Cause, Decimal, Failure,
        FailureReason, Finality, State, Status, Timestamp, Transition,
    },
};

/// The most hashes of one purchase. Ours: a status stays small whatever answers show.
const HASHES_MAX: usize = 1_000;

/// The change by an observation; `None` if it brings no news.
///
/// The provider is the truth: a step outside its graph is applied, with attention.
pub fn observed(
    current: &Status,
    observation: &Observation,
    graph: Graph,
    cause: Cause,
    now: Timestamp,
) -> Option<Transition> {
    let unended = observation
        .without_deadline()
        .filter(|_| shows_funds(current));
    let observation = unended.as_ref().unwrap_or(observation);
    let mut next = current.clone();
    let (state, finality) = match observation.standing {
        Standing::Mapped(state, finality) => (state, finality),
        // A first answer proves that the purchase exists, and no more.
        Standing::Unmapped if !is_answered(current.state) => (State::Created, Finality::Open),
        Standing::Unmapped => (current.state, current.finality),
    };
    next.state = state;
    next.finality = finality;
    next.unmapped = observation.standing == Standing::Unmapped;
    next.code.clone_from(&observation.code);
    if !next.unmapped {
        next.failure = observation.failure.map(failure);
    }
    if !is_answered(current.state) {
        // The provider has answered about a name that it knows.
        next.facts.remove(UNREAD_ID);
    }
    for (name, value) in &observation.facts {
        match value {
            Some(value) => drop(next.facts.insert((*name).to_owned(), value.clone())),
            None => drop(next.facts.remove(*name)),
        }
    }
    next.amounts = amounts(&current.amounts, &observation.amounts);
    next.amount_outcome = observation.amount_outcome.or(current.amount_outcome);
    if let Some(hashes) = &observation.transaction_hashes {
        // An answer may show only its newest transaction: a hash that was seen once stays, in its place.
        let new = hashes
            .iter()
            .filter(|hash| !current.transaction_hashes.contains(hash))
            .take(HASHES_MAX.saturating_sub(current.transaction_hashes.len()));
        next.transaction_hashes.extend(new.cloned());
    }
    if let Some(items) = &observation.items {
        next.items.clone_from(items);
    }
    next.provider_change_time = observation
        .provider_change_time
        .or(current.provider_change_time);
    next.reference = observation
        .reference
        .clone()
        .or_else(|| current.reference.clone());
    // An action whose time has passed is wiped, and wiping is no revision. So it counts as absent here,
    // also if it is still stored or the provider goes on showing it.
    let lives = |action: &BuyerAction| action.expire_time().is_none_or(|time| now < time);
    let mut known = current.clone();
    known.buyer_action = known.buyer_action.filter(lives);
    next.buyer_action = match observation.buyer_action.clone() {
        Some(action) => Some(action).filter(lives),
        None if state == current.state => known.buyer_action.clone(),
        None => None,
    };
    next.attention = attention_of(&known, &next, observation, graph);
    if !differs(&known, &next) {
        return None;
    }
    step(current, next, observation.cause.unwrap_or(cause), now)
}

/// True if the provider has answered about a purchase in this state.
pub fn is_answered(state: State) -> bool {
    !matches!(state, State::Pending | State::OutcomeUnknown)
}

/// True if the status shows that funds moved: no deadline of this service ends the purchase then.
fn shows_funds(status: &Status) -> bool {
    use AmountRole::{Delivered, Fee, Paid, Refunded, ToSeller};
    let moved = |amount: &Amount| {
        let is_zero = Decimal::parse(&amount.value).is_ok_and(|value| !value.is_positive());
        matches!(amount.role, Paid | Delivered | Refunded | ToSeller | Fee) && !is_zero
    };
    let is_beyond = matches!(
        status.state,
        State::PartiallyPaid
            | State::Paid
            | State::Processing
            | State::Delivered
            | State::Completed
            | State::Returned
            | State::RefundPending
            | State::Refunded
            | State::Disputed
            | State::DisputeSettled
    );
    is_beyond || !status.transaction_hashes.is_empty() || status.amounts.iter().any(moved)
}

/// The first reason for attention that holds after an observation.
fn attention_of(
    current: &Status,
    next: &Status,
    observation: &Observation,
    graph: Graph,
) -> Option<Attention> {
    let held = current.attention_reason();
    let same_word = current.code == observation.code;
    let unexpected = match held {
        // The attention stays as long as the word: a person may not have seen it yet.
        Some(AttentionReason::UnexpectedTransition) if same_word => true,
        _ => !graph.allows(&current.code, &observation.code),
    };
    // A call for a person says more than the newness of the word, which `unmapped` says too.
    let is_called = observation.attention == Some(AttentionReason::ProviderManualAction);
    let is_new = next.unmapped && !is_called;
    let mut reasons = vec![
        is_new.then_some(AttentionReason::UnmappedStatus),
        observation.attention,
        unexpected.then_some(AttentionReason::UnexpectedTransition),
        held.filter(|reason| *reason == AttentionReason::TooManyRevisions),
    ];
    let mut unattended = next.clone();
    unattended.attention.clone_from(&current.attention);
    if held == Some(AttentionReason::Stale) && !differs(current, &unattended) {
        reasons.push(Some(AttentionReason::Stale));
    }
    let reason = reasons.into_iter().flatten().min()?;
    let mut attention = attention(current, reason, None);
    if reason == AttentionReason::UnexpectedTransition && !graph.is_documented {
        attention.note = NOT_EXPECTED.to_owned();
    }
    Some(attention)
}

/// Each role that was observed replaces all of its amounts; the rest stays. Ordered by role.
fn amounts(known: &[Amount], observed: &[Amount]) -> Vec<Amount> {
    let replaced = |amount: &&Amount| !observed.iter().any(|other| other.role == amount.role);
    let mut all: Vec<Amount> = known
        .iter()
        .filter(replaced)
        .chain(observed)
        .cloned()
        .collect();
    all.sort_by_key(|amount| amount.role);
    all
}

/// True if two statuses differ in anything that makes a new revision. Times, the spelling of an amount
/// and the order of amounts do not.
pub fn differs(left: &Status, right: &Status) -> bool {
    let by_value = |amount: &Amount| {
        let value = Decimal::parse(&amount.value);
        let value = value.map_or(amount.value.clone(), |number| number.canonical());
        (amount.role, value, amount.unit.clone())
    };
    let values = |status: &Status| {
        let mut values: Vec<_> = status.amounts.iter().map(by_value).collect();
        values.sort();
        values
    };
    let action = |status: &Status| {
        let mut action = status.buyer_action.clone();
        let deposited = match &mut action {
            Some(BuyerAction::Deposit(deposit)) => deposit.amount.take(),
            Some(BuyerAction::Redirect(_)) | None => None,
        };
        (action, deposited.as_ref().map(by_value))
    };
    let attention = |status: &Status| {
        status
            .attention
            .as_ref()
            .map(|attention| (attention.reason, attention.deadline_time))
    };
    let facts = |status: &Status| -> BTreeMap<String, String> { status.facts.clone() };
    left.state != right.state
        || left.finality != right.finality
        || left.code != right.code
        || left.unmapped != right.unmapped
        || facts(left) != facts(right)
        || left.amount_outcome != right.amount_outcome
        || attention(left) != attention(right)
        || left.failure.as_ref().map(|failure| failure.reason)
            != right.failure.as_ref().map(|failure| failure.reason)
        || values(left) != values(right)
        || left.transaction_hashes != right.transaction_hashes
        || left.items != right.items
        || left.reference != right.reference
        || action(left) != action(right)
}

/// True if two statuses are the same but for a STALE attention: such a step brings no news from the
/// provider.
pub fn same_but_stale(left: &Status, right: &Status) -> bool {
    let unstale = |status: &Status| {
        let mut status = status.clone();
        if status.attention_reason() == Some(AttentionReason::Stale) {
            status.attention = None;
        }
        status
    };
    !differs(&unstale(left), &unstale(right))
}

/// A failure with this service's words for it.
pub(super) fn failure(reason: FailureReason) -> Failure {
    let message = match reason {
        FailureReason::Declined => "the charge was declined",
        FailureReason::Rejected => "the provider refused the order",
        FailureReason::Undeliverable => "it could not be delivered",
        FailureReason::TransactionFailed => "the transaction failed",
        FailureReason::Underpaid => "too little was paid in time",
        FailureReason::TimedOut => "it was not paid in time",
        FailureReason::Canceled => "it was canceled",
        FailureReason::Error => "the provider reports an error",
        FailureReason::NotSent => "the order was never sent to the provider",
        FailureReason::NotCreated => "an operator stated that the provider never created it",
    };
    Failure {
        reason,
        message: message.to_owned(),
    }
}
