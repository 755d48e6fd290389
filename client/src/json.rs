//! Contract messages as proto JSON, in both directions.
//!
//! The contract's own descriptor set describes the message types, so this module knows each field
//! that is added there.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor};
use serde_json::Value;
use tillwatch_proto::v1::{CreatePurchaseRequest, ProviderReference, create_purchase_request};

static CONTRACT: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    let described = tillwatch_proto::FILE_DESCRIPTOR_SET;
    DescriptorPool::decode(described).map_err(|error| error.to_string())
});

const CREATE: &str = "tillwatch.v1.CreatePurchaseRequest";
const REFERENCE: &str = "tillwatch.v1.ProviderReference";

/// JSON that is not the expected message, or a message that has no JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The text is no JSON at all.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// A field is unknown, or its value is not of its type.
    #[error("{path}: {problem}")]
    Field {
        /// The field's path from the top, dotted; list positions in brackets.
        path: String,
        /// The fault in it.
        problem: String,
    },
    /// The message type is not part of this contract, or its descriptors cannot be read.
    #[error("the contract cannot be read: {0}")]
    Contract(String),
}

/// Writes a message as one line of proto JSON. `name` is its full name, `tillwatch.v1.Purchase`.
///
/// # Errors
/// [`JsonError::Contract`] if `name` is not the message's type.
pub fn encode(name: &str, message: &impl Message) -> Result<String, JsonError> {
    let contract = |error: &dyn ToString| JsonError::Contract(error.to_string());
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor(name)?, bytes.as_slice())
        .map_err(|error| contract(&error))?;
    serde_json::to_string(&dynamic).map_err(|error| contract(&error))
}

/// Reads an order: an object with one key, the order's kind, such as `{"devdraft": {…}}`.
///
/// # Errors
/// [`JsonError`], naming the field that is wrong.
pub fn order(text: &str) -> Result<create_purchase_request::Order, JsonError> {
    let value = parse(text)?;
    let descriptor = descriptor(CREATE)?;
    let kinds = order_kinds(&descriptor);
    let chosen = one_key(&value, &kinds)?;
    let request: CreatePurchaseRequest = decode(&descriptor, &value)?;
    let empty = || problem(&chosen, "is null");
    request.order.ok_or_else(empty)
}

/// Reads a provider's reference: an object with one key, the provider, such as
/// `{"devdraft": {"transactionId": "txn_1"}}`.
///
/// # Errors
/// [`JsonError`], naming the field that is wrong.
pub fn reference(text: &str) -> Result<ProviderReference, JsonError> {
    let value = parse(text)?;
    let descriptor = descriptor(REFERENCE)?;
    let kinds: Vec<String> = descriptor
        .fields()
        .map(|field| field.name().to_owned())
        .collect();
    one_key(&value, &kinds)?;
    decode(&descriptor, &value)
}

fn descriptor(name: &str) -> Result<MessageDescriptor, JsonError> {
    let pool = CONTRACT
        .as_ref()
        .map_err(|error| JsonError::Contract(error.clone()))?;
    let unknown = || JsonError::Contract(format!("{name} is not part of it"));
    pool.get_message_by_name(name).ok_or_else(unknown)
}

fn order_kinds(request: &MessageDescriptor) -> Vec<String> {
    let order = request.oneofs().find(|oneof| oneof.name() == "order");
    let fields = order.into_iter().flat_map(|oneof| {
        let fields: Vec<_> = oneof.fields().collect();
        fields
    });
    fields.map(|field| field.name().to_owned()).collect()
}

/// Parses into a value first, so that numbers reach the message as numbers, not as raw text.
fn parse(text: &str) -> Result<Value, JsonError> {
    serde_json::from_str(text).map_err(|error| JsonError::Syntax(error.to_string()))
}

fn one_key(value: &Value, kinds: &[String]) -> Result<String, JsonError> {
    let expected = kinds.join(", ");
    let object = value
        .as_object()
        .ok_or_else(|| problem("", format!("expected an object with one of: {expected}")))?;
    if let Some(other) = object.keys().find(|key| !kinds.contains(key)) {
        return Err(problem(other, format!("expected one of: {expected}")));
    }
    let mut keys = object.keys();
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key.clone()),
        (None, _) => Err(problem("", format!("expected one of: {expected}"))),
        (Some(_), Some(second)) => Err(problem(second, "expected one key at the top, not several")),
    }
}

