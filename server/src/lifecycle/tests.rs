//! Tables of observations that change a status, and of others that do not.

mod model;

use std::time::Duration;

use super::*;
use crate::{
    observation::{Graph, Observation, Standing},
    purchase::{
        Amount, AmountRole, BuyerAction, Deposit, FailureReason, Reference, Revision, State,
    },
};

const GRAPH: Graph = Graph::documented(&[("WAITING", &["PAID"]), ("PAID", &["DONE"])]);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1000).unwrap()
}

fn moment(seconds: i64) -> crate::purchase::Moment {
    crate::purchase::Moment::from_millis(seconds * 1000)
}

fn waiting() -> Status {
    let mut observation = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    observation.reference = Some(Reference::new([("id", "1")]));
    observation.amounts = vec![asked("2.50")];
    observed(
        &Status::pending(at(0)),
        &observation,
        GRAPH,
        Cause::Create,
        at(1),
    )
    .unwrap()
    .status
}

fn mapped(code: &str, state: State, finality: Finality) -> Observation {
    Observation::of(code, Standing::Mapped(state, finality))
}

fn asked(value: &str) -> Amount {
    Amount {
        role: AmountRole::Asked,
        value: value.to_owned(),
        unit: "USD".to_owned(),
    }
}

fn next(current: &Status, observation: &Observation) -> Option<Transition> {
    observed(current, observation, GRAPH, Cause::Poll, at(9))
}

#[test]
fn an_answer_that_tells_nothing_new_is_no_revision() {
    let current = waiting();
    let mut same = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    assert_eq!(
        next(&current, &same),
        None,
        "a silent answer leaves known facts"
    );
    same.amounts = vec![asked("2.5")];
    same.provider_change_time = Some(at(5));
    assert_eq!(
        next(&current, &same),
        None,
        "amounts count by value, times not at all"
    );
    same.amounts = vec![asked("2.51")];
    assert!(next(&current, &same).is_some());
    same.amounts = vec![asked("1"), asked("2")];
    let both = next(&current, &same).unwrap().status;
    same.amounts.reverse();
    assert_eq!(next(&both, &same), None, "a list has no order");
    same.amounts.push(asked("2"));
    assert!(next(&both, &same).is_some(), "and counts what it has twice");
}

#[test]
fn an_answer_speaks_only_for_the_fields_that_it_has() {
    let mut current = waiting();
    current.facts.insert("kept".to_owned(), "1".to_owned());
    current.facts.insert("cleared".to_owned(), "1".to_owned());
    current.transaction_hashes = vec!["aa".to_owned()];
    let mut paid = mapped("PAID", State::Paid, Finality::Open);
    paid.facts = vec![("cleared", None), ("new", Some("2".to_owned()))];
    let transition = next(&current, &paid).unwrap();
    let status = transition.status;
    assert_eq!(status.revision, Revision(3));
    assert_eq!(transition.from_state, Some(State::AwaitingPayment));
    assert_eq!(status.reference, current.reference);
    assert_eq!(status.transaction_hashes, current.transaction_hashes);
    assert_eq!(status.amounts, current.amounts);
    assert_eq!(status.facts.keys().collect::<Vec<_>>(), ["kept", "new"]);
}

/// Promise P4.
#[test]
fn an_unread_id_is_kept_until_the_provider_has_answered() {
    let unnamed = unnamed(&Status::pending(at(0)), Some("ORD(1)"), at(1)).unwrap();
    assert_eq!(unnamed.status.facts["unread_id"], "ORD(1)");
    let again = super::unnamed(&unnamed.status, Some("ORD(1)"), at(2));
    assert_eq!(again, None, "it says nothing new");
    let answer = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    let answered = next(&unnamed.status, &answer).unwrap();
    assert!(!answered.status.facts.contains_key("unread_id"));
}

#[test]
fn a_word_without_a_mapping_keeps_the_state_and_is_flagged() {
    let unknown = Observation::of("refund_in_flight", Standing::Unmapped);
    let first = next(&Status::pending(at(0)), &unknown).unwrap().status;
    assert_eq!(
        (first.state, first.finality),
        (State::Created, Finality::Open)
    );
    let current = waiting();
    let status = next(&current, &unknown).unwrap().status;
    assert_eq!(
        (status.state, status.finality),
        (State::AwaitingPayment, Finality::Open)
    );
    assert_eq!(status.code, "refund_in_flight");
    assert!(status.unmapped && status.failure.is_none());
    assert_eq!(
        status.attention_reason(),
        Some(AttentionReason::UnmappedStatus)
    );
    let known = next(&status, &mapped("PAID", State::Paid, Finality::Open))
        .unwrap()
        .status;
    assert_eq!((known.unmapped, known.attention), (false, None));
}

