//! Messages to domain: every rule that can be checked without asking anybody. An error names the
//! field and the rule.

use std::{collections::BTreeMap, collections::HashMap, time::Duration};

use tillwatch_proto::v1::{self as message, PurchaseFilter};

use super::error::Failure;
use crate::{
    feed::Until,
    journal::Filter,
    provider::Violation,
    purchase::{Finality, PurchaseId, State, Timestamp},
};

/// The longest idempotency key, in characters.
const KEY_CHARACTERS_MAX: usize = 255;
/// The most labels of a purchase.
const LABELS_MAX: usize = 16;
/// The longest label key, in bytes.
const LABEL_KEY_BYTES_MAX: usize = 63;
/// The longest label value, in bytes.
const LABEL_VALUE_BYTES_MAX: usize = 255;
/// The most values in one list of a filter.
const FILTER_VALUES_MAX: usize = 100;
/// The longest note of an operator, in characters.
const NOTE_CHARACTERS_MAX: usize = 1_000;
/// The longest wait of `GetStatus`.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The bounds of a heartbeat interval, and the interval if the caller names none.
const HEARTBEAT: (Duration, Duration, Duration) = (
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
);
/// The size of a page if the caller names none, and the largest size.
const PAGE: (i32, i32) = (100, 1000);

/// An idempotency key.
pub fn key(key: &str) -> Result<(), Violation> {
    let printable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if key.is_empty() || key.len() > KEY_CHARACTERS_MAX || !printable {
        return Err(Violation::new(
            "idempotency_key",
            format!("must be 1 to {KEY_CHARACTERS_MAX} printable ASCII characters"),
        ));
    }
    Ok(())
}

/// A key that names nothing yet. It has no blanks around it: a client that trims it one time and not
/// another would buy twice.
pub fn new_key(key: &str) -> Result<(), Violation> {
    if key.trim() == key {
        return Ok(());
    }
    let rule = "must have no blanks before or after it";
    Err(Violation::new("idempotency_key", rule))
}

/// The labels of a new purchase, or of a filter.
pub fn labels(
    field: &str,
    labels: &HashMap<String, String>,
) -> Result<BTreeMap<String, String>, Violation> {
    if labels.len() > LABELS_MAX {
        return Err(Violation::new(
            field,
            format!("must be at most {LABELS_MAX} labels"),
        ));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL_KEY_BYTES_MAX {
            let rule = format!("a label's key must have 1 to {LABEL_KEY_BYTES_MAX} bytes");
            return Err(Violation::new(field, rule));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            let rule = format!("a label's value must have at most {LABEL_VALUE_BYTES_MAX} bytes");
            return Err(Violation::new(field, rule));
        }
        if key.chars().chain(value.chars()).any(char::is_control) {
            return Err(Violation::new(
                field,
                "a label must have no control characters",
            ));
        }
    }
    Ok(labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect())
}

/// A purchase id. A text that cannot be an id is nobody's.
pub fn purchase_id(id: &str) -> Result<PurchaseId, Failure> {
    if id.is_empty() {
        return Err(Failure::invalid_field("purchase_id", "must be given"));
    }
    id.parse().map_err(|_| Failure::not_found())
}

/// The time for which `GetStatus` may wait.
pub fn max_wait(wait: Option<&prost_types::Duration>) -> Result<Duration, Violation> {
    let rule = || Violation::new("max_wait", "must be 0 s to 60 s");
    let Some(wait) = wait else {
        return Ok(Duration::ZERO);
    };
    let wait = span(*wait).ok_or_else(rule)?;
    if wait > WAIT_MAX {
        return Err(rule());
    }
    Ok(wait)
}

