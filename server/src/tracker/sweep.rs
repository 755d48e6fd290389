//! Rounds through a provider's lists, beside the lane's single polls.
//!
//! While rounds go well, purchases that they show are read singly less often; a purchase that they
//! do not show, and all of them when rounds fail, are read by themselves as if there were no sweep.

mod known;
mod singly;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, FuturesUnordered},
};

use tracing::{Instrument as _, Span, field::Empty};

use super::{Inner, digest::digest, lane::Lane, lock};
use crate::{
    account::{Account, Admission, Class, Settings, Times},
    cadence::budget::backoff,
    clock::Now,
    journal::{JournalError, Write},
    lifecycle::Source,
    observation::Trouble,
    progress::Progress,
    provider::sweep::{Coverage, Cursor, Page, Row, Sweep, Wanted},
    purchase::{AccountName, Finality, Moment, PurchaseId, Timestamp},
};
pub(super) use known::SingleNews;
use known::{Known, Shown, Worth};

/// The longest wait for the right to ask for a page until the wait begins anew.
const ADMISSION: Duration = Duration::from_secs(60);
/// The wait after a page that failed; doubled while they come in a row.
const RETRY_BASE: Duration = Duration::from_secs(1);
/// The longest of these waits, unless the account's interval is longer.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Rows of a page whose news are committed at once, so that they share a commit.
const APPLIED_AT_ONCE: usize = 32;
/// Pages of one round: a provider that always has another page does not hold a round for ever.
const PAGES_MAX: usize = 1_000;

/// The sweeps of one account.
pub(super) struct Sweeper {
    account: AccountName,
    known: Mutex<Known>,
    /// Of the loop that sweeps.
    pub(super) progress: Progress,
}

/// A page that was read.
struct Read {
    page: Page,
    times: Times,
    /// When it was answered, by the provider's clock if that is told.
    answered: Timestamp,
}

/// An event that the loop of sweeps waits for.
enum Event {
    /// The tracker stops.
    Stopped,
    /// A list's round has ended, with the wait until the next if that is not the regular one.
    Ended(String, Option<Duration>),
    /// A list is due.
    Due,
    /// The settings have changed.
    Changed,
}

/// A round's early end.
enum Cut {
    /// The tracker stops.
    Stopped,
    /// The list is longer than all single reads: it begins later from now on.
    Narrower,
    /// A page says nothing, or not what was asked.
    Failed,
    /// The account has to wait, or what a page said cannot be committed now.
    Later,
}

/// The span of one page: its request, and the commits of what its rows say.
fn page_span(account: &Account) -> Span {
    tracing::info_span!(
        "sweep",
        tillwatch.account = account.name.as_str(),
        tillwatch.provider = account.provider().row().name,
        tillwatch.outcome = Empty,
    )
}

impl From<JournalError> for Cut {
    fn from(_: JournalError) -> Self {
        Self::Later
    }
}

impl Sweeper {
    /// The sweeper of an account, if its provider has lists.
    pub(super) fn of(account: &Account) -> Option<Self> {
        let provider = account.provider();
        let known = Known::new(provider.sweep()?, account.settings().policy.sweep);
        Some(Self {
            account: account.name.clone(),
            known: Mutex::new(known),
            progress: Progress::new("sweep"),
        })
    }

    /// Lists are read, or no more, as the settings say now.
    pub(super) fn allow(&self, settings: &Settings) {
        let mut known = lock(&self.known);
        if let Some(sweep) = settings.provider.sweep()
            && known.is_allowed != settings.policy.sweep
        {
            *known = Known::new(sweep, settings.policy.sweep);
        }
    }

    /// A single read's answer had this stamp.
    pub(super) fn stamped(&self, stamp: Timestamp) {
        lock(&self.known).stamped(stamp);
    }

    /// See [`Known::changed`].
    pub(super) fn changed(&self, change: SingleNews) {
        lock(&self.known).changed(change);
    }

    fn key(&self, list: &str) -> String {
        format!("sweep/{}/{list}", self.account)
    }
}

