//! Points in time, to the millisecond, in UTC.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
///
/// Every provider's clock gives milliseconds; all of this service's stamps are as coarse.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a time")]
pub struct TimeError;

/// 9999-12-31T23:59:59.999Z, the last time that protobuf's Timestamp can carry.
const LATEST_MS: i64 = 253_402_300_799_999;
/// 0001-01-01T00:00:00Z, the first.
const EARLIEST_MS: i64 = -62_135_596_800_000;

impl Timestamp {
    /// The time so many milliseconds after the epoch; times outside the years 1 to 9999 are refused.
    pub fn from_millis(millis: i64) -> Result<Self, TimeError> {
        if (EARLIEST_MS..=LATEST_MS).contains(&millis) {
            return Ok(Self(millis));
        }
        Err(TimeError)
    }

    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Reads an ISO-8601 time with an offset, such as `2026-07-01T10:00:00.000Z`.
    pub fn from_iso(text: &str) -> Result<Self, TimeError> {
        let parsed: jiff::Timestamp = text.trim().parse().map_err(|_| TimeError)?;
        Self::from_millis(parsed.as_millisecond())
    }

    /// Reads JavaScript's `Date.prototype.toString()`: `Tue May 21 2019 20:10:32 GMT-0400 (EDT)`.
    ///
    /// The parenthesis is the zone's name in the sender's language, so it is ignored.
    pub fn from_javascript(text: &str) -> Result<Self, TimeError> {
        let text = text.split('(').next().unwrap_or_default().trim();
        let time = jiff::fmt::strtime::parse("%a %b %d %Y %H:%M:%S GMT%z", text)
            .and_then(|parsed| parsed.to_timestamp())
            .map_err(|_| TimeError)?;
        Self::from_millis(time.as_millisecond())
    }

    /// Reads milliseconds since the epoch given as text: `1782903600000`.
    pub fn from_millis_text(text: &str) -> Result<Self, TimeError> {
        Self::from_millis(text.trim().parse().map_err(|_| TimeError)?)
    }

    /// The time `duration` later, held inside the years 1 to 9999.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis).min(LATEST_MS))
    }

    /// The time `duration` earlier, held inside the years 1 to 9999.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis).max(EARLIEST_MS))
    }

    /// The time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(formatter, "{time:.3}"),
            Err(_) => write!(formatter, "{} ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_times_are_read_exactly() {
        type Read = fn(&str) -> Result<Timestamp, TimeError>;
        let iso: Read = Timestamp::from_iso;
        let javascript: Read = Timestamp::from_javascript;
        let millis: Read = Timestamp::from_millis_text;
        let table: [(Read, &str, Option<i64>); 19] = [
            (iso, "2026-07-01T10:00:00.000Z", Some(1_782_900_000_000)),
            (iso, "2026-07-01T12:00:00+02:00", Some(1_782_900_000_000)),
            (iso, "2026-07-01T10:00:00.123456Z", Some(1_782_900_000_123)),
            (iso, "2026-07-01T10:00:00+0000", Some(1_782_900_000_000)),
            (iso, "2026-07-01t10:00:00z", Some(1_782_900_000_000)),
            (iso, "2026-07-01 10:00:00+00", Some(1_782_900_000_000)),
            (iso, "2026-07-01T10:00Z", Some(1_782_900_000_000)),
            (iso, "2026-07-01T10:00:00,5Z", Some(1_782_900_000_500)),
            (iso, "2026-07-01T10:00:00", None),
            (iso, "2026-07-01", None),
            (iso, "", None),
            (
                javascript,
                "Tue May 21 2019 20:10:32 GMT-0400 (EDT)",
                Some(1_558_483_832_000),
            ),
            (
                javascript,
                "Wed May 22 2019 00:10:32 GMT+0000 (Coordinated Universal Time)",
                Some(1_558_483_832_000),
            ),
            (
                javascript,
                "Wed May 22 2019 05:40:32 GMT+0530",
                Some(1_558_483_832_000),
            ),
            (javascript, "Invalid Date", None),
            (javascript, "Wed May 22 2019 25:40:32 GMT+0530", None),
            (millis, "1782903600000", Some(1_782_903_600_000)),
            (millis, "99999999999999999999", None),
            (millis, "1e3", None),
        ];
        for (read, text, expected) in table {
            assert_eq!(
                read(text).ok().map(Timestamp::as_millis),
                expected,
                "{text:?}"
            );
        }
    }
}
