//! One poll: the request, what its answer changes, and when to ask again.

use std::{sync::Arc, time::Duration};

use super::{
    Inner, RefreshError,
    digest::digest,
    entry::{Entry, READ_FLOOR},
    lane::{Lane, Refreshed, Turn},
    sweep::Change,
};
use crate::{
    account::{Admission, Class, Whose},
    cadence::budget::backoff,
    clock::Now,
    journal::{AttemptChange, JournalError, Record, Write, Written},
    lifecycle::{self, Horizon, Source, Verdict},
    observation::{Answer, Observation, Trouble},
    purchase::{Cause, Finality, Moment, PurchaseId, Reference, State, Transition},
    upstream::{self, UpstreamError},
};

/// How long after its creation a purchase may be unknown to its provider.
const MISSING_ALLOWED: Duration = Duration::from_secs(60);
/// The wait after a poll without a readable answer; doubled while they come in a row.
pub(super) const RETRY_BASE: Duration = Duration::from_secs(1);
/// The longest of these waits. Ours.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(120);
/// After how long without a readable answer a person is told. Ours.
const UNREADABLE_AFTER: Duration = Duration::from_secs(600);
/// How often a step is decided anew when others commit in between.
const DECISIONS_MAX: usize = 16;
/// How often a last read is tried after the horizon. Ours.
const LAST_READ_EVERY: Duration = Duration::from_secs(3_600);
/// How long a caller's refresh waits for the right to ask.
const REFRESH_WAIT: Duration = Duration::from_secs(2);

/// An answer with the times around it.
pub(super) struct Asked {
    answer: Answer,
    /// Whose trouble it tells of, if any.
    whose: Option<Whose>,
    /// When the request began, and when its answer arrived.
    began: Moment,
    arrived: Moment,
}

impl Asked {
    fn times(&self) -> Times {
        Times {
            began: self.began,
            arrived: self.arrived,
        }
    }

    /// Whether the purchase is asked about less often for it: an account in trouble waits as a whole,
    /// and one that may not be known yet is asked for.
    fn backs_off(&self, entry: &Entry) -> bool {
        match &self.answer {
            Answer::Observed(_) => false,
            Answer::NotFound => self.began.since(entry.created) >= MISSING_ALLOWED,
            Answer::Trouble(Trouble::Throttled { .. } | Trouble::Unauthorized) => {
                self.whose == Some(Whose::Purchase)
            }
            Answer::Trouble(Trouble::Unreachable { .. } | Trouble::Unreadable { .. }) => true,
        }
    }
}

/// When a request began, and when its answer arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) began: Moment,
    pub(super) arrived: Moment,
}

impl Inner {
    /// Asks the provider about one purchase.
    pub(super) async fn ask(&self, lane: &Lane, turn: &Turn, mut admission: Admission) -> Asked {
        let account = &lane.account;
        let began = self.clock.moment();
        let request = account.provider.status_request(&turn.reference);
        let answer = account.ask(&mut admission, request).await;
        let arrived = self.clock.moment();
        let answer = match answer {
            Ok(answer) => {
                let provider = Arc::clone(&account.provider);
                let (reference, now) = (turn.reference.clone(), self.clock.now());
                let read = move |answer: &_| provider.read_status(&reference, answer, now);
                upstream::read(answer, read).await
            }
            Err(error @ UpstreamError::Unusable(_)) => {
                Answer::Trouble(Trouble::unreadable(error.to_string()))
            }
            Err(error) => Answer::Trouble(Trouble::Unreachable {
                sent: !matches!(error, UpstreamError::NotConnected(_)),
                why: error.to_string(),
            }),
        };
        let whose = match &answer {
            Answer::Trouble(trouble) => Some(account.learn(&mut admission, trouble)),
            Answer::Observed(_) | Answer::NotFound => None,
        };
        if let (Answer::Trouble(Trouble::Throttled { .. }), Some(Whose::Account)) = (&answer, whose)
        {
            lane.suspect(turn.purchase);
        }
        Asked {
            answer,
            whose,
            began,
            arrived,
        }
    }

