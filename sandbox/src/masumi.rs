//! The Masumi payment service: purchases in escrow on Cardano, named by their blockchain
//! identifier and network.
//! The order of its checks is the real one's: route, size, charset, JSON, token, fields, network.

mod check;
mod row;
mod sample;

pub(crate) use sample::sample;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    book::{Draft, Purchase},
    engine::Engine,
    exchange::{Answer, Call, has_part},
    life::Life,
    scenario::Scenario,
};
use check::{Fields, Source};

pub(crate) const NAME: &str = "masumi";
pub(crate) const CREATE: &str = "/api/v1/purchase";
const RESOLVE: &str = "/api/v1/purchase/resolve-blockchain-identifier";
const COUNT: &str = "/api/v1/purchase/count";
const DIFF: &str = "/api/v1/purchase/diff";
const DIFF_ACTION: &str = "/api/v1/purchase/diff/next-action";
const DIFF_STATE: &str = "/api/v1/purchase/diff/onchain-state-or-result";

/// The real service's JSON parser stops there.
pub(crate) const BODY_BYTES_MAX: usize = 100 * 1024;

const NETWORKS: [&str; 2] = ["Preprod", "Mainnet"];
const SOURCE_TYPES: [&str; 2] = ["Web3CardanoV1", "Web3CardanoV2"];
const STATES: [&str; 10] = [
    "FundsLocked",
    "FundsOrDatumInvalid",
    "ResultSubmitted",
    "RefundRequested",
    "Disputed",
    "WithdrawAuthorized",
    "RefundAuthorized",
    "Withdrawn",
    "RefundWithdrawn",
    "DisputedWithdrawn",
];

const REQUESTED: &str = "FundsLockingRequested";
const INITIATED: &str = "FundsLockingInitiated";
const LOCKED: &str = "FundsLocked";
const INVALID: &str = "FundsOrDatumInvalid";
const SUBMITTED: &str = "ResultSubmitted";
const WITHDRAWN: &str = "Withdrawn";

const PAID: Life = &[
    (0, REQUESTED),
    (2000, INITIATED),
    (5000, LOCKED),
    (9000, SUBMITTED),
    (14_000, WITHDRAWN),
];

/// A word is an on-chain state with its usual action, an action while nothing is on chain, or
/// both as `state/action`.
pub(crate) fn life(scenario: Scenario) -> Life {
    match scenario {
        Scenario::Paid
        | Scenario::Slow
        | Scenario::Flaky
        | Scenario::Lost
        | Scenario::Throttled => PAID,
        Scenario::Declined => &[
            (0, REQUESTED),
            (3000, "WaitingForManualAction"),
            (9000, "Ignore"),
        ],
        Scenario::Expired => &[(0, REQUESTED), (9000, INVALID)],
        Scenario::Underpaid => &[(0, REQUESTED), (2000, INITIATED), (6000, INVALID)],
        Scenario::Refunded => &[
            (0, REQUESTED),
            (2000, INITIATED),
            (5000, LOCKED),
            (9000, "RefundRequested"),
            (14_000, "RefundWithdrawn"),
        ],
        Scenario::Disputed => &[
            (0, REQUESTED),
            (2000, INITIATED),
            (4000, LOCKED),
            (7000, SUBMITTED),
            (10_000, "Disputed"),
            (15_000, "DisputedWithdrawn"),
        ],
        Scenario::Stuck => &[(0, REQUESTED), (2000, INITIATED)],
        Scenario::Unknown => &[
            (0, REQUESTED),
            (2000, INITIATED),
            (5000, LOCKED),
            (8000, "SANDBOX_UNKNOWN"),
            (14_000, WITHDRAWN),
        ],
        Scenario::Held => &[
            (0, REQUESTED),
            (2000, INITIATED),
            (5000, LOCKED),
            (8000, "FundsLocked/WaitingForManualAction"),
            (12_000, SUBMITTED),
            (17_000, WITHDRAWN),
        ],
        Scenario::Refused => &[],
    }
}

