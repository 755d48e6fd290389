//! The providers' HTTP: which request means what, and how each answer looks.

use bytes::Bytes;
use serde_json::{Value, json};
use tillwatch_server::{
    purchase::{Finality, State, Timestamp},
    upstream::{Request, Response, scripted::json_response},
};

use crate::{
    providers::{Meaning, Sold},
    words,
};

/// True if a request orders something.
pub fn is_create(provider: &str, request: &Request) -> bool {
    let last = request.path.last().map_or("", String::as_str);
    match provider {
        "phygitals" => last == "crypto",
        "masumi" => last == "purchase",
        "inabit" => request.path.len() == 2,
        "carbon" => last == "charge3d",
        "devdraft" => request.path.len() == 4,
        other => panic!("{other} is not simulated"),
    }
}

/// True if a request searches for an order's identifier.
pub fn is_search(provider: &str, request: &Request) -> bool {
    provider == "inabit" && request.path.last().is_some_and(|last| last == "search")
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_default().to_owned()
}

/// The field of an order that names it here.
pub fn mark(provider: &str, body: &Value) -> String {
    match provider {
        "phygitals" => text(body, "claw_id"),
        "masumi" => text(body, "blockchainIdentifier"),
        "inabit" => text(body, "purchaseIdentifier"),
        "carbon" => text(body, "memo"),
        "devdraft" => text(body, "destinationAddress"),
        other => panic!("{other} is not simulated"),
    }
}

/// The purchase that a status request is about.
pub fn asked_for(provider: &str, request: &Request, body: &Value) -> String {
    match provider {
        "phygitals" => text(body, "session_id"),
        "masumi" => text(body, "blockchainIdentifier"),
        "inabit" => request.path[3].clone(),
        "carbon" => (request.query.iter())
            .find(|(name, _)| name == "orderId")
            .map_or_else(String::new, |(_, id)| id.clone()),
        "devdraft" => request.path[3].clone(),
        other => panic!("{other} is not simulated"),
    }
}

/// The provider's name for its `count`th sale.
pub fn reference(provider: &str, mark: &str, count: u128) -> String {
    match provider {
        "masumi" => mark.to_owned(),
        "devdraft" => format!("txn_{count:012}"),
        "phygitals" | "inabit" | "carbon" => {
            uuid::Uuid::from_u128(0x5a1e_0000_0000_4000_8000_0000_0000_0000 + count).to_string()
        }
        other => panic!("{other} is not simulated"),
    }
}

/// Too many requests.
pub fn throttled() -> Response {
    let mut answer = json_response(429, &json!({"message": "slow down"}));
    let wait = http::HeaderValue::from_static("3");
    answer.headers.insert(http::header::RETRY_AFTER, wait);
    answer
}

/// The credentials are refused.
pub fn unauthorized(provider: &str) -> Response {
    match provider {
        "masumi" => json_response(
            401,
            &json!({"status": "error", "error": {"message": "Unauthorized"}}),
        ),
        "phygitals" | "inabit" | "carbon" | "devdraft" => {
            json_response(401, &json!({"message": "Unauthorized", "statusCode": 401}))
        }
        other => panic!("{other} is not simulated"),
    }
}

/// This order will not be taken.
pub fn refused(provider: &str) -> Response {
    let body = match provider {
        "phygitals" => json!({"error": "claw is closed"}),
        "masumi" => json!({"status": "error", "error": {"message": "No payment source"}}),
        "inabit" => json!({"error": {"message": "amount too small"}}),
        "carbon" => json!({"message": "rate expired", "code": 400}),
        "devdraft" => json!({"statusCode": 400, "message": "amount too small"}),
        other => panic!("{other} is not simulated"),
    };
    json_response(400, &body)
}

/// Something that is none of the provider's answers.
pub fn garbage(kind: u64) -> Response {
    let text = match kind {
        0 => "<html>welcome</html>",
        1 => "{\"data\": {\"sta",
        _ => "[]",
    };
    Response {
        status: 200,
        headers: http::HeaderMap::new(),
        body: Bytes::from_static(text.as_bytes()),
    }
}

/// An acceptance that names nothing, where there is such a thing; else something unreadable.
pub fn unnamed(provider: &str) -> Response {
    match provider {
        "phygitals" => json_response(200, &json!({"result": {"public_id": "p"}})),
        "carbon" => json_response(200, &json!({"charge3denrolled": "Y", "code": 200})),
        "masumi" | "inabit" | "devdraft" => garbage(1),
        other => panic!("{other} is not simulated"),
    }
}

/// The provider does not know what it is asked for.
pub fn not_found(provider: &str) -> Response {
    match provider {
        "phygitals" => json_response(404, &json!({"error": "not found"})),
        "masumi" => json_response(
            404,
            &json!({"status": "error", "error": {"message": "Purchase not found"}}),
        ),
        "inabit" => json_response(404, &json!({"error": {"message": "not found"}})),
        "carbon" => json_response(400, &json!({"message": "No Order Found", "code": 400})),
        "devdraft" => json_response(404, &json!({"statusCode": 404, "message": "not found"})),
        other => panic!("{other} is not simulated"),
    }
}

