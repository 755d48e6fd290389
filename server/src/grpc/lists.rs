//! The lists that each caller has under way. A list beyond a caller's share is refused, not queued,
//! so that one caller's lists cannot fill the queue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::error::{Failure, Reason};
use crate::{limits::Limit, purchase::CallerName};

/// The lists under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists(Arc<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    /// The lists by caller; callers without a list are not in it. Each use of the lock is short.
    counts: Mutex<HashMap<CallerName, u32>>,
}

impl UnderWay {
    fn counts(&self) -> MutexGuard<'_, HashMap<CallerName, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one list; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    lists: Arc<UnderWay>,
    caller: CallerName,
}

impl Lists {
    /// The right to one more list of a caller that may have so many.
    pub(super) fn begin(&self, caller: &CallerName, most: u32) -> Result<Turn, Failure> {
        let mut counts = self.0.counts();
        let own = counts.entry(caller.clone()).or_default();
        if *own >= most {
            Limit::ListsPerCaller.met();
            let text = "too many lists of this caller at once; page through one after the other";
            return Err(Failure::new(Reason::LimitExceeded, text));
        }
        *own += 1;
        Ok(Turn {
            lists: Arc::clone(&self.0),
            caller: caller.clone(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.lists.counts();
        if let Some(own) = counts.get_mut(&self.caller) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_its_share_of_lists_at_once_whatever_others_do() {
        let lists = Lists::default();
        let (shop, desk) = (CallerName::new("shop"), CallerName::new("desk"));
        let first = lists.begin(&shop, 2).unwrap();
        let _second = lists.begin(&shop, 2).unwrap();
        let refused = lists.begin(&shop, 2).unwrap_err();
        assert_eq!(refused.reason(), Reason::LimitExceeded);
        let other = lists.begin(&desk, 2).unwrap();
        drop((first, other));
        let _again = lists.begin(&shop, 2).unwrap();
        assert_eq!(
            lists.0.counts().len(),
            1,
            "a caller without a list is forgotten"
        );
    }
}
