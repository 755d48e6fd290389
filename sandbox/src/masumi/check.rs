//! Masumi's checks of a request, with the texts of the real service.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{NETWORKS, SOURCE_TYPES};

const MINUTE_MS: i64 = 60_000;

/// The two payment sources of the simulated service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    V1,
    V2,
}

impl Source {
    /// An agent identifier that begins with `cdcd` is registered with the second source.
    pub(super) fn of(order: &Value) -> Self {
        let text = |name: &str| order.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("agentIdentifier").starts_with("cdcd") {
            Self::V2
        } else {
            Self::V1
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V1 => "Web3CardanoV1",
            Self::V2 => "Web3CardanoV2",
        }
    }

    pub(super) fn address(self) -> &'static str {
        match self {
            Self::V1 => "addr_test1wqg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg0tyy26",
            Self::V2 => "addr_test1wq3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygs84tgh5",
        }
    }

    pub(super) fn digit(self) -> char {
        match self {
            Self::V1 => '1',
            Self::V2 => '2',
        }
    }
}

/// The fields of a body or a query while they are checked.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    values: &'a Value,
    complaints: Vec<String>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(values: &'a Value) -> Self {
        Self {
            values,
            complaints: Vec::new(),
        }
    }

    /// All complaints, or nothing.
    pub(super) fn complaint(self) -> Option<String> {
        (!self.complaints.is_empty()).then(|| self.complaints.join("; "))
    }

    fn complain(&mut self, text: String) {
        self.complaints.push(text);
    }

    pub(super) fn text(&mut self, name: &str, min: usize, max: usize, required: bool) {
        let value = self.values.get(name);
        if value.is_none() && !required {
            return;
        }
        if let Some(text) = check_text(name, value, min, max) {
            self.complain(text);
        }
    }

    pub(super) fn one_of(&mut self, name: &str, words: &[&str], required: bool) {
        let value = self.values.get(name);
        if value.is_none() && !required {
            return;
        }
        if !value
            .and_then(Value::as_str)
            .is_some_and(|word| words.contains(&word))
        {
            let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            let words = words.join("|");
            self.complain(format!("{name}: Invalid option: expected one of {words}"));
        }
    }

    /// The page size: 1 to 100, 10 if it is not given; a fraction is cut off.
    pub(super) fn limit(&mut self) -> usize {
        let Some(text) = self.values.get("limit").and_then(Value::as_str) else {
            return 10;
        };
        let number = if text.trim().is_empty() {
            Ok(0.0)
        } else {
            text.trim().parse::<f64>()
        };
        match number {
            Ok(number) if number < 1.0 => {
                self.complain("limit: Too small: expected number to be >=1".to_owned());
            }
            Ok(number) if number > 100.0 => {
                self.complain("limit: Too big: expected number to be <=100".to_owned());
            }
            Ok(number) if number.is_finite() => {
                return (1..=100_u32)
                    .rev()
                    .find(|whole| f64::from(*whole) <= number)
                    .and_then(|whole| usize::try_from(whole).ok())
                    .unwrap_or(1);
            }
            Ok(_) | Err(_) => {
                self.complain("limit: Invalid input: expected number, received NaN".to_owned());
            }
        }
        10
    }

    /// A time in ISO 8601, or a date.
    pub(super) fn time(&mut self, name: &str) -> Option<Timestamp> {
        let text = self.values.get(name)?.as_str()?;
        let date = |text: &str| {
            let date: jiff::civil::Date = text.parse().ok()?;
            date.to_zoned(jiff::tz::TimeZone::UTC)
                .ok()
                .map(|midnight| midnight.timestamp())
        };
        let time = text.parse::<Timestamp>().ok().or_else(|| date(text));
        if time.is_none() {
            self.complain(format!("{name}: {name} must be a valid ISO date string"));
        }
        time
    }
}

fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "undefined",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    }
}

fn check_text(name: &str, value: Option<&Value>, min: usize, max: usize) -> Option<String> {
    let Some(text) = value.and_then(Value::as_str) else {
        return Some(format!(
            "{name}: Invalid input: expected string, received {}",
            kind(value)
        ));
    };
    let length = text.chars().count();
    if length < min {
        return Some(format!(
            "{name}: Too small: expected string to have >={min} characters"
        ));
    }
    (length > max).then(|| format!("{name}: Too big: expected string to have <={max} characters"))
}

