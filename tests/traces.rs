//! Traces of the real server, at a collector; and collectors that are none.

use std::{fs, time::Duration};

use futures_util::{StreamExt as _, stream};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use serde_json::Value;
use tillwatch_proto::v1::{
    CreatePurchaseRequest, Finality, ListAccountsRequest, WatchStatusRequest,
};
use tillwatch_sandbox::{Fault, Scenario, Target};
use tokio::time::Instant;
use tonic::Request;

use crate::{
    collector::{Collector, Peer, attribute, peer},
    house::{House, Settings, account},
    orders::request,
    process::{until, within},
    tls::authority,
};

const SERVICE: &str = "tillwatch.v1.PurchaseService";
/// A caller's trace, and its span in it.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A house that exports to a collector.
async fn house(url: &str, more: &str) -> House {
    House::start(Settings {
        more: format!("\n[telemetry]\notlp_endpoint = \"{url}\"\n{more}\n"),
        ..Settings::default()
    })
    .await
}

/// A call in the caller's trace, which it wants to be exported.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    headers.insert("traceparent", parent.parse().unwrap());
    headers.insert("tracestate", "vendor=state".parse().unwrap());
    headers.insert("baggage", "secret=baggage7c".parse().unwrap());
    request
}

async fn create_traced(house: &House, create: CreatePurchaseRequest) -> Option<String> {
    let mut shop = house.stub("shop").await;
    let created = within("a create", shop.create_purchase(traced(create))).await;
    Some(created.ok()?.into_inner().purchase?.id)
}

fn is_in_trace(span: &Span) -> bool {
    hex::encode(&span.trace_id) == TRACE
}

/// True if a span links to another.
fn links(span: &Span, to: &Span) -> bool {
    let is_link = |trace: &[u8], id: &[u8]| trace == to.trace_id && id == to.span_id;
    let mut links = span.links.iter();
    links.any(|link| is_link(&link.trace_id, &link.span_id))
}

#[tokio::test]
async fn a_create_is_a_part_of_its_callers_trace_and_its_polls_link_to_it() {
    let collector = Collector::grpc(None).await;
    // No trace begins here, so that there is nothing but what the caller wants.
    let house = house(&collector.url, "trace_sample = \"0\"").await;
    let other = request("untraced", "carbon", Scenario::Paid);
    let other = house.create("shop", other).await.id;
    let create = request("traced", "carbon", Scenario::Paid);
    let id = create_traced(&house, create).await.unwrap();
    let call = format!("{SERVICE}/CreatePurchase");
    let create = collector.span(&call, |_| true).await;
    assert!(is_in_trace(&create), "{create:?}");
    assert_eq!(hex::encode(&create.parent_span_id), PARENT);
    assert_eq!(create.trace_state, "vendor=state");
    assert_eq!(create.kind(), SpanKind::Server);
    let has = |key, value: &str| {
        let found = attribute(&create, key);
        assert_eq!(found.as_deref(), Some(value), "{key} of {create:?}");
    };
    has("rpc.system.name", "grpc");
    has("rpc.method", &call);
    has("rpc.response.status_code", "OK");
    has("tillwatch.caller", "shop");
    has("tillwatch.account", &account("carbon"));
    has("tillwatch.purchase", &id);
    let attempt = collector.span("attempt", is_in_trace).await;
    assert_eq!(attempt.parent_span_id, create.span_id);
    let send = collector.span("send", is_in_trace).await;
    assert_eq!(send.parent_span_id, attempt.span_id);
    assert_eq!(attribute(&send, "tillwatch.outcome").unwrap(), "accepted");
    let commit = collector.span("commit", |span| links(span, &attempt)).await;
    assert!(!is_in_trace(&commit), "a commit is of many calls");
    let poll = collector.span("poll", |span| links(span, &create)).await;
    assert!(
        !is_in_trace(&poll),
        "an hours-long trace would break its readers"
    );
    assert_eq!(attribute(&poll, "tillwatch.purchase").unwrap(), id);
    assert_eq!(attribute(&poll, "tillwatch.outcome").unwrap(), "answered");
    let over = |status: &tillwatch_proto::v1::PurchaseStatus| status.finality() != Finality::Open;
    house.settled("the traced", &id, over).await;
    house.settled("the other", &other, over).await;
    for span in collector.spans() {
        let about = attribute(&span, "tillwatch.purchase");
        assert_ne!(about, Some(other.clone()), "nobody asked for {span:?}");
        assert!(!format!("{span:?}").contains("baggage7c"), "{span:?}");
    }
}

