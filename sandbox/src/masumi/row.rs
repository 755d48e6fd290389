//! A Masumi purchase as the service writes it: the Purchase schema, and the raw row of a 409.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::check::Source;
use crate::{book::Purchase, exchange::iso, ids::Ids};

const KEY_ID: &str = "cmsandboxkey00000000000001";
const LOVELACE: &str = "10000000";
const FEES: &str = "312345";

/// The parts of a word: the state on chain, the next action, and the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Face<'a> {
    pub(super) state: Option<&'a str>,
    pub(super) action: &'a str,
    error: Option<(&'static str, &'static str)>,
}

impl<'a> Face<'a> {
    pub(super) fn of(word: &'a str) -> Self {
        let (state, action) = match word.split_once('/') {
            Some(("null" | "", action)) => (None, action),
            Some((state, action)) => (Some(state), action),
            None => Self::usual(word),
        };
        let error = match (action, state) {
            ("WaitingForManualAction", None) => {
                Some(("InsufficientFunds", "Not enough funds in wallet"))
            }
            ("WaitingForManualAction", Some(_)) => Some(("Unknown", "unexpected state")),
            _ => None,
        };
        Self {
            state,
            action,
            error,
        }
    }

    fn usual(word: &'a str) -> (Option<&'a str>, &'a str) {
        match word {
            "FundsOrDatumInvalid" => (Some(word), "WaitingForManualAction"),
            "Withdrawn" | "RefundWithdrawn" | "DisputedWithdrawn" => (Some(word), "None"),
            "FundsLockingRequested"
            | "FundsLockingInitiated"
            | "WaitingForManualAction"
            | "WaitingForExternalAction"
            | "Ignore"
            | "None" => (None, word),
            _ => (Some(word), "WaitingForExternalAction"),
        }
    }
}

pub(super) fn source(purchase: &Purchase) -> Source {
    if purchase.fact("source") == Source::V2.name() {
        Source::V2
    } else {
        Source::V1
    }
}

/// The time of the last change of the action that is asked of the service.
pub(super) fn action_changed(purchase: &Purchase) -> Timestamp {
    changed(purchase, |face| face.action.to_owned())
}

/// The time of the last change on chain.
pub(super) fn state_changed(purchase: &Purchase) -> Timestamp {
    changed(purchase, |face| face.state.unwrap_or_default().to_owned())
}

