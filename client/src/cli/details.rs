//! One purchase as lines of a name and a value.

use jiff::Timestamp;
use tillwatch::{
    proto::v1::{
        Amount, AmountOutcome, Freshness, ProviderReference, Purchase, PurchaseStatus,
        amount::Role, provider_reference::Reference,
    },
    timeline::{instant, plain, render_action, short, state_word, words},
};

/// The lines of all that is known of a purchase, without line ends. Absent values have no line.
pub(crate) fn lines(
    purchase: &Purchase,
    freshness: Option<&Freshness>,
    now: Timestamp,
) -> Vec<String> {
    let mut pairs = vec![
        ("purchase", purchase.id.clone()),
        (
            "account",
            format!("{} ({})", purchase.account, purchase.provider),
        ),
        ("key", purchase.idempotency_key.clone()),
        ("caller", purchase.caller.clone()),
        ("created", time(purchase.create_time.as_ref())),
    ];
    let mut labels: Vec<_> = purchase.labels.iter().collect();
    labels.sort();
    pairs.extend(
        labels
            .iter()
            .map(|(key, value)| ("label", format!("{key}={value}"))),
    );
    if let Some(status) = &purchase.status {
        pairs.extend(status_pairs(status));
    }
    if let Some(freshness) = freshness {
        pairs.extend(freshness_pairs(freshness, now));
    }
    let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    pairs
        .map(|(name, value)| format!("{name:<12}  {}", plain(&value)))
        .collect()
}