#[tokio::test]
async fn a_stream_has_a_short_span_for_its_beginning_and_none_for_its_life() {
    let collector = Collector::grpc(None).await;
    let house = house(&collector.url, "trace_sample = \"1\"").await;
    house.sandbox.pause();
    let create = request("watched", "carbon", Scenario::Paid);
    let id = house.create("shop", create).await.id;
    let mut shop = house.stub("shop").await;
    let watch = WatchStatusRequest {
        purchase_id: id,
        ..WatchStatusRequest::default()
    };
    let began = Instant::now();
    let watch = within("a watch", shop.watch_status(watch)).await.unwrap();
    let begun = began.elapsed();
    let mut watch = watch.into_inner();
    within("a status", watch.message()).await.unwrap().unwrap();
    let name = format!("{SERVICE}/WatchStatus");
    // The stream is open, and its span has ended.
    let span = collector.span(&name, |_| true).await;
    let lasted = span.end_time_unix_nano - span.start_time_unix_nano;
    assert!(
        u128::from(lasted) <= begun.as_nanos(),
        "{lasted} ns, of {begun:?}"
    );
    house.sandbox.resume();
    while within("an event", watch.message()).await.unwrap().is_some() {}
    let ended = house
        .create("shop", request("later", "carbon", Scenario::Stuck))
        .await;
    let about = |span: &Span| attribute(span, "tillwatch.purchase").as_ref() == Some(&ended.id);
    collector
        .span(&format!("{SERVICE}/CreatePurchase"), about)
        .await;
    let spans = collector.spans().into_iter();
    assert_eq!(spans.filter(|span| span.name == name).count(), 1);
}

#[tokio::test]
async fn a_collector_over_http_or_tls_gets_spans_with_the_headers_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (headers, ca) = (folder.path().join("headers"), folder.path().join("ca"));
    fs::write(
        &headers,
        "authorization: Bearer token-9\nx-tenant: payments\n",
    )
    .unwrap();
    let authority = authority();
    fs::write(&ca, authority.pem()).unwrap();
    let collectors = [
        ("grpc", Collector::grpc(None).await),
        ("http", Collector::http(None).await),
        ("grpc", Collector::grpc(Some(&authority)).await),
        ("http", Collector::http(Some(&authority)).await),
    ];
    for (protocol, collector) in collectors {
        let settings = format!(
            "trace_sample = \"1\"\notlp_protocol = \"{protocol}\"\notlp_ca_file = \"{}\"\n\
             otlp_headers_file = \"{}\"",
            ca.display(),
            headers.display()
        );
        let house = house(&collector.url, &settings).await;
        let create = request("key", "carbon", Scenario::Stuck);
        house.create("shop", create).await;
        let call = format!("{SERVICE}/CreatePurchase");
        collector.span(&call, |_| true).await;
        for head in collector.heads() {
            let head = head.to_ascii_lowercase();
            assert!(head.contains("authorization: bearer token-9\r\n"), "{head}");
            assert!(head.contains("x-tenant: payments\r\n"), "{head}");
            if protocol == "http" {
                assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
                assert!(
                    head.contains("content-type: application/x-protobuf\r\n"),
                    "{head}"
                );
            }
        }
        assert!(!house.log.text().contains("token-9"));
    }
}

#[tokio::test]
async fn a_log_line_of_a_call_has_the_ids_of_its_callers_trace() {
    let collector = Collector::grpc(None).await;
    let house = house(&collector.url, "log_format = \"json\"").await;
    house
        .sandbox
        .fault_on("carbon", Target::Create, Fault::Lost, 1);
    create_traced(&house, request("lost", "carbon", Scenario::Paid)).await;
    let line = || {
        let text = house.log.text();
        // The audit log has lines of its own here.
        let lines = text.lines();
        let lines = lines.filter_map(|line| serde_json::from_str(line).ok());
        let mut lines: Vec<Value> = lines.collect();
        let told = "the outcome of a create is unclear";
        lines.retain(|line| line["message"] == told);
        lines.pop()
    };
    until("a line", async || line().is_some()).await;
    let line = line().unwrap();
    assert_eq!(line["trace_id"], TRACE);
    let attempt = collector.span("attempt", is_in_trace).await;
    assert_eq!(line["span_id"], hex::encode(&attempt.span_id));
}

/// The server's counter.
async fn counted(house: &House, metric: &str) -> u64 {
    let metrics = house.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with(metric));
    let number = line.and_then(|line| line.rsplit(' ').next());
    number
        .unwrap_or_else(|| panic!("{metric}: {metrics}"))
        .parse()
        .unwrap()
}

/// Makes many calls at once, each with a span.
async fn call_often(house: &House, calls: usize) {
    let shop = house.stub("shop").await;
    let answers = stream::iter(0..calls).map(|_| {
        let mut shop = shop.clone();
        async move { shop.list_accounts(ListAccountsRequest {}).await }
    });
    let mut answers = answers.buffer_unordered(64);
    while let Some(answer) = within("an answer", answers.next()).await {
        answer.unwrap();
    }
}

