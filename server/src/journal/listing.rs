//! A list in the stores on disk: the index that it goes along, and the walk over its rows in short steps, up
//! to a bounded number of them.

use super::{Filter, LOOKED_AT_MAX, Listed, Place};
use crate::purchase::{Finality, Purchase, State};

/// Rows of one step: few, because a statement that is being read holds something up in every store.
pub(super) const STEP: usize = 500;

/// The states that are ends, as in the condition of the indexes of live purchases.
const ENDS: [State; 7] = [
    State::Completed,
    State::Failed,
    State::Expired,
    State::Canceled,
    State::Returned,
    State::Refunded,
    State::DisputeSettled,
];

/// The index that a list goes along.
pub(super) enum Along<'filter> {
    Attention,
    /// One of the filter's labels, of a caller.
    Label(&'filter str, &'filter str),
    /// All but those that are FINAL in a state that is an end.
    Live,
    All,
}

impl<'filter> Along<'filter> {
    pub(super) fn of(filter: &'filter Filter) -> Self {
        // Only a filter that admits nothing of the history may skip it.
        let is_live = |finalities: &[Finality], states: &[State]| {
            let open = !states.is_empty() && !states.iter().any(|state| ENDS.contains(state));
            open || (!finalities.is_empty() && !finalities.contains(&Finality::Final))
        };
        match (&filter.caller, filter.labels.first_key_value()) {
            _ if filter.needs_attention => Self::Attention,
            (Some(_), Some((key, value))) => Self::Label(key, value),
            _ if is_live(&filter.finalities, &filter.states) => Self::Live,
            _ => Self::All,
        }
    }
}

/// A page on its way.
pub(super) struct Walk {
    listed: Listed,
    limit: usize,
    after: Option<Place>,
    looked: usize,
    /// The rows of the present step.
    seen: usize,
    is_full: bool,
}

impl Walk {
    /// An empty page of at most `limit` purchases, which begins after a place.
    pub(super) fn new(after: Option<Place>, limit: usize) -> Self {
        Self {
            listed: Listed::default(),
            limit,
            after,
            looked: 0,
            seen: 0,
            is_full: false,
        }
    }

    /// The place after which the next step begins.
    pub(super) fn after(&self) -> Option<Place> {
        self.after
    }

    /// Looks at a row; `admitted` is its purchase if the filter admits it. If this is false, the page is
    /// full: there is more, and this row is its first.
    pub(super) fn look(&mut self, place: Place, admitted: Option<Purchase>) -> bool {
        self.seen += 1;
        if let Some(purchase) = admitted {
            if self.listed.purchases.len() >= self.limit {
                self.is_full = true;
                return false;
            }
            self.listed.purchases.push(purchase);
        }
        self.after = Some(place);
        true
    }

    /// Ends a step. If this is true, another step may follow.
    pub(super) fn goes_on(&mut self) -> bool {
        let was_whole = std::mem::take(&mut self.seen) >= STEP;
        if self.is_full {
            return false;
        }
        if !was_whole {
            self.after = None;
            return false;
        }
        self.looked += STEP;
        self.looked < LOOKED_AT_MAX
    }

    /// The page, with the place after which the next one begins.
    pub(super) fn end(self) -> Listed {
        Listed {
            next: self.after,
            ..self.listed
        }
    }
}
