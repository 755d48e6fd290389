//! The listener over real sockets, with a service that answers or never finishes.

use std::{
    convert::Infallible,
    future::{pending, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tonic::{body::Body, transport::server::Connected as _};

use super::*;
use crate::tls::{Offered, ServerFiles, ServerTls};

mod port;
mod web;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const HEAD_START: &[u8] = b"HTTP/1.1 200 OK";

struct Served {
    address: String,
    stop: CancellationToken,
    close: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Serves answers whose bodies end at once, or never.
async fn serve(endless: bool) -> Served {
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let (stop, close) = (CancellationToken::new(), CancellationToken::new());
    let incoming = listener.incoming(10, close.clone());
    let service = tower::service_fn(move |_: http::Request<Body>| {
        let frames = if endless {
            stream::pending::<Result<Frame<Bytes>, Infallible>>().boxed()
        } else {
            stream::empty().boxed()
        };
        ready(Ok::<_, Infallible>(http::Response::new(StreamBody::new(
            frames,
        ))))
    });
    let stopped = stop.clone().cancelled_owned();
    let serving = tokio::spawn(server().serve_with_incoming_shutdown(service, incoming, stopped));
    Served {
        address,
        stop,
        close,
        serving,
    }
}

/// A connection that has asked and has got the beginning of an answer.
async fn asked(address: &str) -> TcpStream {
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(REQUEST).await.unwrap();
    let mut head = [0; HEAD_START.len()];
    peer.read_exact(&mut head).await.unwrap();
    assert_eq!(head, HEAD_START);
    peer
}

async fn until_closed(mut peer: TcpStream) {
    let mut rest = Vec::new();
    // A reset closes a connection as well as an end does.
    let _ = peer.read_to_end(&mut rest).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_too_little_is_closed_at_the_deadline() {
    let served = serve(false).await;
    let begun = tokio::time::Instant::now();
    for first_bytes in [&b""[..], b"PRI * HTTP/2.0"] {
        let mut peer = TcpStream::connect(&served.address).await.unwrap();
        peer.write_all(first_bytes).await.unwrap();
        until_closed(peer).await;
    }
    assert!(begun.elapsed() >= PREFACE_TIMEOUT * 2);
}

/// TLS with a certificate that nobody trusts.
fn tls(folder: &Path) -> ServerTls {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = ServerFiles {
        certificate: folder.join("cert.pem"),
        key: folder.join("key.pem"),
        client_ca: None,
    };
    fs::write(&files.certificate, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    ServerTls::load(files, Offered::Http2).unwrap()
}

/// A slow handshake has its own deadline, and then the preface has one: bytes of the handshake do not
/// count for it.
#[tokio::test(start_paused = true)]
async fn a_peer_that_stays_in_its_handshake_is_closed_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let tls = tls(folder.path());
    // The beginnings of a handshake: nothing, a record's head, and the head of a longer record.
    for first_bytes in [&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.address()).await.unwrap();
        let mut incoming = listener
            .incoming(1, CancellationToken::new())
            .secured(Some(tls.clone()));
        let mut accepted = incoming.next().await.unwrap().unwrap();
        peer.write_all(first_bytes).await.unwrap();
        let begun = tokio::time::Instant::now();
        let failed = accepted.shake_hands().await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= PREFACE_TIMEOUT);
        drop(accepted);
        until_closed(peer).await;
    }
    assert_eq!(tls.figures().handshakes_failed, 3);
}

#[tokio::test]
async fn a_peer_that_has_asked_is_not_held_to_the_deadline() {
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.address()).await.unwrap();
    let mut incoming = listener.incoming(1, CancellationToken::new());
    let mut accepted = incoming.next().await.unwrap().unwrap();
    peer.write_all(REQUEST).await.unwrap();
    let mut request = [0; REQUEST.len()];
    accepted.read_exact(&mut request).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(PREFACE_TIMEOUT * 2).await;
    assert!(accepted.read_u8().now_or_never().is_none());
}

#[tokio::test]
async fn connections_above_the_limit_wait_until_one_ends() {
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let mut incoming = listener.incoming(1, CancellationToken::new());
    let _peers = [
        TcpStream::connect(&address).await.unwrap(),
        TcpStream::connect(&address).await.unwrap(),
    ];
    let first = incoming.next().await.unwrap().unwrap();
    assert!(first.connect_info().remote_addr.is_some());
    assert!(incoming.next().now_or_never().is_none());
    drop(first);
    assert!(incoming.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_drain_waits_for_what_ends_by_itself() {
    let served = serve(false).await;
    let idle = asked(&served.address).await;
    let silent = TcpStream::connect(&served.address).await.unwrap();
    let within = Duration::from_secs(60);
    let drained = drain(served.serving, &served.stop, &served.close, within).await;
    assert!(matches!(drained, Drained::Whole(Ok(Ok(())))), "{drained:?}");
    until_closed(idle).await;
    until_closed(silent).await;
    let refused = TcpStream::connect(&served.address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_drain_closes_what_does_not_end_in_time() {
    let served = serve(true).await;
    let open = asked(&served.address).await;
    let within = Duration::from_millis(50);
    let drained = drain(served.serving, &served.stop, &served.close, within).await;
    assert!(
        matches!(drained, Drained::Closed(Ok(Ok(())))),
        "{drained:?}"
    );
    until_closed(open).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_up_on_what_never_ends() {
    let (stop, close) = (CancellationToken::new(), CancellationToken::new());
    let drained = drain(pending::<()>(), &stop, &close, Duration::from_secs(20)).await;
    assert_eq!(drained, Drained::Abandoned);
    assert!(stop.is_cancelled() && close.is_cancelled());
}

#[tokio::test]
async fn a_unix_socket_replaces_a_stale_one_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tillwatch.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the stale file");

    let listener = Listener::unix(&path).unwrap();
    assert_eq!(listener.address(), format!("unix:{}", path.display()));
    let taken = Listener::unix(&path).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);

    let mut peer = UnixStream::connect(&path).await.unwrap();
    let mut incoming = listener.incoming(2, CancellationToken::new());
    // The first connection only asked if anybody listens.
    incoming.next().await.unwrap().unwrap();
    let mut accepted = incoming.next().await.unwrap().unwrap();
    assert!(accepted.connect_info().remote_addr.is_none());
    peer.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
    drop(incoming);
    assert!(!path.exists(), "removed with the listener");

    fs::write(&path, "precious").unwrap();
    let other = Listener::unix(&path).unwrap_err();
    assert_eq!(other.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn connections_fit_into_the_limit_of_files() {
    let table = [
        (20_000, u64::MAX, 0, 20_000),
        (20_000, 20_256, 0, 20_000),
        (20_000, 20_256, 100, 19_900),
        (20_000, 1_024, 0, 768),
        (20_000, 100, 0, 1),
        (20_000, 1_024, u64::MAX, 1),
    ];
    for (wanted, file_limit, reserved, expected) in table {
        assert_eq!(connections_within(wanted, file_limit, reserved), expected);
    }
    assert!(raise_file_limit() > 0);
}

#[tokio::test]
async fn calls_pass_through_guarded_connections_and_the_panic_layer() {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.address());
    let (stop, close) = (CancellationToken::new(), CancellationToken::new());
    let serving = server()
        .layer(PanicLayer)
        .add_service(service)
        .serve_with_incoming_shutdown(
            listener.incoming(10, close.clone()),
            stop.clone().cancelled_owned(),
        );
    let serving = tokio::spawn(serving);
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest::default();
    let answer = client.check(request).await.unwrap().into_inner();
    assert_eq!(
        answer.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    let drained = drain(serving, &stop, &close, Duration::from_secs(60)).await;
    assert!(matches!(drained, Drained::Whole(Ok(Ok(())))), "{drained:?}");
}

/// With a window of 64 KiB the connection broke under this load.
#[tokio::test]
async fn a_burst_of_calls_on_a_new_connection_is_answered() {
    let (_reporter, service) = tonic_health::server::health_reporter();
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.address());
    let incoming = listener.incoming(10, CancellationToken::new());
    let serving = tokio::spawn(server().add_service(service).serve_with_incoming(incoming));
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap();
    let channel = channel.connect().await.unwrap();
    let calls = (0..STREAMS_PER_CONNECTION * 2).map(|_| {
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel.clone());
        async move {
            client
                .check(tonic_health::pb::HealthCheckRequest::default())
                .await
        }
    });
    let answers = futures_util::future::join_all(calls).await;
    let failed: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}: {:?}", failed.len(), failed.first());
    serving.abort();
}

/// Set in the process that may run out of files.
const CHILD: &str = "LISTENER_TEST_CHILD";

#[test]
fn accepting_rests_while_there_are_no_files() {
    // The limit is of the whole process, and other tests need their files.
    let name = "listener::tests::without_files_nothing_is_accepted_until_there_are_some";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed"), "{told}");
}

#[tokio::test]
async fn without_files_nothing_is_accepted_until_there_are_some() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let _peer = TcpStream::connect(listener.address()).await.unwrap();
    let mut incoming = listener.incoming(10, CancellationToken::new());
    let (_, hard) = rlimit::Resource::NOFILE.get().unwrap();
    rlimit::Resource::NOFILE.set(128, hard).unwrap();
    let files: Vec<fs::File> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    let accepted = tokio::time::timeout(Duration::from_millis(250), incoming.next()).await;
    assert!(accepted.is_err(), "there was a file left");
    drop(files);
    assert!(incoming.next().await.unwrap().is_ok());
}
