//! The audit log of the real server: each kind of line, a log that is moved away, and targets that take
//! no lines.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use serde_json::Value;
use tillwatch_proto::v1::{
    ListPurchasesRequest, NotCreated, ResolvePurchaseRequest, StopTracking,
    resolve_purchase_request::Resolution,
};
use tillwatch_sandbox::{Fault, Scenario, Target};
use tonic::Code;

use crate::{
    adoption::existing,
    house::{House, Settings, refusal, token},
    orders::request,
    process::{until, within},
};

/// In a label, a key and a note, none of which belongs into the log.
const CANARY: &str = "canary51c2";

fn house(target: &str) -> Settings {
    Settings {
        more: format!("\n[telemetry]\naudit_log = \"{target}\"\n"),
        ..Settings::default()
    }
}

/// The events of a file, as `event caller account reason`.
fn events(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let told = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        ["event", "caller", "account", "reason"].map(word).join(" ")
    });
    told.collect()
}

#[tokio::test]
async fn each_create_adoption_resolve_stop_refusal_and_reload_has_its_line_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("audit"), folder.path().join("audit.1"));
    let mut house = House::start(house(&path.display().to_string())).await;
    house.sandbox.pause();
    let told = async |line: &str| {
        until(line, async || events(&path).iter().any(|one| one == line)).await;
    };

    // Its provider has a purchase that the store has lost. The next process goes on with the file.
    let order = request("forgotten", "devdraft", Scenario::Stuck);
    house.create("shop", order).await;
    told("create shop devdraft-main CREATE").await;
    house.server.kill().await;
    house.forget();
    house.restart().await;
    let reference = house.sandbox.references("devdraft").pop().unwrap();

    let mut order = request(CANARY, "carbon", Scenario::Stuck);
    order.labels.insert("note".to_owned(), CANARY.to_owned());
    let stuck = house.create("shop", order).await;
    told("create shop carbon-main CREATE").await;
    let order = request("lost", "phygitals", Scenario::Stuck);
    house
        .sandbox
        .fault_on("phygitals", Target::Create, Fault::Lost, 1);
    let lost = house.create("shop", order).await;
    told("create shop phygitals-main CREATE").await;
    let mut shop = house.stub("shop").await;
    shop.create_purchase(existing("adopted", &reference))
        .await
        .unwrap();
    told("adoption shop devdraft-main CREATE").await;

    let mut desk = house.stub("desk").await;
    let mut resolve = async |purchase: &tillwatch_proto::v1::Purchase, resolution: Resolution| {
        loop {
            let newest = house.client("desk");
            let key = tillwatch_proto::v1::get_status_request::Key::PurchaseId(purchase.id.clone());
            let newest = newest.get_after(key, 0, Duration::ZERO).await.unwrap();
            let status = newest.purchase.unwrap().status.unwrap();
            let request = ResolvePurchaseRequest {
                purchase_id: purchase.id.clone(),
                expected_revision: status.revision,
                resolution: Some(resolution.clone()),
            };
            let decided = within("a decision", desk.resolve_purchase(request)).await;
            // A poll can have brought another revision in between.
            let is_changed = |status: &tonic::Status| status.code() == Code::Aborted;
            if !decided.as_ref().is_err_and(is_changed) {
                return decided;
            }
        }
    };
    let note = CANARY.to_owned();
    let never = Resolution::NotCreated(NotCreated { note: note.clone() });
    resolve(&lost, never.clone()).await.unwrap();
    told("resolve desk phygitals-main NOT_CREATED").await;
    refusal(resolve(&stuck, never).await);
    told("refusal desk - NOT_RESOLVABLE").await;
    let stop = Resolution::StopTracking(StopTracking { note });
    resolve(&stuck, stop).await.unwrap();
    told("stop desk carbon-main OPERATOR").await;

    for (bearer, line) in [
        (None, "refusal - - NO_TOKEN"),
        (Some("Bearer canary51c2"), "refusal - - UNKNOWN_TOKEN"),
    ] {
        let mut stranger = house.stranger(bearer).await;
        let refused = stranger
            .list_purchases(ListPurchasesRequest::default())
            .await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
        told(line).await;
    }
    let order = request("not allowed", "carbon", Scenario::Stuck);
    assert_eq!(house.refused("reader", order).await.reason, "SCOPE_MISSING");
    told("refusal reader - SCOPE_MISSING").await;

    // Its file is moved away, and a new one is begun at SIGHUP.
    fs::rename(&path, &moved).unwrap();
    house.server.signal("HUP").await;
    told("reload - - SETTINGS_APPLIED").await;
    let text = fs::read_to_string(house.config()).unwrap();
    fs::write(house.config(), "[nonsense]").unwrap();
    house.server.signal("HUP").await;
    told("reload - - SETTINGS_REFUSED").await;
    fs::write(house.config(), text).unwrap();

    // A drain writes what was left out until then.
    for _ in 0..5 {
        let order = request("not allowed", "carbon", Scenario::Stuck);
        house.refused("reader", order).await;
    }
    house.server.signal("TERM").await;
    assert!(house.server.exit().await.success());
    let last = fs::read_to_string(&path).unwrap();
    let left_out = last.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["reason"] == "SCOPE_MISSING").then(|| line["left_out"].as_u64().unwrap_or(0) + 1)
    });
    assert_eq!(left_out.sum::<u64>(), 5, "{last}");

    let all = format!("{}{last}", fs::read_to_string(&moved).unwrap());
    assert!(all.contains(&stuck.id) && all.contains(&lost.id));
    for secret in [CANARY, &token("shop"), &token("desk")] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    assert!(!house.log.text().contains("\"target\":\"audit\""));
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[tokio::test]
async fn a_full_disk_of_the_audit_log_holds_no_call_up_and_is_told() {
    // Every write to this device fails with ENOSPC.
    let mut house = House::start(house("/dev/full")).await;
    house.sandbox.pause();
    house
        .create("shop", request("one", "carbon", Scenario::Stuck))
        .await;
    until("the failure is a figure", async || {
        let text = house.metrics().await;
        let failures = text.lines().find_map(|line| {
            let (_, times) = line.split_once("tillwatch_audit_write_failures_total ")?;
            times.parse::<u64>().ok()
        });
        failures.is_some_and(|times| times > 0)
            && text.contains("tillwatch_audit_lines_total{outcome=\"written\"} 0")
    })
    .await;
    house
        .create("shop", request("two", "carbon", Scenario::Stuck))
        .await;
    house.server.signal("TERM").await;
    assert!(house.server.exit().await.success());
    let told = "gave up on lines of the audit log";
    assert!(house.log.text().contains(told), "{}", house.log.text());
}
