//! This server's own TLS: the certificate that it shows, the clients' certificates that it trusts, and
//! the names in them. All of it is read again when its files change.
//!
//! A connection keeps the settings under which it began. Sessions are never resumed and there is no
//! early data, so each connection is checked against the settings of its own time.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer as _, X509Certificate},
};

use crate::purchase::Timestamp;

/// The largest file that is read, in bytes. Ours: a bundle of all public roots has some 250 KB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The most names of a certificate that are looked at. Ours.
const NAMES_MAX: usize = 100;
/// The protocols that can be offered, by their registered names.
const HTTP_2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// The protocols that are offered inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// HTTP/2 alone.
    Http2,
    /// HTTP/2, or HTTP/1.1 to a peer that lacks it.
    Both,
}

impl Offered {
    fn names(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http2 => vec![HTTP_2.to_vec()],
            Self::Both => vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()],
        }
    }
}

/// The files of the server's own TLS, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The server's certificate, followed by those of its issuers.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities whose clients' certificates are trusted; `None` if clients are asked for none.
    pub client_ca: Option<PathBuf>,
}

impl ServerFiles {
    fn all(&self) -> impl Iterator<Item = &Path> {
        let own = [self.certificate.as_path(), self.key.as_path()].into_iter();
        own.chain(self.client_ca.as_deref())
    }
}

/// The reason why files make no TLS. No text holds a part of a key.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} must hold {content}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The expected content.
        content: &'static str,
    },
    /// The key is not the certificate's.
    #[error("the key in {key} must be the key of the certificate in {certificate}")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The library does not take the certificate, the key or an authority.
    #[error("{path} cannot be used: {problem}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The library's reason.
        problem: String,
    },
}

/// The TLS of a listener. Clones are the same.
#[derive(Clone)]
pub struct ServerTls(Arc<Shared>);

struct Shared {
    files: ServerFiles,
    offered: Offered,
    current: Mutex<InUse>,
    reloads_failed: AtomicU64,
    handshakes_failed: AtomicU64,
}

/// The settings for the next connection.
#[derive(Clone)]
struct InUse {
    config: Arc<ServerConfig>,
    /// The end of the certificate's time.
    expires: Timestamp,
    /// A digest of the files as they were read last, also if they could not be used.
    seen: [u8; 32],
    /// True if the files as they were read last could not be used.
    is_stale: bool,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("ServerTls")
            .field(&self.0.files)
            .finish()
    }
}

/// The figures of a listener's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsFigures {
    /// The end of the certificate's time.
    pub expires: Timestamp,
    /// True if the files have changed and cannot be used, so that older settings hold on.
    pub is_stale: bool,
    /// Changes of the files that could not be used.
    pub reloads_failed: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
}

impl ServerTls {
    /// Reads the files. It blocks.
    ///
    /// # Errors
    /// See [`ServerTlsError`].
    pub fn load(files: ServerFiles, offered: Offered) -> Result<Self, ServerTlsError> {
        let read = Contents::read(&files)?;
        let (config, expires) = read.config(&files, offered)?;
        let current = InUse {
            config,
            expires,
            seen: read.digest(),
            is_stale: false,
        };
        Ok(Self(Arc::new(Shared {
            files,
            offered,
            current: Mutex::new(current),
            reloads_failed: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
        })))
    }

    /// Reads the files again, and uses them for later connections if all of them can be used. It
    /// returns true if there was a change. It blocks.
    ///
    /// # Errors
    /// The files have changed and cannot be used: the settings stay as they are. Each change is told
    /// once.
    pub fn reload(&self) -> Result<bool, ServerTlsError> {
        let read = match Contents::read(&self.0.files) {
            Ok(read) => read,
            Err(error) => {
                // A file that is away has no content by which a later look could know it.
                return self.failed([0; 32], error);
            }
        };
        let digest = read.digest();
        if self.current().seen == digest {
            return Ok(false);
        }
        match read.config(&self.0.files, self.0.offered) {
            Ok((config, expires)) => {
                *self.current() = InUse {
                    config,
                    expires,
                    seen: digest,
                    is_stale: false,
                };
                Ok(true)
            }
            Err(error) => self.failed(digest, error),
        }
    }

