//! Devdraft: stablecoin and bank intents, with idempotency keys and a quota per client key.

mod sample;

pub(crate) use sample::sample;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::{
    book::{Draft, Kept, Purchase},
    engine::Engine,
    exchange::{Answer, Call, iso},
    life::Life,
    scenario::Scenario,
    window::Allowance,
};

pub(crate) const NAME: &str = "devdraft";
/// The start of both create routes.
pub(crate) const CREATE: &str = "/api/v0/payment-intents/";
const STABLECOIN: &str = "stablecoin";
const BANK: &str = "bank";
const CROCKFORD: &str = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The time for which an idempotency key is remembered (its guide says 24 hours).
const KEY_LIFE_S: i64 = 24 * 3600;

const NETWORKS: [&str; 17] = [
    "ethereum",
    "solana",
    "polygon",
    "avalanche_c_chain",
    "base",
    "arbitrum",
    "optimism",
    "stellar",
    "tron",
    "bridge_wallet",
    "wire",
    "ach",
    "ach_push",
    "ach_same_day",
    "sepa",
    "swift",
    "spei",
];

/// The state that answers to creates say.
const FIRST: &str = "pending";
const AWAITING: &str = "AWAITING_FUNDS";
const RECEIVED: &str = "FUNDS_RECEIVED";
const REVIEW: &str = "IN_REVIEW";
const SUBMITTED: &str = "PAYMENT_SUBMITTED";
const PROCESSED: &str = "PAYMENT_PROCESSED";
const RETURNED: &str = "RETURNED";
const REFUNDING: &str = "REFUND_IN_FLIGHT";
const REFUNDED: &str = "REFUNDED";

const PAID: Life = &[
    (0, AWAITING),
    (4000, RECEIVED),
    (8000, SUBMITTED),
    (13_000, PROCESSED),
];

pub(crate) fn life(scenario: Scenario) -> Life {
    match scenario {
        Scenario::Paid
        | Scenario::Slow
        | Scenario::Flaky
        | Scenario::Lost
        | Scenario::Throttled => PAID,
        Scenario::Declined => &[
            (0, AWAITING),
            (4000, RECEIVED),
            (8000, SUBMITTED),
            (12_000, "UNDELIVERABLE"),
        ],
        Scenario::Expired => &[(0, AWAITING), (9000, "CANCELED")],
        Scenario::Underpaid => &[
            (0, AWAITING),
            (3000, REVIEW),
            (8000, RETURNED),
            (13_000, REFUNDED),
        ],
        Scenario::Refunded => &[
            (0, AWAITING),
            (3000, RECEIVED),
            (6000, SUBMITTED),
            (9000, RETURNED),
            (12_000, REFUNDING),
            (15_000, REFUNDED),
        ],
        Scenario::Disputed => &[
            (0, AWAITING),
            (3000, RECEIVED),
            (6000, SUBMITTED),
            (9000, "DISPUTED"),
            (15_000, PROCESSED),
        ],
        Scenario::Stuck => &[(0, AWAITING)],
        Scenario::Unknown => &[
            (0, AWAITING),
            (3000, RECEIVED),
            (6000, "SANDBOX_UNKNOWN"),
            (12_000, PROCESSED),
        ],
        Scenario::Held => &[
            (0, AWAITING),
            (3000, REVIEW),
            (12_000, RECEIVED),
            (15_000, SUBMITTED),
            (18_000, PROCESSED),
        ],
        Scenario::Refused => &[],
    }
}

pub(crate) fn error(status: StatusCode, retry_after_s: Option<u64>) -> Value {
    let reason = status.canonical_reason().unwrap_or_default();
    match (status, retry_after_s) {
        (StatusCode::UNAUTHORIZED, _) => {
            nest(status, &json!("Unauthorized - Invalid API credentials"))
        }
        (StatusCode::TOO_MANY_REQUESTS, seconds) => json!({
            "statusCode": 429,
            "message": "Rate limit exceeded",
            "retryAfter": seconds.unwrap_or(1),
        }),
        _ => nest(status, &json!(reason)),
    }
}

fn nest(status: StatusCode, message: &Value) -> Value {
    json!({
        "statusCode": status.as_u16(),
        "message": message,
        "error": status.canonical_reason(),
    })
}

