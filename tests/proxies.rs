//! The real server behind real proxies: Envoy, nginx and HAProxy, with the files in `deploy/proxies`
//! that users copy.
//!
//! `scripts/install-proxies` puts them into `.cache/`. If one is missing, these tests say so on standard
//! error, and fail if the environment says `CI=true`.

mod crowd;
mod proxy;

use std::time::Duration;

use futures_util::future::join_all;
use tillwatch::Error;
use tillwatch_proto::v1::{
    ListAccountsRequest, PurchaseState, WatchStatusRequest, WatchStatusResponse,
    watch_status_response::Event,
};
use tillwatch_sandbox::{Fault, Options, Scenario};
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;

pub use self::proxy::{free_port, libraries};
use self::{
    crowd::Crowd,
    proxy::{Kind, Proxy},
};
use crate::{
    house::{House, Settings, Stub, refusal},
    orders::request,
    process::{until, within},
};

/// The longest silence of a stream in the files that users copy.
const IDLE: &str = "75s";
/// A silence that a test can wait for, longer than the shortest interval of heartbeats.
const SHORT_IDLE: &str = "8s";
/// Streams through one proxy: more than the server takes on one connection, and than Envoy allows to
/// a cluster by default.
const STREAMS: usize = 1_200;
/// Streams on one connection of a caller.
const TOGETHER: usize = 300;
/// Restarts of the server under a busy crowd.
const RESTARTS: usize = 2;

/// Does the same behind each proxy that is installed, side by side.
async fn behind_each<T>(house: &House, idle: &str, test: impl AsyncFn(Proxy) -> T) -> Vec<T> {
    let each = Kind::ALL.map(async |kind| {
        let proxy = Proxy::start(kind, house, idle).await?;
        Some(test(proxy).await)
    });
    join_all(each).await.into_iter().flatten().collect()
}

async fn watch(stub: &mut Stub, id: &str, heartbeat: i64) -> Streaming<WatchStatusResponse> {
    let request = WatchStatusRequest {
        purchase_id: id.to_owned(),
        after_revision: Some(0),
        heartbeat_interval: Some(prost_types::Duration {
            seconds: heartbeat,
            nanos: 0,
        }),
        ..WatchStatusRequest::default()
    };
    let opened = within("a watch", stub.watch_status(request)).await;
    opened.unwrap().into_inner()
}

/// The revisions and the last state of a stream that has to end with OK, and so with its trailers.
async fn rest(
    proxy: &Proxy,
    stream: &mut Streaming<WatchStatusResponse>,
) -> (Vec<u32>, Option<PurchaseState>) {
    let (mut revisions, mut state) = (Vec::new(), None);
    loop {
        let message = within("an event", stream.message()).await;
        match message.unwrap_or_else(|status| panic!("{}: {status:?}", proxy.kind)) {
            Some(message) => {
                if let Some(Event::Transition(step)) = message.event {
                    let status = step.status.unwrap();
                    revisions.push(status.revision);
                    state = Some(status.state());
                }
            }
            None => return (revisions, state),
        }
    }
}

