//! One call per key at a time until its intent is durable: duplicates spend no budget.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tillwatch_proto::v1::create_purchase_request::Order;

use super::{
    ADMISSION_WAIT, CreateError, Inner, NewPurchase,
    telling::{Heard, Teller, telling},
};
use crate::purchase::{AccountName, CallerName};

/// The end of a start.
type Ends = Result<(), CreateError>;

/// Whose key is being started.
type Key = (CallerName, Arc<str>);

/// The keys whose intent is not durable yet.
#[derive(Debug, Default)]
pub(super) struct Starts(Mutex<HashMap<Key, Starting>>);

impl Starts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Starting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is being started.
#[derive(Debug)]
struct Starting {
    ended: Heard<Ends>,
    order: Arc<Order>,
    account: AccountName,
}

/// The right to start a key. Dropped without a word, another call may start it.
pub(super) struct Starter {
    inner: Arc<Inner>,
    key: Key,
    /// True if its caller waits for less than others would: its failure is its own.
    hurried: bool,
    ended: Teller<Ends>,
}

/// Another call's start.
pub(super) struct Other {
    ended: Heard<Ends>,
    /// True if it starts the same order, so that its failure is this one's as well.
    is_same: bool,
}

impl Starter {
    /// Tells the duplicates how it ended.
    pub(super) fn ends(mut self, result: Ends) {
        if result.is_ok() || !self.hurried {
            self.ended.tell(result);
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.inner.starts.lock().remove(&self.key);
    }
}

impl Other {
    /// Waits for the other call's start. One that is gone without a word had its caller hang up, or
    /// run out of time, before anything was written.
    pub(super) async fn ends(self) -> Ends {
        match self.ended.await {
            Ok(result) if self.is_same => result,
            _ => Ok(()),
        }
    }
}

impl Inner {
    /// The right to start this key, or where to wait for the call that has it.
    pub(super) fn starter(self: &Arc<Self>, new: &NewPurchase) -> Result<Starter, Other> {
        let key: Key = (new.caller.clone(), Arc::from(new.key.as_str()));
        let mut starting = self.starts.lock();
        if let Some(other) = starting.get(&key) {
            return Err(Other {
                ended: other.ended.clone(),
                is_same: other.account == new.account.name && other.order == new.order,
            });
        }
        let (ended, receiver) = telling();
        let entry = Starting {
            ended: receiver,
            order: Arc::clone(&new.order),
            account: new.account.name.clone(),
        };
        starting.insert(key.clone(), entry);
        let patient = self.clock.moment().plus(ADMISSION_WAIT);
        Ok(Starter {
            inner: Arc::clone(self),
            key,
            hurried: new.deadline.is_some_and(|deadline| deadline < patient),
            ended,
        })
    }
}
