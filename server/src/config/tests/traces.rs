//! The keys of the collector.

use std::fs;

use tempfile::NamedTempFile;

use super::*;
use crate::telemetry::traces::{Protocol, Settings, Share};

fn telemetry(lines: &str) -> String {
    format!("{CALLER}{ACCOUNT}[telemetry]\n{lines}")
}

fn traces(lines: &str) -> Option<Settings> {
    load(&telemetry(lines), &[]).unwrap().telemetry.traces
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn a_collector_has_an_address_and_all_else_is_optional() {
    assert_eq!(traces(""), None);
    assert_eq!(traces("otlp_endpoint = \"\""), None);
    let usual = traces("otlp_endpoint = \"http://collector:4317\"").unwrap();
    assert_eq!(usual.endpoint.as_str(), "http://collector:4317/");
    assert_eq!(usual.protocol, Protocol::Grpc);
    assert_eq!(usual.sample, Share::parse("0.01").unwrap());
    assert!(usual.headers.is_empty() && usual.authorities.is_none());
    let authority = Authority::new();
    let ca = file(&authority.pem());
    let headers = file("authorization: Bearer canary\n\nX-Tenant:  a b \n");
    let all = traces(&format!(
        "otlp_endpoint = \"https://collector/base\"\notlp_protocol = \"http\"\n\
         trace_sample = \"0.5\"\notlp_ca_file = \"{}\"\notlp_headers_file = \"{}\"",
        ca.path().display(),
        headers.path().display()
    ))
    .unwrap();
    assert_eq!(all.endpoint.path(), "/base");
    assert_eq!(all.protocol, Protocol::Http);
    assert_eq!(all.sample, Share::parse("0.5").unwrap());
    assert_eq!(all.authorities.unwrap().len(), 1);
    assert_eq!(all.headers["authorization"], "Bearer canary");
    assert_eq!(all.headers["x-tenant"], "a b");
    assert!(all.headers.values().all(http::HeaderValue::is_sensitive));
    let variables = [
        ("TILLWATCH_TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("TILLWATCH_TELEMETRY__TRACE_SAMPLE", "0.25"),
    ];
    let config = load(&telemetry(""), &variables).unwrap();
    let sample = config.telemetry.traces.unwrap().sample;
    assert_eq!(sample, Share::parse("0.25").unwrap());
}

#[test]
fn a_collector_that_cannot_be_used_is_refused_by_its_key() {
    let address = "telemetry.otlp_endpoint: must be empty, or an address such as";
    let headers = "telemetry.otlp_headers_file: ";
    let at = |key: &str, value: &str| format!("{key} = \"{value}\"");
    let endpoint = |value: &str| at("otlp_endpoint", value);
    let table = [
        (endpoint("collector:4317"), address),
        (endpoint("ftp://collector"), address),
        (endpoint("unix:/canary"), address),
        (
            endpoint("http://canary:canary@collector"),
            "must have no user and no password",
        ),
        (
            endpoint("http://collector?canary"),
            "must have no query and no fragment",
        ),
        (
            endpoint("http://collector/v1/traces"),
            "must have no path, unless `otlp_protocol` is",
        ),
        (
            at("otlp_protocol", "json"),
            "telemetry.otlp_protocol: must be grpc or http",
        ),
        (
            at("trace_sample", "1.5"),
            "telemetry.trace_sample: must be a decimal from 0 to 1",
        ),
        (
            at("trace_sample", "1%"),
            "telemetry.trace_sample: must be a decimal from 0 to 1",
        ),
        (
            "trace_sample = 0.5".to_owned(),
            "telemetry.trace_sample: must be a text",
        ),
        (
            at("otlp_ca_file", "/nonexistent"),
            "telemetry.otlp_ca_file: the file of the authorities",
        ),
        (
            at("otlp_headers_file", "/nonexistent"),
            "must be a file that can be read",
        ),
    ];
    for (lines, expected) in table {
        let message = refused(&telemetry(&lines), &[]);
        assert!(message.contains(expected), "{lines}\n{message}");
        assert!(!message.contains("canary"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let long = format!("a: {}", "x".repeat(16 * 1024));
    let files = [
        ("", "must hold lines such as authorization: Bearer TOKEN"),
        ("a: b\nBearer canary", "line 2: must be a header such as"),
        ("a b: canary", "line 1: must begin with a header's name"),
        (
            "a:",
            "line 1: must have a value of visible ASCII characters",
        ),
        (
            "a: canaryé",
            "line 1: must have a value of visible ASCII characters",
        ),
        ("a: canary\nA: canary", "line 2: must name each header once"),
        (
            "content-type: canary",
            "line 1: must not name a header that the exporter sets",
        ),
        (
            "grpc-timeout: canary",
            "line 1: must not name a header that the exporter sets",
        ),
        (
            "x-bin: canary",
            "line 1: must not name a header that the exporter sets",
        ),
        (&long, "must hold at most 16384 bytes"),
    ];
    for (text, rule) in files {
        let file = file(text);
        let lines = at("otlp_headers_file", &file.path().display().to_string());
        let message = refused(&telemetry(&lines), &[]);
        assert!(message.contains(&format!("{headers}{rule}")), "{message}");
        assert!(!message.contains("canary"), "{message}");
    }
}

#[test]
fn what_has_no_effect_on_traces_or_shows_a_token_is_told() {
    let headers = file("authorization: Bearer canary");
    let headers = format!("otlp_headers_file = \"{}\"", headers.path().display());
    let told = |lines: &str, variables: &[(&str, &str)]| warned(&telemetry(lines), variables);
    assert_eq!(
        told("trace_sample = \"1\"", &[]),
        ["telemetry.trace_sample: has no effect without telemetry.otlp_endpoint"]
    );
    let open =
        "telemetry.otlp_headers_file: the headers go to the collector in plain text; use https";
    let to = |url: &str| format!("otlp_endpoint = \"{url}\"\n{headers}");
    assert_eq!(told(&to("http://collector:4317"), &[]), [open]);
    for url in [
        "https://collector",
        "http://127.0.0.1:4317",
        "http://[::1]:4317",
    ] {
        assert_eq!(told(&to(url), &[]), [""; 0], "{url}");
    }
    let variables = [("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_EMPTY", "")];
    assert_eq!(
        told("", &variables),
        ["OTEL_TRACES_SAMPLER: no effect here; the keys of `telemetry` have"]
    );
}

#[test]
fn another_collector_needs_a_restart() {
    let config = |lines: &str| load(&telemetry(lines), &[]).unwrap();
    let started = config("otlp_endpoint = \"http://a\"");
    let key =
        "telemetry.otlp_endpoint, otlp_protocol, otlp_headers_file, otlp_ca_file, trace_sample";
    for newer in [
        "otlp_endpoint = \"http://b\"",
        "otlp_endpoint = \"http://a\"\ntrace_sample = \"0.1\"",
        "",
    ] {
        assert_eq!(started.restart_keys(&config(newer)), [key], "{newer}");
    }
    let same = config("otlp_endpoint = \"http://a\"\ntrace_sample = \"0.01\"");
    assert_eq!(started.restart_keys(&same), [""; 0]);
}
