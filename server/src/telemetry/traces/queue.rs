//! The queue of spans that have ended, and the thread that empties it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use opentelemetry::Context;
use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;

use super::collector::{Client, Collector, Undelivered};

/// Spans that may wait for the collector. Ours: each takes about 1 KB.
const QUEUE_MAX: usize = 2_048;
/// The most spans of one request.
const BATCH_MAX: usize = 512;
/// The longest that a span waits for others.
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// The longest time between two lines about spans that were not delivered.
const TOLD_EVERY: Duration = Duration::from_secs(60);

static HAS_COLLECTOR: AtomicBool = AtomicBool::new(false);
static EXPORTED: AtomicU64 = AtomicU64::new(0);
static OVERFLOWED: AtomicU64 = AtomicU64::new(0);
static UNDELIVERED: AtomicU64 = AtomicU64::new(0);

/// The spans of this process, counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Taken by the collector.
    pub exported: u64,
    /// Dropped, since the queue was full.
    pub overflowed: u64,
    /// Dropped, since the collector did not take them.
    pub undelivered: u64,
}

/// The spans that were exported and dropped; `None` if there is no collector. They are counted for the
/// process, as logs are set up for the process.
pub fn figures() -> Option<Figures> {
    HAS_COLLECTOR.load(Ordering::Relaxed).then(counted)
}

fn counted() -> Figures {
    Figures {
        exported: EXPORTED.load(Ordering::Relaxed),
        overflowed: OVERFLOWED.load(Ordering::Relaxed),
        undelivered: UNDELIVERED.load(Ordering::Relaxed),
    }
}

/// The way into the queue.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    /// Told if a whole batch waits.
    is_full: Arc<Notify>,
}

/// The thread that empties the queue.
#[derive(Debug)]
pub(super) struct Exporter {
    ending: CancellationToken,
    ended: std_mpsc::Receiver<()>,
}

