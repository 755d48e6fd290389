//! The sends of this process: for each purchase at most one that callers join, under one lock. The record
//! tells of all others, and guards every decision; this only lets calls of one process share an end.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Inner,
    attempt::Conclusion,
    completion::{Completer, Completion, completion},
};
use crate::purchase::PurchaseId;

/// The ends of sends under way, by purchase: callers join one, and wait for its end.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<PurchaseId, Completion<Conclusion>>>);

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<PurchaseId, Completion<Conclusion>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the send that is under way, if there is one.
    pub(super) fn concluding(&self, purchase: PurchaseId) -> Option<Completion<Conclusion>> {
        self.lock().get(&purchase).cloned()
    }

    /// True if this process sends an order of a purchase now, or has to commit its answer.
    pub(super) fn has(&self, purchase: PurchaseId) -> bool {
        self.lock().contains_key(&purchase)
    }
}

/// A send of this process. Its place is left even by a panic: a purchase that stayed there would never
/// be settled, and its callers would wait for ever.
pub(super) struct Sending {
    inner: Arc<Inner>,
    purchase: PurchaseId,
    /// Tells the callers the end. If it is dropped without a word, the send has panicked.
    conclusion: Completer<Conclusion>,
    /// True if something is left to settle.
    is_unclear: bool,
}

impl Sending {
    /// A send begins, with its end to wait for; if one is under way already, only the end of that.
    pub(super) fn begin(
        inner: &Arc<Inner>,
        purchase: PurchaseId,
    ) -> Result<(Self, Completion<Conclusion>), Completion<Conclusion>> {
        let (completer, conclusion) = completion();
        match inner.attempts.lock().entry(purchase) {
            Entry::Vacant(place) => place.insert(conclusion.clone()),
            Entry::Occupied(taken) => return Err(taken.get().clone()),
        };
        let sending = Self {
            inner: Arc::clone(inner),
            purchase,
            conclusion: completer,
            is_unclear: false,
        };
        Ok((sending, conclusion))
    }

    /// Tells the callers how it ended.
    pub(super) fn conclude(&mut self, conclusion: Conclusion) {
        self.conclusion.complete(conclusion);
    }

    /// The outcome is unclear.
    pub(super) fn is_unclear(&mut self) {
        self.is_unclear = true;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let (inner, purchase) = (&self.inner, self.purchase);
        inner.attempts.lock().remove(&purchase);
        if self.is_unclear || std::thread::panicking() {
            inner.deadlines.at(inner.clock.moment(), purchase);
        }
    }
}
