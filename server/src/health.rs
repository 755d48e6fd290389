//! `grpc.health.v1`, whole: what this process says about itself.
//!
//! tonic-health holds the states and serves what it knows; `List` and the watch of an unknown name,
//! which it lacks, are served here. A provider's trouble never shows here.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum::response::IntoResponse as _;
use futures_util::{Stream, StreamExt as _, stream};
use tillwatch_proto::{
    PURCHASE_SERVICE,
    health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    codegen::http::{HeaderMap, HeaderValue, StatusCode, header},
    service::Routes,
};
use tonic_health::{
    pb::health_server::Health as _,
    server::{HealthReporter, HealthService as States},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{limits::Limit, telemetry::metrics::Format};

/// The name that is SERVING while the process answers and its own loops go on: waiting for a disk or
/// a provider is going on.
pub const LIVENESS: &str = "liveness";
/// The names that tell readiness.
const READINESS: [&str; 2] = ["", PURCHASE_SERVICE];
/// Watches open at once at the operators' listener; ours. The service's own port has limits of its
/// own.
const WATCHES_MAX: usize = 20_000;

/// The stage that the process has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    NotReady,
    Ready,
    Draining,
}

/// The hand that sets readiness. Clones set the same.
#[derive(Clone, Debug)]
pub struct Readiness {
    reporter: HealthReporter,
    /// Held while states change, so that a late `set_ready` cannot undo a drain.
    phase: Arc<Mutex<Stage>>,
    /// True if the process's own loops go on.
    alive: Arc<AtomicBool>,
    closed: CancellationToken,
}

impl Readiness {
    /// Says whether requests are welcome. Nothing changes once a drain has begun.
    pub async fn set_ready(&self, ready: bool) {
        let next = if ready { Stage::Ready } else { Stage::NotReady };
        self.enter(next).await;
    }

    /// Says that requests should go elsewhere, from now on and for good.
    pub async fn drain(&self) {
        self.enter(Stage::Draining).await;
    }

    /// Ends all watches, and every later one after its first answer.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Says whether the process's own loops go on. Returns whether that is news.
    pub async fn set_alive(&self, alive: bool) -> bool {
        let is_news = self.alive.swap(alive, Ordering::Relaxed) != alive;
        if is_news {
            self.reporter
                .set_service_status(LIVENESS, status(alive))
                .await;
        }
        is_news
    }

    /// True if the process's own loops go on.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// True if requests are welcome.
    pub async fn is_ready(&self) -> bool {
        *self.phase.lock().await == Stage::Ready
    }

    /// The service behind a port that bounds watches itself.
    pub fn service_at_a_port(&self) -> HealthService {
        self.service(None)
    }

    fn service(&self, watches: Option<Arc<Semaphore>>) -> HealthService {
        HealthService {
            states: States::from_health_reporter(self.reporter.clone()),
            closed: self.closed.clone(),
            watches,
        }
    }

    async fn enter(&self, next: Stage) {
        let mut phase = self.phase.lock().await;
        // Watchers are told of changes, and of nothing else.
        if *phase == next || *phase == Stage::Draining {
            return;
        }
        *phase = next;
        self.report(next == Stage::Ready).await;
    }

    async fn report(&self, ready: bool) {
        for name in READINESS {
            self.reporter.set_service_status(name, status(ready)).await;
        }
    }
}

fn status(is_well: bool) -> tonic_health::ServingStatus {
    match is_well {
        true => tonic_health::ServingStatus::Serving,
        false => tonic_health::ServingStatus::NotServing,
    }
}

/// The service.
pub struct HealthService {
    states: States,
    closed: CancellationToken,
    /// Places for watches, if they are bounded here.
    watches: Option<Arc<Semaphore>>,
}

impl fmt::Debug for HealthService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HealthService")
    }
}

/// The hand and the service of a process that is alive and not ready.
pub async fn health() -> (Readiness, HealthService) {
    let readiness = Readiness {
        reporter: HealthReporter::new(),
        phase: Arc::new(Mutex::new(Stage::NotReady)),
        alive: Arc::new(AtomicBool::new(true)),
        closed: CancellationToken::new(),
    };
    readiness.report(false).await;
    let alive = tonic_health::ServingStatus::Serving;
    readiness.reporter.set_service_status(LIVENESS, alive).await;
    let service = readiness.service(Some(Arc::new(Semaphore::new(WATCHES_MAX))));
    (readiness, service)
}

/// A text of OpenMetrics, made for each request.
pub type MetricsPage = Arc<dyn Fn() -> String + Send + Sync>;

