//! Open purchases: their schedules, polls and commits, until FINAL.
//!
//! Each account that this process owns has a lane: its open purchases, and a loop that polls them as the
//! account allows. A lane lasts as long as the tenure. One account's trouble never slows another's lane.

mod absent;
mod digest;
mod elsewhere;
mod entry;
mod lane;
mod last_answers;
mod poll;
mod sweep;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    account::{Account, Accounts, ByAccount, Unheard},
    clock::Clock,
    exchange::Exchange,
    journal::{Committed, Journal, JournalError, Record},
    lifecycle,
    ownership::{Tenure, Tenures},
    progress::Progress,
    purchase::{AccountName, Cause, Finality, Freshness, Purchase, PurchaseId, Reference},
    trace::Creates,
};
pub use elsewhere::ended;
pub use lane::Backlog;
use lane::Lane;
use last_answers::LastAnswers;

/// The tracker of one process. Cheap to clone.
#[derive(Clone)]
pub struct Tracker(Arc<Inner>);

struct Inner {
    journal: Arc<dyn Journal>,
    clock: Clock,
    /// The accounts that are configured.
    accounts: Accounts,
    tenures: Tenures,
    /// The lanes of the accounts that are owned.
    lanes: ByAccount<Lane>,
    /// Polls under way: a drain waits for their commits.
    tasks: TaskTracker,
    /// Ends lanes and held requests.
    stop: CancellationToken,
    /// The number of polls and rounds that a panic has ended in lanes that are gone.
    past_defects: AtomicU64,
    /// The last answers about what is followed no more.
    last_answers: Mutex<LastAnswers>,
    /// The spans that created open purchases.
    creates: Creates,
    /// Counts a purchase's watchers, once [`Tracker::count_watchers`] was called.
    watchers: OnceLock<CountWatchers>,
    /// The words of the other replicas, once [`Tracker::talk_over`] was called.
    exchange: OnceLock<Exchange>,
    /// Accounts that are not configured here, and whose owners are looked for.
    absent: Mutex<BTreeSet<AccountName>>,
}

/// A loop of the tracker that works for one account. Cheap to clone.
#[derive(Clone)]
pub struct Loop {
    inner: Arc<Inner>,
    lane: Arc<Lane>,
    /// True for a loop that sweeps; any other polls.
    sweeps: bool,
}

impl Loop {
    /// The loops of a lane.
    fn of(inner: &Arc<Inner>, lane: &Arc<Lane>) -> Vec<Self> {
        let of = |sweeps| Self {
            inner: Arc::clone(inner),
            lane: Arc::clone(lane),
            sweeps,
        };
        let kinds = [false, true].into_iter();
        let kinds = kinds.filter(|sweeps| !sweeps || lane.sweeper.is_some());
        kinds.map(of).collect()
    }

    /// The progress of [`Loop::run`].
    pub fn progress(&self) -> &Progress {
        match &self.lane.sweeper {
            Some(sweeper) if self.sweeps => &sweeper.progress,
            _ => &self.lane.progress,
        }
    }

    /// The account that it works for.
    pub fn account(&self) -> &AccountName {
        &self.lane.account.name
    }

    /// Cancelled once it may end.
    pub fn may_end(&self) -> &CancellationToken {
        &self.lane.stop
    }

    /// Works until [`Tracker::drain`], or until the tenure ends. After a panic it can be run again.
    pub async fn run(&self) {
        match self.lane.sweeper.as_ref().filter(|_| self.sweeps) {
            None => self.inner.drive(&self.lane).await,
            Some(sweeper) => self.inner.sweep(&self.lane, sweeper).await,
        }
    }
}

/// Counts a purchase's watchers. Must not block.
pub type CountWatchers = Box<dyn Fn(PurchaseId) -> usize + Send + Sync>;

