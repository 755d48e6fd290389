//! Accounts' budgets, kept in the journal.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    account::{Arrivals, BudgetStore, Kept},
    clock::Clock,
    journal::{Journal, Write},
    purchase::{AccountName, Moment, Timestamp},
};

/// Keeps arrival times as times of day and, where the machine has a name for its present run, as
/// moments of that run. Within the run the moments alone count, whatever was done to the wall clock.
pub struct JournalBudgets {
    journal: Arc<dyn Journal>,
    clock: Clock,
}

impl fmt::Debug for JournalBudgets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JournalBudgets")
            .finish_non_exhaustive()
    }
}

impl JournalBudgets {
    /// Budgets in this journal, by this clock.
    pub fn new(journal: &Arc<dyn Journal>, clock: &Clock) -> Self {
        Self {
            journal: Arc::clone(journal),
            clock: clock.clone(),
        }
    }

    fn key(account: &AccountName) -> String {
        format!("budget/{account}")
    }

    /// What a stored text says now: `requests creates` in milliseconds of the wall clock, and where
    /// there is a boot, its name and the same two in milliseconds of the monotonic clock.
    fn read(&self, text: &str) -> Option<Kept> {
        let mut words = text.split(' ');
        let mut wall = || Timestamp::from_millis_text(words.next()?).ok();
        let (requests, creates) = (wall()?, wall()?);
        let now = self.clock.moment();
        let (Some(known), Some(boot)) = (words.next(), self.clock.boot()) else {
            return Some(Kept {
                arrivals: Arrivals {
                    requests: self.clock.moment_of(requests),
                    creates: self.clock.moment_of(creates),
                },
                as_of: now,
            });
        };
        if known != &*boot {
            return Some(Kept::before_this_boot());
        }
        let mut moment = || Some(Moment::from_millis(words.next()?.parse().ok()?));
        let arrivals = Arrivals {
            requests: moment()?,
            creates: moment()?,
        };
        Some(Kept {
            arrivals,
            as_of: now,
        })
    }
}

#[async_trait]
impl BudgetStore for JournalBudgets {
    async fn load(&self, account: &AccountName) -> Option<Kept> {
        let text = self.journal.get(&Self::key(account)).await.ok()??;
        self.read(&text)
    }

    async fn save(&self, account: &AccountName, arrivals: Arrivals) -> bool {
        let Arrivals { requests, creates } = arrivals;
        let wall = |moment| self.clock.wall_of(moment).as_millis();
        let mut value = format!("{} {}", wall(requests), wall(creates));
        if let Some(boot) = self.clock.boot() {
            let (requests, creates) = (requests.as_millis(), creates.as_millis());
            value = format!("{value} {boot} {requests} {creates}");
        }
        let put = Write::Put {
            key: Self::key(account),
            value,
        };
        self.journal.write(put).await.is_ok()
    }
}
