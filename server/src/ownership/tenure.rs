//! The time in which this process owns an account.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use crate::{
    journal::Fence,
    purchase::{AccountName, Moment},
};

/// The time in which this process owns an account: nobody else asks its provider about its purchases.
/// Clones are the same. It ends once, and for good.
#[derive(Debug, Clone)]
pub struct Tenure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fence: Fence,
    /// When the trust in the lease ends, in milliseconds of the monotonic clock.
    until: AtomicI64,
    /// True once somebody works under it.
    is_followed: AtomicBool,
    is_lost: AtomicBool,
    ended: CancellationToken,
}

impl Tenure {
    /// A tenure under this fence that is trusted until then.
    pub fn new(fence: Fence, until: Moment) -> Self {
        Self(Arc::new(Inner {
            fence,
            until: AtomicI64::new(until.as_millis()),
            is_followed: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            ended: CancellationToken::new(),
        }))
    }

    /// A tenure that lasts as long as the process.
    pub(super) fn alone(account: AccountName) -> Self {
        Self::new(Fence::alone(account), forever())
    }

    /// The account.
    pub fn account(&self) -> &AccountName {
        &self.0.fence.account
    }

    /// The proof of it, for the writes that only the owner may make.
    pub fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// True if a request may begin now: the tenure has not ended, and nobody can have taken the lease. A
    /// process that was stopped sees here that its time is over, before anybody has told it.
    pub fn is_trusted(&self, now: Moment) -> bool {
        now < self.until() && !self.has_ended()
    }

    /// True if it is over.
    pub fn has_ended(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    /// Cancelled at its end.
    pub fn ending(&self) -> &CancellationToken {
        &self.0.ended
    }

    /// Waits for its end.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ended(&self) {
        self.0.ended.cancelled().await;
    }

    /// It ends, since somebody else has the account, or can have it. The store refuses its fence, or soon
    /// will.
    pub fn lose(&self) {
        self.0.is_lost.store(true, Ordering::SeqCst);
        self.0.ended.cancel();
    }

    /// It ends, since this process gives the account away.
    pub(super) fn end(&self) {
        self.0.ended.cancel();
    }

    /// True if somebody else has the account, or can have it.
    pub(super) fn is_lost(&self) -> bool {
        self.0.is_lost.load(Ordering::SeqCst)
    }

    /// True if the lease is to be given back.
    pub(super) fn is_given_away(&self) -> bool {
        self.has_ended() && !self.is_lost()
    }

    /// Somebody works under it from now on.
    pub(super) fn is_followed_now(&self) {
        self.0.is_followed.store(true, Ordering::SeqCst);
    }

    /// True if somebody works under it.
    pub(super) fn is_followed(&self) -> bool {
        self.0.is_followed.load(Ordering::SeqCst)
    }

    /// Its lease was renewed.
    pub(super) fn trust(&self, until: Moment) {
        self.0.until.store(until.as_millis(), Ordering::SeqCst);
    }

    /// When the trust in its lease ends.
    pub(super) fn until(&self) -> Moment {
        Moment::from_millis(self.0.until.load(Ordering::SeqCst))
    }

    /// True if its lease lasts as long as the process.
    pub(super) fn lasts(&self) -> bool {
        self.until() == forever()
    }
}

/// The moment that never comes.
pub(super) fn forever() -> Moment {
    Moment::from_millis(i64::MAX)
}

/// The tenures of this process, and what it sees of those of others. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Tenures {
    own: Arc<RwLock<BTreeMap<AccountName, Tenure>>>,
    /// The accounts that other living replicas own.
    elsewhere: Arc<RwLock<BTreeSet<AccountName>>>,
}

impl Tenures {
    /// The tenures of a process that has a store for itself: of these accounts, and of housekeeping. They
    /// have begun, and never end.
    pub fn alone(accounts: impl IntoIterator<Item = AccountName>) -> Self {
        let tenures = Self::default();
        for account in accounts.into_iter().chain([Fence::housekeeping()]) {
            tenures.begin(&Tenure::alone(account));
        }
        tenures
    }

    /// The tenure of an account, if this process owns it now.
    pub fn of(&self, account: &AccountName) -> Option<Tenure> {
        let tenures = self.own.read().unwrap_or_else(PoisonError::into_inner);
        let tenure = tenures.get(account)?;
        (!tenure.has_ended()).then(|| tenure.clone())
    }

    /// The tenure of the work that belongs to no account, if it is this process's now.
    pub fn of_housekeeping(&self) -> Option<Tenure> {
        self.of(&Fence::housekeeping())
    }

    /// True if another living replica owned an account when this one looked last. False in a store of one
    /// process.
    pub fn is_elsewhere(&self, account: &AccountName) -> bool {
        let elsewhere = self.elsewhere.read();
        let elsewhere = elsewhere.unwrap_or_else(PoisonError::into_inner);
        elsewhere.contains(account)
    }

    /// Other living replicas own these accounts, as this one has just seen.
    pub fn are_elsewhere(&self, accounts: BTreeSet<AccountName>) {
        let elsewhere = self.elsewhere.write();
        *elsewhere.unwrap_or_else(PoisonError::into_inner) = accounts;
    }

    /// All of them, also those that have ended and whose work has not.
    pub(super) fn all(&self) -> BTreeMap<AccountName, Tenure> {
        let tenures = self.own.read().unwrap_or_else(PoisonError::into_inner);
        tenures.clone()
    }

    pub(super) fn begin(&self, tenure: &Tenure) {
        let mut tenures = self.own.write().unwrap_or_else(PoisonError::into_inner);
        tenures.insert(tenure.account().clone(), tenure.clone());
    }

    /// All work under a tenure is over.
    pub(super) fn forget(&self, account: &AccountName) {
        let mut tenures = self.own.write().unwrap_or_else(PoisonError::into_inner);
        tenures.remove(account);
    }
}