#[tokio::test]
async fn calls_streams_and_the_details_of_errors_pass_each_proxy() {
    let limits = "\n[callers.rival.limits]\nopen_purchases_per_caller = 1\n";
    let house = House::start(Settings {
        more: limits.to_owned(),
        ..Settings::default()
    })
    .await;
    let held = request("held", "carbon", Scenario::Stuck);
    house.create("rival", held).await;
    behind_each(&house, IDLE, async |proxy| {
        let kind = proxy.kind;
        let mut stub = proxy.stub("shop").await;
        let order = |scenario| request(&format!("{kind}-key"), "carbon", scenario);
        let created = within("a create", stub.create_purchase(order(Scenario::Paid))).await;
        let id = created.unwrap().into_inner().purchase.unwrap().id;
        let mut stream = watch(&mut stub, &id, 30).await;
        let (revisions, state) = rest(&proxy, &mut stream).await;
        let last = revisions.last().copied().unwrap_or_default();
        assert_eq!(revisions, (1..=last).collect::<Vec<_>>(), "{kind}");
        assert_eq!(state, Some(PurchaseState::Completed), "{kind}");

        let other = stub.create_purchase(order(Scenario::Declined));
        let reused = refusal(within("a create", other).await);
        assert_eq!(reused.reason, "IDEMPOTENCY_KEY_REUSED", "{kind}");
        assert_eq!(reused.purchase_id, Some(id), "{kind}");

        let mut stub = proxy.stub("rival").await;
        let limited = within("a create", stub.create_purchase(order(Scenario::Stuck))).await;
        let status = limited.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{kind}: {status:?}");
        let reason = status.get_details_error_info().map(|info| info.reason);
        assert_eq!(reason.as_deref(), Some("LIMIT_EXCEEDED"), "{kind}");
        let retry = status.get_details_retry_info();
        assert!(
            retry.is_some_and(|info| info.retry_delay.is_some()),
            "{kind}"
        );
        assert!(status.get_details_quota_failure().is_some(), "{kind}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_proxy_carries_more_streams_than_one_connection_of_the_server() {
    let house = House::still().await;
    let order = request("watched", "carbon", Scenario::Paid);
    let id = house.create("shop", order).await.id;
    let open = behind_each(&house, IDLE, async |proxy| {
        let mut streams = Vec::new();
        for _ in 0..STREAMS / TOGETHER {
            let mut stub = proxy.stub("shop").await;
            for _ in 0..TOGETHER {
                let mut stream = watch(&mut stub, &id, 120).await;
                let first = within("a first event", stream.message()).await;
                assert!(first.is_ok_and(|event| event.is_some()), "{}", proxy.kind);
                streams.push(stream);
            }
        }
        (proxy, streams)
    })
    .await;
    house.sandbox.resume();
    for (proxy, streams) in open {
        for mut stream in streams {
            let (_, state) = rest(&proxy, &mut stream).await;
            assert_eq!(state, Some(PurchaseState::Completed), "{}", proxy.kind);
        }
    }
}

#[tokio::test]
async fn heartbeats_keep_a_silent_stream_open_through_each_proxy_that_closes_idle_ones() {
    let house = House::still().await;
    let order = request("silent", "carbon", Scenario::Paid);
    let id = house.create("shop", order).await.id;
    let kept = behind_each(&house, SHORT_IDLE, async |proxy| {
        let mut stub = proxy.stub("shop").await;
        let mut seldom = watch(&mut stub, &id, 120).await;
        let mut often = watch(&mut stub, &id, 5).await;
        let cut = async {
            // The proxy's setting is in force: almost without heartbeats a stream ends.
            while let Ok(message) = seldom.message().await {
                assert!(message.is_some(), "{}: it ended with OK", proxy.kind);
            }
        };
        let beaten = async {
            // The first follows at once; the intervals until the fourth are longer than the proxy allows.
            let mut beats = 0;
            while beats < 4 {
                let message = often.message().await;
                let message = message.unwrap_or_else(|status| panic!("{}: {status:?}", proxy.kind));
                let event = message.and_then(|message| message.event);
                beats += u32::from(matches!(event, Some(Event::Heartbeat(_))));
            }
        };
        within("the streams", async { tokio::join!(cut, beaten) }).await;
        (proxy, often)
    })
    .await;
    house.sandbox.resume();
    for (proxy, mut stream) in kept {
        let (_, state) = rest(&proxy, &mut stream).await;
        assert_eq!(state, Some(PurchaseState::Completed), "{}", proxy.kind);
    }
}

#[tokio::test]
async fn each_proxy_tells_a_drain_and_an_absence_and_goes_on_with_the_next_process() {
    let mut house = House::start(Settings {
        listen: "drain = \"30s\"".to_owned(),
        ..Settings::default().polled("timeout", "\"12s\"")
    })
    .await;
    let proxies = behind_each(&house, IDLE, async |proxy| {
        proxy.sees(true).await;
        proxy
    })
    .await;
    // A submit under way holds the drain for long enough to look at it.
    house.sandbox.fault("carbon", Fault::Hang, 1);
    let slow = house.client("shop");
    let slow = tokio::spawn(async move {
        let order = request("slow", "carbon", Scenario::Paid);
        slow.create(order).await.is_err()
    });
    until("the order is under way", async || {
        house.sandbox.calls("carbon") == 1
    })
    .await;
    house.server.signal("TERM").await;
    join_all(proxies.iter().map(async |proxy| {
        proxy.sees(false).await;
        // The last words are the server's own: the time to come back is spread over its callers.
        let mut stub = proxy.stub("shop").await;
        until("creates are refused", async || {
            let order = request(&format!("{}-late", proxy.kind), "carbon", Scenario::Stuck);
            let Err(status) = stub.create_purchase(order).await else {
                return false;
            };
            let told = Error::from(status);
            assert_eq!(told.reason(), "DRAINING", "{}: {told:?}", proxy.kind);
            assert!(told.retry_after().is_some(), "{}: {told:?}", proxy.kind);
            true
        })
        .await;
    }))
    .await;
    assert!(house.server.exit().await.success(), "{}", house.log.text());
    join_all(proxies.iter().map(async |proxy| {
        // A generated stub reads the proxy's own words, so they have to be gRPC.
        let mut stub = proxy.stub("shop").await;
        let absent = stub.list_accounts(ListAccountsRequest {});
        let absent = within("an answer", absent).await.unwrap_err();
        assert_eq!(
            absent.code(),
            Code::Unavailable,
            "{}: {absent:?}",
            proxy.kind
        );
        if proxy.kind != Kind::Envoy {
            let pause = absent.get_details_retry_info();
            let pause = pause.and_then(|info| info.retry_delay);
            assert_eq!(pause, Some(Duration::from_secs(1)), "{}", proxy.kind);
        }
    }))
    .await;
    house.restart().await;
    join_all(proxies.iter().map(async |proxy| {
        proxy.sees(true).await;
        let client = proxy.client("shop");
        until("calls pass again", async || client.accounts().await.is_ok()).await;
    }))
    .await;
    slow.abort();
}

/// The promises of a drain, as callers behind a proxy see them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_behind_each_proxy_fail_no_call_for_good_and_lose_no_event() {
    let mut house = House::start(Settings {
        sandbox: Options {
            speed: 3.0,
            ..Settings::default().sandbox
        },
        ..Settings::default()
    })
    .await;
    let crowds = behind_each(&house, IDLE, async |proxy| Crowd::through(proxy).await).await;
    for _ in 0..RESTARTS {
        join_all(crowds.iter().map(Crowd::busy)).await;
        house.server.signal("TERM").await;
        assert!(house.server.exit().await.success(), "{}", house.log.text());
        house.restart().await;
    }
    join_all(crowds.iter().map(Crowd::busy)).await;
    let mut bought = 0;
    for crowd in crowds {
        let kind = crowd.proxy.kind;
        let seen = crowd.end().await;
        eprintln!("{kind}, {RESTARTS} restarts: {seen}");
        assert_eq!(seen.failed, Vec::<String>::new(), "{kind}");
        assert_eq!((seen.lost, seen.doubled), (0, 0), "{kind}");
        assert!(seen.interrupted > 0, "{kind}: no stream crossed a restart");
        bought += seen.bought;
    }
    assert_eq!(house.sandbox.created("carbon"), bought);
}
