//! The ends of processes: after a drain, at a refused start, or as the second at a store.

use std::{collections::BTreeSet, fs, process::ExitStatus, time::Duration};

use tillwatch::Error;
use tillwatch_proto::{
    PURCHASE_SERVICE,
    health::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    v1::{WatchPurchasesRequest, WatchStatusRequest},
};
use tillwatch_sandbox::{Fault, Scenario, Target};
use tokio::{net::TcpStream, time::Instant};
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use crate::{
    house::{House, Settings, refusal},
    orders::request,
    process::{Log, Server, until, within},
};

/// The longest that the houses of this file drain.
const DRAIN: Duration = Duration::from_secs(5);
/// A process may take this much longer: it closes sockets and writes its last log line, perhaps on
/// a busy machine.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_drain_turns_readiness_first_ends_streams_and_exits_in_time_whoever_is_there() {
    let house = House::start(Settings {
        listen: format!("drain = \"{}s\"", DRAIN.as_secs()),
        ..Settings::default()
    })
    .await;
    house.sandbox.pause();
    let mut shop = house.stub("shop").await;
    let id = house
        .create("shop", request("key", "devdraft", Scenario::Stuck))
        .await
        .id;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let watch = WatchStatusRequest {
            purchase_id: id.clone(),
            ..WatchStatusRequest::default()
        };
        let mut stream = shop.watch_status(watch).await.unwrap().into_inner();
        within("a snapshot", stream.message())
            .await
            .unwrap()
            .unwrap();
        streams.push(stream);
    }
    let feed = shop.watch_purchases(WatchPurchasesRequest::default()).await;
    let mut feed = feed.unwrap().into_inner();
    let mut health = HealthClient::new(house.channel().await);
    let about = HealthCheckRequest {
        service: PURCHASE_SERVICE.to_owned(),
    };
    let mut probe = health.watch(about).await.unwrap().into_inner();
    let first = within("the state", probe.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let _silent = TcpStream::connect(&house.server.grpc).await.unwrap();
    let _silent_too = TcpStream::connect(&house.server.ops).await.unwrap();
    // The drain waits for a create whose provider answers slowly.
    let hold = Fault::SlowDrip(Duration::from_millis(1));
    house.sandbox.fault_on("carbon", Target::Create, hold, 1);
    let under_way = request("late", "carbon", Scenario::Stuck);
    let late = {
        let mut shop = shop.clone();
        tokio::spawn(async move { shop.create_purchase(under_way).await })
    };
    until("the create has arrived", async || {
        house.sandbox.calls("carbon") > 0
    })
    .await;
    let begun = Instant::now();
    let mut server = house.server;
    server.signal("TERM").await;
    let next = within("readiness turns", probe.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    let mut waits = BTreeSet::new();
    for stream in &mut streams {
        let ended = loop {
            match within("the end of a stream", stream.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended as if it were over"),
                Err(status) => break status,
            }
        };
        let error = Error::from(ended);
        assert_eq!(error.reason(), "DRAINING");
        assert_eq!(error.refusal().unwrap().code, Code::Unavailable);
        waits.insert(error.retry_after().expect("a time to come back"));
    }
    assert!(
        waits.len() > 1,
        "all are told to come back at once: {waits:?}"
    );
    let ended = loop {
        match within("the end of the feed", feed.message()).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert_eq!(refusal(ended).reason, "DRAINING");
    let late = within("the create's answer", late).await.unwrap().unwrap();
    let late = late.into_inner().purchase.unwrap().status.unwrap();
    assert!(late.reference.is_some());
    let status = server.exit().await;
    assert_eq!(status.code(), Some(0), "{}", house.log.text());
    let took = begun.elapsed();
    assert!(took < DRAIN + SLACK, "{took:?}");
}

/// `listen.drain` is the longest that a SIGTERM takes, closing included.
#[tokio::test]
async fn a_drain_is_over_in_its_time_whoever_holds_on() {
    let mut house = House::start(Settings {
        listen: format!("drain = \"{}s\"", DRAIN.as_secs()),
        ..Settings::default().polled("timeout", "\"60s\"")
    })
    .await;
    // A provider does not answer, and only its own peer ends a stream of reflection.
    house
        .sandbox
        .fault_on("carbon", Target::Create, Fault::Hang, 1);
    let hung = request("hung", "carbon", Scenario::Stuck);
    let mut shop = house.stub("shop").await;
    let hung = tokio::spawn(async move { shop.create_purchase(hung).await });
    until("the create has arrived", async || {
        house.sandbox.calls("carbon") > 0
    })
    .await;
    let mut reflection = ServerReflectionClient::new(house.channel().await);
    let open = futures_util::stream::pending();
    let open = reflection.server_reflection_info(open).await.unwrap();
    let mut open = open.into_inner();
    let begun = Instant::now();
    house.server.signal("TERM").await;
    assert!(house.server.exit().await.success(), "{}", house.log.text());
    let took = begun.elapsed();
    assert!(took <= DRAIN, "{took:?}");
    assert!(took >= DRAIN / 2, "the create was not waited for: {took:?}");
    assert!(!matches!(open.message().await, Ok(Some(_))), "it is over");
    assert!(hung.await.unwrap().is_err());
}

#[tokio::test]
async fn an_idle_server_drains_at_once() {
    let mut house = House::still().await;
    let begun = Instant::now();
    house.server.signal("TERM").await;
    assert_eq!(house.server.exit().await.code(), Some(0));
    assert!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
}

/// Runs a server with this configuration until it ends.
async fn fails(text: &str) -> (ExitStatus, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tillwatch.toml");
    fs::write(&config, text).unwrap();
    let log = Log::default();
    let status = Server::spawn(&config, &log).exit().await;
    (status, log.text())
}

#[tokio::test]
async fn bad_configuration_ends_with_64_and_its_place() {
    let caller = "[callers.local]\nanonymous = true\naccounts = [\"*\"]\nscopes = [\"read\"]\n";
    let table = [
        ("[listen]\ngrpc = \"127.0.0.1:0\"\n".to_owned(), "callers"),
        (format!("{caller}\n[listen]\ncolour = 1\n"), "listen.colour"),
        (
            format!("{caller}\n[listen]\ngrpc = \"0.0.0.0:0\"\n"),
            "loopback",
        ),
        ("[listen\n".to_owned(), ":1"),
    ];
    for (text, named) in table {
        let (status, log) = fails(&text).await;
        assert_eq!(status.code(), Some(64), "{text}: {log}");
        assert!(log.contains(named), "{named}: {log}");
    }
}

#[tokio::test]
async fn a_second_process_on_a_store_ends_with_1_and_the_first_goes_on() {
    let house = House::still().await;
    let second = house.folder().join("second.toml");
    let text = fs::read_to_string(house.config()).unwrap();
    fs::write(&second, text).unwrap();
    let log = Log::default();
    let status = Server::spawn(&second, &log).exit().await;
    assert_eq!(status.code(), Some(1), "{}", log.text());
    assert!(log.text().contains("tillwatch.db"), "{}", log.text());
    house
        .create("shop", request("key", "carbon", Scenario::Stuck))
        .await;
}

#[tokio::test]
async fn a_port_that_is_taken_ends_with_1() {
    let house = House::still().await;
    let text = fs::read_to_string(house.config()).unwrap();
    let text = text.replacen("127.0.0.1:0", &house.server.grpc, 1);
    let (status, log) = fails(&text).await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(&house.server.grpc), "{log}");
}
