//! Domain to messages. Every field means what its comment in the contract says.

use tillwatch_proto::v1::{self as message, PurchaseState::Unspecified, buyer_action};

use crate::{
    journal::Committed,
    provider,
    purchase::{
        Amount, AmountOutcome, AmountRole, BuyerAction, Cause, Finality, Freshness, Purchase,
        Reference, State, Status, Timestamp, Transition,
    },
};

/// The reader and the time, on which the visible parts of a purchase depend.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// True if the reader sees the caller of a purchase.
    pub shows_caller: bool,
    /// True if buyer actions are shown; never in lists and feeds.
    pub shows_actions: bool,
    /// The time of reading: a buyer action whose time has passed by then is not shown.
    pub now: Timestamp,
}

/// A point in time.
pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    let millis = time.as_millis();
    prost_types::Timestamp {
        seconds: millis.div_euclid(1000),
        nanos: i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or(0),
    }
}

/// A purchase.
pub fn purchase(purchase: &Purchase, view: View) -> message::Purchase {
    message::Purchase {
        id: purchase.id.to_string(),
        account: purchase.account.to_string(),
        provider: purchase.provider.to_string(),
        idempotency_key: purchase.idempotency_key.to_string(),
        status: Some(status(purchase, &purchase.status, view)),
        labels: purchase
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        create_time: Some(timestamp(purchase.create_time)),
        caller: if view.shows_caller {
            purchase.caller.to_string()
        } else {
            String::new()
        },
    }
}

/// One status of a purchase.
pub fn status(purchase: &Purchase, status: &Status, view: View) -> message::PurchaseStatus {
    let action = status.buyer_action.as_ref().filter(|action| {
        view.shows_actions && action.expire_time().is_none_or(|time| view.now < time)
    });
    message::PurchaseStatus {
        purchase_id: purchase.id.to_string(),
        revision: status.revision.0,
        state: state(status.state).into(),
        finality: finality(status.finality).into(),
        provider_status: Some(message::ProviderStatus {
            code: status.code.clone(),
            facts: status
                .facts
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            unmapped: status.unmapped,
        }),
        amount_outcome: amount_outcome(status.amount_outcome).into(),
        attention: status
            .attention
            .as_ref()
            .map(|attention| message::Attention {
                reason: attention.reason.as_str().to_owned(),
                note: attention.note.clone(),
                deadline_time: attention.deadline_time.map(timestamp),
            }),
        failure: status.failure.as_ref().map(|failure| message::Failure {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message.clone(),
        }),
        amounts: status.amounts.iter().map(amount).collect(),
        transaction_hashes: status.transaction_hashes.clone(),
        items: (status.items.iter())
            .map(|item| message::Item {
                id: item.id.clone(),
                r#type: item.kind.clone(),
                name: item.name.clone(),
                image_url: item.image_url.clone(),
            })
            .collect(),
        provider_change_time: status.provider_change_time.map(timestamp),
        observe_time: Some(timestamp(status.observe_time)),
        reference: (status.reference.as_ref())
            .and_then(|reference| provider_reference(&purchase.provider, reference)),
        buyer_action: action.map(buyer_action),
    }
}

/// A provider's reference.
fn provider_reference(name: &str, reference: &Reference) -> Option<message::ProviderReference> {
    provider::reference_message(name, reference)
}

/// A step of one purchase.
pub fn transition(of: &Purchase, step: &Transition, view: View) -> message::Transition {
    message::Transition {
        from_state: step.from_state.map_or(Unspecified, state).into(),
        status: Some(status(of, &step.status, view)),
        cause: cause(step.cause).into(),
    }
}

/// A step of one of many purchases.
pub fn purchase_transition(committed: &Committed, view: View) -> message::PurchaseTransition {
    message::PurchaseTransition {
        purchase: Some(purchase(&committed.purchase, view)),
        from_state: committed.from_state.map_or(Unspecified, state).into(),
        cause: cause(committed.cause).into(),
    }
}

/// The age of a status.
pub fn freshness(freshness: Freshness) -> message::Freshness {
    message::Freshness {
        last_answer_time: freshness.last_answer_time.map(timestamp),
        next_poll_time: freshness.next_poll_time.map(timestamp),
        consecutive_failures: freshness.consecutive_failures,
        held_back_since_time: freshness.held_back_since_time.map(timestamp),
    }
}

fn amount(amount: &Amount) -> message::Amount {
    use message::amount::Role;
    let role = match amount.role {
        AmountRole::Asked => Role::Asked,
        AmountRole::Paid => Role::Paid,
        AmountRole::Delivered => Role::Delivered,
        AmountRole::Refunded => Role::Refunded,
        AmountRole::ToSeller => Role::ToSeller,
        AmountRole::Fee => Role::Fee,
    };
    message::Amount {
        role: role.into(),
        value: amount.value.clone(),
        unit: amount.unit.clone(),
    }
}

fn buyer_action(action: &BuyerAction) -> message::BuyerAction {
    let action = match action {
        BuyerAction::Redirect(redirect) => buyer_action::Action::Redirect(message::Redirect {
            url: redirect.url.clone(),
            method: redirect.method.clone(),
            form_fields: redirect
                .form_fields
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }),
        BuyerAction::Deposit(deposit) => buyer_action::Action::Deposit(message::Deposit {
            address: deposit.address.clone(),
            network: deposit.network.clone(),
            amount: deposit.amount.as_ref().map(amount),
            expire_time: deposit.expire_time.map(timestamp),
        }),
    };
    message::BuyerAction {
        action: Some(action),
    }
}

