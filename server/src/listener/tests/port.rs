//! A port over real sockets in virtual time, with peers that send or read only a part.

mod attempts;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tonic::{Code, Status, body::Body};
use tower::Layer as _;

use super::super::*;
use crate::limits::Limit;

/// The length of a large answer, for which it asks room.
const LARGE: usize = 3 << 20;

type Frames = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;
type Sender = SendRequest<StreamBody<Frames>>;

pub(super) struct Served {
    pub(super) address: String,
    pub(super) port: Port,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    /// Large answers that were made.
    made: Arc<AtomicUsize>,
    /// Bodies that are held.
    pub(super) held: Arc<AtomicUsize>,
}

/// Counts for as long as it lives.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }

    /// Checks, from inside a body that holds it, that the body is counted.
    fn is_held(&self) {
        assert!(self.0.load(Ordering::SeqCst) > 0);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn admit(head: &mut http::request::Parts) -> Result<Admitted, Box<Refused>> {
    let guest = match head.headers.get("guest").map(http::HeaderValue::as_bytes) {
        Some(b"check") => Guest::Check,
        Some(b"watch") => Guest::Watch,
        Some(b"reflection") => Guest::Reflection,
        Some(b"refused") => {
            let status = Status::unauthenticated("who are you?");
            return Err(Box::new(Refused {
                method: "m",
                status,
            }));
        }
        _ => Guest::Caller,
    };
    Ok(Admitted {
        guest,
        caller: Arc::from("shop"),
        method: "m",
        request_bytes: 256 * 1024,
        answer_bytes: if head.uri.path() == "/large" {
            LARGE
        } else {
            0
        },
    })
}

fn refuse(cause: Cause, _: &Admitted) -> Status {
    match cause {
        Cause::Limit(limit) => Status::resource_exhausted(limit.name()),
        Cause::Ending => Status::unavailable("ending"),
    }
}

async fn answer(
    request: http::Request<Body>,
    made: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
) -> Result<http::Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let end = stream::iter([Ok::<_, Infallible>(Frame::trailers(trailers))]);
    let kept = Held::new(&held);
    Ok(match head.uri.path() {
        "/large" => {
            made.fetch_add(1, Ordering::SeqCst);
            let data = Frame::data(Bytes::from(vec![0; LARGE]));
            let frames = stream::iter([Ok(data)])
                .chain(end)
                .inspect(move |_| kept.is_held());
            http::Response::new(Body::new(StreamBody::new(frames)))
        }
        "/endless" => {
            let frames = stream::repeat_with(move || {
                kept.is_held();
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 1_000])))
            });
            let mut answer = http::Response::new(Body::new(StreamBody::new(frames)));
            let ends_at = Instant::now() + Duration::from_secs(3);
            answer.extensions_mut().insert(EndsAt(ends_at));
            answer
        }
        "/silent" => http::Response::new(Body::new(StreamBody::new(stream::pending::<
            Result<Frame<Bytes>, Infallible>,
        >()))),
        _ => match body.collect().await {
            Ok(_) => http::Response::new(Body::new(StreamBody::new(end))),
            Err(status) => status.into_http(),
        },
    })
}

async fn serve(connections: u32) -> Served {
    serve_pages(connections, Origins::default()).await
}

/// Serves pages of these origins too.
pub(super) async fn serve_pages(connections: u32, origins: Origins) -> Served {
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let (stop, close) = (CancellationToken::new(), CancellationToken::new());
    let (made, held) = (Arc::default(), Arc::default());
    let (makes, holds) = (Arc::clone(&made), Arc::clone(&held));
    let service = tower::service_fn(move |request| {
        answer(request, Arc::clone(&makes), Arc::clone(&holds)).boxed()
    });
    let port = Port::new(Rules {
        trust: Trust::Tokens,
        origins,
        admit: Arc::new(admit),
        refuse: Arc::new(refuse),
        connections,
    });
    let incoming = listener.incoming(connections, close);
    let serving = port
        .clone()
        .serve(incoming, RoomLayer.layer(service), stop.clone());
    Served {
        address,
        port,
        stop,
        serving: tokio::spawn(serving),
        made,
        held,
    }
}

/// A peer that speaks HTTP/2, and the end of its connection.
async fn connect(served: &Served) -> (Sender, JoinHandle<()>) {
    let stream = TcpStream::connect(&served.address).await.unwrap();
    let connected = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(1_024)
        .initial_connection_window_size(8 << 20)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = connected.await.unwrap();
    (sender, tokio::spawn(async move { drop(connection.await) }))
}

