//! The words that replicas leave for each other: who watches where, what owners tell, refreshes that are
//! passed on to them, and accounts as their owners know them.
//!
//! Nothing here decides about a purchase. If words are lost or late, polls and freshness are as if nobody
//! watched elsewhere, and whoever waits for a refresh waits longer.

mod allowance;
mod owed;
mod view;
mod wishes;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    clock::Clock,
    journal::{BOARD_ROWS_MAX, Board, Fence, JournalError, Outcome, Refreshed, Told},
    progress::Progress,
    purchase::{AccountName, Freshness, Moment, Purchase, PurchaseId},
};
use allowance::Allowance;
use owed::Owed;
pub use view::{AccountHealth, AccountView};
use wishes::Wishes;

/// The interval of rounds.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// The same, while somebody here waits for a refresh.
const WAITED_EVERY: Duration = Duration::from_millis(200);
/// The least time between two rounds, whoever wants one.
const PAUSE: Duration = Duration::from_millis(20);
/// The interval at which accounts are shown, and read.
const SHOWN_EVERY: Duration = Duration::from_secs(5);
/// The interval at which the process that keeps house takes away what nobody needs.
const TIDIED_EVERY: Duration = Duration::from_secs(60);
/// The longest wait for the end of a refresh that was passed on.
const REFRESH_MAX: Duration = Duration::from_secs(60);

/// The rooms that answer for the accounts of this process.
#[async_trait]
pub trait Answers: Send + Sync {
    /// The freshness of a purchase of an account that is owned here.
    fn freshness(&self, account: &AccountName, purchase: PurchaseId) -> Freshness;

    /// Asks a purchase's provider now. Returns the outcome, once everything that was said is committed, and
    /// the time to try again, if there is such a time.
    async fn refresh(&self, purchase: PurchaseId) -> (Outcome, Option<Moment>);

    /// All accounts that are configured here.
    fn accounts(&self) -> Vec<AccountName>;

    /// An account that is owned here, as its callers may see it.
    fn view(&self, account: &AccountName) -> Option<AccountView>;
}

/// The end of the wait for a refresh that was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// The owner has answered.
    Ended {
        /// The outcome.
        outcome: Outcome,
        /// The time to try again, if there is such a time.
        retry_at: Option<Moment>,
    },
    /// This process owns the account by now.
    Here,
    /// Nobody has answered for a minute.
    Unanswered,
}

/// The answer to somebody who waits for a refresh.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Ended(Refreshed),
    Here,
}

/// The exchange of one process with the others. Clones are the same. In a store that has one process there
/// is nobody to talk to, and nothing is kept.
#[derive(Clone)]
pub struct Exchange(Arc<Inner>);

struct Inner {
    board: Arc<dyn Board>,
    clock: Clock,
    /// Neither of these locks is held while another is taken.
    wishes: Mutex<Wishes>,
    owed: Mutex<Owed>,
    /// The accounts that others own, as they have shown them.
    views: Mutex<BTreeMap<AccountName, AccountView>>,
    keeps_house: AtomicBool,
    /// Told when a round is wanted at once.
    wanted: Notify,
    progress: Progress,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Exchange")
            .field("board", &self.0.board)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A wait for a refresh. If it is given up, the owner hears of it.
struct Waiting<'a> {
    inner: &'a Inner,
    purchase: PurchaseId,
    answer: Option<oneshot::Receiver<Answer>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        drop(self.answer.take());
        lock(&self.inner.wishes).stop_waiting(self.purchase);
    }
}

/// The state of the rounds.
#[derive(Debug, Default)]
struct Rounds {
    mark: Option<u64>,
    /// Purchases that may pass on their way to others, and from them: wishes, and words.
    allowances: [[Allowance; 2]; 2],
    shown_at: Option<Moment>,
    tidied_at: Option<Moment>,
}

/// Refreshes on their way to whoever answers.
type Begun = mpsc::UnboundedSender<(PurchaseId, u64)>;

