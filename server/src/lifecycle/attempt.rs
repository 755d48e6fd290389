//! The steps of a submit: begun, accepted, refused, not sent, unclear, settled by hand.

use super::{REPEATS_MAX, attention, merge, step};
use crate::{
    observation::{Graph, Observation},
    purchase::{
        AttentionReason, Cause, FailureReason, Finality, Reference, State, Status, Timestamp,
        Transition,
    },
};

/// The fact that keeps an accepted order's id of an unknown shape, until the provider has answered
/// about a name that it knows.
pub(super) const UNREAD_ID: &str = "unread_id";

/// The first transition of all: the intent to buy, or to follow, is recorded.
pub fn begun(now: Timestamp) -> Transition {
    Transition {
        from_state: None,
        status: Status::pending(now),
        cause: Cause::Create,
    }
}

/// The provider accepted the order: its answer is applied.
pub fn accepted(
    current: &Status,
    observation: &Observation,
    graph: Graph,
    now: Timestamp,
) -> Option<Transition> {
    merge::observed(current, observation, graph, Cause::Create, now)
}

/// The provider refused the order.
pub fn refused(current: &Status, now: Timestamp) -> Option<Transition> {
    ended(current, FailureReason::Rejected, Cause::Create, now)
}

/// Nothing was sent: the caller has to repeat its call before `deadline`. `None` if the status has said
/// so too often.
pub fn repeat_wanted(current: &Status, deadline: Timestamp, now: Timestamp) -> Option<Transition> {
    if current.state == State::Pending && waits(current) && is_tired(current) {
        return None;
    }
    let mut next = current.clone();
    next.state = State::Pending;
    next.attention = Some(attention(
        current,
        AttentionReason::RepeatWanted,
        Some(deadline),
    ));
    step(current, next, Cause::Create, now)
}

/// A repeat of an order that was not sent is about to be sent. `None` if the status has said so too
/// often.
pub fn repeat_begins(current: &Status, now: Timestamp) -> Option<Transition> {
    if is_tired(current) {
        return None;
    }
    let mut next = current.clone();
    next.attention = None;
    step(current, next, Cause::Create, now)
}

/// The outcome of the submit is not known, for this reason; `deadline` is the time until which a repeat
/// helps. `None` if the status says just that already, or has said it too often.
pub fn unclear(
    current: &Status,
    reason: AttentionReason,
    deadline: Option<Timestamp>,
    cause: Cause,
    now: Timestamp,
) -> Option<Transition> {
    let mut next = current.clone();
    next.attention = Some(attention(current, reason, deadline));
    unknown(current, next, cause, now)
}

/// The provider accepted the order without a name that is known here; `unread_id` is the provider's
/// name for it, if that can be kept. `None` if the status says just that already, or has said it too
/// often.
pub fn unnamed(current: &Status, unread_id: Option<&str>, now: Timestamp) -> Option<Transition> {
    let mut next = current.clone();
    next.attention = Some(attention(current, AttentionReason::NoReference, None));
    if let Some(id) = unread_id {
        next.facts.insert(UNREAD_ID.to_owned(), id.to_owned());
    }
    unknown(current, next, Cause::Create, now)
}

/// The step to OUTCOME_UNKNOWN; `None` if it says nothing new, or was said too often.
fn unknown(current: &Status, mut next: Status, cause: Cause, now: Timestamp) -> Option<Transition> {
    next.state = State::OutcomeUnknown;
    let is_known = current.state == State::OutcomeUnknown && cause == Cause::Create;
    if (is_known && is_tired(current)) || !merge::differs(current, &next) {
        return None;
    }
    step(current, next, cause, now)
}

/// True if the status asks for a repeat.
fn waits(status: &Status) -> bool {
    status.attention_reason() == Some(AttentionReason::RepeatWanted)
}

/// True if the revisions that are left are kept for the provider's answer.
fn is_tired(status: &Status) -> bool {
    status.revision.0 >= REPEATS_MAX
}

/// An operator named the reference of an unclear create. The state stays until the provider has
/// answered for it. `None` in any other state.
pub fn named(current: &Status, reference: Reference, now: Timestamp) -> Option<Transition> {
    if current.state != State::OutcomeUnknown || current.finality != Finality::Open {
        return None;
    }
    let mut next = current.clone();
    next.reference = Some(reference);
    next.attention = None;
    step(current, next, Cause::Operator, now)
}

/// An operator stated that the provider never created it.
pub fn not_created(current: &Status, now: Timestamp) -> Option<Transition> {
    ended(current, FailureReason::NotCreated, Cause::Operator, now)
}

/// An end without success that nothing follows.
pub(super) fn ended(
    current: &Status,
    reason: FailureReason,
    cause: Cause,
    now: Timestamp,
) -> Option<Transition> {
    let mut next = current.clone();
    next.state = State::Failed;
    next.finality = Finality::Final;
    next.failure = Some(merge::failure(reason));
    next.attention = None;
    next.buyer_action = None;
    step(current, next, cause, now)
}
