//! The real way out: HTTP by reqwest, which nothing else uses.
//!
//! Each account has two clients behind one struct, since reqwest sets the use of connections per
//! client. Both speak HTTP/1.1 alone: a request has its connection for itself, so a closing connection
//! affects one request only, and a read that met a closed connection can be sent again. The clients
//! repeat, redirect and decompress nothing and ignore the environment's proxies, and no error carries
//! a URL or a header.

mod certificate;
mod clients;
mod reuse;

use std::{
    error::Error as _,
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use url::Host;

use crate::purchase::Secret;

use super::{
    BODY_BYTES_MAX, Connection, Request, Response, Upstream, UpstreamError, address, tls::Tls,
};
use certificate::Refused;
use clients::Clients;

/// The longest time for making a connection, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The time for which an idle connection is kept. Ours: below the 60 s after which common load
/// balancers close a connection, so that a poll seldom meets a half-closed one.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The words for a provider that refused this client's certificate.
const CERTIFICATE_REFUSED: &str = "the client's certificate is refused";

/// The name of this client in its requests.
const USER_AGENT: &str = concat!("tillwatch/", env!("CARGO_PKG_VERSION"));

/// The destination of one account's requests, and the limits on the way there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The provider's origin, with the path of its API.
    pub base_url: Url,
    /// True if the origin may be http.
    pub allow_insecure: bool,
    /// True if the origin may lie outside the public internet.
    pub allow_private_networks: bool,
    /// The HTTP proxy for all requests, as a URL with its credentials. The proxy resolves the origin's
    /// name, so the check of addresses applies to the proxy's own address.
    pub proxy: Option<Secret>,
    /// The authorities that the origin is checked against, and the certificate that is shown to it.
    pub tls: Tls,
    /// The longest time for making a connection.
    pub connect_timeout: Duration,
    /// The time for which an idle connection is kept.
    pub idle_timeout: Duration,
}

impl Settings {
    /// Settings for an origin on the public internet, by https.
    pub fn new(base_url: Url) -> Self {
        Self {
            base_url,
            allow_insecure: false,
            allow_private_networks: false,
            proxy: None,
            tls: Tls::default(),
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
        }
    }
}

/// Settings that make no client.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The base URL is neither https nor an allowed http.
    #[error("the base URL is not https")]
    Scheme,
    /// The base URL has a user, a query or a fragment, or lacks a host.
    #[error("the base URL is not a plain origin with a path")]
    Shape,
    /// The base URL names an address outside the public internet.
    #[error("the base URL names a private address")]
    Address,
    /// The proxy is no plain `http://host:port`, or has an address outside the public internet.
    #[error("the proxy cannot be used")]
    Proxy,
    /// The client's TLS could not be set up; most often the machine has no root certificates.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
}

impl HttpError {
    fn client(error: reqwest::Error) -> Self {
        Self::Client(error.without_url())
    }
}

/// One account's way out over HTTP.
pub struct HttpUpstream {
    settings: Settings,
    clients: Clients,
}

impl fmt::Debug for HttpUpstream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "HttpUpstream({})",
            self.settings.base_url.origin().ascii_serialization()
        )
    }
}

impl HttpUpstream {
    /// A way out with these settings. Connects nowhere yet.
    ///
    /// # Errors
    /// The base URL is not allowed, or TLS cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, HttpError> {
        let look_ups = address::LookUps::default();
        let look_up = move |host| -> LookedUp { Box::pin(look_ups.clone().look_up(host)) };
        Self::over(settings, Arc::new(look_up))
    }

    /// Like [`HttpUpstream::new`], with names looked up by `look_up`.
    fn over(settings: Settings, look_up: LookUp) -> Result<Self, HttpError> {
        check_base_url(&settings)?;
        let clients = Clients::new(&settings, &look_up)?;
        Ok(Self { settings, clients })
    }

    /// The URL of a request. It lies below the base URL, whatever its segments are.
    fn url(&self, request: &Request) -> Result<Url, UpstreamError> {
        const UNSAFE: UpstreamError = UpstreamError::NotConnected("unsafe path");
        if !request.path.iter().all(|segment| is_safe(segment)) {
            return Err(UNSAFE);
        }
        let mut url = self.settings.base_url.clone();
        url.path_segments_mut()
            .map_err(|()| UNSAFE)?
            .pop_if_empty()
            .extend(&request.path);
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        Ok(url)
    }

    fn client(&self, connection: Connection) -> Client {
        self.clients.of(connection)
    }
}

