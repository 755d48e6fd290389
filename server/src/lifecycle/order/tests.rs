//! Tables of answers and the decisions about them.

use proptest::prelude::*;

use super::{
    Verdict::{Apply, Drop, HoldBack},
    *,
};

fn at(seconds: i64) -> Moment {
    Moment::from_millis(1_000_000 + seconds * 1_000)
}

fn stamp(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000).unwrap_or_default()
}

/// An answer: its source, its stamp, the times of its request and of its arrival, and the decision.
type Said = (Source, Option<i64>, i64, i64, Verdict);

fn read(change: i64, began: i64, verdict: Verdict) -> Said {
    (Source::Read, Some(change), began, began + 1, verdict)
}

fn row(change: i64, began: i64, verdict: Verdict) -> Said {
    (Source::Row, Some(change), began, began + 1, verdict)
}

fn check(name: &str, answers: &[Said]) -> HeardAnswers {
    let mut heard = HeardAnswers::default();
    for (number, (source, change, began, arrived, expected)) in answers.iter().enumerate() {
        let change = change.map(stamp);
        let verdict = heard.hear(*source, change, at(*began), at(*arrived));
        assert_eq!(verdict, *expected, "{name}, answer {number}");
    }
    heard
}

#[test]
fn a_read_that_began_later_is_newer_and_an_overlapping_one_by_its_stamp_alone() {
    let silent = |began, arrived, verdict| (Source::Read, None, began, arrived, verdict);
    check(
        "no stamps",
        &[
            silent(0, 9, Apply),
            silent(8, 12, Drop),
            silent(9, 10, Apply),
        ],
    );
    check(
        "a stamp that overlaps and is newer",
        &[
            (Source::Read, Some(5), 0, 9, Apply),
            (Source::Read, Some(6), 1, 12, Apply),
        ],
    );
    check(
        "overlapping and as old",
        &[
            (Source::Read, Some(5), 0, 9, Apply),
            (Source::Read, Some(5), 1, 12, Drop),
            (Source::Read, Some(4), 1, 13, Drop),
        ],
    );
    check("later and as old", &[read(5, 0, Apply), read(5, 1, Apply)]);
    check(
        "later without a stamp",
        &[read(5, 0, Apply), silent(1, 2, Apply), read(6, 3, Apply)],
    );
}

#[test]
fn an_older_stamp_is_held_back_until_a_minute_has_said_so() {
    let heard = check(
        "a minute",
        &[
            read(50, 0, Apply),
            read(20, 10, HoldBack),
            read(20, 40, HoldBack),
            // The first answer arrived at 11.
            read(20, 70, HoldBack),
            read(20, 71, Apply),
            read(20, 72, Apply),
            read(21, 73, Apply),
        ],
    );
    assert_eq!(heard.newest_change, Some(stamp(21)));
    let heard = check(
        "two are enough",
        &[
            read(50, 0, Apply),
            read(20, 10, HoldBack),
            read(30, 3_600, Apply),
        ],
    );
    assert_eq!(
        (heard.newest_change, heard.held_back_since),
        (Some(stamp(30)), None)
    );
    let heard = check("held back", &[read(50, 0, Apply), read(20, 10, HoldBack)]);
    assert_eq!(heard.asked_again_at(), Some(at(71)));
    assert_eq!((heard.answered, heard.arrived), (Some(at(1)), Some(at(11))));
}

#[test]
fn a_read_that_agrees_with_what_is_known_ends_the_row() {
    for ends in [
        read(50, 50, Apply),
        read(51, 50, Apply),
        (Source::Read, None, 50, 51, Apply),
    ] {
        check(
            "read",
            &[
                read(50, 0, Apply),
                read(20, 10, HoldBack),
                ends,
                read(20, 100, HoldBack),
                read(20, 161, Apply),
            ],
        );
    }
}

#[test]
fn rows_are_ordered_by_the_stamp_and_never_held_back() {
    check(
        "older rows",
        &[
            read(50, 0, Apply),
            row(20, 10, Drop),
            row(20, 100, Drop),
            row(50, 200, Apply),
            row(51, 0, Apply),
        ],
    );
    check(
        "an equal row does not end what single reads say",
        &[
            read(50, 0, Apply),
            read(20, 10, HoldBack),
            row(50, 20, Apply),
            read(20, 75, Apply),
        ],
    );
    check(
        "a newer row does",
        &[
            read(50, 0, Apply),
            read(20, 10, HoldBack),
            row(51, 20, Apply),
            read(20, 75, HoldBack),
        ],
    );
}

fn said() -> impl Strategy<Value = (bool, Option<i64>, i64, i64)> {
    (
        any::<bool>(),
        proptest::option::of(0..100_i64),
        0..40_i64,
        0..20_i64,
    )
}

proptest! {
    /// After any history, single reads that agree are believed within two reads that lie a minute apart,
    /// and their stamp is the newest then.
    #[test]
    fn no_history_makes_deaf(
        before in proptest::collection::vec(said(), 0..30),
        last in proptest::option::of(0..100_i64),
    ) {
        let mut heard = HeardAnswers::default();
        let mut now = 0;
        for (is_read, change, later, takes) in before {
            now += later;
            let source = if is_read { Source::Read } else { Source::Row };
            heard.hear(source, change.map(stamp), at(now), at(now + takes));
        }
        // Every answer under way has arrived by then.
        now += 30;
        let mut verdicts = Vec::new();
        for _ in 0..3 {
            verdicts.push(heard.hear(Source::Read, last.map(stamp), at(now), at(now + 1)));
            now += 61;
        }
        prop_assert_ne!(verdicts[0], Drop);
        prop_assert_eq!(&verdicts[1..], &[Apply, Apply]);
        prop_assert_eq!(heard.held_back_since, None);
        if let Some(last) = last {
            prop_assert_eq!(heard.newest_change, Some(stamp(last)));
        }
    }

    /// An answer whose request began before the newest applied answer arrived is applied only if its
    /// stamp is newer.
    #[test]
    fn no_history_goes_back_by_answers_that_overlap(
        answers in proptest::collection::vec(said(), 0..30),
    ) {
        let mut heard = HeardAnswers::default();
        let mut now = 0;
        for (is_read, change, later, takes) in answers {
            now += later;
            let source = if is_read { Source::Read } else { Source::Row };
            let known = heard;
            let change = change.map(stamp);
            let verdict = heard.hear(source, change, at(now), at(now + takes));
            let overlaps = known.answered.is_some_and(|answered| at(now) < answered);
            let is_newer = change.is_some() && known.newest_change.is_some() && change > known.newest_change;
            if verdict == Apply && overlaps {
                prop_assert!(is_newer);
            }
            if verdict != Apply {
                prop_assert_eq!(known.newest_change, heard.newest_change);
                prop_assert_eq!(known.answered, heard.answered);
            }
        }
    }
}