    fn failed(&self, digest: [u8; 32], error: ServerTlsError) -> Result<bool, ServerTlsError> {
        let mut current = self.current();
        if current.is_stale && current.seen == digest {
            return Ok(false);
        }
        current.seen = digest;
        current.is_stale = true;
        self.0.reloads_failed.fetch_add(1, Ordering::Relaxed);
        Err(error)
    }

    /// The settings for a connection that begins now.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().config)
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self) {
        self.0.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The figures as they are now.
    pub fn figures(&self) -> TlsFigures {
        let current = self.current();
        TlsFigures {
            expires: current.expires,
            is_stale: current.is_stale,
            reloads_failed: self.0.reloads_failed.load(Ordering::Relaxed),
            handshakes_failed: self.0.handshakes_failed.load(Ordering::Relaxed),
        }
    }

    fn current(&self) -> MutexGuard<'_, InUse> {
        self.0
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files' contents, read as one.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &ServerFiles) -> Result<Self, ServerTlsError> {
        let mut read = files.all().map(read);
        let mut next = || read.next().transpose();
        Ok(Self {
            certificate: next()?.unwrap_or_default(),
            key: next()?.unwrap_or_default(),
            client_ca: next()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let contents = [
            Some(&self.certificate),
            Some(&self.key),
            self.client_ca.as_ref(),
        ];
        for content in contents.into_iter().flatten() {
            digest.update(content.len().to_be_bytes());
            digest.update(content);
        }
        digest.finalize().into()
    }

    /// The settings that the contents make, and the end of the certificate's time.
    fn config(
        &self,
        files: &ServerFiles,
        offered: Offered,
    ) -> Result<(Arc<ServerConfig>, Timestamp), ServerTlsError> {
        let chain = certificates(&self.certificate, &files.certificate)?;
        let expires = chain.first().and_then(|own| expires(own));
        let expires = expires.ok_or_else(|| ServerTlsError::Content {
            path: files.certificate.clone(),
            content: "a certificate of X.509",
        })?;
        let key =
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| ServerTlsError::Content {
                path: files.key.clone(),
                content: "a private key in PEM, without a password",
            })?;
        let provider = Arc::new(ring::default_provider());
        let verifier = match (&self.client_ca, &files.client_ca) {
            (Some(content), Some(path)) => verifier(content, path, Arc::clone(&provider))?,
            _none => WebPkiClientVerifier::no_client_auth(),
        };
        let unusable = |problem: rustls::Error| match problem {
            rustls::Error::InconsistentKeys(_) => ServerTlsError::Mismatch {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
            },
            other => ServerTlsError::Unusable {
                path: files.certificate.clone(),
                problem: other.to_string(),
            },
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(unusable)?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = offered.names();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok((Arc::new(config), expires))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ServerTlsError> {
    let problem = |source| ServerTlsError::File {
        path: path.to_owned(),
        source,
    };
    // A device or a pipe has no size, so the bytes are bounded as they are read.
    let file = File::open(path).map_err(problem)?;
    let mut content = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content);
    read.map_err(problem)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(ServerTlsError::Content {
            path: path.to_owned(),
            content: "no more than 4 MiB",
        });
    }
    Ok(content)
}

fn certificates(
    content: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ServerTlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let read = read.ok().filter(|read| !read.is_empty());
    read.ok_or_else(|| ServerTlsError::Content {
        path: path.to_owned(),
        content: "at least one certificate in PEM",
    })
}

/// The check of clients' certificates. A client may show none: then it has to show a token. A shown
/// certificate that no authority vouches for ends the handshake.
fn verifier(
    content: &[u8],
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
    let unusable = |problem: String| ServerTlsError::Unusable {
        path: path.to_owned(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(content, path)? {
        roots
            .add(authority)
            .map_err(|error| unusable(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(error.to_string()))
}

/// The end of a certificate's time; `None` if it cannot be read.
fn expires(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Timestamp::from_millis(seconds.checked_mul(1_000)?).ok()
}

/// The alternative names of a client's certificate that can name a caller: DNS names and URIs, among
/// them SPIFFE ids. Names beyond the first hundred are left out.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let alternative = (certificate.extensions().iter()).find_map(|extension| {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.as_slice()),
            _other => None,
        }
    });
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _other => None,
    };
    let names = alternative.unwrap_or_default().iter().filter_map(name);
    names.take(NAMES_MAX).collect()
}

#[cfg(test)]
mod tests;