impl Inner {
    /// Sweeps one account's lists, until the tracker stops.
    pub(super) async fn sweep(self: &Arc<Self>, lane: &Arc<Lane>, sweeper: &Sweeper) {
        // For the shape of the lists alone: each page is asked for by the settings of its moment.
        let provider = lane.account.provider();
        let Some(sweep) = provider.sweep() else {
            return;
        };
        let interval = || lane.account.settings().policy.schedule.first();
        let mut first = None;
        let mut was_allowed = false;
        // When each list is next read that is not being read: one that fails or hangs holds no other up.
        let mut next: BTreeMap<String, Moment> = BTreeMap::new();
        let mut reading: BTreeSet<String> = BTreeSet::new();
        let mut rounds = FuturesUnordered::new();
        loop {
            sweeper.progress.round().await;
            let is_allowed = lock(&sweeper.known).is_allowed;
            if !is_allowed {
                was_allowed = false;
                rounds.clear();
                reading.clear();
                next.clear();
                let event = sweeper.progress.across(async {
                    tokio::select! {
                        biased;
                        () = lane.stop.cancelled() => Event::Stopped,
                        () = lane.changed.notified() => Event::Changed,
                    }
                });
                match event.await {
                    Event::Stopped => return,
                    _ => continue,
                }
            }
            if !was_allowed {
                was_allowed = true;
                first = Some(self.clock.moment().plus(self.clock.up_to(interval())));
            }
            let regular = self
                .clock
                .moment()
                .plus(self.clock.jittered(interval(), 100));
            let at = first.or_else(|| next.values().min().copied());
            let at = at.unwrap_or(regular);
            lock(&sweeper.known).next_round = Some(at);
            // Rounds wait for the provider, the budget and the disk.
            let event = sweeper.progress.across(async {
                tokio::select! {
                    biased;
                    () = lane.stop.cancelled() => Event::Stopped,
                    Some((list, wait)) = rounds.next() => Event::Ended(list, wait),
                    () = tokio::time::sleep(at.since(self.clock.moment())) => Event::Due,
                    () = lane.changed.notified() => Event::Changed,
                }
            });
            match event.await {
                Event::Stopped => return,
                Event::Ended(list, wait) => {
                    let wait = wait.unwrap_or_else(|| self.clock.jittered(interval(), 100));
                    reading.remove(&list);
                    next.insert(list, self.clock.moment().plus(wait));
                    continue;
                }
                Event::Due => first = None,
                Event::Changed => {
                    let soonest = self.clock.moment().plus(interval());
                    next.values_mut()
                        .for_each(|next| *next = (*next).min(soonest));
                }
            }
            let lists = lock(&sweeper.known).lists();
            if lists.is_empty() {
                self.unstretch(lane, sweeper, None).await;
            }
            next.retain(|list, _| lists.contains(list));
            let now = self.clock.moment();
            for list in lists {
                if reading.contains(&list) || next.get(&list).is_some_and(|next| *next > now) {
                    continue;
                }
                next.remove(&list);
                reading.insert(list.clone());
                rounds.push(async move {
                    let round = self.round_of(lane, sweeper, sweep, &list);
                    // A defect that one list's answers meet ends no other list's rounds.
                    let wait = AssertUnwindSafe(round).catch_unwind().await;
                    let Ok(wait) = wait else {
                        lane.defect();
                        let wait = self.failed(lane, sweeper, &list).await;
                        return (list, Some(wait));
                    };
                    (list, wait)
                });
            }
        }
    }

    /// One round through one list. Returns the wait until the next, if that is not the regular one.
    async fn round_of(
        &self,
        lane: &Lane,
        sweeper: &Sweeper,
        sweep: &dyn Sweep,
        list: &str,
    ) -> Option<Duration> {
        let began = self.clock.moment();
        match self.round(lane, sweeper, sweep, list).await {
            Ok(()) => {
                let hides = {
                    let mut known = lock(&sweeper.known);
                    known.succeeded(list);
                    known.ended(list, began)
                };
                if hides {
                    let account = &lane.account.name;
                    tracing::warn!(%account, list, "a list does not show what single reads find");
                    self.unstretch(lane, sweeper, None).await;
                }
                None
            }
            Err(Cut::Stopped | Cut::Later) => None,
            Err(Cut::Narrower) => Some(Duration::ZERO),
            Err(Cut::Failed) => Some(self.failed(lane, sweeper, list).await),
        }
    }

