//! gRPC-Web over HTTP/1.1 to a port, from pages that send or read only a part.

use std::sync::atomic::Ordering;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{super::*, port::Served};
use crate::limits::Limit;

const ORIGIN: &str = "https://shop.example";

async fn serve() -> Served {
    super::port::serve_pages(10, Origins::new(&[ORIGIN.to_owned()])).await
}

/// The head of a call whose body has so many bytes.
fn call(path: &str, bytes: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\norigin: {ORIGIN}\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: {bytes}\r\n\r\n"
    )
}

async fn connect(served: &Served, text: &str) -> TcpStream {
    let mut peer = TcpStream::connect(&served.address).await.unwrap();
    peer.write_all(text.as_bytes()).await.unwrap();
    peer
}

/// All that comes until the connection is closed.
async fn rest(peer: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset closes a connection as well as an end does.
    let _ = peer.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(start_paused = true)]
async fn a_page_s_calls_share_a_connection_that_ends_when_it_is_silent() {
    let served = serve().await;
    let begun = Instant::now();
    // Both at once: the second waits for the first one's end.
    let mut peer = connect(&served, &call("/x", 0).repeat(2)).await;
    let told = rest(&mut peer).await;
    assert_eq!(told.matches("HTTP/1.1 200 OK").count(), 2, "{told}");
    assert_eq!(told.matches("grpc-status:0\r\n").count(), 2, "{told}");
    assert_eq!(told.matches(ORIGIN).count(), 2, "{told}");
    assert!(begun.elapsed() >= PREFACE_TIMEOUT, "{:?}", begun.elapsed());
    assert_eq!(served.port.calls(), [("m", "OK", 2)]);
}

#[tokio::test(start_paused = true)]
async fn headers_that_come_slowly_or_are_too_long_end_a_page_s_connection() {
    let served = serve().await;
    let begun = Instant::now();
    let half = "POST /x HTTP/1.1\r\nhost: x\r\norigin: ";
    let mut peer = connect(&served, half).await;
    for _ in 0..3 {
        sleep(PREFACE_TIMEOUT / 4).await;
        peer.write_all(b"x").await.unwrap();
    }
    rest(&mut peer).await;
    let took = begun.elapsed();
    assert!(
        took >= PREFACE_TIMEOUT && took < PREFACE_TIMEOUT * 2,
        "{took:?}"
    );
    let long = "x".repeat(HEADER_LIST_BYTES as usize);
    let mut peer = connect(&served, &format!("{half}{long}\r\n\r\n")).await;
    let told = rest(&mut peer).await;
    assert!(
        told.starts_with("HTTP/1.1 431 ") || told.is_empty(),
        "{told}"
    );
    assert_eq!(served.port.calls(), []);
}

/// The limit is told in gRPC's terms, and the page may read it.
#[tokio::test(start_paused = true)]
async fn a_page_s_body_that_comes_slowly_or_is_too_long_is_refused() {
    let served = serve().await;
    let mut peer = connect(&served, &(call("/x", 100) + "half")).await;
    let told = rest(&mut peer).await;
    let late = format!("grpc-message: {}", Limit::RequestTime.name());
    assert!(
        told.contains("grpc-status: 8\r\n") && told.contains(&late),
        "{told}"
    );
    assert!(
        told.contains("access-control-expose-headers: grpc-status,"),
        "{told}"
    );
    let bytes = 300 * 1024;
    let mut peer = connect(&served, &call("/x", bytes)).await;
    let _ = peer.write_all(&vec![b'x'; bytes]).await;
    let told = rest(&mut peer).await;
    assert!(
        told.contains("grpc-status: 11\r\n") || told.is_empty(),
        "{told}"
    );
    let counted = served.port.calls();
    assert_eq!(
        counted,
        [("m", "OUT_OF_RANGE", 1), ("m", "RESOURCE_EXHAUSTED", 1)]
    );
}

/// Over HTTP/1.1 an answer can only be cut off with its connection.
#[tokio::test(start_paused = true)]
async fn a_page_s_stream_that_nobody_reads_is_gone_soon_after_its_end() {
    let served = serve().await;
    let peer = connect(&served, &call("/endless", 0)).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(served.held.load(Ordering::SeqCst), 1);
    sleep(Duration::from_secs(13)).await;
    assert_eq!(
        served.held.load(Ordering::SeqCst),
        0,
        "it holds nothing any more"
    );
    assert_eq!(served.port.connections(), 0);
    drop(peer);
}

/// A page that goes away takes its stream along.
#[tokio::test]
async fn a_page_that_is_closed_ends_its_stream() {
    let served = serve().await;
    let peer = connect(&served, &call("/silent", 0)).await;
    let count = async |wanted: usize| {
        while served.port.connections() != wanted {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = timeout(Duration::from_secs(10), async {
        count(1).await;
        drop(peer);
        count(0).await;
    });
    seen.await.expect("the connection is gone");
}
