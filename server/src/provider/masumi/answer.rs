//! The meaning of the provider's answers: the status table, the facts, the money, and the outcome of a
//! submit.

use std::time::Duration;

use serde_json::Value;

use super::{IDENTIFIER, NETWORK};
use crate::{
    observation::{Answer, Observation, Standing, Submitted, Trouble, word},
    provider::{
        Intent, error_answer,
        wire::{self, Damage},
    },
    purchase::{
        Amount, AmountRole, AttentionReason, Cause, FailureReason, Finality, Reference, State,
        Timestamp,
    },
    upstream::Response,
};

/// After this long past `payByTime` without funds somebody should look. Ours: the provider itself
/// gives up after 5 minutes, and its jobs run every few.
const PAY_BY_ATTENTION_AFTER: Duration = Duration::from_secs(15 * 60);
/// After this long past `payByTime` without funds it is over. Ours.
const EXPIRED_AFTER: Duration = Duration::from_secs(3_600);
/// The earliest `payByTime` that is believed to be in milliseconds, 2001-09-09: the provider's
/// samples are in seconds, and those must not make a purchase expire.
const MILLISECONDS_FROM: i64 = 1_000_000_000_000;
/// The most entries of a list that are read. Ours: an order has at most 7 amounts, and a purchase a
/// handful of transactions.
const ENTRIES_MAX: usize = 256;

/// The kind of answer that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// The answer to a create: a deadline of this service never ends a purchase on its word.
    Create,
    /// A fresh read of exactly this purchase.
    Exact,
}

impl Read {
    fn damage(self) -> Damage {
        match self {
            Self::Create => Damage::LeftOut,
            Self::Exact => Damage::Spoils,
        }
    }
}

/// The meaning of the answer to a submit.
pub(super) fn submit(
    intent: &Intent<'_>,
    reference: &Reference,
    answer: &Response,
    now: Timestamp,
) -> Submitted {
    if answer.status == 409 {
        return existing(intent, reference, answer, now);
    }
    if (200..300).contains(&answer.status) {
        let read = wire::object(answer).and_then(|body| {
            let data = wire::unwrapped(&body, "data");
            if wire::text(data, "inputHash").is_some() && !is_ours(intent, data) {
                return Err(held_by_another());
            }
            observation(data, reference, Read::Create, now)
        });
        return error_answer::accepted(read);
    }
    error_answer::not_accepted(answer, error_of, now)
}

/// A 409: the provider holds a purchase with our identifier. Whose it is tells the input hash alone,
/// since the provider looks beyond the API key, and its message has changed between versions.
fn existing(
    intent: &Intent<'_>,
    reference: &Reference,
    answer: &Response,
    now: Timestamp,
) -> Submitted {
    let body = match wire::object(answer) {
        Ok(body) => body,
        Err(trouble) => return error_answer::unclear(trouble),
    };
    let object = body.get("object").filter(|object| object.is_object());
    let (Some(_), Some(object)) = (wire::text(&body, "id"), object) else {
        // Other conflicts (a concurrent change) name no purchase.
        return Submitted::unclear("HTTP 409 that names no purchase");
    };
    if let Err(trouble) = check_identity(object, reference) {
        return error_answer::unclear(trouble);
    }
    if wire::text(object, "inputHash").is_none() {
        return Submitted::unclear("HTTP 409 with a purchase without inputHash");
    }
    if !is_ours(intent, object) {
        return Submitted::Taken;
    }
    error_answer::accepted(observation(object, reference, Read::Create, now))
}

/// The meaning of the answer to a look-up: a purchase is adopted only if its input hash is ours.
pub(super) fn look_up(
    intent: &Intent<'_>,
    reference: &Reference,
    answer: &Response,
    now: Timestamp,
) -> Answer {
    read(answer, now, |data| {
        let observation = observation(data, reference, Read::Exact, now)?;
        if wire::text(data, "inputHash").is_none() {
            return Err(Trouble::unreadable("the purchase has no inputHash"));
        }
        if !is_ours(intent, data) {
            return Err(held_by_another());
        }
        Ok(observation)
    })
}

/// The meaning of the answer to a status read.
pub(super) fn status(reference: &Reference, answer: &Response, now: Timestamp) -> Answer {
    read(answer, now, |data| {
        observation(data, reference, Read::Exact, now)
    })
}

