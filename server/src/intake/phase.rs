//! Pure: the phase of a submit, as its record and the time tell it.
//!
//! This one value answers every question about a submit: if a call sends again, waits or answers at
//! once; which step falls due; which decisions a person may take. The attention that a status shows
//! follows from the phase, and never the other way round.

use std::time::Duration;

use crate::{
    clock::SET_BACK,
    journal::Record,
    provider::Unclear,
    purchase::{AttentionReason, State, Status, Timestamp},
};

/// The account and the clock, as far as a phase depends on them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// The remedy that the account's provider offers for an unclear create.
    pub(super) unclear: Unclear,
    /// The longest that a send can be under way. A stored time that lies further ahead comes from a
    /// process that is gone and whose clock was ahead.
    pub(super) reach: Duration,
    /// True if the account leads to the service, and to the client there, that the order was sent to.
    /// Elsewhere a repeat makes a second purchase.
    pub(super) is_same_origin: bool,
    /// True if the wall clock was set back, and nobody has looked through the rights that stored times
    /// give since then.
    pub(super) in_doubt: bool,
}

/// The phase of a submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubmitPhase {
    /// The submit is over: the provider's name for it is known, or the purchase has ended.
    Settled,
    /// The first send, or a repeat of an order that was not sent, may be under way until then.
    Sent { until: Timestamp },
    /// It was sent, and the time of the send has passed without an end.
    Overdue,
    /// The order was not sent: it waits for a repeat until then.
    Waiting { until: Timestamp },
    /// The order was not sent, and the time for a repeat has passed.
    NeverSent,
    /// The order may exist at the provider, which has not named it.
    Unclear {
        /// Its remedy.
        remedy: Remedy,
        /// The time until which a repeat may be under way, if one was begun.
        under_way_until: Option<Timestamp>,
    },
}

/// The remedy for an unclear create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The provider can be asked.
    LookUp {
        /// True if a caller's repeat is safe as well.
        repeat_is_safe: bool,
    },
    /// It can be sent again with the provider's key until then.
    Repeat { until: Timestamp },
    /// A person has to look.
    Nobody,
}

impl SubmitPhase {
    /// The phase of a record's submit.
    pub(super) fn of(record: &Record, circumstances: &Circumstances, now: Timestamp) -> Self {
        let status = &record.purchase.status;
        if is_settled(status) {
            return Self::Settled;
        }
        let under_way_until = under_way_until(record, circumstances.reach, now);
        match status.state {
            State::Pending => match (record.attempt, under_way_until, waits_until(status)) {
                (Some(_), Some(until), _) => Self::Sent { until },
                (None, _, Some(until)) if now < until => Self::Waiting { until },
                (None, _, Some(_)) => Self::NeverSent,
                (Some(_), None, _) | (None, _, None) => Self::Overdue,
            },
            State::OutcomeUnknown => Self::Unclear {
                remedy: Remedy::of(record, circumstances, now),
                under_way_until,
            },
            _ => Self::Settled,
        }
    }

    /// True if a send may be under way, so that nobody decides anything meanwhile.
    pub(super) fn is_under_way(self) -> bool {
        match self {
            Self::Sent { .. } => true,
            Self::Unclear {
                under_way_until, ..
            } => under_way_until.is_some(),
            Self::Settled | Self::Overdue | Self::Waiting { .. } | Self::NeverSent => false,
        }
    }
}

impl Remedy {
    /// The remedy for a record's create, if it is unclear.
    pub(super) fn of(record: &Record, circumstances: &Circumstances, now: Timestamp) -> Self {
        match circumstances.unclear {
            Unclear::LookUp { repeat_is_safe } => Self::LookUp {
                repeat_is_safe: repeat_is_safe && circumstances.is_same_origin,
            },
            Unclear::RepeatWithKey { within } => {
                let first = record.first_send_time;
                let first = first.unwrap_or(record.purchase.create_time);
                let until = first.plus(within);
                let is_right = circumstances.is_same_origin
                    && !circumstances.in_doubt
                    && first.since(now) <= SET_BACK;
                match is_right && now < until {
                    true => Self::Repeat { until },
                    false => Self::Nobody,
                }
            }
            Unclear::AskNobody => Self::Nobody,
        }
    }

    /// The attention that tells a person of it, with its deadline if there is one.
    pub(super) fn attention(self) -> (AttentionReason, Option<Timestamp>) {
        match self {
            Self::Repeat { until } => (AttentionReason::RepeatWanted, Some(until)),
            Self::LookUp { .. } | Self::Nobody => (AttentionReason::OutcomeUnknown, None),
        }
    }
}

/// True if nothing of a submit is left to settle.
pub(super) fn is_settled(status: &Status) -> bool {
    status.is_terminal() || status.reference.is_some()
}

/// The time until which the record's attempt may still be under way, if it may.
fn under_way_until(record: &Record, reach: Duration, now: Timestamp) -> Option<Timestamp> {
    let until = record.attempt?.submit_until;
    (now < until && until <= now.plus(reach)).then_some(until)
}

/// The time until which an order that was not sent waits for a repeat.
fn waits_until(status: &Status) -> Option<Timestamp> {
    status.attention.as_ref()?.deadline_time
}
