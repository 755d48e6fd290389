//! TLS to a provider on loopback: the authorities that it is checked against, and the certificate
//! that is shown to it.

use std::{fs, path::PathBuf};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    testing::Authority,
    upstream::tls::{ClientFiles, Files},
};

const BOTH: [Connection; 2] = [Connection::Pooled, Connection::Fresh];
const NOT_TRUSTED: UpstreamError =
    UpstreamError::NotConnected("the provider's certificate is not trusted");
const REFUSED: UpstreamError = UpstreamError::NotConnected("the client's certificate is refused");

/// A provider that speaks TLS, and answers each request.
struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    /// The settings of the next connection.
    settings: std::sync::Mutex<Arc<ServerConfig>>,
    requests: AtomicUsize,
    /// The answers that may be given now.
    answers: Semaphore,
}

impl Provider {
    async fn start(settings: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            settings: std::sync::Mutex::new(Arc::new(settings)),
            requests: AtomicUsize::new(0),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let mut provider = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::clone(&shared),
            _tasks: JoinSet::new(),
        };
        provider._tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&shared);
                open.spawn(async move {
                    let settings = Arc::clone(&shared.settings.lock().unwrap());
                    let Ok(mut stream) = TlsAcceptor::from(settings).accept(stream).await else {
                        return;
                    };
                    while read_head(&mut stream).await.is_some() {
                        shared.requests.fetch_add(1, Ordering::SeqCst);
                        shared.answers.acquire().await.unwrap().forget();
                        stream.write_all(EMPTY).await.unwrap();
                    }
                });
            }
        });
        provider
    }

    /// The requests that have arrived whole.
    fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    fn upstream(&self, files: Files) -> HttpUpstream {
        upstream_at(self.address, files)
    }
}

/// The way out to a provider with an account's files.
fn upstream_at(address: SocketAddr, files: Files) -> HttpUpstream {
    let settings = Settings {
        allow_private_networks: true,
        tls: Tls::read(files).unwrap(),
        ..Settings::new(format!("https://{address}").parse().unwrap())
    };
    HttpUpstream::new(settings).unwrap()
}

/// A proxy whose tunnels all lead to this provider.
async fn tunnel(provider: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            open.spawn(async move {
                let head = read_head(&mut stream).await.unwrap();
                assert!(head.starts_with("CONNECT "), "{head}");
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut behind = TcpStream::connect(provider).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    (address, tasks)
}

/// A provider's settings: its certificate for this name, and the authority of its clients.
fn settings(
    authority: &Authority,
    name: &str,
    clients: Option<&Authority>,
    version: &'static SupportedProtocolVersion,
) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(clients.pem().as_bytes()).unwrap();
            roots.add(root).unwrap();
            let roots = Arc::new(roots);
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .unwrap()
        }
    };
    let (certificate, key) = authority.certificate(name);
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

/// A folder for an account's files.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// The files of an account that knows this authority.
    fn knowing(&self, authority: &Authority) -> Files {
        Files {
            ca: Some(self.write("ca", &authority.pem())),
            client: None,
        }
    }

    /// The files of an account that also shows a certificate of another authority.
    fn showing(&self, authority: &Authority, own: &Authority) -> Files {
        let (certificate, key) = own.certificate("client.test");
        let client = ClientFiles {
            certificate: self.write("cert", &certificate),
            key: self.write("key", &key),
        };
        Files {
            client: Some(client),
            ..self.knowing(authority)
        }
    }
}

#[tokio::test]
async fn a_provider_of_a_private_authority_is_reached_with_that_authoritys_file_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    let folder = Folder::new();
    for version in [&TLS12, &TLS13] {
        let provider = Provider::start(settings(&authority, "127.0.0.1", None, version)).await;
        for connection in BOTH {
            for files in [Files::default(), folder.knowing(&other)] {
                let upstream = provider.upstream(files);
                let sent = upstream.send(get().on(connection), TIMEOUT).await;
                assert_eq!(sent.unwrap_err(), NOT_TRUSTED, "{connection:?}");
            }
        }
        assert_eq!(provider.requests(), 0);
        for connection in BOTH {
            let upstream = provider.upstream(folder.knowing(&authority));
            let sent = upstream.send(get().on(connection), TIMEOUT).await;
            assert_eq!(sent.unwrap().status, 200, "{connection:?}");
        }
    }
}

