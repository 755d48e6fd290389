//! Inabit over HTTP.

use serde_json::{Value, json};

use super::{Reply, answered, fixture, keys, lives_out, send, still};
use crate::Sandbox;

const CREATE: &str = "/inabit/v1/purchase";
const ORGANIZATION: (&str, &str) = ("authorization", "Bearer TESTONLY-org-key");
const WIDGET: (&str, &str) = ("authorization", "Bearer TESTONLY-widget-key");

async fn create(sandbox: &Sandbox, amount: &str) -> Reply {
    let name = amount.trim_matches('"');
    let body = format!(
        r#"{{"title":"T","subTitle":"S","siteName":"a.test","purchaseIdentifier":"ord-{name}",
            "fiatAmount":{amount},"fiatCurrency":"USD"}}"#
    );
    send(sandbox, "POST", CREATE, &[WIDGET], &body)
        .await
        .unwrap()
}

async fn read(sandbox: &Sandbox, id: &str) -> Reply {
    let path = format!("/inabit/v1/merchant/purchase/{id}");
    send(sandbox, "GET", &path, &[ORGANIZATION], "")
        .await
        .unwrap()
}

async fn search(sandbox: &Sandbox, query: &str, body: &Value) -> Reply {
    let path = format!("/inabit/v1/merchant/purchase/search{query}");
    send(sandbox, "POST", &path, &[ORGANIZATION], &body.to_string())
        .await
        .unwrap()
}

#[tokio::test]
async fn answers_have_the_fixtures_shapes() {
    let sandbox = still().await;
    let created = create(&sandbox, "2.5").await;
    assert_eq!(created.status, 201);
    assert_eq!(
        keys(&created.json()),
        keys(&fixture("inabit/create_response_201.json"))
    );
    let id = created.json()["data"]["id"].as_str().unwrap().to_owned();
    let open = read(&sandbox, &id).await.json();
    assert_eq!(keys(&open), keys(&fixture("inabit/status_initiated.json")));
    assert_eq!(open["data"]["address"], json!(null));
    assert_eq!(open["data"]["fiatAmount"].to_string(), "2.5");
    assert_eq!(open["data"]["plannedAmount"].to_string(), "2.5e-05");
    let path = format!("/inabit/v1/widget/purchase/{id}");
    assert_eq!(
        send(&sandbox, "GET", &path, &[WIDGET], "")
            .await
            .unwrap()
            .status,
        200
    );
    let other = send(&sandbox, "GET", &path, &[ORGANIZATION], "")
        .await
        .unwrap();
    assert_eq!(
        (other.status, other.json()),
        (401, fixture("inabit/status_error_401.json"))
    );
    let missing = read(&sandbox, "nobody").await;
    assert_eq!(
        (missing.status, missing.json()),
        (404, fixture("inabit/status_error_404.json"))
    );
    let refused = create(&sandbox, "\"2\"").await;
    assert_eq!(
        (refused.status, refused.json()),
        (400, fixture("inabit/create_error_400.json"))
    );
}

#[tokio::test]
async fn only_what_has_a_price_is_asked_for() {
    let sandbox = still().await;
    let table = [
        (json!({ "fiatAmount": 2.5, "fiatCurrency": "USD" }), 201),
        (
            json!({ "fiatAmount": 2.5, "fiatCurrency": "EUR", "subTitle": null }),
            201,
        ),
        (
            json!({ "fiatAmount": 2.5, "fiatCurrency": "USD", "title": 7 }),
            400,
        ),
        (json!({ "fiatAmount": 2.5 }), 400),
        (json!({ "fiatCurrency": "USD" }), 400),
    ];
    for (body, expected) in table {
        let reply = send(&sandbox, "POST", CREATE, &[WIDGET], &body.to_string()).await;
        let reply = reply.unwrap();
        assert_eq!(reply.status, expected, "{body} {}", reply.text);
        if let Some(id) = reply.json()["data"]["id"].as_str() {
            let shown = read(&sandbox, id).await.json();
            assert_eq!(shown["data"]["subTitle"], Value::Null, "{body}");
        }
    }
}

#[tokio::test]
async fn a_duplicate_is_a_new_purchase_and_both_are_found() {
    let sandbox = still().await;
    let first = create(&sandbox, "2.5").await.json();
    let second = create(&sandbox, "2.5").await.json();
    assert_ne!(first["data"]["id"], second["data"]["id"]);
    create(&sandbox, "3.5").await;
    let found = search(&sandbox, "?limit=1", &json!({ "searchText": "ord-2.5" })).await;
    assert_eq!(found.status, 201);
    let found = found.json();
    assert_eq!(found["data"]["total"], json!(2));
    assert_eq!(found["data"]["purchases"][0]["id"], second["data"]["id"]);
    let rest = search(
        &sandbox,
        "?limit=1&offset=1",
        &json!({ "searchText": "ord-2.5" }),
    )
    .await;
    assert_eq!(
        rest.json()["data"]["purchases"][0]["id"],
        first["data"]["id"]
    );
    let shape = fixture("inabit/search_response.json");
    let transactions = ".data.purchases[].transactions";
    assert!(keys(&found).contains(transactions));
    assert_eq!(keys(&found), keys(&shape));
    let none = search(&sandbox, "", &json!({ "statuses": ["Completed"] }))
        .await
        .json();
    assert_eq!(none["data"]["total"], json!(0));
    let none = search(&sandbox, "", &json!({ "createdAt": "2999-01-01T00:00" }))
        .await
        .json();
    assert_eq!(none["data"]["total"], json!(0));
}

#[tokio::test]
async fn every_scenario_walks_its_words() {
    let sandbox = still().await;
    for scenario in answered() {
        let created = create(&sandbox, &format!("7.{}", scenario.cents()))
            .await
            .json();
        lives_out(
            &sandbox,
            "inabit",
            created["data"]["id"].as_str().unwrap(),
            scenario,
        );
    }
}

#[tokio::test]
async fn too_little_and_too_much_show_in_the_amount() {
    let sandbox = still().await;
    for (amount, word, expected) in [
        ("10.03", "Undercharge", "20.06"),
        ("10.04", "Overcharge", "48.192"),
    ] {
        let created = create(&sandbox, amount).await.json();
        let id = created["data"]["id"].as_str().unwrap();
        sandbox.set_status("inabit", id, word);
        let data = read(&sandbox, id).await.json();
        assert_eq!(data["data"]["amount"].to_string(), expected);
    }
}
