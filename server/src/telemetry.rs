//! Logs: to standard error through the queue of `log`, as text or JSON, filtered by level or directives.
//! Traces: `traces`, to a collector. Metrics: `metrics`.

mod lines;
pub mod log;
pub mod metrics;
pub mod traces;

use std::io;

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{FilterExt as _, filter_fn},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use lines::{Form, Lines};
use log::Log;
use traces::{Traces, TracesError};

/// The reason why there are no logs or no traces.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is no level and no list of directives.
    #[error("the log filter cannot be read")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Spans cannot be sent to the collector.
    #[error("traces cannot be exported")]
    Traces(#[from] TracesError),
    /// The log has no way to standard error.
    #[error("the log cannot be written")]
    Log(#[from] io::Error),
    /// Logs go elsewhere in this process already.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// The filter of this process's log, which can change.
#[derive(Debug, Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Lets these lines through from now on.
    ///
    /// # Errors
    /// The filter cannot be read; the older one stays.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let filter = parsed(filter)?;
        // It fails if nobody logs any more.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Sends this process's logs to standard error from now on, and its spans to a collector if one is set.
///
/// # Errors
/// The filter cannot be read, lines or spans cannot be sent, or logs go elsewhere already.
pub fn init(
    filter: &str,
    json: bool,
    collector: Option<&traces::Settings>,
) -> Result<(Log, LogFilter, Traces), TelemetryError> {
    let (filter, handle) = reload::Layer::new(parsed(filter)?);
    let form = if json { Form::Json } else { Form::Text };
    let log = Log::begin(form)?;
    let format = tracing_subscriber::fmt::format().with_ansi(false);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(log.clone())
        .with_ansi(false);
    let lines = if json {
        let format = format
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        let fields = tracing_subscriber::fmt::format::JsonFields::new();
        let format = Lines::new(format, form);
        lines.fmt_fields(fields).event_format(format).boxed()
    } else {
        let format = Lines::new(format, form);
        lines.event_format(format).boxed()
    };
    // A line names its span by id. If the log does not want spans and nobody collects them, there are
    // none at all.
    let is_event = filter_fn(|metadata| metadata.is_event());
    let mut layers = vec![lines.with_filter(filter.and(is_event)).boxed()];
    let traces = match collector {
        Some(settings) => {
            let (layer, traces) = traces::layer(settings)?;
            layers.push(layer);
            traces
        }
        None => Traces::default(),
    };
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    Ok((log, LogFilter(handle), traces))
}

fn parsed(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let builder = EnvFilter::builder();
    builder.parse(filter).map_err(TelemetryError::Filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logging_is_set_up_once_by_a_filter_that_can_be_read() {
        let broken = init("info,=,=", false, None).unwrap_err();
        assert_eq!(broken.to_string(), "the log filter cannot be read");
        let (_, filter, _) = init("warn,tillwatch_server=info", true, None).unwrap();
        let span = tracing::error_span!("a span that nobody collects");
        assert!(span.is_disabled());
        assert!(!tracing::event_enabled!(tracing::Level::DEBUG));
        filter.set("debug").unwrap();
        assert!(tracing::event_enabled!(tracing::Level::DEBUG));
        filter.set("info,=,=").unwrap_err();
        let is_kept = tracing::event_enabled!(tracing::Level::DEBUG);
        assert!(is_kept, "nothing changed");
        let twice = init("warn", false, None).unwrap_err();
        assert_eq!(twice.to_string(), "logging is set up already");
    }
}
