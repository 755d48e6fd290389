//! Rows to values.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;

use crate::{
    journal::{
        Attempt, AttemptId, Committed, Fingerprints, JournalError, Position, Record,
        damage::Damage, encoding,
    },
    purchase::{
        AccountName, CallerName, Cause, Purchase, PurchaseId, Reference, State, Status, Timestamp,
        Transition,
    },
};

/// The columns that [`purchase`] reads, before a status.
macro_rules! purchase_columns {
    () => {
        "p.id, p.account, p.provider, p.caller, p.key, p.labels, p.create_time"
    };
}
pub(super) use purchase_columns;

/// The column whose value this build does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unread(pub(super) usize);

pub(super) type Read<T> = Result<T, Unread>;

impl From<Unread> for JournalError {
    fn from(Unread(column): Unread) -> Self {
        Self::Unreadable(column)
    }
}

impl Damage {
    /// Takes note if an answer about a purchase failed because of its own rows.
    pub(super) fn noted<T>(&self, purchase: PurchaseId, answer: Read<T>) -> Read<T> {
        if let Err(Unread(column)) = answer {
            self.met(purchase, column);
        }
        answer
    }

    /// Like [`Damage::noted`], for a row whose first column is the purchase's id.
    pub(super) fn noted_of<T>(&self, row: &Row, read: impl FnOnce(&Row) -> Read<T>) -> Read<T> {
        let answer = read(row);
        match id(row, 0) {
            Ok(purchase) => self.noted(purchase, answer),
            Err(_) => answer,
        }
    }
}

/// A value of a type that its column has.
pub(super) fn get<'row, T: FromSql<'row>>(row: &'row Row, index: usize) -> Read<T> {
    row.try_get(index).map_err(|_| Unread(index))
}

/// A purchase's id as a column has it.
pub(super) fn uuid_of(id: PurchaseId) -> Uuid {
    Uuid::from_u128(id.as_u128())
}

pub(super) fn id(row: &Row, index: usize) -> Read<PurchaseId> {
    get::<Uuid>(row, index).map(PurchaseId::from_uuid)
}

/// A count or position as a column has it.
pub(super) fn integer(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A revision or count as a smaller column has it.
pub(super) fn small(number: u32) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// A reference as rows compare it: some references are longer than an index takes.
pub(super) fn digest(reference: &Reference) -> Vec<u8> {
    Sha256::digest(reference.canonical()).to_vec()
}

/// A label's key or value as rows compare it: no text of the server's can hold U+0000.
pub(super) fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\0', "\\0")
}

/// A purchase whose columns are the row's first seven.
pub(super) fn purchase(row: &Row, status: Status) -> Read<Purchase> {
    Ok(Purchase {
        id: id(row, 0)?,
        account: AccountName::new(get(row, 1)?),
        provider: Arc::from(get::<&str>(row, 2)?),
        caller: CallerName::new(get(row, 3)?),
        idempotency_key: Arc::from(get::<&str>(row, 4)?),
        labels: Arc::new(json(row, 5)?),
        create_time: timestamp(row, 6)?,
        status: Arc::new(status),
    })
}

/// A record whose columns are the row's first eighteen.
pub(super) fn record(row: &Row) -> Read<Record> {
    let mut status: Status = json(row, 7)?;
    status.buyer_action = optional_json(row, 8)?;
    let submit_until = optional_timestamp(row, 12)?;
    let by: Option<Uuid> = get(row, 13)?;
    let by = by.map(|by| AttemptId(by.as_u128()));
    Ok(Record {
        purchase: purchase(row, status)?,
        fingerprints: Fingerprints {
            key_id: get(row, 9)?,
            fields: encoding::unpacked(get(row, 10)?).ok_or(Unread(10))?,
        },
        recovery: json(row, 11)?,
        attempt: (by.zip(submit_until)).map(|(by, submit_until)| Attempt { by, submit_until }),
        first_send_time: optional_timestamp(row, 14)?,
        sends: u32::try_from(get::<i32>(row, 15)?).map_err(|_| Unread(15))?,
        change_time: timestamp(row, 16)?,
        resolution_note: get(row, 17)?,
    })
}

/// A transition whose columns follow the purchase's id.
pub(super) fn transition(row: &Row) -> Read<Transition> {
    let mut status: Status = json(row, 1)?;
    status.buyer_action = optional_json(row, 2)?;
    Ok(Transition {
        from_state: optional_word(row, 3, State::from_text)?,
        status,
        cause: word(row, 4, Cause::from_text)?,
    })
}

pub(super) fn committed(row: &Row) -> Read<Committed> {
    let status = json(row, 7)?;
    Ok(Committed {
        position: position(row, 8)?,
        purchase: purchase(row, status)?,
        from_state: optional_word(row, 9, State::from_text)?,
        cause: word(row, 10, Cause::from_text)?,
    })
}

/// The same, with the buyer action in a further column.
pub(super) fn logged(row: &Row) -> Read<Committed> {
    let mut committed = committed(row)?;
    if let Some(action) = optional_json(row, 11)? {
        Arc::make_mut(&mut committed.purchase.status).buyer_action = Some(action);
    }
    Ok(committed)
}

pub(super) fn position(row: &Row, index: usize) -> Read<Position> {
    let position = u64::try_from(get::<i64>(row, index)?);
    position.map(Position).map_err(|_| Unread(index))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row, index: usize) -> Read<T> {
    serde_json::from_str(get(row, index)?).map_err(|_| Unread(index))
}

fn optional_json<T: DeserializeOwned>(row: &Row, index: usize) -> Read<Option<T>> {
    let text: Option<&str> = get(row, index)?;
    let value = text.map(serde_json::from_str).transpose();
    value.map_err(|_| Unread(index))
}

pub(super) fn timestamp(row: &Row, index: usize) -> Read<Timestamp> {
    Timestamp::from_millis(get(row, index)?).map_err(|_| Unread(index))
}

fn optional_timestamp(row: &Row, index: usize) -> Read<Option<Timestamp>> {
    let millis: Option<i64> = get(row, index)?;
    let time = millis.map(Timestamp::from_millis).transpose();
    time.map_err(|_| Unread(index))
}

/// A word of one of the closed lists.
fn word<T>(row: &Row, index: usize, read: fn(&str) -> Option<T>) -> Read<T> {
    read(get(row, index)?).ok_or(Unread(index))
}

fn optional_word<T>(row: &Row, index: usize, read: fn(&str) -> Option<T>) -> Read<Option<T>> {
    let text: Option<&str> = get(row, index)?;
    let word = text.map(|text| read(text).ok_or(Unread(index)));
    word.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_differ_are_texts_that_differ_and_none_holds_a_nul() {
        let table = ["", "a", "\0", "\\0", "\\", "\\\0", "\0\\", "\\\\0"];
        let texts: std::collections::BTreeSet<String> = table.map(label).into();
        assert_eq!(texts.len(), table.len());
        assert!(texts.iter().all(|text| !text.contains('\0')));
    }
}
