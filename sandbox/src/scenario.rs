//! The single home of the scenarios: their names, the magic values that choose them in an order,
//! and their meanings.
//! Each provider has its own table of lives, which shows a scenario in the provider's words.

/// The future of a purchase, chosen by a magic value in the order that creates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scenario {
    /// The happy path, and the default.
    Paid,
    /// The payment fails.
    Declined,
    /// Nobody pays in time.
    Expired,
    /// Too little is paid.
    Underpaid,
    /// The money goes back.
    Refunded,
    /// The payment is disputed.
    Disputed,
    /// The purchase stays open for ever.
    Stuck,
    /// The happy path, ten times as slow.
    Slow,
    /// The happy path, with errors on some reads.
    Flaky,
    /// The happy path, through a word that no documentation knows.
    Unknown,
    /// The happy path, but the answer to the create is lost after it was processed.
    Lost,
    /// The happy path, but the first three reads are throttled.
    Throttled,
    /// The create is refused.
    Refused,
    /// Somebody at the provider has to look at it first.
    Held,
}

/// The mark before a scenario's name in a text that chooses it.
const MARK: &str = "sandbox:";

impl Scenario {
    /// Every scenario, in the order of the table in the README.
    pub const ALL: [Self; 14] = [
        Self::Paid,
        Self::Declined,
        Self::Expired,
        Self::Underpaid,
        Self::Refunded,
        Self::Disputed,
        Self::Stuck,
        Self::Slow,
        Self::Flaky,
        Self::Unknown,
        Self::Lost,
        Self::Throttled,
        Self::Refused,
        Self::Held,
    ];

    /// The name that follows `sandbox:` in a text field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Declined => "declined",
            Self::Expired => "expired",
            Self::Underpaid => "underpaid",
            Self::Refunded => "refunded",
            Self::Disputed => "disputed",
            Self::Stuck => "stuck",
            Self::Slow => "slow",
            Self::Flaky => "flaky",
            Self::Unknown => "unknown",
            Self::Lost => "lost",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Held => "held",
        }
    }

    /// The two last digits of an amount that choose it.
    ///
    /// `10` and other round endings are left out, so that everyday amounts are paid.
    #[must_use]
    pub fn cents(self) -> &'static str {
        match self {
            Self::Paid => "00",
            Self::Declined => "01",
            Self::Expired => "02",
            Self::Underpaid => "03",
            Self::Refunded => "04",
            Self::Disputed => "05",
            Self::Stuck => "06",
            Self::Slow => "07",
            Self::Flaky => "08",
            Self::Unknown => "09",
            Self::Lost => "11",
            Self::Throttled => "12",
            Self::Refused => "13",
            Self::Held => "14",
        }
    }

    /// The scenario with this name; `failed` is another name of `declined`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        if name == "failed" {
            return Some(Self::Declined);
        }
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.name() == name)
    }

    /// Reads the cents of a decimal amount such as `100.01`.
    pub(crate) fn of_amount(amount: &str) -> Self {
        let Some((_, decimals)) = amount.split_once('.') else {
            return Self::Paid;
        };
        let padded = format!("{decimals}0");
        if decimals.len() > 2 {
            return Self::Paid;
        }
        Self::of_cents(padded.get(..2).unwrap_or_default())
    }

    /// Reads the cents of an amount in minor units such as `10001`.
    pub(crate) fn of_minor(minor: &str) -> Self {
        let start = minor.len().saturating_sub(2);
        Self::of_cents(minor.get(start..).unwrap_or_default())
    }

    /// Looks for `sandbox:<name>` anywhere in a text.
    pub(crate) fn of_text(text: &str) -> Self {
        let Some((_, rest)) = text.split_once(MARK) else {
            return Self::Paid;
        };
        let name: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
        Self::named(&name).unwrap_or(Self::Paid)
    }

    fn of_cents(cents: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|scenario| scenario.cents() == cents)
            .unwrap_or(Self::Paid)
    }
}

#[cfg(test)]
mod tests {
    use super::Scenario;
    use crate::registry::REGISTRY;

    #[test]
    fn magic_values_choose_their_scenario() {
        assert_eq!(Scenario::of_amount("100.01"), Scenario::Declined);
        assert_eq!(Scenario::of_amount("2.5"), Scenario::Paid);
        assert_eq!(Scenario::of_amount("100"), Scenario::Paid);
        assert_eq!(Scenario::of_amount("1.001"), Scenario::Paid);
        assert_eq!(Scenario::of_minor("1039"), Scenario::Paid);
        assert_eq!(Scenario::of_minor("1004"), Scenario::Refunded);
        assert_eq!(Scenario::of_minor("7"), Scenario::Paid);
        assert_eq!(
            Scenario::of_text("order=7 sandbox:refunded;x"),
            Scenario::Refunded
        );
        assert_eq!(Scenario::of_text("sandbox:failed"), Scenario::Declined);
        assert_eq!(Scenario::of_text("sandbox:nonsense"), Scenario::Paid);
    }

    #[test]
    fn the_readme_holds_every_magic_value_and_every_life() {
        let readme = include_str!("../README.md");
        for scenario in Scenario::ALL {
            let row = format!("| `{}` | `{}` |", scenario.name(), scenario.cents());
            assert!(readme.contains(&row), "the README lacks the row\n{row}");
            for provider in &REGISTRY {
                let words: Vec<String> = (provider.life)(scenario)
                    .iter()
                    .map(|(after, word)| format!("`{word}` {}", crate::life::seconds(*after)))
                    .collect();
                let walk = if scenario == Scenario::Refused {
                    "refused".to_owned()
                } else {
                    words.join(", ")
                };
                let row = format!("| `{}` | {} | {walk} |", scenario.name(), provider.name);
                assert!(readme.contains(&row), "the README lacks the row\n{row}");
            }
        }
    }
}