pub(crate) fn error(status: StatusCode) -> Value {
    let text = match status {
        StatusCode::UNAUTHORIZED => "Unauthorized, invalid authentication token provided",
        StatusCode::PAYLOAD_TOO_LARGE => "request entity too large",
        other => other.canonical_reason().unwrap_or_default(),
    };
    json!({ "status": "error", "error": { "message": text } })
}

fn refuse(status: StatusCode, text: &str) -> Answer {
    Answer::new(
        status,
        json!({ "status": "error", "error": { "message": text } }),
    )
}

fn internal() -> Answer {
    Answer::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        error(StatusCode::INTERNAL_SERVER_ERROR),
    )
}

fn success(data: &Value) -> Answer {
    Answer::ok(json!({ "status": "success", "data": data }))
}

pub(crate) fn answer(engine: &Engine, call: &Call) -> Answer {
    let path = call.path.strip_suffix('/').unwrap_or(&call.path);
    let allow = match path {
        CREATE => "GET, POST, HEAD, OPTIONS",
        RESOLVE => "POST, OPTIONS",
        COUNT | DIFF | DIFF_ACTION | DIFF_STATE => "GET, HEAD, OPTIONS",
        _ => {
            let text = format!("Can not {} {}", call.method, call.path);
            return refuse(StatusCode::NOT_FOUND, &text);
        }
    };
    if !allow
        .split(", ")
        .any(|method| method == call.method.as_str())
        || call.method == Method::OPTIONS
    {
        let text = format!("{} is not allowed", call.method);
        return refuse(StatusCode::METHOD_NOT_ALLOWED, &text).header("allow", allow);
    }
    let body = match body(call) {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    let is_create = path == CREATE && call.method == Method::POST;
    let token = match token(engine, call, is_create) {
        Ok(token) => token,
        Err(text) => return refuse(StatusCode::UNAUTHORIZED, text),
    };
    let query = call
        .query
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let query = Value::Object(query);
    let result = match path {
        CREATE if is_create => create(engine, call, token, &body),
        RESOLVE => resolve(engine, call, token, &body),
        CREATE => list(engine, call, token, &query),
        COUNT => count(engine, token, &query),
        _ => diff(engine, call, token, path, &query),
    };
    result.unwrap_or_else(|answer| *answer)
}

/// Answers are large beside a body or a token, so refusals travel boxed.
type Refusal = Box<Answer>;

/// A body of another type is not read, as the real service's parser leaves it alone.
fn body(call: &Call) -> Result<Value, Refusal> {
    let content_type = call
        .header("content-type")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut parts = content_type.split(';').map(str::trim);
    if call.method != Method::POST || parts.next() != Some("application/json") {
        return Ok(json!({}));
    }
    let charset = parts
        .find_map(|part| part.strip_prefix("charset="))
        .unwrap_or("utf-8");
    if !charset.starts_with("utf-") {
        let text = format!("unsupported charset \"{}\"", charset.to_ascii_uppercase());
        return Err(Box::new(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text)));
    }
    call.json().map_err(|error| {
        let text = if error.is_eof() {
            "Unexpected end of JSON input".to_owned()
        } else {
            format!(
                "Unexpected token in JSON at position {}",
                error.column().saturating_sub(1)
            )
        };
        Box::new(refuse(StatusCode::BAD_REQUEST, &text))
    })
}

/// A token with `read`, `mainnet`, `preprod` or `revoked` among its parts is a key of that kind.
fn token<'a>(engine: &Engine, call: &'a Call, is_create: bool) -> Result<&'a str, &'static str> {
    let Some(token) = call.header("token") else {
        return Err("Unauthorized, no authentication token provided");
    };
    if has_part(token, "revoked") {
        return Err("Unauthorized, API key is revoked");
    }
    if !engine.accepts(token) {
        return Err("Unauthorized, invalid authentication token provided");
    }
    if is_create && has_part(token, "read") {
        return Err("Unauthorized, payment access required");
    }
    Ok(token)
}

fn check_network(token: &str, network: &str) -> Result<(), Refusal> {
    let other = if network == "Preprod" {
        "mainnet"
    } else {
        "preprod"
    };
    if has_part(token, other) {
        let text = "Unauthorized, network not allowed";
        return Err(Box::new(refuse(StatusCode::UNAUTHORIZED, text)));
    }
    Ok(())
}