/// An answer of the exact read; `interpret` gets the purchase in it.
fn read(
    answer: &Response,
    now: Timestamp,
    interpret: impl FnOnce(&Value) -> Result<Observation, Trouble>,
) -> Answer {
    if !(200..300).contains(&answer.status) {
        // Recorded: an unknown route is a 404 in the same envelope, told apart by its text.
        return if error_answer::is_unknown(answer, error_of) {
            Answer::NotFound
        } else {
            Answer::Trouble(error_answer::trouble(answer, now))
        };
    }
    Answer::from(data_of(answer).and_then(|data| interpret(&data)))
}

/// The observation that a row of a list makes; nothing if a deadline of this service would end it,
/// since that takes a read of exactly this purchase.
pub(super) fn listed(
    data: &Value,
    reference: &Reference,
    now: Timestamp,
) -> Result<Option<Observation>, Trouble> {
    let observation = observation(data, reference, Read::Exact, now)?;
    Ok((observation.cause != Some(Cause::Deadline)).then_some(observation))
}

/// The `data` in the envelope of a success: a purchase, or a page of them.
pub(super) fn data_of(answer: &Response) -> Result<Value, Trouble> {
    let mut body = wire::object(answer)?;
    if wire::text(&body, "status").is_some_and(|status| status != "success") {
        return Err(Trouble::unreadable("the answer's status is not success"));
    }
    match body.get_mut("data").map(Value::take) {
        Some(data) if data.is_object() => Ok(data),
        _ => Err(Trouble::unreadable("the answer has no data")),
    }
}

/// The message in the envelope of an error.
fn error_of(body: &Value, _: u16) -> Option<String> {
    if wire::text(body, "status").as_deref() != Some("error") {
        return None;
    }
    wire::text(body.get("error")?, "message")
}

fn is_ours(intent: &Intent<'_>, data: &Value) -> bool {
    wire::text(data, "inputHash").is_some_and(|hash| (intent.matches)("input_hash", &hash))
}

fn held_by_another() -> Trouble {
    Trouble::unreadable("the blockchain identifier is held by another order")
}

/// True if the answer is about the purchase that was asked for.
fn check_identity(data: &Value, reference: &Reference) -> Result<(), Trouble> {
    let named = wire::text(data, "blockchainIdentifier");
    if named.as_deref() != Some(reference.part(IDENTIFIER)) {
        return Err(Trouble::unreadable(
            "the answer is about another blockchainIdentifier",
        ));
    }
    // Absent in the object of a 409.
    let network = data
        .get("PaymentSource")
        .and_then(|source| wire::text(source, "network"));
    if network.is_some_and(|network| network != reference.part(NETWORK)) {
        return Err(Trouble::unreadable("the answer is about another network"));
    }
    Ok(())
}

/// Everything that a purchase of the provider says.
fn observation(
    data: &Value,
    reference: &Reference,
    read: Read,
    now: Timestamp,
) -> Result<Observation, Trouble> {
    check_identity(data, reference)?;
    let damage = read.damage();
    let next = data.get("NextAction").unwrap_or(&Value::Null);
    let state = damage.hold(wire::word(data, "onChainState"))?;
    let action = match &state {
        Some(_) => wire::text(next, "requestedAction"),
        None => damage.hold(wire::word(next, "requestedAction"))?,
    };
    let (state, action) = (state.as_deref(), action.as_deref());
    let mut observation = match (state.or(action), read) {
        (Some(code), _) => {
            let action = action.unwrap_or_default();
            Observation::of(code, standing(state, action, has_error(data)))
        }
        // It names the purchase, and that is what a create asks for.
        (None, Read::Create) => {
            let standing = Standing::Mapped(State::Created, Finality::Open);
            Observation::of("", standing)
        }
        (None, Read::Exact) => {
            return Err(Trouble::unreadable(
                "the answer has neither onChainState nor requestedAction",
            ));
        }
    };
    observation.funds_moved = shows_funds(data, state);
    let has_expired = !observation.funds_moved && has_expired(data, state, action, now);
    if has_expired && read == Read::Exact {
        observation.before_deadline = Some(observation.standing);
        observation.standing = Standing::Mapped(State::Expired, Finality::Terminal);
        observation.cause = Some(Cause::Deadline);
    }
    observation.failure = match observation.standing {
        Standing::Mapped(State::Canceled, _) => Some(FailureReason::Canceled),
        Standing::Mapped(State::Expired, _) => Some(FailureReason::TimedOut),
        _ => None,
    };
    observation.attention = attention(data, state, action, now);
    observation.facts = facts(data, damage)?;
    observation.amounts = amounts(data, state, damage)?;
    observation.transaction_hashes = transaction_hashes(data, damage)?;
    observation.provider_change_time = change_time(data);
    observation.reference = Some(reference.clone());
    Ok(observation)
}

