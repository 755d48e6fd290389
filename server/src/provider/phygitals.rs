//! Phygitals: claw packs for a signed transaction, fulfilled within seconds and asked by long poll.
//!
//! Facts are from its Public API pages `purchase/crypto`, `purchase/status` and `authentication`,
//! read in November 2026; facts that are inferred or ours say so.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::{HeaderName, HeaderValue, Method};
use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use tillwatch_proto::v1::{
    PhygitalsOrder, PhygitalsReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference as Named,
};

use super::{
    Intent, Placed, Provider, Recovery, Registered, SettingsError, Stated, Unclear, Violation,
    error_answer,
    rules::{self, Form, Row, TEXT_CHARACTERS_MAX, Table},
    wire::{self, Damage},
};
use crate::{
    cadence::{Policy, Schedule},
    observation::{
        self, Answer, Graph, IDENTIFIER_BYTES_MAX, Observation, Standing, Submitted, Trouble,
    },
    purchase::{
        AmountRole, FailureReason, Finality, Item, PurchaseId, Reference, Secret, State, Status,
        Timestamp,
    },
    upstream::{Connection, Request, Response},
};

/// The registry's row.
pub const REGISTERED: Registered = Registered {
    name: NAME,
    secrets: &["api_key"],
    policy,
    build,
    reference_message,
    rules: stated,
};

const NAME: &str = "phygitals";
const PENDING: &str = "pending";
const FULFILLED: &str = "fulfilled";
/// The recovery fact of an order: how many pieces are to come.
const PULLS: &str = "pulls";
/// The one error that ends a purchase (documented).
const FAILED: &str = "Transaction failed";

/// Ours: transactions in one order.
const TXS_MAX: usize = 64;
/// Ours: the most delivered pieces of one answer.
const ITEMS_MAX: usize = 10_000;
/// Ours: what a session's id can hold besides letters and digits; nothing that leads elsewhere in a
/// path, although it is sent in a body alone.
const SESSION_SIGNS: &str = "._-~:=+@|";

const GRAPH: Graph = Graph::documented(&[
    (PENDING, &[FULFILLED, FAILED]),
    (FULFILLED, &[]),
    (FAILED, &[]),
]);

/// The alphabet that the documentation shows, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn policy() -> Policy {
    Policy {
        // Documented: 500 to 1000 ms between the end of one long poll and the next. The middle, so
        // that the tracker's spread stays within both bounds.
        schedule: Schedule::of(&[], 750),
        // No limit of the status call is documented, and a held request takes about six seconds.
        requests_per_minute: 0,
        // Documented: one create in 60 seconds for each API key.
        creates_per_minute: 1,
        // Documented: an answer takes up to about 6 s; 15 s is the advised least.
        timeout: Duration::from_secs(15),
        // There is no list of purchases.
        sweep: false,
        long_poll: true,
        ..Policy::common(Schedule::of(&[], 750))
    }
}

fn build(secrets: &BTreeMap<String, Secret>) -> Result<Arc<dyn Provider>, SettingsError> {
    Ok(Arc::new(Phygitals {
        api_key: wire::secret_header(secrets, "api_key", "")?,
    }))
}

/// One API key.
#[derive(Debug, Clone)]
struct Phygitals {
    /// The header's value; marked sensitive, so that `Debug` does not show it.
    api_key: HeaderValue,
}

impl Phygitals {
    fn request(&self, path: [&str; 4]) -> Request {
        Request::new(Method::POST, path)
            .header(HeaderName::from_static("x-api-key"), self.api_key.clone())
    }
}

fn reference_message(reference: &Reference) -> ProviderReference {
    ProviderReference {
        reference: Some(Named::Phygitals(PhygitalsReference {
            session_id: reference.part("session_id").to_owned(),
        })),
    }
}

