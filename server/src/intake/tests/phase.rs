//! The phase of a submit: one table.

use std::time::Duration;

use crate::{
    intake::phase::{Circumstances, Remedy, SubmitPhase},
    journal::{Attempt, AttemptId, Record},
    provider::Unclear,
    purchase::{
        Attention, AttentionReason, Finality, PurchaseId, Reference, State, Status, Timestamp,
    },
    testing,
};

const REACH: Duration = Duration::from_secs(20);
const WITHIN: Duration = Duration::from_secs(100);
const LOOK_UP: Unclear = Unclear::LookUp {
    repeat_is_safe: true,
};
const WITH_KEY: Unclear = Unclear::RepeatWithKey { within: WITHIN };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis((1_800_000_000 + seconds) * 1_000).unwrap()
}

/// A record of now with this state, attempt, deadline of its attention and first send, in seconds.
fn record(
    state: State,
    submit_until: Option<i64>,
    deadline: Option<i64>,
    first_send: Option<i64>,
) -> Record {
    let mut status = Status::pending(at(0));
    status.state = state;
    status.attention = deadline.map(|deadline| Attention {
        // The words for people steer nothing.
        reason: AttentionReason::Stale,
        note: String::new(),
        deadline_time: Some(at(deadline)),
    });
    let mut record = testing::record(PurchaseId::from_u128(1), "a", "devdraft", status);
    record.attempt = submit_until.map(|until| Attempt {
        by: AttemptId(1),
        submit_until: at(until),
    });
    record.first_send_time = first_send.map(at);
    record
}

fn unclear(remedy: Remedy, under_way_until: Option<i64>) -> SubmitPhase {
    SubmitPhase::Unclear {
        remedy,
        under_way_until: under_way_until.map(at),
    }
}

/// Records, the remedies of their providers, and their phases now.
fn table() -> Vec<(Record, Unclear, SubmitPhase)> {
    let (pending, unknown) = (State::Pending, State::OutcomeUnknown);
    let looked_up = Remedy::LookUp {
        repeat_is_safe: true,
    };
    let repeat = |until| Remedy::Repeat { until: at(until) };
    vec![
        // A send is under way until its time. A time beyond its reach is no time of this service.
        (
            record(pending, Some(9), None, Some(0)),
            WITH_KEY,
            SubmitPhase::Sent { until: at(9) },
        ),
        (
            record(pending, Some(9), Some(50), Some(0)),
            LOOK_UP,
            SubmitPhase::Sent { until: at(9) },
        ),
        (
            record(pending, Some(0), None, Some(-20)),
            WITH_KEY,
            SubmitPhase::Overdue,
        ),
        (
            record(pending, Some(21), None, Some(0)),
            WITH_KEY,
            SubmitPhase::Overdue,
        ),
        // Nothing was sent.
        (
            record(pending, None, Some(50), None),
            LOOK_UP,
            SubmitPhase::Waiting { until: at(50) },
        ),
        (
            record(pending, None, Some(0), None),
            LOOK_UP,
            SubmitPhase::NeverSent,
        ),
        // Nobody has written that nothing was sent, so it may have been.
        (
            record(pending, None, None, None),
            LOOK_UP,
            SubmitPhase::Overdue,
        ),
        // The outcome is unknown.
        (
            record(unknown, None, None, Some(0)),
            LOOK_UP,
            unclear(looked_up, None),
        ),
        (
            record(unknown, Some(9), None, Some(0)),
            LOOK_UP,
            unclear(looked_up, Some(9)),
        ),
        (
            record(unknown, None, None, Some(-99)),
            WITH_KEY,
            unclear(repeat(1), None),
        ),
        (
            record(unknown, Some(9), None, Some(-99)),
            WITH_KEY,
            unclear(repeat(1), Some(9)),
        ),
        (
            record(unknown, None, Some(50), Some(-100)),
            WITH_KEY,
            unclear(Remedy::Nobody, None),
        ),
        (
            record(unknown, None, None, Some(0)),
            Unclear::AskNobody,
            unclear(Remedy::Nobody, None),
        ),
        // A clock that was ahead has stored a first send more than half an hour ahead.
        (
            record(unknown, None, None, Some(1_801)),
            WITH_KEY,
            unclear(Remedy::Nobody, None),
        ),
        // A reference or an end has settled it.
        (
            record(State::Failed, None, None, Some(0)),
            WITH_KEY,
            SubmitPhase::Settled,
        ),
        (
            record(State::Created, None, None, Some(0)),
            WITH_KEY,
            SubmitPhase::Settled,
        ),
    ]
}

#[test]
fn each_phase_of_a_submit_follows_from_its_record_and_the_time() {
    for (record, provider, expected) in table() {
        let mut circumstances = Circumstances {
            unclear: provider,
            reach: REACH,
            is_same_origin: true,
            in_doubt: false,
        };
        assert_eq!(
            SubmitPhase::of(&record, &circumstances, at(0)),
            expected,
            "{record:?}"
        );
        // Elsewhere nothing is repeated that may have been sent.
        circumstances.is_same_origin = false;
        let elsewhere = SubmitPhase::of(&record, &circumstances, at(0));
        let repeats = matches!(
            elsewhere,
            SubmitPhase::Unclear {
                remedy: Remedy::Repeat { .. }
                    | Remedy::LookUp {
                        repeat_is_safe: true
                    },
                ..
            }
        );
        assert!(!repeats, "{record:?}");
        circumstances.is_same_origin = true;
        circumstances.in_doubt = true;
        let doubted = match expected {
            SubmitPhase::Unclear {
                remedy: Remedy::Repeat { .. },
                under_way_until,
            } => SubmitPhase::Unclear {
                remedy: Remedy::Nobody,
                under_way_until,
            },
            other => other,
        };
        assert_eq!(
            SubmitPhase::of(&record, &circumstances, at(0)),
            doubted,
            "{record:?}"
        );
        for settle in [
            |status: &mut Status| status.finality = Finality::Terminal,
            |status: &mut Status| status.reference = Some(Reference::new([("id", "1")])),
        ] {
            let mut settled = record.clone();
            settle(std::sync::Arc::make_mut(&mut settled.purchase.status));
            assert_eq!(
                SubmitPhase::of(&settled, &circumstances, at(0)),
                SubmitPhase::Settled
            );
        }
    }
}
