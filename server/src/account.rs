//! An account's live state: its provider, its way out, and what both may be asked for.
//!
//! Every upstream call passes here: budget, breaker, requests in flight. Whose turn it is among
//! many purchases is not decided here.

mod class;
mod figures;
mod live;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::Notify;

use crate::{
    cadence::Policy,
    clock::Clock,
    observation::Trouble,
    provider::Provider,
    purchase::{AccountName, Moment, PurchaseId},
    upstream::{Connection, Request, Response, Upstream, UpstreamError},
};
use class::Denied;
pub use class::{Class, Refusal};
pub use figures::{Figures, Outcome};
use live::Live;
pub use live::{Health, Snapshot};

/// Keeps the arrival times of accounts' budgets beyond the life of the process.
#[async_trait]
pub trait BudgetStore: Send + Sync {
    /// The arrival times that were kept.
    async fn load(&self, account: &AccountName) -> Option<Kept>;

    /// Keeps arrival times durably; `false` where that failed.
    async fn save(&self, account: &AccountName, arrivals: Arrivals) -> bool;
}

/// How far an account's budgets are spent: nothing is sent beyond what a store has kept of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Of requests of all kinds.
    pub requests: Moment,
    /// Of creates.
    pub creates: Moment,
}

/// Arrival times as a store has kept them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The arrival times.
    pub arrivals: Arrivals,
    /// When they held: each lay no further ahead of this than its pace reaches. One that seems to was
    /// kept by a clock that was ahead, and is replaced.
    pub as_of: Moment,
}

impl Kept {
    /// Of an earlier run of the machine, whose moments mean nothing now: spent as far as they can have
    /// been when this one began.
    pub fn before_this_boot() -> Self {
        let latest = Moment::from_millis(i64::MAX);
        Self {
            arrivals: Arrivals {
                requests: latest,
                creates: latest,
            },
            as_of: Moment::default(),
        }
    }
}

/// One configured account.
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// Its provider, with its credentials.
    pub provider: Arc<dyn Provider>,
    /// How it is polled.
    pub policy: Policy,
    upstream: Arc<dyn Upstream>,
    clock: Clock,
    store: Arc<dyn BudgetStore>,
    /// Guarded by a lock that is held for moments, never across a wait.
    live: Mutex<Live>,
    /// Told whenever a request may have become possible earlier than it was said.
    eased: Notify,
    /// Told when requests but creates are no longer held back by trouble.
    recovered: Notify,
    /// Held while arrival times are being kept, so that one save serves all who wait.
    saving: tokio::sync::Mutex<()>,
    /// How much later than due polls began.
    lag: Histogram,
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Account")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The right to make one request. Dropped without [`Admission::ends`], it counts as given up.
#[derive(Debug)]
pub struct Admission {
    account: Arc<Account>,
    class: Class,
    /// What it is about: one that fails again and again tells of itself, not of the provider.
    subject: u64,
    held: bool,
    /// Whether it is among the requests in flight.
    in_flight: bool,
    ended: bool,
}

impl Account {
    /// An account that goes on with the budget that `store` has kept of it.
    pub async fn open(
        name: AccountName,
        provider: Arc<dyn Provider>,
        policy: Policy,
        upstream: Arc<dyn Upstream>,
        clock: Clock,
        store: Arc<dyn BudgetStore>,
    ) -> Arc<Self> {
        let mut live = Live::new(&policy);
        if let Some(kept) = store.load(&name).await {
            live.resume(kept);
        }
        let live = Mutex::new(live);
        let (eased, recovered) = (Notify::new(), Notify::new());
        Arc::new(Self {
            name,
            provider,
            policy,
            upstream,
            clock,
            store,
            live,
            eased,
            recovered,
            saving: tokio::sync::Mutex::default(),
            lag: Histogram::new(figures::LAG_BOUNDS),
        })
    }

    /// Waits for the right to make one request, at most until `deadline`.
    ///
    /// # Errors
    /// Why it cannot be had by then, and when to try again. Returned at once where that is known
    /// at once.
    ///
    /// # Cancel safety
    /// Nothing is taken before it returns.
    pub async fn admit(
        self: &Arc<Self>,
        class: Class,
        deadline: Moment,
    ) -> Result<Admission, Refusal> {
        let _waiting = Waiting::new(self, class);
        loop {
            let eased = self.eased.notified();
            let refusal = match self.try_admit(class).await {
                Ok(admission) => return Ok(admission),
                Err(refusal) => refusal,
            };
            if refusal.retry_at() > deadline {
                return Err(self.refused(class, refusal));
            }
            let wait = refusal
                .retry_at()
                .since(self.clock.moment())
                .max(Duration::from_millis(1));
            tokio::select! {
                // The same seed is the same run.
                biased;
                () = tokio::time::sleep(wait) => {}
                () = eased => {}
            }
            if self.clock.moment() > deadline {
                return Err(self.refused(class, refusal));
            }
        }
    }

    /// What is told to whom has waited for nothing.
    fn refused(&self, class: Class, refusal: Refusal) -> Refusal {
        if class.is_first() {
            self.lock().create_refused(refusal);
        }
        refusal
    }