/// A span that is not negative. Its parts have one sign and less than a second of nanoseconds, as
/// `google.protobuf.Duration` says; a conversion would quietly mend a span that has not.
fn span(duration: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok()?;
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

/// The interval of a stream's heartbeats.
pub fn heartbeat(interval: Option<&prost_types::Duration>) -> Result<Duration, Violation> {
    let (least, usual, most) = HEARTBEAT;
    let rule = || Violation::new("heartbeat_interval", "must be 5 s to 120 s");
    let Some(interval) = interval else {
        return Ok(usual);
    };
    let interval = span(*interval).ok_or_else(rule)?;
    if interval < least || interval > most {
        return Err(rule());
    }
    Ok(interval)
}

/// The status until which a stream goes on.
pub fn until(until: i32) -> Result<Until, Violation> {
    match message::WatchUntil::try_from(until) {
        Ok(message::WatchUntil::Unspecified | message::WatchUntil::Terminal) => Ok(Until::Terminal),
        Ok(message::WatchUntil::Final) => Ok(Until::Final),
        Err(_) => Err(Violation::new(
            "until",
            "must be WATCH_UNTIL_TERMINAL or WATCH_UNTIL_FINAL",
        )),
    }
}

/// The size of a page.
pub fn page_size(size: i32) -> Result<usize, Violation> {
    let (usual, most) = PAGE;
    let rule = || Violation::new("page_size", format!("must be 0 to {most}"));
    match size {
        0 => usize::try_from(usual).map_err(|_| rule()),
        _ if size > most => Err(rule()),
        _ => usize::try_from(size).map_err(|_| rule()),
    }
}

/// An operator's note.
pub fn note(field: &str, note: &str) -> Result<String, Violation> {
    let note = note.trim();
    let length = note.chars().count();
    let is_text = |one: char| !one.is_control() || matches!(one, '\n' | '\r' | '\t');
    if length == 0 || length > NOTE_CHARACTERS_MAX || !note.chars().all(is_text) {
        let rule =
            format!("must be 1 to {NOTE_CHARACTERS_MAX} characters without control characters");
        return Err(Violation::new(field, rule));
    }
    Ok(note.to_owned())
}

/// A bound of a filter, rounded up to the millisecond. Purchases are stamped in whole milliseconds, so
/// "from" and "before" mean the same as with the fraction.
pub fn time(
    field: &str,
    time: Option<&prost_types::Timestamp>,
) -> Result<Option<Timestamp>, Violation> {
    let Some(time) = time else { return Ok(None) };
    let rule = || Violation::new(field, "must be a time in the years 1 to 9999");
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(rule());
    }
    let whole = time.seconds.checked_mul(1000).ok_or_else(rule)?;
    let at = |nanos: i32| {
        let millis = whole.checked_add(i64::from(nanos / 1_000_000))?;
        Timestamp::from_millis(millis).ok()
    };
    // The last millisecond that a time can have has no next one.
    let next = at(time.nanos + 999_999).or_else(|| at(time.nanos));
    next.map(Some).ok_or_else(rule)
}