/// The answers to a probe without gRPC: `/healthz` and `/readyz`, beside the health protocol itself,
/// and what a scrape asks: `/metrics`.
pub fn operations(
    readiness: &Readiness,
    health: HealthServer<HealthService>,
    metrics: MetricsPage,
) -> Routes {
    let metrics = move |headers: HeaderMap| {
        let accept = headers.get(header::ACCEPT).map(HeaderValue::to_str);
        let format = Format::accepted(accept.and_then(Result::ok).unwrap_or_default());
        let kind = (header::CONTENT_TYPE, format.media_type());
        std::future::ready(([kind], format.told(metrics())))
    };
    let readiness = readiness.clone();
    let living = readiness.clone();
    let alive = move || {
        std::future::ready(match living.is_alive() {
            true => (StatusCode::OK, "alive\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not alive\n"),
        })
    };
    let ready = move || {
        let readiness = readiness.clone();
        async move {
            match readiness.is_ready().await {
                true => (StatusCode::OK, "ready\n"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            }
        }
    };
    Routes::from(
        Routes::new(health)
            .into_axum_router()
            .route("/healthz", axum::routing::get(alive))
            .route("/metrics", axum::routing::get(metrics))
            .route("/readyz", axum::routing::get(ready))
            .fallback(nothing),
    )
}

/// Answers a request that is not gRPC with 404: a mistyped probe must not look healthy, and the router's
/// own answer to everything is gRPC's UNIMPLEMENTED under HTTP 200.
async fn nothing(request: axum::extract::Request) -> axum::response::Response {
    let kind = request.headers().get("content-type");
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let unimplemented = Status::unimplemented("operations serve health alone");
        return unimplemented.into_http();
    }
    (StatusCode::NOT_FOUND, "no such page\n").into_response()
}

/// The states of one watch.
pub struct WatchStream {
    states: Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>,
    /// Given back when the watch ends.
    _permit: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WatchStream")
    }
}

impl Stream for WatchStream {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.states.as_mut().poll_next(context)
    }
}

impl HealthService {
    async fn state(&self, service: String) -> Result<HealthCheckResponse, Status> {
        let request = Request::new(tonic_health::pb::HealthCheckRequest { service });
        let answer = self.states.check(request).await?.into_inner();
        Ok(HealthCheckResponse {
            status: answer.status,
        })
    }

    async fn states_of(
        &self,
        service: String,
    ) -> Result<Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>, Status>
    {
        let request = Request::new(tonic_health::pb::HealthCheckRequest { service });
        let closed = self.closed.clone().cancelled_owned();
        match self.states.watch(request).await {
            Ok(answer) => {
                let mut states = answer.into_inner().map(|state| {
                    state.map(|state| HealthCheckResponse {
                        status: state.status,
                    })
                });
                // The first state is sent even if watches have been closed.
                let first = states.next().await;
                Ok(stream::iter(first)
                    .chain(until_closed(states.boxed(), closed))
                    .boxed())
            }
            Err(status) if status.code() == Code::NotFound => {
                // Names do not come later, so this is all that there ever is to say.
                let unknown = HealthCheckResponse {
                    status: ServingStatus::ServiceUnknown.into(),
                };
                let silence = stream::pending().take_until(closed);
                Ok(stream::iter([Ok(unknown)]).chain(silence).boxed())
            }
            Err(status) => Err(status),
        }
    }
}

#[async_trait::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let state = self.state(request.into_inner().service).await?;
        Ok(Response::new(state))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let mut statuses = HashMap::new();
        for name in READINESS.into_iter().chain([LIVENESS]) {
            let name = name.to_owned();
            statuses.insert(name.clone(), self.state(name).await?);
        }
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = WatchStream;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let watches = self.watches.clone();
        let permit = watches.map(Semaphore::try_acquire_owned).transpose();
        let permit = permit.map_err(|_| {
            Limit::HealthWatches.met();
            too_many_watches()
        })?;
        let states = self.states_of(request.into_inner().service).await?;
        Ok(Response::new(WatchStream {
            states,
            _permit: permit,
        }))
    }
}

