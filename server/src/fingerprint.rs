//! Order fingerprints: one HMAC-SHA-256 per field that is set, so that a repeated key can be
//! compared with its order although the order is not kept (promise C5).

use std::{collections::BTreeMap, fmt};

use hmac::{Hmac, KeyInit as _, Mac as _};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};
use sha2::Sha256;
use tillwatch_proto::v1::{CreatePurchaseRequest, create_purchase_request::Order};

use crate::purchase::{Decimal, Secret};

/// Fingerprint keys by id: the first makes new fingerprints, all verify.
pub struct Keyring {
    keys: Vec<(String, [u8; 32])>,
    /// The contract's descriptors, by which an order's fields are walked.
    pool: DescriptorPool,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Keyring")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// A key file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// It has no key.
    #[error("the fingerprint key file has no key")]
    Empty,
    /// A line is no key.
    #[error("line {0} of the fingerprint key file is not `id:` and 64 hexadecimal digits")]
    Line(usize),
    /// Two keys share an id.
    #[error("line {0} of the fingerprint key file repeats an id")]
    Repeated(usize),
    /// A key is not the one that the store knows by its id.
    #[error("key {0} of the fingerprint key file is not the one of other processes on this store")]
    Other(String),
    /// The contract's descriptors are damaged, which a build cannot be.
    #[error("the contract's descriptors are damaged")]
    Descriptors,
}

/// HMACs by field name.
pub type Fields = BTreeMap<String, [u8; 32]>;

impl Keyring {
    /// Reads `id:hex` lines. Empty lines and lines that begin with `#` are skipped.
    pub fn parse(text: &Secret) -> Result<Self, KeyringError> {
        let mut keys: Vec<(String, [u8; 32])> = Vec::new();
        for (index, line) in text.expose().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = index + 1;
            let (id, digits) = line.split_once(':').ok_or(KeyringError::Line(number))?;
            let mut key = [0; 32];
            hex::decode_to_slice(digits.trim(), &mut key)
                .map_err(|_| KeyringError::Line(number))?;
            if id.is_empty() || id.len() > 64 {
                return Err(KeyringError::Line(number));
            }
            if keys.iter().any(|(known, _)| known == id) {
                return Err(KeyringError::Repeated(number));
            }
            keys.push((id.to_owned(), key));
        }
        if keys.is_empty() {
            return Err(KeyringError::Empty);
        }
        let pool = DescriptorPool::decode(tillwatch_proto::FILE_DESCRIPTOR_SET)
            .map_err(|_| KeyringError::Descriptors)?;
        Ok(Self { keys, pool })
    }

    /// The text of a key file with one new key.
    pub fn new_file(id: &str, key: [u8; 32]) -> Secret {
        Secret::new(format!("{id}:{}\n", hex::encode(key)))
    }

    /// The id of the key that makes new fingerprints.
    pub fn current(&self) -> &str {
        self.keys.first().map_or("", |(id, _)| id)
    }

    /// True if a key with this id is here.
    pub fn has(&self, id: &str) -> bool {
        self.keys.iter().any(|(known, _)| known == id)
    }

    /// The ids of all keys, each with a value by which two keys can be compared that nobody shows.
    pub fn proofs(&self) -> impl Iterator<Item = (&str, [u8; 32])> {
        // No field of an order has this name.
        let keys = self.keys.iter();
        keys.map(|(id, key)| (id.as_str(), hash(key, "proof of a key", &[])))
    }

    /// The fingerprints of an order for an account, made with the key `id`; `None` without it.
    ///
    /// Field names are the order's proto names, with dots if nested; `account` and the order's own
    /// kind count as fields. Fields in `decimals` are the same if they are equal by value.
    pub fn fingerprints(
        &self,
        id: &str,
        account: &str,
        order: &Order,
        decimals: &[&str],
    ) -> Option<Fields> {
        let (_, key) = self.keys.iter().find(|(known, _)| known == id)?;
        let mut texts = BTreeMap::new();
        texts.insert("account".to_owned(), account.as_bytes().to_vec());
        let (kind, message) = self.dynamic(order)?;
        texts.insert(kind, Vec::new());
        walk(&message, "", &mut texts);
        let fields = texts.into_iter().map(|(name, bytes)| {
            let bytes = if decimals.contains(&name.as_str()) {
                by_value(bytes)
            } else {
                bytes
            };
            let hash = hash(key, &name, &bytes);
            (name, hash)
        });
        Some(fields.collect())
    }

    /// The fingerprint of a service and of a client there, made with the key `id`; `None` without it.
    pub fn origin(&self, id: &str, service: &str, client: &[u8]) -> Option<[u8; 32]> {
        let (_, key) = self.keys.iter().find(|(known, _)| known == id)?;
        let service = hash(key, "service", service.trim_end_matches('/').as_bytes());
        // No field of an order has this name.
        Some(hash(key, "origin of a send", &[&service, client].concat()))
    }

    /// True if `fields`, made with the key `id`, has this text in this field.
    pub fn matches(
        &self,
        id: &str,
        fields: &Fields,
        name: &str,
        text: &str,
        decimals: &[&str],
    ) -> bool {
        let Some((_, key)) = self.keys.iter().find(|(known, _)| known == id) else {
            return false;
        };
        let bytes = text.as_bytes().to_vec();
        let bytes = if decimals.contains(&name) {
            by_value(bytes)
        } else {
            bytes
        };
        fields.get(name) == Some(&hash(key, name, &bytes))
    }

    /// The order's message with its descriptor, and the name of its oneof field.
    fn dynamic(&self, order: &Order) -> Option<(String, DynamicMessage)> {
        let request = CreatePurchaseRequest {
            order: Some(order.clone()),
            ..CreatePurchaseRequest::default()
        };
        let descriptor = self
            .pool
            .get_message_by_name("tillwatch.v1.CreatePurchaseRequest")?;
        let bytes = request.encode_to_vec();
        let mut request = DynamicMessage::decode(descriptor, bytes.as_slice()).ok()?;
        let (field, order) = request.take_fields().next()?;
        match order {
            Value::Message(order) => Some((field.name().to_owned(), order)),
            _ => None,
        }
    }
}

