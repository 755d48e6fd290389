//! One poll: it asks, and commits what its purchase's entry decides.

use std::{sync::Arc, time::Duration};

use tracing::{Instrument as _, Span, field::Empty};

use super::{
    Inner,
    entry::{Entry, Fresh, NoAnswer, OwnWord, READ_FLOOR, Terms},
    lane::{Lane, Refreshed, Target, ToDo},
};
use crate::{
    account::{Admission, Class, Exchange, Times, Unheard, Whose},
    clock::Now,
    journal::{self, Decided, JournalError, Record, Step},
    lifecycle::{self, Source},
    observation::{Observation, Trouble},
    purchase::{Cause, Finality, Moment, PurchaseId, Reference, State, Transition},
};

/// The longest wait of a caller's refresh for the right to ask.
const REFRESH_WAIT: Duration = Duration::from_secs(2);

/// A status that was asked for: what the provider said, or nothing if it does not know the purchase.
pub(super) type Answered = Exchange<Option<Box<Observation>>>;

/// An exchange's silence about its purchase, if there was no answer.
fn silence(asked: &Answered) -> Option<NoAnswer> {
    let is_own = asked.whose == Some(Whose::Purchase);
    let (backs_off, wait) = match &asked.said {
        Ok(Some(_)) => return None,
        Ok(None) => {
            return Some(NoAnswer::Missing {
                began: asked.times.began,
            });
        }
        Err(Trouble::Throttled { retry_after }) => (is_own, *retry_after),
        Err(Trouble::Unauthorized) => (is_own, None),
        Err(Trouble::Unreachable { .. } | Trouble::Nowhere | Trouble::Unreadable { .. }) => {
            (true, None)
        }
    };
    Some(NoAnswer::Trouble {
        is_own,
        backs_off,
        wait: wait.unwrap_or_default(),
    })
}

/// The end of a poll, in one word.
fn outcome(asked: &Answered) -> &'static str {
    match &asked.said {
        Ok(Some(_)) => "answered",
        Ok(None) => "missing",
        Err(trouble) => trouble.word(),
    }
}

impl Inner {
    /// The span of one poll: its request, and the commit of what was heard.
    pub(super) fn poll_span(&self, lane: &Lane, purchase: PurchaseId) -> Span {
        let account = &lane.account;
        let span = tracing::info_span!(
            "poll",
            tillwatch.account = account.name.as_str(),
            tillwatch.provider = account.provider().row().name,
            tillwatch.purchase = %purchase,
            tillwatch.outcome = Empty,
        );
        self.creates.link(&span, purchase);
        span
    }

    /// Asks the provider about one purchase.
    pub(super) async fn ask(
        &self,
        lane: &Lane,
        turn: &Target,
        mut admission: Admission,
    ) -> Answered {
        admission = admission.under(&lane.tenure);
        let asked = lane
            .account
            .read_status(&mut admission, &turn.reference)
            .await;
        if let (Err(Trouble::Throttled { .. }), Some(Whose::Account)) = (&asked.said, asked.whose) {
            lane.suspect(turn.purchase);
        }
        Span::current().record("tillwatch.outcome", outcome(&asked));
        asked
    }

    /// Applies what was heard, or that nothing was.
    pub(super) async fn heard(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        asked: &Answered,
    ) -> Result<(), JournalError> {
        if let Ok(Some(observation)) = &asked.said {
            let observed = self.observed(lane, purchase, observation, asked.times, Source::Read);
            return observed.await.map(drop);
        }
        let Some(silence) = silence(asked) else {
            return Ok(());
        };
        let silent = || lane.silent(purchase, silence, self.clock.moment());
        self.in_turn(lane, purchase, silent).await.map(drop)
    }

    /// When a purchase is asked again.
    pub(super) fn next(&self, lane: &Lane, entry: &Entry, asked: &Answered) -> Moment {
        let rare = |create_time, finality| self.stretched(lane, create_time, finality);
        let settings = lane.account.settings();
        let terms = Terms {
            policy: &settings.policy,
            clock: &self.clock,
            rare: &rare,
        };
        entry.next(silence(asked), &terms)
    }

    /// A readable answer to a request with these times. Answers about one purchase are decided on one
    /// after the other. Says whether it has changed the status.
    pub(super) async fn observed(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        observation: &Observation,
        times: Times,
        source: Source,
    ) -> Result<bool, JournalError> {
        self.stamped(lane, observation.provider_change_time);
        let hear = || lane.hear(purchase, observation, (times, source), self.clock.moment());
        let Some(fresh) = self.in_turn(lane, purchase, hear).await? else {
            return Ok(false);
        };
        let deciding = lane.deciding(purchase, fresh);
        let Now { wall, moment: now } = self.clock.both();
        // Funds that any answer showed forbid an end by deadline, whatever this one lacks.
        let unended = observation.without_deadline().filter(|_| fresh.funds_moved);
        let observation = unended.as_ref().unwrap_or(observation);
        let provider = lane.account.provider();
        let graph = provider.graph();
        let changed_to = self
            .step(lane, purchase, |record| {
                let status = &record.purchase.status;
                let mut observation = observation.clone();
                provider.compare(&record.recovery, &mut observation);
                lifecycle::observed(status, &observation, graph, Cause::Poll, wall)
            })
            .await?;
        if let Some(change) = fresh.change {
            self.changed_singly(lane, change);
        }
        let word = deciding.settle(changed_to, now);
        self.say(lane, purchase, [word, None]).await?;
        Ok(changed_to.is_some())
    }

