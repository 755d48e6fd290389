//! A request that waits to be admitted, among those that others make way for.

use super::{Account, Class};
use crate::purchase::CallerName;

/// A request that waits to be admitted.
pub(super) struct Waiter<'a> {
    account: &'a Account,
    class: Class,
    caller: Option<&'a CallerName>,
}

impl<'a> Waiter<'a> {
    pub(super) fn new(account: &'a Account, class: Class, caller: Option<&'a CallerName>) -> Self {
        account.lock().waiting.enters(class, caller);
        Self {
            account,
            class,
            caller,
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut live = self.account.lock();
        if live.waiting.leaves(self.class, self.caller) {
            drop(live);
            self.account.eased.notify_waiters();
        }
    }
}
