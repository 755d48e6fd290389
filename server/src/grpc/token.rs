//! Page and resume tokens: opaque texts that are valid for one store and one caller.

use std::hash::{Hash as _, Hasher};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    journal::{Filter, Position},
    purchase::{PurchaseId, Timestamp},
};

/// The longest token that is read, in bytes.
const TOKEN_BYTES_MAX: usize = 512;
/// Bytes of the checksum that binds a token to its store, caller and kind.
const CHECKSUM_BYTES: usize = 12;
/// Bytes by which a token tells its store from another.
const STORE_BYTES: usize = 6;

/// The store and the caller that tokens belong to.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The store's epoch.
    pub epoch: &'a str,
    /// The caller's name.
    pub caller: &'a str,
}

/// The place from which a list goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageCursor {
    /// The last purchase of the page before.
    created_ms: i64,
    id: u128,
    /// The position before the first page was read.
    position: u64,
    /// A digest of the filter: a page of another list is foreign.
    filter: u64,
}

impl PageCursor {
    /// The page after this purchase.
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

    /// True if it belongs to a list with this filter.
    pub fn is_of(&self, filter: &Filter) -> bool {
        self.filter == digest(filter)
    }
}

/// A digest of a filter's values. It depends on the order of the filter's fields, and not on their
/// names.
fn digest(filter: &Filter) -> u64 {
    let mut digest = Digest::default();
    filter.hash(&mut digest);
    digest.finish()
}

/// A hash that is the same in every build for one kind of machine, since tokens outlive a process.
#[derive(Default)]
struct Digest(Sha256);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.clone().finalize();
        let first = hash.iter().take(8);
        first.fold(0, |digest, byte| digest << 8 | u64::from(*byte))
    }
}

/// A page token.
pub fn page(binding: Binding<'_>, page: &PageCursor) -> String {
    encode("page", binding, page)
}

/// The reason why a text is no token of this store and caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It was this caller's at another store, which this one has replaced.
    OtherStore,
    /// It is damaged, of another kind, or another caller's.
    Foreign,
}

/// The page of a token; `None` for any text that is no such token of this store and caller.
pub fn read_page(binding: Binding<'_>, token: &str) -> Option<PageCursor> {
    decode("page", binding, token).ok()
}

/// A resume token.
pub fn resume(binding: Binding<'_>, position: Position) -> String {
    encode("resume", binding, &position.0)
}

/// The position of a resume token.
///
/// # Errors
/// The text is no token of this store and caller.
pub fn read_resume(binding: Binding<'_>, token: &str) -> Result<Position, Unusable> {
    decode("resume", binding, token).map(Position)
}

/// The first bytes of a hash over parts of any length.
fn hash<const PARTS: usize>(parts: [&[u8]; PARTS], bytes: usize) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(bytes).copied().collect()
}

fn store(binding: Binding<'_>) -> Vec<u8> {
    hash([b"store", binding.epoch.as_bytes()], STORE_BYTES)
}

/// The checksum of the bytes after it. It covers the caller and not the store, so that a token of
/// another store can be told from a damaged one.
fn checksum(kind: &str, binding: Binding<'_>, rest: &[u8]) -> Vec<u8> {
    let parts = [kind.as_bytes(), binding.caller.as_bytes(), rest];
    hash(parts, CHECKSUM_BYTES)
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
    let mut rest = store(binding);
    rest.extend(body);
    let mut bytes = checksum(kind, binding, &rest);
    bytes.extend(rest);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decode<T: DeserializeOwned>(
    kind: &str,
    binding: Binding<'_>,
    token: &str,
) -> Result<T, Unusable> {
    let (store_of_token, body) = open(kind, binding, token).ok_or(Unusable::Foreign)?;
    if store_of_token != store(binding) {
        return Err(Unusable::OtherStore);
    }
    serde_json::from_slice(&body).map_err(|_| Unusable::Foreign)
}

/// The store and the body of this caller's token.
fn open(kind: &str, binding: Binding<'_>, token: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (sum, rest) = bytes.split_at_checked(CHECKSUM_BYTES)?;
    let (store, body) = rest.split_at_checked(STORE_BYTES)?;
    let is_whole = checksum(kind, binding, rest) == sum;
    is_whole.then(|| (store.to_vec(), body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Binding<'_> = Binding {
        epoch: "e1",
        caller: "shop",
    };

    /// Tokens are valid as long as this number stays: it may change only with the values of the filter.
    #[test]
    fn a_page_token_depends_on_what_a_filter_asks_and_on_no_name() {
        let filter = Filter {
            accounts: vec!["shop".to_owned()],
            labels: [("key".to_owned(), "value".to_owned())].into(),
            needs_attention: true,
            ..Filter::default()
        };
        assert_eq!(digest(&filter), 8_833_255_959_235_895_937);
        let others = [
            Filter {
                accounts: Vec::new(),
                providers: vec!["shop".to_owned()],
                ..filter.clone()
            },
            Filter {
                labels: [("keyv".to_owned(), "alue".to_owned())].into(),
                ..filter.clone()
            },
            Filter::default(),
        ];
        for other in others {
            assert_ne!(digest(&other), digest(&filter), "{other:?}");
        }
    }

    #[test]
    fn tokens_are_good_for_one_store_one_caller_and_one_kind() {
        let token = resume(OURS, Position(7));
        assert_eq!(read_resume(OURS, &token), Ok(Position(7)));
        assert_eq!(
            read_resume(
                Binding {
                    epoch: "e2",
                    ..OURS
                },
                &token
            ),
            Err(Unusable::OtherStore)
        );
        assert_eq!(
            read_resume(
                Binding {
                    caller: "other",
                    ..OURS
                },
                &token
            ),
            Err(Unusable::Foreign)
        );
        let theirs = Binding {
            epoch: "e2",
            caller: "other",
        };
        assert_eq!(read_resume(theirs, &token), Err(Unusable::Foreign));
        assert_eq!(read_page(OURS, &token), None);
        for damaged in [
            "",
            "x",
            "====",
            &token[1..],
            &format!("{token}A"),
            &"A".repeat(9_999),
        ] {
            let read = read_resume(OURS, damaged);
            assert_eq!(read, Err(Unusable::Foreign), "{damaged}");
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
        let first = PageCursor::after(last, Position(9), &filter);
        let read = read_page(OURS, &page(OURS, &first)).unwrap();
        assert_eq!(read, first);
        assert_eq!((read.last(), read.position()), (Some(last), Position(9)));
        assert!(read.is_of(&filter) && !read.is_of(&Filter::default()));
    }
}
