//! An unclear send that this process repeats by itself, at a provider that takes a key.

use std::{sync::Arc, time::Duration};

use super::{
    Inner, RETRY_AFTER,
    attempt::{self, Submission},
    phase::{Remedy, SubmitPhase},
};
use crate::{
    account::{Admission, Class, Sent},
    clock::Now,
    journal::{Attempt, AttemptChange, Record, Write, Written},
    observation::Submitted,
    provider::Unclear,
    purchase::PurchaseId,
};

/// The number of times that this process repeats a send whose answer was lost.
const REPEATS: u32 = 3;
/// The time that this process repeats a send on which the provider says it is still at work. Ours:
/// long for a payment, short for a drain.
const NOT_YET_FOR: Duration = Duration::from_secs(600);
/// The wait before the first repeat; doubled for each further one, up to the longest.
const REPEAT_BACKOFF: Duration = Duration::from_millis(500);
const REPEAT_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The time that a repeat waits for budget and breaker.
const REPEAT_ADMISSION: Duration = Duration::from_secs(60);

impl Inner {
    /// Repeats an unclear send with the same provider key: a few times while nothing is heard, for
    /// some minutes while the provider says "not yet"; then a caller is asked to.
    pub(super) async fn repeat_with_key(self: &Arc<Self>, send: &Submission) {
        let Unclear::RepeatWithKey { .. } = send.settings.provider.unclear() else {
            return;
        };
        let began = self.clock.moment();
        let mut lost = 0;
        for repeat in 0_u32.. {
            if lost == REPEATS {
                return;
            }
            let wait = REPEAT_BACKOFF.saturating_mul(2_u32.saturating_pow(repeat));
            let wait = wait.min(REPEAT_BACKOFF_MAX);
            let wait = wait / 2 + self.clock.up_to(wait);
            // A drain waits for requests in flight, not for a repeat that has not begun.
            let next = tokio::select! {
                // The same seed is the same run.
                biased;
                () = self.stopping.cancelled() => return,
                next = self.repeat_begins(send, wait) => next,
            };
            let (record, admission, begun) = match next {
                Repeat::Submission(record, admission, begun) => (record, admission, begun),
                Repeat::Skip => {
                    lost += 1;
                    continue;
                }
                Repeat::End => return,
            };
            let again = Submission {
                account: Arc::clone(&send.account),
                settings: Arc::clone(&send.settings),
                record: *record,
                placed: Arc::clone(&send.placed),
                repeats: false,
                set_back: self.clock.set_back(),
                begun,
            };
            let sent = self.send(&again, admission).await;
            let settles = match &sent.submitted {
                Submitted::Accepted(_)
                | Submitted::AcceptedWithoutReference
                | Submitted::Unclear {
                    unread_id: Some(_), ..
                } => true,
                _ if sent.is_not_yet() => {
                    lost = 0;
                    self.clock.moment().since(began) >= NOT_YET_FOR
                }
                // A refusal proves nothing about the first attempt, and would come again.
                Submitted::Refused { .. } | Submitted::Taken => true,
                Submitted::NotSent(_) | Submitted::Unclear { .. } => {
                    lost += 1;
                    lost == REPEATS
                }
            };
            if settles {
                self.settle_repeat(&again, &sent).await;
                return;
            }
        }
    }

    /// Waits for the time and the right to repeat, and commits that a repeat begins.
    async fn repeat_begins(&self, send: &Submission, wait: Duration) -> Repeat {
        tokio::time::sleep(wait).await;
        let deadline = self.clock.moment().plus(REPEAT_ADMISSION);
        let caller = &send.record.purchase.caller;
        let admitted = send.account.admit_for(Class::Create, caller, deadline);
        let Ok(admission) = admitted.await else {
            return Repeat::Skip;
        };
        let id: PurchaseId = send.record.purchase.id;
        let Ok(Some(mut record)) = self.journal.record(id).await else {
            return Repeat::Skip;
        };
        let SubmitPhase::Unclear {
            remedy: Remedy::Repeat { .. },
            ..
        } = self.phase(&record)
        else {
            // The purchase is settled, or the provider may have forgotten the key by now.
            return Repeat::End;
        };
        let now = self.clock.now();
        let begun = self.clock.both();
        // Every send is preceded by its own commit.
        let change = AttemptChange::Begin {
            attempt: Attempt {
                submit_until: self.submit_until(&send.settings),
            },
            now,
        };
        let begin = Write::ChangeAttempt {
            purchase: id,
            expected: record.purchase.status.revision,
            change,
        };
        record.change_attempt(change);
        match self.journal.write(begin).await {
            Ok(Written::Done) => Repeat::Submission(Box::new(record), admission, begun),
            _ => Repeat::Skip,
        }
    }

    /// Commits the meaning of a repeat's end, for as long as it takes.
    async fn settle_repeat(&self, send: &Submission, sent: &Sent) {
        let mut kept = false;
        while self.settle_submit(send, sent).await.is_err() {
            if !kept {
                kept = true;
                attempt::say_kept(send, &sent.submitted);
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

/// The next repeat.
enum Repeat {
    /// It is recorded as begun, and may be sent.
    Submission(Box<Record>, Admission, Now),
    /// Not this time.
    Skip,
    /// Nothing is left to repeat.
    End,
}
