//! The work of this process on submits: at most one piece for each purchase, under one lock.

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

/// The work of this process on one submit.
#[derive(Debug)]
enum Work {
    /// It sends; callers join it and wait for its end.
    Sending(Completion<Conclusion>),
    /// It repeats an unclear send by itself; nobody waits for that.
    Repeating,
    /// It writes a decision; callers wait, and look again.
    Deciding(Completion<Conclusion>),
}

/// The pieces of work, by purchase.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<PurchaseId, Work>>);

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<PurchaseId, Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the send or the decision that is under way, if there is one.
    pub(super) fn concluding(&self, purchase: PurchaseId) -> Option<Completion<Conclusion>> {
        match self.lock().get(&purchase)? {
            Work::Sending(conclusion) | Work::Deciding(conclusion) => Some(conclusion.clone()),
            Work::Repeating => None,
        }
    }

    /// True if this process sends, repeats or decides something of a purchase now.
    pub(super) fn has(&self, purchase: PurchaseId) -> bool {
        self.lock().contains_key(&purchase)
    }

    /// True if this process repeats a send by itself.
    pub(super) fn repeats(&self, purchase: PurchaseId) -> bool {
        matches!(self.lock().get(&purchase), Some(Work::Repeating))
    }

    /// Takes the place of a purchase. If it is taken, the end of the work that has it.
    fn take(
        &self,
        purchase: PurchaseId,
        work: impl FnOnce(Completion<Conclusion>) -> Work,
    ) -> Result<(Completer<Conclusion>, Completion<Conclusion>), Completion<Conclusion>> {
        let (mut completer, conclusion) = completion();
        match self.lock().entry(purchase) {
            Entry::Vacant(place) => {
                place.insert(work(conclusion.clone()));
                Ok((completer, conclusion))
            }
            Entry::Occupied(taken) => Err(match taken.get() {
                Work::Sending(other) | Work::Deciding(other) => other.clone(),
                Work::Repeating => {
                    // Nobody waits for it: the caller looks again.
                    completer.complete(Conclusion::Elsewhere);
                    conclusion
                }
            }),
        }
    }

    fn leave(&self, purchase: PurchaseId) {
        self.lock().remove(&purchase);
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
        let (completer, conclusion) = inner.attempts.take(purchase, Work::Sending)?;
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

    /// The outcome is unclear: this process repeats it by itself, and nobody joins it any more.
    pub(super) fn repeat(&mut self) {
        self.is_unclear = true;
        let mut attempts = self.inner.attempts.lock();
        attempts.insert(self.purchase, Work::Repeating);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let (inner, purchase) = (&self.inner, self.purchase);
        inner.attempts.leave(purchase);
        if self.is_unclear || std::thread::panicking() {
            inner.deadlines.at(inner.clock.moment(), purchase);
        }
    }
}

/// A decision that is being written: nobody sends meanwhile.
pub(super) struct Deciding<'a> {
    attempts: &'a Attempts,
    purchase: PurchaseId,
    conclusion: Completer<Conclusion>,
}

impl<'a> Deciding<'a> {
    /// `None` if this process sends, repeats or decides something of the purchase already.
    pub(super) fn begin(attempts: &'a Attempts, purchase: PurchaseId) -> Option<Self> {
        let (conclusion, _) = attempts.take(purchase, Work::Deciding).ok()?;
        Some(Self {
            attempts,
            purchase,
            conclusion,
        })
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.attempts.leave(self.purchase);
        self.conclusion.complete(Conclusion::Elsewhere);
    }
}
