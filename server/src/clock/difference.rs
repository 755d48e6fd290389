//! The difference between two clocks, in words.

use std::fmt;

/// A difference in milliseconds, of either sign; its words have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Difference(pub(super) i64);

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.unsigned_abs() / 1_000;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
        let parts = [(days, "d"), (hours, "h"), (minutes, "min")];
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(formatter, "{count} {unit} ")?;
        }
        write!(formatter, "{} s", seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_in_days_hours_minutes_and_seconds() {
        for (millis, expected) in [
            (0, "0 s"),
            (-5_999, "5 s"),
            (90_000, "1 min 30 s"),
            (-7_200_000, "2 h 0 s"),
            (3 * 86_400_000 + 61_000, "3 d 1 min 1 s"),
        ] {
            assert_eq!(Difference(millis).to_string(), expected);
        }
    }
}
