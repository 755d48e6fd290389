//! The files of an account's TLS: the good ones, and the rule that each bad one breaks.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::testing::Authority;

/// A folder with the files `ca`, `cert` and `key`.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let authority = Authority::new();
        let (certificate, key) = authority.certificate("client.test");
        folder.write("ca", &authority.pem());
        folder.write("cert", &certificate);
        folder.write("key", &key);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self) -> Result<Tls, TlsError> {
        Tls::read(Files {
            ca: Some(self.path("ca")),
            client: Some(ClientFiles {
                certificate: self.path("cert"),
                key: self.path("key"),
            }),
        })
    }
}

#[test]
fn a_bad_file_is_refused_with_its_key_and_its_rule() {
    let (other, other_key) = Authority::new().certificate("other.test");
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let unknown = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let large = "x".repeat(4 * 1024 * 1024 + 1);
    let one_certificate = "must hold at least one certificate in PEM";
    let table = [
        ("ca", "", Content::Authorities, one_certificate),
        (
            "ca",
            other_key.as_str(),
            Content::Authorities,
            one_certificate,
        ),
        (
            "ca",
            junk,
            Content::Authorities,
            "must hold only certificates of X.509",
        ),
        (
            "ca",
            &large,
            Content::Authorities,
            "must have at most 4 MiB",
        ),
        ("cert", "canary", Content::Certificate, one_certificate),
        (
            "cert",
            junk,
            Content::Certificate,
            "must begin with a certificate of X.509",
        ),
        (
            "cert",
            &other,
            Content::Key,
            "must hold the key of the client's certificate",
        ),
        (
            "key",
            &other_key,
            Content::Key,
            "must hold the key of the client's certificate",
        ),
        (
            "key",
            locked,
            Content::Key,
            "must hold a private key in PEM, without a password",
        ),
        (
            "key",
            unknown,
            Content::Key,
            "must hold a key of RSA (2048 bits or more), P-256, P-384 or Ed25519",
        ),
    ];
    for (file, text, of, rule) in table {
        let folder = Folder::new();
        folder.write(file, text);
        let bad = folder.read().unwrap_err();
        assert_eq!(bad.to_string(), format!("{of} {rule}"), "{file}");
    }
}

#[test]
fn all_bad_files_are_told_at_once() {
    let folder = Folder::new();
    for file in ["ca", "cert", "key"] {
        fs::remove_file(folder.path(file)).unwrap();
    }
    let bad = folder.read().unwrap_err();
    let told = bad.0.iter().map(|file| file.of);
    assert_eq!(
        Vec::from_iter(told),
        [Content::Authorities, Content::Certificate, Content::Key]
    );
    for file in bad.0 {
        let rule = "must be a file that can be read: No such file";
        assert!(file.rule.starts_with(rule), "{file}");
    }
}

#[test]
fn a_certificate_and_its_key_may_lie_in_one_file() {
    let folder = Folder::new();
    let apart = folder.read().unwrap();
    let both = format!("{}{}", folder.text("key"), folder.text("cert"));
    folder.write("cert", &both);
    folder.write("key", &both);
    assert_eq!(folder.read().unwrap(), apart);
}

#[test]
fn nothing_of_a_key_is_shown() {
    let folder = Folder::new();
    let tls = folder.read().unwrap();
    let body = folder.text("key").lines().nth(1).unwrap().to_owned();
    assert!(
        tls.client().unwrap().expose().contains(&body),
        "it is there"
    );
    assert!(!format!("{tls:?}").contains(&body));
}
