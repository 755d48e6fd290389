//! `[telemetry]`: the log, the audit log, and the collector of traces.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use url::{Host, Url};

use super::{
    file, log_filter,
    tree::{Section, Text},
};
use crate::{
    outlet::Target,
    telemetry::traces::{Protocol, Settings, Share},
    upstream::tls::{Files, Tls},
};

/// The longest file of headers, in bytes.
const HEADERS_BYTES_MAX: u64 = 16 * 1024;
/// Headers that the exporter sets by itself.
const RESERVED: [&str; 8] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
/// The keys that have no effect without a collector.
const COLLECTORS: [&str; 4] = [
    "otlp_protocol",
    "otlp_headers_file",
    "otlp_ca_file",
    "trace_sample",
];

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// The log: its level and its form; the audit log; and the collector of traces.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// A level, or directives such as `info,tillwatch_server::tracker=debug`.
    pub log: String,
    /// The form of a line.
    pub log_format: LogFormat,
    /// The place of the audit log; `None` turns it off.
    pub audit_log: Option<Target>,
    /// The collector, if there is one.
    pub traces: Option<Settings>,
}

pub(super) fn read(mut section: Section<'_>, warnings: &mut Vec<String>) -> Telemetry {
    let telemetry = Telemetry {
        log: log(&mut section, warnings),
        log_format: log_format(&mut section),
        audit_log: audit_log(&mut section, warnings),
        traces: traces(&mut section, warnings),
    };
    section.finish();
    telemetry
}

fn log(section: &mut Section<'_>, warnings: &mut Vec<String>) -> String {
    let Some(text) = section.text("log") else {
        return "info".to_owned();
    };
    if !log_filter::can_be_used(&text.text) {
        let rule = "must be a level (off, error, warn, info, debug, trace), or directives with \
                    targets of this program, such as info,tower=warn";
        section.refuse(text.place.as_deref(), "log", rule);
    } else if log_filter::is_mute(&text.text) {
        let mute = "lets no line of this server through, errors included";
        warnings.push(format!("telemetry.log: {mute}"));
    }
    text.text
}

fn log_format(section: &mut Section<'_>) -> LogFormat {
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    word(section, "log_format", words).unwrap_or(LogFormat::Text)
}

/// The meaning of a key that takes one of two words; `None` if it is missing or refused.
fn word<T>(section: &mut Section<'_>, key: &str, words: [(&str, T); 2]) -> Option<T> {
    let text = section.text(key)?;
    let [first, second] = words.each_ref().map(|(word, _)| (*word).to_owned());
    let meaning = words.into_iter().find(|(word, _)| *word == text.text);
    if meaning.is_none() {
        let rule = format!("must be {first} or {second}");
        section.refuse(text.place.as_deref(), key, rule);
    }
    meaning.map(|(_, meaning)| meaning)
}

fn audit_log(section: &mut Section<'_>, warnings: &mut Vec<String>) -> Option<Target> {
    const KEY: &str = "audit_log";
    let Some(text) = section.text(KEY) else {
        return Some(Target::Stderr);
    };
    let path = match text.text.as_str() {
        "" => return None,
        "stderr" => return Some(Target::Stderr),
        path => PathBuf::from(path),
    };
    let place = text.place.as_deref();
    file::check_folder(section, place, KEY, &path);
    // Opening a named pipe would wait for its reader.
    let kind = path.metadata().map(|file| file.file_type()).ok();
    let takes_lines = kind.is_none_or(|kind| kind.is_file() || kind.is_char_device());
    if !takes_lines {
        section.refuse(place, KEY, "must be stderr, a file, or empty");
    } else if kind.is_some() && Target::File(path.clone()).open().is_err() {
        section.refuse(place, KEY, "must be a file that can be written");
    }
    warnings.extend(file::exposed(&path, "telemetry.audit_log: the file"));
    Some(Target::File(path))
}

fn traces(section: &mut Section<'_>, warnings: &mut Vec<String>) -> Option<Settings> {
    let named = COLLECTORS
        .into_iter()
        .find(|key| section.place(key).is_some());
    let protocols = [("grpc", Protocol::Grpc), ("http", Protocol::Http)];
    let protocol = word(section, "otlp_protocol", protocols).unwrap_or(Protocol::Grpc);
    let sample = sample(section);
    let headers = headers(section, warnings);
    let authorities = authorities(section);
    let endpoint = section.text("otlp_endpoint");
    let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.text.is_empty()) else {
        warnings.extend(
            named.map(|key| {
                format!("telemetry.{key}: has no effect without telemetry.otlp_endpoint")
            }),
        );
        return None;
    };
    let endpoint = endpoint_url(section, &endpoint, protocol)?;
    if !headers.is_empty() && endpoint.scheme() == "http" && !is_local(&endpoint) {
        let open = "the headers go to the collector in plain text; use https";
        warnings.push(format!("telemetry.otlp_headers_file: {open}"));
    }
    if authorities.is_some() && endpoint.scheme() == "http" {
        warnings.push("telemetry.otlp_ca_file: has no effect with http".to_owned());
    }
    Some(Settings {
        endpoint,
        protocol,
        headers,
        authorities,
        sample: sample?,
    })
}