fn problem(path: &str, problem: impl Into<String>) -> JsonError {
    let path = if path.is_empty() { "top level" } else { path };
    JsonError::Field {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn decode<M: Message + Default>(
    descriptor: &MessageDescriptor,
    value: &Value,
) -> Result<M, JsonError> {
    let dynamic = read(descriptor, value).map_err(|error| {
        // The reader does not name the place, so the error names the smallest part that fails
        // alone.
        locate(descriptor, value, "").unwrap_or_else(|| problem("", error))
    })?;
    dynamic
        .transcode_to()
        .map_err(|error| JsonError::Contract(error.to_string()))
}

fn read(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, String> {
    DynamicMessage::deserialize(descriptor.clone(), value).map_err(|error| error.to_string())
}

/// The innermost field at fault, or `None` if each field is right by itself.
fn locate(descriptor: &MessageDescriptor, value: &Value, path: &str) -> Option<JsonError> {
    for (key, inner) in value.as_object()? {
        let here = match path {
            "" => key.clone(),
            _ => format!("{path}.{key}"),
        };
        let field = descriptor
            .get_field_by_json_name(key)
            .or_else(|| descriptor.get_field_by_name(key));
        let Some(field) = field else {
            let known: Vec<_> = descriptor
                .fields()
                .map(|field| field.name().to_owned())
                .collect();
            let known = known.join(", ");
            return Some(problem(&here, format!("no such field; known: {known}")));
        };
        let alone = Value::Object([(key.clone(), inner.clone())].into_iter().collect());
        let Err(error) = read(descriptor, &alone) else {
            continue;
        };
        let message = match field.kind() {
            Kind::Message(message) if !field.is_map() => Some(message),
            _ => None,
        };
        let deeper = message.and_then(|message| match inner {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(index, item)| locate(&message, item, &format!("{here}[{index}]"))),
            _ => locate(&message, inner, &here),
        });
        return Some(deeper.unwrap_or_else(|| problem(&here, error)));
    }
    None
}

#[cfg(test)]
mod tests {
    use tillwatch_proto::v1::{
        Purchase, PurchaseState, PurchaseStatus, create_purchase_request::Order, devdraft_order,
    };

    use super::*;

    #[test]
    fn an_order_is_read_by_its_kind() {
        let text = r#"{"devdraft": {"stablecoin": {"sourceCurrency": "usdc", "amount": "10.5"},
            "customer": {"first_name": "A"}}}"#;
        let Order::Devdraft(read) = order(text).unwrap() else {
            panic!("another kind");
        };
        let Some(devdraft_order::Intent::Stablecoin(intent)) = read.intent else {
            panic!("another intent");
        };
        assert_eq!(intent.source_currency, "usdc");
        assert_eq!(intent.amount, "10.5");
        assert_eq!(read.customer.unwrap().first_name, "A");
    }

    #[test]
    fn numbers_and_times_are_read() {
        let Order::Phygitals(read) =
            order(r#"{"phygitals": {"amount": 3, "txs": ["a"]}}"#).unwrap()
        else {
            panic!("another kind");
        };
        assert_eq!((read.amount, read.txs), (3, vec!["a".to_owned()]));
        let text = r#"{"masumi": {"payByTime": "2026-07-01T10:10:00Z",
            "supportedPaymentSourceIndex": 0}}"#;
        let Order::Masumi(read) = order(text).unwrap() else {
            panic!("another kind");
        };
        assert_eq!(read.pay_by_time.unwrap().seconds, 1_782_900_600);
        assert_eq!(read.supported_payment_source_index, Some(0));
    }

    #[test]
    fn an_existing_purchase_is_an_order() {
        let read = order(r#"{"existing": {"devdraft": {"transactionId": "txn_1"}}}"#).unwrap();
        assert!(matches!(read, Order::Existing(_)));
        assert!(reference(r#"{"devdraft": {"transaction_id": "txn_1"}}"#).is_ok());
    }

    #[test]
    fn a_wrong_order_names_the_field() {
        let check = |text: &str, path: &str, about: &str| match order(text) {
            Err(JsonError::Field { path: at, problem }) => {
                assert_eq!(at, path, "{text}: {problem}");
                assert!(problem.contains(about), "{text}: {problem}");
            }
            other => panic!("{text}: {other:?}"),
        };
        check("[]", "top level", "expected an object");
        check("{}", "top level", "phygitals, masumi");
        check(r#"{"account": "x"}"#, "account", "expected one of");
        check(r#"{"inabit": {}, "carbon": {}}"#, "inabit", "not several");
        check(r#"{"carbon": null}"#, "carbon", "null");
        check(
            r#"{"carbon": {"memmo": ""}}"#,
            "carbon.memmo",
            "known: contact_id",
        );
        check(r#"{"carbon": {"memo": 3}}"#, "carbon.memo", "string");
        let nested = r#"{"devdraft": {"stablecoin": {"amuont": "1"}}}"#;
        check(nested, "devdraft.stablecoin.amuont", "no such field");
        let listed = r#"{"masumi": {"amounts": [{"amount": "1"}, {"unit": 2}]}}"#;
        check(listed, "masumi.amounts[1].unit", "string");
        check(r#"{"phygitals": {"amount": -1}}"#, "phygitals.amount", "");
        let timed = r#"{"masumi": {"unlockTime": "yesterday"}}"#;
        check(timed, "masumi.unlockTime", "");
        let both = r#"{"devdraft": {"bank": {}, "stablecoin": {}}}"#;
        check(both, "devdraft", "");
        assert!(matches!(order("{"), Err(JsonError::Syntax(_))));
    }

    #[test]
    fn a_message_is_written_on_one_line() {
        let purchase = Purchase {
            id: "pur_1".to_owned(),
            status: Some(PurchaseStatus {
                revision: 2,
                state: PurchaseState::Paid.into(),
                ..PurchaseStatus::default()
            }),
            ..Purchase::default()
        };
        let text = encode("tillwatch.v1.Purchase", &purchase).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["id"], "pur_1");
        assert_eq!(value["status"]["state"], "PURCHASE_STATE_PAID");
        assert!(!text.contains('\n'));
        assert!(encode("tillwatch.v1.Nothing", &purchase).is_err());
    }
}
