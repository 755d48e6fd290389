//! The changes of a purchase's status by an observation, a deadline or a decision. Pure.
//!
//! Each function takes the newest status and returns the transition to the next one, or nothing.
//! Nothing follows a FINAL status. The table of each provider's words is in `provider`.

mod attempt;
mod deadline;
mod merge;
mod order;

pub use attempt::{
    accepted, begun, named, not_created, refused, repeat_begins, repeat_wanted, unclear, unnamed,
};
pub use deadline::{
    Horizon, account_missing, found_missing, found_unreadable, horizon, made_final, never_sent,
    stale, stopped,
};
pub use merge::{differs, is_answered, observed, same_but_stale};
pub use order::{HELD_BACK_FOR, HeardAnswers, Source, Verdict};

use crate::purchase::{Attention, AttentionReason, Cause, Finality, Status, Timestamp, Transition};

/// The most revisions of one purchase; further changes are merged.
pub const REVISIONS_MAX: u32 = 500;
/// From this revision on a repeated submit (sent again, not sent again, unclear again) adds no revision
/// unless it brings news: the rest is kept for the provider's answer.
const REPEATS_MAX: u32 = 400;
/// From this revision on only an end adds a revision: two are kept free, for the end and for FINAL.
const REVISIONS_FREE: u32 = REVISIONS_MAX - 3;

/// The step from `current` to `next`, numbered and stamped; `None` if no revision may follow.
fn step(current: &Status, mut next: Status, cause: Cause, now: Timestamp) -> Option<Transition> {
    if current.finality == Finality::Final {
        return None;
    }
    next.revision = current.revision.next();
    next.observe_time = now;
    let ends = next.finality != Finality::Open
        && (next.finality != current.finality || next.state != current.state);
    let number = next.revision.0;
    let room = match number {
        _ if number < REVISIONS_FREE => true,
        REVISIONS_FREE => {
            let tired = attention(&next, AttentionReason::TooManyRevisions, None);
            next.attention = first_of(next.attention, Some(tired));
            true
        }
        _ if number < REVISIONS_MAX => ends,
        _ => number == REVISIONS_MAX && next.finality == Finality::Final,
    };
    room.then_some(Transition {
        from_state: Some(current.state),
        status: next,
        cause,
    })
}

/// The more pressing of two attentions.
fn first_of(left: Option<Attention>, right: Option<Attention>) -> Option<Attention> {
    match (left, right) {
        (Some(left), Some(right)) => Some(if right.reason < left.reason {
            right
        } else {
            left
        }),
        (left, right) => left.or(right),
    }
}

/// An attention with its note. An attention that `known` has already keeps its note and deadline.
fn attention(
    known: &Status,
    reason: AttentionReason,
    deadline_time: Option<Timestamp>,
) -> Attention {
    match &known.attention {
        Some(same) if same.reason == reason && same.deadline_time == deadline_time => same.clone(),
        _ => Attention {
            reason,
            note: note(reason).to_owned(),
            deadline_time,
        },
    }
}

/// The note on a step outside a graph that nobody promises.
const NOT_EXPECTED: &str = "the provider took a step that is not expected here";

/// The note on an attention, for a person to read.
fn note(reason: AttentionReason) -> &'static str {
    match reason {
        AttentionReason::OutcomeUnknown => {
            "the provider's answer to the create was lost; look at the provider, then resolve it"
        }
        AttentionReason::NoReference => {
            "the provider accepted the create without a name that is known here, or under one that is \
             tracked already; look at the provider, then resolve it"
        }
        AttentionReason::RepeatWanted => "repeat the create with the same key; it is safe",
        AttentionReason::AccountMissing => "the account is not configured; it is not being polled",
        AttentionReason::NotFoundAtProvider => "the provider does not know the reference",
        AttentionReason::UnreadableAtProvider => {
            "the provider has given no readable answer about this purchase for ten minutes"
        }
        AttentionReason::UnmappedStatus => "the provider used a word that has no mapping",
        AttentionReason::ProviderManualAction => {
            "the provider waits for a person, or reports an error that a person has to mend"
        }
        AttentionReason::IgnoredByProvider => "the provider ignores this purchase from now on",
        AttentionReason::UnexpectedTransition => {
            "the provider took a step that its documentation does not have"
        }
        AttentionReason::PayByTimePassed => "the time to pay has passed and no funds are locked",
        AttentionReason::TooManyRevisions => "too many changes; further ones are merged",
        AttentionReason::Stale => "unchanged for longer than expected; it is polled once a day",
    }
}

#[cfg(test)]
mod tests;