#[test]
fn a_step_outside_the_graph_is_applied_and_called_out_until_the_next_word() {
    let mut current = waiting();
    current.code = "DONE".to_owned();
    current.state = State::Completed;
    current.finality = Finality::Terminal;
    let back = mapped("PAID", State::Paid, Finality::Open);
    let status = next(&current, &back).unwrap().status;
    assert_eq!(status.state, State::Paid);
    assert_eq!(
        status.attention_reason(),
        Some(AttentionReason::UnexpectedTransition)
    );
    assert_eq!(next(&status, &back), None, "the same word again is no news");
    let done = next(
        &status,
        &mapped("DONE", State::Completed, Finality::Terminal),
    )
    .unwrap()
    .status;
    assert_eq!(done.attention, None);
}

#[test]
fn nothing_follows_a_final_status() {
    let mut current = waiting();
    current.finality = Finality::Final;
    assert_eq!(
        next(&current, &mapped("PAID", State::Paid, Finality::Open)),
        None
    );
    assert_eq!(stopped(&current, at(9)), None);
    assert_eq!(stale(&current, at(9)), None);
    assert_eq!(refused(&current, at(9)), None);
    assert_eq!(
        unclear(
            &current,
            AttentionReason::OutcomeUnknown,
            None,
            Cause::Create,
            at(9)
        ),
        None
    );
}

#[test]
fn hashes_are_collected_in_order_and_not_without_end() {
    let shows = |hashes: std::ops::Range<u32>| {
        let mut observation = mapped("WAITING", State::AwaitingPayment, Finality::Open);
        observation.transaction_hashes = Some(hashes.map(|hash| hash.to_string()).collect());
        observation
    };
    let status = next(&waiting(), &shows(0..2)).unwrap().status;
    let status = next(&status, &shows(1..3)).unwrap().status;
    assert_eq!(status.transaction_hashes, ["0", "1", "2"]);
    let full = next(&status, &shows(0..1_500)).unwrap().status;
    assert_eq!(full.transaction_hashes.len(), 1_000);
    assert_eq!(full.transaction_hashes[..3], ["0", "1", "2"]);
    assert_eq!(next(&full, &shows(2_000..2_010)), None);
}

#[test]
fn a_buyer_action_lives_as_long_as_its_state() {
    let deposit = |value: &str| {
        BuyerAction::Deposit(Deposit {
            address: "addr".to_owned(),
            network: "tron".to_owned(),
            amount: Some(asked(value)),
            expire_time: None,
        })
    };
    let mut asks = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    asks.buyer_action = Some(deposit("2.50"));
    let status = next(&waiting(), &asks).unwrap().status;
    assert_eq!(status.buyer_action, Some(deposit("2.50")));
    asks.buyer_action = Some(deposit("2.5"));
    assert_eq!(next(&status, &asks), None, "its amount counts by value");
    asks.buyer_action = Some(deposit("2.51"));
    assert!(next(&status, &asks).is_some());
    let silent = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    assert_eq!(next(&status, &silent), None);
    let paid = next(&status, &mapped("PAID", State::Paid, Finality::Open))
        .unwrap()
        .status;
    assert_eq!(paid.buyer_action, None);
}

#[test]
fn a_buyer_action_whose_time_has_passed_is_none_and_no_revision() {
    let deposit = |expire: i64| {
        let mut asks = mapped("WAITING", State::AwaitingPayment, Finality::Open);
        asks.buyer_action = Some(BuyerAction::Deposit(Deposit {
            address: "addr".to_owned(),
            network: "tron".to_owned(),
            amount: None,
            expire_time: Some(at(expire)),
        }));
        asks
    };
    let shown = next(&waiting(), &deposit(10)).unwrap().status;
    assert!(shown.buyer_action.is_some(), "it lives one second longer");
    // The provider goes on showing the action: before it is wiped, afterwards, and after a restart.
    let later = |current: &Status, observation: &Observation| {
        observed(current, observation, GRAPH, Cause::Poll, at(10))
    };
    assert_eq!(later(&shown, &deposit(10)), None);
    let silent = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    assert_eq!(later(&shown, &silent), None);
    let mut wiped = shown.clone();
    wiped.buyer_action = None;
    assert_eq!(later(&wiped, &deposit(10)), None);
    // A new time is news.
    let moved = later(&wiped, &deposit(20)).unwrap().status;
    assert_eq!(moved.buyer_action, deposit(20).buyer_action);
    // Other news does not bring it back.
    let mut more = deposit(10);
    more.amounts = vec![asked("3")];
    assert_eq!(later(&shown, &more).unwrap().status.buyer_action, None);
}

