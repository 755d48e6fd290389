//! The files of TLS: what is read, refused, and read again.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, date_time_ymd,
};
use tempfile::TempDir;

use super::*;

/// A folder with an authority's, a server's and no client's files.
struct Folder(TempDir);

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.renew(2_100);
        folder
    }

    /// Puts a new certificate and key in place, which end with this year's first day.
    fn renew(&self, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let authority = authority();
        let own = params.signed_by(&key, &authority).unwrap();
        self.write("cert.pem", &own.pem());
        self.write("key.pem", &key.serialize_pem());
        self.write("ca.pem", &authority.pem());
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn files(&self) -> ServerFiles {
        let path = |name: &str| self.0.path().join(name);
        ServerFiles {
            certificate: path("cert.pem"),
            key: path("key.pem"),
            client_ca: Some(path("ca.pem")),
        }
    }
}

fn year(tls: &ServerTls) -> String {
    tls.figures().expires.to_string()[..4].to_owned()
}

#[test]
fn changed_files_are_used_and_unchanged_ones_are_left_alone() {
    let folder = Folder::new();
    let tls = ServerTls::load(folder.files(), Offered::Http2).unwrap();
    assert_eq!(year(&tls), "2100");
    let before = tls.config();
    assert!(!tls.reload().unwrap());
    assert!(Arc::ptr_eq(&before, &tls.config()));
    folder.renew(2_101);
    assert!(tls.reload().unwrap());
    assert_eq!(year(&tls), "2101");
    assert!(!Arc::ptr_eq(&before, &tls.config()));
}

#[test]
fn files_that_cannot_be_used_change_nothing_and_are_told_once() {
    let folder = Folder::new();
    let tls = ServerTls::load(folder.files(), Offered::Http2).unwrap();
    let before = tls.config();
    let certificate = fs::read_to_string(folder.files().certificate).unwrap();
    folder.renew(2_101);
    let (new_key, new) = (
        fs::read_to_string(folder.files().key).unwrap(),
        fs::read_to_string(folder.files().certificate).unwrap(),
    );
    folder.write("cert.pem", &certificate);
    let broken: [(&str, &dyn Fn()); 4] = [
        ("must be the key of the certificate", &|| {}),
        ("must hold at least one certificate", &|| {
            folder.write("cert.pem", "-----BEGIN");
        }),
        ("must hold a private key", &|| {
            folder.write("cert.pem", &new);
            folder.write("key.pem", "");
        }),
        ("cannot read", &|| {
            fs::remove_file(folder.files().client_ca.unwrap()).unwrap();
        }),
    ];
    for (number, (expected, change)) in (1..).zip(broken) {
        change();
        let told = tls.reload().unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
        assert!(!told.contains("BEGIN"), "{told}");
        assert!(!tls.reload().unwrap(), "it is told once");
        assert!(Arc::ptr_eq(&before, &tls.config()));
        let figures = tls.figures();
        assert!(figures.is_stale);
        assert_eq!(figures.reloads_failed, number);
    }
    folder.write("key.pem", &new_key);
    folder.write("ca.pem", &new);
    assert!(tls.reload().unwrap(), "a file that is whole again is used");
    assert!(!tls.figures().is_stale);
    assert_eq!(year(&tls), "2101");
}

#[test]
fn a_file_without_an_end_is_refused() {
    let folder = Folder::new();
    let files = ServerFiles {
        client_ca: Some("/dev/zero".into()),
        ..folder.files()
    };
    let told = ServerTls::load(files, Offered::Http2)
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("/dev/zero must hold no more than 4 MiB"),
        "{told}"
    );
}

#[test]
fn a_clients_names_are_its_dns_names_and_uris() {
    let mut params = CertificateParams::new(vec!["shop.example.test".to_owned()]).unwrap();
    let spiffe = "spiffe://example.test/ns/shop/sa/buyer";
    params
        .subject_alt_names
        .push(SanType::URI(spiffe.try_into().unwrap()));
    params
        .subject_alt_names
        .push(SanType::Rfc822Name("a@example.test".try_into().unwrap()));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    assert_eq!(names(certificate.der()), ["shop.example.test", spiffe]);
    assert_eq!(names(&CertificateDer::from(vec![1, 2, 3])), [""; 0]);
}
