//! Random histories against a plain model: a provider says its words in any order, for as long as it
//! likes, and the promises must hold for the revisions that follow.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use crate::{
    observation::{Graph, Observation, Standing},
    purchase::{Amount, AmountRole, FailureReason, Reference, Revision, State},
};

const WORDS: [(&str, Option<(State, Finality)>); 7] = [
    ("NEW", Some((State::Created, Finality::Open))),
    ("WAITING", Some((State::AwaitingPayment, Finality::Open))),
    ("PAID", Some((State::Paid, Finality::Open))),
    ("DONE", Some((State::Completed, Finality::Terminal))),
    ("BROKEN", Some((State::Failed, Finality::Terminal))),
    ("SWEPT", Some((State::Completed, Finality::Final))),
    ("NEVER_HEARD_OF", None),
];
/// Words that are rarely drawn, so that histories grow long.
const ENDLESS: usize = 5;
const GRAPH: Graph = Graph::inferred(&[
    ("NEW", &["WAITING"]),
    ("WAITING", &["PAID"]),
    ("PAID", &["DONE", "BROKEN"]),
    ("DONE", &["SWEPT"]),
]);

/// Something that happens to a purchase.
#[derive(Debug, Clone)]
enum Event {
    /// The provider said a word of [`WORDS`], with an amount, perhaps with a call for a person.
    Said {
        word: usize,
        amount: u8,
        calls: bool,
        cause: Cause,
    },
    Unclear,
    RepeatWanted,
    RepeatBegins,
    Missing,
    Stale,
    AccountMissing,
    HorizonOver,
    Refused,
    Stopped,
}

fn event() -> impl Strategy<Value = Event> {
    let cause = prop_oneof![Just(Cause::Poll), Just(Cause::Create)];
    let word = prop_oneof![30 => 0..ENDLESS, 1 => Just(5_usize), 8 => Just(6_usize)];
    let said = (word, 0..4_u8, any::<bool>(), cause).prop_map(|(word, amount, calls, cause)| {
        Event::Said {
            word,
            amount,
            calls,
            cause,
        }
    });
    prop_oneof![
        400 => said,
        10 => Just(Event::Unclear),
        10 => Just(Event::RepeatWanted),
        10 => Just(Event::RepeatBegins),
        20 => Just(Event::Missing),
        20 => Just(Event::Stale),
        20 => Just(Event::AccountMissing),
        1 => Just(Event::HorizonOver),
        1 => Just(Event::Refused),
        1 => Just(Event::Stopped),
    ]
}

fn observation(word: usize, amount: u8, calls: bool) -> Observation {
    let (code, row) = WORDS[word];
    let standing = row.map_or(Standing::Unmapped, |(state, finality)| {
        Standing::Mapped(state, finality)
    });
    let mut observation = Observation::of(code, standing);
    observation.failure = (code == "BROKEN").then_some(FailureReason::Declined);
    observation.attention = calls.then_some(AttentionReason::ProviderManualAction);
    observation.reference = Some(Reference::new([("id", "1")]));
    observation.amounts = vec![Amount {
        role: AmountRole::Paid,
        value: amount.to_string(),
        unit: "USD".to_owned(),
    }];
    observation
}

/// The transition that the service makes of an event, if it would act on it at all.
fn apply(current: &Status, event: &Event, now: Timestamp) -> Option<Transition> {
    let is_unanswered = matches!(current.state, State::Pending | State::OutcomeUnknown);
    match event {
        Event::Said {
            word,
            amount,
            calls,
            cause,
        } => {
            let observation = observation(*word, *amount, *calls);
            observed(current, &observation, GRAPH, *cause, now)
        }
        Event::Unclear if is_unanswered => unclear(
            current,
            AttentionReason::OutcomeUnknown,
            None,
            Cause::Create,
            now,
        ),
        Event::RepeatWanted if current.state == State::Pending => {
            repeat_wanted(current, now.plus(Duration::from_secs(60)), now)
        }
        Event::RepeatBegins if current.state == State::Pending => repeat_begins(current, now),
        Event::Refused if is_unanswered => refused(current, now),
        Event::Missing => found_missing(current, now),
        Event::Stale if current.finality == Finality::Open => stale(current, now),
        Event::AccountMissing => account_missing(current, now),
        Event::HorizonOver if current.finality == Finality::Terminal => made_final(current, now),
        Event::Stopped => stopped(current, now),
        _ => None,
    }
}

