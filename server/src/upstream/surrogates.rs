//! Halves of UTF-16 pairs that JSON escapes alone, such as those of an emoji that was cut in two.
//!
//! The grammar of JSON allows them and JavaScript writes them (RFC 8259, 8.2), but they are no text.

/// The escape of U+FFFD, which takes the place of a half.
const REPLACEMENT: &[u8] = br"\ufffd";
/// An escape's length: `\u` and four digits.
const ESCAPE_BYTES: usize = 6;

/// A JSON text whose lone halves are replaced by U+FFFD; `None` if it has none.
pub(super) fn replaced(json: &[u8]) -> Option<Vec<u8>> {
    let mut mended = Vec::with_capacity(json.len());
    let mut rest = json;
    let mut is_changed = false;
    while let Some((&first, behind)) = rest.split_first() {
        let taken = match (first, unit(rest)) {
            (b'\\', Some(0xd800..=0xdbff)) if is_low(rest.get(ESCAPE_BYTES..)) => 2 * ESCAPE_BYTES,
            (b'\\', Some(0xd800..=0xdfff)) => {
                is_changed = true;
                mended.extend_from_slice(REPLACEMENT);
                rest = rest.get(ESCAPE_BYTES..).unwrap_or_default();
                continue;
            }
            // An escaped character begins no escape of its own.
            (b'\\', _) if !behind.is_empty() => 2,
            _ => 1,
        };
        let (done, left) = rest.split_at_checked(taken).unwrap_or((rest, &[]));
        mended.extend_from_slice(done);
        rest = left;
    }
    is_changed.then_some(mended)
}

/// The UTF-16 unit that the text begins with as an escape.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    let is_hexadecimal = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_hexadecimal)?;
    u16::from_str_radix(digits, 16).ok()
}

fn is_low(text: Option<&[u8]>) -> bool {
    matches!(text.and_then(unit), Some(0xdc00..=0xdfff))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_lone_half_becomes_a_replacement_character() {
        let table = [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\uDE00 b""#, "\u{fffd} b"),
            (r#""a\ud83d\n""#, "a\u{fffd}\n"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
        ];
        for (json, expected) in table {
            let mended = replaced(json.as_bytes()).unwrap_or_else(|| panic!("{json} is left"));
            let text: String = serde_json::from_slice(&mended).unwrap();
            assert_eq!(text, expected, "{json}");
        }
        for whole in [
            r#""\ud83d\ude00""#,
            r#""\\ud83d""#,
            r#""\ud83""#,
            r"\",
            "{}",
            "",
        ] {
            assert_eq!(replaced(whole.as_bytes()), None, "{whole}");
        }
    }

    proptest! {
        /// A text that JavaScript wrote, with whole pairs or not, is read as any other reader of UTF-16
        /// reads it: with U+FFFD for each half.
        #[test]
        fn any_utf_16_can_be_read(units in prop::collection::vec(any::<u16>(), 0..40)) {
            let escaped: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let json = format!("[\"{escaped}\"]").into_bytes();
            let mended = replaced(&json).unwrap_or(json);
            let value: Value = serde_json::from_slice(&mended).unwrap();
            prop_assert_eq!(value[0].as_str().unwrap(), String::from_utf16_lossy(&units));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(mended) = replaced(&bytes) {
                prop_assert_eq!(replaced(&mended), None);
            }
        }
    }
}
