//! Phygitals: claw packs, with a status that is asked by a long poll.
//! A purchase is named by its session; there is no other look-up.

mod sample;

pub(crate) use sample::sample;

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    book::{Draft, Purchase},
    engine::Engine,
    exchange::{Answer, Call},
    life::Life,
    scenario::Scenario,
};

pub(crate) const NAME: &str = "phygitals";
pub(crate) const CREATE: &str = "/api/vm/buy/crypto";
const STATUS: &str = "/api/vm/buy/status";

/// One pull of a pack.
const PRICE: u64 = 25;

const PENDING: &str = "pending";
const PROCESSING: &str = "processing";
const FULFILLED: &str = "fulfilled";
const FAILED: &str = "Transaction failed";
const BASE58: &str = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

const PAID: Life = &[(0, PENDING), (4000, PROCESSING), (10_000, FULFILLED)];
const BROKEN: Life = &[(0, PENDING), (6000, FAILED)];

/// It has no word for most trouble: a payment that does not work out is a failed transaction,
/// and what comes after a fulfilled one is no part of its interface.
pub(crate) fn life(scenario: Scenario) -> Life {
    match scenario {
        Scenario::Paid
        | Scenario::Disputed
        | Scenario::Slow
        | Scenario::Flaky
        | Scenario::Lost
        | Scenario::Throttled => PAID,
        Scenario::Declined | Scenario::Underpaid => BROKEN,
        Scenario::Refunded => &[(0, PENDING), (4000, PROCESSING), (10_000, FAILED)],
        Scenario::Expired => &[(0, PENDING), (12_000, FAILED)],
        Scenario::Stuck => &[(0, PENDING)],
        Scenario::Unknown => &[(0, PENDING), (4000, "SANDBOX_UNKNOWN"), (10_000, FULFILLED)],
        Scenario::Held => &[(0, PENDING), (2000, PROCESSING), (20_000, FULFILLED)],
        Scenario::Refused => &[],
    }
}

pub(crate) fn error(status: StatusCode) -> Value {
    match status {
        StatusCode::UNAUTHORIZED => json!({ "message": "Invalid or missing credentials" }),
        StatusCode::TOO_MANY_REQUESTS => json!({ "message": "Rate limit exceeded" }),
        other => json!({ "error": other.canonical_reason() }),
    }
}

pub(crate) async fn answer(engine: &Engine, call: &Call) -> Answer {
    match (&call.method, call.path.as_str()) {
        (&Method::POST, CREATE | STATUS) => {}
        (_, CREATE | STATUS) => {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
                .header("allow", "POST");
        }
        _ => return refuse(StatusCode::NOT_FOUND, "Not Found"),
    }
    let key = match key(engine, call) {
        Ok(key) => key,
        Err(message) => {
            return Answer::new(StatusCode::UNAUTHORIZED, json!({ "message": message }));
        }
    };
    let Ok(body) = call.json() else {
        return refuse(StatusCode::BAD_REQUEST, "Invalid JSON");
    };
    if call.path == CREATE {
        create(engine, call, key, &body)
    } else {
        status(engine, call, &body).await
    }
}

fn refuse(status: StatusCode, text: &str) -> Answer {
    Answer::new(status, json!({ "error": text }))
}

fn key<'a>(engine: &Engine, call: &'a Call) -> Result<&'a str, &'static str> {
    if let Some(key) = call.header("x-api-key") {
        return if engine.accepts(key) {
            Ok(key)
        } else {
            Err("Invalid or missing credentials")
        };
    }
    match (call.header("authorization"), call.bearer()) {
        (None, _) => Err("Invalid or missing credentials"),
        (Some(_), None) => Err("No token provided"),
        (Some(_), Some(key)) => {
            if engine.accepts(key) {
                Ok(key)
            } else {
                Err("Invalid token")
            }
        }
    }
}

fn check(body: &Value) -> Result<u64, String> {
    for field in ["claw_id", "currency", "chain"] {
        if body
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            return Err(format!("{field} is required"));
        }
    }
    let amount = body
        .get("amount")
        .and_then(Value::as_u64)
        .filter(|amount| *amount > 0);
    let amount = amount.ok_or("amount must be a positive integer")?;
    let txs = body
        .get("txs")
        .and_then(Value::as_array)
        .ok_or("txs must be an array")?;
    // A guess: a voucher or a permit can take their place.
    let is_replaced = ["voucher_id", "permit_data"]
        .iter()
        .any(|field| body.get(*field).is_some_and(|value| !value.is_null()));
    if txs.is_empty() && !is_replaced {
        return Err("txs must not be empty".to_owned());
    }
    if !txs.iter().all(|tx| tx.is_string() || tx.is_array()) {
        return Err("txs must hold base64 strings or byte arrays".to_owned());
    }
    Ok(amount)
}

