//! Devdraft: stablecoin and bank payment intents, carried by bridge.xyz.
//!
//! Facts without another source are from docs.devdraft.ai (November 2026). The customer's data is
//! sent and never read back.

mod order;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::{HeaderName, HeaderValue, Method};
use serde_json::Value;
use tillwatch_proto::v1::{
    DevdraftOrder, DevdraftReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference as Named,
};

use super::{
    Intent, Placed, Provider, Recovery, Registered, SettingsError, Stated, Unclear, Violation,
    error_answer,
    rules::{self, Form, Row, Table},
    wire::{self, Damage},
};
use crate::{
    cadence::{Policy, Schedule},
    observation::{Answer, Graph, Observation, Standing, Submitted, Trouble, word},
    purchase::{
        AmountRole, AttentionReason, FailureReason, Finality, PurchaseId, Reference, Secret, State,
        Status, Timestamp,
    },
    upstream::{Connection, Request, Response, retry_after::WAIT_MAX},
};

/// The part of a reference.
const TRANSACTION: &str = "transaction_id";
/// Ours: the longest id. Samples are "txn_" and 26 characters, which nobody promises.
const TRANSACTION_BYTES_MAX: usize = 204;
/// Ours: what an id can hold besides letters and digits.
const TRANSACTION_SIGNS: &str = "_-";
/// The recovery fact of an order.
const KEY: &str = "idempotency_key";

/// The provider forgets a key after 24 h; an hour less leaves room for two clocks.
const KEY_LIVES: Duration = Duration::from_secs(23 * 3_600);
/// Ours: returns and disputes of bank payments come weeks later.
const HORIZON: Duration = Duration::from_secs(30 * 86_400);
/// Ours.
const STALE_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// Inferred: bridge.xyz's transfer states in upper case, plus DISPUTED. ERROR is left out: any word can
/// lead to it, and a person can lead it to any word.
const GRAPH: Graph = Graph::inferred(&[
    ("pending", &["AWAITING_FUNDS", "DISPUTED"]),
    (
        "AWAITING_FUNDS",
        &["IN_REVIEW", "FUNDS_RECEIVED", "CANCELED", "DISPUTED"],
    ),
    ("IN_REVIEW", &["FUNDS_RECEIVED", "DISPUTED"]),
    (
        "FUNDS_RECEIVED",
        &["IN_REVIEW", "PAYMENT_SUBMITTED", "DISPUTED"],
    ),
    (
        "PAYMENT_SUBMITTED",
        &[
            "PAYMENT_PROCESSED",
            "UNDELIVERABLE",
            "RETURNED",
            "MISSING_RETURN_POLICY",
            "DISPUTED",
        ],
    ),
    ("PAYMENT_PROCESSED", &["RETURNED", "DISPUTED"]),
    (
        "UNDELIVERABLE",
        &[
            "RETURNED",
            "MISSING_RETURN_POLICY",
            "REFUND_IN_FLIGHT",
            "DISPUTED",
        ],
    ),
    (
        "MISSING_RETURN_POLICY",
        &[
            "PAYMENT_SUBMITTED",
            "RETURNED",
            "REFUND_IN_FLIGHT",
            "DISPUTED",
        ],
    ),
    ("RETURNED", &["REFUND_IN_FLIGHT", "DISPUTED"]),
    (
        "REFUND_IN_FLIGHT",
        &["REFUNDED", "REFUND_FAILED", "DISPUTED"],
    ),
    ("REFUND_FAILED", &["REFUND_IN_FLIGHT", "DISPUTED"]),
    ("DISPUTED", &["PAYMENT_PROCESSED", "REFUND_IN_FLIGHT"]),
    ("REFUNDED", &["DISPUTED"]),
    ("CANCELED", &["DISPUTED"]),
]);

/// The registry's row.
pub const REGISTERED: Registered = Registered {
    name: "devdraft",
    secrets: &["client_key", "client_secret"],
    policy,
    build,
    reference_message,
    rules: stated,
};

