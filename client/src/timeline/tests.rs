//! The timeline's lines, by example.

use tillwatch_proto::v1::{
    BuyerAction, Deposit, Failure, Heartbeat, ProviderStatus, buyer_action::Action,
};
use tonic::Code;

use super::*;
use crate::error::{Error, Refusal};

/// 2026-07-01T10:10:00Z.
const NOON: i64 = 1_782_900_600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(NOON + second).unwrap()
}

fn wire(second: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: NOON + second,
        nanos: 0,
    }
}

fn status(revision: u32, state: PurchaseState, word: &str, second: i64) -> PurchaseStatus {
    PurchaseStatus {
        revision,
        state: state.into(),
        provider_status: Some(ProviderStatus {
            code: word.to_owned(),
            ..ProviderStatus::default()
        }),
        observe_time: Some(wire(second)),
        ..PurchaseStatus::default()
    }
}

fn step(status: PurchaseStatus) -> WatchEvent {
    WatchEvent::Transition(Transition {
        status: Some(status),
        ..Transition::default()
    })
}

fn lost(seconds: u64) -> WatchEvent {
    WatchEvent::Interrupted {
        error: Error::Unavailable(Refusal::local(Code::Unavailable, "draining")),
        retry_in: Duration::from_secs(seconds),
    }
}

#[test]
fn spans_take_two_units_at_the_most() {
    let check = |seconds, expected: &str| {
        assert_eq!(short(Duration::from_secs(seconds)), expected);
    };
    check(0, "0s");
    check(59, "59s");
    check(60, "1m00s");
    check(3_725, "1h02m");
    check(86_400 * 3 + 3_600 * 4, "3d04h");
}

#[test]
fn a_short_time_in_a_state_is_told_to_the_tenth() {
    let check = |millis: u64, expected: &str| {
        assert_eq!(span::elapsed(Duration::from_millis(millis)), expected);
    };
    check(0, "0.0s");
    check(2_999, "2.9s");
    check(9_999, "9.9s");
    check(10_000, "10s");
    check(65_500, "1m05s");
}

#[test]
fn too_little_is_a_warning_only_once_something_was_paid() {
    let check = |state, warned| {
        let mut status = status(2, state, "word", 0);
        status.amount_outcome = AmountOutcome::Underpaid.into();
        let line = render_status(&status, None, Style::plain());
        assert_eq!(line.contains("underpaid"), warned, "{line}");
    };
    check(PurchaseState::Created, false);
    check(PurchaseState::AwaitingPayment, false);
    check(PurchaseState::PartiallyPaid, true);
    check(PurchaseState::Expired, true);
}

#[test]
fn each_revision_is_one_aligned_line_with_the_time_spent_before_it() {
    let mut timeline = Timeline::new(Style::plain());
    let created = status(1, PurchaseState::Created, "", 0);
    let paid = status(2, PurchaseState::AwaitingPayment, "AWAITING_FUNDS", 65);
    let lines: Vec<_> = [WatchEvent::Snapshot(created), step(paid)]
        .iter()
        .flat_map(|event| timeline.apply(event, at(70)))
        .collect();
    assert_eq!(
        lines,
        [
            "     2026-07-01 UTC",
            "  1  10:10:00  ○ CREATED           –",
            "  2  10:11:05  ◔ AWAITING_PAYMENT  AWAITING_FUNDS             +1m05s",
        ]
    );
}

#[test]
fn attention_failure_and_finality_are_told() {
    let mut failed = status(3, PurchaseState::Failed, "ERROR", 0);
    failed.failure = Some(Failure {
        reason: "ERROR".to_owned(),
        message: "the provider reports an error".to_owned(),
    });
    failed.attention = Some(Attention {
        reason: "STALE".to_owned(),
        note: "look".to_owned(),
        deadline_time: Some(wire(3_600)),
    });
    failed.finality = Finality::Final.into();
    let line = render_status(&failed, None, Style::plain());
    let told = "! STALE: look (until 11:10:00)  ERROR: the provider reports an error  final";
    assert!(line.ends_with(told), "{line}");
}