/// The answer to a create, with what it means.
pub fn accepted(sold: &Sold, now: Timestamp) -> (Meaning, Response) {
    let created = Meaning::Definite(State::Created, Finality::Open);
    let (began, word) = sold.walk[0];
    match sold.provider {
        "phygitals" => {
            let result = json!({"session_id": sold.reference, "public_id": "p", "nfts": []});
            let processing = Meaning::Definite(State::Processing, Finality::Open);
            (processing, json_response(200, &json!({"result": result})))
        }
        "masumi" => {
            let meaning = words::meaning("masumi", word);
            let meaning = meaning.map_or(Meaning::Unmapped, |(state, finality)| {
                Meaning::Definite(state, finality)
            });
            (meaning, status(sold, word, began, now))
        }
        "inabit" => (
            created,
            json_response(201, &json!({"data": {"id": sold.reference}})),
        ),
        "carbon" => (
            created,
            json_response(
                200,
                &json!({
                    "code": 200, "charge3denrolled": "Y", "orderId": sold.reference,
                    "acsurl": "https://acs.example.test/", "pareq": "UEFSRVE=", "md": "TUQ=",
                    "termurl": "https://acs.example.test/term",
                }),
            ),
        ),
        "devdraft" => (
            created,
            json_response(
                201,
                &json!({
                    "id": sold.reference, "state": "pending", "amount": "100.00",
                    "source": {"currency": "usdc"}, "updated_at": began.to_string(),
                }),
            ),
        ),
        other => panic!("{other} is not simulated"),
    }
}

/// Masumi's answer to a second create with one identifier.
pub fn exists(sold: &Sold, now: Timestamp) -> Response {
    let (began, word) = sold.walk[sold.step(now)];
    let body = json!({
        "status": "error", "error": {"message": "Purchase exists"},
        "id": "c1", "object": masumi(sold, word, began),
    });
    json_response(409, &body)
}

/// The answer to a status read with this word since that time.
pub fn status(sold: &Sold, word: &str, began: Timestamp, now: Timestamp) -> Response {
    let body = match sold.provider {
        "phygitals" => return phygitals(sold, word),
        "masumi" => json!({"status": "success", "data": masumi(sold, word, began)}),
        "inabit" => json!({"data": inabit(sold, word, now)}),
        "carbon" => carbon(sold, word),
        "devdraft" => json!({
            "id": sold.reference, "status": word, "amount": "100.00",
            "source": {"currency": "usdc"}, "updated_at": began.to_string(),
            "bridge_transfer_id": null,
        }),
        other => panic!("{other} is not simulated"),
    };
    json_response(200, &body)
}

fn phygitals(sold: &Sold, word: &str) -> Response {
    match word {
        "fulfilled" => json_response(
            200,
            &json!({"result": {
                "session_id": sold.reference, "nfts": [{"id": "n1", "type": "enft"}],
            }}),
        ),
        "failed" => json_response(400, &json!({"error": "Transaction failed"})),
        word => json_response(200, &json!({"status": word})),
    }
}

fn masumi(sold: &Sold, word: &str, began: Timestamp) -> Value {
    let (state, action) = match word.strip_prefix("null/") {
        Some(action) => (Value::Null, action),
        None if word.ends_with("Withdrawn") => (json!(word), "None"),
        None => (json!(word), "WaitingForExternalAction"),
    };
    json!({
        "blockchainIdentifier": sold.reference,
        "inputHash": sold.order["inputHash"],
        "payByTime": sold.order["payByTime"],
        "onChainState": state,
        "NextAction": {"requestedAction": action, "errorType": null},
        "CurrentTransaction": null,
        "PaidFunds": [{"amount": "10000000", "unit": ""}],
        "PaymentSource": {"network": "Preprod"},
        "nextActionOrOnChainStateOrResultLastChangedAt": began.to_string(),
    })
}

fn inabit(sold: &Sold, word: &str, now: Timestamp) -> Value {
    json!({
        "id": sold.reference, "status": word, "asset": "TRX", "blockchain": "tron",
        "address": "TTestAddress", "plannedAmount": 10.174252, "amount": 0,
        "fiatAmount": sold.order["fiatAmount"], "fiatCurrency": "USD",
        "creationDate": sold.walk[0].0.to_string(), "currentDate": now.to_string(),
        "purchaseIdentifier": sold.mark,
    })
}

/// The answer to a search.
pub fn rows(rows: &[Sold], now: Timestamp) -> Response {
    let purchases: Vec<Value> = rows
        .iter()
        .map(|sold| inabit(sold, sold.walk[sold.step(now)].1, now))
        .collect();
    let total = purchases.len();
    let body = json!({"data": {"purchases": purchases, "total": total}});
    json_response(201, &body)
}

fn carbon(sold: &Sold, word: &str) -> Value {
    let (code, hash) = match word.strip_suffix('+') {
        Some(code) => (code, json!("1717171717171717")),
        None => (word, Value::Null),
    };
    json!({
        "code": 200,
        "details": {
            "uuid": sold.reference, "status": code, "transactionHash": hash,
            "cryptocurrencyAssetPurchase": "EOS", "cryptocurrencyAmountPurchase": "0.2",
            "paymentDetails": {"chargeAmount": "10.39", "chargedCurrency": "USD"},
        }
    })
}
