//! Rows that cannot be read: each is the trouble of whoever asks for it, and of nobody else.

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

/// Purchases that are named in the log, once each; what is met beyond is only counted.
const NAMED_MAX: usize = 1_000;

/// What was met so far. Clones share it.
#[derive(Debug, Default, Clone)]
pub(super) struct Damage(Arc<Met>);

#[derive(Debug, Default)]
struct Met {
    times: AtomicU64,
    /// Guarded: each use is short.
    named: Mutex<BTreeSet<PurchaseId>>,
}

impl Damage {
    /// How often a row was met that cannot be read.
    pub(super) fn times(&self) -> u64 {
        self.0.times.load(Ordering::Relaxed)
    }

    /// Takes note where an answer about a purchase failed for its own rows.
    pub(super) fn note<T>(&self, purchase: PurchaseId, answer: Result<T>) -> Result<T> {
        if let Err(error) = &answer
            && let Some(column) = column(error)
        {
            self.0.times.fetch_add(1, Ordering::Relaxed);
            let mut named = self.0.named.lock().unwrap_or_else(PoisonError::into_inner);
            if named.len() < NAMED_MAX && named.insert(purchase) {
                // Neither the value nor the parser's words about it: they can be anybody's data.
                tracing::error!(%purchase, column, "a row of this purchase cannot be read");
            }
        }
        answer
    }

    /// As [`Damage::note`], where the row's first column is the purchase's id.
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

    /// As [`Damage::of_row`], for a reader of many rows, who goes on without this one: `None`.
    pub(super) fn skips<T>(
        &self,
        row: &Row<'_>,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(apart(self.of_row(row, read))?.ok())
    }
}

/// Parts an answer that failed for its own rows from a store that failed.
pub(super) fn apart<T>(answer: Result<T>) -> Result<Result<T>> {
    match answer {
        Err(error) if column(&error).is_none() => Err(error),
        answer => Ok(answer),
    }
}

/// The column whose value is no value of this build; `None` where the store itself failed.
pub(super) fn column(error: &Error) -> Option<usize> {
    match error {
        Error::FromSqlConversionFailure(column, ..)
        | Error::IntegralValueOutOfRange(column, ..)
        | Error::InvalidColumnType(column, ..)
        | Error::Utf8Error(column, ..) => Some(*column),
        _ => None,
    }
}
