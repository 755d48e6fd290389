//! The reading of each page of `purchase/diff` on file, and the requests of pages.

use super::{HAND_MADE_CLOCK, RECORDED_CLOCK, TOKEN, provider};
use crate::{
    observation::Trouble,
    provider::{
        sweep::{Bounds, Coverage, Cursor, ROWS_MAX, Wanted},
        tests::{
            fixture::{self, answer, at},
            reading::brief,
        },
    },
    purchase::Reference,
};

const LIST: &str = "Preprod/Web3CardanoV1";

fn place(since: &str, after: &str) -> Cursor {
    Cursor {
        since: at(since),
        after: after.to_owned(),
    }
}

/// A page as one line: the number of its rows, its next place, and its last row's observation.
fn page_line(of: &str, name: &str, clock: &str) -> String {
    let request = &fixture::file(of, name)["request"]["query"];
    let text = |field: &str, or: &str| request[field].as_str().unwrap_or(or).to_owned();
    let since = at("1970-01-01T00:00:00Z");
    let place = Cursor {
        // The recorded times with another zone, without a time or broken are not this service's.
        since: crate::purchase::Timestamp::from_iso(&text("lastUpdate", "")).unwrap_or(since),
        after: text("cursorId", ""),
    };
    let rows = text("limit", "10").parse().unwrap_or(10);
    let list = format!("{}/Web3CardanoV1", text("network", "Preprod"));
    let wanted = Wanted {
        list: &list,
        place: &place,
        rows,
    };
    let provider = provider();
    match provider
        .sweep()
        .unwrap()
        .read(wanted, &answer(of, name), at(clock))
    {
        Ok(page) => {
            let said: Vec<String> = page
                .rows
                .iter()
                .map(|row| match &row.said {
                    Ok(observation) => brief(observation),
                    Err(trouble) => format!("{trouble:?}"),
                })
                .collect();
            let end = if page.is_last { "last" } else { "more" };
            let id: String = page.next.after.chars().rev().take(4).collect();
            let id: String = id.chars().rev().collect();
            let last = said.last().map_or("-", String::as_str);
            format!("{} {end} {id} {last}", said.len())
        }
        Err(Trouble::Unauthorized) => "unauthorized".to_owned(),
        Err(Trouble::Throttled { .. }) => "throttled".to_owned(),
        Err(Trouble::Unreachable { .. }) => "unreachable".to_owned(),
        Err(Trouble::Nowhere) => "nowhere".to_owned(),
        Err(Trouble::Unreadable { why }) => format!("unreadable: {why}"),
    }
}