impl fmt::Debug for Loop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = self.account();
        write!(formatter, "{} of {account}", self.progress().name())
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tracker").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tracker {
    /// A tracker of what is committed from now on to purchases of the accounts that are owned already.
    /// [`Tracker::begin`] lets it track others, [`Tracker::recover`] takes up what is open already, and
    /// [`Tracker::run`] polls.
    pub fn new(
        journal: Arc<dyn Journal>,
        clock: Clock,
        accounts: &Accounts,
        tenures: &Tenures,
    ) -> Self {
        let lanes = ByAccount::default();
        for (name, account) in &*accounts.all() {
            if let Some(tenure) = tenures.of(name) {
                let lane = Lane::new(Arc::clone(account), tenure);
                lanes.insert(name.clone(), Arc::new(lane));
            }
        }
        let inner = Arc::new(Inner {
            journal: Arc::clone(&journal),
            clock,
            accounts: accounts.clone(),
            tenures: tenures.clone(),
            lanes,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            past_defects: AtomicU64::new(0),
            last_answers: Mutex::default(),
            creates: Creates::default(),
            watchers: OnceLock::new(),
            exchange: OnceLock::new(),
            absent: Mutex::default(),
        });
        let observer = Arc::downgrade(&inner);
        journal.observe(Arc::new(move |committed| {
            if let Some(inner) = observer.upgrade() {
                for one in committed {
                    inner.committed(one);
                }
            }
        }));
        Self(inner)
    }

    /// Takes the way to count a purchase's watchers: news of watched purchases counts more. Only the
    /// first call has an effect.
    pub fn count_watchers(&self, count: CountWatchers) {
        let _ = self.0.watchers.set(count);
    }

    /// An account is owned from now on: its commits are heard. Returns the loops that work for it.
    pub fn begin(&self, account: &Arc<Account>, tenure: &Tenure) -> Vec<Loop> {
        let lane = Arc::new(Lane::new(Arc::clone(account), tenure.clone()));
        self.0.lanes.insert(account.name.clone(), Arc::clone(&lane));
        // Looks after it has shown itself, so that a drain misses no lane.
        if self.0.stop.is_cancelled() {
            lane.stop.cancel();
        }
        Loop::of(&self.0, &lane)
    }

    /// An account's tenure has ended: its purchases are polled no more, its loops end, and reads under way
    /// are given up. Returns once no commit of a poll is under way.
    pub async fn end(&self, account: &AccountName) {
        let Some(lane) = self.0.lanes.get(account) else {
            return;
        };
        lane.end().await;
        self.0.lanes.remove(account);
        (self.0.past_defects).fetch_add(lane.defects(), Ordering::Relaxed);
    }

    /// An account's settings have changed.
    pub fn changed(&self, account: &AccountName) {
        if let Some(lane) = self.0.lanes.get(account) {
            lane.settings_changed();
        }
    }

    /// Lets a purchase be due as its account's settings say now, or sooner if it was.
    pub fn reschedule(&self, record: &Record) {
        let purchase = &record.purchase;
        if let Some(lane) = self.0.lanes.get(&purchase.account) {
            self.0.sweepable(&lane, purchase);
            let status = &purchase.status;
            let rare = || (self.0).stretched(&lane, purchase.create_time, status.finality);
            lane.reschedule(purchase.id, status, (&self.0.clock, rare));
        }
    }

    /// The spans that created open purchases, which the spans of polls link to. Whoever creates fills
    /// them.
    pub fn creates(&self) -> Creates {
        self.0.creates.clone()
    }

    /// Takes up an open purchase of an earlier owner, if its account is owned. First polls are spread over
    /// an interval.
    ///
    /// # Errors
    /// The journal failed to take the word that the purchase's account is no longer configured.
    pub async fn recover(&self, record: &Record) -> Result<(), JournalError> {
        let purchase = &record.purchase;
        // An account that is gone can have a lane still, which ends.
        if self.0.accounts.get(&purchase.account).is_none() {
            return self.0.met_absent(record).await;
        }
        if let Some(lane) = self.0.lanes.get(&purchase.account) {
            lane.recover(record, &self.0.clock);
            self.0.sweepable(&lane, purchase);
        }
        Ok(())
    }

    /// The loops that poll and sweep, of each account one or two: each can fail and be begun again by
    /// itself.
    pub fn loops(&self) -> Vec<Loop> {
        let lanes = self.0.lanes.all();
        let loops = lanes.values().map(|lane| Loop::of(&self.0, lane));
        loops.flatten().collect()
    }

    /// Runs all loops as one, until [`Tracker::drain`].
    pub async fn run(&self) {
        let loops = self.loops();
        futures_util::future::join_all(loops.iter().map(Loop::run)).await;
    }

    /// Stops polling, gives held requests up and waits for commits under way.
    pub async fn drain(&self) {
        self.0.stop.cancel();
        self.0
            .lanes
            .all()
            .values()
            .for_each(|lane| lane.stop.cancel());
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The freshness of a purchase's status: its owner's word, if another replica owns the account.
    pub fn freshness(&self, purchase: &Purchase) -> Freshness {
        let here = self.freshness_here(&purchase.account, purchase.id);
        here.unwrap_or_else(|| self.freshness_elsewhere(purchase))
    }

    /// The freshness of the status of a purchase whose account is owned here; `None` if it is not.
    pub fn freshness_here(&self, account: &AccountName, purchase: PurchaseId) -> Option<Freshness> {
        let lane = self.0.lanes.get(account)?;
        let now = self.0.clock.now();
        let Some(mut freshness) = lane.freshness(purchase, &self.0.clock) else {
            return Some(Freshness {
                last_answer_time: lock(&self.0.last_answers).answered(purchase),
                ..Freshness::default()
            });
        };
        let round = self.0.next_round(&lane, purchase);
        let round = round.map(|round| self.0.clock.wall_of(round));
        freshness.next_poll_time = match (freshness.next_poll_time, round) {
            (Some(poll), Some(round)) => Some(poll.min(round.max(now))),
            (poll, _) => poll,
        };
        Some(freshness)
    }

    /// Asks the provider now, within the account's budget, and returns once what it said is
    /// committed. Refreshes of one purchase that overlap share one request. Nothing is asked about
    /// what is FINAL or has no reference yet.
    ///
    /// # Errors
    /// See [`Unheard`].
    pub async fn refresh(&self, purchase: &Purchase) -> Result<(), Unheard> {
        let status = &purchase.status;
        if status.finality == Finality::Final || status.reference.is_none() {
            return Ok(());
        }
        let Some(lane) = self.0.lanes.get(&purchase.account) else {
            return Err(match self.0.accounts.get(&purchase.account) {
                Some(_) => Unheard::NotOwned,
                None => Unheard::AccountMissing,
            });
        };
        self.0.refresh(&lane, purchase.id).await
    }

    /// The polls of an account that are due and have not begun.
    pub fn backlog(&self, account: &AccountName) -> Backlog {
        let now = self.0.clock.moment();
        let lane = self.0.lanes.get(account);
        lane.map_or_else(Backlog::default, |lane| lane.backlog(now))
    }

    /// The number of an account's purchases of which an answer is held back, since its stamp is older
    /// than the newest applied one.
    pub fn held_back(&self, account: &AccountName) -> usize {
        let lane = self.0.lanes.get(account);
        lane.map_or(0, |lane| lane.held_back())
    }

    /// The number of polls and rounds through lists that a panic has ended.
    pub fn defects(&self) -> u64 {
        let now: u64 = self.0.lanes.all().values().map(|lane| lane.defects()).sum();
        now + self.0.past_defects.load(Ordering::Relaxed)
    }

    /// The number of an account's open purchases.
    pub fn open_purchases(&self, account: &AccountName) -> usize {
        self.0.lanes.get(account).map_or(0, |lane| lane.len())
    }
}

