//! The table of `docs/ERRORS.md` against the reasons and what a caller receives.

use std::path::Path;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{DOMAIN, Failure, Reason};

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
