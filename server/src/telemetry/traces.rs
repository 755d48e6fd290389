//! Spans of this crate on their way to a collector, by OTLP.
//!
//! A thread of its own sends them, so that no call waits for a collector. Its queue is bounded: spans
//! that find it full are dropped and counted. The SDK's own exporter and its own batches are not used:
//! they take headers, limits and samplers from the environment, which is the settings' alone to read,
//! bound no answer, and count nothing that we could show. The SDK's provider reads variables that start
//! with `OTEL_` too; everything that they could set is set here.

mod collector;
mod queue;
mod sampler;

use std::{io, time::Duration};

use http::HeaderMap;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    trace::{RandomIdGenerator, SdkTracerProvider, SpanLimits},
};
use rustls::pki_types::CertificateDer;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};
use url::Url;

use collector::Collector;
use queue::{Exporter, Queue};
pub use queue::{Figures, figures};
use sampler::Sampler;
pub use sampler::Share;

/// The beginning of the targets of spans that are exported. Those of other crates are not: the
/// exporter's own connection would trace itself.
const OWN: &str = "tillwatch_server";
/// The name of this service in its traces.
const SERVICE: &str = "tillwatch";
/// The limits of one span; spans of this crate stay far below. A commit links to as many spans.
const LIMITS: SpanLimits = SpanLimits {
    max_events_per_span: 0,
    max_attributes_per_span: 32,
    max_links_per_span: 32,
    max_attributes_per_event: 0,
    max_attributes_per_link: 0,
};

/// The ways in which a collector takes spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, as protobuf.
    Http,
}

/// The collector, and the spans that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its address, `http` or `https`.
    pub endpoint: Url,
    /// The way in which it takes spans.
    pub protocol: Protocol,
    /// Headers of each request, as a rule with a token; marked as sensitive.
    pub headers: HeaderMap,
    /// The authorities that replace the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// The share of traces that begin here and are exported.
    pub sample: Share,
}

/// The reason why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// No client for the collector can be made; most often the machine has no root certificates.
    #[error("no client for telemetry.otlp_endpoint: {0}")]
    Client(String),
    /// The system gives no thread.
    #[error("no thread for the exporter")]
    Thread(#[source] io::Error),
}

/// The export of spans, or that there is none.
#[derive(Debug, Default)]
pub struct Traces(Option<Exporter>);

impl Traces {
    /// Exports the spans that wait, for as long as `longest`, and none afterwards. It blocks.
    pub fn finish(self, longest: Duration) {
        if let Some(exporter) = self.0 {
            exporter.finish(longest);
        }
    }
}

/// A layer that exports spans, and the export itself.
///
/// # Errors
/// See [`TracesError`].
pub(super) fn layer<S>(
    settings: &Settings,
) -> Result<(Box<dyn Layer<S> + Send + Sync>, Traces), TracesError>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", SERVICE),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build();
    let collector = Collector::new(settings).map_err(TracesError::Client)?;
    let (queue, exporter) = Queue::start(collector, &resource).map_err(TracesError::Thread)?;
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::new(settings.sample))
        .with_id_generator(RandomIdGenerator::default())
        .with_span_limits(LIMITS)
        .with_resource(resource)
        .with_span_processor(queue)
        .build();
    // Events are for the log: a line may hold what no trace should.
    let is_own = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with(OWN));
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SERVICE))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(is_own);
    Ok((Box::new(layer), Traces(Some(exporter))))
}
