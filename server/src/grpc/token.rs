//! Page and resume tokens: opaque texts that are good for one store and one caller.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    journal::{Filter, Position},
    purchase::{PurchaseId, Timestamp},
};

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 512;
/// Bytes of the checksum that binds a token to its store, caller and kind.
const CHECKSUM_BYTES: usize = 12;

/// Whose tokens they are.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The store's epoch.
    pub epoch: &'a str,
    /// The caller's name.
    pub caller: &'a str,
}

/// Where a list goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The last purchase of the page before.
    created_ms: i64,
    id: u128,
    /// The position before the first page was read.
    position: u64,
    /// A digest of the filter: a page of another list is foreign.
    filter: u64,
}

impl Page {
    /// After this purchase.
    pub fn after(last: (Timestamp, PurchaseId), position: Position, filter: &Filter) -> Self {
        Self {
            created_ms: last.0.as_millis(),
            id: last.1.as_u128(),
            position: position.0,
            filter: digest(filter),
        }
    }

    /// The last purchase of the page before.
    pub fn last(&self) -> Option<(Timestamp, PurchaseId)> {
        let created = Timestamp::from_millis(self.created_ms).ok()?;
        Some((created, PurchaseId::from_u128(self.id)))
    }

    /// The position before the first page was read.
    pub fn position(&self) -> Position {
        Position(self.position)
    }

    /// Whether it belongs to a list with this filter.
    pub fn is_of(&self, filter: &Filter) -> bool {
        self.filter == digest(filter)
    }
}

fn digest(filter: &Filter) -> u64 {
    let hash = Sha256::digest(format!("{filter:?}"));
    hash.iter()
        .take(8)
        .fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}

/// A page token.
pub fn page(binding: Binding<'_>, page: &Page) -> String {
    encode("page", binding, page)
}

/// The page of a token; `None` for any text that is no such token of this store and caller.
pub fn read_page(binding: Binding<'_>, token: &str) -> Option<Page> {
    decode("page", binding, token)
}

/// A resume token.
pub fn resume(binding: Binding<'_>, position: Position) -> String {
    encode("resume", binding, &position.0)
}

/// The position of a resume token; `None` for any text that is none of this store and caller.
pub fn read_resume(binding: Binding<'_>, token: &str) -> Option<Position> {
    decode("resume", binding, token).map(Position)
}

fn checksum(kind: &str, binding: Binding<'_>, body: &[u8]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for part in [
        kind.as_bytes(),
        binding.epoch.as_bytes(),
        binding.caller.as_bytes(),
        body,
    ] {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
    hasher
        .finalize()
        .iter()
        .take(CHECKSUM_BYTES)
        .copied()
        .collect()
}

fn encode(kind: &str, binding: Binding<'_>, value: &impl Serialize) -> String {
    seal(
        kind,
        binding,
        &serde_json::to_vec(value).unwrap_or_default(),
    )
}

/// A token with this body.
pub(super) fn seal(kind: &str, binding: Binding<'_>, body: &[u8]) -> String {
    let mut bytes = checksum(kind, binding, body);
    bytes.extend(body);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decode<T: DeserializeOwned>(kind: &str, binding: Binding<'_>, token: &str) -> Option<T> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (sum, body) = bytes.split_at_checked(CHECKSUM_BYTES)?;
    if checksum(kind, binding, body) != sum {
        return None;
    }
    serde_json::from_slice(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Binding<'_> = Binding {
        epoch: "e1",
        caller: "shop",
    };

    #[test]
    fn tokens_are_good_for_one_store_one_caller_and_one_kind() {
        let token = resume(OURS, Position(7));
        assert_eq!(read_resume(OURS, &token), Some(Position(7)));
        assert_eq!(
            read_resume(
                Binding {
                    epoch: "e2",
                    ..OURS
                },
                &token
            ),
            None
        );
        assert_eq!(
            read_resume(
                Binding {
                    caller: "other",
                    ..OURS
                },
                &token
            ),
            None
        );
        assert_eq!(read_page(OURS, &token), None);
        for damaged in [
            "",
            "x",
            "====",
            &token[1..],
            &format!("{token}A"),
            &"A".repeat(9_999),
        ] {
            assert_eq!(read_resume(OURS, damaged), None, "{damaged}");
        }
    }

    #[test]
    fn a_page_belongs_to_its_filter() {
        let filter = Filter {
            needs_attention: true,
            ..Filter::default()
        };
        let last = (
            Timestamp::from_millis(5).unwrap(),
            PurchaseId::from_u128(u128::MAX),
        );
        let first = Page::after(last, Position(9), &filter);
        let read = read_page(OURS, &page(OURS, &first)).unwrap();
        assert_eq!(read, first);
        assert_eq!((read.last(), read.position()), (Some(last), Position(9)));
        assert!(read.is_of(&filter) && !read.is_of(&Filter::default()));
    }
}
