//! The files of an account's TLS: the keys that name them, and the rules between the keys.

use std::path::PathBuf;

use super::{Reading, Section, Text};
use crate::upstream::tls::{ClientFiles, Content, Files, Tls};

/// A key, with the file that it names if it is given.
struct Named {
    key: &'static str,
    file: Option<Text>,
}

impl Named {
    fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|file| PathBuf::from(&file.text))
    }

    fn refuse(&self, section: &Section<'_>, rule: &str) {
        let place = self.file.as_ref().and_then(|file| file.place.as_deref());
        section.refuse(place, self.key, rule);
    }
}

/// The contents of the files; `None` if they are refused. All of them are read here, so that a check of
/// the settings and a start refuse the same files.
pub(super) fn read(
    reading: &mut Reading<'_>,
    section: &mut Section<'_>,
    secrets: &[&str],
    is_plain: bool,
) -> Option<Tls> {
    let mut named = |key| Named {
        key,
        file: section.text(key),
    };
    let ca = named("ca_file");
    let certificate = named("client_cert_file");
    // A provider's secret goes first: Devdraft has a `client_key`, whose file is `client_key_file`.
    let key = named(match secrets.contains(&"client_key") {
        true => "client_cert_key_file",
        false => "client_key_file",
    });
    if is_plain {
        let given = [&ca, &certificate, &key].into_iter();
        for named in given.filter(|named| named.file.is_some()) {
            named.refuse(section, "must be left out, since `base_url` is http");
        }
        return None;
    }
    let come_with = |one: &Named, other: &Named| {
        one.refuse(section, &format!("must come with `{}`", other.key));
    };
    let client = match (certificate.path(), key.path()) {
        (Some(certificate), Some(key)) => Some(ClientFiles { certificate, key }),
        (Some(_), None) => {
            come_with(&certificate, &key);
            None
        }
        (None, Some(_)) => {
            come_with(&key, &certificate);
            None
        }
        (None, None) => None,
    };
    if let Some(client) = &client {
        reading.secrets.held_in(&client.key, section, key.key);
    }
    let files = Files {
        ca: ca.path(),
        client,
    };
    let bad = match Tls::read(files) {
        Ok(tls) => return Some(tls),
        Err(bad) => bad,
    };
    for file in bad.0 {
        let named = match file.of {
            Content::Authorities => &ca,
            Content::Certificate => &certificate,
            Content::Key => &key,
        };
        named.refuse(section, &file.rule);
    }
    None
}