#[test]
fn a_transition_by_an_operator_says_so() {
    let transition = Transition {
        status: Some(status(2, PurchaseState::Failed, "x", 0)),
        cause: Cause::Operator.into(),
        ..Transition::default()
    };
    let line = render_transition(&transition, None, Style::plain());
    assert!(line.ends_with("by an operator"), "{line}");
    assert_eq!(
        render_transition(&Transition::default(), None, Style::plain()),
        ""
    );
}

#[test]
fn what_the_buyer_has_to_do_is_told_once_and_never_cut() {
    let mut waiting = status(1, PurchaseState::AwaitingPayment, "Allocated", 0);
    waiting.buyer_action = Some(BuyerAction {
        action: Some(Action::Deposit(Deposit {
            address: "0xabc".repeat(20),
            network: "ethereum".to_owned(),
            ..Deposit::default()
        })),
    });
    let narrow = Style {
        color: false,
        width: Some(40),
    };
    let mut timeline = Timeline::new(narrow);
    let lines = timeline.apply(&WatchEvent::Snapshot(waiting.clone()), at(0));
    assert_eq!(lines[1].chars().count(), 40);
    assert!(lines[2].ends_with("0xabc on ethereum"), "{lines:?}");
    waiting.revision = 2;
    assert_eq!(timeline.apply(&step(waiting), at(0)).len(), 1);
}

#[test]
fn a_state_added_later_shows_as_its_number() {
    let mut unknown = status(1, PurchaseState::Paid, "x", 0);
    unknown.state = 99;
    assert!(render_status(&unknown, None, Style::plain()).contains("· STATE_99"));
}

#[test]
fn words_of_a_provider_cannot_steer_the_terminal() {
    let evil = status(1, PurchaseState::Paid, "a\u{1b}[2Jb\nc\u{202e}", 0);
    let line = render_status(&evil, None, Style::plain());
    assert!(
        !line
            .chars()
            .any(|letter| letter.is_control() || letter == '\u{202e}'),
        "{line:?}"
    );
}

#[test]
fn a_line_of_wide_characters_fills_no_more_columns_than_there_are() {
    for word in [
        "支払い確認済み",
        "🎉🎉🎉 paid 🎉",
        "⚠️⚠️⚠️⚠️⚠️",
        "e\u{301}e\u{301}",
    ] {
        let wide = status(1, PurchaseState::Completed, word, 0);
        let whole = render_status(&wide, Some(Duration::from_secs(1)), Style::plain());
        let narrow = status(1, PurchaseState::Completed, "x", 0);
        let narrow = render_status(&narrow, Some(Duration::from_secs(1)), Style::plain());
        assert_eq!(columns(&whole), columns(&narrow), "{whole}");
        for width in 1..70 {
            let style = Style {
                color: false,
                width: Some(width),
            };
            let line = render_status(&wide, None, style);
            assert!(columns(&line) <= width, "{width}: {line}");
        }
    }
}

#[test]
fn a_line_is_cut_to_its_width_before_it_is_coloured() {
    let wide = status(1, PurchaseState::Completed, "PAYMENT_PROCESSED", 0);
    for width in [0, 1, 20, 45] {
        let style = Style {
            color: false,
            width: Some(width),
        };
        let line = render_status(&wide, None, style);
        assert_eq!(line.chars().count(), width.max(1), "{line}");
        assert!(line.ends_with('…'));
        let colored = render_status(
            &wide,
            None,
            Style {
                color: true,
                ..style
            },
        );
        let mut bare = colored;
        for code in ["\u{1b}[2m", "\u{1b}[32m", "\u{1b}[0m"] {
            bare = bare.replace(code, "");
        }
        assert_eq!(bare, line);
    }
}

