//! An account as its owner knows it, and the text by which the others read it.

use serde::{Deserialize, Serialize};

use crate::journal::SNAPSHOT_BYTES_MAX;

/// The longest note that is shown to others, in characters. Each takes six bytes of the text at most.
const NOTE_MAX: usize = 1_000;
const _: () = assert!(6 * NOTE_MAX < SNAPSHOT_BYTES_MAX - 1_000);

/// An account as its callers may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Its health.
    pub health: AccountHealth,
    /// The reasons, in words, why its news are late; empty if there are none.
    pub note: String,
    /// The number of its open purchases.
    pub open_purchases: u32,
    /// The requests that it may make in a minute; 0 for any number.
    pub requests_per_minute: u32,
    /// The requests that its owner made in the last minute.
    pub requests_last_minute: u32,
}

/// The health of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountHealth {
    /// Requests are answered.
    Ok,
    /// They are not, or not in time.
    Degraded,
    /// The provider refuses its credentials.
    Unauthorized,
}

impl AccountView {
    /// Its text, within the bound of a snapshot.
    pub(super) fn text(&self) -> String {
        let note = self.note.chars().take(NOTE_MAX).collect();
        let view = Self {
            note,
            ..self.clone()
        };
        serde_json::to_string(&view).unwrap_or_default()
    }

    /// The view of a text. Fields that this build does not know are left out.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_read_back_and_its_text_has_a_bound() {
        let view = AccountView {
            health: AccountHealth::Degraded,
            note: "the breaker is open".to_owned(),
            open_purchases: 3,
            requests_per_minute: 60,
            requests_last_minute: 50,
        };
        assert_eq!(AccountView::of_text(&view.text()), Some(view.clone()));
        let newer = view.text().replace('{', "{\"unknown\":1,");
        assert_eq!(AccountView::of_text(&newer), Some(view.clone()));
        assert_eq!(AccountView::of_text("{}"), None);
        let long = AccountView {
            note: "\u{1}".repeat(10_000),
            ..view
        };
        assert!(long.text().len() <= SNAPSHOT_BYTES_MAX);
        assert!(AccountView::of_text(&long.text()).is_some());
    }
}