/// One line for each recorded page: of lists as well, which have the same shape, and whose rows,
/// newest first, are no page of changes.
const RECORDED: &[(&str, &str)] = &[
    ("diff_400_lastupdate_invalid", "unreadable: HTTP 400"),
    ("diff_400_limit_and_network", "unreadable: HTTP 400"),
    ("diff_401_network_not_allowed", "unauthorized"),
    ("diff_401_no_token", "unauthorized"),
    ("diff_500_database_down", "unreachable"),
    ("diff_500_poison_row", "unreachable"),
    (
        "diff_address_v2",
        "2 more 0035 CONFIRMING OPEN FundsLockingInitiated",
    ),
    ("diff_address_v2_type_v1_conflict", "0 last  -"),
    (
        "diff_after_handlers_limit100",
        "16 last 0001 ON_HOLD OPEN FundsOrDatumInvalid",
    ),
    (
        "diff_cursor_unknown_id",
        "2 more 0023 REFUND_PENDING OPEN RefundRequested",
    ),
    (
        "diff_cursor_without_lastupdate",
        "2 more 0002 CONFIRMING OPEN FundsLockingInitiated",
    ),
    ("diff_default", "10 more 0010 PAID OPEN FundsLocked"),
    ("diff_empty_future", "0 last  -"),
    (
        "diff_include_history",
        "3 more 0022 REFUND_PENDING OPEN RefundRequested",
    ),
    (
        "diff_lastupdate_date_only",
        "1 more 0001 CREATED OPEN FundsLockingRequested",
    ),
    (
        "diff_lastupdate_no_cursor",
        "2 more 0003 CONFIRMING OPEN FundsLockingInitiated",
    ),
    (
        "diff_lastupdate_offset",
        "1 more 0007 CANCELED TERMINAL Ignore",
    ),
    (
        "diff_limit100",
        "34 last bdbo CREATED OPEN FundsLockingRequested",
    ),
    (
        "diff_limit1_cursor_stuck",
        "unreadable: the cursor does not move",
    ),
    (
        "diff_limit2_page1",
        "2 more 0002 CONFIRMING OPEN FundsLockingInitiated",
    ),
    (
        "diff_limit2_page2_inclusive_cursor",
        "2 more 0003 CONFIRMING OPEN FundsLockingInitiated",
    ),
    ("diff_mainnet", "1 last 0049 PAID OPEN FundsLocked"),
    ("diff_misses_state_only_change", "0 last  -"),
    ("diff_next_action_empty_future", "0 last  -"),
    (
        "diff_next_action_lastupdate_no_cursor",
        "2 more 0003 CONFIRMING OPEN FundsLockingInitiated",
    ),
    (
        "diff_next_action_limit1_cursor_stuck",
        "1 more 0002 CONFIRMING OPEN FundsLockingInitiated",
    ),
    ("diff_next_action_misses_state_only_change", "0 last  -"),
    (
        "diff_next_action_v2",
        "10 more 0043 REFUND_PENDING OPEN RefundAuthorized",
    ),
    (
        "diff_onchain_sees_state_only_change",
        "unreadable: the rows are older than was asked for",
    ),
    (
        "diff_onchain_state_or_result_default",
        "10 more 0010 PAID OPEN FundsLocked",
    ),
    (
        "diff_onchain_state_or_result_lastupdate_no_cursor",
        "2 more 0003 CONFIRMING OPEN FundsLockingInitiated",
    ),
    (
        "diff_onchain_state_or_result_limit2_page1",
        "2 more 0002 CONFIRMING OPEN FundsLockingInitiated",
    ),
    (
        "diff_onchain_state_or_result_limit2_page2_inclusive_cursor",
        "2 more 0003 CONFIRMING OPEN FundsLockingInitiated",
    ),
    (
        "diff_onchain_state_or_result_v2",
        "10 more 0043 REFUND_PENDING OPEN RefundAuthorized",
    ),
    (
        "diff_tie_page_from_second",
        "2 more 0022 REFUND_PENDING OPEN RefundRequested",
    ),
    (
        "diff_v2",
        "10 more 0043 REFUND_PENDING OPEN RefundAuthorized",
    ),
    ("list_400_bad_onchainstate", "unreadable: HTTP 400"),
    ("list_400_no_network", "unreadable: HTTP 400"),
    ("list_401_network_not_allowed", "unauthorized"),
    ("list_401_no_token", "unauthorized"),
    (
        "list_filter_address_v2",
        "2 more 0047 DISPUTE_SETTLED TERMINAL DisputedWithdrawn",
    ),
    (
        "list_filter_needs_manual_action",
        "9 last 0004 ON_HOLD OPEN WaitingForManualAction",
    ),
    (
        "list_filter_onchain_refund_authorized_default_type",
        "0 last  -",
    ),
    (
        "list_filter_onchain_result_submitted",
        "3 last 0018 DELIVERED OPEN ResultSubmitted",
    ),
    ("list_filter_v2", "10 more 0039 DISPUTED OPEN Disputed"),
    (
        "list_limit100",
        "34 last 0001 CREATED OPEN FundsLockingRequested",
    ),
    ("list_limit_0", "unreadable: HTTP 400"),
    ("list_limit_101", "unreadable: HTTP 400"),
    (
        "list_limit_1_5",
        "1 last bdbo CREATED OPEN FundsLockingRequested",
    ),
    ("list_mainnet", "1 last 0049 PAID OPEN FundsLocked"),
    ("list_search_by_id", "1 last 0009 PAID OPEN FundsLocked"),
    (
        "list_unknown_query_param",
        "1 more bdbo CREATED OPEN FundsLockingRequested",
    ),
    (
        "scoped_key_diff_limit100",
        "25 last 0016 PAID OPEN FundsLocked",
    ),
    ("scoped_key_diff_limit100_v2", "0 last  -"),
];

