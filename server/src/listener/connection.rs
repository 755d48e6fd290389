//! Serving a port: accepted connections, each with a door that admits calls by their headers.
//!
//! This module drives hyper itself, without tonic's transport. It has to know each call's task, since
//! nothing else can reset a stream whose reader has stopped (hyper asks a body for nothing until there
//! is room). It also has to end one connection while others go on.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::Either};
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming as Received;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body};
use tower::{Layer, Service, ServiceExt as _};

use super::{
    HEADER_LIST_BYTES, Incoming, KEEPALIVE, LOCAL_RESETS, PENDING_RESETS, STREAMS_PER_CONNECTION,
    WINDOWS,
    body::{Arriving, Leaving, code, word},
    incoming::Guarded,
    peer::Peer,
    port::{Admitted, Cause, Open, Port, Room},
    protocol::{self, Served},
    web::{self, Origins},
};

/// The time that a connection has to go once it is ended.
const GOING: Duration = Duration::from_secs(5);
/// The bytes of a stream's answer that hyper keeps beyond its window.
const SEND_BUFFER: usize = 64 * 1024;

/// The time by which an answer's stream has to have ended, as an extension of the answer: then its call
/// is cut off even if its reader has stopped.
#[derive(Debug, Clone, Copy)]
pub struct EndsAt(pub Instant);

/// The names in the certificate that the client has shown, as an extension of each request; none if it
/// has shown no certificate.
#[derive(Debug, Clone)]
pub struct CertificateNames(pub Arc<[String]>);

/// The parts of a call that a service inside the door may need.
#[derive(Clone)]
struct Called {
    port: Port,
    peer: Peer,
    admitted: Admitted,
}

/// Gives each call's future a task, and remembers it with the call.
#[derive(Clone)]
struct Tasks(Peer);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        // hyper makes a call's future and executes it in one go, connection by connection, so the call
        // that was begun last is this one.
        let call = self.0.begun();
        let task = tokio::spawn(future);
        if let Some(call) = call {
            call.sent_by(task.abort_handle());
        }
    }
}

/// The door of one connection.
#[derive(Clone)]
struct Door<S> {
    port: Port,
    peer: Peer,
    names: CertificateNames,
    inner: S,
}

type HttpAnswer = Response<Body>;
type Answering = Either<
    std::future::Ready<Result<HttpAnswer, Infallible>>,
    Pin<Box<dyn Future<Output = Result<HttpAnswer, Infallible>> + Send>>,
>;

impl<S> hyper::service::Service<Request<Received>> for Door<S>
where
    S: Service<Request<Body>, Response = HttpAnswer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = HttpAnswer;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Received>) -> Self::Future {
        let (head, body) = request.into_parts();
        let rules = self.port.rules();
        let served = protocol::check(&head, rules.trust, &rules.origins, self.peer.is_tcp());
        match served {
            Ok(Served::Grpc) => self.let_in(Request::from_parts(head, body)),
            Ok(Served::Web(origin)) => {
                let door = self.clone();
                let inner = tower::service_fn(move |request| door.let_in::<Body>(request));
                let request = Request::from_parts(head, body);
                Either::Right(Box::pin(web::call(origin, request, inner)))
            }
            Ok(Served::Preflight(origin)) => {
                self.port.turned_away("none", "HTTP 204");
                Either::Left(ready(Ok(web::permission(origin))))
            }
            Err(refused) => {
                self.port.turned_away("none", refused.code());
                if head.version != http::Version::HTTP_2 {
                    // A peer that speaks another protocol has no reason to stay.
                    self.peer.end();
                }
                Either::Left(ready(Ok(plain(&refused, &rules.origins))))
            }
        }
    }
}

impl<S> Door<S>
where
    S: Service<Request<Body>, Response = HttpAnswer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Lets a call in if its headers show a right to that and there is room for it.
    fn let_in<B>(&self, request: Request<B>) -> Answering
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut head, body) = request.into_parts();
        let rules = self.port.rules();
        head.extensions.insert(self.names.clone());
        let admitted = match (rules.admit)(&mut head) {
            Ok(admitted) => admitted,
            Err(refused) => {
                self.port
                    .turned_away(refused.method, word(refused.status.code()));
                if refused.status.code() == Code::Unauthenticated {
                    Port::refused(&self.peer);
                }
                return Either::Left(ready(Ok(refused.status.into_http())));
            }
        };
        let open = match self.port.open(&self.peer, &admitted) {
            Ok(open) => open,
            Err(limit) => {
                limit.met();
                let status = (rules.refuse)(Cause::Limit(limit), &admitted);
                self.port.turned_away(admitted.method, word(status.code()));
                return Either::Left(ready(Ok(status.into_http())));
            }
        };
        let body = Body::new(Arriving::new(body, &open, admitted.clone()));
        head.extensions.insert(Called {
            port: self.port.clone(),
            peer: self.peer.clone(),
            admitted,
        });
        let answered = self.inner.clone().oneshot(Request::from_parts(head, body));
        Either::Right(Box::pin(async move {
            let Ok(answer) = answered.await;
            Ok(leaving(answer, open))
        }))
    }
}

