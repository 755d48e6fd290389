//! A collector of traces, over gRPC and over HTTP, with and without TLS; and peers that are none.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures_util::stream;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use prost::Message as _;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    canary::message,
    process::until,
    tls::{Authority, certificate},
};

/// One request of the exporter.
#[derive(Clone, Debug)]
struct Batch {
    /// Its headers, or the head of its message.
    head: String,
    spans: ExportTraceServiceRequest,
}

/// All requests so far.
#[derive(Clone, Debug, Default)]
struct Received(Arc<Mutex<Vec<Batch>>>);

impl Received {
    fn push(&self, head: String, spans: ExportTraceServiceRequest) {
        self.0.lock().unwrap().push(Batch { head, spans });
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let headers = request.metadata().clone().into_headers();
        let lines = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
        self.push(lines.collect(), request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector.
#[derive(Debug)]
pub struct Collector {
    /// Its address, for `telemetry.otlp_endpoint`.
    pub url: String,
    received: Received,
    _serving: JoinSet<()>,
}

impl Collector {
    /// A collector over gRPC, with a certificate of this authority if there is one.
    pub async fn grpc(authority: Option<&Authority>) -> Self {
        Self::start(authority, b"h2", |listener, tls, received| async move {
            let service = TraceServiceServer::new(received);
            let server = Server::builder().add_service(service);
            match tls {
                None => {
                    let accept = |listener: TcpListener| async move {
                        let (stream, _) = listener.accept().await.unwrap();
                        Some((Ok::<_, std::io::Error>(stream), listener))
                    };
                    let incoming = stream::unfold(listener, accept);
                    server.serve_with_incoming(incoming).await.unwrap();
                }
                Some(tls) => {
                    let accept = |(listener, tls): (TcpListener, TlsAcceptor)| async move {
                        let (stream, _) = listener.accept().await.unwrap();
                        Some((tls.accept(stream).await, (listener, tls)))
                    };
                    let incoming = stream::unfold((listener, tls), accept);
                    server.serve_with_incoming(incoming).await.unwrap();
                }
            }
        })
        .await
    }

    /// A collector over HTTP, with a certificate of this authority if there is one.
    pub async fn http(authority: Option<&Authority>) -> Self {
        Self::start(
            authority,
            b"http/1.1",
            |listener, tls, received| async move {
                let mut open = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let received = received.clone();
                    match tls.clone() {
                        None => open.spawn(answer(stream, received)),
                        Some(tls) => open.spawn(async move {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, received).await;
                            }
                        }),
                    };
                }
            },
        )
        .await
    }

    async fn start<F: Future<Output = ()> + Send + 'static>(
        authority: Option<&Authority>,
        protocol: &[u8],
        serve: impl FnOnce(TcpListener, Option<TlsAcceptor>, Received) -> F,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if authority.is_some() { "https" } else { "http" };
        let tls = authority.map(|authority| acceptor(authority, protocol));
        let received = Received::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, tls, received.clone()));
        Self {
            url: format!("{scheme}://{address}"),
            received,
            _serving: serving,
        }
    }

    fn batches(&self) -> Vec<Batch> {
        self.received.0.lock().unwrap().clone()
    }

    /// The heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.batches().into_iter().map(|batch| batch.head).collect()
    }

    /// All requests as they came.
    pub fn bytes(&self) -> Vec<u8> {
        let batches = self.batches();
        let bytes = batches.iter().map(|batch| batch.spans.encode_to_vec());
        bytes.collect::<Vec<_>>().concat()
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let resources = self.batches().into_iter();
        let resources = resources.flat_map(|batch| batch.spans.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// The first span of this name that is as wanted, once there is one.
    pub async fn span(&self, name: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        let find = || {
            let mut spans = self.spans().into_iter();
            spans.find(|span| span.name == name && wanted(span))
        };
        until(name, async || find().is_some()).await;
        find().unwrap()
    }
}

/// The text of a span's attribute.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let mut pairs = span.attributes.iter();
    let pair = pairs.find(|pair| pair.key == key)?;
    match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        other => Some(format!("{other:?}")),
    }
}

fn acceptor(authority: &Authority, protocol: &[u8]) -> TlsAcceptor {
    let (own, key) = certificate(authority, &["127.0.0.1"], None);
    let own = CertificateDer::from_pem_slice(own.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut settings = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own], key)
        .unwrap();
    settings.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(settings))
}

/// Answers the requests of one connection.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, received: Received) {
    while let Ok((head, body)) = message(&mut stream).await {
        received.push(head, ExportTraceServiceRequest::decode(&*body).unwrap());
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Peers that take no spans.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// Nobody listens.
    Refusing,
    /// It accepts connections and reads nothing.
    Silent,
    /// It answers at once, with an answer that is no OTLP and has no end.
    Garbage,
}

/// A peer that takes no spans, for as long as the set lives.
pub async fn peer(kind: Peer) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    match kind {
        Peer::Refusing => drop(listener),
        Peer::Silent => {
            serving.spawn(async move {
                let mut open = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    open.push(stream);
                }
            });
        }
        Peer::Garbage => {
            serving.spawn(async move {
                let mut open = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    open.spawn(babble(stream));
                }
            });
        }
    }
    (address, serving)
}

async fn babble(mut stream: TcpStream) {
    let mut text = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_vec();
    while stream.write_all(&text).await.is_ok() {
        text = vec![b'x'; 16 * 1024];
    }
}