    /// Applies what was heard, and returns when to ask again.
    pub(super) async fn heard(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        purchase: PurchaseId,
        asked: Asked,
    ) -> Moment {
        let failed = match &asked.answer {
            Answer::Observed(observation) => self
                .observed(lane, purchase, observation, asked.times(), Source::Read)
                .await
                .is_err(),
            Answer::NotFound => self.not_found(lane, purchase, asked.began).await.is_err(),
            Answer::Trouble(_) => self.unheard(lane, purchase, &asked).await.is_err(),
        };
        if failed {
            // The journal is away: the same news is heard again when it is back.
            return self.clock.moment().plus(RETRY_BASE);
        }
        match self.passing_time(lane, purchase).await {
            Ok(()) => self.next_due(lane, purchase, &asked),
            Err(_) => self.clock.moment().plus(RETRY_BASE),
        }
    }

    fn next_due(&self, lane: &Lane, purchase: PurchaseId, asked: &Asked) -> Moment {
        let now = self.clock.moment();
        let policy = &lane.account.policy;
        let stretched = |create_time, finality| self.stretched(lane, create_time, finality);
        let due = lane.with(purchase, |entry| {
            let stale_after = entry.stale_after();
            let mut due = entry.next_due(policy, stale_after, &self.clock);
            if let Some(again) = entry.asked_again_at(now) {
                due = due.min(again);
            }
            let end = entry.horizon_end();
            if end.is_some_and(|end| end <= now) {
                // The last read has failed, or was no answer about the purchase.
                return due.min(now.plus(self.clock.jittered(LAST_READ_EVERY, 100)));
            }
            if entry.failures == 0 && entry.heard.held_back_since.is_none() {
                due =
                    stretched(entry.create_time, entry.finality).map_or(due, |rare| due.max(rare));
            }
            // The last read is made in time, also where the one before it has failed.
            due = due.min(end.unwrap_or(due).max(now));
            if asked.backs_off(entry) {
                return due.max(self.backed_off(entry, asked));
            }
            due
        });
        due.unwrap_or(now)
    }

    /// When a purchase that failed is asked about again, if its schedule does not say later: with full
    /// jitter, not before its provider wishes, and in time to say that it cannot be read.
    fn backed_off(&self, entry: &Entry, asked: &Asked) -> Moment {
        let now = self.clock.moment();
        let doubled = entry.failures.min(16).saturating_sub(1);
        let longest = backoff(RETRY_BASE, doubled, RETRY_MAX);
        let again = now.plus(self.clock.up_to(longest));
        if let Answer::Trouble(Trouble::Throttled { retry_after }) = &asked.answer {
            return again.max(now.plus(retry_after.unwrap_or_default()));
        }
        let told = entry
            .failing_since()
            .map(|since| since.plus(UNREADABLE_AFTER));
        again.min(told.filter(|told| now < *told).unwrap_or(again))
    }

