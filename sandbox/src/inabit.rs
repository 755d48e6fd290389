//! Inabit Terminal: purchases that are paid in a widget, read singly or searched.
//! A key with `org` or `organization` among its parts opens only the merchant routes, one with
//! `widget` only the others; any other key opens all of them.

mod sample;

pub(crate) use sample::sample;

use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Number, Value, json};

use crate::{
    book::{Draft, Purchase},
    engine::Engine,
    exchange::{Answer, Call, has_part, iso},
    life::Life,
    scenario::Scenario,
};

pub(crate) const NAME: &str = "inabit";
pub(crate) const CREATE: &str = "/v1/purchase";
const SEARCH: &str = "/v1/merchant/purchase/search";
const MERCHANT: &str = "/v1/merchant/purchase/";
const WIDGET: &str = "/v1/widget/purchase/";
const WIDGET_ID: &str = "8157eb9f-0000-4000-8000-000000000001";

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

const INITIATED: &str = "Initiated";
const ALLOCATED: &str = "Allocated";
const UNCONFIRMED: &str = "Unconfirmed";
const CONFIRMING: &str = "Confirming";
const COMPLETED: &str = "Completed";
const UNDERCHARGE: &str = "Undercharge";
const UNDERCHARGE_EXPIRED: &str = "UnderchargeExpired";
const OVERCHARGE: &str = "Overcharge";
const PENDING_FORK: &str = "PendingFork";
const SWEPT: &str = "Swept";

const PAID: Life = &[
    (0, INITIATED),
    (2000, ALLOCATED),
    (5000, UNCONFIRMED),
    (8000, CONFIRMING),
    (12_000, COMPLETED),
    (16_000, SWEPT),
];

/// It knows neither refunds nor disputes: an overpaid purchase, whose excess goes back, and a
/// forked chain stand in for them.
pub(crate) fn life(scenario: Scenario) -> Life {
    match scenario {
        Scenario::Paid
        | Scenario::Slow
        | Scenario::Flaky
        | Scenario::Lost
        | Scenario::Throttled => PAID,
        Scenario::Declined => &[
            (0, INITIATED),
            (2000, ALLOCATED),
            (5000, UNCONFIRMED),
            (9000, "Failed"),
        ],
        Scenario::Expired => &[(0, INITIATED), (2000, ALLOCATED), (9000, "Expired")],
        Scenario::Underpaid => &[
            (0, INITIATED),
            (2000, ALLOCATED),
            (5000, UNDERCHARGE),
            (12_000, UNDERCHARGE_EXPIRED),
        ],
        Scenario::Refunded => &[
            (0, INITIATED),
            (2000, ALLOCATED),
            (5000, OVERCHARGE),
            (12_000, COMPLETED),
        ],
        Scenario::Disputed => &[
            (0, INITIATED),
            (2000, ALLOCATED),
            (5000, CONFIRMING),
            (8000, PENDING_FORK),
            (14_000, COMPLETED),
        ],
        Scenario::Stuck => &[(0, INITIATED), (2000, ALLOCATED)],
        Scenario::Unknown => &[
            (0, INITIATED),
            (2000, ALLOCATED),
            (5000, "SANDBOX_UNKNOWN"),
            (12_000, COMPLETED),
        ],
        Scenario::Held => &[
            (0, INITIATED),
            (2000, ALLOCATED),
            (5000, CONFIRMING),
            (8000, PENDING_FORK),
        ],
        Scenario::Refused => &[],
    }
}

pub(crate) fn error(status: StatusCode) -> Value {
    json!({ "error": { "message": status.canonical_reason() } })
}

fn refuse(status: StatusCode, text: &str) -> Answer {
    Answer::new(status, json!({ "error": { "message": text } }))
}

