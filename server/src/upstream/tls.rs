//! The TLS of an account: the authorities that its provider is checked against, and the certificate
//! that it shows. Both come from files in PEM.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use crate::purchase::Secret;

/// The largest file that is read, in bytes. Ours: a bundle of all public roots has some 250 KB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The files of an account's TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The authorities that replace the system's; `None` leaves the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key; `None` if the client shows no certificate.
    pub client: Option<ClientFiles>,
}

/// The files of a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, followed by those of its issuers.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// The content that a file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The authorities that replace the system's.
    Authorities,
    /// The client's certificate.
    Certificate,
    /// The key of the client's certificate.
    Key,
}

impl fmt::Display for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Authorities => "the file of the authorities",
            Self::Certificate => "the file of the client's certificate",
            Self::Key => "the file of the client's key",
        })
    }
}

/// A file that cannot be used. The text holds nothing of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{of} {rule}")]
pub struct BadFile {
    /// The content that the file is read for.
    pub of: Content,
    /// The rule that the file breaks.
    pub rule: String,
}

impl BadFile {
    fn new(of: Content, rule: impl Into<String>) -> Self {
        let rule = rule.into();
        Self { of, rule }
    }
}

/// The files that cannot be used, each with its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", joined(.0))]
pub struct TlsError(pub Vec<BadFile>);

fn joined(files: &[BadFile]) -> String {
    let texts: Vec<String> = files.iter().map(BadFile::to_string).collect();
    texts.join("; ")
}

/// The contents of an account's files. The default is the system's authorities and no certificate of
/// the client.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    files: Files,
    roots: Option<Vec<CertificateDer<'static>>>,
    /// The client's certificates, then its key, in PEM.
    client: Option<Secret>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Tls").field(&self.files).finish()
    }
}

impl Tls {
    /// Reads the files, which blocks.
    ///
    /// # Errors
    /// A file cannot be read, does not hold what it should, or the key is another certificate's.
    pub fn read(files: Files) -> Result<Self, TlsError> {
        let mut bad = Vec::new();
        let roots = files.ca.as_deref().map(roots);
        let roots = roots.and_then(|roots| good(roots, &mut bad));
        let client = files.client.as_ref();
        let client = client.and_then(|files| client_text(files, &mut bad));
        if !bad.is_empty() {
            return Err(TlsError(bad));
        }
        Ok(Self {
            files,
            roots,
            client,
        })
    }

    /// True if a file is named.
    pub fn has_files(&self) -> bool {
        self.files != Files::default()
    }

    /// The authorities that replace the system's, if any are named.
    pub fn roots(&self) -> Option<&[CertificateDer<'static>]> {
        self.roots.as_deref()
    }

    /// The client's certificates and key in PEM, if the client shows a certificate.
    pub(super) fn client(&self) -> Option<&Secret> {
        self.client.as_ref()
    }
}

/// The value of a file that could be used; otherwise its fault is added to the list.
fn good<T>(read: Result<T, BadFile>, bad: &mut Vec<BadFile>) -> Option<T> {
    read.map_err(|file| bad.push(file)).ok()
}

fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let roots = certificates(Content::Authorities, path)?;
    let mut store = RootCertStore::empty();
    for root in &roots {
        let added = store.add(root.clone());
        added.map_err(|_| {
            BadFile::new(Content::Authorities, "must hold only certificates of X.509")
        })?;
    }
    Ok(roots)
}

fn client_text(files: &ClientFiles, bad: &mut Vec<BadFile>) -> Option<Secret> {
    let chain = good(certificates(Content::Certificate, &files.certificate), bad);
    let key = good(private_key(&files.key), bad);
    let (chain, key) = (chain?, key?);
    good(check_pair(&chain, &key), bad)?;
    Some(pem(&chain, &key))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, BadFile> {
    let content = content(Content::Key, path)?;
    let key = PrivateKeyDer::from_pem_slice(&content).map_err(|_| {
        let rule = "must hold a private key in PEM, without a password";
        BadFile::new(Content::Key, rule)
    })?;
    let loaded = ring::default_provider()
        .key_provider
        .load_private_key(key.clone_key());
    loaded.map_err(|_| {
        let rule = "must hold a key of RSA (2048 bits or more), P-256, P-384 or Ed25519";
        BadFile::new(Content::Key, rule)
    })?;
    Ok(key)
}

fn check_pair(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), BadFile> {
    let provider = ring::default_provider();
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let rule = "must hold the key of the client's certificate";
            Err(BadFile::new(Content::Key, rule))
        }
        Err(_) => {
            let rule = "must begin with a certificate of X.509";
            Err(BadFile::new(Content::Certificate, rule))
        }
    }
}

/// One text of the certificates and their key, without anything else that was in the files.
fn pem(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> Secret {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let chain = chain.iter().map(|one| ("CERTIFICATE", one.as_ref()));
    let sections = chain.chain([(label, key.secret_der())]);
    let text: String = sections
        .map(|(label, der)| {
            let body = STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
        })
        .collect();
    Secret::new(text)
}

fn certificates(of: Content, path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let content = content(of, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let read = read.ok().filter(|read| !read.is_empty());
    read.ok_or_else(|| BadFile::new(of, "must hold at least one certificate in PEM"))
}

fn content(of: Content, path: &Path) -> Result<Vec<u8>, BadFile> {
    let read = || -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(path)?
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().map_err(|error| {
        let rule = format!("must be a file that can be read: {error}");
        BadFile::new(of, rule)
    })?;
    if u64::try_from(content.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) {
        return Ok(content);
    }
    Err(BadFile::new(of, "must have at most 4 MiB"))
}

#[cfg(test)]
mod tests;
