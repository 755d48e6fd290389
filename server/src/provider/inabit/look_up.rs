//! Finding a purchase whose create went unanswered, by its identifier.
//!
//! Adopting another's purchase would be worse than finding none: all that is known has to agree.

use std::time::Duration;

use ::http::Method;
use serde_json::{Value, json};

use super::{PURCHASE_IDENTIFIER, found, read_purchase, reference};
use crate::{
    observation::{Answer, Observation, Trouble},
    provider::{Intent, error_answer, wire},
    purchase::{Decimal, Timestamp},
    upstream::{Request, Response},
};

/// Rows of one page; more rows with one identifier than this are no answer.
const ROWS_MAX: usize = 100;
/// By how much the provider's clock may lag behind this service's (promise C3).
const CLOCK_LAG: Duration = Duration::from_secs(300);

/// The search, still without credentials. That `searchText` is matched with the purchase identifier
/// is inferred; rows are compared again anyway.
pub(super) fn request(identifier: &str) -> Request {
    Request::new(Method::POST, ["v1", "merchant", "purchase", "search"])
        .query("limit", &ROWS_MAX.to_string())
        .query("offset", "0")
        .json(&json!({ "searchText": identifier }))
}

/// The one row that is ours. The documented HTTP status is 201; any 2xx will do.
pub(super) fn read(intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Answer {
    if !(200..300).contains(&answer.status) {
        return Answer::Trouble(error_answer::trouble(answer, now));
    }
    match read_rows(intent, answer) {
        Ok(Some(observation)) => Answer::Observed(Box::new(observation)),
        Ok(None) => Answer::NotFound,
        Err(trouble) => Answer::Trouble(trouble),
    }
}

fn read_rows(intent: &Intent<'_>, answer: &Response) -> Result<Option<Observation>, Trouble> {
    let body = wire::object(answer)?;
    let (rows, total) = found(&body)?;
    let mut ours = rows.iter().filter(|row| agrees(intent, row));
    let row = ours.next();
    if ours.next().is_some() {
        return Err(Trouble::unreadable("several rows agree with the order"));
    }
    let Some(row) = row else {
        return Ok(None);
    };
    // Rows on further pages could agree as well.
    if total.unwrap_or(rows.len()) > rows.len() || rows.len() > ROWS_MAX {
        return Err(Trouble::unreadable("more rows than one page holds"));
    }
    let id = wire::text(row, "id").unwrap_or_default();
    let reference = reference(&id).ok_or_else(|| Trouble::unreadable("the row's id is no UUID"))?;
    let mut observation = read_purchase(&reference, row)?;
    observation.reference = Some(reference);
    Ok(Some(observation))
}

/// True if a row is of our order: identifier, amount, currency, and not older than the intent.
fn agrees(intent: &Intent<'_>, row: &Value) -> bool {
    let Some(identifier) = intent.recovery.get(PURCHASE_IDENTIFIER) else {
        return false;
    };
    let text = |field| wire::text(row, field).unwrap_or_default();
    // A list in the page's schema, a text in its sample.
    let currency = wire::list(row, "fiatCurrency")
        .and_then(|list| list.first()?.as_str().map(str::to_owned))
        .unwrap_or_else(|| text("fiatCurrency"));
    let amount = Decimal::parse_json(&text("fiatAmount"));
    let created = Timestamp::from_iso(&text("creationDate"));
    text("purchaseIdentifier") == *identifier
        && amount.is_ok_and(|amount| (intent.matches)("fiat_amount", &amount.to_string()))
        // An order's currency is in upper case.
        && (intent.matches)("fiat_currency", &currency.to_ascii_uppercase())
        && created.is_ok_and(|created| created >= intent.create_time.minus(CLOCK_LAG))
}
