//! The client keeps its promises against a scripted service, in virtual time.

use std::time::Duration;

use tillwatch_proto::v1::{
    CreatePurchaseRequest, CreatePurchaseResponse, FeedHeartbeat, GetStatusRequest,
    ListPurchasesResponse, Purchase, PurchaseFilter, PurchaseTransition, WatchPurchasesResponse,
    get_status_request::Key, purchase_service_server::PurchaseServiceServer,
    watch_purchases_response,
};
use tokio::time::Instant;
use tonic::{Code, transport::Server};

use crate::{
    Client, Config, Error, FeedEvent, FeedOptions, FeedStart, SecretToken, Watch, WatchEvent,
    WatchOptions,
    scripted::{Script, Scripted, Turn, heartbeat, refusal, snapshot, start, transition, unknown},
};

const SECOND: Duration = Duration::from_secs(1);
/// A time above the bound of a first wait's jitter.
const SLACK: Duration = Duration::from_millis(300);

/// The revisions that a watch told, with 0 for each interruption, and the error that ended it.
async fn revisions(watch: &mut Watch) -> (Vec<u32>, Option<Error>) {
    let mut seen = Vec::new();
    while let Some(event) = watch.next().await {
        match event {
            Ok(WatchEvent::Snapshot(status)) => seen.push(status.revision),
            Ok(WatchEvent::Transition(step)) => seen.push(step.status.unwrap().revision),
            Ok(WatchEvent::Interrupted { .. }) => seen.push(0),
            Ok(WatchEvent::Heartbeat(_)) => {}
            Err(error) => return (seen, Some(error)),
        }
    }
    (seen, None)
}

fn cursors(script: &Script) -> Vec<Option<u32>> {
    let seen = script.seen_watches.lock().unwrap();
    seen.iter()
        .map(|(_, request)| request.after_revision)
        .collect()
}

fn waits<T>(seen: &[(Instant, T)]) -> Vec<Duration> {
    seen.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
}

#[tokio::test(start_paused = true)]
async fn a_cut_stream_resumes_without_gap_or_duplicate() {
    let (client, script) = start(None);
    script.watches.lock().unwrap().extend([
        vec![snapshot(2), transition(3), Turn::Cut],
        vec![transition(3), transition(4), heartbeat(4), Turn::Cut],
        vec![transition(5), Turn::End],
    ]);
    let mut watch = client.watch("pur_1", WatchOptions::default());
    let (seen, error) = revisions(&mut watch).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(seen, [2, 3, 0, 4, 0, 5]);
    assert_eq!(cursors(&script), [None, Some(3), Some(4)]);
    assert!(watch.next().await.is_none(), "an ended stream stays ended");
}