/// The shape of an order, in the order of the real schema's fields.
pub(super) fn create(order: &Value) -> Fields<'_> {
    let mut fields = Fields::of(order);
    fields.text("blockchainIdentifier", 0, 8000, true);
    fields.one_of("network", &NETWORKS, true);
    fields.text("inputHash", 0, 250, true);
    fields.text("sellerVkey", 0, 250, true);
    fields.text("agentIdentifier", 57, 250, true);
    fields.one_of("paymentSourceType", &SOURCE_TYPES, false);
    amounts(&mut fields);
    for name in [
        "unlockTime",
        "externalDisputeUnlockTime",
        "submitResultTime",
        "payByTime",
    ] {
        fields.text(name, 0, 250, true);
    }
    fields.text("metadata", 0, 100_000, false);
    fields.text("identifierFromPurchaser", 14, 26, true);
    fields
}

fn amounts(fields: &mut Fields<'_>) {
    let Some(value) = fields.values.get("Amounts") else {
        return;
    };
    let Some(amounts) = value.as_array() else {
        let kind = kind(Some(value));
        fields.complain(format!(
            "Amounts: Invalid input: expected array, received {kind}"
        ));
        return;
    };
    if amounts.len() > 7 {
        fields.complain("Amounts: Too big: expected array to have <=7 items".to_owned());
    }
    for (index, amount) in amounts.iter().enumerate() {
        for (part, max) in [("amount", 25), ("unit", 150)] {
            let name = format!("Amounts[{index}].{part}");
            if let Some(text) = check_text(&name, amount.get(part), 0, max) {
                fields.complain(text);
            }
        }
    }
}

/// The real service's answer to a well-formed order that it will not take.
///
/// A signature is not checked: an identifier with `invalid` in it stands for a bad one, and an
/// agent whose identifier begins with `0000` for one without a payment source.
pub(super) fn order(
    order: &Value,
    source: Source,
    now: Timestamp,
) -> Option<(StatusCode, &'static str)> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    let text = |name: &str| order.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("agentIdentifier").starts_with("0000") {
        let text = "No payment source found for agent identifiers policy id";
        return Some((StatusCode::NOT_FOUND, text));
    }
    let time = |name: &str| text(name).parse::<i64>().ok();
    let (Some(pay), Some(submit), Some(unlock), Some(dispute)) = (
        time("payByTime"),
        time("submitResultTime"),
        time("unlockTime"),
        time("externalDisputeUnlockTime"),
    ) else {
        return Some((StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"));
    };
    if let Some(text) = times(pay, submit, unlock, dispute, now) {
        return Some((BAD, text));
    }
    let amounts = order.get("Amounts").and_then(Value::as_array);
    let are_integers = amounts.into_iter().flatten().all(|amount| {
        amount
            .get("amount")
            .and_then(Value::as_str)
            .is_some_and(|text| text.parse::<i64>().is_ok())
    });
    if !are_integers {
        return Some((StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"));
    }
    if text("blockchainIdentifier").is_empty() || text("blockchainIdentifier").contains("invalid") {
        return Some((BAD, "Invalid blockchain identifier, format invalid"));
    }
    let hint = text("paymentSourceType");
    if !hint.is_empty() && hint != source.name() {
        return Some((
            BAD,
            "Payment source type does not match the blockchain identifier",
        ));
    }
    if !text("identifierFromPurchaser")
        .bytes()
        .all(|letter| letter.is_ascii_hexdigit())
    {
        return Some((BAD, "Invalid blockchain identifier, purchaser id mismatch"));
    }
    None
}

fn times(pay: i64, submit: i64, unlock: i64, dispute: i64, now: Timestamp) -> Option<&'static str> {
    let after = |minutes: i64| (now + SignedDuration::from_mins(minutes)).as_millisecond();
    if pay > submit.saturating_sub(5 * MINUTE_MS) {
        return Some("Pay by time must be before submit result time (min. 5 minutes)");
    }
    if pay < after(-5) {
        return Some("Pay by time must be in the future (max. 5 minutes)");
    }
    if dispute < unlock.saturating_add(15 * MINUTE_MS) {
        return Some(
            "External dispute unlock time must be after unlock time (min. 15 minutes difference)",
        );
    }
    if submit < after(15) {
        return Some("Submit result time must be in the future (min. 15 minutes)");
    }
    (submit > unlock.saturating_sub(15 * MINUTE_MS)).then_some(
        "Submit result time must be before unlock time with at least 15 minutes difference",
    )
}
