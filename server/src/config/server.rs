//! The sections about this process: its addresses, its files and its limits.

use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use url::Url;

use super::{
    file,
    tree::{Section, Text},
};
use crate::tls::{Offered, ServerFiles, ServerTls};

/// The longest duration that any key takes.
pub(super) const TEN_YEARS: Duration = Duration::from_secs(3_650 * 86_400);

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// True if only this machine can reach it. A name is not looked up: only `localhost` counts.
    pub fn is_local(&self) -> bool {
        let Self::Tcp(address) = self else {
            return true;
        };
        match address.parse::<SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => address
                .rsplit_once(':')
                .is_some_and(|(host, _)| host.eq_ignore_ascii_case("localhost")),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path
                .starts_with('/')
                .then(|| Self::Unix(PathBuf::from(path)));
        }
        let (host, port) = text.rsplit_once(':')?;
        let is_host = if host.starts_with('[') {
            text.parse::<SocketAddr>().is_ok()
        } else {
            !host.is_empty() && !host.contains([':', '/', ' '])
        };
        let is_port = port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit());
        (is_host && is_port).then(|| Self::Tcp(text.to_owned()))
    }
}

/// The addresses to listen on, and the times that go with them.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The service itself.
    pub grpc: Address,
    /// Metrics and health over plain text; `None` turns them off.
    pub ops: Option<Address>,
    /// True if reflection is served.
    pub reflection: bool,
    /// Worker threads; with 0 the number of cores decides.
    pub threads: u32,
    /// The longest time of a drain.
    pub drain: Duration,
    /// The longest life of a stream; `None` is no maximum.
    pub stream_age: Option<Duration>,
    /// The files of the gRPC listener's TLS; `None` is plain text.
    pub tls: Option<ServerFiles>,
    /// The origins whose pages may call by gRPC-Web, each as a browser sends it.
    pub web_origins: Vec<String>,
}

pub(super) fn listen(mut section: Section<'_>, warnings: &mut Vec<String>) -> Listen {
    let tls = tls_files(&mut section, warnings);
    let grpc = section.text("grpc");
    let ops = section.text("ops");
    let listen = Listen {
        grpc: grpc
            .and_then(|text| address(&section, "grpc", &text))
            .unwrap_or_else(|| Address::Tcp("127.0.0.1:50051".to_owned())),
        ops: match ops {
            Some(text) if text.text.is_empty() => None,
            Some(text) => address(&section, "ops", &text),
            None => Some(Address::Tcp("127.0.0.1:9464".to_owned())),
        },
        reflection: section.truth("reflection", true),
        threads: section.count("threads", 0..=1_024, 0),
        drain: section
            .duration("drain", Duration::ZERO..=Duration::from_secs(3_600))
            .unwrap_or(Duration::from_secs(20)),
        stream_age: section
            .duration("stream_age", Duration::ZERO..=TEN_YEARS)
            .filter(|age| !age.is_zero()),
        tls,
        web_origins: web_origins(&mut section),
    };
    section.finish();
    listen
}

/// The most origins that can be listed.
const ORIGINS_MAX: usize = 100;

fn web_origins(section: &mut Section<'_>) -> Vec<String> {
    const KEY: &str = "web_origins";
    let place = section.place(KEY);
    let listed = section.texts(KEY).unwrap_or_default();
    if listed.len() > ORIGINS_MAX {
        let rule = format!("must have at most {ORIGINS_MAX} entries");
        section.refuse(place.as_deref(), KEY, rule);
    }
    let mut origins = Vec::new();
    for Text { text, place, .. } in listed {
        if !is_origin(&text) {
            let rule = "each entry must be an origin as browsers send it: https://host or \
                        https://host:port, in lower case and without a path or a usual port; http only \
                        for localhost, 127.0.0.1 and [::1]";
            section.refuse(place.as_deref(), KEY, rule);
        } else if origins.contains(&text) {
            section.refuse(place.as_deref(), KEY, "each entry must be named once");
        }
        origins.push(text);
    }
    origins
}

