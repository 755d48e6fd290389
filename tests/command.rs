//! The `tillwatch` command against the real server: its output, and its exit codes.

use std::{fs, process::Stdio};

use serde_json::{Value, json};
use tillwatch_proto::v1::PurchaseState;
use tillwatch_sandbox::{Fault, Options, Scenario, Target};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    executables::executable,
    house::{House, Settings, devdraft_json, token},
    process::within,
};

/// The command with these arguments, run by a caller.
fn command(house: &House, caller: &str, arguments: &[&str]) -> Command {
    let file = house.folder().join(format!("{caller}.token"));
    fs::write(&file, token(caller)).unwrap();
    let mut command = Command::new(executable("tillwatch"));
    command
        .env_clear()
        .args(["--server", &house.server.grpc, "--token-file"])
        .arg(file)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The end and the output of a command.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// The lines of its output, read as JSON.
    fn json(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

async fn ended(child: Child) -> Said {
    let output = within("a command ends", child.wait_with_output())
        .await
        .unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn run(house: &House, caller: &str, arguments: &[&str]) -> Said {
    let mut child = command(house, caller, arguments).spawn().unwrap();
    drop(child.stdin.take());
    ended(child).await
}

/// Runs `tillwatch create` with this order on standard input.
async fn create(house: &House, order: &Value, arguments: &[&str]) -> Said {
    let arguments = [&["create", "--order", "-"], arguments].concat();
    let mut child = command(house, "shop", &arguments).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(order.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    ended(child).await
}

fn devdraft(scenario: Scenario) -> Value {
    json!({ "devdraft": devdraft_json(scenario) })
}

fn carbon() -> Value {
    json!({ "carbon": {
        "contactId": "ab5b0000-0000-4000-8000-000000000001",
        "creditDebitId": "0f610000-0000-4000-8000-000000000001",
        "fiatChargeAmount": "10.00",
        "cryptocurrencySymbol": "eth",
        "receiveAddress": "0x0000000000000000000000000000000000000001",
        "confirmationUrl": "https://shop.example.test/confirm",
        "successRedirectUrl": "https://shop.example.test/ok",
        "errorRedirectUrl": "https://shop.example.test/err",
    } })
}

#[tokio::test]
async fn the_command_creates_shows_lists_and_refreshes() {
    let house = House::still().await;
    let labelled = ["--json", "--key", "one", "--label", "cart=7"];
    let made = create(&house, &devdraft(Scenario::Stuck), &labelled).await;
    assert_eq!(made.code, Some(0), "{}", made.err);
    let purchase = made.json()[0]["purchase"].clone();
    assert_eq!(purchase["labels"], json!({ "cart": "7" }));
    let id = purchase["id"].as_str().unwrap();
    let again = create(&house, &devdraft(Scenario::Stuck), &labelled).await;
    assert_eq!(again.json()[0]["replayed"], json!(true));
    assert!(again.err.contains("known already"), "{}", again.err);
    let by_id = run(&house, "shop", &["get", id, "--json"]).await;
    assert_eq!(by_id.json()[0]["purchase"]["id"], json!(id));
    let by_key = run(&house, "shop", &["get", "--key", "one"]).await;
    assert_eq!(by_key.code, Some(0), "{}", by_key.err);
    assert!(by_key.out.contains(id), "{}", by_key.out);
    let listed = run(&house, "shop", &["list", "--json", "--label", "cart=7"]).await;
    let ids: Vec<Value> = listed.json().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, [json!(id)]);
    let listed = run(&house, "shop", &["list"]).await;
    assert!(listed.out.contains(id), "{}", listed.out);
    let fresh = run(&house, "shop", &["refresh", id, "--json"]).await;
    assert_eq!(fresh.code, Some(0), "{}", fresh.err);
    let status = &fresh.json()[0]["purchase"]["status"];
    assert_eq!(status["state"], json!("PURCHASE_STATE_AWAITING_PAYMENT"));
    let accounts = run(&house, "reader", &["accounts", "--json"]).await;
    assert_eq!(accounts.json().len(), tillwatch_sandbox::PROVIDERS.len());
    let accounts = run(&house, "reader", &["accounts"]).await;
    assert!(accounts.out.contains("masumi-main"), "{}", accounts.out);
}

#[tokio::test]
async fn the_command_exits_as_its_help_says() {
    let house = House::start(Settings {
        sandbox: Options {
            speed: 100.0,
            ..Settings::default().sandbox
        },
        ..Settings::default()
    })
    .await;
    let watched = ["--key", "paid", "--watch"];
    let paid = create(&house, &devdraft(Scenario::Paid), &watched).await;
    assert_eq!(paid.code, Some(0), "{}", paid.err);
    assert!(paid.out.contains("COMPLETED"), "{}", paid.out);
    assert!(!paid.out.contains('\u{1b}'), "colours without a terminal");
    let declined = ["--key", "declined", "--watch", "--json"];
    let declined = create(&house, &devdraft(Scenario::Declined), &declined).await;
    assert_eq!(declined.code, Some(3), "{}", declined.err);
    let refused = create(&house, &devdraft(Scenario::Refused), &["--key", "refused"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("PROVIDER_REJECTED"), "{}", refused.err);
    let misspelt = create(&house, &json!({ "devdraft": { "bunk": {} } }), &[]).await;
    assert_eq!(misspelt.code, Some(2));
    assert!(misspelt.err.contains("devdraft.bunk"), "{}", misspelt.err);
    let unknown = run(
        &house,
        "shop",
        &["watch", "pur_00000000000000000000000000000000"],
    )
    .await;
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.err.contains("PURCHASE_NOT_FOUND"),
        "{}",
        unknown.err
    );
    let nonsense = run(&house, "shop", &["fly"]).await;
    assert_eq!(nonsense.code, Some(2));
    for service in ["", "liveness", "tillwatch.v1.PurchaseService"] {
        let health = run(&house, "shop", &["health", service]).await;
        assert_eq!(health.code, Some(0), "{service:?}: {}", health.err);
        assert_eq!(health.out, "SERVING\n");
    }
    assert_eq!(
        run(&house, "shop", &["health", "nobody"]).await.code,
        Some(1)
    );
}

#[tokio::test]
async fn the_command_resolves_what_is_unclear() {
    let house = House::still().await;
    house
        .sandbox
        .fault_on("carbon", Target::Create, Fault::Lost, 1);
    let made = create(&house, &carbon(), &["--key", "lost", "--json"]).await;
    assert_eq!(made.code, Some(0), "{}", made.err);
    let purchase = made.json()[0]["purchase"].clone();
    let unknown = json!("PURCHASE_STATE_OUTCOME_UNKNOWN");
    assert_eq!(purchase["status"]["state"], unknown);
    let id = purchase["id"].as_str().unwrap();
    let order = house.sandbox.references("carbon").pop().unwrap();
    let contact = "ab5b0000-0000-4000-8000-000000000001";
    let reference = json!({ "carbon": { "orderId": order, "contactId": contact } }).to_string();
    let named = |revision| {
        [
            "resolve",
            id,
            "--revision",
            revision,
            "--reference",
            &reference,
        ]
    };
    let stale = run(&house, "desk", &named("1")).await;
    assert_eq!(stale.code, Some(1));
    assert!(stale.err.contains("REVISION_CHANGED"), "{}", stale.err);
    let resolved = run(&house, "desk", &named("2")).await;
    assert_eq!(resolved.code, Some(0), "{}", resolved.err);
    house
        .settled("followed", id, |status| {
            status.state() == PurchaseState::Created
        })
        .await;
    assert_eq!(house.sandbox.created("carbon"), 1);
}

#[tokio::test]
async fn a_watch_on_the_command_line_goes_on_over_a_restart() {
    let mut house = House::still().await;
    let made = create(
        &house,
        &devdraft(Scenario::Paid),
        &["--key", "one", "--json"],
    )
    .await;
    let id = made.json()[0]["purchase"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let arguments = ["watch", &id, "--after", "0", "--json"];
    let mut child = command(&house, "shop", &arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    while let Some(line) = within("the next line", lines.next_line()).await.unwrap() {
        let event: Value = serde_json::from_str(&line).unwrap();
        let status = &event["transition"]["status"];
        seen.push(status["revision"].as_u64().unwrap());
        if status["state"] == json!("PURCHASE_STATE_AWAITING_PAYMENT") {
            house.server.kill().await;
            house.restart().await;
            house.sandbox.resume();
        }
    }
    let dense: Vec<u64> = (1..).take(seen.len()).collect();
    assert_eq!(seen, dense);
    assert!(seen.len() >= 5, "{seen:?}");
    let said = ended(child).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("lost the server"), "{}", said.err);
}

#[tokio::test]
async fn a_watch_that_nobody_reads_any_more_does_not_end_as_a_completed_purchase_does() {
    let house = House::still().await;
    let order = devdraft(Scenario::Declined);
    let made = create(&house, &order, &["--key", "one", "--json"]).await;
    let id = made.json()[0]["purchase"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let arguments = ["watch", &id, "--after", "0"];
    let mut child = command(&house, "shop", &arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    within("the first line", lines.next_line()).await.unwrap();
    drop(lines);
    house.sandbox.resume();
    let said = ended(child).await;
    assert_eq!(said.code, Some(141), "{}", said.err);
}
