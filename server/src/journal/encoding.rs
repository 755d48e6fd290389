//! Values as the stores on disk keep them.

use std::collections::BTreeMap;

use super::Fingerprints;
use crate::purchase::Status;

/// A status's text and its buyer action's. They lie apart, so that wiping an action rewrites no status.
pub(super) fn status_texts(status: &mut Status) -> serde_json::Result<(String, Option<String>)> {
    let action = status.buyer_action.take();
    let text = serde_json::to_string(status);
    let action_text = action.as_ref().map(serde_json::to_string).transpose();
    status.buyer_action = action;
    Ok((text?, action_text?))
}

/// The fingerprints' fields in one column: the length of the name in two bytes, the name, the HMAC.
pub(super) fn packed(fingerprints: &Fingerprints) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, mac) in &fingerprints.fields {
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        packed.extend(length.to_be_bytes());
        packed.extend(name.as_bytes().iter().take(usize::from(length)));
        packed.extend(mac);
    }
    packed
}

/// The fields that were packed; `None` if they were not.
pub(super) fn unpacked(mut packed: &[u8]) -> Option<BTreeMap<String, [u8; 32]>> {
    let mut fields = BTreeMap::new();
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (mac, rest) = rest.split_first_chunk::<32>()?;
        fields.insert(std::str::from_utf8(name).ok()?.to_owned(), *mac);
        packed = rest;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_packed_and_unpacked_and_nothing_else_is_unpacked() {
        let fields = BTreeMap::from([
            ("amount".to_owned(), [7; 32]),
            ("devdraft.é".to_owned(), [9; 32]),
        ]);
        let fingerprints = Fingerprints {
            key_id: "k".to_owned(),
            fields: fields.clone(),
        };
        let whole = packed(&fingerprints);
        assert_eq!(unpacked(&whole), Some(fields));
        assert_eq!(unpacked(&[]), Some(BTreeMap::new()));
        for length in 1..whole.len() {
            let cut = unpacked(&whole[..length]);
            // The end of the first field is the one good place to cut.
            assert_eq!(cut.is_some(), length == 2 + 6 + 32, "{length}");
        }
    }
}
