//! One call per key at a time until its intent is durable: duplicates spend no budget.

use std::sync::{Arc, PoisonError};

use super::{
    CreateError, Inner, NewPurchase,
    telling::{Heard, Teller, telling},
};
use crate::purchase::CallerName;

/// How a start ended.
pub(super) type Start = Result<(), CreateError>;

/// Whose key is being started.
pub(super) type Key = (CallerName, Arc<str>);

/// The right to start a key. Dropped without a word, another call may start it.
pub(super) struct Starter {
    inner: Arc<Inner>,
    key: Key,
    ended: Teller<Start>,
}

impl Starter {
    /// Tells the duplicates how it ended.
    pub(super) fn ends(mut self, result: Start) {
        self.ended.tell(result);
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.inner
            .starting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

impl Inner {
    /// Waits for another call's start. One that is gone without a word had its caller hang up
    /// before anything was written.
    pub(super) async fn started(other: Heard<Start>) -> Start {
        other.await.unwrap_or(Ok(()))
    }

    /// The right to start this key, or where to wait for the call that has it.
    pub(super) fn starter(self: &Arc<Self>, new: &NewPurchase) -> Result<Starter, Heard<Start>> {
        let key: Key = (new.caller.clone(), Arc::from(new.key.as_str()));
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ended) = starting.get(&key) {
            return Err(ended.clone());
        }
        let (ended, receiver) = telling();
        starting.insert(key.clone(), receiver);
        Ok(Starter {
            inner: Arc::clone(self),
            key,
            ended,
        })
    }
}