impl Exchange {
    /// The exchange over a board. It says and hears nothing before [`Exchange::run`].
    pub fn new(board: Arc<dyn Board>, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            board,
            clock,
            wishes: Mutex::default(),
            owed: Mutex::default(),
            views: Mutex::default(),
            keeps_house: AtomicBool::new(false),
            wanted: Notify::new(),
            progress: Progress::new("exchange"),
        }))
    }

    /// True if there is anybody to talk to.
    pub fn is_shared(&self) -> bool {
        self.0.board.is_shared()
    }

    /// The progress of [`Exchange::run`].
    pub fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// This process owns an account from now on, or keeps house.
    pub fn own(&self, account: &AccountName) {
        if !self.is_shared() {
            return;
        }
        if *account == Fence::housekeeping() {
            self.0.keeps_house.store(true, Ordering::Relaxed);
            return;
        }
        lock(&self.0.owed).own(account);
        lock(&self.0.wishes).own(account);
        lock(&self.0.views).remove(account);
        self.0.wanted.notify_one();
    }

    /// This process owns an account no more, or does not keep house any more.
    pub fn disown(&self, account: &AccountName) {
        if *account == Fence::housekeeping() {
            self.0.keeps_house.store(false, Ordering::Relaxed);
            return;
        }
        lock(&self.0.owed).disown(account);
        lock(&self.0.wishes).disown(account);
    }

    /// One more stream of this process watches a purchase.
    pub fn watch(&self, purchase: &Purchase) {
        if self.is_shared() {
            lock(&self.0.wishes).watch(purchase.id, &purchase.account);
        }
    }

    /// One stream fewer of this process watches a purchase.
    pub fn unwatch(&self, purchase: PurchaseId) {
        if self.is_shared() {
            lock(&self.0.wishes).unwatch(purchase);
        }
    }

    /// The streams of other processes that watch a purchase whose account is owned here.
    pub fn watchers(&self, purchase: PurchaseId) -> usize {
        match self.is_shared() {
            true => lock(&self.0.owed).watchers(purchase),
            false => 0,
        }
    }

    /// The freshness of a purchase whose account another process owns; `None` until that has said it. Its
    /// owner is asked for it for a minute from now on.
    pub fn freshness(&self, purchase: &Purchase) -> Option<Freshness> {
        if !self.is_shared() {
            return None;
        }
        let now = self.0.clock.moment();
        let told = lock(&self.0.wishes).ask(purchase.id, &purchase.account, now)?;
        let time = |moment: Moment| self.0.clock.wall_of(moment);
        Some(Freshness {
            last_answer_time: told.answered.map(time),
            next_poll_time: told.next_poll.map(|at| time(at.max(now))),
            consecutive_failures: told.failures,
            held_back_since_time: told.held_back_since.map(time),
        })
    }

    /// Passes the wish to hear of a purchase now on to the owner of its account, and waits for the end of
    /// that, for a minute at the most. Waits for one purchase that overlap share an end.
    ///
    /// # Cancel safety
    /// The owner may ask the provider all the same.
    pub async fn refresh(&self, purchase: &Purchase) -> Passed {
        let inner = &*self.0;
        if !self.is_shared() {
            return Passed::Unanswered;
        }
        let (answer, answered) = oneshot::channel();
        if !lock(&inner.wishes).wait(purchase.id, &purchase.account, answer) {
            return Passed::Here;
        }
        let mut waiting = Waiting {
            inner,
            purchase: purchase.id,
            answer: Some(answered),
        };
        inner.wanted.notify_one();
        let Some(answered) = &mut waiting.answer else {
            return Passed::Unanswered;
        };
        match tokio::time::timeout(REFRESH_MAX, answered).await {
            Ok(Ok(Answer::Ended(ended))) => Passed::Ended {
                outcome: ended.outcome,
                retry_at: ended.retry_at,
            },
            Ok(Ok(Answer::Here)) => Passed::Here,
            Ok(Err(_)) | Err(_) => Passed::Unanswered,
        }
    }

    /// An account that another process owns, as that has shown it within half a minute.
    pub fn account(&self, account: &AccountName) -> Option<AccountView> {
        lock(&self.0.views).get(account).cloned()
    }

    /// Talks to the others, for ever. After a panic it can be run again.
    pub async fn run(&self, answers: &dyn Answers) {
        let inner = &*self.0;
        lock(&inner.owed).restart();
        let (begun, begins) = mpsc::unbounded_channel();
        tokio::join!(
            inner.rounds(answers, &begun),
            inner.refreshes(answers, begins)
        );
    }
}