fn invalid(fields: Fields<'_>) -> Result<(), Refusal> {
    match fields.complaint() {
        Some(text) => Err(Box::new(refuse(StatusCode::BAD_REQUEST, &text))),
        None => Ok(()),
    }
}

fn create(engine: &Engine, call: &Call, token: &str, body: &Value) -> Result<Answer, Refusal> {
    invalid(check::create(body))?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    check_network(token, text("network"))?;
    let mut desk = engine.open(NAME);
    let identifier = text("blockchainIdentifier");
    if let Some(purchase) = desk.find(identifier) {
        if purchase.fact("network") != text("network") {
            let text = "No payment source found for agent identifiers policy id";
            return Ok(refuse(StatusCode::NOT_FOUND, text));
        }
        let shown = call.shown(purchase);
        let answer = Answer::new(StatusCode::CONFLICT, row::exists(&shown));
        return Ok(answer.tells(purchase, &shown));
    }
    let source = Source::of(body);
    if let Some((status, text)) = check::order(body, source, desk.now()) {
        return Ok(refuse(status, text));
    }
    let scenario = Scenario::of_text(text("metadata"));
    if scenario == Scenario::Refused {
        return Ok(refuse(StatusCode::BAD_REQUEST, "Insufficient funds"));
    }
    let ids = desk.next_ids();
    let draft = Draft {
        id: ids.ascending("cmsb"),
        reference: identifier.to_owned(),
        scenario,
        life: call.time_line(life(scenario), scenario),
        facts: row::facts(body, source, ids),
    };
    desk.create(ids, draft);
    let Some(purchase) = desk.find(identifier) else {
        return Ok(internal());
    };
    Ok(success(&row::created(purchase))
        .tells(purchase, purchase)
        .created(identifier))
}

fn resolve(engine: &Engine, call: &Call, token: &str, body: &Value) -> Result<Answer, Refusal> {
    let mut fields = Fields::of(body);
    fields.text("blockchainIdentifier", 1, 8000, true);
    fields.one_of("network", &NETWORKS, true);
    fields.text("filterSmartContractAddress", 0, 250, false);
    fields.text("includeHistory", 0, 250, false);
    invalid(fields)?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    check_network(token, text("network"))?;
    let desk = engine.open(NAME);
    let address = text("filterSmartContractAddress");
    let found = desk.find(text("blockchainIdentifier")).filter(|purchase| {
        !is_hidden(token, purchase)
            && purchase.fact("network") == text("network")
            && (address.is_empty() || row::source(purchase).address() == address)
    });
    let Some(purchase) = found else {
        return Ok(refuse(StatusCode::NOT_FOUND, "Purchase not found"));
    };
    let with_history = text("includeHistory") == "true";
    let shown = call.shown(purchase);
    Ok(success(&row::read(&shown, with_history)).tells(purchase, &shown))
}

/// True if a key cannot see a purchase: one with `scoped` among its parts is bound to a wallet,
/// and a purchase has none until its funds are being locked.
fn is_hidden(token: &str, purchase: &Purchase) -> bool {
    has_part(token, "scoped") && purchase.word() == REQUESTED
}

/// True if a row passes the filters that all listings share; only V1 rows unless asked.
fn listed(token: &str, query: &Value, purchase: &Purchase) -> bool {
    let text = |name: &str| query.get(name).and_then(Value::as_str);
    let source = row::source(purchase);
    let address = text("filterSmartContractAddress");
    let default_type = address.is_none().then_some("Web3CardanoV1");
    !is_hidden(token, purchase)
        && purchase.fact("network") == text("network").unwrap_or_default()
        && text("filterPaymentSourceType")
            .or(default_type)
            .is_none_or(|name| name == source.name())
        && address.is_none_or(|own| own == source.address())
}

fn page(call: &Call, query: &Value, purchases: &[&Purchase]) -> Answer {
    let with_history = query.get("includeHistory").and_then(Value::as_str) == Some("true");
    let shown: Vec<_> = (purchases.iter())
        .map(|purchase| (*purchase, call.shown(purchase)))
        .collect();
    let rows: Vec<Value> = (shown.iter())
        .map(|(_, shown)| row::read(shown, with_history))
        .collect();
    let answer = success(&json!({ "Purchases": rows }));
    (shown.iter()).fold(answer, |answer, (purchase, shown)| {
        answer.tells(purchase, shown)
    })
}