pub(crate) fn answer(engine: &Engine, call: &Call) -> Answer {
    let path = call.path.as_str();
    let is_merchant = path.starts_with("/v1/merchant/");
    let allowed = match path {
        CREATE | SEARCH => Method::POST,
        _ if single(path).is_some() => Method::GET,
        _ => return refuse(StatusCode::NOT_FOUND, "Not Found"),
    };
    if call.method != allowed {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            .header("allow", allowed);
    }
    if !call
        .bearer()
        .is_some_and(|key| engine.accepts(key) && opens(key, is_merchant))
    {
        return Answer::new(StatusCode::UNAUTHORIZED, error(StatusCode::UNAUTHORIZED));
    }
    match (path, single(path)) {
        (CREATE, _) => create(engine, call),
        (SEARCH, _) => search(engine, call),
        (_, Some(reference)) => read(engine, call, reference),
        (_, None) => refuse(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// The purchase that a path names.
fn single(path: &str) -> Option<&str> {
    let rest = path
        .strip_prefix(MERCHANT)
        .or_else(|| path.strip_prefix(WIDGET))?;
    (!rest.is_empty() && !rest.contains('/')).then_some(rest)
}

fn opens(key: &str, is_merchant: bool) -> bool {
    let is_organization = has_part(key, "org") || has_part(key, "organization");
    let is_widget = has_part(key, "widget");
    if is_organization == is_widget {
        true
    } else {
        is_organization == is_merchant
    }
}

fn create(engine: &Engine, call: &Call) -> Answer {
    let Ok(body) = call.json() else {
        return refuse(StatusCode::BAD_REQUEST, "Bad Request");
    };
    // No page says which fields the provider insists on: without a price there is nothing
    // to pay, and whatever else is missing is let pass.
    let text = |name: &str| body.get(name).filter(|value| !value.is_null());
    let mut messages: Vec<String> = ["title", "subTitle", "siteName", "purchaseIdentifier"]
        .into_iter()
        .filter(|field| text(field).is_some_and(|value| !value.is_string()))
        .chain(["fiatCurrency"].into_iter().filter(|field| {
            text(field)
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
        }))
        .map(|field| format!("{field} must be a string"))
        .collect();
    let fiat = body.get("fiatAmount").and_then(Value::as_number);
    let millionths = fiat.and_then(|amount| millionths(&amount.to_string()));
    let scenario = fiat.map_or(Scenario::Paid, |amount| {
        Scenario::of_amount(&amount.to_string())
    });
    match (fiat, millionths) {
        (None, _) => messages.push("fiatAmount must be a number".to_owned()),
        (Some(_), None) => messages.push("fiatAmount must be a positive number".to_owned()),
        (Some(_), Some(_)) if scenario == Scenario::Refused => {
            messages.push("fiatAmount is not accepted".to_owned());
        }
        (Some(_), Some(_)) => {}
    }
    if !messages.is_empty() {
        let error = json!({ "message": "Bad Request", "messages": messages });
        return Answer::new(StatusCode::BAD_REQUEST, json!({ "error": error }));
    }
    let mut desk = engine.open(NAME);
    let ids = desk.next_ids();
    let id = ids.uuid(0);
    let text = |name: &str| body.get(name).cloned().unwrap_or_default();
    let facts = json!({
        "title": text("title"),
        "subTitle": text("subTitle"),
        "siteName": text("siteName"),
        "purchaseIdentifier": text("purchaseIdentifier"),
        "fiatAmount": text("fiatAmount"),
        "fiatCurrency": text("fiatCurrency"),
        "millionths": millionths,
        "transaction": ids.hash(1),
        "address": ids.letters(2, "123456789ABCDEFGHJKLMNPQRSTUVWXYZ", 33),
    });
    let draft = Draft {
        id: id.clone(),
        reference: id.clone(),
        scenario,
        life: call.time_line(life(scenario), scenario),
        facts,
    };
    desk.create(ids, draft);
    let answer = Answer::new(StatusCode::CREATED, json!({ "data": { "id": id } }));
    let answer = match desk.find(&id) {
        Some(purchase) => answer.tells(purchase, purchase),
        None => answer,
    };
    answer.created(id)
}

/// A plain positive decimal in millionths.
fn millionths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{decimals:0<6}");
    let decimals: u64 = digits.get(..6)?.parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(decimals)
        .filter(|amount| *amount > 0)
}

fn read(engine: &Engine, call: &Call, reference: &str) -> Answer {
    let desk = engine.open(NAME);
    let Some(purchase) = desk.find(reference) else {
        return refuse(StatusCode::NOT_FOUND, "Purchase not found");
    };
    let shown = call.shown(purchase);
    Answer::ok(json!({ "data": render(&shown, desk.now()) })).tells(purchase, &shown)
}

fn search(engine: &Engine, call: &Call) -> Answer {
    let Ok(body) = call.json() else {
        return refuse(StatusCode::BAD_REQUEST, "Bad Request");
    };
    let number = |name: &str, default: usize| match call.parameter(name) {
        None => Ok(default),
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| format!("{name} must be a number")),
    };
    let (limit, offset) = match (number("limit", PAGE_DEFAULT), number("offset", 0)) {
        (Ok(limit), Ok(offset)) => (limit.min(PAGE_MAX), offset),
        (Err(message), _) | (_, Err(message)) => {
            let error = json!({ "message": "Bad Request", "messages": [message] });
            return Answer::new(StatusCode::BAD_REQUEST, json!({ "error": error }));
        }
    };
    let mut desk = engine.open(NAME);
    let now = desk.now();
    let found: Vec<&Purchase> = desk
        .book_mut()
        .newest_first()
        .filter(|purchase| matches(&body, purchase))
        .collect();
    let page: Vec<&Purchase> = found.iter().skip(offset).take(limit).copied().collect();
    let total = found.len();
    let shown = page
        .into_iter()
        .map(|purchase| (purchase, call.shown(purchase)));
    let shown: Vec<_> = shown.collect();
    let purchases: Vec<Value> = (shown.iter())
        .map(|(_, shown)| render(shown, now))
        .collect();
    let data = json!({ "purchases": purchases, "total": total });
    let answer = Answer::new(StatusCode::CREATED, json!({ "data": data }));
    (shown.iter()).fold(answer, |answer, (purchase, shown)| {
        answer.tells(purchase, shown)
    })
}

fn matches(body: &Value, purchase: &Purchase) -> bool {
    let among = |name: &str, value: &str| match body.get(name).and_then(Value::as_array) {
        Some(words) if !words.is_empty() => words.iter().any(|word| word.as_str() == Some(value)),
        _ => true,
    };
    let text = body
        .get("searchText")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let has_text = purchase.reference.contains(text)
        || ["purchaseIdentifier", "title"]
            .iter()
            .any(|fact| purchase.fact(fact).contains(text));
    // A start without zone or seconds still sorts correctly as text.
    let since = body
        .get("createdAt")
        .and_then(Value::as_str)
        .unwrap_or_default();
    has_text
        && iso(purchase.created).as_str() >= since
        && among("statuses", purchase.word())
        && among("widgetUuids", WIDGET_ID)
        && among("merchants", "Merchant #1")
}

fn render(purchase: &Purchase, now: Timestamp) -> Value {
    let word = purchase.word();
    let coin = Coin::of(purchase);
    let allocated = purchase
        .past
        .iter()
        .find(|(_, word)| word == ALLOCATED)
        .map(|(at, _)| *at);
    let planned = purchase
        .facts
        .get("millionths")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let paid = paid(word, planned, purchase);
    let fact = |name: &str| purchase.facts.get(name).cloned().unwrap_or_default();
    let transactions: Vec<&str> = if paid > 0 {
        vec![purchase.fact("transaction")]
    } else {
        Vec::new()
    };
    json!({
        "id": &*purchase.reference,
        "title": fact("title"),
        "subTitle": fact("subTitle"),
        "siteName": fact("siteName"),
        "asset": allocated.map(|_| coin.asset),
        "blockchain": allocated.map(|_| coin.blockchain),
        "address": allocated.map(|_| format!("{}{}", coin.prefix, purchase.fact("address"))),
        "transactions": transactions,
        "fiatAmount": fact("fiatAmount"),
        "fiatCurrency": fact("fiatCurrency"),
        "currentDate": iso(now),
        "confirmationAmount": 20,
        "amount": coin.number(paid),
        "plannedAmount": coin.number(planned),
        "baseCurrency": fact("fiatCurrency"),
        "baseCurrencyAmount": fixed(paid),
        "plannedBaseCurrencyAmount": fixed(planned),
        "creationDate": iso(purchase.created),
        "allocationDate": allocated.map(iso),
        "expirationDate": allocated.map(|at| iso(at + SignedDuration::from_mins(10))),
        "status": word,
        "acceptPartialPayment": true,
        "widgetName": "SandboxWidget",
        "sweepingStatus": "TBD",
        "sweepingFee": "TBD",
        "merchantName": "Merchant #1",
        "redirectUrl": "https://shop.example.test/",
        "widgetId": WIDGET_ID,
        "purchaseIdentifier": fact("purchaseIdentifier"),
    })
}

/// The payments so far, in millionths of the asked amount's unit.
fn paid(word: &str, planned: u64, purchase: &Purchase) -> u64 {
    match word {
        INITIATED | ALLOCATED | "Expired" | "GenerateAddressFailed" => 0,
        UNDERCHARGE | UNDERCHARGE_EXPIRED => planned / 2,
        OVERCHARGE => planned.saturating_add(planned / 5),
        _ if purchase.has_been(OVERCHARGE) => planned.saturating_add(planned / 5),
        _ => planned,
    }
}

/// The coin that a payer chose: only on Bitcoin is a payment seen before it is in a block.
#[derive(Clone, Copy)]
struct Coin {
    asset: &'static str,
    blockchain: &'static str,
    prefix: &'static str,
}

impl Coin {
    fn of(purchase: &Purchase) -> Self {
        if life(purchase.scenario)
            .iter()
            .any(|(_, word)| *word == UNCONFIRMED)
        {
            Self {
                asset: "BTC",
                blockchain: "bitcoin",
                prefix: "bc1q",
            }
        } else {
            Self {
                asset: "TRX",
                blockchain: "tron",
                prefix: "T",
            }
        }
    }

    /// An amount of this coin for millionths of the base currency: 4 TRX or 1e-5 BTC each unit.
    fn number(self, millionths: u64) -> Value {
        if self.asset == "TRX" {
            fixed(millionths.saturating_mul(4))
        } else {
            tiny(millionths)
        }
    }
}

/// Millionths as a plain JSON number.
fn fixed(millionths: u64) -> Value {
    let text = format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.parse::<Number>().map_or(Value::Null, Value::Number)
}

/// Units of 1e-11 as a JSON number with an exponent, as small amounts are written.
fn tiny(units: u64) -> Value {
    if units == 0 {
        return json!(0);
    }
    let digits = units.to_string();
    let exponent = i64::try_from(digits.len()).unwrap_or(1) - 1 - 11;
    let (first, rest) = digits.split_at_checked(1).unwrap_or(("0", ""));
    let rest = rest.trim_end_matches('0');
    let point = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    let text = format!("{first}{point}{rest}e{sign}{:02}", exponent.unsigned_abs());
    text.parse::<Number>().map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::{fixed, millionths, opens, tiny};

    #[test]
    fn amounts_are_exact_numbers() {
        assert_eq!(fixed(10_174_252).to_string(), "10.174252");
        assert_eq!(fixed(3_000_000).to_string(), "3");
        assert_eq!(tiny(2_630_000).to_string(), "2.63e-05");
        assert_eq!(tiny(1_000_000).to_string(), "1e-05");
        assert_eq!(tiny(0).to_string(), "0");
        assert_eq!(millionths("2.5"), Some(2_500_000));
        assert_eq!(millionths("0"), None);
        assert_eq!(millionths("-1"), None);
    }

    #[test]
    fn a_key_that_names_its_kind_opens_only_its_routes() {
        assert!(opens("test-org-key", true) && !opens("test-org-key", false));
        assert!(opens("test-widget-key", false) && !opens("test-widget-key", true));
        assert!(opens("k", true) && opens("k", false));
    }
}
