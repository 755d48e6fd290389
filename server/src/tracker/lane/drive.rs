//! A lane's loop: it polls due purchases as soon as the account may be asked.

use std::{sync::Arc, thread, time::Duration};

use tracing::Instrument as _;

use super::{Lane, Target};
use crate::{
    purchase::{Moment, PurchaseId, Reference},
    tracker::{
        Inner,
        entry::{Entry, RETRY_BASE},
    },
};

/// When a purchase is polled again whose poll ended without a word.
const LOST_RETRY: Duration = Duration::from_secs(60);

/// A purchase that is in no timer while it is polled. It is armed again when this is dropped, also by
/// a panic.
struct InPoll {
    lane: Arc<Lane>,
    purchase: PurchaseId,
    /// When it is asked again if its poll ends without a word.
    again: Moment,
    is_armed: bool,
}

impl InPoll {
    /// It is asked again when its entry says.
    fn again(mut self, next: impl FnOnce(&Entry) -> Moment) {
        self.is_armed = true;
        self.lane.again(self.purchase, next);
    }
}

impl Drop for InPoll {
    fn drop(&mut self) {
        if thread::panicking() {
            self.lane.defect();
        }
        if !self.is_armed {
            self.lane.rearm(self.purchase, self.again);
        }
    }
}

impl Inner {
    /// Polls one lane's due purchases, until the tracker stops.
    pub(in crate::tracker) async fn drive(self: &Arc<Self>, lane: &Arc<Lane>) {
        while !lane.stop.is_cancelled() {
            lane.progress.round().await;
            let now = self.clock.moment();
            let due = lane.collect(now);
            let refused = self.spend(lane).await;
            let next = [due, refused].into_iter().flatten().min();
            let wait = next.map_or(Duration::from_secs(3_600), |next| {
                next.since(self.clock.moment())
            });
            tokio::select! {
                // The same seed is the same run.
                biased;
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                () = lane.sooner.notified() => {}
                () = lane.account.recovered() => {}
                () = lane.progress.asked() => {}
                () = lane.stop.cancelled() => {}
            }
        }
    }

    /// Polls all that is due and may be. Returns when to try again, if some may not.
    async fn spend(self: &Arc<Self>, lane: &Arc<Lane>) -> Option<Moment> {
        let mut refused = Vec::new();
        let mut retry_at: Option<Moment> = None;
        while let Some(class) = lane.class(&refused) {
            if lane.stop.is_cancelled() {
                return None;
            }
            // The account may have to write its budget first.
            let admission = lane.account.try_admit(class);
            let admission = match lane.progress.across(admission).await {
                Ok(admission) => admission,
                Err(refusal) => {
                    refused.push(class);
                    if lane.account.is_held() {
                        lane.is_held(self.clock.moment());
                    }
                    let at = refusal.retry_at();
                    lane.may_ask_at(class, Some(at));
                    retry_at = Some(retry_at.map_or(at, |known| known.min(at)));
                    continue;
                }
            };
            lane.may_ask_at(class, None);
            if !admission.is_probe() {
                self.spread(lane).await;
            }
            let watchers = |purchase| self.watchers(purchase);
            let Some(due) = lane.turn(&admission, &watchers, self.clock.moment()) else {
                continue;
            };
            lane.progress.beat();
            let late = self.clock.moment().since(due.since);
            lane.account.began_late(late);
            let (inner, polled) = (Arc::clone(self), Arc::clone(lane));
            let admission = admission.about(due.id);
            let taken = InPoll {
                lane: Arc::clone(lane),
                purchase: due.id,
                again: self.clock.moment().plus(LOST_RETRY),
                is_armed: false,
            };
            let span = self.poll_span(lane, due.id);
            let poll = async move {
                let stop = polled.stop.clone();
                let id = due.id;
                let asked = async {
                    let reference = match due.reference {
                        Some(text) => Reference::from_canonical(&text),
                        None => inner.reference(id).await,
                    };
                    let turn = Target {
                        purchase: id,
                        reference: reference?,
                    };
                    Some(inner.ask(&polled, &turn, admission).await)
                };
                // A commit under way is waited for; a request that is only held is given up.
                let asked = tokio::select! {
                    biased;
                    asked = asked => asked,
                    () = stop.cancelled() => return,
                };
                let is_heard = match &asked {
                    Some(asked) => inner.heard(&polled, id, asked).await.is_ok(),
                    None => false,
                };
                taken.again(|entry| match asked {
                    Some(asked) if is_heard => inner.next(&polled, entry, &asked),
                    // The journal is away: the same news is heard again when it is back.
                    _ => inner.clock.moment().plus(RETRY_BASE),
                });
            };
            let poll = lane.tasks.track_future(poll.instrument(span));
            self.tasks.spawn(poll);
        }
        retry_at
    }

    /// The reference of a purchase whose reference is too long to be kept in memory.
    pub(in crate::tracker) async fn reference(&self, purchase: PurchaseId) -> Option<Reference> {
        let record = self.record(purchase).await.ok()??;
        record.purchase.status.reference.clone()
    }
}