fn refuse(status: StatusCode, message: impl Into<Value>) -> Answer {
    Answer::new(status, nest(status, &message.into()))
}

pub(crate) fn answer(engine: &Engine, call: &Call) -> Answer {
    let (Some(key), Some(secret)) = (call.header("x-client-key"), call.header("x-client-secret"))
    else {
        return Answer::new(
            StatusCode::UNAUTHORIZED,
            error(StatusCode::UNAUTHORIZED, None),
        );
    };
    let limit = engine.options.devdraft_calls_per_window;
    let allowance = engine.open(NAME).count(key, limit);
    let answer = if let Some(seconds) = allowance.and_then(|allowance| allowance.refused_for_s) {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Answer::new(status, error(status, Some(seconds))).header("retry-after", seconds)
    } else if engine.accepts(key) && engine.accepts(secret) {
        route(engine, call, key)
    } else {
        Answer::new(
            StatusCode::UNAUTHORIZED,
            error(StatusCode::UNAUTHORIZED, None),
        )
    };
    match allowance {
        Some(allowance) => quota(answer, allowance),
        None => answer,
    }
}

fn quota(answer: Answer, allowance: Allowance) -> Answer {
    answer
        .header("x-ratelimit-limit", allowance.limit)
        .header("x-ratelimit-remaining", allowance.remaining)
        .header("x-ratelimit-reset", allowance.reset_s)
}

fn route(engine: &Engine, call: &Call, key: &str) -> Answer {
    let rest = call.path.strip_prefix(CREATE).unwrap_or_default();
    if call.method == Method::POST && matches!(rest, STABLECOIN | BANK) {
        return create(engine, call, key, rest);
    }
    if call.method == Method::GET
        && let Some(reference) = rest.strip_suffix("/status")
        && !reference.contains('/')
    {
        return status(engine, call, reference);
    }
    let text = format!("Cannot {} {}", call.method, call.path);
    refuse(StatusCode::NOT_FOUND, text)
}

fn check(kind: &str, body: &Value) -> Vec<String> {
    let mut messages = Vec::new();
    let mut one_of = |field: &str, words: &[&str]| {
        let value = body.get(field).and_then(Value::as_str).unwrap_or_default();
        if !words.contains(&value) {
            let words = words.join(", ");
            messages.push(format!(
                "{field} must be one of the following values: {words}"
            ));
        }
    };
    if kind == STABLECOIN {
        one_of("sourceCurrency", &["usdc", "eurc"]);
        one_of("sourceNetwork", &NETWORKS);
        one_of("destinationNetwork", &NETWORKS);
    } else {
        one_of("sourceCurrency", &["usd", "eur", "mxn"]);
        one_of("sourcePaymentRail", &NETWORKS);
        one_of("destinationNetwork", &NETWORKS);
        // No page lists the currencies.
        let currency = body.get("destinationCurrency").and_then(Value::as_str);
        if currency.is_none_or(str::is_empty) {
            messages.push("destinationCurrency should not be empty".to_owned());
        }
    }
    if let Some(amount) = body.get("amount").filter(|amount| !amount.is_null())
        && !amount.as_str().is_some_and(is_decimal)
    {
        messages.push("amount must be a number string".to_owned());
    }
    let limits = [
        ("customer_first_name", 0, 100),
        ("customer_last_name", 0, 100),
        ("customer_email", 0, 255),
        ("customer_address", 0, 500),
        ("wire_message", 0, 256),
        ("sepa_reference", 6, 140),
        ("ach_reference", 0, 10),
    ];
    for (field, min, max) in limits {
        let Some(value) = body.get(field).filter(|value| !value.is_null()) else {
            continue;
        };
        match value.as_str().map(|text| text.chars().count()) {
            None => messages.push(format!("{field} must be a string")),
            Some(length) if length > max => messages.push(format!(
                "{field} must be shorter than or equal to {max} characters"
            )),
            Some(length) if length < min => messages.push(format!(
                "{field} must be longer than or equal to {min} characters"
            )),
            Some(_) => {}
        }
    }
    messages
}

fn is_decimal(text: &str) -> bool {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole) && digits(decimals)
}

