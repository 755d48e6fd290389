//! Secrets and personal data, planted wherever there is room for them, are nowhere afterwards.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
};

use serde_json::Value;
use tillwatch_proto::v1::{
    CreatePurchaseRequest, Finality, ListAccountsRequest, PurchaseStatus, get_status_request::Key,
};
use tillwatch_sandbox::{Fault, PROVIDERS, Scenario, Target};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    house::{House, Settings, token},
    orders::{order, planted, request},
    process::within,
};

/// In every secret and in every field that must not be kept.
const CANARY: &str = "canary7f3a";

/// A place between a server and its sandbox that puts the canary into every object of every answer,
/// under names that no provider documents. It passes on to the address that is set.
async fn poisoner() -> (SocketAddr, Arc<OnceLock<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let behind = Arc::new(OnceLock::new());
    let target = Arc::clone(&behind);
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let target = *target.get().expect("a sandbox before the first request");
            // A caller that hangs up in between is nothing that a test is about.
            tokio::spawn(async move { pass_on(caller, target).await });
        }
    });
    (address, behind)
}

/// Passes one request on, and its answer back.
async fn pass_on(mut caller: TcpStream, target: SocketAddr) -> io::Result<()> {
    let (head, body) = message(&mut caller).await?;
    let mut provider = TcpStream::connect(target).await?;
    let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    provider.write_all(head.as_bytes()).await?;
    provider.write_all(&body).await?;
    let (head, body) = message(&mut provider).await?;
    let body = match serde_json::from_slice::<Value>(&body) {
        Ok(mut answer) => {
            poison(&mut answer);
            answer.to_string().into_bytes()
        }
        Err(_) => [&body[..], CANARY.as_bytes()].concat(),
    };
    let kept = head.lines().filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.is_empty() && !line.starts_with("content-length") && !line.starts_with("connection")
    });
    let mut head = kept.collect::<Vec<_>>().join("\r\n");
    head.push_str(&format!(
        "\r\ncontent-length: {}\r\nconnection: close\r\nx-note: {CANARY}\r\n\r\n",
        body.len()
    ));
    caller.write_all(head.as_bytes()).await?;
    caller.write_all(&body).await
}

/// The head and the body of the next message of HTTP/1.1 with a length.
async fn message(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, length) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| length.trim().parse::<usize>().unwrap())
        });
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            return Ok((head, bytes.split_off(end + 4)));
        }
    }
}

fn poison(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(poison);
            for name in ["email", "cardholder", "note", "customer"] {
                fields.insert(name.to_owned(), Value::String(format!("{name}-{CANARY}")));
            }
        }
        Value::Array(rows) => rows.iter_mut().for_each(poison),
        _ => {}
    }
}

/// Fails where a text or the hexadecimal or base64 form of it is in these bytes.
fn clean(place: &str, bytes: &[u8], canary: &str) {
    let forms = [
        canary.to_owned(),
        hex::encode(canary),
        canary.to_uppercase(),
    ];
    for form in forms {
        let found = bytes
            .windows(form.len())
            .position(|part| part == form.as_bytes());
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(60)..(at + 60).min(bytes.len())];
            panic!("{form} in {place}: {}", String::from_utf8_lossy(around));
        }
    }
}

fn store_is_clean(folder: &Path, canary: &str) {
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            continue;
        }
        files += 1;
        clean(
            &path.display().to_string(),
            &fs::read(&path).unwrap(),
            canary,
        );
    }
    assert!(files >= 2, "no store in {}", folder.display());
}

/// Creates at every provider, and returns the errors.
async fn create_all(house: &House, orders: &[(Scenario, Option<Fault>)]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut shop = house.stub("shop").await;
    for provider in PROVIDERS {
        for (scenario, fault) in orders.iter().copied() {
            if let Some(fault) = fault {
                house.sandbox.fault_on(provider, Target::Create, fault, 1);
            }
            let key = format!("{provider} {} {fault:?}", scenario.name());
            let create = CreatePurchaseRequest {
                order: Some(planted(provider, scenario, CANARY)),
                ..request(&key, provider, scenario)
            };
            let answer = within(&key, shop.create_purchase(create.clone())).await;
            errors.extend(answer.err().map(|status| format!("{status:?}")));
            // The same key with another order names fields, and never what is in them.
            let other = CreatePurchaseRequest {
                order: Some(order(provider, Scenario::Held)),
                ..create
            };
            let reused = within(&key, shop.create_purchase(other)).await;
            errors.push(format!("{:?}", reused.unwrap_err()));
        }
    }
    errors
}

#[tokio::test]
async fn planted_secrets_and_personal_data_are_in_no_store_log_or_error() {
    let (front, behind) = poisoner().await;
    let mut house = House::start(Settings {
        front: Some(front),
        secret_prefix: CANARY,
        more: "\n[telemetry]\nlog = \"trace,h2=info,hyper=info\"\n".to_owned(),
        ..Settings::default()
    })
    .await;
    behind.set(house.sandbox.address()).unwrap();
    let lived = [
        (Scenario::Paid, None),
        (Scenario::Declined, None),
        (Scenario::Refused, None),
        (Scenario::Flaky, None),
    ];
    let mut errors = create_all(&house, &lived).await;
    for provider in PROVIDERS {
        let key = Key::IdempotencyKey(format!("{provider} paid None"));
        let id = house
            .client("shop")
            .get(key)
            .await
            .unwrap()
            .purchase
            .unwrap()
            .id;
        let over = |status: &PurchaseStatus| status.finality() != Finality::Open;
        house.settled(provider, &id, over).await;
    }
    // Last, since an account that was refused is left alone for a minute.
    let spoiled = [
        Fault::Lost,
        Fault::NotJson,
        Fault::Error,
        Fault::Unauthorized,
    ]
    .map(|fault| (Scenario::Stuck, Some(fault)));
    errors.extend(create_all(&house, &spoiled).await);
    let mut wrong = house.stranger(Some(&format!("Bearer {CANARY}"))).await;
    let denied = wrong.list_accounts(ListAccountsRequest {}).await;
    errors.push(format!("{:?}", denied.unwrap_err()));
    assert!(errors.len() > 40, "{}", errors.len());
    for error in &errors {
        // Details are bytes within the text, so each is looked through as it is.
        clean("an error", error.as_bytes(), CANARY);
    }
    store_is_clean(house.folder(), CANARY);
    house.server.signal("TERM").await;
    house.server.exit().await;
    let log = house.log.text();
    assert!(log.len() > 10_000, "a log at trace is long: {}", log.len());
    for canary in [CANARY, &token("shop")] {
        clean("the log", log.as_bytes(), canary);
        store_is_clean(house.folder(), canary);
    }
}

#[test]
fn a_canary_is_found_where_it_is() {
    let found = std::panic::catch_unwind(|| clean("here", b"..canary7f3a..", CANARY));
    assert!(found.is_err());
    let found = std::panic::catch_unwind(|| {
        let hexadecimal = hex::encode(format!("x{CANARY}"));
        clean("here", hexadecimal.as_bytes(), CANARY);
    });
    assert!(found.is_err());
}
