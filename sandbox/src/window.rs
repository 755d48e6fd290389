//! Fixed windows, as providers count requests per key.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

/// Keys remembered at once; beyond that all counts start anew.
const KEYS_MAX: usize = 10_000;

/// The window's verdict on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// The end of the window, in seconds since 1970, rounded up.
    pub(crate) reset_s: i64,
    /// Whole seconds until then, at least 1; set when the request is refused.
    pub(crate) refused_for_s: Option<u64>,
}

/// Requests per key in the window under way.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    counts: HashMap<String, (i64, u32)>,
}

impl Windows {
    /// Counts one request of a key. Windows are aligned to the clock.
    pub(crate) fn count(
        &mut self,
        key: &str,
        limit: u32,
        window: Duration,
        now: Timestamp,
    ) -> Allowance {
        let window_ms = i64::try_from(window.as_millis()).unwrap_or(i64::MAX).max(1);
        let now_ms = now.as_millisecond();
        let number = now_ms.div_euclid(window_ms);
        let end_ms = (number + 1).saturating_mul(window_ms);
        let reset_s = end_ms.saturating_add(999).div_euclid(1000);
        if self.counts.len() >= KEYS_MAX && !self.counts.contains_key(key) {
            self.counts.clear();
        }
        let entry = self.counts.entry(key.to_owned()).or_insert((number, 0));
        if entry.0 != number {
            *entry = (number, 0);
        }
        let refused = entry.1 >= limit;
        if !refused {
            entry.1 += 1;
        }
        let left_s = u64::try_from((end_ms - now_ms + 999).div_euclid(1000))
            .unwrap_or(1)
            .max(1);
        Allowance {
            limit,
            remaining: limit - entry.1.min(limit),
            reset_s,
            refused_for_s: refused.then_some(left_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::Windows;

    #[test]
    fn a_window_refuses_above_its_limit_and_starts_anew_on_the_minute() {
        let mut windows = Windows::default();
        let minute = Duration::from_secs(60);
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(windows.count("a", 2, minute, at(615)).remaining, 1);
        let second = windows.count("a", 2, minute, at(616));
        assert_eq!((second.remaining, second.reset_s), (0, 660));
        assert_eq!(
            windows.count("a", 2, minute, at(620)).refused_for_s,
            Some(40)
        );
        assert_eq!(windows.count("b", 2, minute, at(620)).refused_for_s, None);
        assert_eq!(windows.count("a", 2, minute, at(660)).refused_for_s, None);
    }
}
