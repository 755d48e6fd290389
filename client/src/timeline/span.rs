//! Times and spans in the form that people read.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

/// A time of the contract, or `None` if it is out of range.
#[must_use]
pub fn instant(time: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// The time of day in UTC, to the second.
#[must_use]
pub fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%H:%M:%S").to_string()
}

/// The day in UTC.
pub(crate) fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string()
}

/// A span in two units at the most: `8s`, `3m05s`, `2h04m`, `3d04h`.
#[must_use]
pub fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m{:02}s", seconds % 60),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A past span, as [`short`] writes it. Below ten seconds it has tenths, rounded down like the
/// rest.
pub(crate) fn elapsed(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..10 => format!("{seconds}.{}s", span.subsec_millis() / 100),
        _ => short(span),
    }
}

/// A span to come, as [`short`] writes it. A part of a second counts as one.
#[must_use]
pub fn countdown(span: Duration) -> String {
    let whole = Duration::from_secs(span.as_secs());
    let part = if span > whole { 1 } else { 0 };
    short(whole.saturating_add(Duration::from_secs(part)))
}

/// The span from one time to a later one; zero if it is not later.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
