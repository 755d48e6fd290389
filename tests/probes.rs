//! The questions of a mesh, a kubelet and grpcurl: health in all its forms, and reflection.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use tillwatch_proto::{
    FILE_DESCRIPTOR_SET, PURCHASE_SERVICE,
    health::{
        HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus,
        health_client::HealthClient,
    },
    v1::{ListAccountsRequest, purchase_service_client::PurchaseServiceClient},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::{executables::executable, house::House, process::within};

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn check(channel: &Channel, service: &str) -> Result<ServingStatus, Code> {
    let mut health = HealthClient::new(channel.clone());
    let answer = within("an answer", health.check(about(service))).await;
    answer
        .map(|answer| answer.into_inner().status())
        .map_err(|status| status.code())
}

#[tokio::test]
async fn health_is_checked_listed_and_watched_on_both_listeners() {
    let house = House::still().await;
    let ops = Endpoint::from_shared(format!("http://{}", house.server.ops)).unwrap();
    let serving = Ok(ServingStatus::Serving);
    for channel in [house.channel().await, ops.connect().await.unwrap()] {
        for name in ["", PURCHASE_SERVICE, "liveness"] {
            assert_eq!(check(&channel, name).await, serving, "{name:?}");
        }
        assert_eq!(check(&channel, "nobody").await, Err(Code::NotFound));
        let mut health = HealthClient::new(channel.clone());
        let list = health
            .list(HealthListRequest {})
            .await
            .unwrap()
            .into_inner();
        let names: BTreeSet<&str> = list.statuses.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["", PURCHASE_SERVICE, "liveness"]));
        let watch = health.watch(about(PURCHASE_SERVICE)).await;
        let mut watch = watch.unwrap().into_inner();
        let first = within("the state", watch.message()).await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn operations_serve_no_purchases() {
    let house = House::still().await;
    let ops = Endpoint::from_shared(format!("http://{}", house.server.ops)).unwrap();
    let mut purchases = PurchaseServiceClient::new(ops.connect().await.unwrap());
    let refused = purchases
        .list_accounts(ListAccountsRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_watch_of_an_unknown_name_says_so_and_stays_open() {
    let house = House::still().await;
    let mut health = HealthClient::new(house.channel().await);
    let mut watch = health.watch(about("nobody")).await.unwrap().into_inner();
    let first = within("the state", watch.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    // The stream is open: the server answers another call before it ends.
    let next = tokio::spawn(async move { watch.message().await });
    check(&house.channel().await, "").await.unwrap();
    assert!(!next.is_finished());
    house.server.signal("TERM").await;
    let ended = within("the end of the watch", next).await.unwrap();
    assert!(matches!(ended, Ok(None)), "{ended:?}");
}

#[tokio::test]
async fn probes_without_grpc_are_answered() {
    let house = House::still().await;
    for (path, status) in [("/healthz", "200"), ("/readyz", "200"), ("/nothing", "404")] {
        let answer = within("an answer", async {
            let mut stream = tokio::net::TcpStream::connect(&house.server.ops)
                .await
                .unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let answer = answer.await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{path}: {answer}");
    }
}

#[tokio::test]
async fn reflection_names_the_services_in_both_versions() {
    let house = House::still().await;
    let channel = house.channel().await;
    let expected = BTreeSet::from([
        PURCHASE_SERVICE.to_owned(),
        "grpc.health.v1.Health".to_owned(),
    ]);
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let answer = client.server_reflection_info(stream::iter([request])).await;
    let answer = answer.unwrap().into_inner().next().await.unwrap().unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("not a list");
    };
    let names: BTreeSet<String> = list.service.into_iter().map(|one| one.name).collect();
    assert!(names.is_superset(&expected), "{names:?}");
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
                PURCHASE_SERVICE.to_owned(),
            ),
        ),
    };
    let answer = client.server_reflection_info(stream::iter([request])).await;
    let answer = answer.unwrap().into_inner().next().await.unwrap().unwrap();
    let Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(files)) =
        answer.message_response
    else {
        panic!("not a file");
    };
    // Reflection serves the contract itself, byte for byte.
    let file = &files.file_descriptor_proto[0];
    let held = FILE_DESCRIPTOR_SET
        .windows(file.len())
        .any(|part| part == file);
    assert!(held, "{} bytes", file.len());
}

/// The exit code of `tillwatch-server health`, and its words.
async fn probe(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(executable("tillwatch-server"));
    let asked = command.arg("health").args(arguments).output();
    let output = within("a probe ends", asked).await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), told)
}

#[tokio::test]
async fn the_probe_of_an_image_without_a_shell_exits_with_the_truth() {
    let mut house = House::still().await;
    let (grpc, ops) = (house.server.grpc.clone(), house.server.ops.clone());
    for address in [&grpc, &ops] {
        for service in ["", "liveness", PURCHASE_SERVICE] {
            let (code, told) = probe(&["--address", address, service]).await;
            assert_eq!((code, told.as_str()), (Some(0), ""), "{address} {service}");
        }
    }
    let (code, told) = probe(&["--address", &ops, "nobody"]).await;
    assert_eq!(code, Some(1));
    assert!(
        told.contains("does not know the service \"nobody\""),
        "{told}"
    );
    let (code, told) = probe(&["--address", "unix:x"]).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("must be host:port or unix:/path"), "{told}");
    // A server that has stopped in its tracks does not answer, and the probe does not wait for it.
    house.server.signal("STOP").await;
    let (code, told) = probe(&["--address", &ops]).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("no answer"), "{told}");
    house.server.signal("CONT").await;
    house.server.kill().await;
    assert_eq!(probe(&["--address", &ops]).await.0, Some(1));
}
