//! An account's live state: its provider, its way out, and its right to make requests.
//!
//! Every upstream call passes here: budget, breaker, requests in flight. Whose turn it is among
//! many purchases is not decided here.

mod budget;
mod class;
mod condition;
mod directory;
mod exchange;
mod figures;
mod flight;
mod gate;
mod lessons;
mod live;
mod settings;
mod shares;
mod submit;
mod teller;
mod unheard;
mod waiter;
mod waiting_room;

use std::{
    fmt,
    hash::{Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::Notify;

use crate::{
    clock::{Clock, Now},
    figures::{REQUEST_BOUNDS, Seen, Spread},
    journal::{Budgets, Limits},
    observation::Trouble,
    ownership::Tenure,
    provider::Provider,
    purchase::{AccountName, CallerName, Moment, PurchaseId},
    upstream::{Connection, Request, Response, UpstreamError},
};
pub use class::{Class, Refusal};
use class::{Denied, Granted, Inquiry};
pub use condition::Whose;
pub use directory::{Accounts, ByAccount};
pub use exchange::{Exchange, Times};
pub use figures::{Outcome, RequestCounts};
use gate::Unanswered;
use live::Live;
pub use live::{Health, Snapshot};
pub use settings::Settings;
pub use submit::Sent;
pub use unheard::Unheard;
use waiter::Waiter;

/// One configured account.
pub struct Account {
    /// Its name.
    pub name: AccountName,
    clock: Clock,
    budgets: Arc<dyn Budgets>,
    /// Guarded by a lock that is held for moments, never across a wait.
    live: Mutex<Live>,
    /// Told whenever a request may have become possible earlier than it was said.
    eased: Notify,
    /// Told when requests but creates are no longer held back by trouble.
    recovered: Notify,
    /// Held while the store is asked for a part of the budget, so that one part serves all who wait, or is
    /// told something.
    taking: tokio::sync::Mutex<()>,
    /// Told whenever there may be something that other processes should hear of.
    news: Arc<Notify>,
    /// The delays between the due times and the beginnings of polls.
    lag: Histogram,
    /// The times of requests, by class.
    request_times: [Spread; Class::ALL.len()],
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
    /// The settings that the request is made by, whatever holds by the time that it ends.
    settings: Arc<Settings>,
    inquiry: Inquiry,
    held: bool,
    /// True if it is among the requests in flight.
    in_flight: bool,
    is_probe: bool,
    longest_due: bool,
    more: u32,
    /// The last time at which it may go by its slot of the budget.
    goes_by: Moment,
    /// The last time at which the request may go.
    until: Option<Now>,
    /// The time in which it may be under way, if the account's owner alone makes such requests.
    tenure: Option<Tenure>,
    /// True if an answer came, or none will.
    ended: bool,
    /// True if the answer's status tells of no trouble, and nobody has found any in it.
    understood: bool,
}

impl Account {
    /// An account that goes on with the budget that the store has of it.
    pub async fn open(
        name: AccountName,
        settings: Settings,
        clock: Clock,
        budgets: &Arc<dyn Budgets>,
    ) -> Arc<Self> {
        let mut live = Live::new(settings, budgets.is_shared());
        if let Some(kept) = budgets.left(&name).await {
            live.budget.shares.resume(kept);
        }
        let live = Mutex::new(live);
        let (eased, recovered) = (Notify::new(), Notify::new());
        let account = Arc::new(Self {
            name,
            clock,
            budgets: Arc::clone(budgets),
            live,
            eased,
            recovered,
            taking: tokio::sync::Mutex::default(),
            news: Arc::default(),
            lag: Histogram::new(figures::LAG_BOUNDS),
            request_times: Class::ALL.map(|_| Spread::new(REQUEST_BOUNDS)),
        });
        if budgets.is_shared() {
            teller::begin(&account);
        }
        account
    }

    /// The settings of this moment.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.lock().settings)
    }

    /// Its provider, with the credentials of this moment.
    pub fn provider(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.lock().settings.provider)
    }

    /// Takes up other settings: requests that are let through from now on are made by them, requests
    /// that were let through end by the older ones. Other credentials, or another way out, make the
    /// next request the probe of an account that was in trouble.
    pub fn take_up(&self, settings: Settings) {
        let now = self.clock.moment();
        self.lock().take_up(settings, now);
        self.eased.notify_waiters();
        self.recovered.notify_one();
    }

    /// The limits by which this process is configured.
    pub fn limits(&self) -> Limits {
        self.lock().settings.limits()
    }

    /// Other processes of the store have these limits at the least: the lower ones hold for all together.
    pub fn others_allow(&self, limits: Limits) {
        let now = self.clock.moment();
        if self.lock().others_allow(limits, now) {
            self.eased.notify_waiters();
        }
    }

    /// Waits for the right to make one request, at most until `deadline`.
    ///
    /// # Errors
    /// The reason why it cannot be had by then, and when to try again. If that is known at once, it is
    /// returned at once.
    ///
    /// # Cancel safety
    /// Nothing is taken before it returns.
    pub async fn admit(
        self: &Arc<Self>,
        class: Class,
        deadline: Moment,
    ) -> Result<Admission, Refusal> {
        self.admit_to(class, None, deadline).await
    }

    /// The same for a caller's create or adoption: callers take turns. See [`Account::admit`].
    pub async fn admit_for(
        self: &Arc<Self>,
        class: Class,
        caller: &CallerName,
        deadline: Moment,
    ) -> Result<Admission, Refusal> {
        self.admit_to(class, Some(caller), deadline).await
    }

    async fn admit_to(
        self: &Arc<Self>,
        class: Class,
        caller: Option<&CallerName>,
        deadline: Moment,
    ) -> Result<Admission, Refusal> {
        let _waiting = Waiter::new(self, class, caller);
        loop {
            let eased = self.eased.notified();
            let refusal = match self.try_admit_to(class, caller).await {
                Ok(admission) => return Ok(admission),
                Err(refusal) => refusal,
            };
            if refusal.retry_at() > deadline {
                return Err(self.refused(class, caller, refusal));
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
                return Err(self.refused(class, caller, refusal));
            }
        }
    }

    /// The refusal for a caller whose wait was in vain.
    fn refused(&self, class: Class, caller: Option<&CallerName>, refusal: Refusal) -> Refusal {
        if class.is_first() {
            let now = self.clock.moment();
            self.lock().create_refused(class, caller, refusal, now);
        }
        refusal
    }

    /// The right to make one request now, or when to try again.
    pub async fn try_admit(self: &Arc<Self>, class: Class) -> Result<Admission, Refusal> {
        self.try_admit_to(class, None).await
    }

    async fn try_admit_to(
        self: &Arc<Self>,
        class: Class,
        caller: Option<&CallerName>,
    ) -> Result<Admission, Refusal> {
        loop {
            let now = self.clock.moment();
            let admitted = self.lock().admit(class, caller, now);
            match admitted {
                Ok(granted) => return Ok(Admission::new(Arc::clone(self), class, granted)),
                Err(Denied::Refused(refusal)) => return Err(refusal),
                Err(Denied::Untaken) => {}
            }
            let _taking = self.taking.lock().await;
            let now = self.clock.moment();
            let taking = self.lock().taking(class, now);
            let Some(taking) = taking else { continue };
            let Ok(taken) = self.budgets.take(&self.name, &taking).await else {
                let retry_at = self.clock.moment().plus(Duration::from_secs(1));
                return Err(Refusal::BudgetUnkept { retry_at });
            };
            let now = self.clock.moment();
            let refusal = self.lock().took(class, &taking, &taken, now);
            if let Some(refusal) = refusal {
                return Err(refusal);
            }
        }
    }

    /// Makes one request and learns from how it ends. An answer of any status is an answer here.
    ///
    /// # Cancel safety
    /// Dropping the future gives the request up; it may have been sent.
    async fn ask(
        &self,
        admission: &mut Admission,
        request: Request,
    ) -> Result<Response, Unanswered> {
        let mut result = self.send(admission, request.clone()).await?;
        // A provider that closes idle connections is met now and then in the very moment.
        if matches!(result, Err(UpstreamError::Closed)) && admission.resends().await {
            let again = request.on(Connection::Fresh);
            result = self.send(admission, again).await?;
        }
        let now = self.clock.both();
        let jitter = |longest| self.clock.up_to(longest);
        let mut live = self.lock();
        let is_old = live.is_old(&admission.settings);
        let inquiry = &mut admission.inquiry;
        live.count(inquiry.class, Outcome::of(&result));
        let was_blocked = live.condition.is_blocked();
        if !is_old {
            inquiry.own = match &result {
                Ok(response) => live.answered(inquiry, response, now, jitter),
                Err(error) => Some(live.failed(inquiry, error, now.moment, jitter)),
            };
            admission.understood = inquiry.own.is_none();
        }
        let is_recovered = was_blocked && !live.condition.is_blocked();
        drop(live);
        admission.ended = true;
        self.changed();
        if is_recovered {
            self.recovered.notify_one();
        }
        result.map_err(Unanswered::Failed)
    }

    /// Sends one request, if it may still go.
    async fn send(
        &self,
        admission: &mut Admission,
        request: Request,
    ) -> Result<Result<Response, UpstreamError>, Unanswered> {
        self.pass(admission).await?;
        let Settings {
            upstream, policy, ..
        } = &*admission.settings;
        let began = self.clock.moment();
        let sent = upstream.send(request, policy.timeout);
        let result = match &admission.tenure {
            None => sent.await,
            Some(tenure) => tokio::select! {
                // The same seed is the same run.
                biased;
                result = sent => result,
                () = tenure.ended() => return Err(Unanswered::NotOwned),
            },
        };
        let took = self.clock.moment().since(began);
        if let Some(times) = self.request_times.get(admission.class().place()) {
            times.add_time(took);
        }
        Ok(result)
    }

    /// Takes in the trouble that an answer told, if its status alone does not tell it, and says whose
    /// trouble it is. Trouble under credentials, or on a way, that are gone says nothing about the
    /// account.
    pub fn blame(&self, admission: &mut Admission, trouble: &Trouble) -> Whose {
        admission.understood = false;
        let (mut live, now) = (self.lock(), self.clock.moment());
        if live.is_old(&admission.settings) {
            return Whose::Account;
        }
        let whose = live.blame(&admission.inquiry, trouble, now);
        self.news.notify_one();
        whose
    }

    /// One row of a page made no sense.
    pub fn row_unreadable(&self) {
        self.lock().row_unreadable();
    }

    /// True if polls are held back by trouble, and not by the budget.
    pub fn is_held(&self) -> bool {
        let (live, now) = (self.lock(), self.clock.moment());
        live.condition.is_blocked() || !live.condition.paused_for(now).is_zero()
    }

    /// Says how many open purchases are polled. If they are few, all of them have to fail before the
    /// account is thought to.
    pub fn follows(&self, open: usize) {
        self.lock().condition.follows(open);
    }

    /// Waits until requests but creates are no longer held back by trouble. For one waiter.
    pub async fn recovered(&self) {
        self.recovered.notified().await;
    }

    /// A poll began this much later than it was due.
    pub fn began_late(&self, late: Duration) {
        self.lag.observe(late.as_secs_f64());
    }

    /// The times of requests that have ended, by class.
    pub fn request_times(&self) -> Vec<(Class, Seen)> {
        let classes = Class::ALL.into_iter().zip(&self.request_times);
        classes
            .map(|(class, times)| (class, times.seen()))
            .collect()
    }

    /// The delays with which polls began, so far.
    pub fn lag(&self) -> Histogram {
        self.lag.clone()
    }

    /// The rest of the provider's pause; zero if there is none.
    pub fn paused_for(&self, now: Moment) -> Duration {
        self.lock().condition.paused_for(now)
    }

    /// Its picture for an operator.
    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot(self.clock.moment())
    }

    /// A request is over, or something was learned of it: others may go, and hear of it.
    fn changed(&self) {
        self.eased.notify_waiters();
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    fn new(account: Arc<Account>, class: Class, granted: Granted) -> Self {
        let inquiry = Inquiry {
            class,
            subject: granted.number,
            number: granted.number,
            own: None,
        };
        Self {
            account,
            settings: granted.settings,
            inquiry,
            held: granted.held,
            in_flight: true,
            is_probe: granted.is_probe,
            longest_due: granted.longest_due,
            more: granted.more,
            goes_by: granted.goes_by,
            until: None,
            tenure: None,
            ended: false,
            understood: false,
        }
    }

    /// The settings that the request has to be made by.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Makes the request by these settings, since it was made up by them before.
    #[must_use]
    pub fn by(mut self, settings: &Arc<Settings>) -> Self {
        self.settings = Arc::clone(settings);
        let mut live = self.account.lock();
        if self.is_probe && live.is_old(settings) {
            // Its end will say nothing: another request has to be the probe.
            live.condition.given_up();
        }
        drop(live);
        self
    }

    /// The purpose of the request.
    pub fn class(&self) -> Class {
        self.inquiry.class
    }

    /// True if its answer shows whether the account is well again.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// True if it is for the purchase that is overdue for longest.
    pub fn is_for_longest_due(&self) -> bool {
        self.longest_due
    }

    /// The number of further polls that could be made at once.
    pub fn more(&self) -> u32 {
        self.more
    }

    /// Says which purchase the request is about.
    #[must_use]
    pub fn about(mut self, purchase: PurchaseId) -> Self {
        let bits = purchase.as_u128();
        // Ids begin with the time, so both halves count. Small numbers are other requests'.
        self.inquiry.subject = ((bits >> 64) as u64 ^ bits as u64) | 1 << 63;
        self
    }

    /// Says which list the page is of.
    #[must_use]
    pub fn about_list(mut self, list: &str) -> Self {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        list.hash(&mut hasher);
        self.inquiry.subject = hasher.finish() | 1 << 63;
        self
    }

    /// Says until when the request may go.
    #[must_use]
    pub fn until(mut self, until: Now) -> Self {
        self.until = Some(until);
        self
    }

    /// Says that the request is the account's owner's: it goes while the tenure is trusted, and is cut at
    /// its end.
    #[must_use]
    pub fn under(mut self, tenure: &Tenure) -> Self {
        self.tenure = Some(tenure.clone());
        self
    }

    /// Takes another slot, to send a read once more, and counts the first as lost. `false` for a
    /// create, and if no slot is to be had within the time of a request.
    async fn resends(&mut self) -> bool {
        let account = Arc::clone(&self.account);
        let (class, now) = (self.inquiry.class, account.clock.moment());
        if class == Class::Create {
            return false;
        }
        let Ok(first) = self.renew(now.plus(self.settings.policy.timeout)).await else {
            return false;
        };
        account.lock().count(class, Outcome::Lost);
        first.replaced();
        true
    }

    /// Takes another slot in place of its own, and hands that out.
    async fn renew(&mut self, deadline: Moment) -> Result<Self, Refusal> {
        // Given back first: if few may be in flight it would wait for itself.
        self.leave();
        let account = Arc::clone(&self.account);
        let mut again = account.admit(self.inquiry.class, deadline).await?;
        again.inquiry.subject = self.inquiry.subject;
        again.until = self.until;
        again.tenure.clone_from(&self.tenure);
        let again = again.by(&self.settings);
        Ok(std::mem::replace(self, again))
    }

    /// It was sent, and another has taken its place.
    fn replaced(mut self) {
        self.ended = true;
        self.understood = false;
    }

    /// Gives back its place among the requests in flight.
    fn leave(&mut self) {
        if std::mem::take(&mut self.in_flight) {
            self.ends_in(&mut self.account.lock());
            self.account.changed();
        }
    }

    /// Gives back its place in this state of its account.
    fn ends_in(&self, live: &mut Live) {
        let is_given_up = !self.ended && !live.is_old(&self.settings);
        live.ended(self.held, !is_given_up);
    }

    /// Gives back the place in flight of a request that was not sent. Its slot of the budget is spent.
    pub fn ends(self) {}
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut live = self.account.lock();
        if self.in_flight {
            self.ends_in(&mut live);
        }
        if !self.ended {
            live.count(self.inquiry.class, Outcome::GivenUp);
        } else if self.understood && !live.is_old(&self.settings) {
            live.condition.understood(&self.inquiry);
        }
        drop(live);
        if self.in_flight {
            self.account.changed();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Its teller ends.
        self.news.notify_one();
    }
}

#[cfg(test)]
mod tests;
