//! The newest transitions of all purchases, in commit order, and the same by caller: a follower of one
//! caller's purchases looks at no others.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    journal::{Committed, Position},
    purchase::{CallerName, Purchase, Status},
};

/// Transitions that the ring keeps.
const RING_MAX: usize = 8_192;
/// Transitions looked at before others get their turn.
const LOOKED_AT_MAX: usize = 256;

/// The newest transitions.
#[derive(Debug)]
pub(super) struct Ring {
    all: Tail,
    /// The transitions of each caller that had one since the process began; callers are few.
    by_caller: BTreeMap<CallerName, Tail>,
    /// The position at which the process began.
    began: Position,
    /// The newest position that is known here.
    newest: Position,
}

/// A transition, and when this process heard of its commit.
pub(super) type Told = (Arc<Committed>, Instant);

/// Transitions of one caller, or of all, in order and without a gap.
#[derive(Debug)]
struct Tail {
    items: VecDeque<Told>,
    /// Everything after this position is here.
    after: Position,
}

impl Tail {
    fn after(position: Position) -> Self {
        Self {
            items: VecDeque::new(),
            after: position,
        }
    }

    fn forget_oldest(&mut self) -> Option<Arc<Committed>> {
        let (oldest, _) = self.items.pop_front()?;
        self.after = oldest.position;
        Some(oldest)
    }
}

impl Ring {
    pub(super) fn after(head: Position) -> Self {
        Self {
            all: Tail::after(head),
            by_caller: BTreeMap::new(),
            began: head,
            newest: head,
        }
    }

    pub(super) fn extend(&mut self, committed: &[Arc<Committed>], at: Instant) {
        for one in committed {
            let one = without_buyer_action(one);
            self.newest = self.newest.max(one.position);
            let (caller, began) = (&one.purchase.caller, self.began);
            let own = match self.by_caller.get_mut(caller) {
                Some(own) => own,
                None => self
                    .by_caller
                    .entry(caller.clone())
                    .or_insert_with(|| Tail::after(began)),
            };
            own.items.push_back((Arc::clone(&one), at));
            self.all.items.push_back((one, at));
        }
        while self.all.items.len() > RING_MAX {
            // The oldest transition of all is also the oldest of its caller.
            let oldest = self.all.forget_oldest();
            let caller = oldest.as_ref().map(|oldest| &oldest.purchase.caller);
            if let Some(own) = caller.and_then(|caller| self.by_caller.get_mut(caller)) {
                own.forget_oldest();
            }
        }
    }

    /// The transitions after a position, of one caller or of all, and the position that they reach;
    /// `None` if the ring does not reach back so far.
    pub(super) fn following(
        &self,
        caller: Option<&CallerName>,
        position: Position,
    ) -> Option<(Vec<Told>, Position)> {
        let tail = match caller {
            None => Some(&self.all),
            Some(caller) => self.by_caller.get(caller),
        };
        let after = tail.map_or(self.began, |tail| tail.after);
        if position < after {
            return None;
        }
        let Some(tail) = tail else {
            return Some((Vec::new(), self.newest));
        };
        let first = tail
            .items
            .partition_point(|(one, _)| one.position <= position);
        let mut rest = tail.items.iter().skip(first);
        let next: Vec<_> = rest.by_ref().take(LOOKED_AT_MAX).cloned().collect();
        let reaches = match (rest.next(), next.last()) {
            (Some(_), Some((last, _))) => last.position,
            _ => self.newest,
        };
        Some((next, reaches))
    }
}

/// A transition as feeds show it: a buyer action that the journal wipes must not live on here.
fn without_buyer_action(committed: &Arc<Committed>) -> Arc<Committed> {
    let status = &committed.purchase.status;
    if status.buyer_action.is_none() {
        return Arc::clone(committed);
    }
    let status = Status {
        buyer_action: None,
        ..status.as_ref().clone()
    };
    Arc::new(Committed {
        purchase: Purchase {
            status: Arc::new(status),
            ..committed.purchase.clone()
        },
        ..committed.as_ref().clone()
    })
}
