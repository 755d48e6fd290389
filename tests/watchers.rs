//! Watchers that do not read, come in thousands, come all at once, or have little time.
//!
//! To see figures, run them in release and one after the other:
//!
//! ```sh
//! cargo build --release --workspace
//! cargo test --release -p tillwatch-server --test tests -- \
//!     watchers:: --nocapture --test-threads 1
//! ```

use std::time::{Duration, Instant};

use tillwatch_proto::v1::{
    WatchStatusRequest, WatchStatusResponse, WatchUntil,
    purchase_service_client::PurchaseServiceClient, watch_status_response::Event,
};
use tillwatch_sandbox::Scenario;
use tokio::task::JoinSet;
use tonic::{Code, Request, Streaming, transport::Endpoint};
use tonic_types::StatusExt as _;

use crate::{
    house::{House, token},
    orders::request,
    process::{DEADLINE, within},
    store::Store,
};

/// Streams on one connection; the server allows 1,000.
const STREAMS: usize = 500;
/// The number of watchers. A debug build of both sides takes ten times as long for each stream.
const RECONNECTING: usize = if cfg!(debug_assertions) {
    10_000
} else {
    50_000
};

/// Creates a purchase that waits for its payment. Returns its id and its name at the provider.
async fn still(house: &House) -> (String, String) {
    let order = request("watched", "inabit", Scenario::Paid);
    let id = house.create("shop", order).await.id;
    (id, house.sandbox.references("inabit").remove(0))
}

