//! Inabit Terminal: a merchant's crypto checkout, created as a widget and read as an organisation.
//!
//! Facts are from docs.inabit.com/inabit-terminal, read in November 2026; the create call is from
//! a public integration, since its page was not found. Facts that are inferred or ours say so.

mod look_up;
mod sweep;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, header};
use serde_json::{Value, json};
use tillwatch_proto::v1::{
    InabitOrder, InabitReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference as Named,
};

use super::{
    Intent, Placed, Provider, Recovery, Registered, SettingsError, Stated, Unclear, Violation,
    error_answer,
    rules::{self, Form, Row, TEXT_CHARACTERS_MAX, Table},
    sweep::Sweep,
    wire,
};
use crate::{
    cadence::{Policy, Schedule},
    observation::{self, Answer, Graph, Observation, Standing, Submitted, Trouble},
    purchase::{
        AmountOutcome, AmountRole, AttentionReason, BuyerAction, Decimal, Deposit, FailureReason,
        Finality, PurchaseId, Redirect, Reference, Secret, State, Status, Timestamp,
    },
    upstream::{Connection, Request, Response},
};

/// The registry's row.
pub const REGISTERED: Registered = Registered {
    name: NAME,
    secrets: &["organization_api_key", "widget_api_key"],
    policy,
    build,
    reference_message,
    rules: stated,
};

const NAME: &str = "inabit";
const PURCHASE_IDENTIFIER: &str = "purchase_identifier";
/// The page on which the buyer pays: the hosted widget (from the public integration).
const WIDGET_URL: &str = "https://www.inabit.biz/?purchaseId=";
/// Ours: the most transactions of one purchase.
const HASHES_MAX: usize = 1_000;
const DAY: Duration = Duration::from_secs(86_400);

/// Inferred, except for the steps that the page's text describes: it draws no graph.
const GRAPH: Graph = Graph::inferred(&[
    (
        "Initiated",
        &["Allocated", "GenerateAddressFailed", "Expired"],
    ),
    (
        "Allocated",
        &[
            "Unconfirmed",
            "Confirming",
            "Undercharge",
            "Overcharge",
            "Expired",
        ],
    ),
    // Some chains show a payment before it is in a block; then the amount shows first.
    (
        "Unconfirmed",
        &[
            "Confirming",
            "Undercharge",
            "Overcharge",
            "Failed",
            "Expired",
        ],
    ),
    ("Confirming", &["Completed", "PendingFork", "Failed"]),
    ("PendingFork", &["Confirming", "Completed", "Failed"]),
    (
        "Undercharge",
        &[
            "Unconfirmed",
            "Confirming",
            "Completed",
            "Overcharge",
            "UnderchargeExpired",
            "Expired",
        ],
    ),
    (
        "Overcharge",
        &["Confirming", "Completed", "Swept", "Failed"],
    ),
    // A payment that comes late.
    ("Expired", &["Unconfirmed", "Confirming", "Completed"]),
    (
        "UnderchargeExpired",
        &["Unconfirmed", "Confirming", "Completed"],
    ),
    ("Completed", &["Swept"]),
]);

fn policy() -> Policy {
    Policy {
        // Ours: no limit is documented.
        requests_per_minute: 120,
        // Documented: read each purchase every 2 to 3 minutes beside the webhook.
        ..Policy::common(Schedule::of(&[], 120_000))
    }
}

fn build(secrets: &BTreeMap<String, Secret>) -> Result<Arc<dyn Provider>, SettingsError> {
    Ok(Arc::new(Inabit {
        organization: wire::secret_header(secrets, "organization_api_key", "Bearer ")?,
        widget: wire::secret_header(secrets, "widget_api_key", "Bearer ")?,
    }))
}

/// One organisation's key and one widget's.
#[derive(Debug, Clone)]
struct Inabit {
    /// Reads and searches. Marked sensitive, so that `Debug` does not show it.
    organization: HeaderValue,
    /// Creates. Marked sensitive as well.
    widget: HeaderValue,
}

impl Inabit {
    /// A request with the organisation's key, accepting what the page's own samples accept.
    fn organization_request(&self, request: Request) -> Request {
        request
            .header(header::AUTHORIZATION, self.organization.clone())
            .header(header::ACCEPT, HeaderValue::from_static("*/*"))
    }
}

fn reference_message(reference: &Reference) -> ProviderReference {
    ProviderReference {
        reference: Some(Named::Inabit(InabitReference {
            purchase_id: reference.part("purchase_id").to_owned(),
        })),
    }
}