impl Provider for Phygitals {
    fn row(&self) -> &'static Registered {
        &REGISTERED
    }

    fn secrets(&self) -> Vec<&HeaderValue> {
        vec![&self.api_key]
    }

    fn graph(&self) -> Graph {
        GRAPH
    }

    fn horizon(&self, _: &Status, configured: Option<Duration>) -> Option<Duration> {
        // Ours, for pieces that are fewer than was pulled: its other ends are FINAL on first sight.
        Some(configured.unwrap_or(Duration::from_secs(3_600)))
    }

    fn stale_after(&self, _: &Status) -> Duration {
        // Ours: a claw is pulled within seconds.
        Duration::from_secs(3_600)
    }

    fn unclear(&self) -> Unclear {
        // A session's id is the only name of a purchase, and an unclear create has none.
        Unclear::AskNobody
    }

    fn order(&self, order: &Order) -> Option<Arc<dyn Placed>> {
        let Order::Phygitals(order) = order else {
            return None;
        };
        Some(Arc::new(Pulls {
            phygitals: self.clone(),
            order: order.clone(),
        }))
    }

    fn reference(&self, message: &ProviderReference) -> Result<Reference, Vec<Violation>> {
        let Some(Named::Phygitals(named)) = &message.reference else {
            return Err(super::foreign(NAME));
        };
        let violations = REFERENCE.check(named, Timestamp::default());
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Reference::new([("session_id", &named.session_id)]))
    }

    fn compare(&self, recovery: &Recovery, observation: &mut Observation) {
        count_pieces(recovery, observation);
    }

    fn status_request(&self, reference: &Reference) -> Request {
        self.request(["api", "vm", "buy", "status"])
            .json(&json!({ "session_id": reference.part("session_id") }))
    }

    fn read_status(&self, reference: &Reference, answer: &Response, now: Timestamp) -> Answer {
        let read = match answer.status {
            200..=299 => read_answer(reference, answer),
            400 => read_error(answer),
            _ => Err(error_answer::trouble(answer, now)),
        };
        read.into()
    }
}

/// The create's body. The two JSON objects go out byte for byte as they came.
#[derive(Serialize)]
struct Body<'a> {
    claw_id: &'a str,
    amount: u32,
    currency: &'a str,
    chain: &'a str,
    txs: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    voucher_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    buyer_wallet: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    permit_data: Option<&'a RawValue>,
    #[serde(rename = "extraData", skip_serializing_if = "Option::is_none")]
    extra_data: Option<&'a RawValue>,
}

