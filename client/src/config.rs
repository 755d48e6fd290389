//! The service's address, and the way to speak to it.
//!
//! This module reads no files and no environment: the caller hands in their contents.

use std::{fmt, time::Duration};

use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::error::Error;

const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of a [`Client`](crate::Client).
#[derive(Debug, Clone)]
pub struct Config {
    /// `host:port`, `http://host:port`, `https://host:port` or `unix:/path`.
    pub server: String,
    /// The bearer token that names the caller.
    pub token: Option<SecretToken>,
    /// CA certificates (PEM) to check the server's certificate against. With them, `host:port`
    /// means https.
    pub tls_ca: Option<Vec<u8>>,
    /// The client's own certificate, if it names the caller. Needs `tls_ca`.
    pub tls_identity: Option<TlsIdentity>,
    /// The longest time for one attempt to connect; 10 s by default.
    pub connect_timeout: Duration,
    /// The longest time for a call other than a create; 30 s by default. A call that waits at the
    /// server gets its wait on top.
    pub call_timeout: Duration,
    /// The longest time for a create with all its repeats; 60 s by default.
    pub create_deadline: Duration,
}

impl Config {
    /// Settings for a server, with defaults for the rest.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            token: None,
            tls_ca: None,
            tls_identity: None,
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            create_deadline: Duration::from_secs(60),
        }
    }

    /// A channel that connects at its first use, and again after each lost connection.
    pub(crate) fn channel(&self) -> Result<Channel, Error> {
        let address = self.address()?;
        let wrong = |error: tonic::transport::Error| {
            Error::Config(format!("server {:?}: {}", self.server, chain(&error)))
        };
        let mut endpoint = Endpoint::from_shared(address.clone()).map_err(wrong)?;
        if address.starts_with("https:") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(wrong)?;
        }
        Ok(tuned(endpoint, self.connect_timeout).connect_lazy())
    }

    fn address(&self) -> Result<String, Error> {
        let server = self.server.trim();
        let wrong = |why: &str| Err(Error::Config(format!("server {server:?}: {why}")));
        if server.is_empty() {
            return wrong("an address is needed, such as 127.0.0.1:50051");
        }
        let secure = self.tls_ca.is_some();
        if server.starts_with("https://") {
            return Ok(server.to_owned());
        }
        if server.starts_with("http://") || server.starts_with("unix:") {
            if secure {
                return wrong("a CA certificate is given, but the address is not https");
            }
            return Ok(server.to_owned());
        }
        if server.contains("://") {
            return wrong("expected host:port, http://, https:// or unix:/path");
        }
        Ok(format!(
            "{}://{server}",
            if secure { "https" } else { "http" }
        ))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let Some(ca) = &self.tls_ca else {
            let why = "https needs the CA certificate that the server's is checked against";
            return Err(Error::Config(format!("server {:?}: {why}", self.server)));
        };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        Ok(match &self.tls_identity {
            Some(own) => tls.identity(Identity::from_pem(&own.certificate, &own.key)),
            None => tls,
        })
    }
}

/// The transport's settings, the same for every kind of connection.
pub(crate) fn tuned(endpoint: Endpoint, connect_timeout: Duration) -> Endpoint {
    endpoint
        .connect_timeout(connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        // h2 closes a connection on which many small frames wait unread, with a budget that grows
        // with this window; events are small and streams are many.
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A client certificate and its key, both PEM. Its `Debug` shows neither.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The certificate chain, leaf first.
    pub certificate: Vec<u8>,
    /// The private key of the leaf.
    pub key: Vec<u8>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// A bearer token. Its `Debug` does not show it, and it has no `Display`.
#[derive(Clone)]
pub struct SecretToken(MetadataValue<Ascii>);

impl SecretToken {
    /// Takes a token as a file or a variable holds it, and drops the white space around it.
    ///
    /// # Errors
    /// [`Error::Config`] if the token is empty or has anything but visible ASCII. The message does
    /// not repeat the token.
    pub fn new(token: &str) -> Result<Self, Error> {
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let why = "the token must be one word of visible ASCII characters";
            return Err(Error::Config(why.to_owned()));
        }
        let header = MetadataValue::try_from(format!("Bearer {token}"));
        let mut header =
            header.map_err(|_| Error::Config("the token cannot be sent".to_owned()))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    pub(crate) fn header(&self) -> &MetadataValue<Ascii> {
        &self.0
    }
}

impl fmt::Debug for SecretToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_scheme_that_the_settings_imply() {
        let check = |server: &str, secure: bool, expected: Option<&str>| {
            let mut config = Config::new(server);
            config.tls_ca = secure.then(|| b"pem".to_vec());
            assert_eq!(config.address().ok().as_deref(), expected, "{server}");
        };
        check("127.0.0.1:50051", false, Some("http://127.0.0.1:50051"));
        check("shop:443", true, Some("https://shop:443"));
        check("http://shop:80", false, Some("http://shop:80"));
        check("http://shop:80", true, None);
        check("https://shop", true, Some("https://shop"));
        check(
            "unix:/run/tillwatch.sock",
            false,
            Some("unix:/run/tillwatch.sock"),
        );
        check("unix:/run/tillwatch.sock", true, None);
        check("ftp://shop", false, None);
        check(" ", false, None);
    }

    #[test]
    fn https_without_a_ca_is_refused_before_anything_is_sent() {
        let error = Config::new("https://shop").channel().unwrap_err();
        assert!(matches!(error, Error::Config(_)));
        assert!(error.to_string().contains("CA certificate"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = Config::new("shop:1");
        config.token = Some(SecretToken::new(" canary-token\n").unwrap());
        config.tls_identity = Some(TlsIdentity {
            certificate: b"canary".to_vec(),
            key: b"canary".to_vec(),
        });
        let shown = format!("{config:?}");
        assert!(shown.contains("[redacted]"));
        assert!(!shown.contains("canary"), "{shown}");
        let error = SecretToken::new("canary token").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
        assert!(SecretToken::new("").is_err());
    }
}
