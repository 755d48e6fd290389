//! Carbon (carbon.money): cryptocurrency for a card, through a 3-D Secure challenge.
//!
//! Facts are from carbon.money's `order-status` page and the readable part of docs.carbon.money's
//! `credit-debit`, read in November 2026; the create's answer is from public integrations. The
//! order of its codes is that of Trust Payments' settle status (inferred). Facts of our own say so.

mod create;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, header};
use serde_json::Value;
use tillwatch_proto::v1::{
    CarbonOrder, CarbonReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference as Named,
};

use super::{
    Intent, Placed, Provider, Recovery, Registered, SettingsError, Stated, Unclear, Violation,
    error_answer,
    rules::{self, Form, Row, TEXT_CHARACTERS_MAX, Table},
    wire,
};
use crate::{
    cadence::{Policy, Schedule},
    observation::{self, Answer, Graph, Observation, Standing, Submitted, Trouble},
    purchase::{
        Amount, AmountRole, AttentionReason, FailureReason, Finality, PurchaseId, Reference,
        Secret, State, Status, Timestamp,
    },
    upstream::{Connection, Request, Response},
};

/// The registry's row.
pub const REGISTERED: Registered = Registered {
    name: NAME,
    secrets: &["secret_key"],
    policy,
    build,
    reference_message,
    rules: stated,
};

const NAME: &str = "carbon";
/// The one error text that is known (documented).
const UNKNOWN_ORDER: &str = "no order found";
const DAY: Duration = Duration::from_secs(86_400);
/// Ours: the longest signature of a rate, which is an opaque token.
const RATE_SIGNATURE_CHARACTERS_MAX: usize = 4_096;

/// Inferred from Trust Payments' rules. 70000 is in none of its steps: 7000 looks like its
/// truncation, and both are taken for a decline.
const GRAPH: Graph = Graph::inferred(&[
    ("-1", &["0", "1", "2", "3", "7000"]),
    ("0", &["1", "2", "3", "10"]),
    ("1", &["0", "2", "3", "10"]),
    ("2", &["0", "1", "3"]),
    ("10", &["100", "1"]),
]);

fn policy() -> Policy {
    Policy {
        // There is no list of orders.
        sweep: false,
        // Ours: a challenge is answered within minutes, a settlement takes a day. No limit of
        // requests is documented.
        ..Policy::common(Schedule::of(&[(300, 5), (1_800, 30)], 600_000))
    }
}

fn build(secrets: &BTreeMap<String, Secret>) -> Result<Arc<dyn Provider>, SettingsError> {
    Ok(Arc::new(Carbon {
        authorization: wire::secret_header(secrets, "secret_key", "Bearer ")?,
    }))
}

/// One secret key.
#[derive(Debug, Clone)]
struct Carbon {
    /// The header's value; marked sensitive, so that `Debug` does not show it.
    authorization: HeaderValue,
}

fn reference_message(reference: &Reference) -> ProviderReference {
    ProviderReference {
        reference: Some(Named::Carbon(CarbonReference {
            order_id: reference.part("order_id").to_owned(),
            contact_id: reference.part("contact_id").to_owned(),
        })),
    }
}

