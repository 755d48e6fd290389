//! Masumi over HTTP, against what the real service answered.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Reply, answered, fixture, keys, lives_out, send, still};
use crate::Sandbox;

const CREATE: &str = "/masumi/api/v1/purchase";
const RESOLVE: &str = "/masumi/api/v1/purchase/resolve-blockchain-identifier";
const TOKEN: (&str, &str) = ("token", "masumi-test");
const JSON: (&str, &str) = ("content-type", "application/json");

fn order(identifier: &str, metadata: &str) -> Value {
    let time = |hours: i64| (Timestamp::now().as_millisecond() + hours * 3_600_000).to_string();
    json!({
        "identifierFromPurchaser": "ccddccdd112211220002", "network": "Preprod",
        "sellerVkey": "c8c4", "blockchainIdentifier": identifier, "inputHash": "c6f9",
        "payByTime": time(1), "submitResultTime": time(2), "unlockTime": time(3),
        "externalDisputeUnlockTime": time(4), "metadata": metadata,
        "agentIdentifier": "ab".repeat(40),
    })
}

async fn post(sandbox: &Sandbox, path: &str, body: &Value) -> Reply {
    send(sandbox, "POST", path, &[TOKEN, JSON], &body.to_string())
        .await
        .unwrap()
}

async fn get(sandbox: &Sandbox, path: &str) -> Reply {
    send(sandbox, "GET", &format!("{CREATE}{path}"), &[TOKEN], "")
        .await
        .unwrap()
}

async fn resolve(sandbox: &Sandbox, identifier: &str) -> Reply {
    let body = json!({ "blockchainIdentifier": identifier, "network": "Preprod" });
    post(sandbox, RESOLVE, &body).await
}

