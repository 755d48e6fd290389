//! The service's own port against hostile and untaught peers: over HTTP/2 by hand, and as a browser
//! would call it; each attack in plain text and over TLS.

use std::time::Duration;

use tillwatch_proto::{
    health::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    v1::{GetStatusRequest, ListAccountsRequest, WatchStatusRequest, get_status_request::Key},
};
use tillwatch_sandbox::{Fault, Scenario, Target};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::{
    house::{House, Settings, refusal, token},
    orders::request,
    process::{until, within},
    raw::{RawPeer, framed, path},
    transport::Transport,
};

/// Half-sent requests of 262,000 bytes each. Each of `peers` sends as many as the server takes.
async fn half_sent(peers: &[RawPeer], path: &str, token: Option<&str>) {
    let mut first = vec![0];
    first.extend(262_000_u32.to_be_bytes());
    let part = vec![7; 16_000];
    for peer in peers {
        for number in 0..1_000_u32 {
            let stream = 2 * number + 1;
            if !peer.begin(stream, path, token, &[]).await
                || !peer.body(stream, &first, false).await
            {
                break;
            }
            for _ in 0..4 {
                peer.body(stream, &part, false).await;
            }
        }
    }
}

#[tokio::test]
async fn d4_half_sent_requests_without_a_token_cost_next_to_nothing() {
    for transport in Transport::both() {
        let house = House::still_over(transport).await;
        let before = house.server.memory_kib();
        let paths = [
            path("GetStatus"),
            "/grpc.health.v1.Health/Check".to_owned(),
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(),
            "/some.Other/Method".to_owned(),
        ];
        for path in paths {
            let mut peers = Vec::new();
            for _ in 0..4 {
                peers.push(RawPeer::connect(&house, 65_535).await);
            }
            half_sent(&peers, &path, None).await;
            let more = house.server.memory_kib().saturating_sub(before);
            assert!(more < 32 * 1024, "{more} KiB more for {path}");
            // The server serves everybody else.
            house
                .stub("shop")
                .await
                .list_accounts(ListAccountsRequest {})
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn d4_half_sent_requests_of_a_caller_are_bounded_too() {
    for transport in Transport::both() {
        let house = House::still_over(transport).await;
        let before = house.server.memory_kib();
        let mut peers = Vec::new();
        for _ in 0..4 {
            peers.push(RawPeer::connect(&house, 65_535).await);
        }
        half_sent(&peers, &path("GetStatus"), Some(&token("shop"))).await;
        let more = house.server.memory_kib().saturating_sub(before);
        assert!(more < 64 * 1024, "{more} KiB more");
    }
}

/// The port's answer to text over HTTP/1.
pub async fn answered(house: &House, text: &str) -> String {
    String::from_utf8_lossy(&bytes(house, text.as_bytes()).await).into_owned()
}

/// The bytes of that answer.
pub async fn bytes(house: &House, text: &[u8]) -> Vec<u8> {
    let mut peer = house.socket().await;
    peer.write_all(text).await.unwrap();
    peer.flush().await.unwrap();
    let mut told = Vec::new();
    // A connection that is reset is closed too.
    let _ = within("the end of a connection", peer.read_to_end(&mut told)).await;
    told
}

#[tokio::test]
async fn http_1_gets_404_at_the_services_port_and_nothing_else() {
    for transport in Transport::both() {
        let house = House::still_over(transport).await;
        let create = path("CreatePurchase");
        for text in [
            "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            "GET / HTTP/1.0\r\n\r\n".to_owned(),
            format!(
                "POST {create} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0"
            ),
            // Half a body, and half a chunk.
            format!("POST {create} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n0"),
            format!(
                "POST {create} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0"
            ),
        ] {
            let told = answered(&house, &text).await;
            assert!(
                told.starts_with("HTTP/1.1 404 ") || told.starts_with("HTTP/1.0 404 "),
                "{text}: {told}"
            );
        }
    }
}

/// The HTTP status of a call over HTTP/2.
async fn status(house: &House, method: &str, headers: &[(&str, &str)]) -> u16 {
    let stream = house.socket().await;
    let connected = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    );
    let (mut sender, connection) = connected.await.unwrap();
    let connection = tokio::spawn(connection);
    let host = headers.iter().find(|(name, _)| *name == ":authority");
    let host = host.map_or("localhost", |(_, host)| host);
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("http://{host}{}", path("ListAccounts")))
        .header("te", "trailers");
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(':')) {
        request = request.header(*name, *value);
    }
    let body = http_body_util::Full::new(bytes::Bytes::from(framed(&ListAccountsRequest {})));
    let answer = within(
        "an answer",
        sender.send_request(request.body(body).unwrap()),
    )
    .await;
    connection.abort();
    answer.unwrap().status().as_u16()
}

#[tokio::test]
async fn what_is_no_grpc_reaches_no_handler() {
    for transport in Transport::both() {
        let house = House::still_over(transport).await;
        let bearer = format!("Bearer {}", token("shop"));
        let of = |kind| [("content-type", kind), ("authorization", bearer.as_str())];
        for (method, kind, expected) in [
            ("POST", "application/grpc", 200),
            ("POST", "application/grpc+proto", 200),
            ("POST", "application/grpc-web+proto", 415),
            ("POST", "application/json", 415),
            ("POST", "text/plain", 415),
            ("GET", "application/grpc", 405),
            ("OPTIONS", "text/plain", 405),
        ] {
            assert_eq!(
                status(&house, method, &of(kind)).await,
                expected,
                "{method} {kind}"
            );
        }
    }
}

