//! Looks at leases, takes and gives away, and lets others work for the accounts that are owned.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    limits::{self, AccountLimits, Configured, Difference},
    share::{Free, Scene},
    sight::Sight,
    tenure::{Tenure, Tenures, forever},
};
use crate::{
    clock::{Clock, StoreTime},
    journal::{Fence, JournalError, LEASE_LASTS, Look, Ownership},
    progress::Progress,
    purchase::{AccountName, Moment},
};

/// The interval of looks at the leases of a store that is shared.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The interval of renewals.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// The time for which a lease is trusted after its last renewal was begun: shorter than others wait, so
/// that it has ended before anybody takes the lease.
const TRUSTED_FOR: Duration = LEASE_LASTS.saturating_sub(Duration::from_secs(1));
/// The wait after a failure of the store until work is begun, or a lease given back, once more.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Whoever works for the accounts that this process owns.
#[async_trait]
pub trait Follower: Send + Sync {
    /// Begins to work for an account, and takes up its open purchases. Called again after an error. Given
    /// up, by being dropped, if the tenure ends meanwhile.
    ///
    /// # Errors
    /// The journal cannot be read.
    async fn begin(&self, tenure: &Tenure) -> Result<(), JournalError>;

    /// The others have these limits at the least, by account. Called after each look.
    fn others_allow(&self, limits: &AccountLimits);

    /// A tenure has ended: gives up what can be given up, and returns once no commit under it is under
    /// way.
    async fn end(&self, tenure: &Tenure);
}

/// This process as an owner of accounts. Clones are the same.
#[derive(Clone)]
pub struct Owner(Arc<Inner>);

struct Inner {
    store: Arc<dyn Ownership>,
    clock: Clock,
    tenures: Tenures,
    /// The accounts that somebody has to own, housekeeping among them.
    accounts: Mutex<BTreeSet<AccountName>>,
    limits: Configured,
    /// Told when the accounts have changed, or when one can be taken that could not.
    changed: Notify,
    /// Told when all work under a tenure is over.
    over: Notify,
    leaving: CancellationToken,
    progress: Progress,
}

impl fmt::Debug for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Owner")
            .field("store", &self.0.store)
            .finish_non_exhaustive()
    }
}

/// The tenures that begin, on their way to the work under them.
type Begun = mpsc::UnboundedSender<Tenure>;

impl Owner {
    /// An owner of these accounts, or of its share of them, and of housekeeping, with the limits by which this
    /// process is configured. It owns nothing yet.
    pub fn new(store: Arc<dyn Ownership>, clock: Clock, accounts: AccountLimits) -> Self {
        let limits = Configured::default();
        let names = with_housekeeping(accounts.keys().cloned());
        limits.own(accounts);
        Self(Arc::new(Inner {
            store,
            clock,
            tenures: Tenures::default(),
            accounts: Mutex::new(names),
            limits,
            changed: Notify::new(),
            over: Notify::new(),
            leaving: CancellationToken::new(),
            progress: Progress::new("ownership"),
        }))
    }

    /// True if other processes can own accounts of the store.
    pub fn is_shared(&self) -> bool {
        self.0.store.is_shared()
    }

    /// The tenures of this process.
    pub fn tenures(&self) -> &Tenures {
        &self.0.tenures
    }

    /// The progress of [`Owner::run`].
    pub fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// Takes all accounts, if the store has no other process. Whoever asks for the tenures afterwards
    /// finds them begun, and follows them without a word of [`Owner::run`]. If other processes use the store,
    /// the clock goes by the store's from here on, and everybody knows the limits of everybody.
    ///
    /// # Errors
    /// The store is away.
    pub async fn start(&self) -> Result<(), JournalError> {
        if self.0.store.is_shared() {
            let look = self.0.look(&[]).await?;
            let others = look.replicas.iter();
            let others = others.filter(|replica| replica.id != *self.0.store.replica());
            let others = others.map(|replica| &replica.limits);
            self.0.limits.others_have(limits::least(others));
            return Ok(());
        }
        for tenure in self.0.take_all().await? {
            tenure.is_followed_now();
        }
        Ok(())
    }

    /// The least limits that other replicas have, as far as this one has seen.
    pub fn limits_of_others(&self) -> AccountLimits {
        self.0.limits.of_others()
    }

    /// Other accounts are configured from now on, or the same with other limits. The tenures of those that are
    /// gone end at once.
    pub fn configure(&self, accounts: AccountLimits) {
        let limits = accounts;
        let accounts = with_housekeeping(limits.keys().cloned());
        self.0.limits.own(limits);
        for (account, tenure) in self.0.tenures.all() {
            if !accounts.contains(&account) {
                tenure.end();
            }
        }
        *self.0.accounts() = accounts;
        self.0.changed.notify_one();
    }