/// The provider's guidance for polling, and its limit per key.
fn policy() -> Policy {
    Policy {
        requests_per_minute: 100,
        sweep: false,
        ..Policy::common(Schedule::of(&[(300, 5), (1_800, 30)], 120_000))
    }
}

fn build(secrets: &BTreeMap<String, Secret>) -> Result<Arc<dyn Provider>, SettingsError> {
    Ok(Arc::new(Devdraft {
        client_key: wire::secret_header(secrets, "client_key", "")?,
        client_secret: wire::secret_header(secrets, "client_secret", "")?,
    }))
}

/// One application of the provider with its credentials.
#[derive(Debug, Clone)]
struct Devdraft {
    /// Shown nowhere, although the provider's pages show it: the limit hangs on it.
    client_key: HeaderValue,
    /// Shown nowhere.
    client_secret: HeaderValue,
}

impl Devdraft {
    /// The pages disagree on whether the secret alone is enough; both are always taken.
    fn request<const N: usize>(&self, method: Method, path: [&str; N]) -> Request {
        Request::new(method, path)
            .header(
                HeaderName::from_static("x-client-key"),
                self.client_key.clone(),
            )
            .header(
                HeaderName::from_static("x-client-secret"),
                self.client_secret.clone(),
            )
    }
}

fn reference_message(reference: &Reference) -> ProviderReference {
    ProviderReference {
        reference: Some(Named::Devdraft(DevdraftReference {
            transaction_id: reference.part(TRANSACTION).to_owned(),
        })),
    }
}

impl Provider for Devdraft {
    fn row(&self) -> &'static Registered {
        &REGISTERED
    }

    fn secrets(&self) -> Vec<&HeaderValue> {
        vec![&self.client_key, &self.client_secret]
    }

    fn graph(&self) -> Graph {
        GRAPH
    }

    fn client(&self) -> Option<&HeaderValue> {
        Some(&self.client_key)
    }

    fn horizon(&self, _status: &Status, configured: Option<Duration>) -> Option<Duration> {
        Some(configured.unwrap_or(HORIZON))
    }

    fn stale_after(&self, _status: &Status) -> Duration {
        STALE_AFTER
    }

    fn unclear(&self) -> Unclear {
        Unclear::RepeatWithKey { within: KEY_LIVES }
    }

    fn order(&self, order: &Order) -> Option<Arc<dyn Placed>> {
        let Order::Devdraft(order) = order else {
            return None;
        };
        Some(Arc::new(PaymentIntent {
            devdraft: self.clone(),
            order: order.clone(),
        }))
    }

    fn decimal_fields(&self) -> &'static [&'static str] {
        &["stablecoin.amount", "bank.amount"]
    }

    fn reference(&self, message: &ProviderReference) -> Result<Reference, Vec<Violation>> {
        let Some(Named::Devdraft(named)) = &message.reference else {
            return Err(super::foreign(REGISTERED.name));
        };
        let violations = REFERENCE.check(named, Timestamp::default());
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Reference::new([(TRANSACTION, &named.transaction_id)]))
    }

    fn status_request(&self, reference: &Reference) -> Request {
        let transaction = reference.part(TRANSACTION);
        self.request(
            Method::GET,
            ["api", "v0", "payment-intents", transaction, "status"],
        )
    }

    fn read_status(&self, reference: &Reference, answer: &Response, now: Timestamp) -> Answer {
        if !(200..300).contains(&answer.status) {
            return if error_answer::is_unknown(answer, error_of) {
                Answer::NotFound
            } else {
                Answer::Trouble(trouble(answer, now))
            };
        }
        Answer::from(wire::object(answer).and_then(|body| shown(&body, reference)))
    }
}

