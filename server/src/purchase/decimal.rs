//! Exact decimal numbers: amounts are never held in floating point.

use std::{cmp::Ordering, fmt};

/// A decimal number of any size, kept digit by digit.
///
/// Two numbers are equal by value: `2.50` equals `2.5`. [`fmt::Display`] gives the plain form
/// without exponent and with the digits that were read.
#[derive(Debug, Clone)]
pub struct Decimal {
    negative: bool,
    /// Digits before the point, without leading zeros; empty for zero.
    whole: String,
    /// Digits after the point as they were given, trailing zeros included.
    fraction: String,
}

/// A text that makes no [`Decimal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// It is no decimal number.
    #[error("not a decimal number")]
    NoNumber,
    /// It has more digits than are kept.
    #[error("a decimal number of too many digits")]
    TooLong,
}

/// The most digits on either side of the point, as long as an identifier can be; a hostile exponent
/// must not become a longer text.
const DIGITS_MAX: usize = 8_000;

impl Decimal {
    /// Reads a plain decimal number: `-`, digits, and optionally a point with digits after it.
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        if text.contains(['e', 'E', '+']) {
            return Err(DecimalError::NoNumber);
        }
        Self::parse_json(text)
    }

    /// Reads a number as JSON writes it, which includes exponents: `2.63e-05`.
    pub fn parse_json(text: &str) -> Result<Self, DecimalError> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return Err(DecimalError::NoNumber),
            Some((whole, fraction)) => (whole, fraction),
            None => (mantissa, ""),
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let power = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if [whole, power].contains(&"") || ![whole, fraction, power].into_iter().all(digits) {
            return Err(DecimalError::NoNumber);
        }
        // Only digits are left, so a number that does not fit has too many of them.
        let exponent = exponent.parse().map_err(|_| DecimalError::TooLong)?;
        let (whole, fraction) = shift(whole, fraction, exponent)?;
        let whole = whole.trim_start_matches('0').to_owned();
        if whole.len() > DIGITS_MAX || fraction.len() > DIGITS_MAX {
            return Err(DecimalError::TooLong);
        }
        Ok(Self {
            negative,
            whole,
            fraction,
        })
    }

    /// True if the number is greater than zero.
    pub fn is_positive(&self) -> bool {
        !self.negative && !self.is_zero()
    }

    /// True if the number is zero, however it was written.
    pub fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.bytes().all(|digit| digit == b'0')
    }

    /// Digits after the point, not counting trailing zeros.
    pub fn decimals(&self) -> usize {
        self.fraction.trim_end_matches('0').len()
    }

    /// The number in units of `10^-decimals`, such as cents; `None` if it has more decimals.
    pub fn to_minor_units(&self, decimals: usize) -> Option<String> {
        let fraction = self.fraction.trim_end_matches('0');
        if self.negative || fraction.len() > decimals {
            return None;
        }
        let text = format!("{}{fraction:0<decimals$}", self.whole);
        let text = text.trim_start_matches('0');
        Some(if text.is_empty() {
            "0".to_owned()
        } else {
            text.to_owned()
        })
    }

    /// The shortest text of this value: equal numbers have equal texts.
    pub fn canonical(&self) -> String {
        let mut short = self.clone();
        short.fraction = self.fraction.trim_end_matches('0').to_owned();
        short.to_string()
    }
}

