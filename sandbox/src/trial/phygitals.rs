//! Phygitals over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::{answered, fixture, keys, lives_out, send, still};
use crate::{Options, Sandbox, scenario::Scenario};

const KEY: (&str, &str) = ("x-api-key", "phy_test");

fn order(scenario: &str) -> String {
    json!({
        "claw_id": "CLaw1", "amount": 2, "currency": "usdc", "chain": "solana",
        "txs": ["AQID"], "extraData": { "ref": "1", "way": format!("sandbox:{scenario}") },
    })
    .to_string()
}

async fn create(sandbox: &Sandbox, scenario: &str) -> Value {
    let path = "/phygitals/api/vm/buy/crypto";
    let reply = send(sandbox, "POST", path, &[KEY], &order(scenario))
        .await
        .unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn poll(sandbox: &Sandbox, session_id: &str) -> (u16, Value) {
    let body = json!({ "session_id": session_id }).to_string();
    let path = "/phygitals/api/vm/buy/status";
    let reply = send(sandbox, "POST", path, &[KEY], &body).await.unwrap();
    (reply.status, reply.json())
}

#[tokio::test]
async fn a_voucher_or_a_permit_takes_the_place_of_transactions() {
    let sandbox = still().await;
    for (field, value, expected) in [
        ("voucher_id", json!("v"), 200),
        ("permit_data", json!({ "value": "1" }), 200),
        ("voucher_id", Value::Null, 400),
    ] {
        let mut body: Value = serde_json::from_str(&order("paid")).unwrap();
        body["txs"] = json!([]);
        body[field] = value;
        let path = "/phygitals/api/vm/buy/crypto";
        let reply = send(&sandbox, "POST", path, &[KEY], &body.to_string()).await;
        assert_eq!(reply.unwrap().status, expected, "{body}");
    }
}

#[tokio::test]
async fn answers_have_the_fixtures_shapes() {
    let sandbox = still().await;
    let created = create(&sandbox, "paid").await;
    assert_eq!(
        keys(&created),
        keys(&fixture("phygitals/create_response_pending.json"))
    );
    assert!(created["result"]["total"].is_number());
    let id = created["result"]["session_id"].as_str().unwrap();
    sandbox.set_status("phygitals", id, "fulfilled");
    let (status, body) = poll(&sandbox, id).await;
    assert_eq!(status, 200);
    assert_eq!(
        keys(&body),
        keys(&fixture("phygitals/status_fulfilled.json"))
    );
    sandbox.set_status("phygitals", id, "Transaction failed");
    let failed = fixture("phygitals/status_error_400_failed.json");
    assert_eq!(poll(&sandbox, id).await, (400, failed));
    let unknown = poll(&sandbox, "nobody").await;
    assert_eq!(unknown.0, 400);
    let path = "/phygitals/api/vm/buy/crypto";
    let reply = send(&sandbox, "POST", path, &[], &order("paid"))
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.json()),
        (401, fixture("phygitals/create_error_401.json"))
    );
    let reply = send(&sandbox, "POST", path, &[KEY], "{}").await.unwrap();
    assert_eq!(reply.status, 400);
    let reply = send(&sandbox, "POST", path, &[KEY], &order("refused"))
        .await
        .unwrap();
    assert_eq!(reply.status, 400);
    assert_eq!(sandbox.created("phygitals"), 1);
}

#[tokio::test]
async fn every_scenario_walks_its_words() {
    let sandbox = still().await;
    for scenario in answered() {
        let created = create(&sandbox, scenario.name()).await;
        let id = created["result"]["session_id"].as_str().unwrap();
        lives_out(&sandbox, "phygitals", id, scenario);
    }
}

#[tokio::test]
async fn a_long_poll_answers_at_once_when_the_state_changes() {
    let options = Options {
        long_poll: Duration::from_secs(3600),
        ..Options::default()
    };
    let sandbox = Sandbox::start(options).await.unwrap();
    sandbox.pause();
    let created = create(&sandbox, "paid").await;
    let id = created["result"]["session_id"].as_str().unwrap();
    let mut polled = Box::pin(poll(&sandbox, id));
    while sandbox.calls("phygitals") < 2 {
        assert!(futures_util::poll!(&mut polled).is_pending());
        tokio::task::yield_now().await;
    }
    sandbox.advance(Duration::from_secs(4));
    let (status, body) = polled.await;
    assert_eq!((status, &body["result"]["nfts"]), (200, &json!([])));
}

#[tokio::test]
async fn a_long_poll_without_news_ends_after_its_time() {
    let options = Options {
        long_poll: Duration::from_millis(600),
        speed: 10.0,
        ..Options::default()
    };
    let sandbox = Sandbox::start(options).await.unwrap();
    sandbox.pause();
    let created = create(&sandbox, "paid").await;
    let id = created["result"]["session_id"].as_str().unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(
        poll(&sandbox, id).await,
        (200, json!({ "status": "pending" }))
    );
    assert!(begun.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn creates_are_throttled_where_asked() {
    let options = Options {
        phygitals_creates_per_window: 1,
        rate_window: Duration::from_secs(360_000),
        ..Options::default()
    };
    let sandbox = Sandbox::start(options).await.unwrap();
    create(&sandbox, "paid").await;
    let path = "/phygitals/api/vm/buy/crypto";
    let reply = send(&sandbox, "POST", path, &[KEY], &order("paid"))
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.json()),
        (429, fixture("phygitals/create_error_429.json"))
    );
    let other = [("authorization", "Bearer phy_other")];
    let reply = send(&sandbox, "POST", path, &other, &order("paid"))
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_life_goes_on_by_itself() {
    let sandbox = Sandbox::start(Options {
        speed: 200.0,
        ..Options::default()
    })
    .await
    .unwrap();
    let created = create(&sandbox, "paid").await;
    let id = created["result"]["session_id"].as_str().unwrap();
    while poll(&sandbox, id).await.1["result"]["nfts"]
        .as_array()
        .is_none_or(Vec::is_empty)
    {}
    let walk = Sandbox::walk("phygitals", Scenario::Paid);
    assert_eq!(sandbox.history("phygitals", id), walk);
}