impl Provider for Inabit {
    fn row(&self) -> &'static Registered {
        &REGISTERED
    }

    fn secrets(&self) -> Vec<&HeaderValue> {
        vec![&self.organization, &self.widget]
    }

    fn graph(&self) -> Graph {
        GRAPH
    }

    fn horizon(&self, status: &Status, configured: Option<Duration>) -> Option<Duration> {
        // Ours: a sweep follows within days; a late payment shows within a weekend.
        let days = if status.state == State::Completed {
            7
        } else {
            3
        };
        Some(configured.unwrap_or(DAY * days))
    }

    fn stale_after(&self, _: &Status) -> Duration {
        DAY * 7
    }

    fn unclear(&self) -> Unclear {
        // No page says that an identifier can be used only once: assume that it can be used again.
        Unclear::LookUp {
            repeat_is_safe: false,
        }
    }

    fn order(&self, order: &Order) -> Option<Arc<dyn Placed>> {
        let Order::Inabit(order) = order else {
            return None;
        };
        Some(Arc::new(Checkout {
            inabit: self.clone(),
            order: order.clone(),
        }))
    }

    fn decimal_fields(&self) -> &'static [&'static str] {
        &["fiat_amount"]
    }

    fn reference(&self, message: &ProviderReference) -> Result<Reference, Vec<Violation>> {
        match &message.reference {
            Some(Named::Inabit(named)) => named_reference(&named.purchase_id)
                .ok_or_else(|| REFERENCE.check(named, Timestamp::default())),
            _ => Err(super::foreign(NAME)),
        }
    }

    fn look_up_request(&self, intent: &Intent<'_>) -> Option<Request> {
        let identifier = intent.recovery.get(PURCHASE_IDENTIFIER)?;
        Some(self.organization_request(look_up::request(identifier)))
    }

    fn read_look_up(&self, intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Answer {
        look_up::read(intent, answer, now)
    }

    fn sweep(&self) -> Option<&dyn Sweep> {
        Some(self)
    }

    fn status_request(&self, reference: &Reference) -> Request {
        let id = reference.part("purchase_id");
        self.organization_request(Request::new(
            Method::GET,
            ["v1", "merchant", "purchase", id],
        ))
    }

    fn read_status(&self, reference: &Reference, answer: &Response, now: Timestamp) -> Answer {
        let read = match answer.status {
            200..=299 => read_answer(reference, answer),
            404 if error_answer::is_unknown(answer, error_of) => return Answer::NotFound,
            _ => Err(error_answer::trouble(answer, now)),
        };
        read.into()
    }
}

/// An order of a checkout.
struct Checkout {
    inabit: Inabit,
    order: InabitOrder,
}

impl Placed for Checkout {
    fn violations(&self, now: Timestamp) -> Vec<Violation> {
        ORDER.check(&self.order, now)
    }

    fn recovery(&self, purchase: PurchaseId, _: uuid::Uuid) -> Recovery {
        let named = &self.order.purchase_identifier;
        let identifier = match named.as_str() {
            "" => purchase.to_string(),
            _ => named.clone(),
        };
        Recovery::from([(PURCHASE_IDENTIFIER.to_owned(), identifier)])
    }

    fn request(&self, intent: &Intent<'_>) -> Request {
        Request::new(Method::POST, ["v1", "purchase"])
            .header(header::AUTHORIZATION, self.inabit.widget.clone())
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .json(&body(&self.order, intent))
            .on(Connection::Fresh)
    }

    fn read(&self, _: &Intent<'_>, answer: &Response, now: Timestamp) -> Submitted {
        if !(200..300).contains(&answer.status) {
            return error_answer::not_accepted(answer, error_of, now);
        }
        match wire::object(answer) {
            Ok(body) => created(wire::unwrapped(&body, "data")),
            Err(trouble) => error_answer::unclear(trouble),
        }
    }
}

const TEXT: Form = Form::Printable(TEXT_CHARACTERS_MAX);

const ORDER: Table<InabitOrder> = Table {
    message: "InabitOrder",
    path: "",
    rows: &[
        // The provider's page does not say which of the texts it insists on; it will say so itself.
        Row::optional("title", TEXT, |order| &order.title),
        Row::optional("sub_title", TEXT, |order| &order.sub_title),
        Row::optional("site_name", TEXT, |order| &order.site_name),
        Row::optional(PURCHASE_IDENTIFIER, TEXT, |order| {
            &order.purchase_identifier
        }),
        Row::other(
            PURCHASE_IDENTIFIER,
            "without blanks around it",
            |order, _| order.purchase_identifier.trim() == order.purchase_identifier,
        ),
        Row::required("fiat_amount", Form::Amount(None), |order| {
            &order.fiat_amount
        }),
        Row::required("fiat_currency", Form::Words(&["USD", "EUR"]), |order| {
            &order.fiat_currency
        }),
    ],
};