/// The names of the fields in which two orders differ, in order.
pub fn differing(left: &Fields, right: &Fields) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differ = |name: &&String| left.get(*name) != right.get(*name);
    names.into_iter().filter(differ).cloned().collect()
}

/// Collects the texts of all set fields below a message. It walks into nested messages of this
/// contract; lists and foreign messages count as one field each.
fn walk(message: &DynamicMessage, prefix: &str, texts: &mut BTreeMap<String, Vec<u8>>) {
    for (field, value) in message.fields() {
        let name = format!("{prefix}{}", field.name());
        match value {
            Value::Message(nested)
                if nested.descriptor().package_name().starts_with("tillwatch") =>
            {
                let before = texts.len();
                walk(nested, &format!("{name}."), texts);
                if texts.len() == before {
                    texts.insert(name, Vec::new());
                }
            }
            Value::String(text) => drop(texts.insert(name, text.as_bytes().to_vec())),
            other => {
                // A message with one field alone has a canonical encoding, since the contract's
                // orders have no maps.
                let mut alone = DynamicMessage::new(message.descriptor());
                alone.set_field(&field, other.clone());
                texts.insert(name, alone.encode_to_vec());
            }
        }
    }
}

/// The canonical text of a decimal number; anything else as it is.
fn by_value(bytes: Vec<u8>) -> Vec<u8> {
    let number = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| Decimal::parse_json(text).ok());
    number.map_or(bytes, |number| number.canonical().into_bytes())
}

/// The HMAC of a field's name and text. The name's length keeps the two apart.
fn hash(key: &[u8; 32], name: &str, bytes: &[u8]) -> [u8; 32] {
    // HMAC pads a key that is shorter than its block with zeros, so this is the same key.
    let mut block = [0; 64];
    for (place, byte) in block.iter_mut().zip(key) {
        *place = *byte;
    }
    let mut state = Hmac::<Sha256>::new(&block.into());
    state.update(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
    state.update(name.as_bytes());
    state.update(bytes);
    state.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