/// Moves the point by `exponent` places.
fn shift(whole: &str, fraction: &str, exponent: i32) -> Result<(String, String), DecimalError> {
    let places = usize::try_from(exponent.unsigned_abs()).map_err(|_| DecimalError::TooLong)?;
    if places > DIGITS_MAX {
        return Err(DecimalError::TooLong);
    }
    if exponent >= 0 {
        let padded = format!("{fraction:0<places$}");
        let (moved, rest) = padded.split_at(places);
        return Ok((format!("{whole}{moved}"), rest.to_owned()));
    }
    let padded = format!("{whole:0>width$}", width = places + 1);
    let (rest, moved) = padded.split_at(padded.len() - places);
    Ok((rest.to_owned(), format!("{moved}{fraction}")))
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative && !self.is_zero() {
            formatter.write_str("-")?;
        }
        formatter.write_str(if self.whole.is_empty() {
            "0"
        } else {
            &self.whole
        })?;
        if !self.fraction.is_empty() {
            write!(formatter, ".{}", self.fraction)?;
        }
        Ok(())
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.is_zero(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let magnitude = || {
            let width = self.fraction.len().max(other.fraction.len());
            let fraction = |number: &Self| format!("{:0<width$}", number.fraction);
            (self.whole.len().cmp(&other.whole.len()))
                .then_with(|| self.whole.cmp(&other.whole))
                .then_with(|| fraction(self).cmp(&fraction(other)))
        };
        match (sign(self), sign(other)) {
            (-1, -1) => magnitude().reverse(),
            (1, 1) => magnitude(),
            (left, right) => left.cmp(&right),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_without_rounding() {
        let table = [
            ("10.174252", Some("10.174252")),
            ("2.63e-05", Some("0.0000263")),
            ("1E3", Some("1000")),
            ("1.5e1", Some("15")),
            ("25.0", Some("25.0")),
            ("007", Some("7")),
            ("0", Some("0")),
            ("-0.0", Some("0.0")),
            ("-1.5", Some("-1.5")),
            (
                "9999999999999999999999999",
                Some("9999999999999999999999999"),
            ),
            ("1.", None),
            (".5", None),
            ("", None),
            ("-", None),
            ("1e+2", Some("100")),
            ("1e", None),
            ("1e+", None),
            ("1e1.5", None),
            ("1,5", None),
            ("NaN", None),
            ("１", None),
        ];
        for (text, expected) in table {
            let read = Decimal::parse_json(text)
                .ok()
                .map(|number| number.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
        assert!(Decimal::parse("1e3").is_err());
        assert!(Decimal::parse("+1").is_err());
    }

    #[test]
    fn a_number_of_too_many_digits_is_told_from_none() {
        let parse = |text: &str| Decimal::parse_json(text).map(|number| number.to_string().len());
        assert_eq!(parse(&"7".repeat(DIGITS_MAX)), Ok(DIGITS_MAX));
        assert_eq!(parse("1e7999"), Ok(DIGITS_MAX));
        for long in [
            "7".repeat(DIGITS_MAX + 1),
            format!("0.{}", "7".repeat(DIGITS_MAX + 1)),
            "1e8000".to_owned(),
            "1e999999999".to_owned(),
            "1e-99999999999".to_owned(),
        ] {
            assert_eq!(parse(&long), Err(DecimalError::TooLong));
        }
        assert_eq!(parse("much"), Err(DecimalError::NoNumber));
    }

    #[test]
    fn numbers_compare_by_value() {
        let ordered = [
            "-10", "-9.5", "-0.01", "0", "0.009", "0.01", "2.5", "2.51", "10", "100.0",
        ];
        let number = |text| Decimal::parse(text).unwrap();
        for (place, left) in ordered.iter().enumerate() {
            for (other_place, right) in ordered.iter().enumerate() {
                assert_eq!(
                    number(left).cmp(&number(right)),
                    place.cmp(&other_place),
                    "{left} {right}"
                );
            }
        }
        assert_eq!(number("2.50"), number("2.5"));
        assert_eq!(number("2.50").canonical(), "2.5");
        assert_eq!(number("-0").canonical(), "0");
    }

    #[test]
    fn minor_units_are_exact_or_refused() {
        let minor = |text: &str| Decimal::parse(text).unwrap().to_minor_units(2);
        assert_eq!(minor("10.39").as_deref(), Some("1039"));
        assert_eq!(minor("10.390").as_deref(), Some("1039"));
        assert_eq!(minor("10").as_deref(), Some("1000"));
        assert_eq!(minor("0.05").as_deref(), Some("5"));
        assert_eq!(minor("0").as_deref(), Some("0"));
        assert_eq!(minor("10.391"), None);
        assert_eq!(minor("-1"), None);
    }
}