fn ids(reply: &Reply) -> Vec<String> {
    let body = reply.json();
    let rows = body["data"]["Purchases"].as_array().expect("rows").clone();
    rows.iter()
        .map(|row| row["blockchainIdentifier"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn answers_have_the_recorded_shapes() {
    let sandbox = still().await;
    let created = post(&sandbox, CREATE, &order("b1", "x")).await;
    assert_eq!(created.status, 200, "{}", created.text);
    assert_eq!(
        created.header("content-type").unwrap(),
        "application/json; charset=utf-8"
    );
    assert_eq!(
        keys(&created.json()),
        keys(&fixture("masumi_recorded/create_200_fixed.json"))
    );
    let again = post(&sandbox, CREATE, &order("b1", "x")).await;
    assert_eq!(again.status, 409);
    assert_eq!(again.json()["id"], created.json()["data"]["id"]);
    let recorded = fixture("masumi_recorded/create_409_duplicate_fresh.json");
    assert_eq!(keys(&again.json()), keys(&recorded));
    let recorded = "masumi_recorded/resolve_v1_null__funds_locking_initiated.json";
    sandbox.set_status("masumi", "b1", "FundsLockingInitiated");
    assert_eq!(
        keys(&resolve(&sandbox, "b1").await.json()),
        keys(&fixture(recorded))
    );
    sandbox.advance(Duration::from_secs(99));
    post(&sandbox, CREATE, &order("b2", "x")).await;
    sandbox.advance(Duration::from_secs(99));
    let row = resolve(&sandbox, "b2").await.json();
    assert_eq!(
        keys(&row),
        keys(&fixture("masumi_recorded/resolve_v1_withdrawn__none.json"))
    );
    assert_eq!(row["data"]["NextAction"]["requestedAction"], "None");
    let again = post(&sandbox, CREATE, &order("b1", "x")).await.json();
    let recorded = "masumi_recorded/create_409_seeded_v1_null__funds_locking_initiated.json";
    assert_eq!(keys(&again), keys(&fixture(recorded)));
    assert_eq!(sandbox.created("masumi"), 2);
}

#[tokio::test]
async fn refusals_are_the_recorded_ones() {
    let sandbox = still().await;
    let check = |name: &str, reply: &Reply| {
        let expected = fixture(&format!("masumi_recorded/{name}.json"));
        assert_eq!(reply.json(), expected, "{name}");
    };
    let with = |field: &str, value: Value| {
        let mut order = order("b", "");
        order[field] = value;
        order
    };
    let long = json!("a".repeat(9000));
    let cases = [
        (
            "create_400_agent_too_short",
            with("agentIdentifier", json!("ab")),
        ),
        ("create_400_network_enum", with("network", json!("preprod"))),
        ("create_400_paybytime_number", with("payByTime", json!(1))),
        ("create_400_payby_past", with("payByTime", json!("1000"))),
        (
            "create_400_times_in_seconds",
            with("submitResultTime", json!("1795204408")),
        ),
        (
            "create_400_dispute_too_early",
            with("externalDisputeUnlockTime", json!("1")),
        ),
        (
            "create_400_purchaser_id_not_hex",
            with("identifierFromPurchaser", json!("z".repeat(16))),
        ),
        (
            "create_400_identifier_format",
            with("blockchainIdentifier", json!("invalid")),
        ),
        (
            "create_time_iso",
            with("payByTime", json!("2026-11-21T00:00:00.000Z")),
        ),
        (
            "create_amount_not_integer",
            with("Amounts", json!([{ "amount": "1.5", "unit": "" }])),
        ),
        (
            "create_400_amount_number",
            with("Amounts", json!([{ "amount": 1, "unit": "" }])),
        ),
        (
            "create_404_unknown_payment_source",
            with("agentIdentifier", json!("00".repeat(40))),
        ),
        (
            "create_400_payment_source_type_mismatch",
            with("paymentSourceType", json!("Web3CardanoV2")),
        ),
        (
            "create_400_insufficient_funds",
            with("metadata", json!("sandbox:refused")),
        ),
    ];
    for (name, order) in cases {
        check(name, &post(&sandbox, CREATE, &order).await);
    }
    check(
        "resolve_400_empty_object",
        &post(&sandbox, RESOLVE, &json!({})).await,
    );
    let body = json!({ "blockchainIdentifier": long, "network": "Preprod" });
    check(
        "resolve_400_identifier_too_long",
        &post(&sandbox, RESOLVE, &body).await,
    );
    check("resolve_404_unknown", &resolve(&sandbox, "unknown").await);
    check("list_400_no_network", &get(&sandbox, "").await);
    check(
        "diff_400_limit_and_network",
        &get(&sandbox, "/diff?limit=500&network=x").await,
    );
    let late = get(&sandbox, "/diff?network=Preprod&lastUpdate=yesterday").await;
    check("diff_400_lastupdate_invalid", &late);
    check(
        "list_limit_0",
        &get(&sandbox, "?network=Preprod&limit=0").await,
    );
    check(
        "unknown_purchase_id",
        &get(&sandbox, "/cmtest0000000000000000001").await,
    );
    assert_eq!(sandbox.created("masumi"), 0);
}

#[tokio::test]
async fn checks_come_in_the_real_services_order() {
    let sandbox = still().await;
    let broken = send(&sandbox, "POST", CREATE, &[JSON], "{\"a\":")
        .await
        .unwrap();
    assert_eq!(
        broken.json(),
        fixture("masumi_recorded/malformed_json_no_token.json")
    );
    let anonymous = send(&sandbox, "POST", RESOLVE, &[JSON], "{}")
        .await
        .unwrap();
    let recorded = "masumi_recorded/resolve_401_before_400_no_token_empty_body.json";
    assert_eq!(
        (anonymous.status, anonymous.json()),
        (401, fixture(recorded))
    );
    let body = order("b", "").to_string();
    for (token, name) in [
        ("masumi-invalid", "resolve_401_invalid_token"),
        ("masumi-read-0002", "create_401_read_only_token"),
        ("masumi-mainnet-0006", "create_401_network_not_allowed"),
        ("masumi-revoked-0005", "create_401_revoked"),
    ] {
        let reply = send(&sandbox, "POST", CREATE, &[("token", token), JSON], &body)
            .await
            .unwrap();
        let recorded = fixture(&format!("masumi_recorded/{name}.json"));
        assert_eq!((reply.status, reply.json()), (401, recorded));
    }
    let large = "a".repeat(200_000);
    let reply = send(&sandbox, "POST", RESOLVE, &[JSON], &large)
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.json()),
        (413, fixture("masumi_recorded/body_too_large.json"))
    );
    let reply = send(&sandbox, "DELETE", CREATE, &[TOKEN], "")
        .await
        .unwrap();
    assert_eq!(
        reply.header("allow").as_deref(),
        Some("GET, POST, HEAD, OPTIONS")
    );
    let recorded = fixture("masumi_recorded/method_not_allowed_delete.json");
    assert_eq!((reply.status, reply.json()), (405, recorded));
    let typeless = send(&sandbox, "POST", RESOLVE, &[TOKEN], "{}")
        .await
        .unwrap();
    assert_eq!(
        typeless.json(),
        fixture("masumi_recorded/no_content_type.json")
    );
}

#[tokio::test]
async fn every_scenario_walks_its_words() {
    let sandbox = still().await;
    for scenario in answered() {
        let metadata = format!("order=1 sandbox:{}", scenario.name());
        let created = post(&sandbox, CREATE, &order(scenario.name(), &metadata)).await;
        assert_eq!(created.status, 200);
        lives_out(&sandbox, "masumi", scenario.name(), scenario);
    }
}

#[tokio::test]
async fn the_row_under_the_cursor_comes_again() {
    let sandbox = still().await;
    for identifier in ["b1", "b2", "b3"] {
        post(&sandbox, CREATE, &order(identifier, "")).await;
    }
    let first = get(&sandbox, "/diff?network=Preprod&limit=2").await;
    assert_eq!(ids(&first), ["b1", "b2"]);
    let last = first.json()["data"]["Purchases"][1].clone();
    let stamp = last["nextActionOrOnChainStateOrResultLastChangedAt"]
        .as_str()
        .unwrap();
    let (id, stamp) = (last["id"].as_str().unwrap(), stamp.to_owned());
    for route in [
        "/diff",
        "/diff/next-action",
        "/diff/onchain-state-or-result",
    ] {
        let path = format!("{route}?network=Preprod&lastUpdate={stamp}&cursorId={id}");
        assert_eq!(ids(&get(&sandbox, &path).await), ["b2", "b3"], "{route}");
        let path = format!("{route}?network=Preprod&cursorId={id}&limit=1");
        assert_eq!(ids(&get(&sandbox, &path).await), ["b1"], "{route}");
    }
    sandbox.set_status("masumi", "b1", "FundsLocked");
    assert_eq!(
        ids(&get(&sandbox, "/diff?network=Preprod").await),
        ["b2", "b3", "b1"]
    );
    let none = get(&sandbox, "/diff?network=Preprod&lastUpdate=2999-01-01").await;
    assert_eq!(ids(&none), Vec::<String>::new());
}

#[tokio::test]
async fn only_first_version_rows_are_listed_by_default() {
    let sandbox = still().await;
    post(&sandbox, CREATE, &order("one", "")).await;
    let mut second = order("two", "");
    second["agentIdentifier"] = json!("cd".repeat(40));
    let created = post(&sandbox, CREATE, &second).await.json();
    assert_eq!(
        created["data"]["PaymentSource"]["paymentSourceType"],
        "Web3CardanoV2"
    );
    assert_eq!(ids(&get(&sandbox, "?network=Preprod").await), ["one"]);
    assert_eq!(ids(&get(&sandbox, "/diff?network=Preprod").await), ["one"]);
    let typed = "network=Preprod&filterPaymentSourceType=Web3CardanoV2";
    assert_eq!(ids(&get(&sandbox, &format!("?{typed}")).await), ["two"]);
    assert_eq!(
        ids(&get(&sandbox, &format!("/diff?{typed}")).await),
        ["two"]
    );
    assert_eq!(resolve(&sandbox, "two").await.status, 200);
    let count = get(&sandbox, "/count?network=Preprod").await;
    assert_eq!(
        keys(&count.json()),
        keys(&fixture("masumi_recorded/count_default.json"))
    );
    assert_eq!(count.json()["data"]["total"], json!(1));
}

#[tokio::test]
async fn a_list_is_the_newest_first_and_its_cursor_is_inclusive() {
    let sandbox = still().await;
    for number in 0..12 {
        post(&sandbox, CREATE, &order(&format!("b{number}"), "")).await;
    }
    let first = get(&sandbox, "?network=Preprod").await;
    assert_eq!(ids(&first).len(), 10);
    assert_eq!(ids(&first)[0], "b11");
    let last = first.json()["data"]["Purchases"][9]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("?network=Preprod&cursorId={last}");
    assert_eq!(ids(&get(&sandbox, &path).await), ["b2", "b1", "b0"]);
    assert!(ids(&get(&sandbox, "?network=Preprod&cursorId=none").await).is_empty());
    let path = format!("?network=Preprod&searchQuery={last}");
    assert_eq!(ids(&get(&sandbox, &path).await), ["b2"]);
}

#[tokio::test]
async fn a_scoped_key_does_not_see_its_own_new_purchase() {
    let sandbox = still().await;
    let headers = [("token", "masumi-scoped-1"), JSON];
    let body = order("b1", "").to_string();
    let resolving = json!({ "blockchainIdentifier": "b1", "network": "Preprod" }).to_string();
    let mut statuses = Vec::new();
    for (path, body) in [(CREATE, &body), (RESOLVE, &resolving), (CREATE, &body)] {
        statuses.push(
            send(&sandbox, "POST", path, &headers, body)
                .await
                .unwrap()
                .status,
        );
    }
    sandbox.set_status("masumi", "b1", "FundsLockingInitiated");
    statuses.push(
        send(&sandbox, "POST", RESOLVE, &headers, &resolving)
            .await
            .unwrap()
            .status,
    );
    assert_eq!(statuses, [200, 404, 409, 200]);
}
