//! A provider's name for an order, in a shape that is not known here.

/// The longest id that is kept, in characters.
const CHARACTERS_MAX: usize = 200;
/// The signs that could lead elsewhere in a request's path.
const PATH_SIGNS: &[u8] = br"/?#%\";

/// The id in the answer to an accepted create, if it has none of its provider's known shapes. A person
/// who looks at the provider finds the order by it, so it is worth more than the rest of the answer.
///
/// It is whole, as the provider wrote it: [`UnreadId::kept`] and [`UnreadId::shown`] are its safe forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadId(String);

impl UnreadId {
    /// An id as the provider wrote it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The whole id, if it can be kept and used in a request: see [`UnreadId::has_shape`].
    pub fn kept(&self) -> Option<&str> {
        Self::has_shape(&self.0).then_some(self.0.as_str())
    }

    /// The id for a log line: cut, and in printable ASCII only.
    pub fn shown(&self) -> String {
        let shown: String = self.0.escape_default().take(CHARACTERS_MAX).collect();
        shown
    }

    /// True if a text can be kept as such an id, and stand for a reference of its provider: 1 to 200
    /// visible ASCII characters, none of which leads elsewhere in a path.
    pub fn has_shape(text: &str) -> bool {
        let fits = |byte: u8| byte.is_ascii_graphic() && !PATH_SIGNS.contains(&byte);
        (1..=CHARACTERS_MAX).contains(&text.len())
            && text.bytes().all(fits)
            && !matches!(text, "." | "..")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_an_unknown_shape_is_kept_whole_or_only_shown() {
        let long = "x".repeat(CHARACTERS_MAX);
        let table = [
            ("01J8ZK3V9QW4RX5T6Y7U8I9O0P", true),
            ("12345", true),
            ("ORD:2026+11|a=b;c~\"<>", true),
            (&long, true),
            (&format!("{long}x"), false),
            ("", false),
            (".", false),
            ("..", false),
            ("...", true),
            ("a/b", false),
            ("a?b", false),
            ("a#b", false),
            ("a%2fb", false),
            (r"a\b", false),
            ("a b", false),
            ("a\n", false),
            ("é", false),
        ];
        for (text, expected) in table {
            let id = UnreadId::new(text);
            assert_eq!(id.kept(), expected.then_some(text), "{text:?}");
        }
        assert_eq!(
            UnreadId::new("a\nb\u{202e}é").shown(),
            r"a\nb\u{202e}\u{e9}"
        );
        assert_eq!(
            UnreadId::new("x".repeat(1 << 20)).shown().len(),
            CHARACTERS_MAX
        );
    }
}
