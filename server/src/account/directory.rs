//! Values by account, where accounts come and go while the server runs.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use super::Account;
use crate::{ownership::AccountLimits, purchase::AccountName};

/// One value for each account that is configured now. Clones are the same.
pub struct ByAccount<T>(Arc<RwLock<Arc<Named<T>>>>);

/// The values of one moment.
type Named<T> = BTreeMap<AccountName, Arc<T>>;

/// All accounts that are configured now.
pub type Accounts = ByAccount<Account>;

impl<T> Clone for ByAccount<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for ByAccount<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> fmt::Debug for ByAccount<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.all().keys()).finish()
    }
}

impl<T> ByAccount<T> {
    /// An account's value, if it is configured.
    pub fn get(&self, account: &AccountName) -> Option<Arc<T>> {
        let named = self.0.read().unwrap_or_else(PoisonError::into_inner);
        named.get(account).cloned()
    }

    /// The values of this moment, by account.
    pub fn all(&self) -> Arc<Named<T>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An account is there from now on.
    pub fn insert(&self, account: AccountName, value: Arc<T>) {
        self.change(|named| named.insert(account, value));
    }

    /// An account is gone from now on. Whoever has its value keeps it.
    pub fn remove(&self, account: &AccountName) -> Option<Arc<T>> {
        self.change(|named| named.remove(account))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Named<T>) -> R) -> R {
        let mut named = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Named::clone(&named);
        let result = change(&mut changed);
        *named = Arc::new(changed);
        result
    }
}

impl Accounts {
    /// These accounts.
    pub fn new(accounts: impl IntoIterator<Item = Arc<Account>>) -> Self {
        let named = accounts
            .into_iter()
            .map(|account| (account.name.clone(), account));
        Self(Arc::new(RwLock::new(Arc::new(named.collect()))))
    }

    /// The limits by which this process is configured.
    pub fn limits(&self) -> AccountLimits {
        let all = self.all();
        let limits = all.iter();
        let limits = limits.map(|(name, account)| (name.clone(), account.limits()));
        limits.collect()
    }

    /// Other processes of the store have these limits at the least.
    pub fn others_allow(&self, limits: &AccountLimits) {
        for (name, account) in &*self.all() {
            account.others_allow(limits.get(name).copied().unwrap_or_default());
        }
    }
}