const REFERENCE: Table<DevdraftReference> = Table {
    message: "DevdraftReference",
    path: "",
    rows: &[Row::required(
        TRANSACTION,
        Form::Named(TRANSACTION_BYTES_MAX, TRANSACTION_SIGNS),
        |named| &named.transaction_id,
    )],
};

fn stated() -> [Vec<Stated>; 2] {
    [order::stated(), REFERENCE.stated()]
}

/// An order of a payment intent.
struct PaymentIntent {
    devdraft: Devdraft,
    order: DevdraftOrder,
}

impl Placed for PaymentIntent {
    fn violations(&self, now: Timestamp) -> Vec<Violation> {
        order::violations(&self.order, now)
    }

    fn recovery(&self, _: PurchaseId, key: uuid::Uuid) -> Recovery {
        Recovery::from([(KEY.to_owned(), key.to_string())])
    }

    fn request(&self, intent: &Intent<'_>) -> Request {
        // Every recovery that this file made has a key. If it were gone, all repeats of the purchase
        // would have to share another key, or a repeat could pay twice.
        let key = intent.recovery.get(KEY).cloned();
        let key =
            key.unwrap_or_else(|| uuid::Uuid::from_u128(intent.purchase.as_u128()).to_string());
        let kind = order::kind(&self.order);
        let path = ["api", "v0", "payment-intents", kind];
        let mut request = self.devdraft.request(Method::POST, path);
        if let Ok(key) = HeaderValue::from_str(&key) {
            request = request.header(HeaderName::from_static("idempotency-key"), key);
        }
        request
            .json(&order::body(&self.order))
            .on(Connection::Fresh)
    }

    fn read(&self, _: &Intent<'_>, answer: &Response, now: Timestamp) -> Submitted {
        if (200..300).contains(&answer.status) {
            return match wire::object(answer) {
                Ok(body) => created(wire::unwrapped(&body, "data")),
                // The same key gives the same answer again, so the id is not lost.
                Err(trouble) => error_answer::unclear(trouble),
            };
        }
        if answer.status == 429 {
            return Submitted::NotSent(trouble(answer, now));
        }
        error_answer::not_accepted(answer, error_of, now)
    }
}

/// True if a text can be a transaction's id. Its shape is ours: anything that a path can hold safely.
fn is_transaction(text: &str) -> bool {
    rules::is_signed(text, TRANSACTION_BYTES_MAX, TRANSACTION_SIGNS)
}

/// The meaning of an answer outside 200 to 299. The wait of a 429 is in its body as well (documented).
fn trouble(answer: &Response, now: Timestamp) -> Trouble {
    let trouble = error_answer::trouble(answer, now);
    let Trouble::Throttled { retry_after: None } = trouble else {
        return trouble;
    };
    let seconds = wire::object(answer)
        .ok()
        .and_then(|body| wire::text(&body, "retryAfter")?.parse().ok());
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX));
    Trouble::Throttled { retry_after }
}