#[test]
fn recorded_pages_are_read_by_the_status_table() {
    let present: Vec<String> = fixture::names("masumi_recorded", "")
        .into_iter()
        .filter(|name| {
            ["diff_", "list_", "scoped_key_diff"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .collect();
    let expected: Vec<&str> = RECORDED.iter().map(|(name, _)| *name).collect();
    assert_eq!(present, expected, "each page on file has one line");
    for (name, expected) in RECORDED {
        assert_eq!(
            page_line("masumi_recorded", name, RECORDED_CLOCK),
            *expected,
            "{name}"
        );
    }
}

#[test]
fn documented_pages_are_read_by_the_status_table() {
    let table = [
        (
            "diff_response_inclusive_cursor",
            "2 last 0002 DELIVERED OPEN ResultSubmitted",
        ),
        (
            "diff_response_only_cursor_row",
            "1 last 0001 PAID OPEN FundsLocked",
        ),
    ];
    for (name, expected) in table {
        assert_eq!(
            page_line("masumi", name, HAND_MADE_CLOCK),
            expected,
            "{name}"
        );
    }
}

#[test]
fn a_page_is_asked_for_as_documented() {
    let place = place("2026-07-01T10:05:00.000Z", "cmtest0000000000000000001");
    let wanted = Wanted {
        list: LIST,
        place: &place,
        rows: ROWS_MAX,
    };
    let provider = provider();
    let sweep = provider.sweep().unwrap();
    let request = sweep.request(wanted);
    assert_eq!(request.headers["token"], TOKEN);
    fixture::assert_request(&request, "masumi", "diff_request");
    // The cursor's id means nothing without a time, and the other way round it does.
    let start = Cursor::start(place.since);
    let request = sweep.request(Wanted {
        place: &start,
        ..wanted
    });
    assert!(request.query.iter().all(|(name, _)| name != "cursorId"));
}

#[test]
fn every_list_that_can_have_a_purchase_is_named() {
    let reference = Reference::new([("blockchain_identifier", "x"), ("network", "Mainnet")]);
    let provider = provider();
    let sweep = provider.sweep().unwrap();
    assert_eq!(sweep.coverage(), Coverage::Changes);
    assert_eq!(
        sweep.lists(&reference),
        ["Mainnet/Web3CardanoV1", "Mainnet/Web3CardanoV2"]
    );
}

#[test]
fn a_round_begins_a_minute_before_the_newest_stamp_seen() {
    let provider = provider();
    let sweep = provider.sweep().unwrap();
    let kept = place("2026-11-20T07:13:00Z", "a");
    let now = at(RECORDED_CLOCK);
    let bounds = Bounds {
        kept: Some(&kept),
        oldest: now,
        newest: Some(at("2026-11-20T09:00:00Z")),
        now,
    };
    let start = |bounds| sweep.start(bounds);
    assert_eq!(start(bounds), Cursor::start(at("2026-11-20T07:12:00Z")));
    let first = Bounds {
        kept: None,
        ..bounds
    };
    assert_eq!(start(first), Cursor::start(at("2026-11-20T08:59:00Z")));
    let nothing = Bounds {
        newest: None,
        ..first
    };
    assert_eq!(start(nothing), Cursor::start(at("2026-11-20T11:59:00Z")));
}

#[test]
fn a_row_that_only_a_single_read_may_end_is_passed_over() {
    // Two hours after its `payByTime` the recorded row without funds would be EXPIRED.
    let name = "diff_limit2_page1";
    let early = page_line("masumi_recorded", name, "2026-11-20T12:00:00Z");
    let late = page_line("masumi_recorded", name, "2036-11-20T12:00:00Z");
    assert!(early.starts_with("2 more"), "{early}");
    assert!(late.starts_with("1 more"), "{late}");
}
