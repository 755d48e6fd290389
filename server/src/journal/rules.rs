//! The decisions that all journals share: pure, so that no two stores can differ in them.

use crate::purchase::{
    AttentionReason, Purchase, PurchaseId, Revision, State, Status, Timestamp, Transition,
};

use super::{Fence, JournalError, Position, age::Age};

/// The time at which the status last really changed. A revision that only sets or clears an attention
/// about silence does not count.
pub(super) fn change_time(
    previous: &Status,
    previous_change: Timestamp,
    next: &Status,
    age: &Age,
) -> Timestamp {
    let tells_silence = |status: &Status| {
        let reason = status.attention_reason();
        reason.is_some_and(AttentionReason::is_silence)
    };
    let is_told = tells_silence(previous) || tells_silence(next);
    if is_told && equal_but_for_attention(previous, next) {
        return previous_change;
    }
    age.stamp(next.observe_time)
}

fn equal_but_for_attention(previous: &Status, next: &Status) -> bool {
    let mut aligned = previous.clone();
    aligned.revision = next.revision;
    aligned.observe_time = next.observe_time;
    aligned.attention.clone_from(&next.attention);
    aligned == *next
}

/// True if a write with this fence may be made in a store in which nobody takes leases.
pub(super) fn is_held_alone(fence: Option<&Fence>) -> bool {
    fence.is_none_or(|fence| fence.number == 0)
}

/// The last status of a beginning, if its transitions are dense from revision 1.
pub(super) fn last_status(
    purchase: PurchaseId,
    transitions: &[Transition],
) -> Result<&Status, JournalError> {
    let mut wanted = Revision::default();
    for transition in transitions {
        wanted = wanted.next();
        if transition.status.revision != wanted {
            return Err(malformed(purchase, "its first transitions are not dense"));
        }
    }
    (transitions.last())
        .map(|transition| &transition.status)
        .ok_or_else(|| malformed(purchase, "it has no first transition"))
}

/// The error for a write that contradicts itself: no repeat of it can ever be done.
pub(super) fn malformed(purchase: PurchaseId, why: &str) -> JournalError {
    JournalError::unavailable(format_args!("purchase {purchase}: {why}"))
}

/// The newest revision whose buyer actions end with this step; `None` if the state stays.
pub(super) fn wiped_through(previous: State, next: &Status) -> Option<Revision> {
    (previous != next.state).then(|| Revision(next.revision.0.saturating_sub(1)))
}

/// The status as feeds and pages show it.
pub(super) fn without_buyer_action(status: &Status) -> Status {
    Status {
        buyer_action: None,
        ..status.clone()
    }
}

/// The purchase as of another of its statuses.
pub(super) fn with_status(purchase: &Purchase, status: Status) -> Purchase {
    Purchase {
        status: std::sync::Arc::new(status),
        ..purchase.clone()
    }
}

/// The position up to which a tail was searched.
pub(super) fn searched_through(
    after: Position,
    head: Position,
    last: Option<Position>,
    is_full: bool,
) -> Position {
    if is_full {
        return last.unwrap_or(after);
    }
    // A cursor from beyond the head must not be moved back: the transitions between would come twice.
    head.max(after)
}