    /// Owns accounts and lets `follower` work for them, for ever. After a panic it can be run again.
    pub async fn run(&self, follower: &dyn Follower) {
        let inner = &*self.0;
        let (begun, mut begins) = mpsc::unbounded_channel();
        let reigns = inner.tenures.all().into_values();
        let reigns = reigns.map(|tenure| inner.reign(tenure, follower));
        let mut reigns: FuturesUnordered<_> = reigns.collect();
        let follow = async {
            loop {
                tokio::select! {
                    // The same seed is the same run.
                    biased;
                    Some(()) = reigns.next() => inner.changed.notify_one(),
                    Some(tenure) = begins.recv() => reigns.push(inner.reign(tenure, follower)),
                }
            }
        };
        tokio::join!(inner.lead(&begun, follower), follow);
    }

    /// Gives all accounts away, and takes no more. Returns once no commit under a tenure is under way.
    /// [`Owner::run`] has to go on meanwhile.
    pub async fn drain(&self) {
        let inner = &*self.0;
        inner.leaving.cancel();
        if let Err(error) = inner.store.leave().await {
            tracing::warn!(%error, "the other replicas do not hear that this one ends");
        }
        inner.tenures.all().values().for_each(Tenure::end);
        loop {
            let mut over = std::pin::pin!(inner.over.notified());
            // Listens before it looks, so that no end is missed.
            over.as_mut().enable();
            if inner.tenures.all().is_empty() {
                return;
            }
            over.await;
        }
    }
}