fn body(order: &PhygitalsOrder) -> Bytes {
    let body = Body {
        claw_id: &order.claw_id,
        amount: order.amount,
        currency: &order.currency,
        chain: &order.chain,
        txs: &order.txs,
        voucher_id: &order.voucher_id,
        buyer_wallet: &order.buyer_wallet,
        permit_data: serde_json::from_str(&order.permit_data_json).ok(),
        extra_data: serde_json::from_str(&order.extra_data_json).ok(),
    };
    // Texts, and JSON that was parsed: nothing in it can fail to be written.
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// An order of claw pulls.
struct Pulls {
    phygitals: Phygitals,
    order: PhygitalsOrder,
}

impl Placed for Pulls {
    fn violations(&self, now: Timestamp) -> Vec<Violation> {
        ORDER.check(&self.order, now)
    }

    fn recovery(&self, _: PurchaseId, _: uuid::Uuid) -> Recovery {
        Recovery::from([(PULLS.to_owned(), self.order.amount.to_string())])
    }

    fn request(&self, _: &Intent<'_>) -> Request {
        (self.phygitals.request(["api", "vm", "buy", "crypto"]))
            .json_bytes(body(&self.order))
            .on(Connection::Fresh)
    }

    fn read(&self, intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Submitted {
        if !(200..300).contains(&answer.status) {
            return error_answer::not_accepted(answer, error_of, now);
        }
        match wire::object(answer) {
            Ok(body) => created(&body, intent.recovery),
            Err(trouble) => error_answer::unclear(trouble),
        }
    }
}

const TEXT: Form = Form::Printable(TEXT_CHARACTERS_MAX);

const ORDER: Table<PhygitalsOrder> = Table {
    message: "PhygitalsOrder",
    path: "",
    rows: &[
        Row::required("claw_id", TEXT, |order| &order.claw_id),
        Row::number("amount", 1, None, |order| Some(order.amount)),
        Row::required("currency", TEXT, |order| &order.currency),
        Row::required("chain", TEXT, |order| &order.chain),
        Row::list(
            "txs",
            TXS_MAX,
            "transactions, each in base64",
            |order, most| {
                let signed =
                    |text: &String| BASE64.decode(text).is_ok_and(|bytes| !bytes.is_empty());
                order.txs.len() <= most && order.txs.iter().all(signed)
            },
        ),
        // Inferred: a voucher or an ERC-20 permit can take the place of a signed transaction.
        Row::other(
            "txs",
            "at least one transaction, unless voucher_id or permit_data_json is set",
            |order, _| {
                let is_replaced =
                    !order.voucher_id.is_empty() || !order.permit_data_json.is_empty();
                is_replaced || !order.txs.is_empty()
            },
        ),
        Row::optional("voucher_id", TEXT, |order| &order.voucher_id),
        Row::optional("buyer_wallet", TEXT, |order| &order.buyer_wallet),
        Row::optional("permit_data_json", Form::Object, |order| {
            &order.permit_data_json
        }),
        Row::optional("extra_data_json", Form::Object, |order| {
            &order.extra_data_json
        }),
    ],
};

const REFERENCE: Table<PhygitalsReference> = Table {
    message: "PhygitalsReference",
    path: "",
    rows: &[Row::required(
        "session_id",
        Form::Named(IDENTIFIER_BYTES_MAX, SESSION_SIGNS),
        |named| &named.session_id,
    )],
};

fn stated() -> [Vec<Stated>; 2] {
    [ORDER.stated(), REFERENCE.stated()]
}

/// A session's id as a reference. Its shape is ours: samples are UUIDs, nothing is promised, and an
/// id that is taken for none loses what was paid for.
fn reference(session_id: &str) -> Option<Reference> {
    rules::is_signed(session_id, IDENTIFIER_BYTES_MAX, SESSION_SIGNS)
        .then(|| Reference::new([("session_id", session_id)]))
}

/// The provider's error text: `error` for 400, `message` for 401 and 429 (documented). Of other codes
/// it is inferred.
fn error_of(body: &Value, _: u16) -> Option<String> {
    wire::text(body, "error").or_else(|| wire::text(body, "message"))
}

/// The meaning of an accepted create. The answer comes once, so only its session decides.
fn created(body: &Value, recovery: &Recovery) -> Submitted {
    let has_result = body.get("result").is_some_and(Value::is_object);
    let session_id = wire::text(wire::unwrapped(body, "result"), "session_id")
        .or_else(|| wire::text(body, "session_id"));
    let Some(session_id) = session_id else {
        return if has_result {
            Submitted::AcceptedWithoutReference
        } else {
            Submitted::unclear("the answer has no result")
        };
    };
    let Some(reference) = reference(&session_id) else {
        return Submitted::unread_id("session_id is not of its shape", session_id);
    };
    let read = read_body(body, Damage::LeftOut).map(|mut observation| {
        observation.reference = Some(reference);
        count_pieces(recovery, &mut observation);
        observation
    });
    error_answer::accepted(read)
}

/// The observation of a status answer with HTTP 200.
fn read_answer(reference: &Reference, answer: &Response) -> Result<Observation, Trouble> {
    let body = wire::object(answer)?;
    let named = wire::text(wire::unwrapped(&body, "result"), "session_id");
    if named.is_some_and(|named| named != reference.part("session_id")) {
        return Err(Trouble::unreadable("the answer is about another session"));
    }
    read_body(&body, Damage::Spoils)
}

/// The documented shapes: `{"status": "pending"}`, and a `result` whose `nfts` decide. Public clients
/// of the create, and the sibling API's page, have the fields of `result` at the top.
fn read_body(body: &Value, damage: Damage) -> Result<Observation, Trouble> {
    let result = wire::unwrapped(body, "result");
    let word = wire::text(body, "status").or_else(|| wire::text(result, "status"));
    let is_wrapped = body.get("result").is_some_and(Value::is_object);
    let is_known = is_wrapped
        || ["session_id", "nfts"]
            .iter()
            .any(|field| body.get(field).is_some());
    if word.is_none() && !is_known {
        return Err(Trouble::unreadable(
            "the answer has no result and no status",
        ));
    }
    let pieces = damage.hold(read_pieces(result))?;
    let standing = match word.as_deref() {
        _ if !pieces.items.is_empty() => {
            // Documented: `status` is present while fulfillment has not completed.
            let finality = if pieces.are_whole && word.is_none() {
                Finality::Final
            } else {
                Finality::Terminal
            };
            Some((FULFILLED, Standing::Mapped(State::Completed, finality)))
        }
        // Another word may mean anything, a failure included: it is not taken for `pending`.
        Some(word) if word != PENDING => Some((word, Standing::Unmapped)),
        _ => None,
    };
    let (code, standing) =
        standing.unwrap_or((PENDING, Standing::Mapped(State::Processing, Finality::Open)));
    let mut observation = Observation::of(code, standing);
    let public_id = wire::text(result, "public_id").map(|id| observation::word(&id));
    observation.facts = public_id
        .map(|id| ("public_id", Some(id)))
        .into_iter()
        .collect();
    // The currency of `total` is not documented.
    let total = wire::amount(result, "total", AmountRole::Asked, "");
    observation.amounts = damage.hold(total)?.into_iter().collect();
    let hash = damage.hold(wire::identifier(result, "tx_hash"))?;
    observation.transaction_hashes = hash.map(|hash| vec![hash]);
    observation.items = Some(pieces.items).filter(|items| !items.is_empty());
    Ok(observation)
}

/// Fewer pieces than were pulled are delivered, yet others can follow.
fn count_pieces(recovery: &Recovery, observation: &mut Observation) {
    let pulled: Option<usize> = recovery.get(PULLS).and_then(|pulls| pulls.parse().ok());
    let pieces = observation.items.as_ref().map(Vec::len);
    let is_short = (pulled.zip(pieces)).is_some_and(|(pulled, pieces)| pieces < pulled);
    if let Standing::Mapped(State::Completed, finality) = &mut observation.standing
        && is_short
    {
        *finality = Finality::Terminal;
    }
}

/// The delivered pieces that an answer names.
#[derive(Default)]
struct Pieces {
    items: Vec<Item>,
    /// True if each entry in their place is a piece with an identifier.
    are_whole: bool,
}

/// The delivered pieces. Since they can make the purchase final, anything else in their place is
/// unreadable.
fn read_pieces(result: &Value) -> Result<Pieces, Trouble> {
    let pieces = match result.get("nfts") {
        None | Some(Value::Null) => return Ok(Pieces::default()),
        Some(Value::String(text)) if text.is_empty() => return Ok(Pieces::default()),
        Some(Value::Array(pieces)) => pieces,
        Some(_) => return Err(Trouble::unreadable("nfts is not a list")),
    };
    if pieces.len() > ITEMS_MAX {
        return Err(Trouble::unreadable("more nfts than can be kept"));
    }
    let items: Vec<Item> = pieces.iter().filter_map(read_item).collect();
    if items.is_empty() && !pieces.is_empty() {
        return Err(Trouble::unreadable("nfts holds no pieces"));
    }
    Ok(Pieces {
        are_whole: items.len() == pieces.len(),
        items,
    })
}

/// A piece by its object or, which is a guess, by its id alone; nothing without an identifier.
fn read_item(piece: &Value) -> Option<Item> {
    let clean = |text: Option<String>| observation::word(&text.unwrap_or_default());
    let identified =
        |text: &String| !text.trim().is_empty() && !text.contains(char::REPLACEMENT_CHARACTER);
    if let Value::String(id) = piece {
        return Some(id).filter(|id| identified(id)).map(|id| Item {
            id: observation::word(id),
            ..Item::default()
        });
    }
    let content = |part: &str, field: &str| wire::text(piece.get("content")?.get(part)?, field);
    // `mint_address` stands in the status sample only, with the same value as `id`.
    let id = ["id", "mint_address"]
        .into_iter()
        .filter_map(|field| wire::text(piece, field))
        .find(identified)?;
    let image = content("links", "image").or_else(|| content("metadata", "image"));
    Some(Item {
        id: observation::word(&id),
        kind: clean(wire::text(piece, "type")),
        name: clean(content("metadata", "name")),
        image_url: clean(image),
    })
}

/// The meaning of HTTP 400: one error text is an end; every other is about the request (inferred), and
/// must not declare a paid purchase failed.
fn read_error(answer: &Response) -> Result<Observation, Trouble> {
    let body = wire::object(answer)?;
    if wire::text(&body, "error").is_none_or(|error| error.trim() != FAILED) {
        return Err(Trouble::Unreachable {
            sent: true,
            why: "an error that is not about the transaction".to_owned(),
        });
    }
    let standing = Standing::Mapped(State::Failed, Finality::Final);
    let mut observation = Observation::of(FAILED, standing);
    observation.failure = Some(FailureReason::TransactionFailed);
    Ok(observation)
}

#[cfg(test)]
mod tests;