/// The status table. An action without a row keeps the state while nothing is on chain, unless it
/// stands beside an error: the provider's own jobs write some that its transition tables lack.
fn standing(state: Option<&str>, action: &str, has_error: bool) -> Standing {
    use Finality::{Open, Terminal};
    let (state, finality) = match (state, action) {
        (None, "FundsLockingRequested") => (State::Created, Open),
        (None, "FundsLockingInitiated") => (State::Confirming, Open),
        (None, "WaitingForManualAction") => (State::OnHold, Open),
        (None, "Ignore") => (State::Canceled, Terminal),
        (None, _) if has_error => (State::OnHold, Open),
        (Some("FundsLocked"), _) => (State::Paid, Open),
        (Some("FundsOrDatumInvalid"), _) => (State::OnHold, Open),
        (Some("ResultSubmitted" | "WithdrawAuthorized"), _) => (State::Delivered, Open),
        (Some("RefundRequested" | "RefundAuthorized"), _) => (State::RefundPending, Open),
        (Some("Disputed"), _) => (State::Disputed, Open),
        (Some("Withdrawn"), _) => (State::Completed, Terminal),
        (Some("RefundWithdrawn"), _) => (State::Refunded, Terminal),
        (Some("DisputedWithdrawn"), _) => (State::DisputeSettled, Terminal),
        _ => return Standing::Unmapped,
    };
    Standing::Mapped(state, finality)
}

/// The time since `payByTime`, zero before it; `None` if it is no time.
fn since_pay_by(data: &Value, now: Timestamp) -> Option<Duration> {
    let pay_by = Timestamp::from_millis_text(&wire::text(data, "payByTime")?).ok()?;
    (pay_by.as_millis() >= MILLISECONDS_FROM).then(|| now.since(pay_by))
}

