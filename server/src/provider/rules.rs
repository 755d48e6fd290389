//! The rules for the fields of orders and references: one table for each message of the contract.
//!
//! The check of a field and the text that its caller reads come from its row. The contract's comments
//! and `docs/PROVIDERS.md` repeat the rows, and a test compares them. This file knows no provider: the
//! limits and their sources stand at each provider. A length that no provider documents is ours, and
//! only keeps nonsense out of a request.

#[cfg(test)]
mod tests;

use super::{Stated, Violation};
use crate::purchase::{Decimal, Timestamp, UnreadId};

/// Ours: the longest ordinary text of an order, in characters.
pub(super) const TEXT_CHARACTERS_MAX: usize = 255;
/// Ours: the longest address of a web page, in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// The most digits of an amount: as many as every JSON reader keeps of a number.
pub(super) const AMOUNT_DIGITS_MAX: usize = 15;
/// Ours: the largest JSON object that is passed on.
const OBJECT_BYTES_MAX: usize = 16 * 1024;

/// The rules of one message.
pub(super) struct Table<M: 'static> {
    /// The message's name in the contract.
    pub(super) message: &'static str,
    /// The message's place below the order or reference; empty for the order itself.
    pub(super) path: &'static str,
    /// One rule each. A field can have several.
    pub(super) rows: &'static [Row<M>],
}

/// One rule of a field.
pub(super) struct Row<M> {
    field: &'static str,
    rule: Rule<M>,
}

enum Rule<M> {
    Text {
        form: Form,
        is_required: bool,
        of: fn(&M) -> &str,
    },
    Number {
        least: u32,
        most: Option<u32>,
        of: fn(&M) -> Option<u32>,
    },
    Time {
        of: fn(&M) -> Option<&prost_types::Timestamp>,
    },
    List {
        most: usize,
        /// The entries' name, and the rule for each of them.
        entries: &'static str,
        holds: fn(&M, usize) -> bool,
    },
    Other {
        /// The words after "must be".
        text: &'static str,
        holds: fn(&M, Timestamp) -> bool,
    },
}

/// The form of a text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// At most so many characters, none of them a control character.
    Printable(usize),
    /// So many characters without U+0000, which JSON carries and providers' databases refuse. These
    /// limits are JavaScript's `length`, which counts UTF-16 units.
    Units(usize, usize),
    /// Any length without U+0000.
    Any,
    /// So many hexadecimal digits.
    Hexadecimal(usize, usize),
    /// So many visible ASCII characters.
    Visible(usize, usize),
    /// One of these words.
    Words(&'static [&'static str]),
    /// A hyphenated UUID.
    Uuid,
    /// A caller's name for a purchase: a hyphenated UUID, or the id that an accepted create's answer
    /// was kept by.
    NamedUuid,
    /// A caller's name for a purchase: at most so many letters, digits and these signs, or the id that
    /// an accepted create's answer was kept by.
    Named(usize, &'static str),
    /// A decimal number above 0 with at most so many decimals.
    Amount(Option<usize>),
    /// A decimal number above 0 of at most so many characters.
    Decimal(usize),
    /// An integer that fits into 64 bits with a sign, above 0, in at most so many digits.
    Integer(usize),
    /// An absolute web address.
    Url,
    /// A JSON object.
    Object,
}

impl<M> Table<M> {
    /// The rules that a message breaks.
    pub(super) fn check(&self, message: &M, now: Timestamp) -> Vec<Violation> {
        self.check_in(self.path, message, now)
    }

    /// As [`Table::check`], for a message whose place is known only at run time.
    pub(super) fn check_in(&self, path: &str, message: &M, now: Timestamp) -> Vec<Violation> {
        let broken = self.rows.iter().filter(|row| !row.holds(message, now));
        broken
            .map(|row| Violation::new(below(path, row.field), row.rule.text()))
            .collect()
    }

    /// The rules as the contract's comments and the docs have them.
    pub(super) fn stated(&self) -> Vec<Stated> {
        let state = |row: &Row<M>| Stated {
            message: self.message,
            path: below(self.path, row.field),
            field: row.field,
            rule: row.rule.stated(),
            is_required: row.rule.is_required(),
        };
        self.rows.iter().map(state).collect()
    }
}

/// A field below a path.
fn below(path: &str, field: &str) -> String {
    match path {
        "" => field.to_owned(),
        _ => format!("{path}.{field}"),
    }
}

impl<M> Row<M> {
    /// A text that may be empty.
    pub(super) const fn optional(field: &'static str, form: Form, of: fn(&M) -> &str) -> Self {
        Self::text(field, form, false, of)
    }