#[test]
fn the_first_reason_for_attention_holds() {
    let mut both = Observation::of("NEW_WORD", Standing::Unmapped);
    let status = next(&waiting(), &both).unwrap().status;
    assert_eq!(
        status.attention_reason(),
        Some(AttentionReason::UnmappedStatus)
    );
    both.attention = Some(AttentionReason::ProviderManualAction);
    let called = next(&waiting(), &both).unwrap().status;
    assert_eq!(
        called.attention_reason(),
        Some(AttentionReason::ProviderManualAction),
        "an answer that calls for a person does so beside a new word as well"
    );
    assert!(called.unmapped);
    assert_eq!(stale(&status, at(10)), None, "a weaker reason waits");
    let missing = found_missing(&status, at(10)).unwrap().status;
    assert_eq!(
        missing.attention_reason(),
        Some(AttentionReason::NotFoundAtProvider)
    );
}

#[test]
fn unreadable_comes_after_missing_and_before_what_the_provider_says() {
    use AttentionReason::{NotFoundAtProvider, UnmappedStatus, UnreadableAtProvider};
    let table = [
        (NotFoundAtProvider, NotFoundAtProvider),
        (UnmappedStatus, UnreadableAtProvider),
        (AttentionReason::Stale, UnreadableAtProvider),
    ];
    for (held, expected) in table {
        let mut status = waiting();
        status.attention = Some(attention(&status, held, None));
        let next = found_unreadable(&status, at(10)).map_or(status, |step| step.status);
        assert_eq!(next.attention_reason(), Some(expected), "{held:?}");
    }
    assert!(UnreadableAtProvider.is_silence());
    // A readable answer ends the attention, also if it brings no news.
    let unreadable = found_unreadable(&waiting(), at(10)).unwrap().status;
    let same = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    let readable = next(&unreadable, &same).unwrap().status;
    assert_eq!(readable.attention, None);
}

#[test]
fn p3_what_once_showed_that_funds_moved_forbids_an_end_by_deadline() {
    let mut expired = mapped("WAITING", State::Expired, Finality::Terminal);
    expired.cause = Some(Cause::Deadline);
    expired.failure = Some(FailureReason::TimedOut);
    expired.before_deadline = Some(Standing::Mapped(State::OnHold, Finality::Open));
    let ended = next(&waiting(), &expired).unwrap();
    assert_eq!(ended.status.state, State::Expired);
    assert_eq!(ended.cause, Cause::Deadline);

    let amount = |role, value: &str| Amount {
        role,
        value: value.to_owned(),
        unit: "lovelace".to_owned(),
    };
    let hash = |status: &mut Status| status.transaction_hashes.push("h".to_owned());
    let fee = |status: &mut Status| status.amounts.push(amount(AmountRole::Fee, "170000"));
    let paid = |status: &mut Status| status.amounts.push(amount(AmountRole::Paid, "5"));
    let state = |status: &mut Status| status.state = State::Paid;
    let evidence: [&dyn Fn(&mut Status); 4] = [&hash, &fee, &paid, &state];
    for show in evidence {
        let mut current = waiting();
        show(&mut current);
        let step = next(&current, &expired).unwrap();
        assert_eq!(step.status.state, State::OnHold, "{current:?}");
        assert_eq!(step.status.failure, None);
        assert_eq!(step.cause, Cause::Poll);
    }
    let mut free = waiting();
    free.amounts.push(amount(AmountRole::Fee, "0"));
    free.amounts.push(amount(AmountRole::Asked, "5"));
    let step = next(&free, &expired).unwrap();
    assert_eq!(step.status.state, State::Expired, "nothing of it moved");
}

#[test]
fn only_a_documented_graph_is_spoken_of_as_documented() {
    let inferred = Graph::inferred(GRAPH.steps);
    let mut paid = waiting();
    paid.code = "PAID".to_owned();
    let back = mapped("WAITING", State::AwaitingPayment, Finality::Open);
    for (graph, word) in [(GRAPH, "documentation"), (inferred, "not expected")] {
        let step = observed(&paid, &back, graph, Cause::Poll, at(5)).unwrap();
        let attention = step.status.attention.unwrap();
        assert_eq!(attention.reason, AttentionReason::UnexpectedTransition);
        assert!(attention.note.contains(word), "{}", attention.note);
    }
}

