//! The two transports of the service's port, so that one test can hold over both.

use std::{fmt, fs, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::{
    process::within,
    tls::{authority, certificate},
};

/// A connection's bytes.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// A transport.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// TCP.
    #[default]
    Plain,
    /// TLS over TCP, with a certificate of an authority of its own.
    Tls(Arc<Secured>),
}

/// The files of a server, and the authority that vouches for them, in PEM.
pub struct Secured {
    folder: TempDir,
    authority: String,
}

impl fmt::Debug for Secured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secured")
    }
}

impl Transport {
    /// Each of them.
    pub fn both() -> [Self; 2] {
        [Self::Plain, Self::tls()]
    }

    pub fn tls() -> Self {
        let authority = authority();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate(&authority, &["localhost"], None);
        fs::write(folder.path().join("tls.crt"), certificate).unwrap();
        fs::write(folder.path().join("tls.key"), key).unwrap();
        Self::Tls(Arc::new(Secured {
            folder,
            authority: authority.pem(),
        }))
    }

    /// The lines of `[listen]` for it.
    pub fn lines(&self) -> String {
        match self {
            Self::Plain => String::new(),
            Self::Tls(secured) => {
                let folder = secured.folder.path().display();
                format!("tls_cert = \"{folder}/tls.crt\"\ntls_key = \"{folder}/tls.key\"\n")
            }
        }
    }

    /// A connection, ready for HTTP/2.
    pub async fn socket(&self, address: &str) -> Box<dyn Socket> {
        let stream = TcpStream::connect(address).await.unwrap();
        let Self::Tls(secured) = self else {
            return Box::new(stream);
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connected = TlsConnector::from(Arc::new(secured.client())).connect(name, stream);
        Box::new(within("a handshake", connected).await.unwrap())
    }

    /// A channel.
    pub async fn channel(&self, address: &str) -> Channel {
        let endpoint = match self {
            Self::Plain => Endpoint::from_shared(format!("http://{address}")).unwrap(),
            Self::Tls(secured) => {
                let tls = ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(&secured.authority))
                    .domain_name("localhost");
                let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
                endpoint.tls_config(tls).unwrap()
            }
        };
        within("a connection", endpoint.connect()).await.unwrap()
    }
}

impl Secured {
    /// The settings of a client that trusts the server and offers HTTP/2.
    fn client(&self) -> ClientConfig {
        self.client_of(rustls::ALL_VERSIONS)
    }

    /// The same, of these versions of TLS.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}