const REFERENCE: Table<InabitReference> = Table {
    message: "InabitReference",
    path: "",
    rows: &[Row::required("purchase_id", Form::NamedUuid, |named| {
        &named.purchase_id
    })],
};

fn stated() -> [Vec<Stated>; 2] {
    [ORDER.stated(), REFERENCE.stated()]
}

/// The create's body: the amount is a JSON number with exactly the caller's digits.
fn body(order: &InabitOrder, intent: &Intent<'_>) -> Value {
    let amount = Decimal::parse(&order.fiat_amount)
        .ok()
        .and_then(|amount| amount.canonical().parse::<serde_json::Number>().ok())
        .map_or(Value::Null, Value::Number);
    let mut body = json!({
        "purchaseIdentifier": intent.recovery.get(PURCHASE_IDENTIFIER),
        "fiatAmount": amount,
        "fiatCurrency": order.fiat_currency,
    });
    if let Some(fields) = body.as_object_mut() {
        for (name, text) in [
            ("title", &order.title),
            ("subTitle", &order.sub_title),
            ("siteName", &order.site_name),
        ] {
            if !text.is_empty() {
                fields.insert(name.to_owned(), Value::String(text.clone()));
            }
        }
    }
    body
}

/// A reference as callers and rows name it.
fn named_reference(purchase_id: &str) -> Option<Reference> {
    let id = rules::named_uuid(purchase_id)?;
    Some(Reference::new([("purchase_id", &id)]))
}

/// A reference as a create's answer has to name it.
fn reference(purchase_id: &str) -> Option<Reference> {
    Some(Reference::new([(
        "purchase_id",
        &rules::uuid(purchase_id)?,
    )]))
}

/// The rows of a search's answer, and the number of all rows if it says so: the page's prose
/// puts `total` inside `data` or beside it.
fn found(body: &Value) -> Result<(&[Value], Option<usize>), Trouble> {
    let data = body.get("data").unwrap_or(&Value::Null);
    let rows = wire::list(data, "purchases")
        .ok_or_else(|| Trouble::unreadable("the answer has no data.purchases"))?;
    let total = wire::text(data, "total").or_else(|| wire::text(body, "total"));
    Ok((rows, total.and_then(|total| total.parse().ok())))
}

fn widget(reference: &Reference) -> BuyerAction {
    BuyerAction::Redirect(Redirect {
        url: format!(
            "{WIDGET_URL}{}",
            wire::query_value(reference.part("purchase_id"))
        ),
        method: "GET".to_owned(),
        form_fields: BTreeMap::new(),
        expire_time: None,
    })
}

/// The provider's error text. Inferred from how a public integration reads it: `error.message` or
/// `error.messages`.
fn error_of(body: &Value, _: u16) -> Option<String> {
    let error = body.get("error")?;
    let more = wire::list(error, "messages").unwrap_or_default();
    let texts: Vec<String> = wire::text(error, "message")
        .into_iter()
        .chain(more.iter().filter_map(Value::as_str).map(str::to_owned))
        .filter(|text| !text.is_empty())
        .collect();
    (!texts.is_empty()).then(|| texts.join(": "))
}

/// The meaning of an accepted create's `data`: only its id is read.
fn created(data: &Value) -> Submitted {
    // `id` in the public integration; `purchaseId` is the same in the provider's webhooks.
    let named: Vec<String> = ["id", "purchaseId"]
        .into_iter()
        .filter_map(|field| wire::text(data, field))
        .collect();
    let Some(first) = named.first() else {
        // The search can find it.
        return Submitted::unclear("the answer has no data.id");
    };
    let Some(reference) = named.iter().find_map(|id| reference(id)) else {
        return Submitted::unread_id("the purchase's id is no UUID", first);
    };
    // The answer has no word: it is the acceptance itself.
    let standing = Standing::Mapped(State::Created, Finality::Open);
    let mut observation = Observation::of("", standing);
    observation.buyer_action = Some(widget(&reference));
    observation.reference = Some(reference);
    Submitted::Accepted(Box::new(observation))
}

fn read_answer(reference: &Reference, answer: &Response) -> Result<Observation, Trouble> {
    let body = wire::object(answer)?;
    let data = body
        .get("data")
        .ok_or_else(|| Trouble::unreadable("the answer has no data"))?;
    let named = wire::text(data, "id").map(|id| rules::uuid(&id).unwrap_or(id));
    if named.is_some_and(|named| named != reference.part("purchase_id")) {
        return Err(Trouble::unreadable("the answer is about another purchase"));
    }
    read_purchase(reference, data)
}

