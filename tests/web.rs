//! gRPC-Web: pages of listed origins, by raw HTTP/1.1 and in a real browser.

mod browser;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost::Message as _;
use tillwatch_proto::v1::{
    ListAccountsRequest, PurchaseState, WatchStatusRequest, WatchStatusResponse,
    watch_status_response::Event,
};
use tillwatch_sandbox::Scenario;

use crate::{
    house::{House, Settings, token},
    orders::request,
    port::answered,
    raw::{framed, path},
};

const ORIGIN: &str = "https://shop.example";
/// The flag of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// A house that serves pages of one origin.
async fn open_house() -> House {
    House::start(Settings {
        listen: format!("drain = \"10s\"\nweb_origins = [\"{ORIGIN}\"]"),
        ..Settings::default()
    })
    .await
}

/// A request over HTTP/1.1, on a connection of its own.
fn http_1(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let length = body.len();
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n"
    );
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n" + body
}

/// The status of an answer, and the values of a header.
fn status(told: &str) -> &str {
    told.split(' ').nth(1).unwrap_or(told)
}

fn header<'a>(told: &'a str, name: &str) -> Option<&'a str> {
    let head = told.split("\r\n\r\n").next()?;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

#[tokio::test]
async fn a_listed_origin_may_ask_and_call_and_no_other_gets_a_word() {
    let house = open_house().await;
    let bearer = format!("Bearer {}", token("shop"));
    let kind = ("content-type", "application/grpc-web+proto");
    let authorized = ("authorization", bearer.as_str());
    let asks = ("access-control-request-method", "POST");
    let body = String::from_utf8(framed(&ListAccountsRequest {})).unwrap();
    let method = path("ListAccounts");
    let other = ("origin", "https://evil.example");
    let own = ("origin", ORIGIN);

    let told = answered(&house, &http_1("OPTIONS", &method, &[own, asks], "")).await;
    assert_eq!(status(&told), "204", "{told}");
    assert_eq!(header(&told, "access-control-allow-origin"), Some(ORIGIN));
    assert_eq!(header(&told, "access-control-allow-methods"), Some("POST"));
    let allowed = header(&told, "access-control-allow-headers").unwrap();
    for name in [
        "authorization",
        "content-type",
        "x-grpc-web",
        "x-user-agent",
        "grpc-timeout",
    ] {
        assert!(
            allowed.split(',').any(|allowed| allowed == name),
            "{allowed}"
        );
    }
    assert_eq!(header(&told, "access-control-max-age"), Some("7200"));
    assert_eq!(header(&told, "vary"), Some("origin"));
    assert_eq!(header(&told, "access-control-allow-credentials"), None);

    let told = answered(
        &house,
        &http_1("POST", &method, &[own, kind, authorized], &body),
    )
    .await;
    assert_eq!(status(&told), "200", "{told}");
    assert_eq!(header(&told, "access-control-allow-origin"), Some(ORIGIN));
    assert_eq!(
        header(&told, "access-control-expose-headers"),
        Some("grpc-status,grpc-message,grpc-status-details-bin")
    );
    assert_eq!(header(&told, "vary"), Some("origin"));
    assert!(
        told.contains("carbon-main") && told.contains("grpc-status:0\r\n"),
        "{told}"
    );

    // A page of a listed origin needs a token as everybody does, and may read that.
    let told = answered(&house, &http_1("POST", &method, &[own, kind], &body)).await;
    assert_eq!(header(&told, "grpc-status"), Some("16"), "{told}");
    assert_eq!(header(&told, "access-control-allow-origin"), Some(ORIGIN));

    for origin in [Some(other), None] {
        for (verb, headers) in [("POST", vec![kind, authorized]), ("OPTIONS", vec![asks])] {
            let headers: Vec<_> = headers.into_iter().chain(origin).collect();
            let told = answered(&house, &http_1(verb, &method, &headers, &body)).await;
            assert_eq!(status(&told), "403", "{verb} {headers:?}: {told}");
            assert_eq!(header(&told, "vary"), Some("origin"));
            assert!(
                !told.contains("access-control") && !told.contains("main"),
                "{told}"
            );
        }
    }

    // Without the list there is no gRPC-Web.
    let closed = House::still().await;
    for (verb, headers) in [
        ("POST", vec![own, kind, authorized]),
        ("OPTIONS", vec![own, asks]),
    ] {
        let told = answered(&closed, &http_1(verb, &method, &headers, &body)).await;
        assert_eq!(status(&told), "404", "{told}");
        assert!(!told.contains("access-control"), "{told}");
    }
}

/// The bytes of a body that came in chunks.
fn unchunked(told: &[u8]) -> Vec<u8> {
    let start = told
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let (mut rest, mut body) = (&told[start..], Vec::new());
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = std::str::from_utf8(&rest[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend(&rest[end + 2..end + 2 + length]);
        rest = &rest[end + 2 + length + 2..];
    }
}

/// The frames of a body: flag and content.
fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let (head, rest) = body.split_at(5);
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        frames.push((head[0], rest[..length].to_vec()));
        body = &rest[length..];
    }
    frames
}

#[tokio::test]
async fn a_page_watches_a_purchase_to_its_end_in_bytes_and_in_text() {
    let house = open_house().await;
    let order = request("page", "carbon", Scenario::Paid);
    let id = house.create("shop", order).await.id;
    let watch = WatchStatusRequest {
        purchase_id: id,
        after_revision: Some(0),
        ..WatchStatusRequest::default()
    };
    let watch = String::from_utf8(framed(&watch)).unwrap();
    let bearer = format!("Bearer {}", token("shop"));
    for (kind, body) in [
        ("application/grpc-web+proto", watch.clone()),
        ("application/grpc-web-text", BASE64_STANDARD.encode(&watch)),
    ] {
        let headers = [
            ("origin", ORIGIN),
            ("content-type", kind),
            ("accept", kind),
            ("authorization", bearer.as_str()),
        ];
        let text = http_1("POST", &path("WatchStatus"), &headers, &body);
        let told = crate::port::bytes(&house, text.as_bytes()).await;
        let mut body = unchunked(&told);
        if kind.contains("text") {
            // Each chunk is a text of its own, with its own padding.
            let quads = body
                .chunks(4)
                .map(|quad| BASE64_STANDARD.decode(quad).unwrap());
            body = quads.flatten().collect();
        }
        let (mut revisions, mut state, mut trailers) = (Vec::new(), None, None);
        for (flag, content) in frames(&body) {
            if flag == TRAILERS {
                trailers = Some(String::from_utf8(content).unwrap());
                continue;
            }
            assert_eq!(trailers, None, "a message after the trailers");
            let message = WatchStatusResponse::decode(content.as_slice()).unwrap();
            if let Some(Event::Transition(step)) = message.event {
                let status = step.status.unwrap();
                revisions.push(status.revision);
                state = Some(status.state());
            }
        }
        let last = revisions.last().copied().unwrap();
        assert_eq!(revisions, (1..=last).collect::<Vec<_>>(), "{kind}");
        assert_eq!(state, Some(PurchaseState::Completed), "{kind}");
        assert!(trailers.unwrap().contains("grpc-status:0\r\n"), "{kind}");
    }
}