/// Checks the promises about one step.
fn check_step(
    current: &Status,
    event: &Event,
    transition: &Transition,
) -> Result<(), TestCaseError> {
    let status = &transition.status;
    prop_assert_ne!(current.finality, Finality::Final, "nothing follows FINAL");
    prop_assert_eq!(status.revision, Revision(current.revision.0 + 1));
    prop_assert!(status.revision.0 <= REVISIONS_MAX);
    prop_assert_eq!(transition.from_state, Some(current.state));
    let Event::Said { word, calls, .. } = event else {
        return Ok(());
    };
    let standing = (status.state, status.finality);
    match WORDS[*word].1 {
        Some(row) => prop_assert_eq!(standing, row, "the provider is the truth"),
        None if matches!(current.state, State::Pending | State::OutcomeUnknown) => {
            prop_assert_eq!(standing, (State::Created, Finality::Open));
        }
        None => prop_assert_eq!(standing, (current.state, current.finality)),
    }
    prop_assert_eq!(status.unmapped, WORDS[*word].1.is_none());
    // The plain order of precedence: the provider's call, the word's own reason, the rest.
    let reason = status.attention_reason();
    if *calls {
        prop_assert_eq!(reason, Some(AttentionReason::ProviderManualAction));
    } else if status.unmapped {
        prop_assert_eq!(reason, Some(AttentionReason::UnmappedStatus));
    } else {
        let allowed = [
            None,
            Some(AttentionReason::UnexpectedTransition),
            Some(AttentionReason::TooManyRevisions),
            Some(AttentionReason::Stale),
        ];
        prop_assert!(allowed.contains(&reason), "{:?}", reason);
    }
    Ok(())
}

fn run(events: &[Event]) -> Result<Status, TestCaseError> {
    let start = Timestamp::from_millis(1_800_000_000_000).unwrap();
    let mut current = Status::pending(start);
    let mut seconds = 0;
    for event in events {
        seconds += 1;
        let now = start.plus(Duration::from_secs(seconds));
        let Some(transition) = apply(&current, event, now) else {
            continue;
        };
        check_step(&current, event, &transition)?;
        current = transition.status;
    }
    Ok(current)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_dense_and_nothing_follows_its_end(
        events in proptest::collection::vec(event(), 0..120),
    ) {
        run(&events)?;
    }

    #[test]
    fn the_same_answer_twice_is_one_revision(
        events in proptest::collection::vec(event(), 0..40),
        word in 0..WORDS.len(),
        amount in 0..4_u8,
        calls in any::<bool>(),
    ) {
        let said = Event::Said { word, amount, calls, cause: Cause::Poll };
        let mut once = events;
        once.push(said.clone());
        let after_one = run(&once)?;
        once.push(said);
        prop_assert_eq!(run(&once)?, after_one);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Without an end, revisions stop below their limit, so that an end still finds room.
    #[test]
    fn an_endless_history_stops_at_500_revisions_and_can_still_end(
        news in 700..900_u16,
    ) {
        let said = |word, amount| Event::Said { word, amount, calls: false, cause: Cause::Poll };
        let mut events: Vec<Event> = (0..news)
            .map(|number| said(1, u8::try_from(number % 4).unwrap()))
            .collect();
        let endless = run(&events)?;
        prop_assert!(endless.revision.0 < REVISIONS_MAX);
        prop_assert!(endless.revision.0 > REVISIONS_MAX - 10);
        prop_assert_eq!(endless.attention_reason(), Some(AttentionReason::TooManyRevisions));
        events.push(said(3, 1));
        let ended = run(&events)?;
        prop_assert_eq!(ended.finality, Finality::Terminal);
        events.push(Event::HorizonOver);
        let ended = run(&events)?;
        prop_assert_eq!(ended.finality, Finality::Final);
        prop_assert!(ended.revision.0 <= REVISIONS_MAX);
    }
}
