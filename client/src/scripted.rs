//! A purchase service that follows a test's script, over connections that the script can cut.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, future, stream};
use hyper_util::rt::TokioIo;
use tillwatch_proto::v1::{
    CreatePurchaseRequest, CreatePurchaseResponse, GetStatusRequest, GetStatusResponse, Heartbeat,
    ListAccountsRequest, ListAccountsResponse, ListPurchasesRequest, ListPurchasesResponse,
    PurchaseState, PurchaseStatus, RefreshStatusRequest, RefreshStatusResponse,
    ResolvePurchaseRequest, ResolvePurchaseResponse, Transition, WatchPurchasesRequest,
    WatchPurchasesResponse, WatchStatusRequest, WatchStatusResponse,
    purchase_service_server::{PurchaseService, PurchaseServiceServer},
    watch_status_response::Event,
};
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codegen::http,
    transport::{Endpoint, Server},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{Client, SecretToken, config::tuned};

/// One step of a scripted answer.
pub(crate) enum Turn<T> {
    Send(T),
    Fail(Status),
    End,
    /// Cuts the connection once everything that was sent has arrived.
    Cut,
    Hang,
}

/// The requests that the service saw, and their times.
pub(crate) type Seen<T> = Mutex<Vec<(Instant, T)>>;

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) watches: Mutex<VecDeque<Vec<Turn<WatchStatusResponse>>>>,
    pub(crate) feeds: Mutex<VecDeque<Vec<Turn<WatchPurchasesResponse>>>>,
    pub(crate) creates: Mutex<VecDeque<Turn<CreatePurchaseResponse>>>,
    pub(crate) pages: Mutex<VecDeque<ListPurchasesResponse>>,
    pub(crate) seen_watches: Seen<WatchStatusRequest>,
    pub(crate) seen_feeds: Seen<WatchPurchasesRequest>,
    pub(crate) seen_creates: Seen<CreatePurchaseRequest>,
    pub(crate) seen_pages: Seen<ListPurchasesRequest>,
    pub(crate) seen_tokens: Mutex<Vec<Option<String>>>,
    /// A proxy's answers in the service's place: status, media type, body.
    pub(crate) proxied: Mutex<VecDeque<(u16, &'static str, &'static str)>>,
    relays: Mutex<Vec<AbortHandle>>,
}

#[derive(Clone)]
pub(crate) struct Scripted(pub(crate) Arc<Script>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn next<T>(queue: &Mutex<VecDeque<T>>) -> Result<T, Status> {
    let next = queue.lock().unwrap().pop_front();
    next.ok_or_else(|| Status::failed_precondition("the script is over"))
}

fn note<T>(seen: &Seen<T>, request: Request<T>) {
    seen.lock()
        .unwrap()
        .push((Instant::now(), request.into_inner()));
}

impl Scripted {
    async fn cut(&self) {
        // Paused time advances only once every task is idle, and so everything has arrived.
        sleep(Duration::from_millis(1)).await;
        for relay in self.0.relays.lock().unwrap().drain(..) {
            relay.abort();
        }
        future::pending::<()>().await;
    }

    fn play<T: Send + 'static>(&self, turns: Vec<Turn<T>>) -> Answers<T> {
        let state = (self.clone(), turns.into_iter());
        Box::pin(stream::unfold(state, |(service, mut turns)| async move {
            let answer = match turns.next()? {
                Turn::Send(message) => Ok(message),
                Turn::Fail(status) => Err(status),
                Turn::End => return None,
                Turn::Cut => {
                    service.cut().await;
                    return None;
                }
                Turn::Hang => future::pending().await,
            };
            Some((answer, (service, turns)))
        }))
    }
}

#[tonic::async_trait]
impl PurchaseService for Scripted {
    type WatchStatusStream = Answers<WatchStatusResponse>;
    type WatchPurchasesStream = Answers<WatchPurchasesResponse>;

    async fn create_purchase(
        &self,
        request: Request<CreatePurchaseRequest>,
    ) -> Result<Response<CreatePurchaseResponse>, Status> {
        note(&self.0.seen_creates, request);
        match next(&self.0.creates)? {
            Turn::Send(answer) => Ok(Response::new(answer)),
            Turn::Fail(status) => Err(status),
            Turn::Cut => {
                self.cut().await;
                Err(Status::internal("cut"))
            }
            Turn::End | Turn::Hang => future::pending().await,
        }
    }

    async fn watch_status(
        &self,
        request: Request<WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        note(&self.0.seen_watches, request);
        Ok(Response::new(self.play(next(&self.0.watches)?)))
    }

    async fn watch_purchases(
        &self,
        request: Request<WatchPurchasesRequest>,
    ) -> Result<Response<Self::WatchPurchasesStream>, Status> {
        note(&self.0.seen_feeds, request);
        Ok(Response::new(self.play(next(&self.0.feeds)?)))
    }

