//! `X-RateLimit-*`: the rest of a provider's window, as the provider states it.

use std::time::{Duration, SystemTime};

use ::http::{HeaderMap, header};

use crate::purchase::Timestamp;

/// The longest pause that a header may cause; clocks differ, and a wrong clock must not stop polling.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// A reset that is smaller can be no present time in Unix seconds, so it counts from the answer.
const SECONDS_LEAST: i64 = 1_000_000_000;
/// A reset that is larger can be no present time in Unix seconds, so it is in milliseconds.
const SECONDS_MOST: i64 = 100_000_000_000;

/// The rest of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// The number of requests.
    pub requests: u32,
    /// The time until the window ends.
    pub ahead: Duration,
}

/// The rest of the window, if the headers say both: `X-RateLimit-Remaining`, and `X-RateLimit-Reset`
/// in Unix seconds (documented by Devdraft) that lies ahead. Garbage says nothing.
///
/// The reset counts relative to the answer's own `Date`, if it has one: the difference between two
/// readings of one clock is right even if this machine's clock is wrong.
pub fn left(headers: &HeaderMap, now: Timestamp) -> Option<Left> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let number = |name: &str| text(name)?.parse::<i64>().ok();
    let requests = number("x-ratelimit-remaining")?;
    // A negative rest counts as nothing.
    let requests = u32::try_from(requests.max(0)).unwrap_or(u32::MAX);
    let sent_ms = text(header::DATE.as_str())
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_millis()).ok());
    let ahead_ms = match number("x-ratelimit-reset")? {
        seconds @ ..SECONDS_LEAST => seconds.checked_mul(1_000)?,
        seconds @ SECONDS_LEAST..SECONDS_MOST => {
            (seconds * 1_000).checked_sub(sent_ms.unwrap_or(now.as_millis()))?
        }
        millis => millis.checked_sub(sent_ms.unwrap_or(now.as_millis()))?,
    };
    let ahead = Duration::from_millis(u64::try_from(ahead_ms).ok()?).min(PAUSE_MAX);
    (!ahead.is_zero()).then_some(Left { requests, ahead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_window_that_ends_ahead_says_what_is_left() {
        let now = Timestamp::from_millis(1_800_000_000_000).unwrap();
        let check = |headers: &[(&'static str, &str)], expected: Option<(u32, u64)>| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            let left = left(&map, now);
            let left = left.map(|left| (left.requests, left.ahead.as_secs()));
            assert_eq!(left, expected, "{headers:?}");
        };
        let table = [
            ("0", "1800000045", Some((0, 45))),
            ("1", "1800000045", Some((1, 45))),
            ("-3", "1800000045", Some((0, 45))),
            ("99999999999", "1800000045", Some((u32::MAX, 45))),
            ("0", "1800000000", None),
            ("0", "1640995260", None),
            ("0", "1900000000", Some((0, 3_600))),
            ("0", "1800000045000", Some((0, 45))),
            ("0", "45", Some((0, 45))),
            ("0", "0", None),
            ("0", "-45", None),
            ("0", "99999999999999999999", None),
            ("0", "9223372036854775807", Some((0, 3_600))),
            ("0", "soon", None),
            ("none", "1800000045", None),
            ("", "", None),
        ];
        for (remaining, reset, expected) in table {
            check(
                &[
                    ("x-ratelimit-remaining", remaining),
                    ("x-ratelimit-reset", reset),
                ],
                expected,
            );
        }
        check(&[("x-ratelimit-remaining", "0")], None);
        check(&[("x-ratelimit-reset", "1800000045")], None);
        // The answer's clock is a minute behind the machine's, so 105 s are left until the reset.
        check(
            &[
                ("x-ratelimit-remaining", "5"),
                ("x-ratelimit-reset", "1800000045"),
                ("date", "Fri, 15 Jan 2027 07:59:00 GMT"),
            ],
            Some((5, 105)),
        );
    }
}
