//! The work of this process on submits: at most one piece for each purchase, under one lock.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Inner,
    attempt::{Ended, Ending},
    telling::{Teller, telling},
};
use crate::purchase::PurchaseId;

/// The work of this process on one submit.
#[derive(Debug)]
enum Work {
    /// It sends; callers join it and wait for its end.
    Sending(Ending),
    /// It repeats an unclear send by itself; nobody waits for that.
    Repeating,
    /// It writes a decision; callers wait, and look again.
    Deciding(Ending),
}

/// The pieces of work, by purchase.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<PurchaseId, Work>>);

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<PurchaseId, Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place to wait for the end of the send or the decision that is under way, if there is one.
    pub(super) fn ending(&self, purchase: PurchaseId) -> Option<Ending> {
        match self.lock().get(&purchase)? {
            Work::Sending(ended) | Work::Deciding(ended) => Some(ended.clone()),
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

    /// Takes the place of a purchase; if it is taken, where to wait for the end of that.
    fn take(
        &self,
        purchase: PurchaseId,
        work: impl FnOnce(Ending) -> Work,
    ) -> Result<(Teller<Ended>, Ending), Ending> {
        let (mut teller, ended) = telling();
        match self.lock().entry(purchase) {
            Entry::Vacant(place) => {
                place.insert(work(ended.clone()));
                Ok((teller, ended))
            }
            Entry::Occupied(taken) => Err(match taken.get() {
                Work::Sending(ended) | Work::Deciding(ended) => ended.clone(),
                Work::Repeating => {
                    // Nobody waits for it: whoever came looks again.
                    teller.tell(Ended::Elsewhere);
                    ended
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
    /// Tells the callers the end; if it is dropped without a word, the send has panicked.
    ended: Teller<Ended>,
    /// True if something is left to settle.
    is_unclear: bool,
}

impl Sending {
    /// A send begins, with where to wait for its end; if one is under way already, only that.
    pub(super) fn begin(
        inner: &Arc<Inner>,
        purchase: PurchaseId,
    ) -> Result<(Self, Ending), Ending> {
        let (teller, ended) = inner.attempts.take(purchase, Work::Sending)?;
        let sending = Self {
            inner: Arc::clone(inner),
            purchase,
            ended: teller,
            is_unclear: false,
        };
        Ok((sending, ended))
    }

    /// Tells the callers how it ended.
    pub(super) fn tell(&mut self, ended: Ended) {
        self.ended.tell(ended);
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
    ended: Teller<Ended>,
}

impl<'a> Deciding<'a> {
    /// Nothing if this process sends, repeats or decides something of the purchase already.
    pub(super) fn begin(attempts: &'a Attempts, purchase: PurchaseId) -> Option<Self> {
        let (ended, _) = attempts.take(purchase, Work::Deciding).ok()?;
        Some(Self {
            attempts,
            purchase,
            ended,
        })
    }
}

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.attempts.leave(self.purchase);
        self.ended.tell(Ended::Elsewhere);
    }
}