/// Ends a stream at a signal, and not before it has said what there was to say by then: a drain
/// turns readiness and closes the watches at almost the same time.
fn until_closed<T>(
    mut states: Pin<Box<dyn Stream<Item = T> + Send>>,
    closed: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = T> + Send {
    let mut closed = Box::pin(closed);
    stream::poll_fn(move |context| match states.as_mut().poll_next(context) {
        Poll::Ready(state) => Poll::Ready(state),
        Poll::Pending => closed.as_mut().poll(context).map(|()| None),
    })
}

fn too_many_watches() -> Status {
    let message = "too many health watches are open";
    let mut details = ErrorDetails::with_error_info("LIMIT_EXCEEDED", "tillwatch", HashMap::new());
    details
        .set_retry_info(Some(std::time::Duration::from_secs(10)))
        .add_quota_failure_violation("health watches", message);
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVING: i32 = ServingStatus::Serving as i32;
    const NOT_SERVING: i32 = ServingStatus::NotServing as i32;

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest {
            service: service.to_owned(),
        })
    }

    async fn check(health: &HealthService, service: &str) -> i32 {
        let answer = health.check(request(service)).await.unwrap();
        answer.into_inner().status
    }

    async fn watch(health: &HealthService, service: &str) -> WatchStream {
        health.watch(request(service)).await.unwrap().into_inner()
    }

    async fn next(watch: &mut WatchStream) -> Option<i32> {
        watch.next().await.map(|state| state.unwrap().status)
    }

    fn is_silent(watch: &mut WatchStream) -> bool {
        futures_util::FutureExt::now_or_never(watch.next()).is_none()
    }

    #[tokio::test]
    async fn a_process_is_alive_at_once_and_ready_when_told() {
        let (readiness, health) = health().await;
        let table = [(false, NOT_SERVING), (true, SERVING), (false, NOT_SERVING)];
        for (ready, expected) in table {
            readiness.set_ready(ready).await;
            assert_eq!(readiness.is_ready().await, ready);
            assert_eq!(check(&health, "").await, expected);
            assert_eq!(check(&health, PURCHASE_SERVICE).await, expected);
            assert_eq!(check(&health, LIVENESS).await, SERVING);
        }
        let unknown = health.check(request("else")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
    }

    #[tokio::test]
    async fn liveness_says_whether_the_loops_go_on_and_tells_changes_alone() {
        let (readiness, health) = health().await;
        let mut watch = watch(&health, LIVENESS).await;
        assert_eq!(next(&mut watch).await, Some(SERVING));
        assert!(!readiness.set_alive(true).await && is_silent(&mut watch));
        assert!(readiness.set_alive(false).await && !readiness.is_alive());
        assert_eq!(next(&mut watch).await, Some(NOT_SERVING));
        assert_eq!(check(&health, "").await, NOT_SERVING, "which is its own");
        assert!(readiness.set_alive(true).await);
        assert_eq!(next(&mut watch).await, Some(SERVING));
    }

    #[tokio::test]
    async fn a_drain_is_for_good() {
        let (readiness, health) = health().await;
        readiness.set_ready(true).await;
        readiness.drain().await;
        readiness.set_ready(true).await;
        assert_eq!(check(&health, "").await, NOT_SERVING);
        assert_eq!(check(&health, LIVENESS).await, SERVING);
    }

    #[tokio::test]
    async fn a_list_has_every_name() {
        let (readiness, health) = health().await;
        readiness.set_ready(true).await;
        let answer = health.list(Request::new(HealthListRequest {})).await;
        let statuses = answer.unwrap().into_inner().statuses;
        let mut names: Vec<&str> = statuses.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["", LIVENESS, PURCHASE_SERVICE]);
        assert!(statuses.values().all(|state| state.status == SERVING));
    }

    #[tokio::test]
    async fn a_watch_tells_the_state_and_each_change_until_it_is_closed() {
        let (readiness, health) = health().await;
        let mut watch = watch(&health, PURCHASE_SERVICE).await;
        assert_eq!(next(&mut watch).await, Some(NOT_SERVING));
        assert!(is_silent(&mut watch));
        readiness.set_ready(true).await;
        assert_eq!(next(&mut watch).await, Some(SERVING));
        readiness.set_ready(true).await;
        assert!(is_silent(&mut watch), "a state that stays is no change");
        readiness.drain().await;
        assert_eq!(next(&mut watch).await, Some(NOT_SERVING));
        assert!(is_silent(&mut watch), "a drain alone ends no watch");
        readiness.close();
        assert_eq!(next(&mut watch).await, None);
    }

    #[tokio::test]
    async fn a_watch_is_told_of_the_drain_before_it_is_closed() {
        let (readiness, health) = health().await;
        readiness.set_ready(true).await;
        let mut watch = watch(&health, PURCHASE_SERVICE).await;
        assert_eq!(next(&mut watch).await, Some(SERVING));
        readiness.drain().await;
        readiness.close();
        assert_eq!(next(&mut watch).await, Some(NOT_SERVING));
        assert_eq!(next(&mut watch).await, None);
    }

    #[tokio::test]
    async fn an_unknown_name_is_watched_on_an_open_stream() {
        let (readiness, health) = health().await;
        let mut open = watch(&health, "else").await;
        let unknown = Some(ServingStatus::ServiceUnknown as i32);
        assert_eq!(next(&mut open).await, unknown);
        assert!(is_silent(&mut open));
        readiness.close();
        assert_eq!(next(&mut open).await, None);
        let mut late = watch(&health, "else").await;
        assert_eq!(next(&mut late).await, unknown);
        assert_eq!(next(&mut late).await, None);
    }

    #[tokio::test]
    async fn watches_are_limited_and_an_ended_one_makes_room() {
        let (_readiness, mut health) = health().await;
        health.watches = Some(Arc::new(Semaphore::new(1)));
        let first = watch(&health, "").await;
        let refused = health.watch(request("")).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let info = refused.get_details_error_info().unwrap();
        assert_eq!(info.reason, "LIMIT_EXCEEDED");
        drop(first);
        assert!(health.watch(request("")).await.is_ok());
    }
}
