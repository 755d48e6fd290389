//! `Retry-After`, in both of its forms.
//!
//! This module reads headers alone; the account decides what has to wait.

use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, header};

use crate::purchase::Timestamp;

/// The longest wait that an answer can ask for. Ours: one wrong header must not park an account.
pub const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// The wait that an answer of now asks for.
pub fn of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let since_epoch = u64::try_from(now.as_millis()).ok()?;
    let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(since_epoch));
    at(headers, now)
}

/// The wait that an answer asks for, from 0 to [`WAIT_MAX`]; `None` if it asks for none that can be
/// read.
///
/// Points in time count relative to the answer's own `Date`: the difference between two readings of
/// one clock is right even if this machine's clock is wrong. `now` stands in if the answer has no
/// `Date`.
pub fn at(headers: &HeaderMap, now: Option<SystemTime>) -> Option<Duration> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let sent = || {
        text(header::DATE.as_str())
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .or(now)
    };
    let until = |time: SystemTime| Some(time.duration_since(sent()?).unwrap_or_default());
    let asked = text(header::RETRY_AFTER.as_str()).and_then(|asked| {
        // RFC 9110, 10.2.3: seconds, or a date. Some providers send a fraction, which is rounded up.
        delta_seconds(asked).or_else(|| until(httpdate::parse_http_date(asked).ok()?))
    });
    Some(asked?.min(WAIT_MAX))
}

/// Whole or fractional seconds, rounded up.
fn delta_seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    // Only digits are left, so a number that does not fit has too many of them.
    let seconds: u64 = whole.parse().unwrap_or(u64::MAX);
    let more = u64::from(fraction.bytes().any(|digit| digit != b'0'));
    Some(Duration::from_secs(seconds.saturating_add(more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_782_900_600;

    #[track_caller]
    fn check(headers: &[(&'static str, &str)], expected_s: Option<u64>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S);
        assert_eq!(
            at(&map, Some(now)),
            expected_s.map(Duration::from_secs),
            "{headers:?}"
        );
    }

    #[test]
    fn seconds_are_read_and_held_within_an_hour() {
        for (text, expected_s) in [
            ("0", Some(0)),
            ("30", Some(30)),
            (" 30 ", Some(30)),
            ("1.2", Some(2)),
            ("3600", Some(3_600)),
            ("3601", Some(3_600)),
            ("99999999999999999999999", Some(3_600)),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("1e3", None),
            ("soon", None),
        ] {
            check(&[("retry-after", text)], expected_s);
        }
        check(&[], None);
    }

    #[test]
    fn dates_are_relative_to_the_answers_own_clock() {
        let retry = ("retry-after", "Wed, 01 Jul 2026 10:11:00 GMT");
        check(&[retry], Some(60));
        check(
            &[retry, ("date", "Wed, 01 Jul 2026 10:10:50 GMT")],
            Some(10),
        );
        check(&[retry, ("date", "Wed, 01 Jul 2026 10:20:00 GMT")], Some(0));
        check(&[retry, ("date", "no date")], Some(60));
        check(
            &[("retry-after", "Wed, 01 Jul 2099 10:11:00 GMT")],
            Some(3_600),
        );
        check(
            &[("retry-after", "Wednesday, 01-Jul-26 10:11:00 GMT")],
            Some(60),
        );

        let mut alone = HeaderMap::new();
        alone.insert("retry-after", retry.1.parse().unwrap());
        assert_eq!(at(&alone, None), None);
        let now = Timestamp::from_iso("2026-07-01T10:10:30Z").unwrap();
        assert_eq!(of(&alone, now), Some(Duration::from_secs(30)));
    }
}