    /// A round has failed. Returns the wait until the next.
    async fn failed(&self, lane: &Lane, sweeper: &Sweeper, list: &str) -> Duration {
        let (failures, is_well) = {
            let mut known = lock(&sweeper.known);
            let failures = known.failed(list);
            let is_well = known.singly_every(self.clock.now(), Finality::Open);
            (failures, is_well.is_some())
        };
        if !is_well {
            self.unstretch(lane, sweeper, None).await;
        }
        let longest = RETRY_MAX.max(lane.account.settings().policy.schedule.first());
        let wait = backoff(RETRY_BASE, failures, longest);
        self.clock.jittered(wait, 500)
    }

    async fn round(
        &self,
        lane: &Lane,
        sweeper: &Sweeper,
        sweep: &dyn Sweep,
        list: &str,
    ) -> Result<(), Cut> {
        if sweep.coverage() == Coverage::Changes {
            self.resume(sweeper, list).await?;
        }
        let Now {
            wall,
            moment: began,
        } = self.clock.both();
        let created = match sweep.coverage() {
            Coverage::Changes => Vec::new(),
            Coverage::All => sweeper.created().await,
        };
        let (mut place, left_out) = {
            let mut known = lock(&sweeper.known);
            let oldest = known.oldest(created);
            let narrowed = (oldest > known.since).then_some(oldest).flatten();
            known.since = oldest;
            (known.start(sweep, list, wall), narrowed)
        };
        if sweep.coverage() == Coverage::All && left_out.is_some() {
            self.unstretch(lane, sweeper, left_out).await;
        }
        let mut seen = 0;
        for _ in 0..PAGES_MAX {
            let admission = self.page_admission(lane, list).await?;
            let span = page_span(&lane.account);
            let page = self.page(lane, sweeper, sweep, (list, &place), admission);
            let Read {
                page,
                times,
                answered,
            } = page.instrument(span.clone()).await?;
            match lock(&sweeper.known).worth(page.pages) {
                Worth::Read => {}
                Worth::Narrower => return Err(Cut::Narrower),
                Worth::Nothing => return Err(Cut::Failed),
            }
            // A drain waits for what was heard, as it does for polls.
            let applied = self.apply(lane, sweeper, sweep, page.rows, times);
            let applied = lane.tasks.track_future(applied.instrument(span));
            seen += self.tasks.track_future(applied).await?;
            match sweep.coverage() {
                Coverage::Changes => {
                    let now = self.clock.moment();
                    lock(&sweeper.known).reached(list, page.next.clone(), answered, now);
                }
                Coverage::All => self.check(lane, sweeper),
            }
            place = page.next;
            if page.is_last {
                return match sweep.coverage() {
                    Coverage::Changes => Ok(self.keep(lane, sweeper, list).await?),
                    Coverage::All => self.missing(lane, sweeper, began, seen).await,
                };
            }
        }
        Ok(self.keep(lane, sweeper, list).await?)
    }

    /// Goes on from the place where an earlier process ended.
    async fn resume(&self, sweeper: &Sweeper, list: &str) -> Result<(), JournalError> {
        if lock(&sweeper.known).kept(list).is_some() {
            return Ok(());
        }
        let kept = self.journal.get(&sweeper.key(list)).await?;
        if let Some(place) = kept.as_deref().and_then(Cursor::parse) {
            let Now { wall, moment } = self.clock.both();
            lock(&sweeper.known).reached(list, place, wall, moment);
        }
        Ok(())
    }

    /// Keeps the place up to which a list was read, if that has changed.
    async fn keep(&self, lane: &Lane, sweeper: &Sweeper, list: &str) -> Result<(), JournalError> {
        let place = lock(&sweeper.known).kept(list).map(ToString::to_string);
        let key = sweeper.key(list);
        let Some(value) = place else { return Ok(()) };
        if self.journal.get(&key).await?.as_ref() == Some(&value) {
            return Ok(());
        }
        let put = Write::Put {
            key,
            fence: Some(lane.tenure.fence().clone()),
            value,
        };
        self.journal.write(put).await.map(drop)
    }

    /// Waits for the right to ask for a page.
    async fn page_admission(&self, lane: &Lane, list: &str) -> Result<Admission, Cut> {
        let account = &lane.account;
        loop {
            let deadline = self.clock.moment().plus(ADMISSION);
            let admitted = tokio::select! {
                biased;
                () = lane.stop.cancelled() => return Err(Cut::Stopped),
                admitted = account.admit(Class::Sweep, deadline) => admitted,
            };
            let refusal = match admitted {
                Ok(admission) => return Ok(admission.about_list(list).under(&lane.tenure)),
                Err(refusal) => refusal,
            };
            let wait = refusal.retry_at().since(self.clock.moment());
            tokio::select! {
                biased;
                () = lane.stop.cancelled() => return Err(Cut::Stopped),
                () = tokio::time::sleep(wait.max(RETRY_BASE)) => {}
            }
        }
    }

