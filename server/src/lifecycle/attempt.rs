//! The steps of a submit: begun, accepted, refused, not sent, unclear, settled by hand.

use super::{attention, merge, step};
use crate::{
    observation::{Graph, Observation},
    purchase::{
        AttentionReason, Cause, FailureReason, Finality, State, Status, Timestamp, Transition,
    },
};

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

/// Nothing was sent: the caller has to repeat its call before `deadline`.
pub fn repeat_wanted(current: &Status, deadline: Timestamp, now: Timestamp) -> Option<Transition> {
    let mut next = current.clone();
    next.state = State::Pending;
    next.attention = Some(attention(
        current,
        AttentionReason::RepeatWanted,
        Some(deadline),
    ));
    step(current, next, Cause::Create, now)
}

/// A repeat of something that was not sent is about to be sent.
pub fn repeat_begins(current: &Status, now: Timestamp) -> Option<Transition> {
    let mut next = current.clone();
    next.attention = None;
    step(current, next, Cause::Create, now)
}

/// It is not known what became of the submit, for this reason; `deadline` is until when a repeat
/// helps. Nothing where just that is known already.
pub fn unclear(
    current: &Status,
    reason: AttentionReason,
    deadline: Option<Timestamp>,
    cause: Cause,
    now: Timestamp,
) -> Option<Transition> {
    let mut next = current.clone();
    next.state = State::OutcomeUnknown;
    next.attention = Some(attention(current, reason, deadline));
    if !merge::differs(current, &next) {
        return None;
    }
    step(current, next, cause, now)
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
