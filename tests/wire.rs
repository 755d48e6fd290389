//! The server's own status codes, over raw HTTP/2: with a client library, its clock or its checks
//! would answer first.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tillwatch_proto::{
    PURCHASE_SERVICE,
    v1::{GetStatusRequest, ListAccountsRequest, get_status_request::Key},
};
use tillwatch_sandbox::Scenario;
use tokio::{net::TcpStream, time::Instant};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    house::{House, token},
    orders::request,
    process::within,
    raw::framed,
};

type Frames = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

/// A message as gRPC frames it. With `compressed` the frame claims that it is compressed.
fn message(message: &impl prost::Message, compressed: bool) -> Frames {
    let mut framed = framed(message);
    framed[0] = u8::from(compressed);
    stream::iter([Ok(Frame::data(framed.into()))]).boxed()
}

/// The status with which the server ends a call.
async fn told(house: &House, method: &str, headers: &[(&str, &str)], frames: Frames) -> Status {
    let stream = TcpStream::connect(&house.server.grpc).await.unwrap();
    let executor = TokioExecutor::new();
    let connected = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/{PURCHASE_SERVICE}/{method}", house.server.grpc);
    let mut request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", token("shop")));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(StreamBody::new(frames)).unwrap();
    let answer = within("an answer", sender.send_request(request)).await;
    let (head, body) = answer.unwrap().into_parts();
    let told = match Status::from_header_map(&head.headers) {
        Some(status) => status,
        None => {
            let body = within("the end", body.collect()).await.unwrap();
            Status::from_header_map(body.trailers().unwrap()).unwrap()
        }
    };
    connection.abort();
    told
}

/// The server answers by itself: tonic's own timer would answer CANCELLED.
#[tokio::test]
async fn a_callers_deadline_is_answered_with_deadline_exceeded_by_the_server_itself() {
    let house = House::still().await;
    let id = house
        .create("shop", request("key", "carbon", Scenario::Stuck))
        .await
        .id;
    let waits = GetStatusRequest {
        key: Some(Key::PurchaseId(id)),
        after_revision: Some(100),
        max_wait: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
    };
    // The second call's message never comes, so no handler answers.
    let calls = [message(&waits, false), stream::pending().boxed()];
    for frames in calls {
        let began = Instant::now();
        let status = told(&house, "GetStatus", &[("grpc-timeout", "400m")], frames).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "DEADLINE_EXCEEDED");
        assert!(began.elapsed().as_millis() >= 300, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_compressed_request_is_refused_and_told_what_is_taken() {
    let house = House::still().await;
    let compressed = message(&ListAccountsRequest {}, true);
    let gzip = [("grpc-encoding", "gzip")];
    let status = told(&house, "ListAccounts", &gzip, compressed).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    let accepted = status.metadata().get("grpc-accept-encoding");
    assert_eq!(accepted.unwrap(), "identity", "{status:?}");
    // A client that accepts compressed answers gets plain ones.
    let accepts = [("grpc-accept-encoding", "gzip,deflate,identity")];
    let plain = message(&ListAccountsRequest {}, false);
    let status = told(&house, "ListAccounts", &accepts, plain).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}