impl Queue {
    /// Starts the thread. It has a runtime of its own: a slow collector takes no time from callers.
    pub(super) fn start(collector: Collector, resource: &Resource) -> io::Result<(Self, Exporter)> {
        let (spans, waiting) = mpsc::channel(QUEUE_MAX);
        let (is_full, ending) = (Arc::<Notify>::default(), CancellationToken::new());
        let (tell_end, ended) = std_mpsc::channel();
        let work = Work {
            waiting,
            is_full: Arc::clone(&is_full),
            ending: ending.clone(),
            resource: resource.into(),
            trouble: Trouble::default(),
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("traces".to_owned())
            .spawn(move || {
                run(&runtime, work, collector);
                // Nobody listens if the process did not wait.
                let _ = tell_end.send(());
            })?;
        HAS_COLLECTOR.store(true, Ordering::Relaxed);
        Ok((Self { spans, is_full }, Exporter { ending, ended }))
    }
}

fn run(runtime: &Runtime, work: Work, collector: Collector) {
    // A client's connection needs the runtime from its first moment.
    let _entered = runtime.enter();
    runtime.block_on(work.run(collector.client()));
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        // A link to a span that is not exported leads nowhere.
        span.links
            .links
            .retain(|link| link.span_context.is_sampled());
        if self.spans.try_send(span).is_err() {
            OVERFLOWED.fetch_add(1, Ordering::Relaxed);
        }
        if self.spans.capacity() <= QUEUE_MAX - BATCH_MAX {
            self.is_full.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// The exporter ends by itself.
    fn shutdown_with_timeout(&self, _longest: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    /// Lets the thread export what waits, for as long as `longest`.
    pub(super) fn finish(self, longest: Duration) {
        self.ending.cancel();
        if self.ended.recv_timeout(longest).is_err() {
            tracing::warn!("gave up on exporting the last spans");
        }
    }
}

/// The work of the thread.
struct Work {
    waiting: mpsc::Receiver<SpanData>,
    is_full: Arc<Notify>,
    ending: CancellationToken,
    resource: ResourceAttributesWithSchema,
    trouble: Trouble,
}

impl Work {
    /// Exports batch after batch, until it is ended and nothing waits.
    async fn run(mut self, mut client: Client) {
        loop {
            tokio::select! {
                biased;
                () = self.ending.cancelled() => {}
                () = self.is_full.notified() => {}
                () = tokio::time::sleep(EXPORT_EVERY) => {}
            }
            let is_last = self.ending.is_cancelled();
            while let Some(batch) = self.batch() {
                self.export(&mut client, batch).await;
            }
            if is_last {
                return;
            }
        }
    }

    fn batch(&mut self) -> Option<Vec<SpanData>> {
        let waiting = self.waiting.len().min(BATCH_MAX);
        let spans = std::iter::from_fn(|| self.waiting.try_recv().ok());
        let batch: Vec<SpanData> = spans.take(waiting).collect();
        (!batch.is_empty()).then_some(batch)
    }

    async fn export(&mut self, client: &mut Client, batch: Vec<SpanData>) {
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let sent = client.send(ExportTraceServiceRequest { resource_spans });
        let (rejected, problem) = match sent.await {
            Ok(0) => (0, None),
            Ok(rejected) => (rejected.min(spans), Some(Undelivered::Rejected)),
            Err(undelivered) => (spans, Some(undelivered)),
        };
        EXPORTED.fetch_add(spans - rejected, Ordering::Relaxed);
        UNDELIVERED.fetch_add(rejected, Ordering::Relaxed);
        if let Some(problem) = problem {
            self.trouble.met(&problem, Instant::now());
        }
    }
}

/// The time at which trouble with the collector was told last: a collector that is gone for a day fills
/// no log.
#[derive(Default)]
struct Trouble(Option<Instant>);

impl Trouble {
    fn met(&mut self, problem: &Undelivered, now: Instant) {
        let is_told = (self.0).is_some_and(|told| now.duration_since(told) < TOLD_EVERY);
        if is_told {
            return;
        }
        self.0 = Some(now);
        let Figures {
            overflowed,
            undelivered,
            ..
        } = counted();
        let dropped = overflowed + undelivered;
        tracing::warn!(why = %problem, dropped, "spans do not reach the collector");
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use http::HeaderMap;
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::{
        super::{Protocol, Settings, Share},
        *,
    };

    /// The spans of a process are counted together, so this is the only test here that drops any.
    #[test]
    fn spans_that_find_the_queue_full_are_dropped_and_counted_at_once() {
        const SPANS: usize = 10_000;
        // It takes connections, and answers nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let collector = Collector::new(&Settings {
            endpoint: url.parse().unwrap(),
            protocol: Protocol::Grpc,
            headers: HeaderMap::new(),
            authorities: None,
            sample: Share::parse("1").unwrap(),
        });
        let resource = Resource::builder_empty().build();
        let (queue, exporter) = Queue::start(collector.unwrap(), &resource).unwrap();
        let provider = SdkTracerProvider::builder().with_span_processor(queue);
        let tracer = provider.build().tracer("test");
        let began = Instant::now();
        for _ in 0..SPANS {
            drop(tracer.start("span"));
        }
        let took = began.elapsed();
        let dropped = usize::try_from(counted().overflowed).unwrap();
        // One batch may be under way.
        let taken = SPANS - dropped;
        assert!(
            (QUEUE_MAX..=QUEUE_MAX + BATCH_MAX).contains(&taken),
            "{taken}"
        );
        assert!(
            took < Duration::from_secs(4),
            "{took:?}: nobody waits for it"
        );
        let began = Instant::now();
        exporter.finish(Duration::from_millis(100));
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn trouble_with_the_collector_is_told_once_a_minute() {
        let mut trouble = Trouble::default();
        let now = Instant::now();
        let mut tells = |seconds| {
            let before = trouble.0;
            trouble.met(&Undelivered::Unreached, now + Duration::from_secs(seconds));
            trouble.0 != before
        };
        let told = [0, 1, 59, 60, 61, 121].map(&mut tells);
        assert_eq!(told, [true, false, false, true, false, true]);
    }
}
