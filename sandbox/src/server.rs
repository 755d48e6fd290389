//! The sockets: connections, the way of one request, and answers that go wrong on purpose.
//! The content of an answer is the providers' matter.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    engine::Engine,
    exchange::{Answer, Call, Lie, UNKNOWN_WORD},
    fault::Fault,
    record::RecordedRequest,
    registry::{Simulated, simulated},
};

/// The time that answers under way may take once the sandbox stops.
const GRACE: Duration = Duration::from_secs(1);

const OVERSIZED_BYTES: usize = 16 << 20;
const OVERSIZED_CHUNK: usize = 64 << 10;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The end of a request.
enum Ending {
    Answer(Response<Body>),
    /// The connection is closed.
    Cut,
    /// The connection is reset.
    Reset,
    /// Nothing comes.
    Silence,
}

/// One connection's end, which a request can bring about.
#[derive(Clone, Debug)]
struct Line {
    cut: CancellationToken,
    reset: Arc<AtomicBool>,
}

/// A socket that is reset instead of closed if a fault asks for it.
struct Wire {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            // Without it the peer sees an orderly end; there is nobody to tell.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Accepts connections until the sandbox stops, and then waits for those under way.
pub(crate) async fn listen(engine: Arc<Engine>, listener: TcpListener) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(engine.options.connections_max));
    loop {
        let slot = tokio::select! {
            () = engine.stop.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            () = engine.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let engine = Arc::clone(&engine);
                connections.spawn(async move {
                    connection(engine, stream).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                // Mostly a lack of file descriptors, which only time mends.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(engine: Arc<Engine>, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection gone before it began");
        return;
    }
    let reset = Arc::new(AtomicBool::new(false));
    let line = Line {
        cut: CancellationToken::new(),
        reset: Arc::clone(&reset),
    };
    let cut = line.cut.clone();
    let stop = engine.stop.clone();
    let service = service_fn(move |request| {
        let (engine, line) = (Arc::clone(&engine), line.clone());
        async move { Ok::<_, Infallible>(serve(engine, line, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(Wire { stream, reset }), service);
    tokio::pin!(serving);
    tokio::select! {
        () = cut.cancelled() => return,
        result = serving.as_mut() => {
            if let Err(error) = result {
                tracing::debug!(error, "connection ended early");
            }
            return;
        }
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        () = cut.cancelled() => {}
        _ = tokio::time::timeout(GRACE, serving.as_mut()) => {}
    }
}

async fn serve(engine: Arc<Engine>, line: Line, request: Request<Incoming>) -> Response<Body> {
    match handle(&engine, request).await {
        Ending::Answer(response) => return response,
        Ending::Cut => line.cut.cancel(),
        Ending::Reset => {
            line.reset.store(true, Ordering::Release);
            line.cut.cancel();
        }
        Ending::Silence => {}
    }
    // The connection is dropped from outside, by the client, or when the sandbox stops.
    std::future::pending().await
}

async fn handle(engine: &Engine, request: Request<Incoming>) -> Ending {
    let Some((provider, path)) = split(request.uri().path()) else {
        let body = json!({ "error": "no such provider" });
        return Ending::Answer(json_response(
            Answer::new(StatusCode::NOT_FOUND, body),
            None,
        ));
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let number = engine.state().record.arrived(RecordedRequest {
        provider: provider.name,
        method: request.method().to_string(),
        path: path.clone(),
        query: query.clone(),
        idempotency_key: text(request.headers().get("idempotency-key")),
        created: None,
        status: None,
        at: SystemTime::now(),
    });
    let is_create = provider.is_create(request.method(), &path);
    let fault = engine.state().script.take(provider.name, is_create);
    let ending = match fault {
        Some(fault) if !fault.processes() => refusal(provider, fault),
        fault => {
            let pairs = url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect();
            let (head, body) = request.into_parts();
            match Limited::new(body, provider.body_bytes_max).collect().await {
                Ok(body) => {
                    let call = Call {
                        method: head.method,
                        path,
                        query: pairs,
                        headers: head.headers,
                        body: body.to_bytes(),
                        life: None,
                        lie: (fault == Some(Fault::UnknownWord))
                            .then(|| Lie::Word(UNKNOWN_WORD.to_owned())),
                    };
                    process(engine, provider, number, &call, fault).await
                }
                Err(_) => status_only(provider, StatusCode::PAYLOAD_TOO_LARGE),
            }
        }
    };
    if let Ending::Answer(response) = &ending {
        engine
            .state()
            .record
            .answered(number, response.status().as_u16());
    }
    ending
}

async fn process(
    engine: &Engine,
    provider: &Simulated,
    number: u64,
    call: &Call,
    fault: Option<Fault>,
) -> Ending {
    let answer = provider.answer(engine, call).await;
    if let Some(reference) = &answer.created {
        let mut state = engine.state();
        state.record.created(provider.name, number, reference);
    }
    let trouble = engine.trouble(provider.name, &answer);
    match fault.or(trouble) {
        None | Some(Fault::UnknownWord) => Ending::Answer(json_response(answer, Some(provider))),
        Some(fault) => spoil(provider, answer, fault),
    }
}

/// The end of a request that is not processed.
fn refusal(provider: &Simulated, fault: Fault) -> Ending {
    match fault {
        Fault::Unauthorized => status_only(provider, StatusCode::UNAUTHORIZED),
        Fault::Unavailable => status_only(provider, StatusCode::SERVICE_UNAVAILABLE),
        Fault::Throttled(seconds) => {
            let answer = provider.error(StatusCode::TOO_MANY_REQUESTS, Some(seconds));
            Ending::Answer(json_response(answer, Some(provider)))
        }
        Fault::Redirect => {
            // Below the provider, so that a client that follows shows in the record.
            let location = format!("/{}/elsewhere", provider.name);
            let answer = Answer::new(StatusCode::FOUND, json!({}));
            Ending::Answer(json_response(
                answer.header("location", location),
                Some(provider),
            ))
        }
        Fault::ResetBefore | Fault::ResetAfter => Ending::Reset,
        Fault::Hang => Ending::Silence,
        Fault::Lost => Ending::Cut,
        Fault::Error
        | Fault::ErrorAfter
        | Fault::SlowDrip(_)
        | Fault::NotJson
        | Fault::Oversized
        | Fault::UnknownWord => status_only(provider, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The end of a request that was processed, but whose answer does not arrive whole.
fn spoil(provider: &Simulated, answer: Answer, fault: Fault) -> Ending {
    match fault {
        Fault::NotJson => {
            let page = "<html><body><h1>It works!</h1></body></html>";
            let mut response = Response::new(full(Bytes::from_static(page.as_bytes())));
            *response.status_mut() = answer.status;
            let html = HeaderValue::from_static("text/html");
            response.headers_mut().insert(header::CONTENT_TYPE, html);
            Ending::Answer(response)
        }
        Fault::SlowDrip(every) => {
            let response = json_response(answer, Some(provider));
            Ending::Answer(response.map(|body| drip(body, every)))
        }
        Fault::Oversized => {
            let response = json_response(answer, Some(provider));
            Ending::Answer(response.map(|_| oversized()))
        }
        other => refusal(provider, other),
    }
}

fn status_only(provider: &Simulated, status: StatusCode) -> Ending {
    let answer = provider.error(status, None);
    Ending::Answer(json_response(answer, Some(provider)))
}

fn json_response(answer: Answer, provider: Option<&Simulated>) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(answer.body.to_string())));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    let content_type = provider.map_or("application/json", |provider| provider.content_type);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.extend(answer.headers);
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

/// The same body, a byte at a time.
fn drip(body: Body, every: Duration) -> Body {
    let bytes = stream::unfold(
        (Some(body), Bytes::new()),
        move |(body, mut rest)| async move {
            if let Some(body) = body {
                rest = body
                    .collect()
                    .await
                    .map_or_else(|never| match never {}, |body| body.to_bytes());
            }
            if rest.is_empty() {
                return None;
            }
            tokio::time::sleep(every).await;
            let byte = rest.split_to(1);
            Some((Ok(Frame::data(byte)), (None, rest)))
        },
    );
    StreamBody::new(bytes).boxed_unsync()
}

fn oversized() -> Body {
    let chunk = Bytes::from(vec![b'a'; OVERSIZED_CHUNK]);
    let padding = (0..OVERSIZED_BYTES / OVERSIZED_CHUNK).map(move |_| chunk.clone());
    let chunks = std::iter::once(Bytes::from_static(b"{\"padding\":\""))
        .chain(padding)
        .chain(std::iter::once(Bytes::from_static(b"\"}")));
    StreamBody::new(stream::iter(chunks.map(|chunk| Ok(Frame::data(chunk))))).boxed_unsync()
}

/// The provider that a path begins with, and the path below it.
fn split(path: &str) -> Option<(&'static Simulated, String)> {
    let path = path.strip_prefix('/')?;
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    Some((simulated(name)?, format!("/{rest}")))
}

fn text(value: Option<&HeaderValue>) -> Option<String> {
    value
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}