impl Provider for Carbon {
    fn row(&self) -> &'static Registered {
        &REGISTERED
    }

    fn secrets(&self) -> Vec<&HeaderValue> {
        vec![&self.authorization]
    }

    fn graph(&self) -> Graph {
        GRAPH
    }

    fn horizon(&self, _: &Status, configured: Option<Duration>) -> Option<Duration> {
        // Ours, for 70000: its other ends are FINAL.
        Some(configured.unwrap_or(DAY * 7))
    }

    fn stale_after(&self, status: &Status) -> Duration {
        // Ours: -1, and an accepted create, is a challenge that nobody answered. A suspended order
        // is canceled after about seven days (inferred).
        if status.state == State::Created {
            DAY
        } else {
            DAY * 7
        }
    }

    fn unclear(&self) -> Unclear {
        // Nothing that the caller sends can be searched for.
        Unclear::AskNobody
    }

    fn order(&self, order: &Order) -> Option<Arc<dyn Placed>> {
        let Order::Carbon(order) = order else {
            return None;
        };
        Some(Arc::new(Charge {
            carbon: self.clone(),
            order: order.clone(),
        }))
    }

    fn decimal_fields(&self) -> &'static [&'static str] {
        &["fiat_charge_amount"]
    }

    fn reference(&self, message: &ProviderReference) -> Result<Reference, Vec<Violation>> {
        let Some(Named::Carbon(named)) = &message.reference else {
            return Err(super::foreign(NAME));
        };
        let order_id = rules::named_uuid(&named.order_id);
        let contact_id = rules::uuid(&named.contact_id);
        let (Some(order_id), Some(contact_id)) = (&order_id, &contact_id) else {
            return Err(REFERENCE.check(named, Timestamp::default()));
        };
        Ok(Reference::new([
            ("order_id", order_id),
            ("contact_id", contact_id),
        ]))
    }

    fn status_request(&self, reference: &Reference) -> Request {
        Request::new(Method::GET, ["v1", "status"])
            .header(header::AUTHORIZATION, self.authorization.clone())
            .query("orderId", reference.part("order_id"))
            .query("contactId", reference.part("contact_id"))
    }

    fn read_status(&self, reference: &Reference, answer: &Response, now: Timestamp) -> Answer {
        let read = match answer.status {
            200..=299 => read_answer(reference, answer),
            // Documented: an unknown order is HTTP 400 with this text. 404 is a guess.
            400 | 404
                if wire::object(answer)
                    .ok()
                    .and_then(|body| error_answer::text(&body))
                    .is_some_and(|text| text.trim().eq_ignore_ascii_case(UNKNOWN_ORDER)) =>
            {
                return Answer::NotFound;
            }
            _ => Err(error_answer::trouble(answer, now)),
        };
        read.into()
    }
}

/// A card to be charged.
struct Charge {
    carbon: Carbon,
    order: CarbonOrder,
}

impl Placed for Charge {
    fn violations(&self, now: Timestamp) -> Vec<Violation> {
        ORDER.check(&self.order, now)
    }

    fn recovery(&self, _: PurchaseId, _: uuid::Uuid) -> Recovery {
        Recovery::new()
    }

    fn request(&self, _: &Intent<'_>) -> Request {
        Request::new(Method::POST, ["v1", "card", "charge3d"])
            .header(header::AUTHORIZATION, self.carbon.authorization.clone())
            .json(&create::body(&self.order))
            .on(Connection::Fresh)
    }

    fn read(&self, _: &Intent<'_>, answer: &Response, now: Timestamp) -> Submitted {
        // The answer lacks the contact, which is a part of the reference.
        create::read(answer, &self.order.contact_id, now)
    }
}

const TEXT: Form = Form::Printable(TEXT_CHARACTERS_MAX);

const ORDER: Table<CarbonOrder> = Table {
    message: "CarbonOrder",
    path: "",
    rows: &[
        // A part of the reference, and so of its shape.
        Row::required("contact_id", Form::Uuid, |order| &order.contact_id),
        // Carbon's own name of a card: samples are UUIDs, nothing is promised.
        Row::required("credit_debit_id", TEXT, |order| &order.credit_debit_id),
        Row::required("fiat_charge_amount", Form::Amount(Some(2)), |order| {
            &order.fiat_charge_amount
        }),
        Row::required("cryptocurrency_symbol", Form::Printable(32), |order| {
            &order.cryptocurrency_symbol
        }),
        Row::required("receive_address", TEXT, |order| &order.receive_address),
        Row::optional("memo", TEXT, |order| &order.memo),
        Row::optional(
            "rate_signature",
            Form::Printable(RATE_SIGNATURE_CHARACTERS_MAX),
            |order| &order.rate_signature,
        ),
        Row::required("confirmation_url", Form::Url, |order| {
            &order.confirmation_url
        }),
        Row::required("success_redirect_url", Form::Url, |order| {
            &order.success_redirect_url
        }),
        Row::required("error_redirect_url", Form::Url, |order| {
            &order.error_redirect_url
        }),
        Row::optional("verification_redirect_url", Form::Url, |order| {
            &order.verification_redirect_url
        }),
    ],
};

const REFERENCE: Table<CarbonReference> = Table {
    message: "CarbonReference",
    path: "",
    rows: &[
        Row::required("order_id", Form::NamedUuid, |named| &named.order_id),
        Row::required("contact_id", Form::Uuid, |named| &named.contact_id),
    ],
};