fn list(engine: &Engine, call: &Call, token: &str, query: &Value) -> Result<Answer, Refusal> {
    let mut fields = Fields::of(query);
    let limit = fields.limit();
    fields.one_of("network", &NETWORKS, true);
    fields.one_of("filterOnChainState", &STATES, false);
    fields.one_of("filterPaymentSourceType", &SOURCE_TYPES, false);
    invalid(fields)?;
    let text = |name: &str| query.get(name).and_then(Value::as_str);
    check_network(token, text("network").unwrap_or_default())?;
    let search = text("searchQuery").unwrap_or_default().to_ascii_lowercase();
    let manual = text("filterNeedsManualAction") == Some("true");
    let mut desk = engine.open(NAME);
    let rows: Vec<&Purchase> = desk
        .book_mut()
        .newest_first()
        .skip_while(|purchase| text("cursorId").is_some_and(|cursor| cursor != purchase.id))
        .filter(|purchase| {
            let face = row::Face::of(purchase.word());
            listed(token, query, purchase)
                && purchase.id.to_ascii_lowercase().contains(&search)
                && text("filterOnChainState").is_none_or(|state| face.state == Some(state))
                && (!manual || face.action == "WaitingForManualAction")
        })
        .take(limit)
        .collect();
    Ok(page(call, query, &rows))
}

fn count(engine: &Engine, token: &str, query: &Value) -> Result<Answer, Refusal> {
    let mut fields = Fields::of(query);
    fields.one_of("network", &NETWORKS, true);
    fields.one_of("filterPaymentSourceType", &SOURCE_TYPES, false);
    invalid(fields)?;
    check_network(
        token,
        query
            .get("network")
            .and_then(Value::as_str)
            .unwrap_or_default(),
    )?;
    let mut desk = engine.open(NAME);
    let total = desk
        .book_mut()
        .newest_first()
        .filter(|purchase| listed(token, query, purchase))
        .count();
    Ok(success(&json!({ "total": total })))
}

/// The changes since a time. The row under the cursor comes again, as in the real service.
fn diff(
    engine: &Engine,
    call: &Call,
    token: &str,
    path: &str,
    query: &Value,
) -> Result<Answer, Refusal> {
    let mut fields = Fields::of(query);
    let limit = fields.limit();
    fields.one_of("network", &NETWORKS, true);
    fields.one_of("filterPaymentSourceType", &SOURCE_TYPES, false);
    let since = fields.time("lastUpdate");
    invalid(fields)?;
    let text = |name: &str| query.get(name).and_then(Value::as_str);
    check_network(token, text("network").unwrap_or_default())?;
    // Without a time the cursor has no effect.
    let cursor = since.and_then(|_| text("cursorId")).unwrap_or_default();
    let since = since.unwrap_or(Timestamp::UNIX_EPOCH);
    let mut desk = engine.open(NAME);
    let book = desk.book_mut();
    let stamp: fn(&Purchase) -> Timestamp = match path {
        DIFF_ACTION => row::action_changed,
        DIFF_STATE => row::state_changed,
        _ => {
            let changed = book.changed_from(since, cursor);
            let rows: Vec<&Purchase> = changed
                .filter(|purchase| listed(token, query, purchase))
                .take(limit)
                .collect();
            return Ok(page(call, query, &rows));
        }
    };
    let mut rows: Vec<(Timestamp, &Purchase)> = book
        .newest_first()
        .filter(|purchase| listed(token, query, purchase))
        .map(|purchase| (stamp(purchase), purchase))
        .filter(|(at, purchase)| *at > since || (*at == since && purchase.id.as_str() >= cursor))
        .collect();
    rows.sort_by(|(at, one), (other_at, other)| at.cmp(other_at).then(one.id.cmp(&other.id)));
    let rows: Vec<&Purchase> = rows
        .into_iter()
        .map(|(_, purchase)| purchase)
        .take(limit)
        .collect();
    Ok(page(call, query, &rows))
}