    /// Takes something in as soon as no other answer about its purchase is being decided on, and commits
    /// this service's own words. Returns news, which are to be committed.
    async fn in_turn(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        take_in: impl Fn() -> ToDo,
    ) -> Result<Option<Fresh>, JournalError> {
        loop {
            let decided = lane.decided();
            match take_in() {
                ToDo::Wait => decided.await,
                ToDo::Commit(fresh) => return Ok(Some(fresh)),
                ToDo::Say(words) => return self.say(lane, purchase, words).await.map(|()| None),
            }
        }
    }

    /// Commits this service's own words about a purchase.
    async fn say(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        words: [Option<OwnWord>; 2],
    ) -> Result<(), JournalError> {
        let wall = self.clock.now();
        for word in words.into_iter().flatten() {
            self.step(lane, purchase, |record| {
                let status = &record.purchase.status;
                match word {
                    OwnWord::Missing => lifecycle::found_missing(status, wall),
                    OwnWord::Unreadable => lifecycle::found_unreadable(status, wall),
                    OwnWord::Stale => lifecycle::stale(status, wall),
                    OwnWord::Over(revision) => {
                        let is_terminal = status.finality == Finality::Terminal;
                        (is_terminal && status.revision == revision)
                            .then(|| lifecycle::made_final(status, wall))
                            .flatten()
                    }
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Commits the step that `decide` makes of the newest status, if any, and returns the state that
    /// it leads to.
    async fn step(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        decide: impl Fn(&Record) -> Option<Transition> + Send + Sync,
    ) -> Result<Option<State>, JournalError> {
        let Some(record) = self.open_record(lane, purchase).await? else {
            return Ok(None);
        };
        let fence = Some(lane.tenure.fence());
        let step = |record: &Record| decide(record).map(Step::keeping);
        match journal::decide(&*self.journal, record, fence, step).await? {
            Decided::Stepped(record) => Ok(Some(record.purchase.status.state)),
            // If another purchase has the reference that the answer names, nothing changes.
            Decided::Unchanged(_) | Decided::ReferenceTaken(_) => Ok(None),
            Decided::Fenced(_) => {
                lane.tenure.lose();
                Err(JournalError::unavailable("another process has the account"))
            }
        }
    }

    /// A purchase's record, if it is open. A purchase that has become FINAL is followed no more: its end
    /// can be heard before it is taken up.
    async fn open_record(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
    ) -> Result<Option<Record>, JournalError> {
        let Some(record) = self.record(purchase).await? else {
            return Ok(None);
        };
        if record.purchase.status.finality == Finality::Final {
            lane.remove(purchase);
            self.sweepable(lane, &record.purchase);
            return Ok(None);
        }
        Ok(Some(record))
    }

    /// A caller's wish to be told now.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        purchase: PurchaseId,
    ) -> Result<(), Unheard> {
        let Some(reference) = self.refreshable(lane, purchase).await? else {
            return Ok(());
        };
        if self.stop.is_cancelled() {
            return Err(Unheard::Draining);
        }
        let asked_at = self.clock.moment();
        let mut turn_of_others = lane.refreshing(purchase).await;
        // Another refresh has asked after this call came: its answer serves, good or bad.
        if let Some(before) = &*turn_of_others
            && before.began >= asked_at
        {
            return before.result.clone();
        }
        let began = self.clock.moment();
        let result = self.refresh_once(lane, purchase, reference, asked_at).await;
        *turn_of_others = Some(Refreshed {
            began,
            result: result.clone(),
        });
        result
    }

    /// The reference of a purchase that a caller wants to be told of; `None` if there is nothing to ask
    /// any more. A purchase that was not followed here is, from now on.
    async fn refreshable(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
    ) -> Result<Option<Reference>, JournalError> {
        if let Some(Some(text)) = lane.with(purchase, |entry| entry.reference.clone()) {
            return Ok(Reference::from_canonical(&text));
        }
        let Some(record) = self.record(purchase).await? else {
            return Ok(None);
        };
        let status = &record.purchase.status;
        let is_open = status.finality != Finality::Final;
        let reference = status.reference.clone().filter(|_| is_open);
        if reference.is_some() {
            lane.recover(&record, &self.clock);
            self.sweepable(lane, &record.purchase);
        }
        Ok(reference)
    }

    async fn refresh_once(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        purchase: PurchaseId,
        reference: Reference,
        asked_at: Moment,
    ) -> Result<(), Unheard> {
        let is_read = lane.with(purchase, |entry| {
            entry
                .read
                .is_some_and(|read| read.plus(READ_FLOOR) > asked_at)
        });
        // A poll came first, or the purchase has become FINAL while it waited for its turn.
        if is_read != Some(false) {
            return Ok(());
        }
        let deadline = self.clock.moment().plus(REFRESH_WAIT);
        let admission = lane.account.admit(Class::Refresh, deadline).await;
        let admission = admission.map_err(Unheard::Refused)?.about(purchase);
        let turn = Target {
            purchase,
            reference,
        };
        let polled = async {
            let asked = self.ask(lane, &turn, admission).await;
            let heard = self.heard(lane, purchase, &asked).await;
            heard.map(|()| asked)
        };
        let asked = polled.instrument(self.poll_span(lane, purchase)).await?;
        asked
            .said
            .map(drop)
            .map_err(|trouble| lane.account.unheard(trouble))
    }
}
