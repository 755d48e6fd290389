//! The budgets of a store that has one process. The process itself counts what it spends; the store
//! keeps it ahead, as texts, beyond the process's life.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    clock::Clock,
    journal::{
        Arrivals, Budgets, Heard, Journal, JournalError, KeptBudget, Span, Taken, Taking, Verdict,
        Word, Write,
    },
    purchase::{AccountName, Moment, Timestamp},
};

/// The reach of the budget that is kept ahead, so that not every request is a write.
const KEPT_AHEAD: Duration = Duration::from_secs(5);

/// The budgets of a store that has one process. Arrival times are kept as times of day and, if the
/// machine has a name for its present run, as moments of that run. Within the run the moments alone
/// count, whatever was done to the wall clock.
pub struct AloneBudgets {
    journal: Arc<dyn Journal>,
    clock: Clock,
}

impl fmt::Debug for AloneBudgets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AloneBudgets")
            .finish_non_exhaustive()
    }
}

impl AloneBudgets {
    /// The budgets in this journal, by this clock.
    pub fn new(journal: &Arc<dyn Journal>, clock: &Clock) -> Self {
        Self {
            journal: Arc::clone(journal),
            clock: clock.clone(),
        }
    }

    /// Reads a stored text: `requests creates` in milliseconds of the wall clock, and if there is a
    /// boot, its name and the same two in milliseconds of the monotonic clock.
    fn read(&self, text: &str) -> Option<KeptBudget> {
        let mut words = text.split(' ');
        let mut wall = || Timestamp::from_millis_text(words.next()?).ok();
        let (requests, creates) = (wall()?, wall()?);
        let now = self.clock.moment();
        let (Some(known), Some(boot)) = (words.next(), self.clock.boot()) else {
            return Some(KeptBudget {
                arrivals: Arrivals {
                    requests: self.clock.moment_of(requests),
                    creates: self.clock.moment_of(creates),
                },
                as_of: now,
            });
        };
        if known != &*boot {
            return Some(KeptBudget::before_this_boot());
        }
        let mut moment = || Some(Moment::from_millis(words.next()?.parse().ok()?));
        let arrivals = Arrivals {
            requests: moment()?,
            creates: moment()?,
        };
        Some(KeptBudget {
            arrivals,
            as_of: now,
        })
    }

    /// Keeps arrival times durably.
    async fn save(&self, account: &AccountName, arrivals: Arrivals) -> Result<(), JournalError> {
        let Arrivals { requests, creates } = arrivals;
        let wall = |moment| self.clock.wall_of(moment).as_millis();
        let mut value = format!("{} {}", wall(requests), wall(creates));
        if let Some(boot) = self.clock.boot() {
            let (requests, creates) = (requests.as_millis(), creates.as_millis());
            value = format!("{value} {boot} {requests} {creates}");
        }
        let put = Write::Put {
            key: key(account),
            fence: None,
            value,
        };
        self.journal.write(put).await.map(drop)
    }
}

/// The beginning of the keys of the texts.
const KEYS: &str = "budget/";

fn key(account: &AccountName) -> String {
    format!("{KEYS}{account}")
}

/// The account of a kept text and its two arrival times, in milliseconds of the wall clock; `None` if the text
/// is no budget.
pub(in crate::journal) fn of_text(key: &str, text: &str) -> Option<(String, [i64; 2])> {
    let account = key.strip_prefix(KEYS)?;
    let mut words = text.split(' ');
    let mut time = || words.next()?.parse().ok();
    Some((account.to_owned(), [time()?, time()?]))
}

/// The key and the text of a budget that has moved here from another machine.
pub(in crate::journal) fn text_of(
    account: &str,
    [requests, creates]: [i64; 2],
) -> (String, String) {
    (format!("{KEYS}{account}"), format!("{requests} {creates}"))
}

#[async_trait]
impl Budgets for AloneBudgets {
    fn is_shared(&self) -> bool {
        false
    }

    async fn left(&self, account: &AccountName) -> Option<KeptBudget> {
        let text = self.journal.get(&key(account)).await.ok()??;
        self.read(&text)
    }

    async fn take(&self, account: &AccountName, taking: &Taking) -> Result<Taken, JournalError> {
        let (taken, wanted) = (taking.taken, taking.wanted);
        let ahead = match taking.requests {
            Some(_) => KEPT_AHEAD,
            None => Duration::ZERO,
        };
        let arrivals = Arrivals {
            requests: wanted.requests.plus(ahead).max(taken.requests),
            creates: wanted.creates.max(taken.creates),
        };
        self.save(account, arrivals).await?;
        Ok(Taken {
            verdict: Verdict::Given,
            requests: Some(Span {
                from: None,
                until: arrivals.requests,
            }),
            creates: Some(Span {
                from: None,
                until: arrivals.creates,
            }),
            fresh_until: Moment::LATEST,
            is_for_longest: false,
            late: Duration::ZERO,
            places: u32::MAX,
            heard: Heard::default(),
        })
    }

    async fn tell(&self, _account: &AccountName, _word: &Word) -> Result<Heard, JournalError> {
        Ok(Heard::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test(start_paused = true)]
    async fn p2_a_budget_is_taken_up_by_the_monotonic_clock_whatever_was_done_to_the_wall() {
        let clock = testing::clock();
        let (store, account) = (
            AloneBudgets::new(&testing::journal(), &clock),
            AccountName::new("a"),
        );
        let now = clock.moment();
        let arrivals = Arrivals {
            requests: now.plus(Duration::from_secs(3_600)),
            creates: now.plus(Duration::from_secs(86_400)),
        };
        store.save(&account, arrivals).await.unwrap();
        for days in [-800, 1, 4_000, -3_201] {
            clock.step_wall(days * 86_400_000);
            let kept = store.left(&account).await.unwrap();
            assert_eq!(
                kept,
                KeptBudget {
                    arrivals,
                    as_of: clock.moment()
                }
            );
        }
        clock.reboot();
        let kept = store.left(&account).await.unwrap();
        assert_eq!(kept, KeptBudget::before_this_boot());
    }
}