#[tokio::test]
async fn a_web_page_gets_nothing_of_a_server_with_an_anonymous_caller() {
    for transport in Transport::both() {
        let more = "\n[callers.local]\nanonymous = true\naccounts = [\"*\"]\nscopes = [\"read\", \"create\"]\n";
        let house = House::start(Settings {
            more: more.to_owned(),
            transport,
            ..Settings::default()
        })
        .await;
        let grpc = ("content-type", "application/grpc");
        for (header, expected) in [
            ((":authority", "localhost"), 200),
            ((":authority", "127.0.0.1:50051"), 200),
            ((":authority", "[::1]:1"), 200),
            ((":authority", "rebound.evil.example"), 403),
            (("host", "rebound.evil.example"), 403),
            (("origin", "https://evil.example"), 403),
            (("origin", "http://localhost"), 403),
        ] {
            assert_eq!(
                status(&house, "POST", &[grpc, header]).await,
                expected,
                "{header:?}"
            );
        }
        let told = answered(&house, &format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0",
            path("ListPurchases")
        )).await;
        assert!(told.starts_with("HTTP/1.1 404 "), "{told}");
    }
}

#[tokio::test]
async fn s6_a_stream_that_nobody_reads_gives_its_place_back_at_its_deadline() {
    for transport in Transport::both() {
        let house = House::start(Settings {
            more: "\n[limits]\nstreams_per_caller = 1\n".to_owned(),
            transport,
            ..Settings::default()
        })
        .await;
        let id = house
            .create("shop", request("key", "carbon", Scenario::Stuck))
            .await
            .id;
        let watch = framed(&WatchStatusRequest {
            purchase_id: id.clone(),
            ..WatchStatusRequest::default()
        });
        let peer = RawPeer::connect(&house, 0).await;
        let deadline = [("grpc-timeout", "2S")];
        peer.call(1, &path("WatchStatus"), &token("shop"), &deadline, &watch)
            .await;
        until("the stream is open", async || {
            peer.heard().headers.contains_key(&1)
        })
        .await;
        let began = Instant::now();
        until("it is ended", async || peer.heard().ended.contains_key(&1)).await;
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{:?}",
            began.elapsed()
        );
        assert!(!peer.heard().is_closed, "others on the connection go on");
        let other = RawPeer::connect(&house, 65_535).await;
        other
            .call(1, &path("WatchStatus"), &token("shop"), &[], &watch)
            .await;
        until("another stream says something", async || {
            other.heard().data.get(&1).is_some_and(|bytes| *bytes > 0)
        })
        .await;
    }
}

#[tokio::test]
async fn waits_and_streams_of_reflection_do_not_hold_up_a_drain() {
    for transport in Transport::both() {
        let mut house = House::still_over(transport).await;
        let id = house
            .create("shop", request("key", "carbon", Scenario::Stuck))
            .await
            .id;
        let waits = framed(&GetStatusRequest {
            key: Some(Key::PurchaseId(id)),
            after_revision: Some(100),
            max_wait: Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
        });
        let peer = RawPeer::connect(&house, 65_535).await;
        peer.call(1, &path("GetStatus"), &token("shop"), &[], &waits)
            .await;
        let reflects = RawPeer::connect(&house, 65_535).await;
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert!(reflects.begin(1, reflection, None, &[]).await);
        until("reflection is open", async || {
            reflects.heard().headers.contains_key(&1)
        })
        .await;
        let began = Instant::now();
        house.server.signal("TERM").await;
        until("the wait is over", async || {
            peer.heard().ended.contains_key(&1)
        })
        .await;
        let status = house.server.exit().await;
        assert!(status.success());
        // Neither the stream of reflection nor the wait has held up the drain.
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{:?}",
            began.elapsed()
        );
    }
}

/// Callers that the drain has sent away come back at once, and probes connect anew.
#[tokio::test]
async fn a_connection_that_is_made_during_a_drain_is_answered() {
    let mut house = House::start(Settings::default().polled("timeout", r#""6s""#)).await;
    let id = house
        .create("shop", request("known", "carbon", Scenario::Stuck))
        .await
        .id;
    let (mut waiting, mut creating) = (house.stub("shop").await, house.stub("shop").await);
    let waits = tokio::spawn(async move {
        waiting
            .get_status(GetStatusRequest {
                key: Some(Key::PurchaseId(id)),
                after_revision: Some(100),
                max_wait: Some(prost_types::Duration {
                    seconds: 60,
                    nanos: 0,
                }),
            })
            .await
    });
    house
        .sandbox
        .fault_on("inabit", Target::Create, Fault::Hang, 1);
    let order = request("hangs", "inabit", Scenario::Stuck);
    let creates = tokio::spawn(async move { creating.create_purchase(order).await });
    until("the create is under way", async || {
        let requests = house.sandbox.requests().into_iter();
        requests.filter(|one| one.provider == "inabit").count() > 0
    })
    .await;
    house.server.signal("TERM").await;
    let told = refusal(within("the wait's end", waits).await.unwrap());
    assert_eq!(told.reason, "DRAINING");
    // The create holds up the drain for some more seconds.
    assert!(!creates.is_finished());
    let probe = house.channel().await;
    let about = HealthCheckRequest {
        service: "liveness".to_owned(),
    };
    let answer = within("an answer", HealthClient::new(probe).check(about)).await;
    assert_eq!(
        answer.unwrap().into_inner().status(),
        ServingStatus::Serving
    );
    let order = request("late", "carbon", Scenario::Stuck);
    let told = house.stub("shop").await.create_purchase(order).await;
    assert_eq!(refusal(told).reason, "DRAINING");
    assert!(!creates.is_finished());
    let status = house.server.exit().await;
    assert!(status.success());
}