fn create(engine: &Engine, call: &Call, client_key: &str, kind: &str) -> Answer {
    let body = match call.json() {
        Ok(body) => body,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let idempotency_key = call.header("idempotency-key");
    if idempotency_key.is_some_and(|key| uuid::Uuid::try_parse(key).is_err()) {
        return refuse(
            StatusCode::BAD_REQUEST,
            json!(["idempotency-key must be a UUID"]),
        );
    }
    let request = format!("{kind} {body}");
    let mut desk = engine.open(NAME);
    // One client's key means nothing to another client.
    let kept_key = idempotency_key.map(|key| format!("{client_key} {key}"));
    let now = desk.now();
    let kept = kept_key
        .as_deref()
        .and_then(|key| desk.book_mut().kept(key));
    if let Some(kept) = kept.cloned()
        && now.as_second() - kept.at.as_second() < KEY_LIFE_S
    {
        return if kept.request == request {
            let answer = Answer::new(StatusCode::CREATED, kept.answer);
            match desk.find(&kept.reference) {
                Some(purchase) => answer.says(purchase, FIRST, purchase.created),
                None => answer,
            }
        } else {
            let text = "Idempotency key already used with different parameters";
            refuse(StatusCode::CONFLICT, text)
        };
    }
    let messages = check(kind, &body);
    if !messages.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, json!(messages));
    }
    let scenario = Scenario::of_amount(
        body.get("amount")
            .and_then(Value::as_str)
            .unwrap_or_default(),
    );
    if scenario == Scenario::Refused {
        return refuse(StatusCode::BAD_REQUEST, json!(["amount is not accepted"]));
    }
    let ids = desk.next_ids();
    let reference = format!("txn_{}", ids.letters(0, CROCKFORD, 26));
    let bridge = format!("transfer_{}", ids.letters(1, "0123456789abcdef", 12));
    let draft = Draft {
        id: reference.clone(),
        reference: reference.clone(),
        scenario,
        life: call.time_line(life(scenario), scenario),
        facts: facts(&body, bridge),
    };
    desk.create(ids, draft);
    let Some(purchase) = desk.find(&reference) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
    };
    let body = render(purchase, "state", FIRST);
    let answer =
        Answer::new(StatusCode::CREATED, body.clone()).says(purchase, FIRST, purchase.created);
    if let Some(key) = kept_key {
        let kept = Kept {
            request,
            reference: reference.clone(),
            answer: body,
            at: now,
        };
        desk.keep(key, kept);
    }
    answer.created(reference)
}

fn facts(body: &Value, bridge: String) -> Value {
    let text = |name: &str| body.get(name).cloned().unwrap_or_default();
    let rail = if body.get("sourceNetwork").is_some() {
        "sourceNetwork"
    } else {
        "sourcePaymentRail"
    };
    let mut customer = Map::new();
    let names = [
        ("first_name", "customer_first_name"),
        ("last_name", "customer_last_name"),
        ("email", "customer_email"),
        ("address", "customer_address"),
        ("phone_number", "phoneNumber"),
    ];
    for (name, field) in names {
        customer.insert(name.to_owned(), text(field));
    }
    json!({
        "bridge_transfer_id": bridge,
        "amount": text("amount"),
        "source": { "payment_rail": text(rail), "currency": text("sourceCurrency") },
        "destination": {
            "payment_rail": text("destinationNetwork"),
            "currency": text("destinationCurrency"),
            "to_address": text("destinationAddress"),
        },
        "customer": customer,
    })
}

fn status(engine: &Engine, call: &Call, reference: &str) -> Answer {
    let desk = engine.open(NAME);
    let Some(purchase) = desk.find(reference) else {
        return refuse(StatusCode::NOT_FOUND, "Transaction not found");
    };
    let shown = call.shown(purchase);
    Answer::ok(render(&shown, "status", shown.word())).tells(purchase, &shown)
}

fn render(purchase: &Purchase, word_key: &str, word: &str) -> Value {
    let mut body = purchase.facts.as_object().cloned().unwrap_or_default();
    body.insert("id".to_owned(), json!(&*purchase.reference));
    body.insert(word_key.to_owned(), json!(word));
    body.insert("created_at".to_owned(), json!(iso(purchase.created)));
    body.insert("updated_at".to_owned(), json!(iso(purchase.updated())));
    Value::Object(body)
}