/// The contract's word for a state.
pub fn state(state: State) -> message::PurchaseState {
    use message::PurchaseState as Word;
    match state {
        State::Pending => Word::Pending,
        State::OutcomeUnknown => Word::OutcomeUnknown,
        State::Created => Word::Created,
        State::AwaitingPayment => Word::AwaitingPayment,
        State::PartiallyPaid => Word::PartiallyPaid,
        State::Confirming => Word::Confirming,
        State::Paid => Word::Paid,
        State::Processing => Word::Processing,
        State::InReview => Word::InReview,
        State::OnHold => Word::OnHold,
        State::Delivered => Word::Delivered,
        State::Completed => Word::Completed,
        State::Failed => Word::Failed,
        State::Expired => Word::Expired,
        State::Canceled => Word::Canceled,
        State::Returned => Word::Returned,
        State::RefundPending => Word::RefundPending,
        State::Refunded => Word::Refunded,
        State::Disputed => Word::Disputed,
        State::DisputeSettled => Word::DisputeSettled,
    }
}

/// The contract's word for a finality.
pub fn finality(finality: Finality) -> message::Finality {
    match finality {
        Finality::Open => message::Finality::Open,
        Finality::Terminal => message::Finality::Terminal,
        Finality::Final => message::Finality::Final,
    }
}

fn amount_outcome(outcome: Option<AmountOutcome>) -> message::AmountOutcome {
    match outcome {
        None => message::AmountOutcome::Unspecified,
        Some(AmountOutcome::Exact) => message::AmountOutcome::Exact,
        Some(AmountOutcome::Underpaid) => message::AmountOutcome::Underpaid,
        Some(AmountOutcome::Overpaid) => message::AmountOutcome::Overpaid,
    }
}

fn cause(cause: Cause) -> message::Cause {
    match cause {
        Cause::Create => message::Cause::Create,
        Cause::Poll => message::Cause::Poll,
        Cause::Deadline => message::Cause::Deadline,
        Cause::Operator => message::Cause::Operator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purchase::{AttentionReason, FailureReason};

    #[test]
    fn every_word_is_spelled_as_the_contract_spells_it() {
        for one in State::ALL {
            let spelled = state(*one).as_str_name();
            assert_eq!(spelled, format!("PURCHASE_STATE_{}", one.as_str()));
        }
        for one in Finality::ALL {
            assert_eq!(
                finality(*one).as_str_name(),
                format!("FINALITY_{}", one.as_str())
            );
        }
        for one in Cause::ALL {
            assert_eq!(cause(*one).as_str_name(), format!("CAUSE_{}", one.as_str()));
        }
        for one in AmountOutcome::ALL {
            let spelled = amount_outcome(Some(*one)).as_str_name();
            assert_eq!(spelled, format!("AMOUNT_OUTCOME_{}", one.as_str()));
        }
        for one in AmountRole::ALL {
            let shown = Amount {
                role: *one,
                value: String::new(),
                unit: String::new(),
            };
            let spelled = amount(&shown).role().as_str_name();
            assert_eq!(spelled, format!("ROLE_{}", one.as_str()));
        }
        // Every state but UNSPECIFIED can be sent.
        assert_eq!(State::ALL.len(), 20);
    }

    #[test]
    fn the_contract_names_every_reason() {
        let contract = include_str!("../../../proto/tillwatch/v1/purchase.proto");
        for one in AttentionReason::ALL {
            assert!(contract.contains(one.as_str()), "{}", one.as_str());
        }
        for one in FailureReason::ALL {
            assert!(contract.contains(one.as_str()), "{}", one.as_str());
        }
    }

    #[test]
    fn times_before_the_epoch_have_positive_nanos() {
        let shown = |millis| timestamp(Timestamp::from_millis(millis).unwrap());
        assert_eq!((shown(1_500).seconds, shown(1_500).nanos), (1, 500_000_000));
        assert_eq!((shown(-1).seconds, shown(-1).nanos), (-1, 999_000_000));
    }

    #[test]
    fn what_has_passed_and_what_lists_hide_is_not_shown() {
        let time = |millis| Timestamp::from_millis(millis).unwrap();
        let purchase = Purchase {
            id: crate::purchase::PurchaseId::from_u128(1),
            account: crate::purchase::AccountName::new("a"),
            provider: "carbon".into(),
            caller: crate::purchase::CallerName::new("shop"),
            idempotency_key: "k".into(),
            labels: Default::default(),
            create_time: time(0),
            status: Status::pending(time(0)).into(),
        };
        let mut shown = Status::pending(time(0));
        shown.buyer_action = Some(BuyerAction::Redirect(crate::purchase::Redirect {
            url: "https://acs.example.test/".to_owned(),
            method: "POST".to_owned(),
            form_fields: Default::default(),
            expire_time: Some(time(1_000)),
        }));
        let view = View {
            shows_caller: false,
            shows_actions: true,
            now: time(999),
        };
        assert!(status(&purchase, &shown, view).buyer_action.is_some());
        assert!(
            status(
                &purchase,
                &shown,
                View {
                    now: time(1_000),
                    ..view
                }
            )
            .buyer_action
            .is_none()
        );
        let list = View {
            shows_actions: false,
            ..view
        };
        assert!(status(&purchase, &shown, list).buyer_action.is_none());
        assert_eq!(super::purchase(&purchase, view).caller, "");
        assert_eq!(
            super::purchase(
                &purchase,
                View {
                    shows_caller: true,
                    ..view
                }
            )
            .caller,
            "shop"
        );
    }
}