impl Inner {
    fn accounts(&self) -> MutexGuard<'_, BTreeSet<AccountName>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, fence: Fence, until: Moment) -> Tenure {
        let tenure = Tenure::new(fence, until);
        self.tenures.begin(&tenure);
        tenure
    }

    /// A tenure, until all work under it is over.
    async fn reign(&self, tenure: Tenure, follower: &dyn Follower) {
        let begins = async {
            while !tenure.is_followed() {
                match follower.begin(&tenure).await {
                    Ok(()) => tenure.is_followed_now(),
                    Err(error) => {
                        let account = tenure.account();
                        tracing::warn!(%account, %error, "the work for an account has to wait");
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = tenure.ended() => {}
            () = self.distrusted(&tenure) => tenure.lose(),
            () = begins => {}
        }
        follower.end(&tenure).await;
        while tenure.is_given_away() && self.clock.moment() < tenure.until() {
            if self.store.release(tenure.fence()).await.is_ok() {
                break;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        self.tenures.forget(tenure.account());
        self.over.notify_waiters();
    }

    /// Waits until a lease is trusted no more.
    async fn distrusted(&self, tenure: &Tenure) {
        if tenure.lasts() {
            std::future::pending::<()>().await;
        }
        loop {
            let left = tenure.until().since(self.clock.moment());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    async fn lead(&self, begun: &Begun, follower: &dyn Follower) {
        match self.store.is_shared() {
            true => self.look_for_ever(begun, follower).await,
            false => self.take_what_comes(begun).await,
        }
    }

    /// Owns all accounts, whichever they are.
    async fn take_what_comes(&self, begun: &Begun) {
        loop {
            self.progress.round().await;
            let taken = self.progress.across(self.take_all()).await;
            let again = taken.is_err();
            for tenure in taken.into_iter().flatten() {
                // The other end is in the same future.
                begun.send(tenure).ok();
            }
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = self.progress.asked() => {}
                () = tokio::time::sleep(AGAIN_AFTER), if again => {}
            }
        }
    }

    /// Takes the accounts that this process does not own, in a store that has no other process.
    async fn take_all(&self) -> Result<Vec<Tenure>, JournalError> {
        let mut taken = Vec::new();
        if self.leaving.is_cancelled() {
            return Ok(taken);
        }
        let held = self.tenures.all();
        let accounts = self.accounts().clone();
        for account in accounts.iter().filter(|one| !held.contains_key(*one)) {
            if let Some(fence) = self.store.take(account, None).await? {
                taken.push(self.begin(fence, forever()));
            }
        }
        Ok(taken)
    }

    /// One look, by which the clock follows the store's. The others hear of other limits before it.
    async fn look(&self, renewed: &[Fence]) -> Result<Look, JournalError> {
        if let Some(limits) = self.limits.untold() {
            self.store.configure(&limits).await?;
            self.limits.told(limits);
        }
        let asked = self.clock.moment();
        let look = self.store.look(renewed).await?;
        if let Some(time) = look.time {
            self.clock.follow(StoreTime {
                asked,
                answered: self.clock.moment(),
                time,
            });
        }
        Ok(look)
    }

    /// Owns a share of the accounts, in a store that other processes use.
    async fn look_for_ever(&self, begun: &Begun, follower: &dyn Follower) {
        let mut sight = Sight::default();
        let mut renewed: Option<Moment> = None;
        loop {
            self.progress.round().await;
            let sent = self.clock.moment();
            let renews = renewed.is_none_or(|at| sent.since(at) >= RENEW_EVERY);
            let fences = match renews {
                true => self.renewable(&sight),
                false => Vec::new(),
            };
            match self.progress.across(self.look(&fences)).await {
                Ok(look) => {
                    renewed = renewed.filter(|_| !renews).or(Some(sent));
                    self.renewed(&look, &fences, sent, begun);
                    sight.look(look, self.clock.moment());
                    let (me, now) = (self.store.replica(), self.clock.moment());
                    self.tenures.are_elsewhere(sight.owned_by_others(me, now));
                    self.limit(&sight, now, follower);
                    self.act(&sight, sent, begun).await;
                }
                Err(error) => tracing::debug!(%error, "the leases cannot be looked at"),
            }
            let wait = sent.plus(LOOK_EVERY).since(self.clock.moment());
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Holds the accounts to the limits of the other living replicas, and tells of those that differ.
    fn limit(&self, sight: &Sight, now: Moment, follower: &dyn Follower) {
        let me = self.store.replica();
        let others = limits::least(sight.limits_of_others(me, now));
        follower.others_allow(&others);
        self.limits.others_have(others);
        for difference in self.limits.unlogged(sight.limits_of_neighbours(me, now)) {
            let Difference {
                account,
                key,
                here,
                replica,
                there,
            } = difference;
            let replica = replica.as_str();
            tracing::warn!(
                %account, here, there, replica,
                "{key} differs between replicas: the least limit holds, and 0 is none"
            );
        }
    }

    /// The fences of the leases to renew: of all that are owned, and of those that were lost and that
    /// nobody has taken since.
    fn renewable(&self, sight: &Sight) -> Vec<Fence> {
        let held = self.tenures.all();
        let accounts = self.accounts();
        let idle = accounts.iter().filter(|one| !held.contains_key(*one));
        let idle = idle.filter_map(|account| {
            let lease = sight.lease(account)?;
            let is_own = lease.owner.as_ref() == Some(self.store.replica());
            (is_own && !self.leaving.is_cancelled()).then(|| Fence {
                account: account.clone(),
                number: lease.fence,
            })
        });
        let held = held.values().filter(|tenure| !tenure.is_lost());
        held.map(|tenure| tenure.fence().clone())
            .chain(idle)
            .collect()
    }

    /// Learns from a look that was begun then which leases are still, or again, its own.
    fn renewed(&self, look: &Look, fences: &[Fence], sent: Moment, begun: &Begun) {
        let me = self.store.replica();
        let is_own = |fence: &Fence| {
            look.leases.iter().any(|lease| {
                lease.account == fence.account
                    && lease.fence == fence.number
                    && lease.owner.as_ref() == Some(me)
            })
        };
        let until = sent.plus(TRUSTED_FOR);
        let held = self.tenures.all();
        for tenure in held.values() {
            match is_own(tenure.fence()) {
                true if fences.contains(tenure.fence()) => tenure.trust(until),
                true => {}
                false => tenure.lose(),
            }
        }
        let idle = |fence: &&Fence| !held.contains_key(&fence.account) && is_own(fence);
        for fence in fences.iter().filter(idle) {
            begun.send(self.begin(fence.clone(), until)).ok();
        }
    }

    /// Takes what is its share and free, and gives one account away if it owns too many.
    async fn act(&self, sight: &Sight, sent: Moment, begun: &Begun) {
        if self.leaving.is_cancelled() {
            return;
        }
        let (held, accounts) = (self.tenures.all(), self.accounts().clone());
        let free = accounts.iter().filter(|one| !held.contains_key(*one));
        let free: Vec<Free> = free.filter_map(|one| sight.free(one, sent)).collect();
        let mut owners = sight.owners();
        owners.retain(|account, _| accounts.contains(account));
        let scene = Scene {
            me: self.store.replica(),
            living: &sight.living(self.clock.moment()),
            accounts: &accounts,
            owners: &owners,
            free: &free,
        };
        let step = scene.step();
        for account in &step.takes {
            let asked = self.clock.moment();
            // The next look must not be late: the others wait for it.
            if asked.since(sent) >= LOOK_EVERY {
                break;
            }
            match self.store.take(account, sight.lease(account)).await {
                Ok(Some(fence)) => {
                    tracing::info!(%account, fence = fence.number, "owned from now on");
                    begun.send(self.begin(fence, asked.plus(TRUSTED_FOR))).ok();
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "no lease can be taken");
                    break;
                }
            }
        }
        if let Some(tenure) = step.releases.and_then(|account| self.tenures.of(&account)) {
            tenure.end();
        }
    }
}

fn with_housekeeping(accounts: impl IntoIterator<Item = AccountName>) -> BTreeSet<AccountName> {
    let keeping = [Fence::housekeeping()];
    accounts.into_iter().chain(keeping).collect()
}
