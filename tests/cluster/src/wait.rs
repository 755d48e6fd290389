//! Waiting for a condition, without a runtime.

use std::{
    thread,
    time::{Duration, Instant},
};

/// The longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(60);
/// The interval of looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Blocks until a condition holds.
///
/// # Panics
/// It does not hold within a minute.
#[allow(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition that tells nobody when it holds"
)]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        let waited = began.elapsed();
        assert!(waited < DEADLINE, "{what}: not within {DEADLINE:?}");
        thread::sleep(LOOK_EVERY);
    }
}