#[test]
fn stale_stays_until_something_changes() {
    let status = stale(&waiting(), at(99)).unwrap();
    assert_eq!(status.cause, Cause::Deadline);
    let status = status.status;
    assert!(same_but_stale(&status, &waiting()));
    assert_eq!(
        next(
            &status,
            &mapped("WAITING", State::AwaitingPayment, Finality::Open)
        ),
        None
    );
    let paid = next(&status, &mapped("PAID", State::Paid, Finality::Open))
        .unwrap()
        .status;
    assert_eq!(paid.attention, None);
}

#[test]
fn revisions_end_at_their_maximum_and_an_end_still_fits() {
    let mut current = waiting();
    let mut words = ["PAID", "WAITING"].into_iter().cycle();
    while let Some(transition) = next(
        &current,
        &mapped(words.next().unwrap(), State::Paid, Finality::Open),
    ) {
        assert_eq!(transition.status.revision, current.revision.next());
        current = transition.status;
    }
    assert_eq!(current.revision.0, REVISIONS_FREE);
    assert_eq!(
        current.attention_reason(),
        Some(AttentionReason::TooManyRevisions)
    );
    for finality in [Finality::Terminal, Finality::Open, Finality::Terminal] {
        let word = mapped("DONE", State::Completed, finality);
        if let Some(transition) = next(&current, &word) {
            current = transition.status;
        }
    }
    assert_eq!(current.finality, Finality::Terminal);
    let last = made_final(&current, at(99)).unwrap().status;
    assert!(last.revision.0 <= REVISIONS_MAX);
}

#[test]
fn a_terminal_status_is_final_after_its_horizon_and_one_last_read() {
    let mut status = waiting();
    status.finality = Finality::Terminal;
    let hour = Some(Duration::from_secs(3600));
    let check = |read: Option<i64>, now, expected| {
        assert_eq!(
            horizon(moment(0), hour, read.map(moment), moment(now)),
            expected,
            "{read:?} {now}"
        );
    };
    check(Some(10), 3599, Horizon::Ahead);
    check(Some(3599), 3600, Horizon::LastRead);
    check(None, 3600 + 86_399, Horizon::LastRead);
    check(Some(3600), 3601, Horizon::Over);
    check(None, 3600 + 86_400, Horizon::Over);
    assert_eq!(
        horizon(moment(0), None, None, moment(9_999_999)),
        Horizon::Ahead
    );
    assert_eq!(
        made_final(&status, at(3601)).unwrap().cause,
        Cause::Deadline
    );
}

#[test]
fn attempts_end_as_promised() {
    let pending = Status::pending(at(0));
    let refused = refused(&pending, at(1)).unwrap().status;
    assert_eq!(
        (refused.state, refused.finality),
        (State::Failed, Finality::Final)
    );
    assert_eq!(refused.failure.unwrap().reason, FailureReason::Rejected);
    let waits = repeat_wanted(&pending, at(86_400), at(1)).unwrap().status;
    assert_eq!(waits.state, State::Pending);
    assert_eq!(
        waits.attention_reason(),
        Some(AttentionReason::RepeatWanted)
    );
    assert_eq!(repeat_begins(&waits, at(2)).unwrap().status.attention, None);
    let never = never_sent(&waits, at(86_401)).unwrap();
    assert_eq!(never.cause, Cause::Deadline);
    assert_eq!(never.status.failure.unwrap().reason, FailureReason::NotSent);
    let unknown = unclear(
        &pending,
        AttentionReason::OutcomeUnknown,
        None,
        Cause::Create,
        at(1),
    )
    .unwrap()
    .status;
    assert_eq!(
        (unknown.state, unknown.finality),
        (State::OutcomeUnknown, Finality::Open)
    );
    assert_eq!(
        unclear(
            &unknown,
            AttentionReason::OutcomeUnknown,
            None,
            Cause::Poll,
            at(2)
        ),
        None
    );
    let late = accepted(
        &unknown,
        &mapped("", State::Created, Finality::Open),
        GRAPH,
        at(3),
    )
    .unwrap();
    assert_eq!(
        (late.status.state, late.status.attention),
        (State::Created, None)
    );
    let stopped = stopped(&unknown, at(3)).unwrap();
    assert_eq!(stopped.cause, Cause::Operator);
    assert_eq!(
        (stopped.status.state, stopped.status.finality),
        (State::OutcomeUnknown, Finality::Final)
    );
    assert_eq!(stopped.status.attention, None, "a person has acted");
    let not = not_created(&unknown, at(3)).unwrap();
    assert_eq!(
        (not.cause, not.status.failure.unwrap().reason),
        (Cause::Operator, FailureReason::NotCreated)
    );
}
