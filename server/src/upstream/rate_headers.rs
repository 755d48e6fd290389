//! `X-RateLimit-*`: what a provider says is left of its window.

use std::time::Duration;

use ::http::HeaderMap;

use crate::purchase::Timestamp;

/// The longest pause that a header may cause; clocks differ, and a wrong one must not stop polling.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// Until when nothing is left, where the headers say that nothing is: `X-RateLimit-Remaining: 0`
/// with an `X-RateLimit-Reset` in Unix seconds that lies ahead.
pub fn spent_until(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    if number("x-ratelimit-remaining")? != 0 {
        return None;
    }
    let reset = Timestamp::from_millis(number("x-ratelimit-reset")?.checked_mul(1000)?).ok()?;
    (reset > now).then(|| reset.min(now.plus(PAUSE_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_spent_window_that_ends_ahead_pauses() {
        let now = Timestamp::from_millis(1_800_000_000_000).unwrap();
        let check = |remaining: &str, reset: &str, expected_s: Option<i64>| {
            let mut headers = HeaderMap::new();
            headers.insert("x-ratelimit-remaining", remaining.parse().unwrap());
            headers.insert("x-ratelimit-reset", reset.parse().unwrap());
            let pause = spent_until(&headers, now).map(|until| until.since(now).as_secs() as i64);
            assert_eq!(pause, expected_s, "{remaining} {reset}");
        };
        check("0", "1800000045", Some(45));
        check("1", "1800000045", None);
        check("0", "1640995260", None);
        check("0", "1900000000", Some(3_600));
        check("0", "99999999999999999999", None);
        check("none", "1800000045", None);
    }
}