/// A filter, without its caller.
pub fn filter(filter: Option<&PurchaseFilter>) -> Result<Filter, Failure> {
    let Some(filter) = filter else {
        return Ok(Filter::default());
    };
    let mut violations = Vec::new();
    let lengths = [
        ("filter.accounts", filter.accounts.len()),
        ("filter.providers", filter.providers.len()),
        ("filter.states", filter.states.len()),
        ("filter.finalities", filter.finalities.len()),
    ];
    for (field, length) in lengths {
        if length > FILTER_VALUES_MAX {
            violations.push(Violation::new(
                field,
                format!("must have at most {FILTER_VALUES_MAX} values"),
            ));
        }
    }
    let mut states = Vec::new();
    for number in filter.states.iter().take(FILTER_VALUES_MAX) {
        match State::ALL
            .iter()
            .find(|one| i32::from(super::convert::state(**one)) == *number)
        {
            Some(state) => states.push(*state),
            None => violations.push(Violation::new(
                "filter.states",
                "must be states of the contract",
            )),
        }
    }
    let mut finalities = Vec::new();
    for number in filter.finalities.iter().take(FILTER_VALUES_MAX) {
        let named = |one: &&Finality| i32::from(super::convert::finality(**one)) == *number;
        match Finality::ALL.iter().find(named) {
            Some(finality) => finalities.push(*finality),
            None => {
                violations.push(Violation::new(
                    "filter.finalities",
                    "must be finalities of the contract",
                ));
            }
        }
    }
    let mut checked = |result: Result<Option<Timestamp>, Violation>| match result {
        Ok(time) => time,
        Err(violation) => {
            violations.push(violation);
            None
        }
    };
    let created_from = checked(time("filter.created_from", filter.created_from.as_ref()));
    let created_before = checked(time(
        "filter.created_before",
        filter.created_before.as_ref(),
    ));
    let labels = labels("filter.labels", &filter.labels).unwrap_or_else(|violation| {
        violations.push(violation);
        BTreeMap::new()
    });
    if !violations.is_empty() {
        return Err(Failure::invalid(violations));
    }
    Ok(Filter {
        caller: None,
        accounts: filter.accounts.clone(),
        providers: filter.providers.clone(),
        states,
        finalities,
        labels,
        needs_attention: filter.needs_attention,
        created_from,
        created_before,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_1_to_255_printable_ascii_characters() {
        let table = [
            ("a".to_owned(), true),
            ("~ !".to_owned(), true),
            ("x".repeat(255), true),
            ("x".repeat(256), false),
            (String::new(), false),
            ("é".to_owned(), false),
            ("a\tb".to_owned(), false),
            ("a\u{7f}".to_owned(), false),
        ];
        for (text, expected) in table {
            assert_eq!(key(&text).is_ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_new_key_has_no_blanks_around_it() {
        for (text, expected) in [
            ("a", true),
            ("a b", true),
            (" a", false),
            ("a ", false),
            (" ", false),
        ] {
            assert_eq!(new_key(text).is_ok(), expected, "{text:?}");
            assert!(key(text).is_ok(), "{text:?} can be looked for");
        }
    }

    #[test]
    fn intervals_waits_and_pages_outside_their_range_are_refused() {
        let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let beat = |seconds, nanos| heartbeat(duration(seconds, nanos).as_ref()).is_ok();
        assert!(beat(5, 0) && beat(120, 0) && heartbeat(None).is_ok());
        assert!(!beat(4, 999_999_999) && !beat(120, 1) && !beat(-5, 0) && !beat(0, 0));
        let wait = |seconds| max_wait(duration(seconds, 0).as_ref()).is_ok();
        assert!(wait(0) && wait(60) && !wait(61) && !wait(-1));
        for (seconds, nanos) in [(1, -1), (-1, 1), (0, -1), (6, 1_000_000_000), (6, i32::MIN)] {
            assert!(
                max_wait(duration(seconds, nanos).as_ref()).is_err(),
                "{seconds} {nanos}"
            );
            assert!(!beat(seconds, nanos), "{seconds} {nanos}");
        }
        assert!(max_wait(duration(i64::MAX, 999_999_999).as_ref()).is_err());
        assert_eq!(page_size(0), Ok(100));
        assert_eq!(page_size(1000), Ok(1000));
        assert!(page_size(1001).is_err() && page_size(-1).is_err());
    }

    #[test]
    fn labels_are_few_and_short() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            labels("labels", &pairs.collect()).is_ok()
        };
        assert!(of(&[("a", "")]) && of(&[]));
        assert!(
            !of(&[("", "x")]) && !of(&[(&"k".repeat(64), "")]) && !of(&[("k", &"v".repeat(256))])
        );
        assert!(of(&[(&"k".repeat(63), &"v".repeat(255))]) && !of(&[("a\n", "")]));
        let many: HashMap<String, String> = (0..17)
            .map(|number| (number.to_string(), String::new()))
            .collect();
        assert!(labels("labels", &many).unwrap_err().rule.contains("16"));
    }

    #[test]
    fn notes_are_texts_of_some_lines() {
        assert_eq!(note("note", " a\nb\tc \n").as_deref(), Ok("a\nb\tc"));
        assert!(note("note", &"é".repeat(1_000)).is_ok());
        for bad in ["", " \n", "a\u{0}", "\u{1b}[2J", &"n".repeat(1_001)] {
            assert!(note("note", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_filters_times_mean_what_they_say_to_the_nanosecond() {
        let read = |seconds, nanos| {
            let time_ = prost_types::Timestamp { seconds, nanos };
            time("filter.created_from", Some(&time_)).map(|time| time.unwrap().as_millis())
        };
        let table = [
            ((1, 0), 1_000),
            ((1, 500_000_000), 1_500),
            // A purchase of 1.500 s is before this time, and a purchase of 1.501 s is after it.
            ((1, 500_000_001), 1_501),
            ((1, 999_999_999), 2_000),
            ((-1, 1), -999),
        ];
        for ((seconds, nanos), millis) in table {
            assert_eq!(read(seconds, nanos), Ok(millis), "{seconds} {nanos}");
        }
        assert!(read(0, -1).is_err() && read(0, 1_000_000_000).is_err());
        assert!(read(i64::MAX, 0).is_err() && read(253_402_300_800, 0).is_err());
        let last = read(253_402_300_799, 999_999_999);
        assert_eq!(last, Ok(253_402_300_799_999), "the last time there is");
    }

    #[test]
    fn a_filter_names_what_it_breaks() {
        let check = |filter_: PurchaseFilter, field: &str| {
            let status: tonic::Status = filter(Some(&filter_)).unwrap_err().into();
            assert!(status.message().contains(field), "{}", status.message());
        };
        check(
            PurchaseFilter {
                states: vec![0],
                ..Default::default()
            },
            "filter.states",
        );
        check(
            PurchaseFilter {
                states: vec![99],
                ..Default::default()
            },
            "filter.states",
        );
        check(
            PurchaseFilter {
                finalities: vec![0],
                ..Default::default()
            },
            "filter.finalities",
        );
        let accounts = vec![String::new(); 101];
        check(
            PurchaseFilter {
                accounts,
                ..Default::default()
            },
            "filter.accounts",
        );
        let created_from = Some(prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        });
        check(
            PurchaseFilter {
                created_from,
                ..Default::default()
            },
            "filter.created_from",
        );
    }
}
