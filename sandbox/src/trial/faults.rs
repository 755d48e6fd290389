//! Faults on request, and the record.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{DEADLINE, Reply, send, still};
use crate::{Fault, Sandbox, Target};

const CREATE: &str = "/inabit/v1/purchase";
const KEY: (&str, &str) = ("authorization", "Bearer key");

async fn create(sandbox: &Sandbox) -> std::io::Result<Reply> {
    let body = json!({
        "title": "T", "subTitle": "S", "siteName": "a", "purchaseIdentifier": "o",
        "fiatAmount": 2, "fiatCurrency": "USD",
    });
    send(sandbox, "POST", CREATE, &[KEY], &body.to_string()).await
}

#[tokio::test]
async fn errors_answer_in_the_providers_shape_without_effect() {
    let sandbox = still().await;
    for (fault, status) in [
        (Fault::Error, 500),
        (Fault::Unauthorized, 401),
        (Fault::Throttled(7), 429),
        (Fault::Unavailable, 503),
        (Fault::Redirect, 302),
    ] {
        sandbox.fault("inabit", fault, 1);
        let reply = create(&sandbox).await.unwrap();
        assert_eq!(reply.status, status);
        if fault == Fault::Redirect {
            assert_eq!(
                reply.header("location").as_deref(),
                Some("/inabit/elsewhere")
            );
        }
        if let Fault::Throttled(seconds) = fault {
            assert_eq!(reply.header("retry-after"), Some(seconds.to_string()));
        }
    }
    assert_eq!(sandbox.created("inabit"), 0);
    assert_eq!(create(&sandbox).await.unwrap().status, 201);
    assert_eq!(sandbox.calls("inabit"), 6);
}

#[tokio::test]
async fn answers_are_lost_before_or_after_processing() {
    let sandbox = still().await;
    for (fault, created) in [
        (Fault::ResetBefore, 0),
        (Fault::Lost, 1),
        (Fault::ResetAfter, 2),
        (Fault::ErrorAfter, 3),
    ] {
        sandbox.fault_on("inabit", Target::Create, fault, 1);
        let outcome = create(&sandbox).await;
        match fault {
            Fault::ErrorAfter => assert_eq!(outcome.unwrap().status, 500),
            Fault::Lost => {
                assert_eq!(
                    outcome.unwrap_err().kind(),
                    std::io::ErrorKind::UnexpectedEof
                );
            }
            _ => assert_eq!(
                outcome.unwrap_err().kind(),
                std::io::ErrorKind::ConnectionReset
            ),
        }
        assert_eq!(sandbox.created("inabit"), created, "{fault:?}");
    }
    let statuses: Vec<_> = sandbox
        .requests()
        .iter()
        .map(|request| request.status)
        .collect();
    assert_eq!(statuses, [None, None, None, Some(500)]);
}

#[tokio::test]
async fn answers_come_spoiled() {
    let sandbox = still().await;
    sandbox.fault("inabit", Fault::NotJson, 1);
    let page = create(&sandbox).await.unwrap();
    assert_eq!(page.status, 201);
    assert!(page.text.starts_with("<html>"));
    sandbox.fault("inabit", Fault::Oversized, 1);
    assert!(create(&sandbox).await.unwrap().text.len() > 16 << 20);
    sandbox.fault("inabit", Fault::SlowDrip(Duration::from_millis(1)), 1);
    assert_eq!(create(&sandbox).await.unwrap().status, 201);
    let id = sandbox.references("inabit").pop().unwrap();
    sandbox.fault("inabit", Fault::UnknownWord, 1);
    let path = format!("/inabit/v1/merchant/purchase/{id}");
    let mut words = Vec::new();
    for _ in 0..2 {
        let reply = send(&sandbox, "GET", &path, &[KEY], "").await.unwrap();
        words.push(reply.json()["data"]["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(words, ["SANDBOX_UNKNOWN", "Initiated"]);
}

#[tokio::test]
async fn a_hanging_request_ends_when_the_sandbox_stops() {
    let sandbox = still().await;
    sandbox.fault("carbon", Fault::Hang, 1);
    let mut stream = TcpStream::connect(sandbox.address()).await.unwrap();
    stream
        .write_all(b"GET /carbon/v1/status HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    while sandbox.calls("carbon") == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(DEADLINE, sandbox.stop())
        .await
        .expect("an end in time");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn the_record_holds_what_arrived() {
    let sandbox = still().await;
    let path = "/carbon/v1/status?orderId=a&contactId=b";
    let headers = [KEY, ("idempotency-key", "k")];
    send(&sandbox, "GET", path, &headers, "").await.unwrap();
    let requests = sandbox.requests();
    let request = requests.first().unwrap();
    assert_eq!(
        (request.provider, request.method.as_str()),
        ("carbon", "GET")
    );
    assert_eq!(
        (request.path.as_str(), request.query.as_str()),
        ("/v1/status", "orderId=a&contactId=b")
    );
    assert_eq!(
        (request.status, request.idempotency_key.as_deref()),
        (Some(400), Some("k"))
    );
}
