//! Carbon over HTTP.

use serde_json::json;

use super::{Reply, answered, fixture, keys, lives_out, send, still};
use crate::Sandbox;

const CREATE: &str = "/carbon/v1/card/charge3d";
const KEY: (&str, &str) = ("authorization", "Bearer sk_test");

async fn create(sandbox: &Sandbox, minor: &str) -> Reply {
    let body = json!({
        "creditDebitId": "c", "fiatChargeAmount": minor, "cryptocurrencySymbol": "eth",
        "receiveAddress": "0x1", "contactId": "k", "confirmationUrl": "https://a.test/",
        "successRedirectUrl": "https://a.test/", "errorRedirectUrl": "https://a.test/",
    });
    send(sandbox, "POST", CREATE, &[KEY], &body.to_string())
        .await
        .unwrap()
}

async fn read(sandbox: &Sandbox, order_id: &str, contact_id: &str) -> Reply {
    let path = format!("/carbon/v1/status?orderId={order_id}&contactId={contact_id}");
    send(sandbox, "GET", &path, &[KEY], "").await.unwrap()
}

#[tokio::test]
async fn answers_have_the_fixtures_shapes() {
    let sandbox = still().await;
    let created = create(&sandbox, "1039").await.json();
    assert_eq!(
        keys(&created),
        keys(&fixture("carbon/create_response_3ds_enrolled.json"))
    );
    let id = created["orderId"].as_str().unwrap();
    let open = read(&sandbox, id, "k").await.json();
    assert_eq!(
        keys(&open),
        keys(&fixture("carbon/status_minus1_no_charge.json"))
    );
    assert_eq!(open["details"]["status"], "-1");
    assert_eq!(open["details"]["paymentDetails"]["chargeAmount"], "10.39");
    assert_eq!(open["details"]["transactionHash"], json!(null));
    let missing = read(&sandbox, id, "another").await;
    let expected = fixture("carbon/status_error_400_not_found.json");
    assert_eq!((missing.status, missing.json()), (400, expected));
    let reply = send(&sandbox, "POST", CREATE, &[], "{}").await.unwrap();
    assert_eq!(
        (reply.status, reply.json()["code"].clone()),
        (401, json!(401))
    );
    assert_eq!(
        send(&sandbox, "POST", CREATE, &[KEY], "{}")
            .await
            .unwrap()
            .status,
        400
    );
    let refused = create(&sandbox, "1013").await;
    let expected = fixture("carbon/create_response_not_enrolled.json");
    assert_eq!((refused.status, refused.json()), (200, expected));
    assert_eq!(sandbox.created("carbon"), 1);
}

#[tokio::test]
async fn a_form_is_read_and_an_old_rate_is_refused() {
    let sandbox = still().await;
    let form = "creditDebitId=c&fiatChargeAmount=1000&cryptocurrencySymbol=eth&receiveAddress=0x1\
                &contactId=k&confirmationUrl=u&successRedirectUrl=u&errorRedirectUrl=u";
    let headers = [KEY, ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(
        send(&sandbox, "POST", CREATE, &headers, form)
            .await
            .unwrap()
            .status,
        200
    );
    let form = format!("{form}&rateSignature=expired");
    let reply = send(&sandbox, "POST", CREATE, &headers, &form)
        .await
        .unwrap();
    let expected = fixture("carbon/create_error_412_rate_expired.json");
    assert_eq!((reply.status, reply.json()), (412, expected));
}

#[tokio::test]
async fn every_scenario_walks_its_words() {
    let sandbox = still().await;
    for scenario in answered() {
        let created = create(&sandbox, &format!("10{}", scenario.cents()))
            .await
            .json();
        lives_out(
            &sandbox,
            "carbon",
            created["orderId"].as_str().unwrap(),
            scenario,
        );
    }
}