#[tokio::test]
async fn a_collector_that_takes_nothing_delays_no_call_and_no_exit_and_grows_nothing() {
    /// More spans than the queue and a batch take.
    const CALLS: usize = 4_000;
    /// The queue and what its spans hold, many times over.
    const GROWTH_KIB: u64 = 24 * 1024;
    for kind in [Peer::Refusing, Peer::Silent, Peer::Garbage] {
        for protocol in ["grpc", "http"] {
            let what = format!("{kind:?} {protocol}");
            let (address, _serving) = peer(kind).await;
            let settings = format!("trace_sample = \"1\"\notlp_protocol = \"{protocol}\"");
            let mut house = House::start(Settings {
                listen: "drain = \"4s\"".to_owned(),
                more: format!("\n[telemetry]\notlp_endpoint = \"http://{address}\"\n{settings}\n"),
                ..Settings::default()
            })
            .await;
            call_often(&house, 500).await;
            let before = house.server.memory_kib();
            call_often(&house, CALLS).await;
            let grown = house.server.memory_kib().saturating_sub(before);
            assert!(grown < GROWTH_KIB, "{what}: {grown} KiB");
            until(&what, async || {
                let full = "tillwatch_trace_spans_dropped_total{reason=\"queue_full\"}";
                let lost = "tillwatch_trace_spans_dropped_total{reason=\"undelivered\"}";
                counted(&house, full).await + counted(&house, lost).await > 0
            })
            .await;
            let exported = counted(&house, "tillwatch_trace_spans_exported_total").await;
            assert_eq!(exported, 0, "{what}");
            let began = Instant::now();
            house.server.signal("TERM").await;
            assert!(house.server.exit().await.success(), "{what}");
            let took = began.elapsed();
            assert!(took < Duration::from_secs(4), "{what}: {took:?} to exit");
            let told = house.log.text().matches("spans do not reach").count();
            assert!(told <= 3, "{what}: told {told} times");
        }
    }
}

#[tokio::test]
async fn a_collector_that_comes_back_gets_later_spans_and_the_last_ones_at_the_exit() {
    let collector = Collector::http(None).await;
    let settings = "trace_sample = \"1\"\notlp_protocol = \"http\"";
    let mut house = house(&collector.url, settings).await;
    house.sandbox.pause();
    let create = request("last", "carbon", Scenario::Stuck);
    let id = house.create("shop", create).await.id;
    house.server.signal("TERM").await;
    assert!(house.server.exit().await.success());
    let about = |span: &Span| attribute(span, "tillwatch.purchase").as_ref() == Some(&id);
    let spans = collector.spans();
    let create = format!("{SERVICE}/CreatePurchase");
    assert!(
        spans.iter().any(|span| span.name == create && about(span)),
        "{spans:?}"
    );
}

#[tokio::test]
async fn variables_of_opentelemetry_change_nothing_and_are_named() {
    let (collector, other) = (Collector::http(None).await, Collector::http(None).await);
    let mut house = House::start(Settings {
        environment: format!(
            "OTEL_TRACES_SAMPLER=always_on\nOTEL_EXPORTER_OTLP_ENDPOINT={}\n\
             OTEL_EXPORTER_OTLP_HEADERS=x-canary=7f\nOTEL_SERVICE_NAME=canary7f\n\
             OTEL_RESOURCE_ATTRIBUTES=a=canary7f\nOTEL_EXPORTER_OTLP_COMPRESSION=gzip\n\
             HTTP_PROXY={}\nALL_PROXY={}\n",
            other.url, other.url, other.url
        ),
        more: format!(
            "\n[telemetry]\notlp_endpoint = \"{}\"\notlp_protocol = \"http\"\n\
             trace_sample = \"0\"\n",
            collector.url
        ),
        ..Settings::default()
    })
    .await;
    let warning = "OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER: no effect here";
    assert!(house.log.text().contains(warning), "{}", house.log.text());
    let untraced = request("untraced", "carbon", Scenario::Stuck);
    house.create("shop", untraced).await;
    create_traced(&house, request("traced", "carbon", Scenario::Stuck)).await;
    house.server.signal("TERM").await;
    house.server.exit().await;
    let creates = collector.spans().into_iter();
    let create = format!("{SERVICE}/CreatePurchase");
    assert_eq!(creates.filter(|span| span.name == create).count(), 1);
    assert!(!format!("{:?}", collector.heads()).contains("x-canary"));
    let bytes = collector.bytes();
    assert!(!bytes.windows(8).any(|part| part == b"canary7f"));
    assert_eq!(other.heads(), Vec::<String>::new());
}