/// True if a field is there: neither missing nor null nor an empty text.
fn is_present(object: &Value, field: &str) -> bool {
    match object.get(field) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

/// True if the next action stands beside an error.
fn has_error(data: &Value) -> bool {
    data.get("NextAction")
        .is_some_and(|next| is_present(next, "errorType"))
}

/// True if the answer itself shows that funds moved. A recovery at the provider can detach the current
/// transaction from a row whose funds are on chain (recorded).
fn shows_funds(data: &Value, state: Option<&str>) -> bool {
    let is_on_chain = state.is_some_and(|state| state != "FundsOrDatumInvalid");
    let history = entries(data, "TransactionHistory").iter();
    let mut transactions = history.chain(data.get("CurrentTransaction"));
    let has_hash = transactions.any(|transaction| is_present(transaction, "txHash"));
    let fees = "totalBuyerCardanoFees";
    let has_fees = match wire::decimal(data, fees) {
        Ok(Some(fees)) => fees.is_positive(),
        Ok(None) | Err(_) => is_present(data, fees),
    };
    is_on_chain || has_hash || has_fees || is_present(data, "SmartContractWallet")
}

/// True if the time to pay has passed for long, and nothing shows that funds may be on their way.
fn has_expired(data: &Value, state: Option<&str>, action: Option<&str>, now: Timestamp) -> bool {
    // Recorded: the provider itself sets FundsOrDatumInvalid once payByTime has passed without funds.
    matches!(state, None | Some("FundsOrDatumInvalid"))
        && matches!(
            action,
            Some("FundsLockingRequested" | "WaitingForManualAction")
        )
        && !is_present(data, "CurrentTransaction")
        && since_pay_by(data, now).is_some_and(|passed| passed >= EXPIRED_AFTER)
}

/// Why somebody has to look; the reason that comes first in the order of precedence.
fn attention(
    data: &Value,
    state: Option<&str>,
    action: Option<&str>,
    now: Timestamp,
) -> Option<AttentionReason> {
    if has_error(data)
        || action == Some("WaitingForManualAction")
        || state == Some("FundsOrDatumInvalid")
    {
        return Some(AttentionReason::ProviderManualAction);
    }
    if action == Some("Ignore") {
        return state.map(|_| AttentionReason::IgnoredByProvider);
    }
    let late = since_pay_by(data, now).is_some_and(|passed| passed >= PAY_BY_ATTENTION_AFTER);
    (state.is_none() && late).then_some(AttentionReason::PayByTimePassed)
}

/// The facts that the answer speaks of: older shapes lack some altogether.
fn facts(data: &Value, damage: Damage) -> Result<Vec<(&'static str, Option<String>)>, Trouble> {
    let mut facts = Vec::new();
    let sources = [
        ("NextAction", "requestedAction", "requestedAction"),
        ("NextAction", "errorType", "errorType"),
        ("", "resultHash", "resultHash"),
        ("", "payByTime", "payByTime"),
        ("", "submitResultTime", "submitResultTime"),
        ("", "unlockTime", "unlockTime"),
        ("", "externalDisputeUnlockTime", "externalDisputeUnlockTime"),
        ("CurrentTransaction", "status", "transactionStatus"),
    ];
    for (part, field, name) in sources {
        let object = match part {
            "" => Some(data),
            part => data.get(part),
        };
        let value = match object {
            None => continue,
            // Nothing at all is said to be there, so neither is the fact.
            Some(Value::Null) => &Value::Null,
            Some(object) => match object.get(field) {
                Some(value) => value,
                // Optional in an action: one without has none.
                None if field == "errorType" && object.is_object() => &Value::Null,
                None => continue,
            },
        };
        match value {
            Value::Array(_) | Value::Object(_) => {}
            Value::Null => facts.push((name, None)),
            // A hash is never cut.
            _ if name == "resultHash" => {
                facts.push((name, damage.hold(wire::identifier(data, name))?));
            }
            _ => {
                let text = object.and_then(|object| wire::text(object, field));
                facts.push((name, text.map(|text| word(&text))));
            }
        }
    }
    Ok(facts)
}

fn amounts(data: &Value, state: Option<&str>, damage: Damage) -> Result<Vec<Amount>, Trouble> {
    let mut amounts = Vec::new();
    // The provider lists PaidFunds from the create on, as the amount to be paid.
    if state.is_some_and(|state| state != "FundsOrDatumInvalid") {
        amounts.extend(damage.hold(funds(data, "PaidFunds", AmountRole::Paid))?);
    }
    for (field, role) in [
        ("WithdrawnForBuyer", AmountRole::Refunded),
        ("WithdrawnForSeller", AmountRole::ToSeller),
    ] {
        amounts.extend(damage.hold(funds(data, field, role))?);
    }
    let transaction = data.get("CurrentTransaction").unwrap_or(&Value::Null);
    let fee = wire::amount(transaction, "fees", AmountRole::Fee, "lovelace");
    amounts.extend(damage.hold(fee)?);
    Ok(amounts)
}

/// The amounts of one role. None if an entry has no amount that can be read: the list is then
/// not whole, and no state hangs on it, so the rest of the answer holds.
fn funds(data: &Value, field: &str, role: AmountRole) -> Result<Vec<Amount>, Trouble> {
    let mut amounts = Vec::new();
    for entry in entries(data, field) {
        let Some(value) = wire::decimal(entry, "amount")? else {
            return Ok(Vec::new());
        };
        let unit = wire::identifier(entry, "unit")?;
        amounts.push(Amount {
            role,
            value: value.to_string(),
            unit: unit.unwrap_or_else(|| "lovelace".to_owned()),
        });
    }
    Ok(amounts)
}

/// A list's entries; none of a list that no purchase can have.
fn entries<'a>(data: &'a Value, field: &str) -> &'a [Value] {
    wire::list(data, field)
        .filter(|entries| entries.len() <= ENTRIES_MAX)
        .unwrap_or_default()
}

/// The hashes that the answer has, oldest first; nothing if it has none. The current transaction
/// is null again after an operator's recovery, and its hash is null until it is submitted.
fn transaction_hashes(data: &Value, damage: Damage) -> Result<Option<Vec<String>>, Trouble> {
    let mut earlier: Vec<&Value> = entries(data, "TransactionHistory").iter().collect();
    earlier.sort_by_key(|transaction| wire::time(transaction, "createdAt"));
    let mut hashes = Vec::new();
    for transaction in earlier.into_iter().chain(data.get("CurrentTransaction")) {
        if let Some(hash) = damage.hold(wire::identifier(transaction, "txHash"))?
            && !hashes.contains(&hash)
        {
            hashes.push(hash);
        }
    }
    Ok((!hashes.is_empty()).then_some(hashes))
}

/// The newest of the three stamps, which older shapes lack. `updatedAt` is no clock: a roll-back
/// leaves it as it was.
fn change_time(data: &Value) -> Option<Timestamp> {
    [
        "nextActionOrOnChainStateOrResultLastChangedAt",
        "nextActionLastChangedAt",
        "onChainStateOrResultLastChangedAt",
    ]
    .into_iter()
    .filter_map(|field| wire::time(data, field))
    .max()
}
