//! The way out through a proxy on loopback.

use super::*;

/// A proxy that answers each request with these bytes, and the requests that it got: their heads, and
/// the first byte behind each CONNECT.
struct Proxy {
    address: SocketAddr,
    heads: Arc<std::sync::Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            _tasks: JoinSet::new(),
        };
        let heads = Arc::clone(&proxy.heads);
        proxy._tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = read_head(&mut stream).await.unwrap();
                let is_tunnel = head.starts_with("CONNECT");
                heads.lock().unwrap().push(head);
                stream.write_all(answer).await.unwrap();
                if is_tunnel && let Ok(first) = stream.read_u8().await {
                    heads.lock().unwrap().push(format!("{first:#x}"));
                }
            }
        });
        proxy
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// A way out through a proxy, and the names that were looked up here.
fn through(base_url: &str, proxy: &str, found: [u8; 4], private: bool) -> (HttpUpstream, Names) {
    let names = Names::default();
    let noted = Arc::clone(&names);
    let look_up = move |host: String| -> LookedUp {
        noted.lock().unwrap().push(host);
        Box::pin(std::future::ready(Ok(vec![(found, 0).into()])))
    };
    let settings = Settings {
        allow_insecure: true,
        allow_private_networks: private,
        proxy: Some(Secret::new(proxy)),
        ..Settings::new(base_url.parse().unwrap())
    };
    let upstream = HttpUpstream::over(settings, Arc::new(look_up)).unwrap();
    (upstream, names)
}

type Names = Arc<std::sync::Mutex<Vec<String>>>;

#[tokio::test]
async fn https_goes_through_a_tunnel_of_the_proxy_which_resolves_the_name() {
    for connection in [Connection::Pooled, Connection::Fresh] {
        let proxy = Proxy::start(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let url = format!("http://user:p%40ss@proxy.test:{}", proxy.address.port());
        let (upstream, names) = through("https://pay.example.com/v1", &url, [127, 0, 0, 1], true);
        let request = get().on(connection);
        // The proxy leaves once the tunnel has carried the first byte.
        let error = upstream.send(request, TIMEOUT).await.unwrap_err();
        assert_eq!(error, UpstreamError::NotConnected("connection failed"));
        let heads = proxy.heads();
        let first = heads[0].lines().next().unwrap();
        assert_eq!(first, "CONNECT pay.example.com:443 HTTP/1.1");
        let head = heads[0].to_ascii_lowercase();
        assert!(head.contains("proxy-authorization: basic "), "{head}");
        assert!(heads[0].contains("dXNlcjpwQHNz"), "user:p@ss");
        assert_eq!(heads[1], "0x16", "TLS begins inside the tunnel");
        assert_eq!(*names.lock().unwrap(), ["proxy.test"]);
        assert!(!format!("{upstream:?}").contains("user"));
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_its_tunnel_sent_nothing() {
    let answers: [&[u8]; 2] = [
        b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
    ];
    for answer in answers {
        let proxy = Proxy::start(answer).await;
        let url = format!("http://{}", proxy.address);
        let (upstream, _) = through("https://pay.example.com", &url, [127, 0, 0, 1], true);
        let error = upstream.send(get(), TIMEOUT).await.unwrap_err();
        assert_eq!(error, UpstreamError::NotConnected("connection failed"));
    }
}

#[tokio::test]
async fn http_goes_to_the_proxy_with_the_whole_url() {
    let proxy = Proxy::start(EMPTY).await;
    let url = format!("http://{}", proxy.address);
    let (upstream, names) = through("http://pay.example.com/v1", &url, [127, 0, 0, 1], true);
    let answer = upstream.send(get(), TIMEOUT).await.unwrap();
    assert_eq!(answer.status, 200);
    let heads = proxy.heads();
    let first = heads[0].lines().next().unwrap();
    assert_eq!(first, "GET http://pay.example.com/v1/status HTTP/1.1");
    assert!(names.lock().unwrap().is_empty(), "nothing was looked up");
}

#[tokio::test]
async fn a_proxy_inside_the_network_needs_leave_by_its_address_and_by_its_name() {
    let url = "http://proxy.test:3128";
    let (upstream, names) = through("https://pay.example.com", url, [10, 0, 0, 7], false);
    let error = upstream.send(get(), TIMEOUT).await.unwrap_err();
    assert_eq!(error, UpstreamError::NotConnected("address refused"));
    assert_eq!(*names.lock().unwrap(), ["proxy.test"]);
    for url in ["http://10.0.0.7:3128", "http://[::1]:1", "https://h:1", "x"] {
        let settings = Settings {
            proxy: Some(Secret::new(url)),
            ..Settings::new("https://pay.example.com".parse().unwrap())
        };
        let error = HttpUpstream::new(settings).unwrap_err();
        assert!(matches!(error, HttpError::Proxy), "{url}: {error:?}");
    }
}