fn call(guest: &str, path: &str, frames: Frames) -> http::Request<StreamBody<Frames>> {
    http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("guest", guest)
        .body(StreamBody::new(frames))
        .unwrap()
}

fn nothing() -> Frames {
    stream::empty().boxed()
}

/// So many bytes, and then silence.
fn half(bytes: usize) -> Frames {
    let begun = stream::iter([Ok(Frame::data(Bytes::from(vec![0; bytes])))]);
    begun.chain(stream::pending()).boxed()
}

/// The final status of a call.
async fn told(sender: &mut Sender, request: http::Request<StreamBody<Frames>>) -> Status {
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) => status,
        None => {
            let end = body.collect().await.unwrap();
            Status::from_header_map(end.trailers().unwrap()).unwrap()
        }
    }
}

#[tokio::test]
async fn a_refused_call_is_answered_although_its_body_never_comes() {
    let served = serve(10).await;
    let (mut peer, _connection) = connect(&served).await;
    let began = Instant::now();
    for _ in 0..10 {
        let status = told(&mut peer, call("refused", "/echo", half(60_000))).await;
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let calls = served.port.calls();
    assert_eq!(calls, [("m", "UNAUTHENTICATED", 10)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_arrive_in_time_is_refused() {
    let served = serve(10).await;
    let (mut peer, _connection) = connect(&served).await;
    let began = Instant::now();
    let status = told(&mut peer, call("caller", "/echo", half(100))).await;
    assert_eq!(status.message(), Limit::RequestTime.name());
    let took = began.elapsed().as_secs();
    assert!((10..=14).contains(&took), "{took} s");
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_before_it_is_read_whole() {
    let served = serve(10).await;
    let (mut peer, _connection) = connect(&served).await;
    let status = told(&mut peer, call("caller", "/echo", half(300 * 1024))).await;
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test(start_paused = true)]
async fn unfinished_requests_of_a_connection_have_so_many_bytes() {
    let served = serve(10).await;
    let (peer, _connection) = connect(&served).await;
    let calls = (0..40).map(|_| {
        let mut peer = peer.clone();
        async move { told(&mut peer, call("caller", "/echo", half(250_000))).await }
    });
    let told = futures_util::future::join_all(calls).await;
    let of = |limit: Limit| {
        told.iter()
            .filter(|status| status.message() == limit.name())
            .count()
    };
    let (late, beyond) = (of(Limit::RequestTime), of(Limit::RequestBytes));
    assert_eq!(late + beyond, 40, "{told:?}");
    assert!((8..=16).contains(&late), "{late} of 4 MiB");
}

#[tokio::test(start_paused = true)]
async fn large_answers_wait_for_room_and_unread_ones_are_reset_after_a_minute() {
    let served = serve(10).await;
    let (mut peer, _connection) = connect(&served).await;
    let mut first = peer
        .send_request(call("caller", "/large", nothing()))
        .await
        .unwrap();
    let others: Vec<_> = (0..30)
        .map(|_| {
            peer.send_request(call("caller", "/large", nothing()))
                .boxed()
        })
        .collect();
    let others = tokio::spawn(futures_util::future::join_all(others));
    sleep(Duration::from_secs(30)).await;
    let fitting = (16 << 20) / LARGE;
    let made = served.made.load(Ordering::SeqCst);
    assert!(made <= fitting + 1, "{made} answers of 3 MiB in 16 MiB");
    sleep(Duration::from_secs(40)).await;
    let end = async {
        loop {
            match first.frame().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        }
    };
    assert!(matches!(end.await, Some(Err(_))), "it is reset");
    let made = served.made.load(Ordering::SeqCst);
    assert!(
        made > fitting && made <= 2 * fitting + 2,
        "{made}: others have had their turn"
    );
    drop(others);
}

#[tokio::test]
async fn a_large_answer_that_is_read_makes_room_for_the_next() {
    let served = serve(10).await;
    let (peer, _connection) = connect(&served).await;
    let calls = (0..30).map(|_| {
        let mut peer = peer.clone();
        async move {
            let answer = peer.send_request(call("caller", "/large", nothing())).await;
            let body = answer.unwrap().into_body().collect().await.unwrap();
            let is_ok = Status::from_header_map(body.trailers().unwrap()).unwrap();
            (body.to_bytes().len(), is_ok.code())
        }
    });
    for read in futures_util::future::join_all(calls).await {
        assert_eq!(read, (LARGE, Code::Ok));
    }
    assert_eq!(served.held.load(Ordering::SeqCst), 0);
    assert_eq!(served.port.calls(), [("m", "OK", 30)]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_is_gone_soon_after_its_end() {
    let served = serve(10).await;
    let (mut peer, _connection) = connect(&served).await;
    let mut answer = peer
        .send_request(call("caller", "/endless", nothing()))
        .await
        .unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(served.held.load(Ordering::SeqCst), 1);
    sleep(Duration::from_secs(8)).await;
    assert_eq!(
        served.held.load(Ordering::SeqCst),
        0,
        "it holds nothing any more"
    );
    let end = async { while let Some(Ok(_)) = answer.frame().await {} };
    end.await;
    assert_eq!(served.port.calls(), [("m", "CANCELLED", 1)]);
}

#[tokio::test]
async fn a_connection_that_shows_nothing_about_itself_ends_within_a_minute() {
    let served = serve(8).await;
    let began = Instant::now();
    let (idle, idle_ends) = connect(&served).await;
    let (mut refused, refused_ends) = connect(&served).await;
    told(&mut refused, call("refused", "/echo", nothing())).await;
    let (mut reflects, reflects_ends) = connect(&served).await;
    let stream = reflects.send_request(call("reflection", "/silent", nothing()));
    let stream = stream.await.unwrap();
    let (mut known, known_ends) = connect(&served).await;
    told(&mut known, call("caller", "/echo", nothing())).await;
    // Two of eight connections may live on health checks alone.
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let (mut peer, ends) = connect(&served).await;
        let watch = peer.send_request(call("watch", "/silent", nothing())).await;
        watchers.push((peer, watch.unwrap(), ends));
    }
    // Everything on its way has arrived: only time passes from here on.
    tokio::time::pause();
    for ends in [idle_ends, refused_ends, reflects_ends] {
        ends.await.unwrap();
        let took = began.elapsed().as_secs();
        assert!((45..60).contains(&took), "{took} s");
    }
    sleep(Duration::from_secs(240)).await;
    assert!(!known_ends.is_finished());
    let left = watchers
        .iter()
        .filter(|(.., ends)| !ends.is_finished())
        .count();
    assert_eq!(left, 2);
    assert_eq!(served.port.connections(), 3);
    drop((idle, stream));
}

#[tokio::test]
async fn a_stranger_may_send_so_much_and_no_more() {
    let served = serve(8).await;
    let mut peer = TcpStream::connect(&served.address).await.unwrap();
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    peer.write_all(settings).await.unwrap();
    let pings = b"\0\0\x08\x06\0\0\0\0\0pingpong".repeat(1_000);
    let (mut reader, mut writer) = peer.into_split();
    let reads = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    let mut sent = 0;
    while sent < 64 << 20 && writer.write_all(&pings).await.is_ok() {
        sent += pings.len();
    }
    assert!(sent < 32 << 20, "{sent} bytes of pings");
    let _ = reads.await.unwrap();
}

#[tokio::test]
async fn open_calls_are_few_on_each_connection() {
    let served = serve(40).await;
    for (guest, most) in [("watch", 16), ("reflection", 4)] {
        let (mut peer, _connection) = connect(&served).await;
        let mut open = Vec::new();
        for _ in 0..most {
            let answer = peer
                .send_request(call(guest, "/silent", nothing()))
                .await
                .unwrap();
            assert!(
                Status::from_header_map(answer.headers()).is_none(),
                "{guest}"
            );
            open.push(answer);
        }
        let beyond = told(&mut peer, call(guest, "/silent", nothing())).await;
        assert_eq!(beyond.code(), Code::ResourceExhausted, "{guest}");
        let (mut other, _connection) = connect(&served).await;
        let answer = other
            .send_request(call(guest, "/silent", nothing()))
            .await
            .unwrap();
        assert!(
            Status::from_header_map(answer.headers()).is_none(),
            "{guest}"
        );
        drop(open);
    }
}

#[tokio::test]
async fn few_connections_cannot_take_the_last_watch_of_health() {
    let served = serve(8).await;
    let watch = async |peer: &mut Sender| {
        let answer = peer.send_request(call("watch", "/silent", nothing()));
        answer.await.unwrap()
    };
    let is_refused =
        |answer: &http::Response<_>| Status::from_header_map(answer.headers()).is_some();
    let mut open = Vec::new();
    for (wanted, granted) in [(16, 1 + 4), (16, 1), (16, 1)] {
        let (mut peer, connection) = connect(&served).await;
        let mut answers = Vec::new();
        for _ in 0..wanted {
            answers.push(watch(&mut peer).await);
        }
        let refused = answers.iter().filter(|answer| is_refused(answer)).count();
        assert_eq!(wanted - refused, granted);
        open.push((peer, answers, connection));
    }
    // A prober's and a caller's connection each has its place, and a leaving one makes room.
    let (mut prober, _connection) = connect(&served).await;
    let first = watch(&mut prober).await;
    assert!(!is_refused(&first));
    let (mut known, _connection) = connect(&served).await;
    told(&mut known, call("caller", "/echo", nothing())).await;
    let second = watch(&mut known).await;
    assert!(!is_refused(&second));
    open.clear();
    while is_refused(&watch(&mut prober).await) {
        tokio::task::yield_now().await;
    }
}

/// Sends as many bytes as a known caller's connection takes of a flood, up to 64 MiB.
async fn flooded(served: &Served, frame: &[u8]) -> usize {
    let stream = TcpStream::connect(&served.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let begun = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    writer.write_all(begun).await.unwrap();
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/silent"),
        ("content-type", "application/grpc"),
        ("guest", "caller"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let length = u8::try_from(block.len()).unwrap();
    let mut headers = vec![0, 0, length, 1, 4, 0, 0, 0, 1];
    headers.extend(block);
    writer.write_all(&headers).await.unwrap();
    let mut heard = vec![0; 9];
    reader.read_exact(&mut heard).await.unwrap();
    let reads = tokio::spawn(async move { reader.read_to_end(&mut Vec::new()).await });
    let frames = frame.repeat(1_000);
    let mut sent = 0;
    while sent < 64 << 20 && writer.write_all(&frames).await.is_ok() {
        sent += frames.len();
    }
    drop(writer);
    let _ = reads.await.unwrap();
    sent
}

#[tokio::test]
async fn a_flood_of_control_frames_by_a_known_caller_ends_its_connection() {
    let served = serve(8).await;
    let floods: [(&str, &[u8]); 6] = [
        ("PING", b"\0\0\x08\x06\0\0\0\0\0pingpong"),
        ("SETTINGS", b"\0\0\0\x04\0\0\0\0\0"),
        ("RST_STREAM", b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08"),
        ("PRIORITY", b"\0\0\x05\x02\0\0\0\0\x01\0\0\0\0\x01"),
        ("WINDOW_UPDATE", b"\0\0\x04\x08\0\0\0\0\x01\0\0\0\x01"),
        ("DATA", b"\0\0\0\0\0\0\0\0\x01"),
    ];
    for (kind, frame) in floods {
        let met = Limit::ControlFrames.times();
        let sent = flooded(&served, frame).await;
        // More are sent than counted: the system's buffers take bytes that nobody reads any more.
        assert!(sent / frame.len() < 1_000_000, "{kind}: {sent} bytes");
        // h2 itself ends a flood of empty DATA first.
        assert!(
            Limit::ControlFrames.times() > met || kind == "DATA",
            "{kind}"
        );
    }
}

#[tokio::test]
async fn what_does_not_speak_http_2_is_told_so_and_closed() {
    let served = serve(8).await;
    let requests = [
        "GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n0",
        "POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n0",
    ];
    let began = Instant::now();
    for request in requests {
        let mut peer = TcpStream::connect(&served.address).await.unwrap();
        peer.write_all(request.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        let _ = peer.read_to_end(&mut told).await;
        let told = String::from_utf8_lossy(&told);
        assert!(told.starts_with("HTTP/1.1 404 "), "{told}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn half_requests_and_streams_of_reflection_do_not_hold_up_an_end() {
    let served = serve(8).await;
    let (peer, _connection) = connect(&served).await;
    let calls: Vec<_> = ["caller", "reflection"]
        .map(|guest| {
            let mut peer = peer.clone();
            tokio::spawn(async move { told(&mut peer, call(guest, "/echo", half(10))).await })
        })
        .into();
    drop(peer);
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    served.stop.cancel();
    served.serving.await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let told: Vec<Code> = futures_util::future::join_all(calls)
        .await
        .into_iter()
        .map(|answer| answer.unwrap().code())
        .collect();
    assert_eq!(told, [Code::Unavailable, Code::Ok]);
}