/// True if a text is an origin in the form in which browsers send it, and nobody between a browser and
/// its page can change the page.
fn is_origin(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else {
        return false;
    };
    let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_local);
    is_safe && url.origin().ascii_serialization() == text && !text.contains('*')
}

/// The files of the server's own TLS. All of them are read here, so that a check of the settings and a
/// start refuse the same files.
fn tls_files(section: &mut Section<'_>, warnings: &mut Vec<String>) -> Option<ServerFiles> {
    let [certificate, key, client_ca] =
        ["tls_cert", "tls_key", "tls_client_ca"].map(|key| section.text(key));
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (certificate, key) => {
            if let Some(text) = certificate {
                section.refuse(text.place.as_deref(), "tls_cert", "must come with tls_key");
            }
            if let Some(text) = key {
                section.refuse(text.place.as_deref(), "tls_key", "must come with tls_cert");
            }
            if let Some(text) = client_ca {
                let rule = "must come with tls_cert and tls_key";
                section.refuse(text.place.as_deref(), "tls_client_ca", rule);
            }
            return None;
        }
    };
    warnings.extend(file::exposed(
        Path::new(&key.text),
        "listen.tls_key: the key",
    ));
    let files = ServerFiles {
        certificate: certificate.text.into(),
        key: key.text.into(),
        client_ca: client_ca.map(|text| text.text.into()),
    };
    if let Err(error) = ServerTls::load(files.clone(), Offered::Http2) {
        let rule = format!("must be usable: {}", whole(&error));
        section.refuse(certificate.place.as_deref(), "tls_cert", rule);
    }
    Some(files)
}

/// An error with its cause.
fn whole(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn address(section: &Section<'_>, key: &str, text: &Text) -> Option<Address> {
    let address = Address::parse(&text.text);
    if let Some(Address::Unix(path)) = &address {
        file::check_folder(section, text.place.as_deref(), key, path);
    }
    if address.is_none() {
        let rule = "must be host:port or unix:/path";
        section.refuse(text.place.as_deref(), key, rule);
    }
    address
}

/// The limits on things that are open at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open streams of all callers.
    pub streams: u32,
    /// Connections.
    pub connections: u32,
    /// The limits of each caller that has none of its own.
    pub per_caller: PerCaller,
}

/// The limits of one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerCaller {
    /// Open streams.
    pub streams: u32,
    /// Open streams over many purchases.
    pub feeds: u32,
    /// Lists at once.
    pub lists: u32,
    /// Creates in a second; 0 stands for no limit.
    pub creates_per_second: u32,
    /// Open purchases; 0 stands for no limit.
    pub open_purchases: u32,
}

impl PerCaller {
    const USUAL: Self = Self {
        streams: 100_000,
        feeds: 1_000,
        lists: 4,
        creates_per_second: 0,
        open_purchases: 0,
    };

    /// Reads the keys of one caller's limits; a missing one is as in `usual`.
    pub(super) fn read(section: &mut Section<'_>, usual: Self) -> Self {
        Self {
            streams: section.count("streams_per_caller", 1..=LIMIT_MAX, usual.streams),
            feeds: section.count("feeds_per_caller", 1..=LIMIT_MAX, usual.feeds),
            lists: section.count("lists_per_caller", 1..=LIMIT_MAX, usual.lists),
            creates_per_second: section.count(
                "creates_per_second_per_caller",
                0..=LIMIT_MAX,
                usual.creates_per_second,
            ),
            open_purchases: section.count(
                "open_purchases_per_caller",
                0..=LIMIT_MAX,
                usual.open_purchases,
            ),
        }
    }
}

/// The greatest limit.
const LIMIT_MAX: u32 = 10_000_000;

pub(super) fn limits(mut section: Section<'_>) -> Limits {
    let limits = Limits {
        streams: section.count("streams", 1..=LIMIT_MAX, 200_000),
        connections: section.count("connections", 1..=LIMIT_MAX, 20_000),
        per_caller: PerCaller::read(&mut section, PerCaller::USUAL),
    };
    section.finish();
    limits
}
