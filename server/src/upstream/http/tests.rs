//! The client against a raw TCP server on loopback, which behaves as badly as each test wants.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::Method;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;

mod proxy;
mod reuse;
mod tls;

const TIMEOUT: Duration = Duration::from_secs(10);
const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// The behaviour of a server on each connection, once it has read a request's head.
#[derive(Clone)]
enum Behaviour {
    /// Sends these bytes for each request and keeps the connection open.
    Answer(Vec<u8>),
    /// Sends these bytes, then closes.
    AnswerAndClose(Vec<u8>),
    /// Sends these bytes for the first request of each connection, then closes it at the second.
    AnswerOnce(Vec<u8>),
    /// Closes with a reset.
    Reset,
    /// Sends these bytes, then one more each 10 ms for ever.
    Drip(Vec<u8>),
    /// Sends nothing.
    Silence,
    /// Sends as much of these bytes as the client takes.
    Flood(Vec<u8>),
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
            _tasks: JoinSet::new(),
        };
        let (connections, requests) = (server.connections.clone(), server.requests.clone());
        server._tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                open.spawn(serve(stream, behaviour.clone(), requests.clone()));
            }
        });
        server
    }

    fn upstream(&self, path: &str) -> HttpUpstream {
        upstream(&format!("http://{}{path}", self.address))
    }

    fn first_line(&self) -> String {
        self.requests.lock().unwrap()[0].clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Behaviour,
    requests: Arc<std::sync::Mutex<Vec<String>>>,
) {
    let mut answered = false;
    while let Some(head) = read_head(&mut stream).await {
        let first_line = head.lines().next().unwrap_or_default().to_owned();
        requests.lock().unwrap().push(first_line);
        match &behaviour {
            Behaviour::Answer(bytes) => stream.write_all(bytes).await.unwrap(),
            Behaviour::AnswerAndClose(bytes) => return stream.write_all(bytes).await.unwrap(),
            Behaviour::AnswerOnce(_) if answered => return,
            Behaviour::AnswerOnce(bytes) => {
                answered = true;
                stream.write_all(bytes).await.unwrap();
            }
            Behaviour::Reset => return stream.set_zero_linger().unwrap(),
            Behaviour::Silence => {}
            Behaviour::Flood(bytes) => return drop(stream.write_all(bytes).await),
            Behaviour::Drip(bytes) => {
                stream.write_all(bytes).await.unwrap();
                while stream.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

fn upstream(base_url: &str) -> HttpUpstream {
    HttpUpstream::new(Settings {
        allow_insecure: true,
        allow_private_networks: true,
        ..Settings::new(base_url.parse().unwrap())
    })
    .unwrap()
}

fn get() -> Request {
    Request::new(Method::GET, ["status"])
}

async fn answer_to(behaviour: Behaviour) -> Result<Response, UpstreamError> {
    let server = Server::start(behaviour).await;
    server.upstream("").send(get(), TIMEOUT).await
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for connection in [Connection::Pooled, Connection::Fresh] {
        let result = upstream(&format!("http://{address}"))
            .send(get().on(connection), TIMEOUT)
            .await;
        assert_eq!(
            result.unwrap_err(),
            UpstreamError::NotConnected("connection failed")
        );
    }
}

#[tokio::test]
async fn a_connection_that_never_finishes_its_handshake_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = Settings {
        allow_private_networks: true,
        connect_timeout: Duration::from_millis(100),
        ..Settings::new(format!("https://{address}").parse().unwrap())
    };
    let result = HttpUpstream::new(settings)
        .unwrap()
        .send(get(), TIMEOUT)
        .await;
    assert_eq!(
        result.unwrap_err(),
        UpstreamError::NotConnected("timed out")
    );
}

#[tokio::test]
async fn a_connection_that_ends_without_an_answer_lost_it() {
    let lost = UpstreamError::Lost("connection lost");
    for behaviour in [
        Behaviour::AnswerAndClose(Vec::new()),
        Behaviour::Reset,
        Behaviour::AnswerAndClose(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        Behaviour::AnswerAndClose(b"SSH-2.0-nothing of the kind\r\n\r\n".to_vec()),
    ] {
        assert_eq!(answer_to(behaviour).await.unwrap_err(), lost);
    }
}

#[tokio::test]
async fn an_answer_that_drips_beyond_the_timeout_is_lost() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
    for bytes in [Vec::new(), b"HTTP/1.1 200 OK\r\nx-a: ".to_vec(), head] {
        let server = Server::start(Behaviour::Drip(bytes)).await;
        let began = Instant::now();
        let result = server
            .upstream("")
            .send(get(), Duration::from_millis(200))
            .await;
        assert!(matches!(result, Err(UpstreamError::Lost(_))), "{result:?}");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "after its timeout"
        );
    }
}

#[tokio::test]
async fn a_request_that_is_never_answered_is_given_up_and_may_have_been_sent() {
    let server = Server::start(Behaviour::Silence).await;
    for connection in [Connection::Pooled, Connection::Fresh] {
        let (timeout, began) = (Duration::from_millis(200), Instant::now());
        let result = (server.upstream(""))
            .send(get().on(connection), timeout)
            .await;
        assert_eq!(result.unwrap_err(), UpstreamError::Lost("timed out"));
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "after its timeout"
        );
    }
    assert_eq!(server.requests.lock().unwrap().len(), 2, "they were sent");
}

#[tokio::test]
async fn an_endless_head_is_not_read() {
    let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
    for _ in 0..200_000 {
        answer.extend(b"x-more: of the same\r\n");
    }
    let result = answer_to(Behaviour::Flood(answer)).await;
    assert!(matches!(result, Err(UpstreamError::Lost(_))), "{result:?}");
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit_and_no_further() {
    let with_length = |length: usize, sent: usize| {
        let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        bytes.resize(bytes.len() + sent, b'x');
        bytes
    };
    let without_length = |sent: usize| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + sent, b'x');
        bytes
    };
    let too_large = Err(UpstreamError::Unusable("body too large"));
    let table = [
        (with_length(5, 5), Ok(5)),
        (
            with_length(BODY_BYTES_MAX, BODY_BYTES_MAX),
            Ok(BODY_BYTES_MAX),
        ),
        (with_length(BODY_BYTES_MAX + 1, 0), too_large.clone()),
        (with_length(1 << 40, 0), too_large.clone()),
        (without_length(BODY_BYTES_MAX), Ok(BODY_BYTES_MAX)),
        (without_length(BODY_BYTES_MAX + 1), too_large),
        (
            with_length(10, 5),
            Err(UpstreamError::Unusable("body cut short")),
        ),
    ];
    for (bytes, expected) in table {
        let result = answer_to(Behaviour::AnswerAndClose(bytes)).await;
        assert_eq!(result.map(|answer| answer.body.len()), expected);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::start(Behaviour::Answer(EMPTY.to_vec())).await;
    for status in [
        "301 Moved",
        "302 Found",
        "307 Temporary",
        "304 Not Modified",
    ] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
            target.address
        );
        assert_eq!(
            answer_to(Behaviour::Answer(answer.into_bytes()))
                .await
                .unwrap_err(),
            UpstreamError::Unusable("redirect")
        );
    }
    assert_eq!(target.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_fresh_connection_is_never_used_twice_and_a_pooled_one_is() {
    let table = [(Connection::Fresh, 3), (Connection::Pooled, 1)];
    for (connection, expected) in table {
        let server = Server::start(Behaviour::Answer(EMPTY.to_vec())).await;
        let upstream = server.upstream("");
        for _ in 0..3 {
            upstream.send(get().on(connection), TIMEOUT).await.unwrap();
        }
        let made = server.connections.load(Ordering::SeqCst);
        assert_eq!(made, expected, "{connection:?}");
    }
}

#[tokio::test]
async fn a_request_lies_below_the_base_path_whatever_its_segments_are() {
    let table: [(&str, &[&str], &str); 8] = [
        ("", &["status"], "/status"),
        ("/", &["status"], "/status"),
        ("/masumi", &["purchase", "diff"], "/masumi/purchase/diff"),
        ("/masumi/", &["purchase"], "/masumi/purchase"),
        ("/api/v1", &[], "/api/v1"),
        ("/api", &["a/b", "c?d", "e#f"], "/api/a%2Fb/c%3Fd/e%23f"),
        ("/api", &["..%2f..", "%2e%2e"], "/api/..%252f../%252e%252e"),
        (
            "/api",
            &["ä b", "a\\b", ";x=1"],
            "/api/%C3%A4%20b/a%5Cb/;x=1",
        ),
    ];
    for (base, path, expected) in table {
        let server = Server::start(Behaviour::Answer(EMPTY.to_vec())).await;
        let mut request = get();
        request.path = path.iter().map(|&segment| segment.to_owned()).collect();
        server.upstream(base).send(request, TIMEOUT).await.unwrap();
        assert_eq!(server.first_line(), format!("GET {expected} HTTP/1.1"));
    }
}

#[tokio::test]
async fn a_query_is_encoded_and_keeps_its_order() {
    let server = Server::start(Behaviour::Answer(EMPTY.to_vec())).await;
    let request = get().query("b", "1&a=2").query("a", "ä +");
    server.upstream("").send(request, TIMEOUT).await.unwrap();
    assert_eq!(
        server.first_line(),
        "GET /status?b=1%26a%3D2&a=%C3%A4+%2B HTTP/1.1"
    );
}

#[tokio::test]
async fn a_segment_that_could_leave_its_place_is_refused_before_anything_is_sent() {
    let server = Server::start(Behaviour::Answer(EMPTY.to_vec())).await;
    for segment in ["", ".", "..", ".\t.", "a\nb", "\u{0}"] {
        let result = server
            .upstream("/api")
            .send(Request::new(Method::GET, ["x", segment]), TIMEOUT)
            .await;
        assert_eq!(
            result.unwrap_err(),
            UpstreamError::NotConnected("unsafe path"),
            "{segment:?}"
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[test]
fn base_urls_outside_what_is_allowed_make_no_client() {
    let check = |url: &str, insecure: bool, expected: &str| {
        let settings = Settings {
            allow_insecure: insecure,
            ..Settings::new(url.parse().unwrap())
        };
        let error = HttpUpstream::new(settings).unwrap_err();
        assert_eq!(error.to_string(), expected, "{url}");
    };
    let private = "the base URL names a private address";
    for url in [
        "https://127.0.0.1",
        "https://127.1",
        "https://0x7f000001",
        "https://2130706433",
        "https://10.0.0.1:8443/api",
        "https://169.254.169.254",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]",
        "https://[64:ff9b::7f00:1]",
        "https://[fd00::1]",
    ] {
        check(url, false, private);
    }
    check("http://example.com", false, "the base URL is not https");
    check("http://127.0.0.1", true, private);
    check("ftp://example.com", true, "the base URL is not https");
    let shape = "the base URL is not a plain origin with a path";
    check("https://user@example.com", false, shape);
    check("https://example.com/?a=1", false, shape);
    check("https://example.com/#a", false, shape);
}

#[tokio::test]
async fn a_name_of_a_private_address_is_refused_after_it_is_resolved() {
    let server = Server::start(Behaviour::Answer(EMPTY.to_vec())).await;
    let url = format!("http://localhost:{}", server.address.port());
    let settings = |allow_private_networks| Settings {
        allow_insecure: true,
        allow_private_networks,
        ..Settings::new(url.parse().unwrap())
    };
    let refusing = HttpUpstream::new(settings(false)).unwrap();
    assert_eq!(
        refusing.send(get(), TIMEOUT).await.unwrap_err(),
        UpstreamError::NotConnected("address refused")
    );
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    let allowing = HttpUpstream::new(settings(true)).unwrap();
    assert_eq!(allowing.send(get(), TIMEOUT).await.unwrap().status, 200);
}

#[tokio::test]
async fn errors_and_debug_texts_name_no_path_and_no_header() {
    let server = Server::start(Behaviour::Reset).await;
    let upstream = server.upstream("/canary-path");
    let mut request = get().query("canary-query", "x");
    request.headers.insert(
        ::http::header::AUTHORIZATION,
        ::http::HeaderValue::from_static("canary-header"),
    );
    let shown = format!("{request:?} {upstream:?}");
    let error = upstream.send(request, TIMEOUT).await.unwrap_err();
    assert!(!format!("{shown} {error:?} {error}").contains("canary"));
}

#[test]
fn proxies_of_the_environment_are_ignored() {
    // The environment of a running process cannot be changed safely, so the test starts another process.
    let dead = "http://127.0.0.1:9";
    let name = "upstream::http::tests::a_query_is_encoded_and_keeps_its_order";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .envs(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, dead)))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed"), "{told}");
}

/// A resolver that gives these answers one after the other, the last for ever.
fn look_up(answers: &[&[&str]]) -> LookUp {
    let answers: Vec<Vec<SocketAddr>> = answers
        .iter()
        .map(|answer| {
            answer
                .iter()
                .map(|address| address.parse().unwrap())
                .collect()
        })
        .collect();
    let asked = AtomicUsize::new(0);
    Arc::new(move |_| {
        let place = asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        let answer = answers[place].clone();
        Box::pin(async move { Ok(answer) })
    })
}

#[tokio::test]
async fn a_name_that_is_pointed_inside_later_is_refused_then() {
    let filter = Filter {
        allow_private: false,
        look_up: look_up(&[
            &["9.9.9.9:0"],
            &["127.0.0.1:0"],
            &["[::ffff:10.0.0.1]:0", "169.254.169.254:0"],
            &["10.0.0.1:0", "[::1]:0", "9.9.9.9:0"],
        ]),
    };
    let resolved = async || {
        let name = "pay.example.com".parse().unwrap();
        match filter.resolve(name).await {
            Ok(found) => Ok(found.map(|address| address.to_string()).collect::<Vec<_>>()),
            Err(error) => Err(error.is::<AddressRefused>()),
        }
    };
    assert_eq!(resolved().await, Ok(vec!["9.9.9.9:0".to_owned()]));
    assert_eq!(resolved().await, Err(true));
    assert_eq!(resolved().await, Err(true));
    assert_eq!(resolved().await, Ok(vec!["9.9.9.9:0".to_owned()]));
}

#[tokio::test]
async fn every_new_connection_asks_the_resolver_and_goes_where_it_may() {
    let server = Server::start(Behaviour::AnswerAndClose(EMPTY.to_vec())).await;
    let settings = || Settings {
        allow_insecure: true,
        ..Settings::new(
            format!("http://pay.example.com:{}", server.address.port())
                .parse()
                .unwrap(),
        )
    };
    let refused = UpstreamError::NotConnected("address refused");
    for connection in [Connection::Pooled, Connection::Fresh] {
        let inside = look_up(&[&["127.0.0.1:0"]]);
        let upstream = HttpUpstream::over(settings(), inside).unwrap();
        let result = upstream.send(get().on(connection), TIMEOUT).await;
        assert_eq!(result.unwrap_err(), refused);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    let unknown: LookUp = Arc::new(|_| Box::pin(async { Err(io::ErrorKind::NotFound.into()) }));
    let upstream = HttpUpstream::over(settings(), unknown).unwrap();
    assert!(matches!(
        upstream.send(get(), TIMEOUT).await,
        Err(UpstreamError::NotConnected(_))
    ));
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_was_sent_nothing() {
    let server = Server::start(Behaviour::AnswerAndClose(EMPTY.to_vec())).await;
    let settings = Settings {
        allow_private_networks: true,
        connect_timeout: Duration::from_millis(300),
        ..Settings::new(format!("https://{}", server.address).parse().unwrap())
    };
    let result = HttpUpstream::new(settings)
        .unwrap()
        .send(get(), TIMEOUT)
        .await;
    assert!(
        matches!(result, Err(UpstreamError::NotConnected(_))),
        "{result:?}"
    );
}

#[tokio::test]
async fn nothing_is_decompressed() {
    // This would unpack to 1 MiB of zeros and more.
    let packed = [0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0x03, 0xed, 0xc1, 0x01];
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    )
    .into_bytes();
    answer.extend(packed);
    let answer = answer_to(Behaviour::Answer(answer)).await.unwrap();
    assert_eq!(&answer.body[..], packed);
}

/// The first bytes that a client sends to an https origin.
async fn hello(connection: Connection) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = HttpUpstream::new(Settings {
        allow_private_networks: true,
        ..Settings::new(format!("https://{address}").parse().unwrap())
    });
    let upstream = upstream.unwrap();
    let asks = tokio::spawn(async move { upstream.send(get().on(connection), TIMEOUT).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut hello = vec![0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    hello.resize(5 + length, 0);
    stream.read_exact(&mut hello[5..]).await.unwrap();
    drop(stream);
    assert!(asks.await.unwrap().is_err());
    hello
}

/// With HTTP/2 a closing connection fails all of its requests at once, and nobody can tell which of them
/// the provider has seen.
#[tokio::test]
async fn no_request_is_ever_made_over_http_2() {
    for connection in [Connection::Pooled, Connection::Fresh] {
        let hello = hello(connection).await;
        assert!(hello.starts_with(&[22, 3]), "a handshake");
        let offers = |name: &[u8]| hello.windows(name.len()).any(|part| part == name);
        assert!(!offers(b"\x02h2"), "{connection:?} offers HTTP/2");
    }
}