#[test]
fn the_status_line_tells_state_next_poll_and_freshness_by_the_services_clock() {
    let mut timeline = Timeline::new(Style::plain());
    assert_eq!(timeline.status_line(at(0), 0), "⠋ connecting");
    timeline.apply(&step(status(1, PurchaseState::Paid, "x", 0)), at(-100));
    let freshness = Freshness {
        last_answer_time: Some(wire(8)),
        next_poll_time: Some(wire(13)),
        consecutive_failures: 2,
        held_back_since_time: None,
    };
    let beat = WatchEvent::Heartbeat(Heartbeat {
        revision: 1,
        server_time: Some(wire(10)),
        freshness: Some(freshness),
        ..Heartbeat::default()
    });
    assert!(timeline.apply(&beat, at(-90)).is_empty());
    assert_eq!(
        timeline.status_line(at(-90), 11),
        "⠙ PAID for 10s · next poll in 3s · answered 2s ago · 2 polls failed"
    );
    let later = timeline.status_line(at(-80), 0);
    assert!(
        later.contains("PAID for 20s · polling · answered 12s ago"),
        "{later}"
    );
}

#[test]
fn a_lost_server_and_its_return_are_told_once() {
    let mut timeline = Timeline::new(Style::plain());
    timeline.apply(&step(status(4, PurchaseState::Paid, "x", 0)), at(0));
    let told = timeline.apply(&lost(5), at(0));
    assert_eq!(
        told,
        [
            "  ~  lost the server (The service is currently unavailable: draining); reconnecting in 5s"
        ]
    );
    let live = timeline.status_line(at(2), 0);
    assert_eq!(
        live,
        "⠋ reconnecting in 3s (The service is currently unavailable: draining) · PAID for 2s"
    );
    assert!(timeline.apply(&lost(9), at(5)).is_empty());
    assert!(timeline.status_line(at(20), 0).contains("reconnecting now"));
    let back = timeline.apply(&step(status(5, PurchaseState::Completed, "y", 30)), at(30));
    assert_eq!(back[0], "  ~  resumed after revision 4, nothing was missed");
    assert!(back[1].contains("✔ COMPLETED"));
    assert!(!timeline.status_line(at(30), 0).contains("reconnecting"));
}

#[test]
fn the_closing_line_tells_where_the_purchase_stands() {
    let mut timeline = Timeline::new(Style::plain());
    assert_eq!(timeline.closing_line(), "");
    let mut done = status(2, PurchaseState::Completed, "x", 0);
    done.finality = Finality::Final.into();
    timeline.apply(&step(done), at(0));
    assert_eq!(timeline.closing_line(), "✔ COMPLETED, finally");
}

#[test]
fn notes_that_do_not_fit_stand_below_and_are_never_cut() {
    let mut held = status(1, PurchaseState::OnHold, "2", 0);
    held.attention = Some(Attention {
        reason: "STALE".to_owned(),
        note: "ask the provider".to_owned(),
        deadline_time: None,
    });
    let draw = |width| {
        let style = Style {
            color: false,
            width: Some(width),
        };
        Timeline::new(style)
            .apply(&step(held.clone()), at(0))
            .split_off(1)
    };
    let note = "! STALE: ask the provider";
    let wide = draw(120);
    assert!(wide.len() == 1 && wide[0].ends_with(note), "{wide:?}");
    let narrow = draw(30);
    assert_eq!(narrow[0].chars().count(), 30);
    assert_eq!(narrow[1..], [format!("{INDENT}{note}")]);
}

#[test]
fn a_server_that_never_answered_is_not_called_lost() {
    let mut timeline = Timeline::new(Style::plain());
    let told = timeline.apply(&lost(0), at(0));
    assert!(told[0].contains("the server does not answer"), "{told:?}");
    let first = step(status(1, PurchaseState::Paid, "x", 0));
    assert_eq!(timeline.apply(&first, at(0))[0], "  ~  connected");
}

#[test]
fn a_part_of_a_second_to_come_counts_as_one() {
    let check = |millis, expected: &str| {
        let shown = countdown(Duration::from_millis(millis));
        assert_eq!(shown, expected);
    };
    check(0, "0s");
    check(1, "1s");
    check(1_000, "1s");
    check(59_001, "1m00s");
}

#[test]
fn a_new_day_has_its_own_line() {
    let mut timeline = Timeline::new(Style::plain());
    let mut count = |revision, second| {
        let status = status(revision, PurchaseState::Paid, "x", second);
        timeline.apply(&step(status), at(second)).len()
    };
    assert_eq!([count(1, 0), count(2, 60), count(3, 86_400)], [2, 1, 2]);
}