fn watch(id: &str, after_revision: Option<u32>) -> Request<WatchStatusRequest> {
    let mut request = Request::new(WatchStatusRequest {
        purchase_id: id.to_owned(),
        after_revision,
        until: WatchUntil::Final.into(),
        ..WatchStatusRequest::default()
    });
    let bearer = format!("Bearer {}", token("shop")).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// Opens streams over as many connections as they need. Each is read up to its first heartbeat,
/// which says that it has caught up.
async fn opened(
    house: &House,
    id: &str,
    count: usize,
    after: Option<u32>,
) -> Vec<Streaming<WatchStatusResponse>> {
    let mut connections = JoinSet::new();
    for first in (0..count).step_by(STREAMS) {
        let channel = house.channel().await;
        let id = id.to_owned();
        connections.spawn(async move {
            let mut streams = Vec::new();
            for _ in first..count.min(first + STREAMS) {
                let mut client = PurchaseServiceClient::new(channel.clone());
                let stream = client.watch_status(watch(&id, after)).await.unwrap();
                streams.push(stream.into_inner());
            }
            for stream in &mut streams {
                while !matches!(next(stream).await, Event::Heartbeat(_)) {}
            }
            streams
        });
    }
    connections.join_all().await.into_iter().flatten().collect()
}

async fn next(stream: &mut Streaming<WatchStatusResponse>) -> Event {
    let message = tokio::time::timeout(DEADLINE, stream.message()).await;
    let message = message.expect("a message in time").unwrap();
    message.expect("a stream that goes on").event.unwrap()
}

/// Reads each stream up to a revision. Fails unless each revision on the way comes once.
async fn all_reach(
    streams: Vec<Streaming<WatchStatusResponse>>,
    from: u32,
    to: u32,
) -> Vec<Streaming<WatchStatusResponse>> {
    let mut readers = JoinSet::new();
    let mut streams = streams.into_iter();
    loop {
        let share: Vec<_> = streams.by_ref().take(STREAMS).collect();
        if share.is_empty() {
            break;
        }
        readers.spawn(async move {
            let mut share = share;
            for stream in &mut share {
                let mut last = from;
                while last < to {
                    match next(stream).await {
                        Event::Transition(step) => {
                            last += 1;
                            assert_eq!(step.status.unwrap().revision, last);
                        }
                        Event::Heartbeat(beat) => assert_eq!(beat.revision, last),
                        Event::Snapshot(_) => panic!("a second snapshot"),
                    }
                }
            }
            share
        });
    }
    readers.join_all().await.into_iter().flatten().collect()
}

/// A house with one purchase that waits for its payment. Returns its id, reference and newest
/// revision.
async fn allocated(store: Store) -> (House, String, String, u32) {
    let house = House::still_on(store).await;
    let (id, reference) = still(&house).await;
    let before = newest(&house, &id).await;
    let revision = turned(&house, &id, &reference, "Allocated", before).await;
    (house, id, reference, revision)
}

/// Lets the provider say another word, and waits until the journal has it. Returns its revision.
async fn turned(house: &House, id: &str, reference: &str, word: &str, revision: u32) -> u32 {
    assert!(house.sandbox.set_status("inabit", reference, word));
    let mut client = PurchaseServiceClient::new(house.channel().await);
    let mut stream = client
        .watch_status(watch(id, Some(revision)))
        .await
        .unwrap()
        .into_inner();
    loop {
        if let Event::Transition(step) = next(&mut stream).await {
            return step.status.unwrap().revision;
        }
    }
}

async fn newest(house: &House, id: &str) -> u32 {
    let mut client = PurchaseServiceClient::new(house.channel().await);
    let stream = client.watch_status(watch(id, None)).await.unwrap();
    match next(&mut stream.into_inner()).await {
        Event::Snapshot(status) => status.revision,
        other => panic!("{other:?}"),
    }
}

/// Promise S5.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_never_reads_delays_nobody_and_costs_no_queue() {
    const TURNS: u32 = 20;
    let house = House::still().await;
    let (id, reference) = still(&house).await;
    let mut revision = turned(
        &house,
        &id,
        &reference,
        "Allocated",
        newest(&house, &id).await,
    )
    .await;
    let mut streams = opened(&house, &id, 5_000, Some(revision)).await;
    // The time of the first and the last turn, and the memory between them.
    let mut measured = Vec::new();
    let mut deaf = Vec::new();
    for with_deaf in [false, true] {
        if with_deaf {
            // The window holds no message, so none ever leaves the server.
            let endpoint = Endpoint::from_shared(format!("http://{}", house.server.grpc)).unwrap();
            let channel = endpoint
                .initial_stream_window_size(1)
                .connect()
                .await
                .unwrap();
            let mut client = PurchaseServiceClient::new(channel);
            deaf.push(client.watch_status(watch(&id, Some(0))).await.unwrap());
        }
        let memory = house.server.memory_kib();
        let began = Instant::now();
        for turn in 0..TURNS {
            let word = ["Unconfirmed", "Confirming"][turn as usize % 2];
            let next = turned(&house, &id, &reference, word, revision).await;
            streams = all_reach(streams, revision, next).await;
            revision = next;
        }
        measured.push((
            began.elapsed(),
            house.server.memory_kib().saturating_sub(memory),
        ));
    }
    let [(alone, grown_alone), (beside, grown_beside)] = measured[..] else {
        unreachable!("two rounds");
    };
    eprintln!(
        "20 turns to 5,000 watchers: {alone:?}, beside one that never reads: {beside:?}; \
               memory grew by {grown_alone} and {grown_beside} KiB"
    );
    assert!(
        beside < alone * 3 + Duration::from_secs(1),
        "{alone:?} {beside:?}"
    );
    assert!(grown_beside < grown_alone + 8 * 1_024, "{grown_beside} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watchers_of_one_purchase_each_see_a_step_once() {
    let (house, id, reference, revision) = allocated(Store::Sqlite).await;
    let opening = Instant::now();
    let streams = opened(&house, &id, 10_000, Some(revision)).await;
    let opened_in = opening.elapsed();
    let began = Instant::now();
    let turning = async {
        let next = turned(&house, &id, &reference, "Confirming", revision).await;
        (next, began.elapsed())
    };
    let reading = all_reach(streams, revision, revision + 1);
    let ((next, first), streams) = tokio::join!(turning, reading);
    eprintln!(
        "10,000 watchers of one purchase: opened in {opened_in:?}; one knew {first:?} after the \
         provider's word, all {:?} after it",
        began.elapsed()
    );
    assert_eq!((next, streams.len()), (revision + 1, 10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_all_come_back_at_once_all_go_on_where_they_were() {
    come_back(Store::Sqlite, RECONNECTING).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_all_come_back_at_once_all_go_on_where_they_were_on_postgresql() {
    come_back(Store::postgres(), RECONNECTING / 5).await;
}

async fn come_back(store: Store, watchers: usize) {
    let (house, id, reference, revision) = allocated(store).await;
    drop(opened(&house, &id, watchers, Some(revision)).await);
    let next = turned(&house, &id, &reference, "Confirming", revision).await;
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..watchers / STREAMS {
        let channel = house.channel().await;
        let id = id.clone();
        connections.spawn(async move {
            let opening = (0..STREAMS).map(|_| {
                let mut client = PurchaseServiceClient::new(channel.clone());
                let request = watch(&id, Some(revision));
                async move { client.watch_status(request).await.unwrap().into_inner() }
            });
            let streams = futures_util::future::join_all(opening).await;
            all_reach(streams, revision, next).await.len()
        });
    }
    let reached: usize = connections.join_all().await.into_iter().sum();
    eprintln!(
        "{reached} watchers came back and went on within {:?}",
        began.elapsed()
    );
    assert_eq!(reached, watchers);
}

#[tokio::test]
async fn a_stream_ends_at_its_callers_deadline_with_deadline_exceeded() {
    let house = House::still().await;
    let (id, _) = still(&house).await;
    let mut client = PurchaseServiceClient::new(house.channel().await);
    let mut request = watch(&id, None);
    // The header is set by hand, so that only the server knows the deadline.
    let timeout = "1S".parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", timeout);
    let mut stream = client.watch_status(request).await.unwrap().into_inner();
    let status = within("the end", async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!(reason, "DEADLINE_EXCEEDED");
}