    /// One page.
    async fn page(
        &self,
        lane: &Lane,
        sweeper: &Sweeper,
        sweep: &dyn Sweep,
        (list, place): (&str, &Cursor),
        mut admission: Admission,
    ) -> Result<Read, Cut> {
        let account = &lane.account;
        let rows = lock(&sweeper.known).rows(list);
        let wanted = Wanted { list, place, rows };
        let provider = Arc::clone(&admission.settings().provider);
        let request = provider.sweep().unwrap_or(sweep).request(wanted);
        let (of_list, from) = (list.to_owned(), place.clone());
        let read = move |answer: &_, now| {
            let (list, place) = (of_list.as_str(), &from);
            let wanted = Wanted { list, place, rows };
            match provider.sweep() {
                Some(sweep) => sweep.read(wanted, answer, now),
                None => Err(Trouble::unreadable("the provider has no lists")),
            }
        };
        let asked = tokio::select! {
            biased;
            () = lane.stop.cancelled() => return Err(Cut::Stopped),
            asked = account.read(&mut admission, request, read) => asked,
        };
        let outcome = asked
            .said
            .as_ref()
            .map_or_else(Trouble::word, |_| "answered");
        Span::current().record("tillwatch.outcome", outcome);
        match asked.said {
            Ok(page) => Ok(Read {
                page,
                times: asked.times,
                answered: asked.answered,
            }),
            Err(trouble) => {
                tracing::debug!(account = %account.name, list, ?trouble, "a page says nothing");
                Err(match trouble {
                    // The account has to wait, and the list is as good as before.
                    Trouble::Throttled { .. } => Cut::Later,
                    // Single reads say whether only the list is refused.
                    Trouble::Unauthorized
                    | Trouble::Unreachable { .. }
                    | Trouble::Nowhere
                    | Trouble::Unreadable { .. } => Cut::Failed,
                })
            }
        }
    }

    /// Applies what the rows say of the purchases that are open here. Returns how many there were.
    async fn apply(
        &self,
        lane: &Lane,
        sweeper: &Sweeper,
        sweep: &dyn Sweep,
        rows: Vec<Row>,
        times: Times,
    ) -> Result<usize, JournalError> {
        let ours: Vec<(PurchaseId, Row)> = {
            let known = lock(&sweeper.known);
            let mine = |row: Row| Some((known.find(&row.reference)?, row));
            rows.into_iter().filter_map(mine).collect()
        };
        let count = ours.len();
        let applied = ours.into_iter().map(|(purchase, row)| async move {
            match row.said {
                Ok(observation) => {
                    let shown = Shown {
                        purchase,
                        stamp: observation.provider_change_time,
                        digest: digest(&observation),
                        began: times.began,
                    };
                    if lock(&sweeper.known).shown(shown) {
                        return Ok(());
                    }
                    let is_news = self
                        .observed(lane, purchase, &observation, times, Source::Row)
                        .await?;
                    if is_news {
                        lock(&sweeper.known).brought_news();
                    }
                    if sweep.coverage() == Coverage::All {
                        self.shown(lane, sweeper, purchase);
                    }
                }
                Err(_) => {
                    lane.account.row_unreadable();
                    self.soon(lane, purchase);
                }
            }
            Ok(())
        });
        let applied: Vec<Result<(), JournalError>> = stream::iter(applied)
            .buffer_unordered(APPLIED_AT_ONCE)
            .collect()
            .await;
        applied.into_iter().collect::<Result<(), _>>()?;
        Ok(count)
    }

    /// Tells the account's sweeper the change time that an answer showed.
    pub(super) fn stamped(&self, lane: &Lane, stamp: Option<Timestamp>) {
        if let (Some(sweeper), Some(stamp)) = (&lane.sweeper, stamp) {
            sweeper.stamped(stamp);
        }
    }

    /// A single read has shown a change, which the account's lists have to show, too.
    pub(super) fn changed_singly(&self, lane: &Lane, change: SingleNews) {
        if let Some(sweeper) = &lane.sweeper {
            sweeper.changed(change);
        }
    }
}

#[cfg(test)]
mod tests;