#[tokio::test]
async fn a_provider_whose_certificate_has_another_name_is_not_reached() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let provider = Provider::start(settings(&authority, "other.test", None, &TLS13)).await;
    for connection in BOTH {
        let upstream = provider.upstream(folder.knowing(&authority));
        let sent = upstream.send(get().on(connection), TIMEOUT).await;
        assert_eq!(sent.unwrap_err(), NOT_TRUSTED, "{connection:?}");
    }
    assert_eq!(provider.requests(), 0);
}

#[tokio::test]
async fn a_provider_that_demands_a_certificate_answers_its_owner_alone() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let others = [Authority::new(), Authority::named("other.test")];
    for version in [&TLS12, &TLS13] {
        let settings = settings(&authority, "127.0.0.1", Some(&clients), version);
        let provider = Provider::start(settings).await;
        let folder = Folder::new();
        for connection in BOTH {
            let without = [folder.knowing(&authority)].into_iter();
            let shown = others.iter().map(|other| folder.showing(&authority, other));
            for files in without.chain(shown) {
                let upstream = provider.upstream(files);
                let sent = upstream.send(get().on(connection), TIMEOUT).await;
                assert_eq!(sent.unwrap_err(), REFUSED, "{connection:?}");
            }
        }
        assert_eq!(provider.requests(), 0);
        for connection in BOTH {
            let upstream = provider.upstream(folder.showing(&authority, &clients));
            for _ in 0..2 {
                let sent = upstream.send(get().on(connection), TIMEOUT).await;
                assert_eq!(sent.unwrap().status, 200, "{connection:?}");
            }
        }
    }
}

/// The variable that names the provider's address to a child of the test below.
const PROVIDER_AT: &str = "TILLWATCH_TEST_PROVIDER_AT";

#[tokio::test]
async fn an_authoritys_file_replaces_the_systems_authorities() {
    let folder = Folder::new();
    if let Ok(address) = std::env::var(PROVIDER_AT) {
        let address = address.parse().unwrap();
        let of_the_system = upstream_at(address, Files::default());
        let answer = of_the_system.send(get(), TIMEOUT).await.unwrap();
        assert_eq!(answer.status, 200);
        let other = upstream_at(address, folder.knowing(&Authority::new()));
        let sent = other.send(get(), TIMEOUT).await;
        assert_eq!(sent.unwrap_err(), NOT_TRUSTED);
        return;
    }
    let authority = Authority::new();
    let provider = Provider::start(settings(&authority, "127.0.0.1", None, &TLS13)).await;
    // The environment of a running process cannot be changed safely, so the test starts another process.
    let name = "upstream::http::tests::tls::an_authoritys_file_replaces_the_systems_authorities";
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env("SSL_CERT_FILE", folder.write("system", &authority.pem()))
        .env(PROVIDER_AT, provider.address.to_string())
        .output();
    let output = output.await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("1 passed"), "{told}");
}

#[tokio::test]
async fn a_provider_behind_a_proxys_tunnel_is_checked_as_it_is_without_one() {
    let (authority, clients, other) = (Authority::new(), Authority::new(), Authority::new());
    let settings = settings(&authority, "127.0.0.1", Some(&clients), &TLS13);
    let provider = Provider::start(settings).await;
    let (proxy, _tunnels) = tunnel(provider.address).await;
    let folder = Folder::new();
    let upstream = |files: Files| {
        let settings = Settings {
            allow_private_networks: true,
            proxy: Some(Secret::new(format!("http://{proxy}"))),
            tls: Tls::read(files).unwrap(),
            ..Settings::new(format!("https://{}", provider.address).parse().unwrap())
        };
        HttpUpstream::new(settings).unwrap()
    };
    for connection in BOTH {
        let table = [
            (&other, &clients, Err(NOT_TRUSTED)),
            (&authority, &other, Err(REFUSED)),
            (&authority, &clients, Ok(200)),
        ];
        for (known, own, expected) in table {
            let upstream = upstream(folder.showing(known, own));
            let sent = upstream.send(get().on(connection), TIMEOUT).await;
            assert_eq!(sent.map(|answer| answer.status), expected, "{connection:?}");
        }
    }
}