#[tokio::test(start_paused = true)]
async fn a_stream_cut_before_its_snapshot_asks_for_the_snapshot_again() {
    let (client, script) = start(None);
    let lost = vec![Turn::Cut];
    script
        .watches
        .lock()
        .unwrap()
        .extend([lost, vec![snapshot(7), Turn::End]]);
    let mut watch = client.watch("pur_1", WatchOptions::default());
    assert_eq!(revisions(&mut watch).await.0, [0, 7]);
    assert_eq!(cursors(&script), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_waits_as_long_as_the_service_asks() {
    let (client, script) = start(None);
    let draining = refusal(Code::Unavailable, "DRAINING", Some(7 * SECOND));
    script.watches.lock().unwrap().extend([
        vec![transition(1), Turn::Fail(draining)],
        vec![transition(2), Turn::End],
    ]);
    let options = WatchOptions {
        after_revision: Some(0),
        ..WatchOptions::default()
    };
    let mut watch = client.watch("pur_1", options);
    assert_eq!(revisions(&mut watch).await.0, [1, 0, 2]);
    let waited = waits(&script.seen_watches.lock().unwrap());
    assert!(
        waited[0] >= 7 * SECOND && waited[0] < 7 * SECOND + SLACK,
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn silence_for_two_heartbeat_intervals_means_a_dead_stream() {
    let (client, script) = start(None);
    script.watches.lock().unwrap().extend([
        vec![snapshot(1), heartbeat(1), Turn::Hang],
        vec![transition(2), Turn::End],
    ]);
    let options = WatchOptions {
        heartbeat_interval: Some(5 * SECOND),
        ..WatchOptions::default()
    };
    let mut watch = client.watch("pur_1", options);
    assert_eq!(revisions(&mut watch).await.0, [1, 0, 2]);
    let seen = script.seen_watches.lock().unwrap();
    let waited = waits(&seen);
    assert!(
        waited[0] >= 10 * SECOND && waited[0] < 10 * SECOND + SLACK,
        "{waited:?}"
    );
    assert_eq!(seen[0].1.heartbeat_interval.unwrap().seconds, 5);
}

#[tokio::test(start_paused = true)]
async fn a_missing_revision_is_an_error() {
    let check = async |turns: Vec<_>, expected: u32, received: u32| {
        let (client, script) = start(None);
        script.watches.lock().unwrap().push_back(turns);
        let mut watch = client.watch("pur_1", WatchOptions::default());
        let (_, error) = revisions(&mut watch).await;
        let told = match error {
            Some(Error::Gap {
                expected, received, ..
            }) => (expected, received),
            other => panic!("{other:?}"),
        };
        assert_eq!(told, (expected, received));
        assert!(watch.next().await.is_none());
    };
    check(vec![snapshot(2), transition(4), Turn::Hang], 3, 4).await;
    check(vec![snapshot(2), heartbeat(3), Turn::Hang], 3, 3).await;
    check(vec![snapshot(2), snapshot(3), Turn::Hang], 3, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_a_watch_at_once() {
    let (client, script) = start(None);
    let refused = refusal(Code::OutOfRange, "REVISION_AHEAD", None);
    script
        .watches
        .lock()
        .unwrap()
        .push_back(vec![Turn::Fail(refused)]);
    let mut watch = client.watch("pur_1", WatchOptions::default());
    let (seen, error) = revisions(&mut watch).await;
    assert_eq!(seen, [0; 0]);
    assert!(matches!(error, Some(Error::CursorLost(_))), "{error:?}");
    assert_eq!(cursors(&script).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_gives_up_when_its_patience_ends() {
    let (client, script) = start(None);
    let down = || {
        vec![Turn::Fail(refusal(
            Code::Unavailable,
            "JOURNAL_UNAVAILABLE",
            None,
        ))]
    };
    script
        .watches
        .lock()
        .unwrap()
        .extend((0..100).map(|_| down()));
    let options = WatchOptions {
        patience: Some(60 * SECOND),
        ..WatchOptions::default()
    };
    let begun = Instant::now();
    let (_, error) = revisions(&mut client.watch("pur_1", options)).await;
    assert_eq!(error.unwrap().reason(), "JOURNAL_UNAVAILABLE");
    assert!(begun.elapsed() <= 60 * SECOND);
    let attempts = cursors(&script).len();
    assert!(
        (4..60).contains(&attempts),
        "{attempts} attempts in a minute"
    );
}

/// Answers of proxies that cannot reach the service, or refuse the call themselves.
const PAGES: [(u16, &str, &str); 9] = [
    (502, "text/html", "<html>Bad Gateway</html>"),
    (502, "text/html", ""),
    (503, "text/plain", "upstream connect error"),
    (504, "text/html", "<html>Gateway Time-out</html>"),
    (429, "text/html", "<html>Too Many Requests</html>"),
    (200, "text/html", "<html>Back soon</html>"),
    (200, "text/html", ""),
    (404, "application/json", "{}"),
    (403, "text/html", "<html>Forbidden</html>"),
];

#[tokio::test(start_paused = true)]
async fn a_proxys_page_is_an_interruption_and_never_the_end_of_a_watch() {
    for page in PAGES {
        let (client, script) = start(None);
        script.proxied.lock().unwrap().extend([page, page]);
        let turns = vec![snapshot(2), transition(3), Turn::End];
        script.watches.lock().unwrap().push_back(turns);
        let mut watch = client.watch("pur_1", WatchOptions::default());
        let (seen, error) = revisions(&mut watch).await;
        assert!(error.is_none(), "{page:?}: {error:?}");
        assert_eq!(seen, [0, 0, 2, 3], "{page:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_a_proxy_answered_is_repeated_with_its_key() {
    for page in PAGES {
        let (client, script) = start(None);
        script.proxied.lock().unwrap().extend([page, page]);
        let answer = CreatePurchaseResponse::default();
        script.creates.lock().unwrap().push_back(Turn::Send(answer));
        let mut told = Vec::new();
        let note = |error: &Error, _| told.push(error.to_string());
        let created = client.create_within(order(), 60 * SECOND, note).await;
        assert!(created.is_ok(), "{page:?}: {created:?}");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains(&format!("HTTP {}", page.0)), "{told:?}");
        assert_eq!(script.seen_creates.lock().unwrap()[0].1, order());
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxys_pages_end_a_watch_once_its_patience_is_over() {
    let (client, script) = start(None);
    let pages = std::iter::repeat_n(PAGES[0], 100);
    script.proxied.lock().unwrap().extend(pages);
    let options = WatchOptions {
        patience: Some(60 * SECOND),
        ..WatchOptions::default()
    };
    let begun = Instant::now();
    let (_, error) = revisions(&mut client.watch("pur_1", options)).await;
    assert!(matches!(error, Some(Error::Unavailable(_))), "{error:?}");
    assert!(begun.elapsed() <= 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_added_later_is_skipped_and_counts_as_alive() {
    let (client, script) = start(None);
    script.watches.lock().unwrap().extend([
        vec![
            unknown(),
            snapshot(2),
            unknown(),
            transition(3),
            unknown(),
            Turn::Cut,
        ],
        vec![unknown(), transition(4), Turn::End],
    ]);
    let mut watch = client.watch("pur_1", WatchOptions::default());
    let (seen, error) = revisions(&mut watch).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(seen, [2, 3, 0, 4]);
    assert_eq!(cursors(&script), [None, Some(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_keeps_the_token_of_an_event_that_was_added_later() {
    let (client, script) = start(None);
    let unknown = |token: &str| {
        Turn::Send(WatchPurchasesResponse {
            event: None,
            resume_token: token.to_owned(),
        })
    };
    let expired = refusal(Code::OutOfRange, "RESUME_TOKEN_EXPIRED", None);
    script.feeds.lock().unwrap().extend([
        vec![step("a"), unknown("b"), Turn::Cut],
        vec![Turn::Fail(expired)],
    ]);
    let options = FeedOptions::default();
    let mut feed = client.watch_purchases(PurchaseFilter::default(), options);
    let mut said = Vec::new();
    while let Some(event) = feed.next().await {
        said.push(event.is_ok());
    }
    assert_eq!(
        said,
        [true, true, false],
        "a step, an interruption, the end"
    );
    let seen = script.seen_feeds.lock().unwrap();
    assert_eq!(seen[1].1.resume_token, "b");
}

fn step(token: &str) -> Turn<WatchPurchasesResponse> {
    let transition = PurchaseTransition {
        purchase: Some(Purchase::default()),
        ..PurchaseTransition::default()
    };
    let event = watch_purchases_response::Event::Transition(transition);
    Turn::Send(WatchPurchasesResponse {
        event: Some(event),
        resume_token: token.to_owned(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_feed_resumes_with_the_newest_token() {
    let (client, script) = start(None);
    let beat = watch_purchases_response::Event::Heartbeat(FeedHeartbeat::default());
    let beat = Turn::Send(WatchPurchasesResponse {
        event: Some(beat),
        resume_token: "b".to_owned(),
    });
    let expired = refusal(Code::OutOfRange, "RESUME_TOKEN_EXPIRED", None);
    script.feeds.lock().unwrap().extend([
        vec![Turn::Cut],
        vec![step("a"), beat, Turn::Cut],
        vec![step("c"), Turn::Hang],
        // The service ends no feed with OK, so somebody on the way has ended this one.
        vec![Turn::End],
        vec![Turn::Fail(expired)],
    ]);
    let options = FeedOptions {
        start: FeedStart::Beginning,
        ..FeedOptions::default()
    };
    let mut feed = client.watch_purchases(PurchaseFilter::default(), options);
    let mut tokens = Vec::new();
    let error = loop {
        match feed.next().await.unwrap() {
            Ok(FeedEvent::Transition { resume_token, .. }) => tokens.push(resume_token),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(tokens, ["a", "c"]);
    assert!(matches!(error, Error::CursorLost(_)), "{error:?}");
    let seen = script.seen_feeds.lock().unwrap();
    let asked: Vec<_> = seen
        .iter()
        .map(|(_, request)| (request.from_beginning, request.resume_token.as_str()))
        .collect();
    let expected = [
        (true, ""),
        (true, ""),
        (false, "b"),
        (false, "c"),
        (false, "c"),
    ];
    assert_eq!(asked, expected);
}

fn order() -> CreatePurchaseRequest {
    CreatePurchaseRequest {
        idempotency_key: "key-1".to_owned(),
        account: "shop".to_owned(),
        ..CreatePurchaseRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_is_repeated_with_the_same_request_only() {
    let (client, script) = start(None);
    let throttled = refusal(
        Code::ResourceExhausted,
        "ACCOUNT_THROTTLED",
        Some(3 * SECOND),
    );
    let answer = CreatePurchaseResponse {
        replayed: true,
        ..CreatePurchaseResponse::default()
    };
    script.creates.lock().unwrap().extend([
        Turn::Fail(throttled),
        Turn::Cut,
        Turn::Fail(refusal(Code::Unavailable, "PROVIDER_UNREACHABLE", None)),
        Turn::Fail(refusal(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None)),
        Turn::Send(answer.clone()),
    ]);
    assert_eq!(client.create(order()).await.unwrap(), answer);
    let seen = script.seen_creates.lock().unwrap();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|(_, request)| *request == order()));
    let waited = waits(&seen);
    assert!(
        waited[0] >= 3 * SECOND && waited[0] < 3 * SECOND + SLACK,
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_create_that_hangs_is_repeated() {
    let (client, script) = start(None);
    let answer = CreatePurchaseResponse::default();
    script
        .creates
        .lock()
        .unwrap()
        .extend([Turn::Hang, Turn::Send(answer)]);
    client.create(order()).await.unwrap();
    let waited = waits(&script.seen_creates.lock().unwrap());
    assert!(
        waited[0] >= 25 * SECOND && waited[0] < 25 * SECOND + SLACK,
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_create_is_not_repeated() {
    for (code, reason) in [
        (Code::FailedPrecondition, "PROVIDER_REJECTED"),
        (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"),
        (Code::InvalidArgument, "INVALID_REQUEST"),
    ] {
        let (client, script) = start(None);
        let refused = Turn::Fail(refusal(code, reason, None));
        script.creates.lock().unwrap().push_back(refused);
        let error = client.create(order()).await.unwrap_err();
        assert_eq!(
            (error.reason(), error.purchase_id()),
            (reason, Some("pur_1"))
        );
        assert_eq!(script.seen_creates.lock().unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_defect_of_the_service_is_tried_again_a_few_times() {
    let defect = || refusal(Code::Internal, "INTERNAL", None);
    let (client, script) = start(None);
    let answer = CreatePurchaseResponse::default();
    script.creates.lock().unwrap().extend([
        Turn::Fail(defect()),
        Turn::Fail(defect()),
        Turn::Send(answer),
    ]);
    client.create(order()).await.unwrap();
    script
        .creates
        .lock()
        .unwrap()
        .extend((0..9).map(|_| Turn::Fail(defect())));
    let error = client.create(order()).await.unwrap_err();
    assert_eq!(error.reason(), "INTERNAL");
    assert_eq!(script.seen_creates.lock().unwrap().len(), 3 + 4);

    // A defect that a stream has passed counts no more.
    script.watches.lock().unwrap().extend([
        vec![snapshot(1), Turn::Fail(defect())],
        vec![Turn::Fail(defect())],
        vec![transition(2), Turn::Fail(defect())],
    ]);
    let more = (0..9).map(|_| vec![Turn::Fail(defect())]);
    script.watches.lock().unwrap().extend(more);
    let mut watch = client.watch("pur_1", WatchOptions::default());
    let (seen, error) = revisions(&mut watch).await;
    assert_eq!(seen, [1, 0, 0, 2, 0, 0, 0]);
    assert_eq!(error.unwrap().reason(), "INTERNAL");
}

#[tokio::test(start_paused = true)]
async fn a_create_never_waits_past_its_deadline() {
    let (client, script) = start(None);
    let long = refusal(
        Code::ResourceExhausted,
        "ACCOUNT_THROTTLED",
        Some(61 * SECOND),
    );
    script.creates.lock().unwrap().push_back(Turn::Fail(long));
    let begun = Instant::now();
    let error = client.create(order()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(61 * SECOND));
    assert!(
        begun.elapsed() < SECOND,
        "it waited although no repeat could follow"
    );

    script.creates.lock().unwrap().push_back(Turn::Hang);
    let within = 10 * SECOND;
    let error = client
        .create_within(order(), within, |_, _| {})
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Deadline(_)), "{error:?}");
    assert!(begun.elapsed() < within + SECOND);
}

#[tokio::test(start_paused = true)]
async fn each_repeat_of_a_create_is_told() {
    let (client, script) = start(None);
    script.creates.lock().unwrap().extend([
        Turn::Fail(refusal(Code::Unavailable, "DRAINING", Some(SECOND))),
        Turn::Send(CreatePurchaseResponse::default()),
    ]);
    let mut told = Vec::new();
    let note = |error: &Error, wait| told.push((error.reason().to_owned(), wait));
    client
        .create_within(order(), 60 * SECOND, note)
        .await
        .unwrap();
    assert_eq!(told, [("DRAINING".to_owned(), SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn pages_are_read_to_the_last() {
    let (client, script) = start(None);
    let page = |next: &str| ListPurchasesResponse {
        next_page_token: next.to_owned(),
        ..ListPurchasesResponse::default()
    };
    script.pages.lock().unwrap().extend([page("x"), page("")]);
    let mut pages = client.list(PurchaseFilter::default(), 50);
    let mut count = 0;
    while pages.next().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 2);
    let seen = script.seen_pages.lock().unwrap();
    let asked: Vec<_> = seen
        .iter()
        .map(|(_, request)| (request.page_size, request.page_token.as_str()))
        .collect();
    assert_eq!(asked, [(50, ""), (50, "x")]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_get_gets_its_wait_on_top_of_the_call_limit() {
    let (client, _script) = start(None);
    let begun = Instant::now();
    let key = Key::PurchaseId("pur_1".to_owned());
    let error = client.get_after(key, 3, 20 * SECOND).await.unwrap_err();
    assert!(matches!(error, Error::Deadline(_)), "{error:?}");
    let waited = begun.elapsed();
    assert!(waited >= 50 * SECOND && waited < 51 * SECOND, "{waited:?}");
    assert_eq!(GetStatusRequest::default().after_revision, None);
}

#[tokio::test(start_paused = true)]
async fn the_token_goes_with_every_call() {
    let token = SecretToken::new("canary").unwrap();
    let (client, script) = start(Some(&token));
    client.accounts().await.unwrap();
    let seen = script.seen_tokens.lock().unwrap();
    assert_eq!(*seen, [Some("Bearer canary".to_owned())]);
    assert!(!format!("{client:?}").contains("canary"));
}

#[tokio::test]
async fn a_client_connects_lazily_over_tcp_and_unix_sockets() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let path = std::env::temp_dir().join(format!("{}.sock", uuid::Uuid::new_v4()));
    let clients = [address, format!("unix:{}", path.display())]
        .map(|server| Client::connect(Config::new(server)).unwrap());
    let unix = tokio::net::UnixListener::bind(&path).unwrap();
    let service = PurchaseServiceServer::new(Scripted(std::sync::Arc::default()));
    let serve = |service| Server::builder().add_service(service);
    let tcp = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(serve(service.clone()).serve_with_incoming(tcp));
    let unix = tokio_stream::wrappers::UnixListenerStream::new(unix);
    tokio::spawn(serve(service).serve_with_incoming(unix));
    for client in clients {
        assert!(client.accounts().await.unwrap().is_empty());
        let error = client.health("").await.unwrap_err();
        assert!(
            matches!(error, Error::Server(_)),
            "no health service is scripted: {error:?}"
        );
    }
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_the_cause() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = Client::connect(Config::new(address)).unwrap();
    let error = client.accounts().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}