fn scenario(body: &Value) -> Scenario {
    let claw = body
        .get("claw_id")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let chosen = Scenario::of_text(claw);
    if chosen != Scenario::Paid {
        return chosen;
    }
    let extra = body.get("extraData").and_then(Value::as_object);
    extra
        .into_iter()
        .flat_map(|fields| fields.values())
        .filter_map(Value::as_str)
        .map(Scenario::of_text)
        .find(|scenario| *scenario != Scenario::Paid)
        .unwrap_or(Scenario::Paid)
}

fn create(engine: &Engine, call: &Call, key: &str, body: &Value) -> Answer {
    let mut desk = engine.open(NAME);
    let allowance = desk.count(key, engine.options.phygitals_creates_per_window);
    if allowance.is_some_and(|allowance| allowance.refused_for_s.is_some()) {
        return Answer::new(
            StatusCode::TOO_MANY_REQUESTS,
            error(StatusCode::TOO_MANY_REQUESTS),
        );
    }
    let amount = match check(body) {
        Ok(amount) => amount,
        Err(text) => return refuse(StatusCode::BAD_REQUEST, &text),
    };
    let scenario = scenario(body);
    if scenario == Scenario::Refused {
        return refuse(StatusCode::BAD_REQUEST, FAILED);
    }
    let ids = desk.next_ids();
    let session_id = ids.uuid(0);
    let total = format!("{}.0", amount.saturating_mul(PRICE));
    let facts = json!({
        "user_id": "did:privy:sandbox",
        "public_id": format!("_{}", ids.letters(1, "0123456789abcdef", 8)),
        "tx_hash": ids.letters(2, BASE58, 88),
        "mint": ids.letters(3, BASE58, 44),
        "amount": amount,
    });
    let draft = Draft {
        id: session_id.clone(),
        reference: session_id.clone(),
        scenario,
        life: call.time_line(life(scenario), scenario),
        facts,
    };
    desk.create(ids, draft);
    let Some(purchase) = desk.find(&session_id) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
    };
    let mut result = result(purchase, Vec::new());
    if let (Some(result), Ok(total)) = (result.as_object_mut(), total.parse()) {
        result.insert("total".to_owned(), Value::Number(total));
    }
    Answer::ok(json!({ "result": result }))
        .says(purchase, PROCESSING, purchase.created)
        .created(session_id)
}

/// Waits for the next word, as long as the provider holds a poll open.
async fn status(engine: &Engine, call: &Call, body: &Value) -> Answer {
    let Some(session_id) = body.get("session_id").and_then(Value::as_str) else {
        return refuse(StatusCode::BAD_REQUEST, "session_id is required");
    };
    let hold = engine.options.long_poll.div_f64(engine.options.speed);
    let deadline = Instant::now() + hold;
    let mut first_word: Option<String> = None;
    loop {
        let moved = {
            let desk = engine.open(NAME);
            let Some(purchase) = desk.find(session_id) else {
                return refuse(StatusCode::BAD_REQUEST, "Session not found");
            };
            let word = purchase.word();
            let is_news = first_word.as_deref().is_some_and(|first| first != word);
            let is_over = matches!(word, FULFILLED | FAILED);
            if is_news || is_over || Instant::now() >= deadline || engine.stop.is_cancelled() {
                return render(call, purchase);
            }
            first_word = Some(word.to_owned());
            // Made while the book is open, so that no move is missed in between.
            Arc::clone(&purchase.moved).notified_owned()
        };
        tokio::select! {
            biased;
            () = moved => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = engine.stop.cancelled() => {}
        }
    }
}

fn render(call: &Call, purchase: &Purchase) -> Answer {
    let shown = call.shown(purchase);
    let answer = match shown.word() {
        FULFILLED => Answer::ok(json!({ "result": result(&shown, nfts(&shown)) })),
        PROCESSING => Answer::ok(json!({ "result": result(&shown, Vec::new()) })),
        FAILED => refuse(StatusCode::BAD_REQUEST, FAILED),
        word => Answer::ok(json!({ "status": word })),
    };
    answer.tells(purchase, &shown)
}

fn result(purchase: &Purchase, nfts: Vec<Value>) -> Value {
    json!({
        "session_id": &*purchase.reference,
        "user_id": purchase.fact("user_id"),
        "public_id": purchase.fact("public_id"),
        "tx_hash": purchase.fact("tx_hash"),
        "nfts": nfts,
    })
}

fn nfts(purchase: &Purchase) -> Vec<Value> {
    let amount = purchase
        .facts
        .get("amount")
        .and_then(Value::as_u64)
        .unwrap_or(1);
    let image = "https://cdn.example.test/cards/1.png";
    (0..amount.min(100))
        .map(|pull| {
            let mint = format!("{}{pull}", purchase.fact("mint"));
            json!({
                "id": mint,
                "type": "enft",
                "buyback_price": 21.25,
                "mint_address": mint,
                "content": {
                    "metadata": { "name": "Sandbox Rookie /99", "image": image },
                    "links": { "image": image },
                },
            })
        })
        .collect()
}
