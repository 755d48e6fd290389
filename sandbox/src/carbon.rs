//! Carbon: card charges with 3-D Secure, settled into a cryptocurrency.
//! An order is read by its order id together with its contact id.
//!
//! A word is a code. A code of sent money comes with its transaction's hash; a `-` behind it leaves
//! the hash out, as in the time before a transaction is known.

mod sample;

pub(crate) use sample::sample;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    book::{Draft, Purchase},
    engine::Engine,
    exchange::{Answer, Call},
    life::Life,
    scenario::Scenario,
};

pub(crate) const NAME: &str = "carbon";
pub(crate) const CREATE: &str = "/v1/card/charge3d";
const STATUS: &str = "/v1/status";

const FIELDS: [&str; 8] = [
    "creditDebitId",
    "fiatChargeAmount",
    "cryptocurrencySymbol",
    "receiveAddress",
    "contactId",
    "confirmationUrl",
    "successRedirectUrl",
    "errorRedirectUrl",
];

const PAID: Life = &[(0, "-1"), (4000, "0"), (8000, "10"), (13_000, "100")];

pub(crate) fn life(scenario: Scenario) -> Life {
    match scenario {
        Scenario::Paid
        | Scenario::Slow
        | Scenario::Flaky
        | Scenario::Lost
        | Scenario::Throttled => PAID,
        Scenario::Declined => &[(0, "-1"), (5000, "7000")],
        Scenario::Expired => &[(0, "-1"), (10_000, "3")],
        Scenario::Underpaid => &[(0, "-1"), (4000, "2"), (12_000, "3")],
        Scenario::Refunded => &[(0, "-1"), (4000, "0"), (10_000, "3")],
        Scenario::Disputed => &[
            (0, "-1"),
            (3000, "0"),
            (6000, "10"),
            (9000, "1"),
            (12_000, "10"),
            (15_000, "100"),
        ],
        Scenario::Stuck => &[(0, "-1")],
        Scenario::Unknown => &[
            (0, "-1"),
            (4000, "SANDBOX_UNKNOWN"),
            (8000, "10"),
            (13_000, "100"),
        ],
        Scenario::Held => &[
            (0, "-1"),
            (4000, "2"),
            (10_000, "1"),
            (13_000, "10"),
            (16_000, "100"),
        ],
        Scenario::Refused => &[],
    }
}

pub(crate) fn error(status: StatusCode) -> Value {
    let text = status.canonical_reason().unwrap_or_default();
    let message = if status.is_server_error() {
        text.to_ascii_lowercase()
    } else {
        text.to_owned()
    };
    json!({ "message": message, "code": status.as_u16() })
}

fn refuse(status: StatusCode, text: &str) -> Answer {
    Answer::new(status, json!({ "message": text, "code": status.as_u16() }))
}

pub(crate) fn answer(engine: &Engine, call: &Call) -> Answer {
    let allowed = match call.path.as_str() {
        CREATE => Method::POST,
        STATUS => Method::GET,
        _ => return refuse(StatusCode::NOT_FOUND, "Not Found"),
    };
    if call.method != allowed {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
            .header("allow", allowed);
    }
    if !call.bearer().is_some_and(|token| engine.accepts(token)) {
        return Answer::new(StatusCode::UNAUTHORIZED, error(StatusCode::UNAUTHORIZED));
    }
    if call.path == CREATE {
        create(engine, call)
    } else {
        status(engine, call)
    }
}

/// The order, sent as JSON or as a form.
fn order(call: &Call) -> Option<Value> {
    let content_type = call.header("content-type").unwrap_or_default();
    if !content_type.starts_with("application/x-www-form-urlencoded") {
        return call.json().ok();
    }
    let pairs = url::form_urlencoded::parse(&call.body);
    let fields: Map<String, Value> = pairs
        .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
        .collect();
    Some(Value::Object(fields))
}

