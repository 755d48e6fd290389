//! A drain with thousands of open streams, a health watcher and a peer that never speaks.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tillwatch::{WatchEvent, WatchOptions};
use tillwatch_proto::{
    health::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
    v1::{WatchStatusRequest, WatchUntil},
};
use tillwatch_sandbox::Scenario;
use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet};
use tonic::{Code, Status, transport::Endpoint};
use tonic_types::StatusExt as _;

use crate::{house::House, orders::request, process::within, store::Store};

/// Open streams at the time of the drain.
const STREAMS: usize = 3_000;
/// Streams on one connection.
const TOGETHER: usize = 300;
/// The house's `listen.drain`.
const GRACE: Duration = Duration::from_secs(10);

async fn bought(house: &House) -> String {
    let order = request("watched", "inabit", Scenario::Paid);
    house.create("shop", order).await.id
}

/// Opens all streams. Each task returns the error that ends its stream, `None` for OK.
async fn streams(house: &House, id: &str) -> JoinSet<Option<Status>> {
    let mut ends = JoinSet::new();
    for _ in 0..STREAMS / TOGETHER {
        let stub = house.stub("shop").await;
        for _ in 0..TOGETHER {
            let mut stub = stub.clone();
            let request = WatchStatusRequest {
                purchase_id: id.to_owned(),
                until: WatchUntil::Final.into(),
                ..WatchStatusRequest::default()
            };
            let mut stream = stub.watch_status(request).await.unwrap().into_inner();
            ends.spawn(async move {
                loop {
                    match stream.message().await {
                        Ok(Some(_)) => {}
                        Ok(None) => return None,
                        Err(status) => return Some(status),
                    }
                }
            });
        }
    }
    ends
}

/// Promise S6, and the operator's interface: readiness turns first, then the streams end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_turns_readiness_ends_every_stream_and_is_over_in_time() {
    let mut house = House::still().await;
    let id = bought(&house).await;
    let mut ends = streams(&house, &id).await;
    let mut silent = TcpStream::connect(&house.server.grpc).await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", house.server.ops)).unwrap();
    let mut probe = HealthClient::new(endpoint.connect().await.unwrap());
    let mut health = probe
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = within("health", health.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let began = Instant::now();
    house.server.signal("TERM").await;
    let mut pauses = BTreeSet::new();
    while let Some(end) = within("the streams' end", ends.join_next()).await {
        if pauses.is_empty() {
            // Readiness turns before any stream ends, so that a caller who comes back goes
            // elsewhere.
            let asked = probe.check(HealthCheckRequest::default()).await;
            let is_serving =
                asked.is_ok_and(|state| state.get_ref().status() == ServingStatus::Serving);
            assert!(!is_serving, "a stream ended before readiness turned");
        }
        let status = end
            .unwrap()
            .expect("a stream whose purchase is open does not end with OK");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let reason = status.get_details_error_info().map(|info| info.reason);
        assert_eq!(reason.as_deref(), Some("DRAINING"), "{status:?}");
        let pause = status
            .get_details_retry_info()
            .and_then(|info| info.retry_delay);
        pauses.insert(pause.expect("a time to come back"));
    }
    let turned = within("health", health.message()).await.unwrap().unwrap();
    assert_eq!(turned.status(), ServingStatus::NotServing);
    assert!(pauses.len() > STREAMS / 10, "only {} pauses", pauses.len());
    let spread = *pauses.last().unwrap() - *pauses.first().unwrap();
    assert!(
        spread > Duration::from_secs(1),
        "spread over {spread:?} only"
    );
    assert!(house.server.exit().await.success(), "{}", house.log.text());
    let took = began.elapsed();
    assert!(took <= GRACE, "{took:?}");
    // The server has closed the connection, on which it never heard a word.
    let read = within("the silent peer's end", silent.read(&mut [0; 64])).await;
    assert!(read.is_err() || read.is_ok_and(|bytes| bytes < 64));
    eprintln!(
        "{STREAMS} streams drained in {took:?}, {} different pauses",
        pauses.len()
    );
}

/// Promise S2 across processes, through the client library.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_librarys_watches_go_on_against_the_next_process_without_a_gap() {
    watches_go_on(Store::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_librarys_watches_go_on_against_the_next_process_on_postgresql() {
    watches_go_on(Store::postgres()).await;
}

async fn watches_go_on(store: Store) {
    let mut house = House::still_on(store).await;
    let id = bought(&house).await;
    let mut watches = JoinSet::new();
    for _ in 0..100 {
        let options = WatchOptions {
            after_revision: Some(0),
            ..WatchOptions::default()
        };
        let mut watch = house.client("shop").watch(&id, options);
        watches.spawn(async move {
            let (mut revisions, mut interruptions) = (Vec::new(), 0);
            while let Some(event) = watch.next().await {
                match event.unwrap() {
                    WatchEvent::Transition(step) => revisions.push(step.status.unwrap().revision),
                    WatchEvent::Interrupted { .. } => interruptions += 1,
                    _ => {}
                }
            }
            (revisions, interruptions)
        });
    }
    let reference = house.sandbox.references("inabit").remove(0);
    for word in ["Allocated", "Confirming"] {
        assert!(house.sandbox.set_status("inabit", &reference, word));
        let mut watch = house.client("shop").watch(&id, WatchOptions::default());
        within("the word", async {
            while let Some(event) = watch.next().await {
                let status = match event.unwrap() {
                    WatchEvent::Snapshot(status) => Some(status),
                    WatchEvent::Transition(step) => step.status,
                    _ => None,
                };
                let code = status.and_then(|status| status.provider_status);
                if code.is_some_and(|status| status.code == word) {
                    break;
                }
            }
        })
        .await;
        house.server.signal("TERM").await;
        assert!(house.server.exit().await.success());
        // The provider goes on while nobody serves.
        house.restart().await;
    }
    assert!(house.sandbox.set_status("inabit", &reference, "Completed"));
    let mut histories = BTreeSet::new();
    while let Some(watch) = within("a watch's end", watches.join_next()).await {
        let (revisions, interruptions) = watch.unwrap();
        assert!(interruptions > 0, "it was never interrupted");
        histories.insert(revisions);
    }
    let last = histories.first().unwrap().len();
    let whole: Vec<u32> = (1..=u32::try_from(last).unwrap()).collect();
    assert_eq!(histories, BTreeSet::from([whole]));
}
