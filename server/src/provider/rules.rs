//! Checks of an order's fields, each with its proto name and its rule as a sentence.
//!
//! Knows no provider: what the limits are, and where they come from, stands at each provider.

use std::ops::RangeInclusive;

use super::Violation;

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

    /// A text that must be there. Says whether it is.
    pub(super) fn required(&mut self, field: &str, text: &str) -> bool {
        self.hold(field, !text.is_empty(), "is required");
        !text.is_empty()
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
}