impl Inner {
    /// A transition was committed, by whomever: its purchase is polled from now on, sooner, or no
    /// more.
    fn committed(self: &Arc<Self>, committed: &Committed) {
        let purchase = &committed.purchase;
        let status = &purchase.status;
        if status.finality == Finality::Final {
            self.creates.forget(purchase.id);
        }
        if self.accounts.get(&purchase.account).is_none() {
            self.left(purchase);
            return;
        }
        let Some(lane) = self.lanes.get(&purchase.account) else {
            return;
        };
        let answered = lifecycle::is_answered(status.state)
            && matches!(committed.cause, Cause::Create | Cause::Poll);
        if status.finality == Finality::Final {
            let known = lane
                .remove(purchase.id)
                .map(|last| self.clock.wall_of(last));
            let last = known.or_else(|| answered.then_some(status.observe_time));
            if let Some(last) = last {
                lock(&self.last_answers).remember(purchase.id, last);
            }
        } else if let Some(reference) = &status.reference
            && !self.follow(&lane, purchase, reference, answered)
        {
            return;
        }
        self.sweepable(&lane, purchase);
    }

    /// Follows an open purchase with a reference from now on, or learns its news, which bring the
    /// schedule of the new state. Returns false if they are none: a newer revision is known.
    fn follow(
        &self,
        lane: &Lane,
        purchase: &Purchase,
        reference: &Reference,
        answered: bool,
    ) -> bool {
        let rare = || self.stretched(lane, purchase.create_time, purchase.status.finality);
        lane.committed(purchase, reference, answered, (&self.clock, rare))
    }

    /// The streams that watch a purchase, on all replicas.
    fn watchers(&self, purchase: PurchaseId) -> usize {
        let here = self.watchers.get().map_or(0, |count| count(purchase));
        let elsewhere = self.exchange.get();
        here + elsewhere.map_or(0, |exchange| exchange.watchers(purchase))
    }

    /// A record, for steps that do not come from a poll.
    async fn record(&self, purchase: PurchaseId) -> Result<Option<Record>, JournalError> {
        self.journal.record(purchase).await
    }
}

#[cfg(test)]
mod tests;