#[async_trait]
impl Upstream for HttpUpstream {
    async fn send(&self, request: Request, timeout: Duration) -> Result<Response, UpstreamError> {
        let url = self.url(&request)?;
        let mut sending = self
            .client(request.connection)
            .request(request.method, url)
            .headers(request.headers)
            // The timeout spans everything from the connection to the last byte of the body. A timeout
            // per read beside it would give up answers that still arrive in time.
            .timeout(timeout);
        if let Some(body) = request.body {
            sending = sending.body(body);
        }
        let begun = Instant::now();
        let (answer, dialled) = reuse::noting(sending.send()).await;
        let answer = answer.map_err(|error| match not_answered(&error) {
            UpstreamError::Lost(_) if !dialled && reuse::is_closed(&error) => UpstreamError::Closed,
            // A kept connection has been let in already, so its alert would mean something else.
            UpstreamError::Lost(_) if dialled && is_certificate_refused(&error) => {
                UpstreamError::NotConnected(CERTIFICATE_REFUSED)
            }
            other => other,
        })?;
        if answer.status().is_redirection() {
            return Err(UpstreamError::Unusable("redirect"));
        }
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let body = whole_body(answer).await?;
        tracing::trace!(status, elapsed_us = begun.elapsed().as_micros(), "answered");
        Ok(Response {
            status,
            headers,
            body,
        })
    }
}

/// Reads the body up to its limit; a body whose announced length is above it is not read at all.
async fn whole_body(mut answer: reqwest::Response) -> Result<Bytes, UpstreamError> {
    const TOO_LARGE: UpstreamError = UpstreamError::Unusable("body too large");
    let announced = answer.content_length().unwrap_or(0);
    let announced = usize::try_from(announced).map_err(|_| TOO_LARGE)?;
    if announced > BODY_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    let mut body = BytesMut::with_capacity(announced);
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > BODY_BYTES_MAX => return Err(TOO_LARGE),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body.freeze()),
            Err(error) if error.is_timeout() => return Err(UpstreamError::Lost("timed out")),
            Err(_) => return Err(UpstreamError::Unusable("body cut short")),
        }
    }
}

/// The error of a request without an answer, which says if anything can have been sent.
fn not_answered(error: &reqwest::Error) -> UpstreamError {
    if is_refused_address(error) {
        return UpstreamError::NotConnected("address refused");
    }
    // This comes before the check for a timeout: a timeout while connecting sent nothing.
    if error.is_connect() {
        return UpstreamError::NotConnected(if error.is_timeout() {
            "timed out"
        } else if error.is_dns() {
            "name not found"
        } else {
            match certificate::refused(error) {
                Some(Refused::Providers) => "the provider's certificate is not trusted",
                Some(Refused::Clients) => CERTIFICATE_REFUSED,
                None => "connection failed",
            }
        });
    }
    if error.is_builder() {
        return UpstreamError::NotConnected("not a request");
    }
    if error.is_timeout() {
        return UpstreamError::Lost("timed out");
    }
    UpstreamError::Lost("connection lost")
}

fn is_certificate_refused(error: &reqwest::Error) -> bool {
    certificate::refused(error) == Some(Refused::Clients)
}

/// True if the resolver below refused all addresses, anywhere in the chain of causes.
fn is_refused_address(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<AddressRefused>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// True if a text stays one path segment: the URL library drops dot segments and some control
/// characters, which would make another path.
fn is_safe(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control)
}

fn check_base_url(settings: &Settings) -> Result<(), HttpError> {
    let url = &settings.base_url;
    match url.scheme() {
        "https" => {}
        "http" if settings.allow_insecure => {}
        _ => return Err(HttpError::Scheme),
    }
    let has_user = !url.username().is_empty() || url.password().is_some();
    if has_user || url.query().is_some() || url.fragment().is_some() {
        return Err(HttpError::Shape);
    }
    match is_allowed(url, settings) {
        None => Err(HttpError::Shape),
        Some(true) => Ok(()),
        Some(false) => Err(HttpError::Address),
    }
}

/// True if requests may go to a URL's host; `None` if it has none. reqwest asks its resolver for names
/// alone, so a literal address is judged here.
fn is_allowed(url: &Url, settings: &Settings) -> Option<bool> {
    let literal: IpAddr = match url.host()? {
        Host::Domain(_) => return Some(true),
        Host::Ipv4(literal) => literal.into(),
        Host::Ipv6(literal) => literal.into(),
    };
    Some(address::allowed(literal, settings.allow_private_networks))
}

/// The look-up of a name, made anew for each connection.
type LookUp = Arc<dyn Fn(String) -> LookedUp + Send + Sync>;
type LookedUp = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Resolves names, without the addresses that are not allowed. The client connects to the addresses
/// that it lets through: nothing looks a name up a second time.
struct Filter {
    allow_private: bool,
    look_up: LookUp,
}

/// All addresses of a name are refused.
#[derive(Debug, thiserror::Error)]
#[error("address refused")]
struct AddressRefused;

impl Resolve for Filter {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        let found = (self.look_up)(name.as_str().to_owned());
        Box::pin(async move {
            match address::usable(found.await?, allow_private) {
                Ok(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Err(AddressRefused.into())
                }
                Err(error) => Err(error.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests;
