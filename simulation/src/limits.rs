//! The requests a minute that a run's providers are asked at most.

/// The creates a minute at Phygitals: more than its own single one, so that a run has enough of them.
pub const CREATES_OF_PHYGITALS: u32 = 6;

/// The most requests in a minute to a provider; `None` if there is no limit. Processes that share a store
/// have limits that they come to.
pub fn requests_per_minute(provider: &str, is_shared: bool) -> Option<u32> {
    match (is_shared, provider) {
        (true, _) => Some(5),
        (false, "masumi") => Some(600),
        (false, "inabit") => Some(120),
        (false, "devdraft") => Some(100),
        (false, _) => None,
    }
}