fn endpoint_url(section: &Section<'_>, text: &Text, protocol: Protocol) -> Option<Url> {
    let checked = checked_url(&text.text, protocol);
    let refuse = |rule: &&str| section.refuse(text.place.as_deref(), "otlp_endpoint", *rule);
    checked.inspect_err(refuse).ok()
}

fn checked_url(text: &str, protocol: Protocol) -> Result<Url, &'static str> {
    const RULE: &str = "must be empty, or an address such as http://collector:4317";
    let url = Url::parse(text).map_err(|_| RULE)?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(RULE);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user and no password; `otlp_headers_file` takes a token");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment");
    }
    if protocol == Protocol::Grpc && url.path() != "/" {
        return Err("must have no path, unless `otlp_protocol` is http");
    }
    Ok(url)
}

/// True if a collector is on this machine.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The share of traces; `None` if it is refused.
fn sample(section: &mut Section<'_>) -> Option<Share> {
    let Some(text) = section.text("trace_sample") else {
        return Share::parse("0.01");
    };
    let share = Share::parse(&text.text);
    if share.is_none() {
        let rule = "must be a decimal from 0 to 1 with at most nine places, such as \"0.01\"";
        section.refuse(text.place.as_deref(), "trace_sample", rule);
    }
    share
}

fn authorities(section: &mut Section<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let text = section.text("otlp_ca_file")?;
    let files = Files {
        ca: Some(text.text.into()),
        client: None,
    };
    match Tls::read(files) {
        Ok(tls) => tls.roots().map(<[_]>::to_vec),
        Err(error) => {
            section.refuse(text.place.as_deref(), "otlp_ca_file", error.to_string());
            None
        }
    }
}

/// The headers of each request to the collector. They hold its token, so no rule shows a value.
fn headers(section: &mut Section<'_>, warnings: &mut Vec<String>) -> HeaderMap {
    const KEY: &str = "otlp_headers_file";
    let Some(Text { text, place, .. }) = section.text(KEY) else {
        return HeaderMap::new();
    };
    let path = Path::new(&text);
    let read = content(path).and_then(|content| parsed(&content));
    match read {
        Ok(headers) => {
            let what = format!("telemetry.{KEY}: the file");
            warnings.extend(file::exposed(path, &what));
            headers
        }
        Err(rule) => {
            section.refuse(place.as_deref(), KEY, rule);
            HeaderMap::new()
        }
    }
}

fn content(path: &Path) -> Result<String, String> {
    let mut content = String::new();
    let read = File::open(path).and_then(|file| {
        file.take(HEADERS_BYTES_MAX + 1)
            .read_to_string(&mut content)
    });
    read.map_err(|error| format!("must be a file that can be read: {error}"))?;
    match u64::try_from(content.len()).is_ok_and(|length| length <= HEADERS_BYTES_MAX) {
        true => Ok(content),
        false => Err(format!("must hold at most {HEADERS_BYTES_MAX} bytes")),
    }
}

fn parsed(content: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(content.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let (name, value) = header(line).map_err(|rule| format!("line {number}: {rule}"))?;
        if headers.insert(name, value).is_some() {
            return Err(format!("line {number}: must name each header once"));
        }
    }
    match headers.is_empty() {
        true => Err("must hold lines such as authorization: Bearer TOKEN".to_owned()),
        false => Ok(headers),
    }
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = line
        .split_once(':')
        .ok_or("must be a header such as authorization: Bearer TOKEN")?;
    let name = HeaderName::from_bytes(name.trim().as_bytes())
        .map_err(|_| "must begin with a header's name")?;
    let is_reserved = RESERVED.contains(&name.as_str())
        || name.as_str().starts_with("grpc-")
        || name.as_str().ends_with("-bin");
    if is_reserved {
        return Err("must not name a header that the exporter sets, nor one of bytes (-bin)");
    }
    let mut value = HeaderValue::from_str(value.trim())
        .ok()
        .filter(|value| !value.is_empty() && value.to_str().is_ok())
        .ok_or("must have a value of visible ASCII characters")?;
    value.set_sensitive(true);
    Ok((name, value))
}
