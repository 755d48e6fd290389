//! The open purchases of each caller, if a caller has a limit for them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::CreateError;
use crate::{
    journal::Committed,
    purchase::{CallerName, Finality, Purchase, PurchaseId},
};

/// The open purchases by caller. They are counted only if a caller has a limit, since each costs some
/// 40 bytes.
#[derive(Debug, Default)]
pub(super) struct OpenPurchases(Mutex<Option<HashMap<CallerName, CallersPurchases>>>);

/// The purchases of one caller.
#[derive(Debug, Default)]
struct CallersPurchases {
    open: HashSet<PurchaseId>,
    /// The keys of creates whose intents are not durable yet.
    beginning: HashSet<Arc<str>>,
}

/// The place of one new purchase among its caller's. The commit of its intent takes the place over; it
/// is given back if there is no such commit.
#[derive(Debug)]
pub(super) struct Reservation {
    purchases: Arc<OpenPurchases>,
    caller: CallerName,
    key: Arc<str>,
}

impl OpenPurchases {
    fn lock(&self) -> MutexGuard<'_, Option<HashMap<CallerName, CallersPurchases>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from now on.
    pub(super) fn count(&self) {
        self.lock().get_or_insert_default();
    }

    /// Takes up a purchase of an earlier process.
    pub(super) fn recovered(&self, purchase: &Purchase) {
        if let Some(callers) = &mut *self.lock() {
            set(callers, purchase);
        }
    }

    /// Hears of a commit.
    pub(super) fn heard(&self, committed: &Committed) {
        let Some(callers) = &mut *self.lock() else {
            return;
        };
        let purchase = &committed.purchase;
        set(callers, purchase);
        if committed.from_state.is_none()
            && let Some(own) = callers.get_mut(&purchase.caller)
        {
            own.beginning.remove(&purchase.idempotency_key);
        }
    }

    /// The place of one more purchase of a caller that may have `most` open ones; 0 stands for no
    /// limit.
    pub(super) fn begin(
        self: &Arc<Self>,
        caller: &CallerName,
        key: &str,
        most: u32,
    ) -> Result<Option<Reservation>, CreateError> {
        let mut callers = self.lock();
        let Some(callers) = callers.as_mut().filter(|_| most > 0) else {
            return Ok(None);
        };
        let own = callers.entry(caller.clone()).or_default();
        let count = own.open.len().saturating_add(own.beginning.len());
        if u32::try_from(count).unwrap_or(u32::MAX) >= most {
            return Err(CreateError::TooManyOpen { most });
        }
        let key: Arc<str> = key.into();
        own.beginning.insert(Arc::clone(&key));
        Ok(Some(Reservation {
            purchases: Arc::clone(self),
            caller: caller.clone(),
            key,
        }))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut callers = self.purchases.lock();
        let own = callers
            .as_mut()
            .and_then(|callers| callers.get_mut(&self.caller));
        if let Some(own) = own {
            own.beginning.remove(&self.key);
        }
    }
}

/// Counts a purchase if it is open, and does not if it is not.
fn set(callers: &mut HashMap<CallerName, CallersPurchases>, purchase: &Purchase) {
    let own = callers.entry(purchase.caller.clone()).or_default();
    match purchase.status.finality {
        Finality::Open => own.open.insert(purchase.id),
        Finality::Terminal | Finality::Final => own.open.remove(&purchase.id),
    };
}