/// The message of an error in one of the provider's shapes: NestJS's, whose `message` is a list
/// if a validation found several faults (inferred), or the idempotency guide's.
fn error_of(body: &Value, status: u16) -> Option<String> {
    if let Some(error) = body.get("error").filter(|error| error.is_object()) {
        wire::text(error, "type")?;
        return wire::text(error, "message").or_else(|| wire::text(error, "code"));
    }
    if wire::text(body, "statusCode")? != status.to_string() {
        return None;
    }
    let Some(messages) = wire::list(body, "message") else {
        return wire::text(body, "message");
    };
    let messages: Vec<&str> = messages.iter().filter_map(Value::as_str).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// The answer to a create. Its word is `state`; an accepted one without any is created all the same.
fn created(body: &Value) -> Submitted {
    let Some(id) = wire::text(body, "id") else {
        return Submitted::unclear("the answer has no id");
    };
    if !is_transaction(&id) {
        return Submitted::unread_id("the answer's id is no transaction id", id);
    }
    let reference = Reference::new([(TRANSACTION, &id)]);
    let code = code_of(body).ok().flatten().unwrap_or_default();
    let standing = match code.as_str() {
        "" => Standing::Mapped(State::Created, Finality::Open),
        code => standing(code),
    };
    let read = observation(body, &code, standing, reference, Damage::LeftOut);
    error_answer::accepted(read)
}

/// The answer to a status read.
fn shown(body: &Value, reference: &Reference) -> Result<Observation, Trouble> {
    if wire::text(body, "id").is_some_and(|id| id != reference.part(TRANSACTION)) {
        return Err(Trouble::unreadable("the answer is about another id"));
    }
    let Some(code) = code_of(body)? else {
        return Err(Trouble::unreadable("the answer has no status"));
    };
    let standing = standing(&code);
    observation(body, &code, standing, reference.clone(), Damage::Spoils)
}

/// The main word: `status`, which the create's answer calls `state`.
fn code_of(body: &Value) -> Result<Option<String>, Trouble> {
    match wire::word(body, "status")? {
        Some(code) => Ok(Some(code)),
        None => wire::word(body, "state"),
    }
}

/// The status table. Case is not looked at: the create's word is lower case, the others upper case.
fn standing(code: &str) -> Standing {
    use Finality::{Final, Open, Terminal};
    let (state, finality) = match code.to_ascii_uppercase().as_str() {
        "PENDING" => (State::Created, Open),
        "AWAITING_FUNDS" => (State::AwaitingPayment, Open),
        "IN_REVIEW" => (State::InReview, Open),
        "MISSING_RETURN_POLICY" | "REFUND_FAILED" => (State::OnHold, Open),
        "FUNDS_RECEIVED" => (State::Paid, Open),
        "PAYMENT_SUBMITTED" => (State::Processing, Open),
        "DISPUTED" => (State::Disputed, Open),
        "PAYMENT_PROCESSED" => (State::Completed, Terminal),
        "UNDELIVERABLE" | "ERROR" => (State::Failed, Terminal),
        "RETURNED" => (State::Returned, Terminal),
        "REFUND_IN_FLIGHT" => (State::RefundPending, Open),
        "REFUNDED" => (State::Refunded, Terminal),
        "CANCELED" => (State::Canceled, Final),
        _ => return Standing::Unmapped,
    };
    Standing::Mapped(state, finality)
}

/// Everything that an intent of the provider says. The customer in it is not looked at.
fn observation(
    body: &Value,
    code: &str,
    standing: Standing,
    reference: Reference,
    damage: Damage,
) -> Result<Observation, Trouble> {
    let mut observation = Observation::of(code, standing);
    match code.to_ascii_uppercase().as_str() {
        "UNDELIVERABLE" | "RETURNED" => observation.failure = Some(FailureReason::Undeliverable),
        "CANCELED" => observation.failure = Some(FailureReason::Canceled),
        "ERROR" => {
            observation.failure = Some(FailureReason::Error);
            observation.attention = Some(AttentionReason::ProviderManualAction);
        }
        "MISSING_RETURN_POLICY" | "REFUND_FAILED" => {
            observation.attention = Some(AttentionReason::ProviderManualAction);
        }
        _ => {}
    }
    match body.get("bridge_transfer_id") {
        None | Some(Value::Array(_) | Value::Object(_)) => {}
        Some(_) => {
            let transfer = wire::text(body, "bridge_transfer_id").map(|id| word(&id));
            observation.facts.push(("bridge_transfer_id", transfer));
        }
    }
    // Null if the payer chooses the amount.
    let source = body.get("source").unwrap_or(&Value::Null);
    let unit = wire::text(source, "currency").unwrap_or_default();
    let asked = wire::amount(body, "amount", AmountRole::Asked, &unit);
    observation.amounts.extend(damage.hold(asked)?);
    observation.provider_change_time = wire::time(body, "updated_at");
    observation.reference = Some(reference);
    Ok(observation)
}
