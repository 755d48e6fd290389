//! The server's own TLS: who is let in, and what happens when certificates are renewed.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, RootCertStore, SupportedProtocolVersion,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tillwatch_proto::v1::{
    ListPurchasesRequest, WatchPurchasesRequest, purchase_service_client::PurchaseServiceClient,
    watch_purchases_response::Event,
};
use tillwatch_sandbox::Scenario;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    house::{House, Settings, token},
    orders::request,
    process::{until, within},
    transport::Transport,
};

/// The name of a workload in a mesh.
const WORKLOAD: &str = "spiffe://example.test/ns/shop/sa/buyer";

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for these names or addresses, and its key, in PEM.
pub fn certificate(authority: &Authority, names: &[&str], uri: Option<&str>) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let uri = uri.map(|uri| SanType::URI(uri.try_into().unwrap()));
    params.subject_alt_names.extend(uri);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// The files of a server, in the manner of Kubernetes: each name is a link through a link to a folder,
/// and a renewal moves that link.
pub struct Mounted {
    folder: TempDir,
    renewals: usize,
}

impl Mounted {
    /// A server whose certificate and whose clients' certificates have one authority.
    pub fn new(authority: &Authority) -> Self {
        let mut mounted = Self {
            folder: tempfile::tempdir().unwrap(),
            renewals: 0,
        };
        mounted.renew(authority, authority);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            let link = mounted.path().join(name);
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
        mounted
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts new files in place, with a moment at which both sets are there.
    fn renew(&mut self, own: &Authority, clients: &Authority) {
        let (certificate, key) = certificate(own, &["localhost"], None);
        self.put(&certificate, &key, &clients.pem());
    }

    fn put(&mut self, certificate: &str, key: &str, ca: &str) {
        self.renewals += 1;
        let folder = self.path().join(format!("..{}", self.renewals));
        fs::create_dir(&folder).unwrap();
        for (name, text) in [("tls.crt", certificate), ("tls.key", key), ("ca.crt", ca)] {
            fs::write(folder.join(name), text).unwrap();
        }
        let link = self.path().join("..link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        fs::rename(link, self.path().join("..data")).unwrap();
    }

    pub fn settings(&self) -> Settings {
        let path = self.path().display();
        Settings {
            listen: format!(
                "drain = \"10s\"\ntls_cert = \"{path}/tls.crt\"\ntls_key = \"{path}/tls.key\"\n\
                 tls_client_ca = \"{path}/ca.crt\""
            ),
            more: format!(
                "\n[callers.workload]\ncert_san = [\"{WORKLOAD}\"]\naccounts = [\"*\"]\n\
                 scopes = [\"create\", \"read\"]\n"
            ),
            ..Settings::default()
        }
    }
}

/// A channel that trusts this authority, with a certificate of its own.
async fn channel(
    house: &House,
    trusted: &Authority,
    own: Option<&(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(trusted.pem()))
        .domain_name("localhost");
    let tls = match own {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    };
    let endpoint = Endpoint::from_shared(format!("https://{}", house.server.grpc)).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

/// The code of a call with this token, over a channel.
async fn code(channel: Channel, bearer: Option<&str>) -> Code {
    let mut stub = PurchaseServiceClient::new(channel);
    let mut request = Request::new(ListPurchasesRequest::default());
    if let Some(bearer) = bearer {
        let text = format!("Bearer {bearer}").parse().unwrap();
        request.metadata_mut().insert("authorization", text);
    }
    match within("an answer", stub.list_purchases(request)).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn a_caller_is_known_by_its_token_or_its_certificate_over_tls() {
    let (own, foreign) = (authority(), authority());
    let mounted = Mounted::new(&own);
    let house = House::start(mounted.settings()).await;
    let workload = certificate(&own, &[], Some(WORKLOAD));
    let nobody = certificate(&own, &["nobody.test"], None);
    let forged = certificate(&foreign, &[], Some(WORKLOAD));
    let shop = token("shop");
    let (shop, wrong) = (Some(shop.as_str()), Some("wrong"));
    let table = [
        (None, None, Code::Unauthenticated),
        (None, wrong, Code::Unauthenticated),
        (None, shop, Code::Ok),
        (Some(&workload), None, Code::Ok),
        (Some(&workload), wrong, Code::Unauthenticated),
        (Some(&nobody), None, Code::Unauthenticated),
        (Some(&nobody), shop, Code::Ok),
    ];
    for (certificate, bearer, expected) in table {
        let channel = channel(&house, &own, certificate).await.unwrap();
        let found = code(channel, bearer).await;
        let shown = certificate.map(|(certificate, _)| certificate);
        assert_eq!(found, expected, "{bearer:?} {shown:?}");
    }
    // In TLS 1.3 a client learns of its refusal with its first answer.
    if let Ok(channel) = channel(&house, &own, Some(&forged)).await {
        assert_ne!(code(channel, shop).await, Code::Ok, "a forged certificate");
    }
    assert!(channel(&house, &foreign, None).await.is_err());
    let plain = Endpoint::from_shared(format!("http://{}", house.server.grpc)).unwrap();
    let plain = plain.connect_lazy();
    assert_ne!(code(plain, shop).await, Code::Ok, "a call in plain text");
    let failed = house.metrics().await;
    let failed = failed
        .lines()
        .find(|line| line.starts_with("tillwatch_tls_handshake_failures_total "))
        .and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
    assert!(failed >= Some(2), "{failed:?}");
}

/// A TLS session with the server that offers these protocols.
async fn session(
    house: &House,
    trusted: &Authority,
    version: &'static SupportedProtocolVersion,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(&house.server.grpc).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream);
    within("a handshake", connected).await
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_for_http_2_alone() {
    let own = authority();
    let mounted = Mounted::new(&own);
    let house = House::start(mounted.settings()).await;
    for version in [&TLS12, &TLS13] {
        let session_of =
            |protocols: &'static [&'static [u8]]| session(&house, &own, version, protocols);
        let h2 = session_of(&[b"http/1.1", b"h2"]).await.unwrap();
        let (_, agreed) = h2.get_ref();
        assert_eq!(agreed.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(agreed.protocol_version(), Some(version.version));
        assert!(session_of(&[b"http/1.1"]).await.is_err(), "{version:?}");
    }
}

#[tokio::test]
async fn tls_offers_http_1_1_to_browsers_where_pages_are_served() {
    let own = authority();
    let mounted = Mounted::new(&own);
    let mut settings = mounted.settings();
    settings.listen += "\nweb_origins = [\"https://shop.example\"]";
    let house = House::start(settings).await;
    for (offered, agreed) in [
        (vec![&b"http/1.1"[..], b"h2"], &b"h2"[..]),
        (vec![b"http/1.1"], b"http/1.1"),
    ] {
        let session = session(&house, &own, &TLS13, &offered).await.unwrap();
        assert_eq!(session.get_ref().1.alpn_protocol(), Some(agreed));
    }
}

/// The stream of a caller over all of its purchases.
async fn feed(channel: Channel) -> tonic::Streaming<tillwatch_proto::v1::WatchPurchasesResponse> {
    let mut stub = PurchaseServiceClient::new(channel);
    let mut request = Request::new(WatchPurchasesRequest::default());
    let bearer = format!("Bearer {}", token("shop")).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let opened = within("a feed", stub.watch_purchases(request)).await;
    opened.unwrap().into_inner()
}

#[tokio::test]
async fn renewed_certificates_and_authorities_are_used_and_no_stream_is_closed() {
    let (old, new) = (authority(), authority());
    let mut mounted = Mounted::new(&old);
    let house = House::start(mounted.settings()).await;
    let old_workload = certificate(&old, &[], Some(WORKLOAD));
    let new_workload = certificate(&new, &[], Some(WORKLOAD));
    let kept = channel(&house, &old, Some(&old_workload)).await.unwrap();
    let mut events = feed(kept.clone()).await;

    // The files change as one, and SIGHUP lets the server look at once.
    mounted.renew(&new, &new);
    house.server.signal("HUP").await;
    let is_told = async || house.log.text().contains("new files of TLS are used");
    until("the renewal is told", is_told).await;
    let renewed = channel(&house, &new, Some(&new_workload)).await.unwrap();
    assert_eq!(code(renewed.clone(), None).await, Code::Ok);
    assert!(
        channel(&house, &old, None).await.is_err(),
        "the old certificate is gone"
    );
    if let Ok(channel) = channel(&house, &new, Some(&old_workload)).await {
        let refused = code(channel, None).await;
        assert_ne!(
            refused,
            Code::Ok,
            "the old authority is not trusted any more"
        );
    }

    // Files that cannot be used change nothing, and a loud line and a figure say so. Nobody asks: the
    // server looks by itself.
    let (certificate, _) = certificate(&new, &["localhost"], None);
    let (_, key) = self::certificate(&new, &["localhost"], None);
    mounted.put(&certificate, &key, &new.pem());
    let is_told = async || {
        let log = house.log.text();
        log.contains("changed files of TLS cannot be used")
    };
    until("the bad files are told", is_told).await;
    assert!(
        house
            .metrics()
            .await
            .contains("\ntillwatch_tls_files_stale 1\n")
    );
    assert_eq!(code(renewed, None).await, Code::Ok);
    assert!(
        channel(&house, &new, None).await.is_ok(),
        "the last good files hold on"
    );

    // The stream of before goes on, and so does its connection.
    let mut stub = PurchaseServiceClient::new(kept);
    let create = request("key", "carbon", Scenario::Stuck);
    let created = within("a create", stub.create_purchase(create)).await;
    let created = created.unwrap().into_inner().purchase.unwrap().id;
    let mut shop = PurchaseServiceClient::new(channel(&house, &new, None).await.unwrap());
    let mut create = Request::new(request("other", "carbon", Scenario::Stuck));
    let bearer = format!("Bearer {}", token("shop")).parse().unwrap();
    create.metadata_mut().insert("authorization", bearer);
    let own = within("a create", shop.create_purchase(create)).await;
    let own = own.unwrap().into_inner().purchase.unwrap().id;
    assert_ne!(created, own);
    let told = within("the stream's news", async {
        loop {
            let message = events.message().await.unwrap().expect("an open stream");
            if let Some(Event::Transition(told)) = message.event {
                return told;
            }
        }
    });
    assert_eq!(told.await.purchase.unwrap().id, own);
}

/// A store of sessions that counts what it is given, and gives back what it has.
#[derive(Debug)]
struct Sessions {
    kept: ClientSessionMemoryCache,
    given: AtomicUsize,
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.given.fetch_add(1, Ordering::Relaxed);
        self.kept.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.kept.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::Relaxed);
        self.kept.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(name)
    }
}

#[tokio::test]
async fn no_session_is_resumed_so_that_no_early_data_can_come() {
    let transport = Transport::tls();
    let Transport::Tls(secured) = &transport else {
        unreachable!("a transport with TLS");
    };
    let house = House::still_over(transport.clone()).await;
    for version in [&TLS12, &TLS13] {
        let sessions = Arc::new(Sessions {
            kept: ClientSessionMemoryCache::new(8),
            given: AtomicUsize::new(0),
        });
        let mut config = secured.client_of(&[version]);
        config.resumption = Resumption::store(Arc::clone(&sessions) as _);
        let connector = TlsConnector::from(Arc::new(config));
        for _ in 0..2 {
            let stream = TcpStream::connect(&house.server.grpc).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connected = within("a handshake", connector.connect(name, stream)).await;
            let mut stream = connected.unwrap();
            // A ticket would come before the server's first frame.
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await
                .unwrap();
            stream
                .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
                .await
                .unwrap();
            stream.flush().await.unwrap();
            let mut first = [0; 9];
            within("a frame", stream.read_exact(&mut first))
                .await
                .unwrap();
            let (_, session) = stream.get_ref();
            assert_eq!(
                session.handshake_kind(),
                Some(HandshakeKind::Full),
                "{version:?}"
            );
        }
        assert_eq!(sessions.given.load(Ordering::Relaxed), 0, "{version:?}");
    }
}

#[tokio::test]
async fn half_and_slow_handshakes_cost_next_to_nothing_and_end_in_time() {
    let house = House::still_over(Transport::tls()).await;
    let mut shop = house.stub("shop").await;
    let before = house.server.memory_kib();
    // The beginning of a ClientHello of 512 bytes, in a record of its own.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 200]].concat();
    let began = tokio::time::Instant::now();
    let mut peers = Vec::new();
    for number in 0..1_000_usize {
        let mut peer = TcpStream::connect(&house.server.grpc).await.unwrap();
        // Some say nothing at all, and some a part.
        let part = hello.get(..number % 200).unwrap();
        peer.write_all(part).await.unwrap();
        peers.push(peer);
    }
    until("they are let in", async || {
        let metrics = house.metrics().await;
        let open = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tillwatch_connections "));
        open.and_then(|open| open.parse::<u64>().ok()) >= Some(1_000)
    })
    .await;
    let more = house.server.memory_kib().saturating_sub(before);
    assert!(more < 48 * 1024, "{more} KiB more");
    let listed = shop.list_purchases(ListPurchasesRequest::default());
    within("a known caller's answer", listed).await.unwrap();
    // One of them goes on, byte by byte, which wins it no time.
    let mut slow = peers.pop().unwrap();
    let mut byte = [0];
    loop {
        tokio::select! {
            biased;
            ended = slow.read(&mut byte) => match ended {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            },
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                // A server that has closed takes no more.
                let _ = slow.write_all(&[7]).await;
            }
        }
        assert!(
            began.elapsed() < Duration::from_secs(25),
            "it is still open"
        );
    }
    until("all of them are gone", async || {
        let metrics = house.metrics().await;
        let open = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tillwatch_connections "));
        open.and_then(|open| open.parse::<u64>().ok()) <= Some(1)
    })
    .await;
    drop(peers);
    let after = house.server.memory_kib().saturating_sub(before);
    assert!(after < 48 * 1024, "{after} KiB more afterwards");
}
