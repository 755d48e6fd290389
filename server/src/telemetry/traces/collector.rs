//! The client of a collector: OTLP over gRPC, or over HTTP as protobuf.
//!
//! It repeats nothing, follows nothing, ignores the environment's proxies, and reads no more of an
//! answer than a collector has to say.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
};
use prost::Message as _;
use reqwest::{Certificate, Response, StatusCode, redirect, retry};
use rustls::RootCertStore;
use tonic::{
    Code, Request,
    metadata::MetadataMap,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use url::Url;

use super::{Protocol, Settings};

/// The longest time for making a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest time for one batch, with its connection and its answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes: it holds a number and a sentence.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The path of traces below an endpoint: the specification of OTLP, "OTLP/HTTP request".
const PATH: [&str; 2] = ["v1", "traces"];
/// The media type of OTLP over HTTP.
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
/// The name of this client.
const USER_AGENT: &str = concat!("tillwatch/", env!("CARGO_PKG_VERSION"));

/// The reasons why spans were not delivered. The collector's own words are in none: they can hold
/// anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Undelivered {
    #[error("the collector cannot be reached")]
    Unreached,
    #[error("the collector does not answer in time")]
    Late,
    #[error("the collector answers with {0:?}")]
    Code(Code),
    #[error("the collector answers with HTTP {0}")]
    Status(StatusCode),
    #[error("the collector's answer is no OTLP, or too long")]
    Garbage,
    #[error("the collector takes a part of the spans only")]
    Rejected,
}

/// A client that has not connected yet.
pub(super) enum Collector {
    Grpc(Box<Endpoint>, HeaderMap),
    Http(reqwest::Client, Url, HeaderMap),
}

/// A client that sends spans.
pub(super) enum Client {
    Grpc(TraceServiceClient<Channel>, MetadataMap),
    Http(reqwest::Client, Url, HeaderMap),
}

impl Collector {
    /// A client of the collector. The error is a text without any part of the settings.
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let headers = settings.headers.clone();
        match settings.protocol {
            Protocol::Grpc => Ok(Self::Grpc(Box::new(endpoint(settings)?), headers)),
            Protocol::Http => {
                let mut url = settings.endpoint.clone();
                url.path_segments_mut()
                    .map_err(|()| "it is no address".to_owned())?
                    .pop_if_empty()
                    .extend(PATH);
                let client = http(settings).map_err(|error| error.without_url().to_string())?;
                Ok(Self::Http(client, url, headers))
            }
        }
    }

    /// The client, in the runtime that it lives in.
    pub(super) fn client(self) -> Client {
        match self {
            Self::Grpc(endpoint, headers) => {
                let client = TraceServiceClient::new(endpoint.connect_lazy());
                let client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
                Client::Grpc(client, MetadataMap::from_headers(headers))
            }
            Self::Http(client, url, headers) => Client::Http(client, url, headers),
        }
    }
}

fn endpoint(settings: &Settings) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(settings.endpoint.to_string())
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    if settings.endpoint.scheme() != "https" {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
    let tls = match &settings.authorities {
        None => tls.with_native_roots(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(authorities.iter().cloned());
            tls.trust_anchors(roots.roots)
        }
    };
    endpoint.tls_config(tls).map_err(|error| error.to_string())
}

fn http(settings: &Settings) -> Result<reqwest::Client, reqwest::Error> {
    // An error says that a provider is installed already, which is as good: ring is the only one in this
    // executable.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT);
    let builder = if settings.endpoint.scheme() != "https" {
        builder.tls_certs_only([])
    } else {
        let authorities = settings.authorities.as_ref().map(|authorities| {
            let certificates = authorities.iter();
            certificates
                .map(|authority| Certificate::from_der(authority))
                .collect::<Result<Vec<_>, _>>()
        });
        match authorities.transpose()? {
            Some(authorities) => builder.https_only(true).tls_certs_only(authorities),
            None => builder.https_only(true),
        }
    };
    builder.build()
}

impl Client {
    /// Sends one batch. Returns the number of spans that the collector did not want.
    pub(super) async fn send(
        &mut self,
        batch: ExportTraceServiceRequest,
    ) -> Result<u64, Undelivered> {
        let sent = async {
            match self {
                Self::Grpc(client, headers) => grpc(client, headers, batch).await,
                Self::Http(client, url, headers) => post(client, url, headers, &batch).await,
            }
        };
        let answer = tokio::time::timeout(EXPORT_TIMEOUT, sent).await;
        let answer = answer.unwrap_or(Err(Undelivered::Late))?;
        let rejected = answer.partial_success.map(|partial| partial.rejected_spans);
        Ok(rejected.map_or(0, |rejected| u64::try_from(rejected).unwrap_or_default()))
    }
}

async fn grpc(
    client: &mut TraceServiceClient<Channel>,
    headers: &MetadataMap,
    batch: ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, Undelivered> {
    let mut request = Request::new(batch);
    *request.metadata_mut() = headers.clone();
    let answer = client.export(request).await;
    let answer = answer.map_err(|status| match status.code() {
        Code::Unavailable => Undelivered::Unreached,
        code => Undelivered::Code(code),
    })?;
    Ok(answer.into_inner())
}

async fn post(
    client: &reqwest::Client,
    url: &Url,
    headers: &HeaderMap,
    batch: &ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, Undelivered> {
    let request = client.post(url.clone()).headers(headers.clone());
    let request = request.header(CONTENT_TYPE, PROTOBUF);
    let answer = request.body(batch.encode_to_vec()).send().await;
    let mut answer = answer.map_err(|_| Undelivered::Unreached)?;
    if answer.status() != StatusCode::OK {
        return Err(Undelivered::Status(answer.status()));
    }
    let body = body(&mut answer).await?;
    ExportTraceServiceResponse::decode(&*body).map_err(|_| Undelivered::Garbage)
}

/// The body of an answer, if it is not too long.
async fn body(answer: &mut Response) -> Result<Vec<u8>, Undelivered> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|_| Undelivered::Garbage)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Undelivered::Garbage);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
