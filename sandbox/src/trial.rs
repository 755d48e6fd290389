//! The trials: each provider over real HTTP on a loopback port, and the small client for that.

mod carbon;
mod devdraft;
mod faults;
mod inabit;
mod masumi;
mod phygitals;
mod samples;

use std::{collections::BTreeSet, io, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Options, REGISTRY, Sandbox, scenario::Scenario};

/// The longest that a trial waits for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// An answer as it came.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
    }
}

/// A sandbox whose lives stand still.
async fn still() -> Sandbox {
    let sandbox = Sandbox::start(Options::default()).await.unwrap();
    sandbox.pause();
    sandbox
}

async fn send(
    sandbox: &Sandbox,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Reply> {
    let exchange = async {
        let mut stream = TcpStream::connect(sandbox.address()).await?;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: sandbox\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(head.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        let text = String::from_utf8(bytes).unwrap();
        let Some((head, text)) = text.split_once("\r\n\r\n") else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        };
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap();
        Ok(Reply {
            status,
            head: head.to_owned(),
            text: text.to_owned(),
        })
    };
    tokio::time::timeout(DEADLINE, exchange)
        .await
        .expect("an answer in time")
}

/// Reads a fixture's body.
fn fixture(path: &str) -> Value {
    whole_fixture(path)["body"].clone()
}

fn whole_fixture(path: &str) -> Value {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/");
    let text = std::fs::read_to_string(format!("{root}{path}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every path of keys in a value; rows of an array count as one.
fn keys(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, at: &str, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let path = format!("{at}.{name}");
                    walk(field, &path, keys);
                    keys.insert(path);
                }
            }
            Value::Array(rows) => rows
                .iter()
                .for_each(|row| walk(row, &format!("{at}[]"), keys)),
            _ => {}
        }
    }
    let mut keys_found = BTreeSet::new();
    walk(value, "", &mut keys_found);
    keys_found
}

/// Lets a purchase live to its end and compares its words with its scenario's.
fn lives_out(sandbox: &Sandbox, provider: &str, reference: &str, scenario: Scenario) {
    sandbox.advance(Duration::from_secs(1000));
    let walk = Sandbox::walk(provider, scenario);
    assert_eq!(
        sandbox.history(provider, reference),
        walk,
        "{provider} {scenario:?}"
    );
}

/// The scenarios whose create is answered.
fn answered() -> impl Iterator<Item = Scenario> {
    Scenario::ALL
        .into_iter()
        .filter(|scenario| !matches!(scenario, Scenario::Refused | Scenario::Lost))
}

#[tokio::test]
async fn it_starts_on_loopback_only_and_stops() {
    let options = Options {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..Options::default()
    };
    let error = Sandbox::start(options).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    let options = Options {
        speed: f64::NAN,
        ..Options::default()
    };
    assert!(Sandbox::start(options).await.is_err());
    let sandbox = still().await;
    let reply = send(&sandbox, "GET", "/nobody/v1", &[], "").await.unwrap();
    assert_eq!(reply.status, 404);
    tokio::time::timeout(DEADLINE, sandbox.stop())
        .await
        .expect("an end in time");
}

#[test]
fn the_names_are_the_registry() {
    let names: Vec<&str> = REGISTRY.iter().map(|provider| provider.name).collect();
    assert_eq!(names, crate::PROVIDERS);
}

#[tokio::test]
async fn the_fixtures_requests_are_accepted() {
    let sandbox = still().await;
    for name in [
        "phygitals/create_request.json",
        "inabit/create_request.json",
        "inabit/search_request.json",
        "carbon/create_request.json",
        "devdraft/create_request.json",
        "devdraft/create_request_bank.json",
    ] {
        let request = whole_fixture(name);
        let headers = request["headers"].as_object().unwrap().iter();
        let mut headers: Vec<(&str, &str)> = headers
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        // Both fixtures of Devdraft have the same key, with different orders.
        headers.retain(|(name, _)| *name != "idempotency-key");
        let provider = name.split('/').next().unwrap();
        let path = format!("/{provider}{}", request["path"].as_str().unwrap());
        let body = request["body"].to_string();
        let reply = send(&sandbox, "POST", &path, &headers, &body)
            .await
            .unwrap();
        assert!(matches!(reply.status, 200 | 201), "{name}: {}", reply.text);
    }
}
