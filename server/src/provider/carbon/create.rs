//! Charging a card: the order's body, and the meaning of the answer to it.
//!
//! No page shows the whole answer: field names are from public integrations, and the place of the
//! order's id is inferred, so it is looked for in every place that any of them reads.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};
use tillwatch_proto::v1::CarbonOrder;

use super::{error_of, reference, rules};
use crate::{
    observation::{self, Observation, Standing, Submitted},
    provider::{error_answer, wire},
    purchase::{BuyerAction, Decimal, Finality, Redirect, State, Timestamp},
    upstream::Response,
};

/// Ours: a challenge's form holds a payment's data and is forgotten after this time (promise D2).
const CHALLENGE_LIFE: Duration = Duration::from_secs(3_600);

/// The order's body. Empty fields are left out; the amount is in minor units, without a point.
pub(super) fn body(order: &CarbonOrder) -> Value {
    let amount = Decimal::parse(&order.fiat_charge_amount)
        .ok()
        .and_then(|amount| amount.to_minor_units(2))
        .unwrap_or_default();
    let fields = [
        ("contactId", order.contact_id.as_str()),
        ("creditDebitId", &order.credit_debit_id),
        ("fiatChargeAmount", &amount),
        ("cryptocurrencySymbol", &order.cryptocurrency_symbol),
        ("receiveAddress", &order.receive_address),
        ("memo", &order.memo),
        ("rateSignature", &order.rate_signature),
        ("confirmationUrl", &order.confirmation_url),
        ("successRedirectUrl", &order.success_redirect_url),
        ("errorRedirectUrl", &order.error_redirect_url),
        ("verificationRedirectUrl", &order.verification_redirect_url),
    ];
    let body: Map<String, Value> = fields
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (name.to_owned(), Value::String(text.to_owned())))
        .collect();
    Value::Object(body)
}

/// The meaning of the answer to a create. `contact_id` is the order's own.
pub(super) fn read(answer: &Response, contact_id: &str, now: Timestamp) -> Submitted {
    if !(200..300).contains(&answer.status) {
        return error_answer::not_accepted(answer, error_of, now);
    }
    let body = match wire::object(answer) {
        Ok(body) => body,
        Err(trouble) => return error_answer::unclear(trouble),
    };
    let body = Body(&body);
    // Looked at first: a card that is not enrolled is not charged, order id or not.
    if let Some(enrolled) = body.enrolled().filter(|enrolled| !is_yes(enrolled)) {
        let message = body
            .text("message")
            .unwrap_or_else(|| format!("charge3denrolled is {enrolled}"));
        return Submitted::Refused { message };
    }
    accepted(&body, contact_id, now)
}

/// An answer whose fields stand at its top (public integrations) or below `details`, as they do in
/// every other answer of this provider.
struct Body<'a>(&'a Value);

impl<'a> Body<'a> {
    fn text(&self, field: &str) -> Option<String> {
        wire::text(self.0, field).or_else(|| wire::text(self.0.get("details")?, field))
    }

    /// The card's enrolment, in a word or as a truth: a value of another type must not refuse
    /// a charged order.
    fn enrolled(&self) -> Option<&'a str> {
        let objects = [Some(self.0), self.0.get("details")];
        objects
            .into_iter()
            .flatten()
            .find_map(|object| match object.get("charge3denrolled")? {
                Value::String(text) => Some(text.trim()).filter(|text| !text.is_empty()),
                Value::Bool(true) => Some("Y"),
                Value::Bool(false) => Some("false"),
                _ => None,
            })
    }
}

fn is_yes(enrolled: &str) -> bool {
    enrolled.eq_ignore_ascii_case("Y")
}

/// The meaning of an accepted order. The answer comes once, so only its order's id decides.
fn accepted(body: &Body<'_>, contact_id: &str, now: Timestamp) -> Submitted {
    let named: Vec<String> = ["orderId", "orderID", "order_id", "uuid"]
        .into_iter()
        .filter_map(|field| body.text(field))
        .chain(in_termurl(body))
        .collect();
    let Some(first) = named.first() else {
        return Submitted::AcceptedWithoutReference;
    };
    let known = named.iter().find_map(|id| reference(id, contact_id));
    let Some(reference) = known else {
        return Submitted::unread_id("the order's id is no UUID", first);
    };
    // The answer has no status: it is the acceptance itself.
    let standing = Standing::Mapped(State::Created, Finality::Open);
    let mut observation = Observation::of("", standing);
    observation.reference = Some(reference);
    observation.buyer_action = challenge(body, now);
    Submitted::Accepted(Box::new(observation))
}

/// The order's id in `termurl`, to which the bank sends the buyer back. The documentation spells its
/// name in more than one case.
fn in_termurl(body: &Body<'_>) -> Option<String> {
    let url = url::Url::parse(&body.text("termurl")?).ok()?;
    url.query_pairs()
        .find(|(key, value)| key.eq_ignore_ascii_case("orderId") && !value.is_empty())
        .map(|(_, value)| value.into_owned())
}

/// The form that the buyer's browser has to post to the bank; none if it is larger than can be
/// kept, since half a form is refused by the bank.
fn challenge(body: &Body<'_>, now: Timestamp) -> Option<BuyerAction> {
    let url = body
        .text("acsurl")
        .filter(|url| rules::is_web_address(url))?;
    let form_fields: BTreeMap<String, String> =
        [("PaReq", "pareq"), ("TermUrl", "termurl"), ("MD", "md")]
            .into_iter()
            .filter_map(|(name, field)| Some((name.to_owned(), body.text(field)?)))
            .collect();
    let action = BuyerAction::Redirect(Redirect {
        url,
        method: "POST".to_owned(),
        form_fields,
        expire_time: Some(now.plus(CHALLENGE_LIFE)),
    });
    observation::buyer_action(action).ok()
}