/// An answer that holds its call's place for as long as it is sent.
fn leaving(answer: HttpAnswer, mut open: Open) -> HttpAnswer {
    let (mut head, body) = answer.into_parts();
    open.code = code(&head.headers);
    if let Some(EndsAt(at)) = head.extensions.remove() {
        open.call.ends_at(open.port.at(at));
    }
    let room = head.extensions.remove::<Given>();
    let room = room.and_then(|given| given.take());
    Response::from_parts(head, Body::new(Leaving::new(body, open, room)))
}

/// The answer to a request that is no gRPC call.
fn plain(refused: &protocol::NotServed, origins: &Origins) -> HttpAnswer {
    let mut answer = Response::new(Body::new(http_body_util::Full::from(refused.text)));
    *answer.status_mut() = refused.status;
    let headers = answer.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, text);
    if refused.status == http::StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if !origins.is_empty() {
        web::depends_on_origin(headers);
    }
    answer
}

/// The room of a large answer, on its way from [`WithRoom`] to the answer's body.
#[derive(Debug, Clone)]
struct Given(std::sync::Arc<std::sync::Mutex<Option<Room>>>);

impl Given {
    fn take(&self) -> Option<Room> {
        let mut room = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        room.take()
    }
}

/// Lets a call with a large answer wait until there is room for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoomLayer;

impl<S> Layer<S> for RoomLayer {
    type Service = WithRoom<S>;

    fn layer(&self, inner: S) -> WithRoom<S> {
        WithRoom(inner)
    }
}

/// A service whose large answers have room.
#[derive(Debug, Clone)]
pub struct WithRoom<S>(S);

impl<S> Service<Request<Body>> for WithRoom<S>
where
    S: Service<Request<Body>, Response = HttpAnswer, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = HttpAnswer;
    type Error = Infallible;
    type Future =
        Either<S::Future, Pin<Box<dyn Future<Output = Result<HttpAnswer, Infallible>> + Send>>>;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let called = request.extensions().get::<Called>();
        let Some(called) = called
            .filter(|called| called.admitted.answer_bytes > 0)
            .cloned()
        else {
            return Either::Left(self.0.call(request));
        };
        let inner = self.0.clone();
        Either::Right(Box::pin(async move {
            let Called {
                port,
                peer,
                admitted,
            } = called;
            let room = port
                .room(&peer, &admitted.caller, admitted.answer_bytes)
                .await;
            let Ok(mut answer) = inner.oneshot(request).await;
            let given = Given(std::sync::Arc::new(std::sync::Mutex::new(room)));
            answer.extensions_mut().insert(given);
            Ok(answer)
        }))
    }
}

impl Port {
    /// Serves the connections of a listener until `stop`; then lets open calls end by themselves.
    pub async fn serve<S>(self, mut incoming: Incoming, service: S, stop: CancellationToken)
    where
        S: Service<Request<Body>, Response = HttpAnswer, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let mut connections = JoinSet::new();
        let mut swept = pin!(self.sweep(&stop));
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = &mut swept => {}
                Some(_) = connections.join_next() => {}
                Some(Ok(accepted)) = incoming.next() => {
                    let door = service.clone();
                    connections.spawn(self.clone().connection(accepted, door, stop.clone()));
                }
            }
        }
        // This closes the listener, so that nobody waits in the system's queue without an answer.
        drop(incoming);
        loop {
            tokio::select! {
                biased;
                ended = connections.join_next() => if ended.is_none() { return },
                () = &mut swept => {}
            }
        }
    }

    async fn connection<S>(self, mut accepted: Guarded, inner: S, stop: CancellationToken)
    where
        S: Service<Request<Body>, Response = HttpAnswer, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let peer = Peer::new(accepted.is_tcp(), self.at(Instant::now()));
        accepted.watch(peer.clone());
        let _joined = self.join(peer.clone());
        let (left, ended) = (peer.left().clone(), peer.ended().clone());
        let shaken = tokio::select! {
            biased;
            () = ended.cancelled() => return,
            () = stop.cancelled() => return,
            shaken = accepted.shake_hands() => shaken,
        };
        // A handshake that fails is its peer's affair.
        let Ok(names) = shaken else { return };
        let builder = builder(&peer, &self.rules().origins);
        let door = Door {
            port: self.clone(),
            peer,
            names: CertificateNames(names),
            inner,
        };
        let mut serving = pin!(builder.serve_connection(TokioIo::new(accepted), door));
        tokio::select! {
            biased;
            // The failure of a connection is its peer's affair.
            _ = &mut serving => return,
            () = ended.cancelled() => {}
            () = left.cancelled() => {}
            () = stop.cancelled() => {}
        }
        serving.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            _ = &mut serving => return,
            () = ended.cancelled() => {}
        }
        let _ = tokio::time::timeout(GOING, serving).await;
    }
}

/// hyper's server with limits on the cost of a connection.
fn builder(peer: &Peer, origins: &Origins) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(Tasks(peer.clone()));
    let (stream_window, connection_window) = WINDOWS;
    let (interval, timeout) = KEEPALIVE;
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .max_send_buf_size(SEND_BUFFER);
    // A browser keeps its connection, in silence for as long as the headers of its next request may
    // take. Another peer that speaks HTTP/1 gets one answer that says so.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(super::PREFACE_TIMEOUT)
        .max_buf_size(HEADER_LIST_BYTES as usize)
        .keep_alive(!origins.is_empty());
    builder
}