    /// The right to make one request now, or when to try again.
    pub async fn try_admit(self: &Arc<Self>, class: Class) -> Result<Admission, Refusal> {
        let held = class.is_held(&self.policy);
        loop {
            let admitted = self.lock().admit(class, held, self.clock.moment());
            match admitted {
                Ok(subject) => {
                    return Ok(Admission {
                        account: Arc::clone(self),
                        class,
                        subject,
                        held,
                        in_flight: true,
                        ended: false,
                    });
                }
                Err(Denied::Refused(refusal)) => return Err(refusal),
                Err(Denied::Unkept) => {}
            }
            let _saving = self.saving.lock().await;
            let wanted = self.lock().to_keep(class, self.clock.moment());
            let Some(arrivals) = wanted else { continue };
            if !self.store.save(&self.name, arrivals).await {
                let retry_at = self.clock.moment().plus(Duration::from_secs(1));
                return Err(Refusal::BudgetUnkept { retry_at });
            }
            self.lock().kept(arrivals);
        }
    }

    /// Makes one request and learns from how it ends. An answer of any status is an answer here.
    ///
    /// # Cancel safety
    /// Dropping the future gives the request up; it may have been sent.
    pub async fn ask(
        &self,
        admission: &mut Admission,
        request: Request,
    ) -> Result<Response, UpstreamError> {
        let timeout = self.policy.timeout;
        let mut result = self.upstream.send(request.clone(), timeout).await;
        // A provider that closes idle connections is met now and then in the very moment.
        if matches!(result, Err(UpstreamError::Closed)) && admission.renew().await {
            let again = request.on(Connection::Fresh);
            result = self.upstream.send(again, timeout).await;
        }
        let now = self.clock.both();
        let jitter = |longest| self.clock.up_to(longest);
        let mut live = self.lock();
        let (class, subject) = (admission.class, admission.subject);
        live.count(class, Outcome::of(&result));
        let was_blocked = live.is_blocked();
        match &result {
            Ok(response) => live.answered(class, subject, response, now, jitter),
            Err(error) => live.failed(subject, error, now.moment, jitter),
        }
        let is_recovered = was_blocked && !live.is_blocked();
        drop(live);
        admission.ended = true;
        self.eased.notify_waiters();
        if is_recovered {
            self.recovered.notify_one();
        }
        result
    }

    /// Learns what an answer to a request of this class meant, where its status alone does not say.
    pub fn learn(&self, class: Class, trouble: &Trouble) {
        self.lock().learn(class, trouble, self.clock.moment());
    }

    /// Waits until requests but creates are no longer held back by trouble. For one waiter.
    pub async fn recovered(&self) {
        self.recovered.notified().await;
    }

    /// A poll began this much later than it was due.
    pub fn began_late(&self, late: Duration) {
        self.lag.observe(late.as_secs_f64());
    }

    /// How late polls began, so far.
    pub fn lag(&self) -> Histogram {
        self.lag.clone()
    }

    /// How much longer the provider's pause lasts; zero where there is none.
    pub fn paused_for(&self, now: Moment) -> Duration {
        self.lock().paused_for(now)
    }

    /// What an operator sees of it.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot(self.clock.moment())
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// What the request is for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Says which purchase the request is about.
    #[must_use]
    pub fn about(mut self, purchase: PurchaseId) -> Self {
        let bits = purchase.as_u128();
        // Ids begin with the time, so both halves count. Small numbers are other requests'.
        self.subject = ((bits >> 64) as u64 ^ bits as u64) | 1 << 63;
        self
    }

    /// Takes another slot, to send a read once more, and counts the first as lost. `false` for a
    /// create, and if no slot is to be had within the time of a request.
    async fn renew(&mut self) -> bool {
        if self.class == Class::Create {
            return false;
        }
        // Given back first: where few may be in flight it would wait for itself.
        self.leave();
        let account = Arc::clone(&self.account);
        let deadline = account.clock.moment().plus(account.policy.timeout);
        let Ok(mut again) = account.admit(self.class, deadline).await else {
            return false;
        };
        again.subject = self.subject;
        account.lock().count(self.class, Outcome::Lost);
        self.ended = true;
        *self = again;
        true
    }

    /// Gives back its place among the requests in flight.
    fn leave(&mut self) {
        if std::mem::take(&mut self.in_flight) {
            self.account.lock().ended(self.held, self.ended);
            self.account.eased.notify_waiters();
        }
    }

    /// Nothing was sent with it: the requests in flight are given back, the budget is not.
    pub fn ends(self) {}
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.leave();
        if !self.ended {
            self.account.lock().count(self.class, Outcome::GivenUp);
        }
    }
}

/// Counts a create or a sweep that waits, so that no poll takes the slot it waits for.
struct Waiting<'a> {
    account: &'a Account,
    class: Class,
}

impl<'a> Waiting<'a> {
    fn new(account: &'a Account, class: Class) -> Self {
        if let Some(waiting) = account.lock().waiting(class) {
            *waiting += 1;
        }
        Self { account, class }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut live = self.account.lock();
        if let Some(waiting) = live.waiting(self.class) {
            *waiting -= 1;
            drop(live);
            self.account.eased.notify_waiters();
        }
    }
}

/// All configured accounts.
#[derive(Debug, Clone, Default)]
pub struct Accounts(Arc<BTreeMap<AccountName, Arc<Account>>>);

impl Accounts {
    /// These accounts.
    pub fn new(accounts: impl IntoIterator<Item = Arc<Account>>) -> Self {
        let named = accounts
            .into_iter()
            .map(|account| (account.name.clone(), account));
        Self(Arc::new(named.collect()))
    }

    /// The account with this name.
    pub fn get(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.0.get(name)
    }

    /// All accounts, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests;