impl Inner {
    async fn rounds(&self, answers: &dyn Answers, begun: &Begun) {
        let mut rounds = Rounds::default();
        loop {
            self.progress.round().await;
            let round = async {
                self.wish(&mut rounds).await?;
                self.hear_wishes(&mut rounds, begun).await?;
                self.tell(&mut rounds, answers).await?;
                self.hear(&mut rounds).await?;
                self.show(&mut rounds, answers).await?;
                self.tidy(&mut rounds).await
            };
            if let Err(error) = self.progress.across(round).await {
                tracing::debug!(%error, "the other replicas cannot be talked to");
            }
            let wait = match lock(&self.wishes).has_waiters() {
                true => WAITED_EVERY,
                false => ROUND_EVERY,
            };
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                // The same seed is the same run.
                biased;
                () = self.wanted.notified() => {}
                () = self.progress.asked() => {}
                () = tokio::time::sleep(wait - PAUSE) => {}
            }
        }
    }

    /// Puts the wishes that have changed. If the board was emptied, or a call before may still be on its
    /// way, everything is put again.
    async fn wish(&self, rounds: &mut Rounds) -> Result<(), JournalError> {
        loop {
            let mark = match rounds.mark {
                Some(mark) => mark,
                None => {
                    let mark = self.board.mark().await?;
                    lock(&self.wishes).again();
                    *rounds.mark.insert(mark)
                }
            };
            let now = self.clock.moment();
            let [[allowance, _], _] = &mut rounds.allowances;
            let wishes = lock(&self.wishes).put(now, allowance.left(now));
            allowance.spend(wishes.len());
            // Without an answer nobody knows if they were put.
            rounds.mark = None;
            let Some(numbers) = self.board.wish(mark, &wishes).await? else {
                continue;
            };
            rounds.mark = Some(mark);
            lock(&self.wishes).were_put(&wishes, &numbers);
            return Ok(());
        }
    }

    /// Reads the wishes of the others, and lets refreshes begin.
    async fn hear_wishes(&self, rounds: &mut Rounds, begun: &Begun) -> Result<(), JournalError> {
        let asked = lock(&self.owed).accounts();
        if !asked.is_empty() {
            let now = self.clock.moment();
            let [[_, allowance], _] = &mut rounds.allowances;
            let sheet = self.board.wanted(&asked, allowance.left(now)).await?;
            allowance.spend(sheet.wanted.len());
            lock(&self.owed).read(&asked, sheet, self.clock.moment());
        }
        let refreshes = lock(&self.owed).begin();
        for refresh in refreshes {
            // The other end is in the same future.
            begun.send(refresh).ok();
        }
        Ok(())
    }

    /// Tells the others what they wish to hear.
    async fn tell(&self, rounds: &mut Rounds, answers: &dyn Answers) -> Result<(), JournalError> {
        let now = self.clock.moment();
        let [_, [allowance, _]] = &mut rounds.allowances;
        let due = lock(&self.owed).due(now, allowance.left(now));
        let known = due.into_iter().map(|(purchase, account)| {
            let freshness = answers.freshness(&account, purchase);
            let moment = |time| self.clock.moment_of(time);
            Told {
                purchase,
                answered: freshness.last_answer_time.map(moment),
                next_poll: freshness.next_poll_time.map(moment),
                held_back_since: freshness.held_back_since_time.map(moment),
                failures: freshness.consecutive_failures,
                refreshed: None,
            }
        });
        // The lanes' locks come before this one.
        let known: Vec<Told> = known.collect();
        let told = lock(&self.owed).tell(known);
        if told.is_empty() {
            return Ok(());
        }
        allowance.spend(told.len());
        let put = self.board.tell(&told).await;
        if put.is_err() {
            lock(&self.owed).untold(&told, self.clock.moment());
        }
        put
    }

    /// Reads the words of the others.
    async fn hear(&self, rounds: &mut Rounds) -> Result<(), JournalError> {
        let now = self.clock.moment();
        let [_, [_, allowance]] = &mut rounds.allowances;
        let purchases = lock(&self.wishes).read(now, allowance.left(now));
        if purchases.is_empty() {
            return Ok(());
        }
        allowance.spend(purchases.len());
        let told = self.board.told(&purchases).await?;
        lock(&self.wishes).hear(told);
        Ok(())
    }

    /// Shows the accounts that are owned here, and reads the others.
    async fn show(&self, rounds: &mut Rounds, answers: &dyn Answers) -> Result<(), JournalError> {
        let now = self.clock.moment();
        if (rounds.shown_at).is_some_and(|at| now.since(at) < SHOWN_EVERY) {
            return Ok(());
        }
        rounds.shown_at = Some(now);
        let owned = lock(&self.owed).accounts();
        let owned: Vec<AccountName> = owned.into_iter().map(|(account, _)| account).collect();
        let views = owned.iter().filter_map(|account| {
            let view = answers.view(account)?;
            Some((account.clone(), view.text()))
        });
        let views: Vec<(AccountName, String)> = views.collect();
        for views in views.chunks(BOARD_ROWS_MAX) {
            self.board.show(views).await?;
        }
        let mut others = answers.accounts();
        others.retain(|account| !owned.contains(account));
        let mut shown = Vec::new();
        for others in others.chunks(BOARD_ROWS_MAX) {
            shown.extend(self.board.shown(others).await?);
        }
        let shown = shown.into_iter();
        let shown =
            shown.filter_map(|(account, text)| Some((account, AccountView::of_text(&text)?)));
        *lock(&self.views) = shown.collect();
        Ok(())
    }

    async fn tidy(&self, rounds: &mut Rounds) -> Result<(), JournalError> {
        let now = self.clock.moment();
        let is_time = (rounds.tidied_at).is_none_or(|at| now.since(at) >= TIDIED_EVERY);
        if !is_time || !self.keeps_house.load(Ordering::Relaxed) {
            return Ok(());
        }
        rounds.tidied_at = Some(now);
        self.board.tidy().await.map(drop)
    }

    /// Answers the refreshes of others.
    async fn refreshes(
        &self,
        answers: &dyn Answers,
        mut begins: mpsc::UnboundedReceiver<(PurchaseId, u64)>,
    ) {
        let mut under_way = FuturesUnordered::new();
        let answer = |purchase, number| async move {
            let (outcome, retry_at) = answers.refresh(purchase).await;
            let ended = Refreshed {
                number,
                outcome,
                retry_at,
            };
            (purchase, ended)
        };
        loop {
            tokio::select! {
                biased;
                Some((purchase, ended)) = under_way.next() => {
                    lock(&self.owed).end(purchase, ended, self.clock.moment());
                    self.wanted.notify_one();
                }
                Some((purchase, number)) = begins.recv() => under_way.push(answer(purchase, number)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
