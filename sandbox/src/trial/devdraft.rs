//! Devdraft over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Reply, answered, fixture, keys, lives_out, send, still};
use crate::{Options, Sandbox};

const CREATE: &str = "/devdraft/api/v0/payment-intents/stablecoin";
const KEY: (&str, &str) = ("x-client-key", "ck");
const SECRET: (&str, &str) = ("x-client-secret", "cs");
const IDEMPOTENCY: (&str, &str) = ("idempotency-key", "11111111-1111-4111-8111-111111111111");

fn order(amount: &str) -> Value {
    json!({
        "sourceCurrency": "usdc", "sourceNetwork": "ethereum", "destinationCurrency": "eurc",
        "destinationNetwork": "base", "destinationAddress": "0x1", "amount": amount,
        "customer_first_name": "Test", "customer_email": "t@example.test",
    })
}

async fn create(sandbox: &Sandbox, amount: &str, more: &[(&str, &str)]) -> Reply {
    let headers = [&[KEY, SECRET], more].concat();
    send(
        sandbox,
        "POST",
        CREATE,
        &headers,
        &order(amount).to_string(),
    )
    .await
    .unwrap()
}

async fn read(sandbox: &Sandbox, id: &str) -> Reply {
    let path = format!("/devdraft/api/v0/payment-intents/{id}/status");
    send(sandbox, "GET", &path, &[KEY, SECRET], "")
        .await
        .unwrap()
}

#[tokio::test]
async fn answers_have_the_fixtures_shapes() {
    let sandbox = still().await;
    let created = create(&sandbox, "100.00", &[]).await;
    assert_eq!(created.status, 201);
    assert_eq!(
        keys(&created.json()),
        keys(&fixture("devdraft/create_response_201.json"))
    );
    assert_eq!(created.json()["state"], "pending");
    assert_eq!(created.header("x-ratelimit-limit").as_deref(), Some("100"));
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let status = read(&sandbox, &id).await.json();
    assert_eq!(
        keys(&status),
        keys(&fixture("devdraft/status_awaiting_funds.json"))
    );
    assert_eq!(status["status"], "AWAITING_FUNDS");
    let missing = read(&sandbox, "txn_no").await;
    assert_eq!(
        (missing.status, missing.json()),
        (404, fixture("devdraft/status_error_404.json"))
    );
    let reply = send(&sandbox, "POST", CREATE, &[KEY], "{}").await.unwrap();
    assert_eq!(
        (reply.status, reply.json()),
        (401, fixture("devdraft/status_error_401.json"))
    );
    let invalid = [KEY, ("x-client-secret", "cs_invalid")];
    assert_eq!(
        send(&sandbox, "POST", CREATE, &invalid, "{}")
            .await
            .unwrap()
            .status,
        401
    );
    let reply = create(&sandbox, "a lot", &[]).await;
    assert_eq!(
        (reply.status, reply.json()),
        (400, fixture("devdraft/create_error_400.json"))
    );
    assert_eq!(create(&sandbox, "1.13", &[]).await.status, 400);
    assert_eq!(sandbox.created("devdraft"), 1);
}

#[tokio::test]
async fn a_bank_intent_is_made_too() {
    let sandbox = still().await;
    let mut body = json!({
        "sourcePaymentRail": "ach_push", "sourceCurrency": "usd", "destinationCurrency": "pyusd",
        "destinationNetwork": "ethereum", "ach_reference": "INV1",
    });
    let path = "/devdraft/api/v0/payment-intents/bank";
    let reply = send(&sandbox, "POST", path, &[KEY, SECRET], &body.to_string())
        .await
        .unwrap();
    assert_eq!(reply.status, 201);
    assert_eq!(reply.json()["source"]["payment_rail"], "ach_push");
    assert_eq!(reply.json()["amount"], Value::Null);
    body["destinationCurrency"] = Value::Null;
    let reply = send(&sandbox, "POST", path, &[KEY, SECRET], &body.to_string())
        .await
        .unwrap();
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn every_scenario_walks_its_words() {
    let sandbox = still().await;
    for scenario in answered() {
        let created = create(&sandbox, &format!("100.{}", scenario.cents()), &[]).await;
        let id = created.json()["id"].as_str().unwrap().to_owned();
        lives_out(&sandbox, "devdraft", &id, scenario);
    }
}

#[tokio::test]
async fn a_repeated_key_gives_the_first_answer_again() {
    let sandbox = still().await;
    let first = create(&sandbox, "100.00", &[IDEMPOTENCY]).await;
    let again = create(&sandbox, "100.00", &[IDEMPOTENCY]).await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    let other = create(&sandbox, "100.20", &[IDEMPOTENCY]).await;
    let conflict = fixture("devdraft/create_error_409_idempotency.json");
    assert_eq!((other.status, other.json()), (409, conflict));
    let requests = sandbox.requests();
    assert_eq!(sandbox.created("devdraft"), 1);
    assert_eq!(requests[0].created.as_deref(), first.json()["id"].as_str());
    assert_eq!(
        (&requests[1].created, requests[1].status),
        (&None, Some(201))
    );
    assert_eq!(requests[1].idempotency_key.as_deref(), Some(IDEMPOTENCY.1));
}

#[tokio::test]
async fn a_lost_create_is_found_again_with_its_key() {
    let sandbox = still().await;
    let headers = [KEY, SECRET, IDEMPOTENCY];
    let body = order("100.11").to_string();
    assert!(
        send(&sandbox, "POST", CREATE, &headers, &body)
            .await
            .is_err()
    );
    let again = create(&sandbox, "100.11", &[IDEMPOTENCY]).await;
    assert_eq!(again.status, 201);
    assert_eq!(
        sandbox.references("devdraft"),
        [again.json()["id"].as_str().unwrap()]
    );
}

#[tokio::test]
async fn a_window_is_a_hard_limit_per_client_key() {
    let options = Options {
        devdraft_calls_per_window: 2,
        rate_window: Duration::from_secs(360_000),
        ..Options::default()
    };
    let sandbox = Sandbox::start(options).await.unwrap();
    assert_eq!(
        read(&sandbox, "a")
            .await
            .header("x-ratelimit-remaining")
            .as_deref(),
        Some("1")
    );
    read(&sandbox, "a").await;
    let refused = read(&sandbox, "a").await;
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(refused.json()["retryAfter"], json!(seconds));
    assert_eq!(
        keys(&refused.json()),
        keys(&fixture("devdraft/status_error_429.json"))
    );
}

#[tokio::test]
async fn the_first_reads_of_a_throttled_purchase_are_refused() {
    let sandbox = still().await;
    let created = create(&sandbox, "1.12", &[]).await;
    let id = created.json()["id"].as_str().unwrap().to_owned();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(read(&sandbox, &id).await.status);
    }
    assert_eq!(statuses, [429, 429, 429, 200]);
}

#[tokio::test]
async fn a_flaky_purchase_errs_now_and_then_and_the_same_way_each_run() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let sandbox = still().await;
        let created = create(&sandbox, "1.08", &[]).await;
        let id = created.json()["id"].as_str().unwrap().to_owned();
        let path = format!("/devdraft/api/v0/payment-intents/{id}/status");
        let mut run = Vec::new();
        for _ in 0..30 {
            let reply = send(&sandbox, "GET", &path, &[KEY, SECRET], "").await;
            run.push(
                reply
                    .ok()
                    .map(|reply| (reply.status, reply.text.starts_with('{'))),
            );
        }
        let good = run
            .iter()
            .filter(|seen| **seen == Some((200, true)))
            .count();
        assert!((10..30).contains(&good), "{run:?}");
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
}