    /// A text that must be there.
    pub(super) const fn required(field: &'static str, form: Form, of: fn(&M) -> &str) -> Self {
        Self::text(field, form, true, of)
    }

    const fn text(field: &'static str, form: Form, is_required: bool, of: fn(&M) -> &str) -> Self {
        let rule = Rule::Text {
            form,
            is_required,
            of,
        };
        Self { field, rule }
    }

    /// A whole number in a range; it may be absent.
    pub(super) const fn number(
        field: &'static str,
        least: u32,
        most: Option<u32>,
        of: fn(&M) -> Option<u32>,
    ) -> Self {
        let rule = Rule::Number { least, most, of };
        Self { field, rule }
    }

    /// A time that must be there.
    pub(super) const fn time(
        field: &'static str,
        of: fn(&M) -> Option<&prost_types::Timestamp>,
    ) -> Self {
        let rule = Rule::Time { of };
        Self { field, rule }
    }

    /// A list of at most so many entries; `holds` is given the limit.
    pub(super) const fn list(
        field: &'static str,
        most: usize,
        entries: &'static str,
        holds: fn(&M, usize) -> bool,
    ) -> Self {
        let rule = Rule::List {
            most,
            entries,
            holds,
        };
        Self { field, rule }
    }

    /// Another rule, in words: of several fields, or of the time.
    pub(super) const fn other(
        field: &'static str,
        text: &'static str,
        holds: fn(&M, Timestamp) -> bool,
    ) -> Self {
        let rule = Rule::Other { text, holds };
        Self { field, rule }
    }

    fn holds(&self, message: &M, now: Timestamp) -> bool {
        match &self.rule {
            Rule::Text {
                form,
                is_required,
                of,
            } => match of(message) {
                "" => !is_required,
                text => form.holds(text) && !(*is_required && text.trim().is_empty()),
            },
            Rule::Number { least, most, of } => of(message)
                .is_none_or(|number| number >= *least && most.is_none_or(|most| number <= most)),
            Rule::Time { of } => of(message).is_some_and(|time| time_of(time).is_some()),
            Rule::List { most, holds, .. } => holds(message, *most),
            Rule::Other { holds, .. } => holds(message, now),
        }
    }
}

impl<M> Rule<M> {
    /// The sentence for the caller whose field breaks the rule.
    fn text(&self) -> String {
        let stated = self.stated();
        match self {
            Self::Text {
                form,
                is_required: false,
                ..
            } if !form.takes_empty() => format!("must be {stated}, or empty"),
            _ => format!("must be {stated}"),
        }
    }

    fn stated(&self) -> String {
        match self {
            Self::Text {
                form, is_required, ..
            } => form.stated(*is_required),
            Self::Number {
                least,
                most: Some(most),
                ..
            } => format!("{least} to {most}"),
            Self::Number { least, .. } => format!("{least} or more"),
            Self::Time { .. } => "a time of the years 1 to 9999".to_owned(),
            Self::List { most, entries, .. } => format!("at most {most} {entries}"),
            Self::Other { text, .. } => (*text).to_owned(),
        }
    }

    fn is_required(&self) -> bool {
        match self {
            Self::Text { is_required, .. } => *is_required,
            Self::Time { .. } => true,
            Self::Number { .. } | Self::List { .. } | Self::Other { .. } => false,
        }
    }
}

impl Form {
    fn holds(self, text: &str) -> bool {
        match self {
            Self::Printable(most) => {
                text.chars().count() <= most && !text.chars().any(char::is_control)
            }
            Self::Units(least, most) => {
                (least..=most).contains(&text.encode_utf16().count()) && Self::Any.holds(text)
            }
            Self::Any => !text.contains('\0'),
            Self::Hexadecimal(least, most) => {
                (least..=most).contains(&text.len())
                    && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            }
            Self::Visible(least, most) => {
                (least..=most).contains(&text.len())
                    && text.bytes().all(|byte| byte.is_ascii_graphic())
            }
            Self::Words(words) => words.contains(&text),
            Self::Uuid => uuid(text).is_some(),
            Self::NamedUuid => named_uuid(text).is_some(),
            Self::Named(most, signs) => is_signed(text, most, signs) || UnreadId::has_shape(text),
            Self::Amount(decimals) => Decimal::parse(text).is_ok_and(|amount| {
                let canonical = amount.canonical();
                let digits = canonical.bytes().filter(u8::is_ascii_digit).count();
                amount.is_positive()
                    && decimals.is_none_or(|most| amount.decimals() <= most)
                    && digits <= AMOUNT_DIGITS_MAX
            }),
            Self::Decimal(most) => {
                text.len() <= most && Decimal::parse(text).is_ok_and(|amount| amount.is_positive())
            }
            Self::Integer(most) => {
                let fits = |value: u128| (1..=i64::MAX.unsigned_abs().into()).contains(&value);
                text.len() <= most
                    && text.bytes().all(|byte| byte.is_ascii_digit())
                    && text.parse().is_ok_and(fits)
            }
            Self::Url => text.len() <= URL_BYTES_MAX && is_web_address(text),
            Self::Object => {
                let parsed = || serde_json::from_str::<serde_json::Value>(text);
                text.len() <= OBJECT_BYTES_MAX && parsed().is_ok_and(|value| value.is_object())
            }
        }
    }

