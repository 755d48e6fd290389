//! The reading of each answer on file: one line per file, from the status table by hand.

use super::{HAND_MADE_CLOCK, RECORDED_CLOCK, Read, read_file};
use crate::provider::tests::fixture;

/// Fixtures of other requests: pages are in `pages`; refunds, webhooks, keys, counts and
/// health are not this service's.
const ELSEWHERE: &[&str] = &[
    "api_key_status",
    "cancel_refund",
    "count_",
    "diff_",
    "health_",
    "list_",
    "refund_",
    "scoped_key_diff",
    "webhook_",
];

const RECORDED: &[(&str, &str)] = &[
    ("body_too_large", "unreadable"),
    ("content_type_charset_latin1", "unreadable"),
    (
        "create_200_dynamic",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    (
        "create_200_fixed",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    (
        "create_200_old_paymenttype_ignored",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    (
        "create_200_v2",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    (
        "create_400_agent_too_short",
        "refused agentIdentifier: Too small: expected string to have >=57 characters",
    ),
    (
        "create_400_amount_number",
        "refused Amounts[0].amount: Invalid input: expected string, received number",
    ),
    (
        "create_400_amounts_mismatch",
        "refused Provided Amounts do not match the fixed pricing of the agent",
    ),
    (
        "create_400_dispute_too_early",
        "refused External dispute unlock time must be after unlock time (min. 15 minutes difference)",
    ),
    (
        "create_400_free_pricing",
        "refused Agent identifier pricing type not supported",
    ),
    (
        "create_400_identifier_format",
        "refused Invalid blockchain identifier, format invalid",
    ),
    (
        "create_400_insufficient_funds",
        "refused Insufficient funds",
    ),
    (
        "create_400_missing_inputhash",
        "refused inputHash: Invalid input: expected string, received undefined",
    ),
    (
        "create_400_missing_two",
        "refused network: Invalid option: expected one of \"Preprod\"|\"Mainnet\"; payByTime: Invalid input: expected string, received undefined",
    ),
    (
        "create_400_network_enum",
        "refused network: Invalid option: expected one of \"Preprod\"|\"Mainnet\"",
    ),
    (
        "create_400_payby_past",
        "refused Pay by time must be in the future (max. 5 minutes)",
    ),
    (
        "create_400_paybytime_number",
        "refused payByTime: Invalid input: expected string, received number",
    ),
    (
        "create_400_payment_source_type_mismatch",
        "refused Payment source type does not match the blockchain identifier",
    ),
    (
        "create_400_purchaser_id_not_hex",
        "refused Invalid blockchain identifier, purchaser id mismatch",
    ),
    (
        "create_400_purchaser_mismatch",
        "refused Invalid blockchain identifier, purchaser id mismatch",
    ),
    ("create_400_seller_vkey", "refused Invalid seller vkey"),
    (
        "create_400_submit_after_unlock",
        "refused Submit result time must be before unlock time with at least 15 minutes difference",
    ),
    (
        "create_400_submit_too_soon",
        "refused Submit result time must be in the future (min. 15 minutes)",
    ),
    (
        "create_400_times_in_seconds",
        "refused Pay by time must be before submit result time (min. 5 minutes)",
    ),
    ("create_401_network_not_allowed", "not sent, unauthorized"),
    ("create_401_no_token", "not sent, unauthorized"),
    ("create_401_read_only_token", "not sent, unauthorized"),
    ("create_401_revoked", "not sent, unauthorized"),
    (
        "create_404_unknown_payment_source",
        "refused No payment source found for agent identifiers policy id",
    ),
    (
        "create_409_duplicate_fresh",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    (
        "create_409_seeded_v1_funds_locked__waiting_external_native_tokens",
        "accepted PAID OPEN FundsLocked, PAID 9223372036854775807 abababababab, PAID 2000000 lovelace, FEE 312345 lovelace, tx 1a89ed",
    ),
    (
        "create_409_seeded_v1_funds_locked__waiting_manual_rolled_back",
        "accepted PAID OPEN FundsLocked, !PROVIDER_MANUAL_ACTION, PAID 10000000 lovelace, FEE 312345 lovelace, tx fbd937",
    ),
    (
        "create_409_seeded_v1_null__funds_locking_initiated",
        "accepted CONFIRMING OPEN FundsLockingInitiated, tx 7c1fa4",
    ),
    (
        "create_409_seeded_v1_null__waiting_manual_insufficient_funds",
        "accepted ON_HOLD OPEN WaitingForManualAction, !PROVIDER_MANUAL_ACTION",
    ),
    (
        "create_409_seeded_v2_funds_locked__waiting_external",
        "accepted PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, tx b26988",
    ),
    ("create_500_blockfrost_403", "unclear"),
    ("create_500_blockfrost_404", "unclear"),
    ("create_500_blockfrost_429", "unclear"),
    ("create_500_blockfrost_unreachable", "unclear"),
    ("create_500_database_down", "unclear"),
    ("create_amount_not_integer", "unclear"),
    (
        "create_dup_wrong_network",
        "refused No payment source found for agent identifiers policy id",
    ),
    ("create_dynamic_above_i64", "unclear"),
    (
        "create_limited_key_second_purchase",
        "refused Insufficient funds",
    ),
    ("create_race_race2_2", "unclear"),
    ("create_time_iso", "unclear"),
    ("empty_body_json_ct", "unreadable"),
    ("json_array_body", "unreadable"),
    (
        "malformed_json",
        "refused Expected double-quoted property name in JSON at position 21",
    ),
    (
        "malformed_json_no_token",
        "refused Unexpected end of JSON input",
    ),
    ("malformed_json_resolve", "unreadable"),
    ("method_not_allowed_delete", "unreadable"),
    ("method_not_allowed_get_resolve", "unreadable"),
    ("no_content_type", "unreadable"),
    (
        "resolve_200_other_key",
        "COMPLETED TERMINAL Withdrawn, PAID 10000000 lovelace, TO_SELLER 9500000 lovelace, FEE 312345 lovelace, tx feba74",
    ),
    (
        "resolve_200_v2_with_address_filter",
        "COMPLETED TERMINAL Withdrawn, PAID 10000000 lovelace, TO_SELLER 10000000 lovelace, FEE 312345 lovelace, tx 4a6740",
    ),
    ("resolve_400_empty_identifier", "unreadable"),
    ("resolve_400_empty_object", "unreadable"),
    ("resolve_400_history_bool", "unreadable"),
    ("resolve_400_identifier_too_long", "unreadable"),
    ("resolve_400_network_enum", "unreadable"),
    ("resolve_401_before_400_no_token_empty_body", "unauthorized"),
    ("resolve_401_invalid_token", "unauthorized"),
    ("resolve_401_network_not_allowed", "unauthorized"),
    ("resolve_401_no_token", "unauthorized"),
    ("resolve_401_revoked", "unauthorized"),
    ("resolve_404_address_filter_mismatch", "not found"),
    ("resolve_404_unknown", "not found"),
    ("resolve_404_wrong_network", "not found"),
    ("resolve_500_database_down", "unreachable"),
    ("resolve_500_fees_above_safe_integer", "unreachable"),
    (
        "resolve_history_v1_null__funds_locking_requested",
        "CREATED OPEN FundsLockingRequested",
    ),
    (
        "resolve_history_v1_withdrawn__none",
        "COMPLETED TERMINAL Withdrawn, PAID 10000000 lovelace, TO_SELLER 9500000 lovelace, FEE 312345 lovelace, tx 34d0b0, tx feba74",
    ),
    (
        "resolve_legacy_undecodable_identifier",
        "PAID OPEN FundsLocked",
    ),
    (
        "resolve_mainnet_v1_funds_locked__waiting_external",
        "PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, tx 186961",
    ),
    (
        "resolve_paybytime_passed_by_handler__v1_null__funds_locking_initiated_no_txhash",
        "CONFIRMING OPEN FundsLockingInitiated",
    ),
    (
        "resolve_paybytime_passed_by_handler__v1_null__funds_locking_requested",
        "ON_HOLD OPEN FundsOrDatumInvalid, !PROVIDER_MANUAL_ACTION",
    ),
    (
        "resolve_rolled_back_by_handler__v1_refund_requested__withdraw_refund_requested",
        "REFUND_PENDING OPEN RefundRequested, !PROVIDER_MANUAL_ACTION, PAID 10000000 lovelace, FEE 312345 lovelace, tx 5ed897, tx 08f2d3",
    ),
    (
        "resolve_rolled_back_by_handler__v1_refund_withdrawn__none",
        "REFUNDED TERMINAL RefundWithdrawn, !PROVIDER_MANUAL_ACTION, PAID 10000000 lovelace, REFUNDED 10000000 lovelace, FEE 312345 lovelace, tx eb7b79, tx 29901d",
    ),
    (
        "resolve_rolled_back_by_handler__v2_withdrawn__none",
        "COMPLETED TERMINAL Withdrawn, !PROVIDER_MANUAL_ACTION, PAID 10000000 lovelace, TO_SELLER 10000000 lovelace, FEE 312345 lovelace, tx d88a64, tx 4a6740",
    ),
    (
        "resolve_v1_disputed_withdrawn__none",
        "DISPUTE_SETTLED TERMINAL DisputedWithdrawn, PAID 10000000 lovelace, REFUNDED 6000000 lovelace, TO_SELLER 4000000 lovelace, FEE 312345 lovelace, tx df0946",
    ),
    (
        "resolve_v1_funds_locked__set_refund_requested_requested",
        "PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, tx 568765",
    ),
    (
        "resolve_v1_funds_locked__waiting_external",
        "PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, tx c73e31",
    ),
    (
        "resolve_v1_funds_locked__waiting_external_native_tokens",
        "PAID OPEN FundsLocked, PAID 9223372036854775807 abababababab, PAID 2000000 lovelace, FEE 312345 lovelace, tx 1a89ed",
    ),
    (
        "resolve_v1_funds_locked__withdraw_refund_initiated",
        "PAID OPEN FundsLocked, PAID 10000000 lovelace, tx 467135",
    ),
    (
        "resolve_v1_funds_locked__withdraw_refund_requested",
        "PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, tx 4a9116",
    ),
    (
        "resolve_v1_null__funds_locking_initiated",
        "CONFIRMING OPEN FundsLockingInitiated, tx 7c1fa4",
    ),
    (
        "resolve_v1_null__funds_locking_requested",
        "CREATED OPEN FundsLockingRequested",
    ),
    (
        "resolve_v1_null__ignore",
        "CANCELED TERMINAL Ignore, failure CANCELED",
    ),
    (
        "resolve_v1_null__waiting_manual_failed_manual_reset",
        "ON_HOLD OPEN WaitingForManualAction, !PROVIDER_MANUAL_ACTION, FEE 312345 lovelace, tx d5b7da",
    ),
    (
        "resolve_v1_null__waiting_manual_insufficient_funds",
        "ON_HOLD OPEN WaitingForManualAction, !PROVIDER_MANUAL_ACTION",
    ),
    (
        "resolve_v1_refund_requested__unset_refund_requested_initiated",
        "REFUND_PENDING OPEN RefundRequested, PAID 10000000 lovelace, tx 580a5a",
    ),
    (
        "resolve_v1_refund_requested__unset_refund_requested_requested",
        "REFUND_PENDING OPEN RefundRequested, PAID 10000000 lovelace, FEE 312345 lovelace, tx 40f5f6",
    ),
    (
        "resolve_v1_refund_requested__waiting_external",
        "REFUND_PENDING OPEN RefundRequested, PAID 10000000 lovelace, FEE 312345 lovelace, tx bb71a9",
    ),
    (
        "resolve_v1_refund_requested__withdraw_refund_initiated",
        "REFUND_PENDING OPEN RefundRequested, PAID 10000000 lovelace, tx 59cb00",
    ),
    (
        "resolve_v1_refund_requested__withdraw_refund_requested",
        "REFUND_PENDING OPEN RefundRequested, PAID 10000000 lovelace, FEE 312345 lovelace, tx 08f2d3",
    ),
    (
        "resolve_v1_refund_withdrawn__waiting_manual",
        "REFUNDED TERMINAL RefundWithdrawn, !PROVIDER_MANUAL_ACTION, PAID 10000000 lovelace, REFUNDED 10000000 lovelace, FEE 312345 lovelace, tx 1425d1",
    ),
    (
        "resolve_v1_result_submitted__set_refund_requested_requested",
        "DELIVERED OPEN ResultSubmitted, PAID 10000000 lovelace, FEE 312345 lovelace, tx 4b8708",
    ),
    (
        "resolve_v1_result_submitted__waiting_external",
        "DELIVERED OPEN ResultSubmitted, PAID 10000000 lovelace, FEE 312345 lovelace, tx 63a3f2",
    ),
    (
        "resolve_v1_result_submitted__waiting_manual",
        "DELIVERED OPEN ResultSubmitted, !PROVIDER_MANUAL_ACTION, PAID 10000000 lovelace, FEE 312345 lovelace, tx c91daa",
    ),
    (
        "resolve_v1_withdrawn__none",
        "COMPLETED TERMINAL Withdrawn, PAID 10000000 lovelace, TO_SELLER 9500000 lovelace, FEE 312345 lovelace, tx feba74",
    ),
    (
        "resolve_v1_withdrawn__waiting_manual_rolled_back",
        "COMPLETED TERMINAL Withdrawn, !PROVIDER_MANUAL_ACTION, PAID 10000000 lovelace, TO_SELLER 9500000 lovelace, FEE 312345 lovelace, tx 099480",
    ),
    (
        "resolve_v2_disputed__authorize_withdrawal_requested",
        "DISPUTED OPEN Disputed, PAID 10000000 lovelace, FEE 312345 lovelace, tx 7aecab",
    ),
    (
        "resolve_v2_disputed_withdrawn__none",
        "DISPUTE_SETTLED TERMINAL DisputedWithdrawn, PAID 10000000 lovelace, REFUNDED 5000000 lovelace, TO_SELLER 5000000 lovelace, FEE 312345 lovelace, tx 968964",
    ),
    (
        "resolve_v2_null__funds_locking_initiated",
        "CONFIRMING OPEN FundsLockingInitiated, tx feb36b",
    ),
    (
        "resolve_v2_refund_authorized__withdraw_refund_initiated",
        "REFUND_PENDING OPEN RefundAuthorized, PAID 10000000 lovelace, tx 402a87",
    ),
    (
        "resolve_v2_result_submitted__waiting_external",
        "DELIVERED OPEN ResultSubmitted, PAID 10000000 lovelace, FEE 312345 lovelace, tx c6c970",
    ),
    (
        "resolve_v2_withdraw_authorized__waiting_external",
        "DELIVERED OPEN WithdrawAuthorized, PAID 10000000 lovelace, FEE 312345 lovelace, tx c4c320",
    ),
    (
        "resolve_v2_withdrawn__none",
        "COMPLETED TERMINAL Withdrawn, PAID 10000000 lovelace, TO_SELLER 10000000 lovelace, FEE 312345 lovelace, tx 4a6740",
    ),
    (
        "scoped_key_create_409_again",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    ("scoped_key_resolve_other_unlocked_row", "not found"),
    ("trailing_slash", "unreadable"),
    ("unknown_purchase_id", "nowhere"),
    ("unknown_root", "nowhere"),
    ("wrong_content_type_form", "unreadable"),
    ("wrong_content_type_text", "unreadable"),
];

const HAND_MADE: &[(&str, &str)] = &[
    (
        "create_error_400_insufficient_funds",
        "refused Insufficient funds",
    ),
    (
        "create_error_400_signature",
        "refused Invalid blockchain identifier, signature invalid",
    ),
    (
        "create_error_400_times",
        "refused Pay by time must be before submit result time (min. 5 minutes)",
    ),
    ("create_error_401_missing_token", "not sent, unauthorized"),
    (
        "create_error_401_no_pay_permission",
        "not sent, unauthorized",
    ),
    (
        "create_error_404_agent",
        "refused Agent identifier not found",
    ),
    (
        "create_error_404_payment_source",
        "refused No payment source found for agent identifiers policy id",
    ),
    (
        "create_error_409_exists",
        "accepted PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    ("create_error_500_credit_init", "unclear"),
    (
        "create_response_200",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    (
        "status_disputed",
        "DISPUTED OPEN Disputed, PAID 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    ("status_error_404", "not found"),
    (
        "status_funds_locked",
        "PAID OPEN FundsLocked, PAID 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    (
        "status_funds_locking_initiated",
        "CONFIRMING OPEN FundsLockingInitiated, FEE 312345 lovelace, tx aaaaaa",
    ),
    (
        "status_funds_locking_requested",
        "CREATED OPEN FundsLockingRequested",
    ),
    (
        "status_funds_or_datum_invalid",
        "ON_HOLD OPEN FundsOrDatumInvalid, !PROVIDER_MANUAL_ACTION",
    ),
    (
        "status_refund_authorized_v2",
        "REFUND_PENDING OPEN RefundAuthorized, PAID 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    (
        "status_refund_requested",
        "REFUND_PENDING OPEN RefundRequested, PAID 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    (
        "status_refund_withdrawn",
        "REFUNDED TERMINAL RefundWithdrawn, PAID 10000000 lovelace, REFUNDED 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    (
        "status_result_submitted",
        "DELIVERED OPEN ResultSubmitted, PAID 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    (
        "status_withdraw_authorized_v2",
        "DELIVERED OPEN WithdrawAuthorized, PAID 10000000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
    (
        "status_withdrawn",
        "COMPLETED TERMINAL Withdrawn, PAID 10000000 lovelace, TO_SELLER 9500000 lovelace, FEE 312345 lovelace, tx aaaaaa",
    ),
];

/// The samples of the provider's own page.
const PAGES: &[(&str, &str)] = &[
    (
        "masumi_create",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
    (
        "masumi_create_exists",
        "accepted CREATED OPEN FundsLockingRequested",
    ),
];

/// Reads each file of a folder that is an answer to a create or a single read, and holds it to its line.
fn check(of: &str, clock: &str, table: &[(&str, &str)], is_answer: impl Fn(&str) -> bool) {
    let expected: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    let present: Vec<String> = fixture::names(of, "").into_iter().collect();
    let present: Vec<&str> = present
        .iter()
        .map(String::as_str)
        .filter(|name| is_answer(name))
        .filter(|name| !ELSEWHERE.iter().any(|other| name.starts_with(other)))
        .collect();
    let mut sorted = expected.clone();
    sorted.sort_unstable();
    assert_eq!(present, sorted, "each file of {of} has one line");
    for (name, line) in table {
        assert_eq!(
            read_file(of, name, clock, Read::AsSent),
            *line,
            "{of}/{name}"
        );
    }
}

#[test]
fn recorded_answers_are_read_by_the_status_table() {
    check("masumi_recorded", RECORDED_CLOCK, RECORDED, |_| true);
}

#[test]
fn documented_answers_are_read_by_the_status_table() {
    check("masumi", HAND_MADE_CLOCK, HAND_MADE, |name| {
        !name.contains("_request") || name.starts_with("status_")
    });
}

#[test]
fn the_provider_pages_samples_are_read_by_the_status_table() {
    check("pages", HAND_MADE_CLOCK, PAGES, |name| {
        name.starts_with("masumi_")
    });
}

#[test]
fn an_unknown_route_proves_that_nothing_was_created() {
    for name in ["unknown_root", "unknown_purchase_id"] {
        assert_eq!(
            read_file("masumi_recorded", name, RECORDED_CLOCK, Read::Submit),
            "not sent, nowhere",
            "{name}"
        );
    }
}

#[test]
fn a_refusal_in_another_services_words_proves_nothing() {
    for name in [
        "method_not_allowed_delete",
        "body_too_large",
        "content_type_charset_latin1",
    ] {
        let read = read_file("masumi_recorded", name, RECORDED_CLOCK, Read::Submit);
        assert_eq!(read, "unclear", "{name}");
    }
}
