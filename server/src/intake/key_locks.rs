//! One call per key at a time until its intent is durable: duplicates spend no budget.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tillwatch_proto::v1::create_purchase_request::Order;

use super::{
    ADMISSION_WAIT, CreateError, Inner, NewPurchase,
    completion::{Completer, Completion, completion},
};
use crate::purchase::{AccountName, CallerName};

/// A call's success or failure to make an intent durable.
type Started = Result<(), CreateError>;

/// A caller and its key.
type CallersKey = (CallerName, Arc<str>);

/// The keys that calls hold.
#[derive(Debug, Default)]
pub(super) struct LockedKeys(Mutex<HashMap<CallersKey, Holder>>);

impl LockedKeys {
    fn lock(&self) -> MutexGuard<'_, HashMap<CallersKey, Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The call that holds a key.
#[derive(Debug)]
struct Holder {
    started: Completion<Started>,
    order: Arc<Order>,
    account: AccountName,
}

/// The right to start a key. If it is dropped without a word, another call may start the key.
pub(super) struct KeyLock {
    inner: Arc<Inner>,
    key: CallersKey,
    /// True if its caller waits for less than others would: its failure is its own.
    is_hurried: bool,
    started: Completer<Started>,
}

/// Another call that holds the key.
pub(super) struct Other {
    started: Completion<Started>,
    /// True if it starts the same order, so that its failure is this one's as well.
    is_same: bool,
}

impl KeyLock {
    /// Tells the duplicates how it ended.
    pub(super) fn release(mut self, started: Started) {
        if started.is_ok() || !self.is_hurried {
            self.started.complete(started);
        }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        self.inner.locked_keys.lock().remove(&self.key);
    }
}

impl Other {
    /// Waits until the other call releases the key. If it does so without a word, its caller has hung
    /// up or run out of time before anything was written.
    pub(super) async fn released(self) -> Started {
        match self.started.await {
            Ok(started) if self.is_same => started,
            _ => Ok(()),
        }
    }
}

impl Inner {
    /// The right to start this key, or the call that has it.
    pub(super) fn lock_key(self: &Arc<Self>, new: &NewPurchase) -> Result<KeyLock, Other> {
        let key: CallersKey = (new.caller.clone(), Arc::from(new.key.as_str()));
        let mut locked = self.locked_keys.lock();
        if let Some(holder) = locked.get(&key) {
            return Err(Other {
                started: holder.started.clone(),
                is_same: holder.account == new.account.name && holder.order == new.order,
            });
        }
        let (completer, started) = completion();
        let holder = Holder {
            started,
            order: Arc::clone(&new.order),
            account: new.account.name.clone(),
        };
        locked.insert(key.clone(), holder);
        let patient = self.clock.moment().plus(ADMISSION_WAIT);
        Ok(KeyLock {
            inner: Arc::clone(self),
            key,
            is_hurried: new.deadline.is_some_and(|deadline| deadline < patient),
            started: completer,
        })
    }
}