/// The status table: state, finality and, if it ended badly, the reason.
fn standing(word: &str) -> (Standing, Option<FailureReason>) {
    use Finality::{Final, Open, Terminal};
    let (state, finality, failure) = match word {
        "Initiated" => (State::Created, Open, None),
        "Allocated" => (State::AwaitingPayment, Open, None),
        "Undercharge" => (State::PartiallyPaid, Open, None),
        "Unconfirmed" | "Confirming" | "PendingFork" | "Overcharge" => {
            (State::Confirming, Open, None)
        }
        "Completed" => (State::Completed, Terminal, None),
        "Swept" => (State::Completed, Final, None),
        "Failed" => (
            State::Failed,
            Terminal,
            Some(FailureReason::TransactionFailed),
        ),
        "GenerateAddressFailed" => (State::Failed, Terminal, Some(FailureReason::Error)),
        "Expired" => (State::Expired, Terminal, Some(FailureReason::TimedOut)),
        "UnderchargeExpired" => (State::Expired, Terminal, Some(FailureReason::Underpaid)),
        _ => return (Standing::Unmapped, None),
    };
    (Standing::Mapped(state, finality), failure)
}

/// The observation that a purchase's fields make. `currentDate` is the provider's clock, no change
/// (documented).
fn read_purchase(reference: &Reference, data: &Value) -> Result<Observation, Trouble> {
    let word = wire::text(data, "status")
        .ok_or_else(|| Trouble::unreadable("the answer has no status"))?;
    let (standing, failure) = standing(&word);
    let mut observation = Observation::of(&word, standing);
    observation.failure = failure;
    observation.attention =
        (word == "PendingFork").then_some(AttentionReason::ProviderManualAction);
    for field in ["asset", "blockchain"] {
        if let Some(text) = wire::text(data, field) {
            observation
                .facts
                .push((field, Some(observation::word(&text))));
        }
    }
    let unit = wire::text(data, "asset").unwrap_or_default();
    let asked = wire::amount(data, "plannedAmount", AmountRole::Asked, &unit)?;
    let paid = wire::amount(data, "amount", AmountRole::Paid, &unit)?;
    observation.amount_outcome = amount_outcome(data)?;
    observation.transaction_hashes = read_hashes(data)?;
    observation.buyer_action = match word.as_str() {
        "Initiated" => Some(widget(reference)),
        "Allocated" | "Undercharge" => read_deposit(data, asked.clone())?,
        _ => None,
    };
    observation.amounts = asked.into_iter().chain(paid).collect();
    Ok(observation)
}

/// Paid against planned, by value.
fn amount_outcome(data: &Value) -> Result<Option<AmountOutcome>, Trouble> {
    let paid = wire::decimal(data, "amount")?;
    let planned = wire::decimal(data, "plannedAmount")?;
    let outcome = |order| match order {
        std::cmp::Ordering::Less => AmountOutcome::Underpaid,
        std::cmp::Ordering::Equal => AmountOutcome::Exact,
        std::cmp::Ordering::Greater => AmountOutcome::Overpaid,
    };
    Ok((paid.zip(planned)).map(|(paid, planned)| outcome(paid.cmp(&planned))))
}

/// Hashes: the page's schema says `transaction`, its sample `transactions`, so both are read. That
/// an entry can be an object is a guess.
fn read_hashes(data: &Value) -> Result<Option<Vec<String>>, Trouble> {
    let mut hashes: Vec<String> = Vec::new();
    for field in ["transactions", "transaction"] {
        let entries = match data.get(field) {
            Some(Value::Array(entries)) => entries.as_slice(),
            Some(entry) => std::slice::from_ref(entry),
            None => &[],
        };
        for entry in entries {
            let hash = match entry {
                Value::String(_) => wire::identifier(&json!({ field: entry }), field)?,
                _ => wire::identifier(entry, "hash")?.or(wire::identifier(entry, "txHash")?),
            };
            hashes.extend(hash.filter(|hash| !hashes.contains(hash)));
            if hashes.len() > HASHES_MAX {
                return Err(Trouble::unreadable("more transactions than can be kept"));
            }
        }
    }
    Ok(Some(hashes).filter(|hashes| !hashes.is_empty()))
}

fn read_deposit(
    data: &Value,
    amount: Option<crate::purchase::Amount>,
) -> Result<Option<BuyerAction>, Trouble> {
    let Some(address) = wire::identifier(data, "address")? else {
        return Ok(None);
    };
    let expire_time =
        wire::text(data, "expirationDate").and_then(|text| Timestamp::from_iso(&text).ok());
    let action = BuyerAction::Deposit(Deposit {
        address,
        network: wire::text(data, "blockchain")
            .unwrap_or_default()
            .replace(char::is_control, ""),
        amount,
        expire_time,
    });
    Ok(Some(observation::buyer_action(action)?))
}

#[cfg(test)]
mod tests;