fn stated() -> [Vec<Stated>; 2] {
    [ORDER.stated(), REFERENCE.stated()]
}

fn reference(order_id: &str, contact_id: &str) -> Option<Reference> {
    Some(Reference::new([
        ("order_id", &rules::uuid(order_id)?),
        ("contact_id", &rules::uuid(contact_id)?),
    ]))
}

/// The provider's error text (documented): `message` beside a `code` that repeats the HTTP status.
fn error_of(body: &Value, status: u16) -> Option<String> {
    let code = wire::text(body, "code")?;
    wire::text(body, "message").filter(|_| code == status.to_string())
}

fn read_answer(reference: &Reference, answer: &Response) -> Result<Observation, Trouble> {
    let body = wire::object(answer)?;
    let details = body
        .get("details")
        .ok_or_else(|| Trouble::unreadable("the answer has no details"))?;
    let named = wire::text(details, "uuid").map(|id| rules::uuid(&id).unwrap_or(id));
    if named.is_some_and(|named| named != reference.part("order_id")) {
        return Err(Trouble::unreadable("the answer is about another order"));
    }
    let word = wire::text(details, "status")
        .ok_or_else(|| Trouble::unreadable("the answer has no status"))?;
    if matches!(word.as_str(), "1" | "10") {
        // Here the hash decides the state, so a damaged one is not taken for none.
        if let Some(Value::Array(_) | Value::Object(_) | Value::Bool(true)) =
            details.get("transactionHash")
        {
            return Err(Trouble::unreadable("transactionHash is no hash"));
        }
    }
    let hash = wire::identifier(details, "transactionHash")?;
    let (standing, failure) = standing(&word, hash.is_some());
    let mut observation = Observation::of(&word, standing);
    observation.failure = failure;
    observation.attention = (word == "2").then_some(AttentionReason::ProviderManualAction);
    // JavaScript's text of a time, in the zone of the provider's machine: kept as it is.
    for field in ["timeInitiated", "timeCompleted"] {
        if let Some(text) = wire::text(details, field) {
            observation
                .facts
                .push((field, Some(observation::word(&text))));
        }
    }
    // Quoted from the beginning on; only these say that it was sent.
    let is_sent = hash.is_some() || matches!(word.as_str(), "0" | "100");
    observation.transaction_hashes = hash.map(|hash| vec![hash]);
    observation.amounts = read_amounts(details, is_sent)?;
    Ok(observation)
}

/// Three currencies meet here: what the card was charged in, what was bought, and the account's
/// own (`fiatBaseCurrency`), which counts nothing here.
fn read_amounts(details: &Value, is_sent: bool) -> Result<Vec<Amount>, Trouble> {
    let unit = |object: &Value, field| wire::text(object, field).unwrap_or_default();
    let payment = details.get("paymentDetails").unwrap_or(&Value::Null);
    let asked = wire::amount(
        payment,
        "chargeAmount",
        AmountRole::Asked,
        &unit(payment, "chargedCurrency"),
    )?;
    let delivered = wire::amount(
        details,
        "cryptocurrencyAmountPurchase",
        AmountRole::Delivered,
        &unit(details, "cryptocurrencyAssetPurchase"),
    )?;
    let delivered = delivered.filter(|_| is_sent);
    Ok(asked.into_iter().chain(delivered).collect())
}

/// The status table: state, finality and, if it ended badly, the reason.
fn standing(code: &str, sent: bool) -> (Standing, Option<FailureReason>) {
    use Finality::{Final, Open, Terminal};
    let (state, finality, failure) = match code {
        "-1" => (State::Created, Open, None),
        "1" | "10" if !sent => (State::Processing, Open, None),
        "0" | "1" | "10" => (State::Delivered, Open, None),
        "2" => (State::OnHold, Open, None),
        "100" => (State::Completed, Final, None),
        "3" => (State::Canceled, Final, Some(FailureReason::Canceled)),
        "7000" => (State::Failed, Final, Some(FailureReason::Declined)),
        "70000" => (State::Failed, Terminal, Some(FailureReason::Declined)),
        _ => return (Standing::Unmapped, None),
    };
    (Standing::Mapped(state, finality), failure)
}

#[cfg(test)]
mod tests;
