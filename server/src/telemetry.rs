//! Logs: to standard error, as text or JSON, filtered by level or directives. Metrics: `metrics`.

pub mod metrics;

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The reason why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is no level and no list of directives.
    #[error("the log filter cannot be read")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Logs go elsewhere in this process already.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends this process's logs to standard error from now on.
///
/// # Errors
/// The filter cannot be read, or logs go elsewhere already.
pub fn init(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(TelemetryError::Filter)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(!json && stderr().is_terminal());
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(TelemetryError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logging_is_set_up_once_by_a_filter_that_can_be_read() {
        let broken = init("info,=,=", false).unwrap_err();
        assert_eq!(broken.to_string(), "the log filter cannot be read");
        init("warn,tillwatch_server=info", true).unwrap();
        let twice = init("warn", false).unwrap_err();
        assert_eq!(twice.to_string(), "logging is set up already");
    }
}
