//! An unclear send that this process repeats by itself, at a provider that takes a key.

use std::{pin::pin, sync::Arc, time::Duration};

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
/// The time for which an attempt lasts at once while its process waits for the next repeat. A caller who
/// comes after a crash is asked to repeat no later than that.
pub(super) const HELD_FOR: Duration = Duration::from_secs(10);
/// The interval at which it is held anew.
const HELD_EVERY: Duration = Duration::from_secs(5);

/// The middle of the wait before a repeat, the first being number 0.
fn backoff(repeat: u32) -> Duration {
    let wait = REPEAT_BACKOFF.saturating_mul(2_u32.saturating_pow(repeat));
    wait.min(REPEAT_BACKOFF_MAX)
}

impl Inner {
    /// Repeats an unclear send with the same provider key: a few times while nothing is heard, for
    /// some minutes while the provider says "not yet"; then a caller is asked to. The attempt stays under
    /// way as long as this goes on.
    pub(super) async fn repeat_with_key(self: &Arc<Self>, send: &Submission) {
        self.repeat_for_some_time(send).await;
        // The next caller need not wait for it to run out.
        let purchase = send.record.purchase.id;
        if let Ok(Some(record)) = self.journal.record(purchase).await
            && is_of(send, &record)
        {
            self.change_attempt(&record, AttemptChange::End).await;
        }
        self.deadlines.at(self.clock.moment(), purchase);
    }

    async fn repeat_for_some_time(self: &Arc<Self>, send: &Submission) {
        let began = self.clock.moment();
        let mut lost = 0;
        for repeat in 0_u32.. {
            if lost == REPEATS {
                return;
            }
            let wait = backoff(repeat) / 2 + self.clock.up_to(backoff(repeat));
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
                    self.hold(send).await;
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
            self.hold(send).await;
        }
    }

    /// Waits for the time and the right to repeat, and commits that a repeat begins.
    async fn repeat_begins(&self, send: &Submission, wait: Duration) -> Repeat {
        let admitted = async {
            tokio::time::sleep(wait).await;
            let deadline = self.clock.moment().plus(REPEAT_ADMISSION);
            let caller = &send.record.purchase.caller;
            (send.account.admit_for(Class::Create, caller, deadline)).await
        };
        let Ok(admission) = self.holding(send, admitted).await else {
            return Repeat::Skip;
        };
        let id: PurchaseId = send.record.purchase.id;
        let Ok(Some(mut record)) = self.journal.record(id).await else {
            return Repeat::Skip;
        };
        let is_repeatable = matches!(
            self.phase(&record),
            SubmitPhase::Unclear {
                remedy: Remedy::Repeat { .. },
                ..
            }
        );
        let Some(attempt) = record
            .attempt
            .filter(|_| is_of(send, &record) && is_repeatable)
        else {
            // The purchase is settled, another has gone on with it, or the provider may have forgotten
            // the key by now.
            return Repeat::End;
        };
        let begun = self.clock.both();
        // Every send is preceded by its own commit.
        let change = AttemptChange::Begin {
            attempt: Attempt {
                submit_until: self.submit_until(&send.settings),
                ..attempt
            },
            now: begun.wall,
        };
        if !self.change_attempt(&record, change).await {
            return Repeat::Skip;
        }
        record.change_attempt(change);
        Repeat::Submission(Box::new(record), admission, begun)
    }

    /// Lets the attempt last while a repeat is waited for: another process, which knows the record alone, must
    /// not think that nobody goes on.
    pub(super) fn extends(&self) -> AttemptChange {
        AttemptChange::Extend {
            submit_until: self.clock.now().plus(HELD_FOR),
        }
    }

    /// Waits for a repeat's turn, and keeps the attempt meanwhile.
    async fn holding<T>(&self, send: &Submission, turn: impl Future<Output = T>) -> T {
        let mut turn = pin!(turn);
        loop {
            tokio::select! {
                // The same seed is the same run.
                biased;
                output = &mut turn => return output,
                () = tokio::time::sleep(HELD_EVERY) => self.hold(send).await,
            }
        }
    }

    /// Keeps the attempt for a repeat that is waited for.
    async fn hold(&self, send: &Submission) {
        if let Ok(Some(record)) = self.journal.record(send.record.purchase.id).await
            && is_of(send, &record)
        {
            self.change_attempt(&record, self.extends()).await;
        }
    }

    /// Changes the attempt of a record that is still so. Says whether it did.
    async fn change_attempt(&self, record: &Record, change: AttemptChange) -> bool {
        let change = Write::ChangeAttempt {
            purchase: record.purchase.id,
            expected: record.expected(),
            change,
        };
        matches!(self.journal.write(change).await, Ok(Written::Done))
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

/// True if the attempt that a record tells of is this one.
fn is_of(send: &Submission, record: &Record) -> bool {
    let by = |record: &Record| record.attempt.map(|attempt| attempt.by);
    by(record).is_some() && by(record) == by(&send.record)
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