    async fn list_purchases(
        &self,
        request: Request<ListPurchasesRequest>,
    ) -> Result<Response<ListPurchasesResponse>, Status> {
        note(&self.0.seen_pages, request);
        Ok(Response::new(next(&self.0.pages)?))
    }

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        if request.into_inner().after_revision.is_some() {
            future::pending::<()>().await;
        }
        Ok(Response::new(GetStatusResponse::default()))
    }

    async fn refresh_status(
        &self,
        _: Request<RefreshStatusRequest>,
    ) -> Result<Response<RefreshStatusResponse>, Status> {
        Ok(Response::new(RefreshStatusResponse::default()))
    }

    async fn resolve_purchase(
        &self,
        _: Request<ResolvePurchaseRequest>,
    ) -> Result<Response<ResolvePurchaseResponse>, Status> {
        Ok(Response::new(ResolvePurchaseResponse::default()))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        self.0.seen_tokens.lock().unwrap().push(token);
        Ok(Response::new(ListAccountsResponse::default()))
    }
}

/// The service behind a proxy that answers some calls itself.
#[derive(Clone)]
struct Proxied<S> {
    behind: S,
    script: Arc<Script>,
}

impl<S, B> tower::Service<http::Request<B>> for Proxied<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = future::Either<S::Future, future::Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.behind.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let page = self.script.proxied.lock().unwrap().pop_front();
        let Some((status, media_type, body)) = page else {
            return future::Either::Left(self.behind.call(request));
        };
        let page = http::Response::builder().status(status);
        let page = page.header(http::header::CONTENT_TYPE, media_type);
        let body = match body {
            "" => Body::empty(),
            body => Body::new(body.to_owned()),
        };
        future::Either::Right(future::ready(Ok(page.body(body).unwrap())))
    }
}

/// A client of a scripted service within this process.
pub(crate) fn start(token: Option<&SecretToken>) -> (Client, Arc<Script>) {
    let script = Arc::new(Script::default());
    let service = PurchaseServiceServer::new(Scripted(Arc::clone(&script)));
    let (accept, accepted) = mpsc::unbounded_channel::<io::Result<DuplexStream>>();
    let incoming = UnboundedReceiverStream::new(accepted);
    let proxy = Arc::clone(&script);
    let proxied = tower::layer::layer_fn(move |behind| Proxied {
        behind,
        script: Arc::clone(&proxy),
    });
    let serving = Server::builder().layer(proxied).add_service(service);
    tokio::spawn(serving.serve_with_incoming(incoming));
    let relays = Arc::clone(&script);
    let connector = tower::service_fn(move |_| {
        let (ours, mut near) = duplex(64 * 1024);
        let (mut far, theirs) = duplex(64 * 1024);
        let relay = tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        relays.relays.lock().unwrap().push(relay.abort_handle());
        let sent = accept.send(Ok(theirs));
        future::ready(match sent {
            Ok(()) => Ok(TokioIo::new(ours)),
            Err(_) => Err(io::Error::other("the service is gone")),
        })
    });
    let endpoint = tuned(
        Endpoint::from_static("http://scripted"),
        Duration::from_secs(10),
    );
    let channel = endpoint.connect_with_connector_lazy(connector);
    (Client::over(channel, token), script)
}

pub(crate) fn refusal(code: Code, reason: &str, retry_after: Option<Duration>) -> Status {
    let metadata = [("purchase_id".to_owned(), "pur_1".to_owned())];
    let mut details = ErrorDetails::with_error_info(reason, "tillwatch", metadata);
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, "scripted", details)
}

pub(crate) fn status(revision: u32, state: PurchaseState) -> PurchaseStatus {
    PurchaseStatus {
        purchase_id: "pur_1".to_owned(),
        revision,
        state: state.into(),
        ..PurchaseStatus::default()
    }
}

/// An event of a kind that no client knows yet.
pub(crate) fn unknown() -> Turn<WatchStatusResponse> {
    Turn::Send(WatchStatusResponse { event: None })
}

fn event(event: Event) -> Turn<WatchStatusResponse> {
    Turn::Send(WatchStatusResponse { event: Some(event) })
}

pub(crate) fn snapshot(revision: u32) -> Turn<WatchStatusResponse> {
    event(Event::Snapshot(status(revision, PurchaseState::Created)))
}

pub(crate) fn transition(revision: u32) -> Turn<WatchStatusResponse> {
    event(Event::Transition(Transition {
        status: Some(status(revision, PurchaseState::Paid)),
        ..Transition::default()
    }))
}

pub(crate) fn heartbeat(revision: u32) -> Turn<WatchStatusResponse> {
    event(Event::Heartbeat(Heartbeat {
        revision,
        ..Heartbeat::default()
    }))
}