    /// No answer about the purchase. Where that is its own trouble for too long, a person is told.
    async fn unheard(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        asked: &Asked,
    ) -> Result<(), JournalError> {
        let now = self.clock.moment();
        let is_own = asked.whose == Some(Whose::Purchase);
        let is_late = lane.with(purchase, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            if !is_own {
                entry.fails_no_more();
                return false;
            }
            let since = entry.fails(now);
            let is_late = now.since(since) >= UNREADABLE_AFTER;
            if is_late {
                // What is heard next is news, whatever was heard before.
                entry.digest = 0;
            }
            is_late
        });
        if is_late != Some(true) {
            return Ok(());
        }
        self.step(purchase, |record| {
            lifecycle::found_unreadable(&record.purchase.status, self.clock.now())
        })
        .await
        .map(drop)
    }

    /// A readable answer to a request with these times. Two about one purchase may be applied at
    /// once: the newer one holds. Says whether it has changed the status.
    pub(super) async fn observed(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        observation: &Observation,
        times: Times,
        source: Source,
    ) -> Result<bool, JournalError> {
        let Now { wall, moment: now } = self.clock.both();
        let seen = digest(observation);
        self.stamped(lane, observation.provider_change_time);
        let heard = lane.hear(purchase, |entry| {
            let before = entry.heard;
            let applied = entry.digest;
            let verdict = entry.hear(observation, times, source);
            let is_open = entry.finality == Finality::Open;
            let stayed = is_open.then_some(entry.stayed);
            let is_news = entry.digest != seen;
            entry.funds_moved |= observation.funds_moved;
            (
                verdict,
                (before, applied),
                entry.heard,
                is_news,
                stayed,
                entry.funds_moved,
            )
        });
        let Some((verdict, (before, applied), heard, is_news, stayed, funds_moved)) = heard else {
            return Ok(false);
        };
        if let (Verdict::HoldBack, Some(at)) = (verdict, heard.asked_again_at()) {
            lane.ask_by(purchase, at.max(now));
        }
        if verdict != Verdict::Apply {
            return Ok(false);
        }
        // What was seen in any answer forbids an end by deadline, whatever this one lacks.
        let unended = observation.without_deadline().filter(|_| funds_moved);
        let observation = unended.as_ref().unwrap_or(observation);
        // Another answer that was heard meanwhile is newer than this one.
        let is_newest = |entry: &mut Entry| entry.heard.applied() == heard.applied();
        let mut changed_to = None;
        if is_news {
            let provider = &lane.account.provider;
            let graph = provider.graph();
            changed_to = self
                .step(purchase, |record| {
                    if lane.with(purchase, is_newest) != Some(true) {
                        return None;
                    }
                    let status = &record.purchase.status;
                    let mut observation = observation.clone();
                    provider.compare(&record.recovery, &mut observation);
                    lifecycle::observed(status, &observation, graph, Cause::Poll, wall)
                })
                .await?;
            // The first answer of all may tell of a change that was before the lists were read.
            if source == Source::Read && before.answered.is_some() {
                let stamp = observation.provider_change_time;
                let is_newer = |stamp: &_| before.newest_change.is_some_and(|known| *stamp > known);
                let change = Change {
                    purchase,
                    stamp: stamp.filter(is_newer),
                    before: applied,
                    arrived: times.arrived,
                };
                self.changed_singly(lane, change);
            }
        }
        if let Some(stayed) = stayed {
            lane.looked(purchase, stayed, changed_to, now);
        }
        lane.with(purchase, |entry| {
            // One that was passed by a newer answer is not what was applied last.
            if is_newest(entry) {
                entry.digest = seen;
                entry.read = Some(times.began);
            }
        });
        Ok(changed_to.is_some())
    }

    /// The provider does not know the reference.
    async fn not_found(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
        began: Moment,
    ) -> Result<(), JournalError> {
        let Now { wall, moment: now } = self.clock.both();
        let is_late = lane.with(purchase, |entry| {
            if entry
                .heard
                .answered
                .is_some_and(|answered| began < answered)
            {
                // Somebody has asked later, and was told more.
                return false;
            }
            entry.failures = entry.failures.saturating_add(1);
            // What is heard next is news, whatever was heard before.
            entry.digest = 0;
            entry.fails(now);
            now.since(entry.created) >= MISSING_ALLOWED
        });
        if is_late != Some(true) {
            return Ok(());
        }
        self.step(purchase, |record| {
            lifecycle::found_missing(&record.purchase.status, wall)
        })
        .await
        .map(drop)
    }

    /// What the passing of time makes of a purchase: STALE, given up, FINAL.
    pub(super) async fn passing_time(
        &self,
        lane: &Lane,
        purchase: PurchaseId,
    ) -> Result<(), JournalError> {
        let Now { wall, moment: now } = self.clock.both();
        let Some((finality, changed, fresh)) = lane.with(purchase, |entry| {
            let fresh = entry.limits_of == entry.revision;
            (entry.finality, entry.changed, fresh)
        }) else {
            return Ok(());
        };
        if !fresh {
            self.learn_limits(lane, purchase).await?;
        }
        let limits = lane.with(purchase, |entry| {
            let horizon = entry.horizon().filter(|_| !entry.unmapped);
            // What may be news is waited for.
            let waits = entry.unmapped || entry.heard.held_back_since.is_some();
            (entry.stale_after(), horizon, entry.read, waits)
        });
        let Some((stale_after, horizon, read, waits)) = limits else {
            return Ok(());
        };
        if finality == Finality::Open {
            let unchanged = now.since(changed);
            if unchanged >= lane.account.policy.give_up_after && !waits {
                lane.with(purchase, |entry| entry.given_up = true);
            } else if unchanged >= stale_after {
                self.step(purchase, |record| {
                    lifecycle::stale(&record.purchase.status, wall)
                })
                .await?;
            }
            return Ok(());
        }
        let Some((since, revision)) = lane.with(purchase, |entry| (entry.changed, entry.revision))
        else {
            return Ok(());
        };
        match lifecycle::horizon(since, horizon, read, now) {
            Horizon::Ahead | Horizon::LastRead => Ok(()),
            Horizon::Over => self
                .step(purchase, |record| {
                    let status = &record.purchase.status;
                    let is_terminal = status.finality == Finality::Terminal;
                    (is_terminal && status.revision == revision)
                        .then(|| lifecycle::made_final(status, wall))
                        .flatten()
                })
                .await
                .map(drop),
        }
    }

    /// Reads from the newest status how long it may stay as it is.
    async fn learn_limits(&self, lane: &Lane, purchase: PurchaseId) -> Result<(), JournalError> {
        let Some(record) = self.record(purchase).await? else {
            return Ok(());
        };
        let status = &record.purchase.status;
        let stale_after = lane.stale_after(status);
        let account = &lane.account;
        let horizon = account.provider.horizon(status, account.policy.horizon);
        lane.with(purchase, |entry| {
            entry.limit(status.revision, stale_after, horizon);
        });
        Ok(())
    }

    /// Commits the step that `decide` makes of the newest status, if any, and returns the state that
    /// it leads to.
    async fn step(
        &self,
        purchase: PurchaseId,
        decide: impl Fn(&Record) -> Option<Transition>,
    ) -> Result<Option<State>, JournalError> {
        let Some(mut record) = self.record(purchase).await? else {
            return Ok(None);
        };
        for _ in 0..DECISIONS_MAX {
            let Some(transition) = decide(&record) else {
                return Ok(None);
            };
            let state = transition.status.state;
            let append = Write::Append {
                purchase,
                transition: Box::new(transition),
                expected: record.purchase.status.revision,
                attempt: AttemptChange::Keep,
                note: None,
            };
            match self.journal.write(append).await? {
                Written::Stale(Some(newer)) => record = *newer,
                Written::Done => return Ok(Some(state)),
                // Another purchase has what the answer names: what is known stays as it is.
                Written::ReferenceTaken(_) => return Ok(None),
                Written::Stale(None) | Written::KeyTaken(_) => return Ok(None),
            }
        }
        Err(JournalError::unavailable(
            "the purchase does not hold still",
        ))
    }

    /// A caller's wish to be told now.
    pub(super) async fn refresh(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        purchase: PurchaseId,
    ) -> Result<(), RefreshError> {
        let Some(reference) = self.refreshable(lane, purchase).await? else {
            return Ok(());
        };
        if self.stop.is_cancelled() {
            return Err(RefreshError::Draining);
        }
        let asked_at = self.clock.moment();
        let mut turn_of_others = lane.refreshing(purchase).await;
        // Whoever was here before has asked after this call came: its answer serves, good or bad.
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

    /// The reference of a purchase that a caller wants to be told of; `None` where there is nothing to
    /// ask any more. One that is not followed here yet is, from now on.
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
    ) -> Result<(), RefreshError> {
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
        let admission = admission.map_err(RefreshError::Refused)?.about(purchase);
        let turn = Turn {
            purchase,
            reference,
        };
        let asked = self.ask(lane, &turn, admission).await;
        let trouble = match &asked.answer {
            Answer::Trouble(trouble) => Some(trouble.clone()),
            Answer::Observed(_) | Answer::NotFound => None,
        };
        if let Answer::Observed(observation) = &asked.answer {
            self.observed(lane, purchase, observation, asked.times(), Source::Read)
                .await?;
        } else {
            self.heard(lane, purchase, asked).await;
        }
        trouble.map_or(Ok(()), |trouble| Err(RefreshError::Trouble(trouble)))
    }
}