fn changed(purchase: &Purchase, part: impl Fn(Face<'_>) -> String) -> Timestamp {
    let now = part(Face::of(purchase.word()));
    let same = purchase
        .past
        .iter()
        .rev()
        .take_while(|(_, word)| part(Face::of(word)) == now);
    same.last().map_or(purchase.created, |(at, _)| *at)
}

/// The parts of an order that are kept.
pub(super) fn facts(order: &Value, source: Source, ids: Ids) -> Value {
    let mut facts = Map::new();
    let kept = [
        "network",
        "inputHash",
        "sellerVkey",
        "agentIdentifier",
        "payByTime",
        "submitResultTime",
        "unlockTime",
        "externalDisputeUnlockTime",
        "metadata",
        "buyerReturnAddress",
        "sellerReturnAddress",
    ];
    for name in kept {
        facts.insert(
            name.to_owned(),
            order.get(name).cloned().unwrap_or_default(),
        );
    }
    let amounts = order
        .get("Amounts")
        .and_then(Value::as_array)
        .filter(|amounts| !amounts.is_empty());
    let pricing = if amounts.is_some() {
        "Dynamic"
    } else {
        "Fixed"
    };
    let paid = match amounts {
        None => vec![json!({ "amount": LOVELACE, "unit": "" })],
        Some(amounts) => amounts.iter().map(normalised).collect(),
    };
    facts.insert("source".to_owned(), json!(source.name()));
    facts.insert("pricingType".to_owned(), json!(pricing));
    facts.insert("PaidFunds".to_owned(), Value::Array(paid));
    facts.insert("txHash".to_owned(), json!(ids.hash(1)));
    facts.insert("resultHash".to_owned(), json!(ids.hash(2)));
    Value::Object(facts)
}

fn normalised(amount: &Value) -> Value {
    let unit = amount
        .get("unit")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let unit = if unit == "lovelace" { "" } else { unit };
    json!({ "amount": amount.get("amount"), "unit": unit })
}

/// The answer to a create, which is the only one without histories.
pub(super) fn created(purchase: &Purchase) -> Value {
    let first = purchase.past.first().map_or("", |(_, word)| word);
    Value::Object(schema(purchase, first))
}

/// The Purchase schema as reads give it.
pub(super) fn read(purchase: &Purchase, with_history: bool) -> Value {
    let mut row = schema(purchase, purchase.word());
    let (mut actions, mut transactions) = (Value::Null, Value::Null);
    if with_history {
        let past = purchase.past.split_last().map_or(&[][..], |(_, past)| past);
        let done = past.iter().map(|(at, word)| {
            let face = Face::of(word);
            json!({
                "id": format!("{}a", purchase.id),
                "createdAt": iso(*at),
                "updatedAt": iso(*at),
                "requestedAction": face.action,
                "errorType": face.error.map(|(kind, _)| kind),
                "errorNote": face.error.map(|(_, note)| note),
            })
        });
        actions = Value::Array(done.collect());
        transactions = json!([]);
    }
    row.insert("ActionHistory".to_owned(), actions);
    row.insert("TransactionHistory".to_owned(), transactions);
    Value::Object(row)
}

fn schema(purchase: &Purchase, word: &str) -> Map<String, Value> {
    let face = Face::of(word);
    let source = source(purchase);
    let locked = purchase.has_been("FundsLocked");
    let fact = |name: &str| purchase.facts.get(name).cloned().unwrap_or_default();
    let (seller, buyer) = withdrawn(purchase, face);
    let row = json!({
        "id": purchase.id,
        "createdAt": iso(purchase.created),
        "updatedAt": iso(purchase.updated()),
        "blockchainIdentifier": &*purchase.reference,
        "agentIdentifier": fact("agentIdentifier"),
        "agentName": "Sandbox Agent",
        "pricingType": fact("pricingType"),
        "lastCheckedAt": face.state.map(|_| iso(purchase.updated())),
        "payByTime": fact("payByTime"),
        "submitResultTime": fact("submitResultTime"),
        "unlockTime": fact("unlockTime"),
        "externalDisputeUnlockTime": fact("externalDisputeUnlockTime"),
        "totalBuyerCardanoFees": if locked { json!(0.312_345) } else { json!(0) },
        "totalSellerCardanoFees": 0,
        "nextActionOrOnChainStateOrResultLastChangedAt": iso(purchase.updated()),
        "nextActionLastChangedAt": iso(action_changed(purchase)),
        "onChainStateOrResultLastChangedAt": iso(state_changed(purchase)),
        "requestedById": KEY_ID,
        "onChainState": face.state,
        "collateralReturnLovelace": null,
        "buyerReturnAddress": fact("buyerReturnAddress"),
        "sellerReturnAddress": fact("sellerReturnAddress"),
        "cooldownTime": 0,
        "cooldownTimeOtherParty": 0,
        "inputHash": fact("inputHash"),
        "resultHash": result_hash(purchase),
        "NextAction": {
            "requestedAction": face.action,
            "errorType": face.error.map(|(kind, _)| kind),
            "errorNote": face.error.map(|(_, note)| note),
        },
        "CurrentTransaction": transaction(purchase, face),
        "PaidFunds": fact("PaidFunds"),
        "WithdrawnForSeller": seller,
        "WithdrawnForBuyer": buyer,
        "PaymentSource": {
            "id": format!("cmsandboxps000000000000000{}", source.digit()),
            "network": fact("network"),
            "paymentSourceType": source.name(),
            "smartContractAddress": source.address(),
            "policyId": purchase.fact("agentIdentifier").get(..56),
        },
        "SellerWallet": seller_wallet(purchase, source),
        "SmartContractWallet": locked.then(|| json!({
            "id": format!("cmsandboxhw000000000000000{}", source.digit()),
            "walletVkey": "ca6e1b1f320d543a24adeabc0aa4627635c7349b639f86f74bdfdd71",
            "walletAddress": "addr_test1_sandbox_wallet",
        })),
        "metadata": fact("metadata"),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn seller_wallet(purchase: &Purchase, source: Source) -> Value {
    json!({
        "id": format!("cmsandboxsw000000000000000{}", source.digit()),
        "walletVkey": purchase.fact("sellerVkey"),
    })
}

fn result_hash(purchase: &Purchase) -> Option<&str> {
    purchase
        .has_been("ResultSubmitted")
        .then(|| purchase.fact("resultHash"))
}

/// The money paid out, to the seller and to the buyer.
fn withdrawn(purchase: &Purchase, face: Face<'_>) -> (Value, Value) {
    let all = purchase.facts.get("PaidFunds").cloned().unwrap_or_default();
    match face.state {
        Some("Withdrawn") => (all, json!([])),
        Some("RefundWithdrawn") => (json!([]), all),
        Some("DisputedWithdrawn") => (
            json!([{ "amount": "4000000", "unit": "" }]),
            json!([{ "amount": "6000000", "unit": "" }]),
        ),
        _ => (json!([]), json!([])),
    }
}

/// The transaction under way or last confirmed; none before anything was sent to the chain.
fn transaction(purchase: &Purchase, face: Face<'_>) -> Value {
    let was_sent = purchase.has_been("FundsLockingInitiated")
        || face.action == "FundsLockingInitiated"
        || !matches!(face.state, None | Some("FundsOrDatumInvalid"));
    if !was_sent {
        return Value::Null;
    }
    let past = purchase.past.split_last().map_or(&[][..], |(_, past)| past);
    let previous = past.iter().rev().find_map(|(_, word)| Face::of(word).state);
    let confirmed = face.state.is_some();
    let at = iso(purchase.updated());
    json!({
        "id": format!("{}t", purchase.id),
        "createdAt": at,
        "updatedAt": at,
        "txHash": purchase.fact("txHash"),
        "status": if confirmed { "Confirmed" } else { "Pending" },
        "fees": confirmed.then_some(FEES),
        "blockHeight": confirmed.then_some(4_000_000 + purchase.number),
        "blockTime": confirmed.then(|| purchase.updated().as_second()),
        "previousOnChainState": previous.filter(|_| confirmed),
        "newOnChainState": face.state,
        "confirmations": confirmed.then_some(21),
    })
}

/// The body of a 409: the raw row, which lacks parts of the schema and has others beside it.
pub(super) fn exists(purchase: &Purchase) -> Value {
    let mut row = schema(purchase, purchase.word());
    row.remove("PaymentSource");
    let source = source(purchase);
    let action_id = format!("{}n", purchase.id);
    let changed = iso(action_changed(purchase));
    if let Some(Value::Object(action)) = row.get_mut("NextAction") {
        let raw = json!({
            "id": action_id,
            "createdAt": changed,
            "updatedAt": changed,
            "submittedTxHash": null,
            "purchaseRequestHistoryId": null,
        });
        action.extend(raw.as_object().cloned().unwrap_or_default());
    }
    let mut transaction_id = Value::Null;
    if let Some(Value::Object(transaction)) = row.get_mut("CurrentTransaction") {
        for name in ["previousOnChainState", "newOnChainState", "confirmations"] {
            transaction.remove(name);
        }
        for name in [
            "utxoCount",
            "withdrawalCount",
            "assetMintOrBurnCount",
            "redeemerCount",
            "validContract",
            "outputAmount",
        ] {
            transaction.insert(name.to_owned(), Value::Null);
        }
        transaction_id = transaction.get("id").cloned().unwrap_or_default();
    }
    if let Some(Value::Array(funds)) = row.get_mut("PaidFunds") {
        for fund in funds.iter_mut().filter_map(Value::as_object_mut) {
            fund.insert("id".to_owned(), json!(format!("{}f", purchase.id)));
        }
    }
    let raw = json!({
        "paymentSourceId": format!("cmsandboxps000000000000000{}", source.digit()),
        "sellerWalletId": format!("cmsandboxsw000000000000000{}", source.digit()),
        "smartContractWalletId": null,
        "agentIdentifierSyncedAt": iso(purchase.created),
        "agentNameSyncedAt": iso(purchase.created),
        "sellerCoolDownTime": "0",
        "buyerCoolDownTime": "0",
        "nextActionId": action_id,
        "currentTransactionId": transaction_id,
        "isLimitedToHotWallets": false,
        "TransactionHistory": [],
    });
    row.extend(raw.as_object().cloned().unwrap_or_default());
    json!({
        "status": "error",
        "error": { "message": "Purchase exists" },
        "id": purchase.id,
        "object": row,
    })
}

#[cfg(test)]
mod tests {
    use super::Face;

    #[test]
    fn a_word_is_a_state_or_an_action_or_both() {
        let check = |word, state, action| {
            let face = Face::of(word);
            assert_eq!((face.state, face.action), (state, action), "{word}");
        };
        check("FundsLockingRequested", None, "FundsLockingRequested");
        check(
            "FundsLocked",
            Some("FundsLocked"),
            "WaitingForExternalAction",
        );
        check("Withdrawn", Some("Withdrawn"), "None");
        check(
            "Withdrawn/WaitingForManualAction",
            Some("Withdrawn"),
            "WaitingForManualAction",
        );
        check("null/Ignore", None, "Ignore");
        check(
            "SANDBOX_UNKNOWN",
            Some("SANDBOX_UNKNOWN"),
            "WaitingForExternalAction",
        );
    }
}
