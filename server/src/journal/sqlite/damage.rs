//! Rows that cannot be read: each troubles the reader that asks for it, and nobody else.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::{Error, Result, Row};

use super::read::id_of;
use crate::purchase::PurchaseId;

/// The most purchases that the log names, once each; further rows are only counted.
const NAMED_MAX: usize = 1_000;

/// The damaged rows met so far. Clones share them.
#[derive(Debug, Default, Clone)]
pub(super) struct Damage(Arc<Tally>);

#[derive(Debug, Default)]
struct Tally {
    times: AtomicU64,
    /// The purchases that the log has named. Each use of the lock is short.
    named: Mutex<BTreeSet<PurchaseId>>,
}

impl Damage {
    /// The number of times that a row was met that cannot be read.
    pub(super) fn times(&self) -> u64 {
        self.0.times.load(Ordering::Relaxed)
    }

    /// Takes note if an answer about a purchase failed because of its own rows.
    pub(super) fn note<T>(&self, purchase: PurchaseId, answer: Result<T>) -> Result<T> {
        if let Err(error) = &answer
            && let Some(column) = column(error)
        {
            self.0.times.fetch_add(1, Ordering::Relaxed);
            let mut named = self.0.named.lock().unwrap_or_else(PoisonError::into_inner);
            if named.len() < NAMED_MAX && named.insert(purchase) {
                // Without the value and the parser's words about it: they can be anybody's data.
                tracing::error!(%purchase, column, "a row of this purchase cannot be read");
            }
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
