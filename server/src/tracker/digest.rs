//! Digests by which an open purchase is remembered: whether a status or an answer is news is told
//! without keeping it.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::{observation::Observation, purchase::Status};

/// A digest of a status without its times, without an attention that is this service's own word for
/// hearing no news, and without a buyer action, which is wiped in its time.
pub(super) fn told(status: &Status) -> u64 {
    let Status {
        revision: _,
        state,
        finality,
        code,
        facts,
        unmapped,
        amount_outcome,
        attention,
        failure,
        amounts,
        transaction_hashes,
        items,
        provider_change_time: _,
        observe_time: _,
        reference,
        buyer_action: _,
    } = status;
    let attention = attention
        .as_ref()
        .filter(|attention| !attention.reason.is_silence());
    hashed(&(
        (state, finality, code, facts, unmapped, amount_outcome),
        (attention, failure, amounts, transaction_hashes),
        (items, reference),
    ))
}

/// A digest of everything in an observation that could make a revision.
pub(super) fn digest(observation: &Observation) -> u64 {
    let Observation {
        standing,
        code,
        facts,
        failure,
        attention,
        amount_outcome,
        amounts,
        transaction_hashes,
        items,
        provider_change_time: _,
        reference,
        buyer_action,
        cause,
        before_deadline: _,
        funds_moved: _,
    } = observation;
    hashed(&(
        (standing, code, facts, failure, attention, amount_outcome),
        (amounts, transaction_hashes, items),
        (reference, buyer_action, cause),
    ))
}

fn hashed(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    // 0 stands for nothing heard yet.
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::Standing,
        purchase::{Attention, AttentionReason, Finality, State, Timestamp},
    };

    #[test]
    fn a_stamp_alone_is_no_news_and_any_other_word_is() {
        let heard = Observation::of("WAITING", Standing::Mapped(State::Paid, Finality::Open));
        let mut stamped = heard.clone();
        stamped.provider_change_time = Timestamp::from_millis(1).ok();
        assert_eq!(digest(&heard), digest(&stamped));
        let mut more = heard.clone();
        more.facts.push(("a", None));
        assert_ne!(digest(&heard), digest(&more));
    }

    #[test]
    fn silence_is_no_news_of_a_status_and_another_attention_is() {
        let calls = |reason| {
            let mut status = Status::pending(Timestamp::default());
            status.attention = Some(Attention {
                reason,
                note: String::new(),
                deadline_time: None,
            });
            told(&status)
        };
        let quiet = told(&Status::pending(
            Timestamp::from_millis(5).unwrap_or_default(),
        ));
        assert_eq!(calls(AttentionReason::Stale), quiet);
        assert_ne!(calls(AttentionReason::PayByTimePassed), quiet);
    }
}