fn create(engine: &Engine, call: &Call) -> Answer {
    let Some(order) = order(call) else {
        return refuse(StatusCode::BAD_REQUEST, "invalid request body");
    };
    let text = |name: &str| order.get(name).and_then(Value::as_str).unwrap_or_default();
    if let Some(missing) = FIELDS.into_iter().find(|field| text(field).is_empty()) {
        return refuse(
            StatusCode::BAD_REQUEST,
            &format!("missing parameter {missing}"),
        );
    }
    let minor = text("fiatChargeAmount");
    if !minor.bytes().all(|letter| letter.is_ascii_digit()) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "fiatChargeAmount must be in minor units",
        );
    }
    if text("rateSignature").contains("expired") {
        return refuse(StatusCode::PRECONDITION_FAILED, "rate signature expired");
    }
    let scenario = Scenario::of_minor(minor);
    if scenario == Scenario::Refused {
        return Answer::ok(json!({
            "message": "card not enrolled",
            "code": 200,
            "charge3denrolled": "N",
        }));
    }
    let mut desk = engine.open(NAME);
    let ids = desk.next_ids();
    let order_id = ids.uuid(0);
    let facts = json!({
        "contactId": text("contactId"),
        "asset": text("cryptocurrencySymbol").to_ascii_uppercase(),
        "receiveAddress": text("receiveAddress"),
        "charged": major(minor),
        "transactionHash": ids.hash(1),
    });
    let draft = Draft {
        id: order_id.clone(),
        reference: order_id.clone(),
        scenario,
        life: call.time_line(life(scenario), scenario),
        facts,
    };
    desk.create(ids, draft);
    let Some(purchase) = desk.find(&order_id) else {
        return Answer::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error(StatusCode::INTERNAL_SERVER_ERROR),
        );
    };
    Answer::ok(json!({
        "message": "3DS enrolled",
        "code": 200,
        "charge3denrolled": "Y",
        "acsurl": "https://acs.example.test/",
        "pareq": "UEFSRVE=",
        "termurl": format!("https://carbon.example.test/v1/card/termurl?orderId={order_id}"),
        "md": "TUQ=",
        "orderId": order_id,
        "errorcode": 0,
    }))
    .tells(purchase, purchase)
    .created(order_id)
}

/// Minor units as a decimal amount, without a float on the way.
fn major(minor: &str) -> String {
    let padded = format!("{minor:0>3}");
    let (whole, cents) = padded
        .split_at_checked(padded.len().saturating_sub(2))
        .unwrap_or_default();
    let whole = whole.trim_start_matches('0');
    format!("{}.{cents}", if whole.is_empty() { "0" } else { whole })
}

fn status(engine: &Engine, call: &Call) -> Answer {
    let desk = engine.open(NAME);
    let contact_id = call.parameter("contactId").unwrap_or_default();
    let found = desk.find(call.parameter("orderId").unwrap_or_default());
    let Some(purchase) = found.filter(|purchase| purchase.fact("contactId") == contact_id) else {
        return refuse(StatusCode::BAD_REQUEST, "no order found");
    };
    let shown = call.shown(purchase);
    Answer::ok(json!({
        "message": "Successfully pulled order status",
        "code": 200,
        "details": details(&shown),
    }))
    .tells(purchase, &shown)
}

fn details(purchase: &Purchase) -> Value {
    let (word, is_hashed) = match purchase.word().strip_suffix('-') {
        Some(code) => (code, false),
        None => (purchase.word(), true),
    };
    let is_sent = is_hashed && matches!(word, "0" | "1" | "10" | "100");
    let is_over = is_sent || word == "3";
    json!({
        "cryptocurrencyAssetPurchase": purchase.fact("asset"),
        "cryptocurrencyAmountPurchase": "0.20166698",
        "transactionHash": is_sent.then(|| purchase.fact("transactionHash")),
        "status": word,
        "timeInitiated": javascript_date(purchase.created),
        "timeCompleted": is_over.then(|| javascript_date(purchase.updated())),
        "fiatBaseCurrency": "HKD",
        "paymentType": "Credit/Debit",
        "paymentDetails": {
            "pan": "xxxx-xxxx-xxx-0611",
            "chargeAmount": purchase.fact("charged"),
            "chargedCurrency": "EUR",
        },
        "receiveAddress": purchase.fact("receiveAddress"),
        "uuid": &*purchase.reference,
    })
}

/// A time as JavaScript's `Date.toString()` writes it.
fn javascript_date(at: Timestamp) -> String {
    at.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::{javascript_date, major};

    #[test]
    fn minor_units_become_a_decimal_amount() {
        for (minor, expected) in [("1039", "10.39"), ("5", "0.05"), ("100", "1.00")] {
            assert_eq!(major(minor), expected);
        }
    }

    #[test]
    fn times_are_written_as_javascript_does() {
        let at = jiff::Timestamp::from_second(1_558_483_832).unwrap();
        let expected = "Wed May 22 2019 00:10:32 GMT+0000 (Coordinated Universal Time)";
        assert_eq!(javascript_date(at), expected);
    }
}
