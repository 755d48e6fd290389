//! The spending of an account's budgets, kept in the journal beyond the life of the process.

use std::sync::Arc;

use crate::{
    clock::Clock,
    journal::{Journal, Write},
    purchase::{AccountName, Moment, Timestamp},
};

/// The spending of an account's budgets: nothing is sent beyond what the journal has kept of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Arrivals {
    /// The arrival time of requests of all kinds.
    pub(super) requests: Moment,
    /// The arrival time of creates.
    pub(super) creates: Moment,
}

/// Arrival times as the journal has kept them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptBudget {
    /// The arrival times.
    pub(super) arrivals: Arrivals,
    /// The time at which they held: none lay further ahead of it than its pace reaches. A time that
    /// seems to lie further ahead was kept by a clock that was ahead, and is replaced.
    pub(super) as_of: Moment,
}

impl KeptBudget {
    /// Arrival times of an earlier run of the machine, whose moments mean nothing now: spent as far as
    /// they can have been when this run began.
    pub(super) fn before_this_boot() -> Self {
        let latest = Moment::from_millis(i64::MAX);
        Self {
            arrivals: Arrivals {
                requests: latest,
                creates: latest,
            },
            as_of: Moment::default(),
        }
    }
}

/// The place of one account's budgets in the journal. Arrival times are kept as times of day and, if
/// the machine has a name for its present run, as moments of that run. Within the run the moments
/// alone count, whatever was done to the wall clock.
pub(super) struct BudgetStore {
    journal: Arc<dyn Journal>,
    clock: Clock,
    key: String,
}

impl BudgetStore {
    /// One account's budgets in this journal, by this clock.
    pub(super) fn new(journal: &Arc<dyn Journal>, clock: &Clock, account: &AccountName) -> Self {
        Self {
            journal: Arc::clone(journal),
            clock: clock.clone(),
            key: format!("budget/{account}"),
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

    /// The arrival times that were kept. Nothing if the journal has none, or cannot be read.
    pub(super) async fn load(&self) -> Option<KeptBudget> {
        let text = self.journal.get(&self.key).await.ok()??;
        self.read(&text)
    }

    /// Keeps arrival times durably; `false` if that failed.
    pub(super) async fn save(&self, arrivals: Arrivals) -> bool {
        let Arrivals { requests, creates } = arrivals;
        let wall = |moment| self.clock.wall_of(moment).as_millis();
        let mut value = format!("{} {}", wall(requests), wall(creates));
        if let Some(boot) = self.clock.boot() {
            let (requests, creates) = (requests.as_millis(), creates.as_millis());
            value = format!("{value} {boot} {requests} {creates}");
        }
        let put = Write::Put {
            key: self.key.clone(),
            fence: None,
            value,
        };
        self.journal.write(put).await.is_ok()
    }
}
