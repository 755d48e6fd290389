//! Foreign clients against the real server: grpcurl, and Python with generated stubs.
//!
//! `scripts/install-consumers` puts them into `.cache/`. If they are missing, these tests say so on
//! standard error, and fail if the environment says `CI=true`.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::{Deserializer, Value, json};
use tillwatch_proto::PURCHASE_SERVICE;
use tillwatch_sandbox::{Options, Scenario};
use tokio::process::Command;

use crate::{
    house::{House, Settings, devdraft_json, token},
    process::within,
    tidy::sources::root,
};

pub fn installed(path: &str) -> Option<PathBuf> {
    installed_by("scripts/install-consumers", path)
}

/// A tool that a script installs. If it is missing, the test says so and skips, or fails in CI.
pub fn installed_by(script: &str, path: &str) -> Option<PathBuf> {
    let path = root().join(".cache").join(path);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing: run {script}", path.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

/// The end and the output of a tool.
pub struct Printed {
    pub success: bool,
    pub out: String,
    pub err: String,
}

pub async fn print(command: &mut Command) -> Printed {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within("a consumer ends", command.output()).await.unwrap();
    Printed {
        success: output.status.success(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A house whose providers' lives take a tenth of a second.
pub async fn quick() -> House {
    House::start(Settings {
        sandbox: Options {
            speed: 100.0,
            ..Settings::default().sandbox
        },
        ..Settings::default()
    })
    .await
}

/// The body of a create in proto JSON.
fn create(key: &str, scenario: Scenario) -> String {
    json!({
        "idempotencyKey": key,
        "account": "devdraft-main",
        "devdraft": devdraft_json(scenario),
    })
    .to_string()
}

/// The JSON objects that grpcurl printed, one after the other.
fn objects(text: &str) -> Vec<Value> {
    let values = Deserializer::from_str(text).into_iter();
    values.map(Result::unwrap).collect()
}

#[tokio::test]
async fn grpcurl_lists_describes_creates_gets_and_watches() {
    let Some(grpcurl) = installed("bin/grpcurl") else {
        return;
    };
    let house = quick().await;
    let authorization = format!("authorization: Bearer {}", token("shop"));
    let call = async |arguments: &[&str]| {
        let mut command = Command::new(&grpcurl);
        command
            .args(["-plaintext", "-H", &authorization])
            .args(arguments);
        print(&mut command).await
    };
    let server = house.server.grpc.as_str();
    let listed = call(&[server, "list"]).await;
    assert!(listed.success, "{}", listed.err);
    let names: Vec<&str> = listed.out.lines().collect();
    for name in [PURCHASE_SERVICE, "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name}: {}", listed.out);
    }
    let described = call(&[server, "describe", PURCHASE_SERVICE]).await;
    assert!(
        described.out.contains("rpc WatchStatus"),
        "{}",
        described.out
    );
    let method = |name: &str| format!("{PURCHASE_SERVICE}/{name}");
    let (order, creates) = (create("one", Scenario::Paid), method("CreatePurchase"));
    let made = call(&["-d", &order, server, &creates]).await;
    assert!(made.success, "{}", made.err);
    let purchase = objects(&made.out)[0]["purchase"].clone();
    let id = purchase["id"].as_str().unwrap();
    let about = json!({ "purchaseId": id, "afterRevision": 0 }).to_string();
    let watched = call(&["-d", &about, server, &method("WatchStatus")]).await;
    assert!(watched.success, "the stream ends with OK: {}", watched.err);
    let events = objects(&watched.out);
    let steps = events.iter().filter_map(|event| event.get("transition"));
    let revisions: Vec<Value> = steps
        .map(|step| step["status"]["revision"].clone())
        .collect();
    let dense: Vec<Value> = (1..=revisions.len()).map(|number| json!(number)).collect();
    assert_eq!(revisions, dense);
    assert!(
        watched.out.contains("PURCHASE_STATE_COMPLETED"),
        "{}",
        watched.out
    );
    let about = json!({ "purchaseId": id }).to_string();
    let got = call(&["-d", &about, server, &method("GetStatus")]).await;
    assert_eq!(objects(&got.out)[0]["purchase"]["id"], json!(id));
    let other = create("one", Scenario::Declined);
    let reused = call(&["-d", &other, server, &method("CreatePurchase")]).await;
    assert!(!reused.success);
    for word in [
        "AlreadyExists",
        "IDEMPOTENCY_KEY_REUSED",
        "stablecoin.amount",
    ] {
        assert!(reused.err.contains(word), "{word}: {}", reused.err);
    }
}

#[tokio::test]
async fn grpcurl_asks_for_health() {
    let Some(grpcurl) = installed("bin/grpcurl") else {
        return;
    };
    let house = quick().await;
    for server in [&house.server.grpc, &house.server.ops] {
        let mut command = Command::new(&grpcurl);
        // The operations listener has no reflection, so grpcurl gets the contract as a file.
        command
            .args(["-plaintext", "-import-path"])
            .arg(root().join("proto"))
            .args(["-proto", "grpc/health/v1/health.proto"])
            .args(["-d", r#"{"service": "liveness"}"#, server])
            .arg("grpc.health.v1.Health/Check");
        let health = print(&mut command).await;
        assert!(health.success, "{}", health.err);
        assert_eq!(objects(&health.out), [json!({ "status": "SERVING" })]);
    }
    let mut command = Command::new(&grpcurl);
    command
        .args([
            "-plaintext",
            "-max-time",
            "2",
            "-d",
            r#"{"service": "nobody"}"#,
        ])
        .args([&house.server.grpc, "grpc.health.v1.Health/Watch"]);
    let watch = print(&mut command).await;
    assert_eq!(
        objects(&watch.out),
        [json!({ "status": "SERVICE_UNKNOWN" })]
    );
    assert!(
        watch.err.contains("DeadlineExceeded"),
        "it stays open: {}",
        watch.err
    );
}

#[tokio::test]
async fn a_python_client_of_generated_stubs_creates_watches_and_reads_errors() {
    let Some(python) = installed("python/bin/python") else {
        return;
    };
    let house = quick().await;
    let stubs = house.folder().join("stubs");
    std::fs::create_dir(&stubs).unwrap();
    let proto = root().join("proto");
    let mut generate = Command::new(&python);
    generate
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&proto)
        .arg(format!("--python_out={}", stubs.display()))
        .arg(format!("--grpc_python_out={}", stubs.display()))
        .args(
            ["order", "purchase", "purchase_service"]
                .map(|name| proto.join(format!("tillwatch/v1/{name}.proto"))),
        );
    let generated = print(&mut generate).await;
    assert!(generated.success, "{}", generated.err);
    let mut client = Command::new(&python);
    client
        .arg(root().join("tests/consumer.py"))
        .args([&house.server.grpc, &token("shop")])
        .env("PYTHONPATH", &stubs)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let said = tokio::time::timeout(Duration::from_secs(60), print(&mut client))
        .await
        .unwrap();
    assert!(said.success, "{}\n{}", said.out, said.err);
    assert_eq!(
        said.out.lines().last(),
        Some("all as promised"),
        "{}",
        said.out
    );
    assert_eq!(house.sandbox.created("devdraft"), 1);
}