fn status_pairs(status: &PurchaseStatus) -> Vec<(&'static str, String)> {
    let finality = words(status.finality().as_str_name(), "FINALITY_");
    let state = state_word(status.state);
    let mut pairs = vec![
        ("state", format!("{state}, {finality}")),
        ("revision", status.revision.to_string()),
        ("observed", time(status.observe_time.as_ref())),
        ("changed", time(status.provider_change_time.as_ref())),
    ];
    if let Some(word) = &status.provider_status {
        let unmapped = if word.unmapped {
            " (not known yet)"
        } else {
            ""
        };
        pairs.push(("word", format!("{}{unmapped}", word.code)));
        let mut facts: Vec<_> = word.facts.iter().collect();
        facts.sort();
        pairs.extend(
            facts
                .iter()
                .map(|(key, value)| ("fact", format!("{key}: {value}"))),
        );
    }
    if let Some(attention) = &status.attention {
        let until = time(attention.deadline_time.as_ref());
        let until = if until.is_empty() {
            until
        } else {
            format!(" (until {until})")
        };
        pairs.push((
            "attention",
            format!("{}: {}{until}", attention.reason, attention.note),
        ));
    }
    if let Some(failure) = &status.failure {
        pairs.push((
            "failure",
            format!("{}: {}", failure.reason, failure.message),
        ));
    }
    if status.amount_outcome() != AmountOutcome::Unspecified {
        let outcome = words(status.amount_outcome().as_str_name(), "AMOUNT_OUTCOME_");
        pairs.push(("outcome", outcome.to_lowercase()));
    }
    pairs.extend(status.amounts.iter().map(amount));
    pairs.extend(
        status
            .transaction_hashes
            .iter()
            .map(|hash| ("transaction", hash.clone())),
    );
    for item in &status.items {
        pairs.push(("item", format!("{} {} {}", item.id, item.r#type, item.name)));
    }
    if let Some(reference) = status.reference.as_ref().and_then(reference) {
        pairs.push(("reference", reference));
    }
    if let Some(action) = render_action(status) {
        pairs.push(("to do", action.trim_start_matches([' ', '↳']).to_owned()));
    }
    pairs
}

fn amount(amount: &Amount) -> (&'static str, String) {
    let name = match amount.role() {
        Role::Unspecified => "amount",
        Role::Asked => "asked",
        Role::Paid => "paid",
        Role::Delivered => "delivered",
        Role::Refunded => "refunded",
        Role::ToSeller => "to seller",
        Role::Fee => "fee",
    };
    let value = format!("{} {}", amount.value, amount.unit);
    (name, value.trim_end().to_owned())
}

fn reference(reference: &ProviderReference) -> Option<String> {
    Some(match reference.reference.as_ref()? {
        Reference::Phygitals(named) => named.session_id.clone(),
        Reference::Masumi(named) => format!("{} on {}", named.blockchain_identifier, named.network),
        Reference::Inabit(named) => named.purchase_id.clone(),
        Reference::Carbon(named) => format!("{} of contact {}", named.order_id, named.contact_id),
        Reference::Devdraft(named) => named.transaction_id.clone(),
    })
}

fn freshness_pairs(freshness: &Freshness, now: Timestamp) -> Vec<(&'static str, String)> {
    let distance = |from: Timestamp, to: Timestamp| {
        let span = std::time::Duration::try_from(to.duration_since(from));
        short(span.unwrap_or_default())
    };
    let last = freshness.last_answer_time.as_ref().and_then(instant);
    let next = freshness.next_poll_time.as_ref().and_then(instant);
    let held = freshness.held_back_since_time.as_ref().and_then(instant);
    let failures = match freshness.consecutive_failures {
        0 => String::new(),
        count => format!("{count} in a row"),
    };
    vec![
        (
            "answered",
            last.map_or_else(String::new, |at| format!("{} ago", distance(at, now))),
        ),
        (
            "next poll",
            next.map_or_else(
                || "none".to_owned(),
                |at| format!("in {}", distance(now, at)),
            ),
        ),
        ("failed polls", failures),
        (
            "held back",
            held.map_or_else(String::new, |at| format!("for {}", distance(at, now))),
        ),
    ]
}

fn time(time: Option<&prost_types::Timestamp>) -> String {
    let at = time.and_then(instant);
    at.map_or_else(String::new, |at| format!("{at:.0}"))
}

#[cfg(test)]
mod tests {
    use tillwatch::proto::v1::{
        Attention, DevdraftReference, Failure, Finality, ProviderStatus, PurchaseState,
    };

    use super::*;

    #[test]
    fn what_is_known_is_told_and_what_is_absent_is_left_out() {
        let status = PurchaseStatus {
            revision: 3,
            state: PurchaseState::Failed.into(),
            finality: Finality::Terminal.into(),
            provider_status: Some(ProviderStatus {
                code: "ERROR".to_owned(),
                facts: [("bridge_transfer_id".to_owned(), "b1".to_owned())].into(),
                unmapped: false,
            }),
            attention: Some(Attention {
                reason: "PROVIDER_MANUAL_ACTION".to_owned(),
                note: "ask them".to_owned(),
                ..Attention::default()
            }),
            failure: Some(Failure {
                reason: "ERROR".to_owned(),
                message: "it failed".to_owned(),
            }),
            amounts: vec![Amount {
                role: Role::Asked.into(),
                value: "10.5".to_owned(),
                unit: "usdc".to_owned(),
            }],
            reference: Some(ProviderReference {
                reference: Some(Reference::Devdraft(DevdraftReference {
                    transaction_id: "txn_1".to_owned(),
                })),
            }),
            observe_time: Some(prost_types::Timestamp::default()),
            ..PurchaseStatus::default()
        };
        let purchase = Purchase {
            id: "pur_1".to_owned(),
            account: "shop".to_owned(),
            provider: "devdraft".to_owned(),
            status: Some(status),
            ..Purchase::default()
        };
        let freshness = Freshness {
            last_answer_time: Some(prost_types::Timestamp::default()),
            ..Freshness::default()
        };
        let now = Timestamp::from_second(5).unwrap();
        assert_eq!(
            lines(&purchase, Some(&freshness), now),
            [
                "purchase      pur_1",
                "account       shop (devdraft)",
                "state         FAILED, TERMINAL",
                "revision      3",
                "observed      1970-01-01T00:00:00Z",
                "word          ERROR",
                "fact          bridge_transfer_id: b1",
                "attention     PROVIDER_MANUAL_ACTION: ask them",
                "failure       ERROR: it failed",
                "asked         10.5 usdc",
                "reference     txn_1",
                "answered      5s ago",
                "next poll     none",
            ]
        );
    }
}
