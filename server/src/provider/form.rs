//! Checking the form of an order or reference: what can be told without asking the provider.
//!
//! Lengths that no provider documents are ours; they keep nonsense out of a request, no more.

use super::Violation;
use crate::purchase::Decimal;

/// The longest ordinary text of an order, in characters; ours.
pub(super) const TEXT_CHARACTERS_MAX: usize = 255;
/// The longest address of a web page, in bytes; ours.
pub(super) const URL_BYTES_MAX: usize = 2_048;
/// The most digits of an amount: what every JSON reader keeps of a number.
pub(super) const AMOUNT_DIGITS_MAX: usize = 15;

/// Collects the rules that a form breaks.
#[derive(Default)]
pub(super) struct Form(Vec<Violation>);

impl Form {
    /// A form with one violation: it is another provider's.
    pub(super) fn foreign(field: &str, provider: &str) -> Vec<Violation> {
        vec![Violation::new(field, format!("is for {provider}"))]
    }

    /// The broken rules.
    pub(super) fn violations(self) -> Vec<Violation> {
        self.0
    }

    /// A rule that must hold of a field.
    pub(super) fn must(&mut self, field: &str, holds: bool, rule: impl Into<String>) {
        if !holds {
            self.0.push(Violation::new(field, rule));
        }
    }

    /// A text that may be empty, of at most `max` characters without control characters.
    pub(super) fn optional(&mut self, field: &str, text: &str, max: usize) {
        let fits = text.chars().count() <= max && !text.chars().any(char::is_control);
        self.must(
            field,
            fits,
            format!("is at most {max} characters without control characters"),
        );
    }

    /// A text that is not blank, of at most `max` characters without control characters.
    pub(super) fn required(&mut self, field: &str, text: &str, max: usize) {
        if text.trim().is_empty() {
            self.must(field, false, "is required");
            return;
        }
        self.optional(field, text, max);
    }

    /// An absolute web address; may be empty where it is not `required`.
    pub(super) fn url(&mut self, field: &str, text: &str, required: bool) {
        if text.is_empty() {
            self.must(field, !required, "is required");
            return;
        }
        self.must(
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
        self.must(
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
        self.must(field, uuid(text).is_some(), "is a hyphenated UUID");
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
            let mut form = Form::default();
            form.amount("amount", text, decimals);
            assert_eq!(form.violations().is_empty(), expected, "{text:?}");
        }
    }
}
