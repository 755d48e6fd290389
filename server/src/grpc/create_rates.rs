//! The rate of each caller's creates: so many a second, and so many at once after a pause.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::error::{Failure, Reason};
use crate::{identity::Caller, limits::Limit, purchase::CallerName};

/// The pause after which a caller has its whole second's creates again.
const BURST: Duration = Duration::from_secs(1);

/// By caller, the time at which its creates would be back at their rate (the generic cell rate
/// algorithm). There are no more entries than configured callers.
#[derive(Debug, Default)]
pub(super) struct CreateRates(Mutex<HashMap<CallerName, Instant>>);

impl CreateRates {
    /// Counts one more create of a caller, or refuses it and says when the next may come.
    pub(super) fn take(&self, caller: &Caller) -> Result<(), Failure> {
        let rate = caller.limits().creates_per_second;
        if rate == 0 {
            return Ok(());
        }
        let interval = BURST / rate;
        let now = Instant::now();
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let even = callers.entry(caller.name().clone()).or_insert(now);
        let next = (*even).max(now) + interval;
        let ahead = next.duration_since(now);
        if ahead > BURST {
            Limit::CreatesPerCaller.met();
            let text = format!("too many creates of this caller: it may make {rate} a second");
            return Err(Failure::new(Reason::LimitExceeded, text).after(ahead - BURST));
        }
        *even = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::identity::{CallerLimits, Grant};

    fn caller(name: &str, creates_per_second: u32) -> Caller {
        Caller::new(Grant {
            name: CallerName::new(name),
            scopes: BTreeSet::new(),
            accounts: None,
            limits: CallerLimits {
                creates_per_second,
                ..CallerLimits::default()
            },
        })
    }

    fn taken(rates: &CreateRates, caller: &Caller) -> usize {
        (0..100).filter(|_| rates.take(caller).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_its_rate_and_no_other_caller_feels_it() {
        let rates = CreateRates::default();
        let (shop, other, free) = (caller("shop", 10), caller("other", 5), caller("free", 0));
        assert_eq!(taken(&rates, &shop), 10, "a second's creates at once");
        assert_eq!((taken(&rates, &other), taken(&rates, &free)), (5, 100));
        let refused = rates.take(&shop).unwrap_err();
        assert_eq!(refused.reason(), Reason::LimitExceeded);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(taken(&rates, &shop), 5, "what half a second brings");
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(taken(&rates, &shop), 10, "a pause saves up one second");
    }
}
