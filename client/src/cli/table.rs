//! Aligned columns of text.

use jiff::Timestamp;
use tillwatch::{
    proto::v1::{Account, Purchase},
    timeline::{columns, instant, padded, plain, short, state_word, words},
};

/// A head and rows; each row has as many cells as the head.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Self { rows: vec![head] }
    }

    fn push(&mut self, cells: &[&str]) {
        self.rows
            .push(cells.iter().map(|cell| plain(cell)).collect());
    }

    /// The lines, without line ends. Each column is as wide as its widest cell.
    pub(crate) fn lines(&self) -> Vec<String> {
        let count = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| columns(cell)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..count).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths);
            let cells = cells.map(|(cell, width)| padded(cell, *width));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

pub(crate) fn purchases(purchases: &[Purchase], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "ID",
        "ACCOUNT",
        "STATE",
        "FINALITY",
        "WORD",
        "REV",
        "AGE",
        "ATTENTION",
        "LABELS",
    ]);
    for purchase in purchases {
        let status = purchase.status.clone().unwrap_or_default();
        let finality = status.finality().as_str_name();
        let word = status
            .provider_status
            .as_ref()
            .map(|word| word.code.as_str());
        let attention = status
            .attention
            .as_ref()
            .map(|attention| attention.reason.as_str());
        let mut labels: Vec<_> = purchase.labels.iter().collect();
        labels.sort();
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        table.push(&[
            &purchase.id,
            &purchase.account,
            &state_word(status.state),
            words(finality, "FINALITY_"),
            word.unwrap_or_default(),
            &status.revision.to_string(),
            &age(purchase, now),
            attention.unwrap_or_default(),
            &labels.join(" "),
        ]);
    }
    table
}

fn age(purchase: &Purchase, now: Timestamp) -> String {
    let created = purchase.create_time.as_ref().and_then(instant);
    let age = created.and_then(|at| std::time::Duration::try_from(now.duration_since(at)).ok());
    age.map(short).unwrap_or_default()
}

pub(crate) fn accounts(accounts: &[Account]) -> Table {
    let mut table = Table::new(&[
        "ACCOUNT",
        "PROVIDER",
        "HEALTH",
        "OPEN",
        "REQUESTS/MIN",
        "NOTE",
    ]);
    for account in accounts {
        let health = account.health().as_str_name();
        let limit = match account.requests_per_minute {
            0 => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        let requests = format!("{} of {limit}", account.requests_last_minute);
        table.push(&[
            &account.name,
            &account.provider,
            words(health, "ACCOUNT_HEALTH_"),
            &account.open_purchases.to_string(),
            &requests,
            &account.note,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use tillwatch::proto::v1::{
        AccountHealth, Attention, Finality, ProviderStatus, PurchaseState, PurchaseStatus,
    };

    use super::*;

    #[test]
    fn purchases_are_aligned() {
        let purchase = Purchase {
            id: "pur_1".to_owned(),
            account: "shop".to_owned(),
            labels: [("b", "2"), ("a", "1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            create_time: Some(prost_types::Timestamp::default()),
            status: Some(PurchaseStatus {
                revision: 12,
                state: PurchaseState::OnHold.into(),
                finality: Finality::Open.into(),
                provider_status: Some(ProviderStatus {
                    code: "2\u{7}".to_owned(),
                    ..ProviderStatus::default()
                }),
                attention: Some(Attention {
                    reason: "STALE".to_owned(),
                    ..Attention::default()
                }),
                ..PurchaseStatus::default()
            }),
            ..Purchase::default()
        };
        let bare = Purchase {
            id: "pur_22".to_owned(),
            ..Purchase::default()
        };
        let now = Timestamp::from_second(3_700).unwrap();
        assert_eq!(
            purchases(&[purchase, bare], now).lines(),
            [
                "ID      ACCOUNT  STATE        FINALITY     WORD  REV  AGE    ATTENTION  LABELS",
                "pur_1   shop     ON_HOLD      OPEN         2\u{fffd}    12   1h01m  STALE      a=1 b=2",
                "pur_22           UNSPECIFIED  UNSPECIFIED        0",
            ]
        );
    }

    #[test]
    fn wide_characters_take_the_columns_that_they_fill() {
        let mut table = Table::new(&["A", "B"]);
        table.push(&["支払い", "x"]);
        table.push(&["abcdef", "🎉"]);
        let expected = ["A       B", "支払い  x", "abcdef  🎉"];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn accounts_are_aligned() {
        let account = Account {
            name: "shop".to_owned(),
            provider: "devdraft".to_owned(),
            health: AccountHealth::Degraded.into(),
            note: "429".to_owned(),
            open_purchases: 3,
            requests_per_minute: 100,
            requests_last_minute: 7,
        };
        let unlimited = Account {
            name: "other".to_owned(),
            ..Account::default()
        };
        assert_eq!(
            accounts(&[account, unlimited]).lines(),
            [
                "ACCOUNT  PROVIDER  HEALTH       OPEN  REQUESTS/MIN    NOTE",
                "shop     devdraft  DEGRADED     3     7 of 100        429",
                "other              UNSPECIFIED  0     0 of unlimited",
            ]
        );
    }
}
