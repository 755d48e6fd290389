//! The changes by the passing of time, and by an operator's decision to stop.

use std::time::Duration;

use super::{attempt, attention, step};
use crate::purchase::{
    AttentionReason, Cause, FailureReason, Finality, Moment, Status, Timestamp, Transition,
};

/// The time for which a last read is tried after the horizon, before the end is declared without it.
const LAST_READ_TRIED_FOR: Duration = Duration::from_secs(86_400);

/// The place of a terminal status in its horizon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Horizon {
    /// The purchase is still polled on its schedule.
    Ahead,
    /// One last read is due.
    LastRead,
    /// The last read was made, or was tried for long enough: FINAL.
    Over,
}

/// The place of a status that was observed to be terminal at `observed`. `read` is the beginning of the
/// request with the last readable answer.
pub fn horizon(
    observed: Moment,
    length: Option<Duration>,
    read: Option<Moment>,
    now: Moment,
) -> Horizon {
    let Some(length) = length else {
        return Horizon::Ahead;
    };
    let end = observed.plus(length);
    if now < end {
        return Horizon::Ahead;
    }
    let was_read = read.is_some_and(|read| read >= end);
    if was_read || now >= end.plus(LAST_READ_TRIED_FOR) {
        return Horizon::Over;
    }
    Horizon::LastRead
}

/// The horizon has passed: nothing follows.
pub fn made_final(current: &Status, now: Timestamp) -> Option<Transition> {
    let mut next = current.clone();
    next.finality = Finality::Final;
    step(current, next, Cause::Deadline, now)
}

/// The order waited for a repeat that never came.
pub fn never_sent(current: &Status, now: Timestamp) -> Option<Transition> {
    attempt::ended(current, FailureReason::NotSent, Cause::Deadline, now)
}

/// The purchase is open and unchanged for too long. `None` if a more pressing attention holds already.
pub fn stale(current: &Status, now: Timestamp) -> Option<Transition> {
    with_attention(current, AttentionReason::Stale, Cause::Deadline, now)
}

/// The provider does not know the reference, although it should by now.
pub fn found_missing(current: &Status, now: Timestamp) -> Option<Transition> {
    with_attention(
        current,
        AttentionReason::NotFoundAtProvider,
        Cause::Poll,
        now,
    )
}

/// The provider has given no readable answer about it for too long.
pub fn found_unreadable(current: &Status, now: Timestamp) -> Option<Transition> {
    with_attention(
        current,
        AttentionReason::UnreadableAtProvider,
        Cause::Poll,
        now,
    )
}

/// The account is no longer configured.
pub fn account_missing(current: &Status, now: Timestamp) -> Option<Transition> {
    with_attention(
        current,
        AttentionReason::AccountMissing,
        Cause::Operator,
        now,
    )
}

/// An operator gave it up: the state stays, nobody has to look any more, and nothing follows.
pub fn stopped(current: &Status, now: Timestamp) -> Option<Transition> {
    let mut next = current.clone();
    next.finality = Finality::Final;
    next.attention = None;
    next.buyer_action = None;
    step(current, next, Cause::Operator, now)
}

/// The step to the same status with this attention; `None` if a more pressing one holds already.
fn with_attention(
    current: &Status,
    reason: AttentionReason,
    cause: Cause,
    now: Timestamp,
) -> Option<Transition> {
    if current
        .attention_reason()
        .is_some_and(|held| held <= reason)
    {
        return None;
    }
    let mut next = current.clone();
    next.attention = Some(attention(current, reason, None));
    step(current, next, cause, now)
}
