//! SQLite's rows that cannot be read.

use rusqlite::{Error, Result, Row};

use super::read::id_of;
use crate::{journal::damage::Damage, purchase::PurchaseId};

impl Damage {
    /// Takes note if an answer about a purchase failed because of its own rows.
    pub(super) fn note<T>(&self, purchase: PurchaseId, answer: Result<T>) -> Result<T> {
        if let Err(error) = &answer
            && let Some(column) = column(error)
        {
            self.met(purchase, column);
        }
        answer
    }

    /// Like [`Damage::note`], for a row whose first column is the purchase's id.
    pub(super) fn of_row<T>(
        &self,
        row: &Row<'_>,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        let answer = read(row);
        match row.get(0).map(id_of) {
            Ok(purchase) => self.note(purchase, answer),
            Err(_) => answer,
        }
    }

    /// Like [`Damage::of_row`], for a reader of many rows, which goes on without this one: `None`.
    pub(super) fn skips<T>(
        &self,
        row: &Row<'_>,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(apart(self.of_row(row, read))?.ok())
    }
}

/// Separates an answer that failed because of its own rows from a store that failed.
pub(super) fn apart<T>(answer: Result<T>) -> Result<Result<T>> {
    match answer {
        Err(error) if column(&error).is_none() => Err(error),
        answer => Ok(answer),
    }
}

/// The column whose value this build does not know; `None` if the store itself failed.
pub(super) fn column(error: &Error) -> Option<usize> {
    match error {
        Error::FromSqlConversionFailure(column, ..)
        | Error::IntegralValueOutOfRange(column, ..)
        | Error::InvalidColumnType(column, ..)
        | Error::Utf8Error(column, ..) => Some(*column),
        _ => None,
    }
}
