//! Checks of an order's or reference's fields, each with its proto name and its rule as a sentence:
//! what can be told without asking the provider.
//!
//! Knows no provider: what the limits are, and where they come from, stands at each provider.
//! Lengths that no provider documents are ours; they keep nonsense out of a request, no more.

use std::ops::RangeInclusive;

use super::Violation;
use crate::purchase::{Decimal, UnreadId};

/// The longest ordinary text of an order, in characters; ours.
pub(super) const TEXT_CHARACTERS_MAX: usize = 255;
/// The longest address of a web page, in bytes; ours.
pub(super) const URL_BYTES_MAX: usize = 2_048;
/// The most digits of an amount: what every JSON reader keeps of a number.
pub(super) const AMOUNT_DIGITS_MAX: usize = 15;

/// Collects the fields that break a rule.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Violation>);

impl Rules {
    /// The violations found, in the order of the checks.
    pub(super) fn into_violations(self) -> Vec<Violation> {
        self.0
    }

    /// Records a violation unless the rule holds.
    pub(super) fn hold(&mut self, field: &str, holds: bool, rule: impl Into<String>) {
        if !holds {
            self.0.push(Violation::new(field, rule));
        }
    }

    /// The violation of what is for another provider: an order or a reference.
    pub(super) fn foreign(kind: &str, provider: &str) -> Vec<Violation> {
        vec![Violation::new(kind, format!("is one of {provider}"))]
    }

    /// A text that must be there and not blank. Says whether it is.
    pub(super) fn required(&mut self, field: &str, text: &str) -> bool {
        let is_there = !text.trim().is_empty();
        self.hold(field, is_there, "is required");
        is_there
    }

    /// A text that must be there, as [`Rules::text`].
    pub(super) fn required_text(&mut self, field: &str, text: &str, max: usize) {
        if self.required(field, text) {
            self.text(field, text, max);
        }
    }

    /// A text that may be empty, of at most `max` characters without control characters.
    pub(super) fn text(&mut self, field: &str, text: &str, max: usize) {
        let fits = text.chars().count() <= max && !text.chars().any(char::is_control);
        self.hold(
            field,
            fits,
            format!("is at most {max} characters without control characters"),
        );
    }

    /// A text that, where it is given, has this many characters.
    pub(super) fn length(&mut self, field: &str, text: &str, allowed: RangeInclusive<usize>) {
        // The providers' limits are JavaScript's `length`, which counts UTF-16 units.
        let holds = text.is_empty() || allowed.contains(&text.encode_utf16().count());
        let (least, most) = (allowed.start(), allowed.end());
        self.hold(
            field,
            holds,
            if *least <= 1 {
                format!("has at most {most} characters")
            } else {
                format!("has {least} to {most} characters")
            },
        );
    }

    /// A text that, where it is given, is one of these words.
    pub(super) fn one_of(&mut self, field: &str, text: &str, words: &[&str]) {
        self.hold(
            field,
            text.is_empty() || words.contains(&text),
            format!("is one of {}", words.join(", ")),
        );
    }

    /// A text that, where it is given, is hexadecimal.
    pub(super) fn hexadecimal(&mut self, field: &str, text: &str) {
        self.hold(
            field,
            text.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "is hexadecimal",
        );
    }

    /// A text without U+0000, which JSON carries and providers' databases refuse.
    pub(super) fn no_zero_character(&mut self, field: &str, text: &str) {
        self.hold(
            field,
            !text.contains('\0'),
            "does not contain the character U+0000",
        );
    }

    /// An absolute web address; may be empty where it is not `required`.
    pub(super) fn url(&mut self, field: &str, text: &str, required: bool) {
        if text.is_empty() {
            self.hold(field, !required, "is required");
            return;
        }
        self.hold(
            field,
            text.len() <= URL_BYTES_MAX && is_web_address(text),
            format!("is an absolute http or https URL of at most {URL_BYTES_MAX} bytes"),
        );
    }

    /// A decimal number above zero with at most `decimals` decimals.
    pub(super) fn amount(&mut self, field: &str, text: &str, decimals: usize) {
        let fits = Decimal::parse(text).is_ok_and(|amount| {
            let digits = amount
                .canonical()
                .bytes()
                .filter(u8::is_ascii_digit)
                .count();
            amount.is_positive() && amount.decimals() <= decimals && digits <= AMOUNT_DIGITS_MAX
        });
        self.hold(
            field,
            fits,
            format!(
                "is a decimal number above 0 with at most {decimals} decimals and \
                 {AMOUNT_DIGITS_MAX} digits"
            ),
        );
    }

    /// An identifier in UUID form.
    pub(super) fn uuid(&mut self, field: &str, text: &str) {
        self.hold(field, uuid(text).is_some(), "is a hyphenated UUID");
    }
}

/// A hyphenated UUID in lower case, so that one purchase has one name (promise D3).
pub(super) fn uuid(text: &str) -> Option<String> {
    if text.len() != uuid::fmt::Hyphenated::LENGTH {
        return None;
    }
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    Some(uuid.hyphenated().to_string())
}

/// What a caller's name for a purchase has to be: of the provider's own shape, as far as that is known,
/// or what an accepted create's answer was kept by. The latter is the wider one.
pub(super) const ID_RULE: &str = "is 1 to 200 visible ASCII characters without `/`, `?`, `#`, `%` and `\\`, other than `.` and `..`";

/// A caller's name for a purchase: in the spelling of the provider's own shape, or as it is.
pub(super) fn named_id(text: &str, known: impl FnOnce(&str) -> Option<String>) -> Option<String> {
    known(text).or_else(|| UnreadId::has_shape(text).then(|| text.to_owned()))
}

/// Whether a text is an absolute web address without spaces or control characters.
pub(super) fn is_web_address(text: &str) -> bool {
    let clean = !text.contains(|character: char| character.is_control() || character == ' ');
    clean
        && url::Url::parse(text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_one_spelling() {
        let table = [
            (
                "0B7A1C9E-1111-4222-8333-00000000000A",
                Some("0b7a1c9e-1111-4222-8333-00000000000a"),
            ),
            ("0b7a1c9e111142228333000000000001", None),
            ("{0b7a1c9e-1111-4222-8333-000000000001}", None),
            ("../0b7a1c9e-1111-4222-8333-0000000001", None),
            ("../x", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(uuid(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn web_addresses_are_absolute() {
        for (text, expected) in [
            ("https://shop.example.test/ok?a=b", true),
            ("http://localhost:8080", true),
            ("/ok", false),
            ("javascript:alert(1)", false),
            ("ftp://shop.example.test", false),
            ("https://shop.example.test/a b", false),
            ("https://shop.example.test/\n", false),
            ("https://", false),
        ] {
            assert_eq!(is_web_address(text), expected, "{text:?}");
        }
    }

    #[test]
    fn amounts_are_positive_and_exact() {
        for (text, decimals, expected) in [
            ("10.39", 2, true),
            ("10.390", 2, true),
            ("10.391", 2, false),
            ("0", 2, false),
            ("-1", 2, false),
            ("1e3", 2, false),
            ("", 2, false),
            ("999999999999999", 2, true),
            ("9999999999999999", 2, false),
        ] {
            let mut rules = Rules::default();
            rules.amount("amount", text, decimals);
            assert_eq!(rules.into_violations().is_empty(), expected, "{text:?}");
        }
    }
}
