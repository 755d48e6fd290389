//! States as words, glyphs and tones.

use tillwatch_proto::v1::PurchaseState;

use crate::timeline::paint::Tone;

/// An enum value's own word, without the contract's prefix:
/// `words("PURCHASE_STATE_PAID", "PURCHASE_STATE_")` is `PAID`.
#[must_use]
pub fn words<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// The word of a message's state. A state of a later contract shows as its number.
#[must_use]
pub fn state_word(state: i32) -> String {
    PurchaseState::try_from(state).map_or_else(
        |_| format!("STATE_{state}"),
        |state| words(state.as_str_name(), "PURCHASE_STATE_").to_owned(),
    )
}

/// One character for a state. It is the fuller the further the purchase has come.
#[must_use]
pub fn glyph(state: PurchaseState) -> &'static str {
    match state {
        PurchaseState::Unspecified => "·",
        PurchaseState::Pending | PurchaseState::Created => "○",
        PurchaseState::OutcomeUnknown => "?",
        PurchaseState::AwaitingPayment => "◔",
        PurchaseState::PartiallyPaid | PurchaseState::Confirming => "◑",
        PurchaseState::Paid | PurchaseState::Processing => "◕",
        PurchaseState::InReview => "◎",
        PurchaseState::OnHold => "‖",
        PurchaseState::Delivered => "●",
        PurchaseState::Completed => "✔",
        PurchaseState::Failed | PurchaseState::Expired => "✖",
        PurchaseState::Canceled => "⊘",
        PurchaseState::Returned => "↩",
        PurchaseState::RefundPending | PurchaseState::Refunded => "↺",
        PurchaseState::Disputed => "⚑",
        PurchaseState::DisputeSettled => "⚐",
    }
}

/// True if a purchase that ends in this state has ended as the buyer wanted.
#[must_use]
pub fn is_success(state: PurchaseState) -> bool {
    matches!(state, PurchaseState::Completed)
}

pub(crate) fn tone(state: PurchaseState) -> Tone {
    match state {
        PurchaseState::Unspecified | PurchaseState::Pending | PurchaseState::Created => {
            Tone::Neutral
        }
        PurchaseState::AwaitingPayment
        | PurchaseState::Confirming
        | PurchaseState::Paid
        | PurchaseState::Processing
        | PurchaseState::Delivered => Tone::Progress,
        PurchaseState::OutcomeUnknown
        | PurchaseState::PartiallyPaid
        | PurchaseState::InReview
        | PurchaseState::OnHold
        | PurchaseState::RefundPending
        | PurchaseState::Refunded
        | PurchaseState::Disputed
        | PurchaseState::DisputeSettled => Tone::Warning,
        PurchaseState::Completed => Tone::Success,
        PurchaseState::Failed
        | PurchaseState::Expired
        | PurchaseState::Canceled
        | PurchaseState::Returned => Tone::Failure,
    }
}