    /// True if the form's own words say that an empty text is allowed.
    fn takes_empty(self) -> bool {
        matches!(self, Self::Printable(_) | Self::Units(0, _) | Self::Any)
    }

    /// The form in words, which the contract's comments repeat.
    fn stated(self, is_required: bool) -> String {
        let blank = if is_required { ", not all blank" } else { "" };
        match self {
            Self::Printable(most) => {
                let count = count(usize::from(is_required), most);
                format!("{count} characters without control characters{blank}")
            }
            Self::Units(least, most) => {
                format!("{} characters without U+0000{blank}", count(least, most))
            }
            Self::Any => format!("text without U+0000{blank}"),
            Self::Hexadecimal(least, most) => format!("{} hexadecimal digits", count(least, most)),
            Self::Visible(least, most) => {
                format!("{} visible ASCII characters", count(least, most))
            }
            Self::Words(words) => one_of(words),
            Self::Uuid => "a hyphenated UUID".to_owned(),
            Self::NamedUuid => format!("a hyphenated UUID, or {UNREAD_ID}"),
            Self::Named(most, signs) => {
                let count = count(1, most);
                format!("{count} letters, digits and signs of \"{signs}\", or {UNREAD_ID}")
            }
            Self::Amount(None) => {
                format!("a decimal number above 0 with at most {AMOUNT_DIGITS_MAX} digits")
            }
            Self::Amount(Some(decimals)) => format!(
                "a decimal number above 0 with at most {decimals} decimals and \
                 {AMOUNT_DIGITS_MAX} digits"
            ),
            Self::Decimal(most) => {
                format!("a decimal number above 0 of at most {most} characters")
            }
            Self::Integer(most) => {
                format!("an integer of 1 to {} in at most {most} digits", i64::MAX)
            }
            Self::Url => {
                let most = thousands(URL_BYTES_MAX);
                format!("an absolute http or https address of at most {most} bytes")
            }
            Self::Object => {
                format!("a JSON object of at most {} KiB", OBJECT_BYTES_MAX / 1024)
            }
        }
    }
}

/// The id that an accepted create's answer was kept by, in words.
const UNREAD_ID: &str =
    "1 to 200 visible ASCII characters without / ? # % \\, other than \".\" and \"..\"";

fn count(least: usize, most: usize) -> String {
    let most = thousands(most);
    match least {
        0 => format!("at most {most}"),
        _ => format!("{least} to {most}"),
    }
}

/// A number below a million, with a comma before its last three digits.
fn thousands(number: usize) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    }
}

/// Words in quotes, with "or" before the last.
fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// True if a text is 1 to `most` letters, digits and these signs, and leads nowhere else in a path.
pub(super) fn is_signed(text: &str, most: usize, signs: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || signs.as_bytes().contains(&byte);
    (1..=most).contains(&text.len()) && text.bytes().all(fits) && !matches!(text, "." | "..")
}

/// A hyphenated UUID in lower case, so that one purchase has one name (promise D3).
pub(super) fn uuid(text: &str) -> Option<String> {
    if text.len() != uuid::fmt::Hyphenated::LENGTH {
        return None;
    }
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    Some(uuid.hyphenated().to_string())
}

/// A caller's name for a purchase: a UUID in its one spelling, or the id that an accepted create's
/// answer was kept by, as it is.
pub(super) fn named_uuid(text: &str) -> Option<String> {
    uuid(text).or_else(|| UnreadId::has_shape(text).then(|| text.to_owned()))
}

/// True if a text is an absolute web address without spaces or control characters.
pub(super) fn is_web_address(text: &str) -> bool {
    let clean = !text.contains(|character: char| character.is_control() || character == ' ');
    clean
        && url::Url::parse(text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// The point in time of a proto timestamp, cut to the millisecond; `None` if it is none.
pub(super) fn time_of(time: &prost_types::Timestamp) -> Option<Timestamp> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    let millis = time
        .seconds
        .checked_mul(1_000)?
        .checked_add(i64::from(time.nanos / 1_000_000))?;
    Timestamp::from_millis(millis).ok()
}
