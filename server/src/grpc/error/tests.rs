//! The table of `docs/ERRORS.md` against the reasons and the errors that callers receive.

use std::{path::Path, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{DOMAIN, Failure, Reason};
use crate::{
    account::{Refusal, Unheard},
    clock::Clock,
    intake::CreateError,
    journal::JournalError,
    observation::Trouble,
    purchase::{Moment, PurchaseId, Timestamp},
};

/// The cells of each row of the table.
fn rows() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ERRORS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(1).map(cells).collect()
}

/// A code as the table spells it.
fn spelled(code: Code) -> String {
    let mut word = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_uppercase());
    }
    word
}

#[test]
fn the_documented_table_is_the_one_that_callers_meet() {
    let rows = rows();
    let words: Vec<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.row().0).collect();
    assert_eq!(words, reasons);
    for (row, reason) in rows.iter().zip(Reason::ALL) {
        let [_, word, code, with, exists, again, _] = row.as_slice() else {
            panic!("a row of five cells: {row:?}");
        };
        let status = Status::from(Failure::new(reason, "why"));
        assert_eq!(*code, spelled(status.code()), "{word}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            (word.as_str(), DOMAIN)
        );
        assert_eq!(
            with.contains("RetryInfo"),
            details.retry_info().is_some(),
            "{word}"
        );
        assert_eq!(
            with.contains("QuotaFailure"),
            details.quota_failure().is_some(),
            "{word}"
        );
        assert!(!exists.is_empty() && !again.is_empty(), "{word}");
    }
}

#[test]
fn an_invalid_request_names_each_field_and_rule() {
    let status = Status::from(Failure::invalid_field("idempotency_key", "required"));
    let details = status.get_error_details();
    let broken = &details.bad_request().unwrap().field_violations;
    assert_eq!(broken.len(), 1);
    assert_eq!(
        (broken[0].field.as_str(), broken[0].description.as_str()),
        ("idempotency_key", "required")
    );
}

/// Each way not to hear a provider, with its reason and the seconds to wait.
fn unheard(now: Moment) -> Vec<(Unheard, &'static str, Option<u64>)> {
    let retry_at = now.plus(Duration::from_secs(7));
    let trouble = |trouble, retry_at| Unheard::Trouble { trouble, retry_at };
    let retry_after = None;
    let (sent, why) = (true, String::from("reset"));
    let refused = [
        (Refusal::Throttled { retry_at }, "ACCOUNT_THROTTLED"),
        (Refusal::Busy { retry_at }, "ACCOUNT_THROTTLED"),
        (Refusal::Unreachable { retry_at }, "PROVIDER_UNREACHABLE"),
        (Refusal::Unauthorized { retry_at }, "ACCOUNT_UNAUTHORIZED"),
        (Refusal::BudgetUnkept { retry_at }, "JOURNAL_UNAVAILABLE"),
    ];
    let troubles = [
        (Trouble::Throttled { retry_after }, "ACCOUNT_THROTTLED"),
        (Trouble::Unauthorized, "ACCOUNT_UNAUTHORIZED"),
        (Trouble::Unreachable { sent, why }, "PROVIDER_UNREACHABLE"),
        (Trouble::Nowhere, "PROVIDER_UNREACHABLE"),
        (Trouble::unreadable("no JSON"), "PROVIDER_UNREACHABLE"),
    ];
    let journal = JournalError::unavailable("full");
    let others = [
        (Unheard::AccountMissing, "ACCOUNT_UNKNOWN", None),
        (Unheard::NotOwned, "PROVIDER_UNREACHABLE", Some(1)),
        (Unheard::Journal(journal), "JOURNAL_UNAVAILABLE", Some(1)),
        (Unheard::Draining, "DRAINING", Some(1)),
    ];
    let refused = refused.map(|(refusal, word)| (Unheard::Refused(refusal), word, Some(7)));
    let timed = troubles.clone();
    let timed = timed.map(|(one, word)| (trouble(one, Some(retry_at)), word, Some(7)));
    let untimed = troubles.map(|(one, word)| (trouble(one, None), word, Some(1)));
    [&refused[..], &timed, &untimed, &others].concat()
}

#[test]
fn a_provider_that_was_not_heard_is_one_reason_for_creates_and_refreshes() {
    let clock = Clock::simulated(Timestamp::from_millis(1_800_000_000_000).unwrap(), 1);
    let (now, id) = (clock.moment(), clock.purchase_id());
    let told = |failure: Failure| {
        let status = Status::from(failure);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        let wait = details.retry_info().and_then(|info| info.retry_delay);
        let named = info.metadata.get("purchase_id").cloned();
        (info.reason.clone(), wait.map(|wait| wait.as_secs()), named)
    };
    let expected = |word: &str, wait, id: Option<PurchaseId>| {
        (word.to_owned(), wait, id.map(|id| id.to_string()))
    };
    for (why, word, wait) in unheard(now) {
        let refreshed = told(Failure::of_refresh(&why, id, now));
        assert_eq!(refreshed, expected(word, wait, Some(id)), "{why:?}");
        for purchase in [None, Some(id)] {
            let why = why.clone();
            let created = Failure::of_create(CreateError::Unheard { why, purchase }, now);
            assert_eq!(told(created), expected(word, wait, purchase));
        }
    }
}
