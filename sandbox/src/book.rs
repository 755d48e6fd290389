//! The purchases at one provider: a bounded store with the orders in which they are listed.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::Notify;

use crate::{life::TimeLine, scenario::Scenario};

/// Words kept of one purchase's history; beyond them the second oldest is forgotten.
const HISTORY_MAX: usize = 500;

/// A purchase that a provider is about to make.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The provider's own id of the row, unique, and ascending if the provider sorts by it.
    pub(crate) id: String,
    /// The name by which callers ask for the purchase.
    pub(crate) reference: String,
    pub(crate) scenario: Scenario,
    pub(crate) life: TimeLine,
    /// The content of the provider's answers, beside the word.
    pub(crate) facts: Value,
}

/// One purchase and its way so far.
#[derive(Clone, Debug)]
pub(crate) struct Purchase {
    pub(crate) id: String,
    pub(crate) reference: Arc<str>,
    pub(crate) scenario: Scenario,
    pub(crate) number: u64,
    pub(crate) created: Timestamp,
    pub(crate) facts: Value,
    /// Every word and when it began, never empty; the last is the present one.
    pub(crate) past: Vec<(Timestamp, String)>,
    /// Wakes those who wait for the next word.
    pub(crate) moved: Arc<Notify>,
    /// Words to come with their life times.
    steps: VecDeque<(Duration, String)>,
    /// Changes with every new time line, so that what was due of the old one is void.
    pub(crate) epoch: u64,
    /// The number of its reads, which times the scenarios with errors.
    pub(crate) reads: u64,
}

impl Purchase {
    fn new(draft: Draft, number: u64, life_now: Duration, now: Timestamp) -> Self {
        let life = draft.life.into_iter();
        let mut words = life.map(|(after, word)| (life_now + after, word));
        let first = words.next().map(|(_, word)| word).unwrap_or_default();
        Self {
            id: draft.id,
            reference: draft.reference.into(),
            scenario: draft.scenario,
            number,
            created: now,
            facts: draft.facts,
            past: vec![(now, first)],
            moved: Arc::new(Notify::new()),
            steps: words.collect(),
            epoch: 0,
            reads: 0,
        }
    }

    pub(crate) fn word(&self) -> &str {
        self.past.last().map_or("", |(_, word)| word)
    }

    /// The time at which the present word began.
    pub(crate) fn updated(&self) -> Timestamp {
        self.past.last().map_or(self.created, |(at, _)| *at)
    }

    /// True if it has ever been in a word.
    pub(crate) fn has_been(&self, word: &str) -> bool {
        self.past.iter().any(|(_, past)| past == word)
    }

    /// A text among the facts; empty if there is none.
    pub(crate) fn fact(&self, name: &str) -> &str {
        self.facts
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Says another word since the present one began.
    pub(crate) fn say(&mut self, word: &str) {
        if let Some((_, present)) = self.past.last_mut() {
            word.clone_into(present);
        }
    }

    /// Moves the time of the last change.
    pub(crate) fn shift(&mut self, off: SignedDuration) {
        if let Some((at, _)) = self.past.last_mut() {
            *at = at.saturating_add(off).unwrap_or(*at);
        }
    }

    pub(crate) fn due(&self) -> Option<Duration> {
        self.steps.front().map(|(at, _)| *at)
    }

    fn enter(&mut self, word: String, now: Timestamp) {
        self.past.push((now.max(self.updated()), word));
        if self.past.len() > HISTORY_MAX {
            self.past.remove(1);
        }
        self.moved.notify_waiters();
    }
}

/// An answer that is given again to a repeated key.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// The request, to tell a repeat from a reuse.
    pub(crate) request: String,
    pub(crate) reference: String,
    pub(crate) answer: Value,
    pub(crate) at: Timestamp,
}

/// All purchases at one provider.
#[derive(Debug, Default)]
pub(crate) struct Book {
    rows: HashMap<Arc<str>, Purchase>,
    by_age: BTreeMap<u64, Arc<str>>,
    by_change: BTreeMap<(Timestamp, String), Arc<str>>,
    kept: HashMap<String, Kept>,
    kept_order: VecDeque<String>,
}

impl Book {
    pub(crate) fn find(&self, reference: &str) -> Option<&Purchase> {
        self.rows.get(reference)
    }

    pub(crate) fn find_mut(&mut self, reference: &str) -> Option<&mut Purchase> {
        self.rows.get_mut(reference)
    }

    /// The newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Purchase> {
        self.by_age
            .values()
            .rev()
            .filter_map(|reference| self.rows.get(reference))
    }

    /// By last change and then id, from a point on (included).
    pub(crate) fn changed_from(&self, at: Timestamp, id: &str) -> impl Iterator<Item = &Purchase> {
        self.by_change
            .range((at, id.to_owned())..)
            .filter_map(|(_, reference)| self.rows.get(reference))
    }

    pub(crate) fn insert(
        &mut self,
        draft: Draft,
        number: u64,
        purchases_max: usize,
        life_now: Duration,
        now: Timestamp,
    ) -> &Purchase {
        let purchase = Purchase::new(draft, number, life_now, now);
        let reference = Arc::clone(&purchase.reference);
        self.by_age.insert(number, Arc::clone(&reference));
        self.by_change
            .insert((now, purchase.id.clone()), Arc::clone(&reference));
        while self.by_age.len() > purchases_max.max(1) {
            if let Some((_, oldest)) = self.by_age.pop_first()
                && let Some(gone) = self.rows.remove(&oldest)
            {
                self.by_change.remove(&(gone.updated(), gone.id));
            }
        }
        self.rows.entry(reference).or_insert(purchase)
    }

    /// Takes the next step of a time line if it is due.
    pub(crate) fn step(&mut self, reference: &str, life_now: Duration, now: Timestamp) {
        let Some(purchase) = self.rows.get_mut(reference) else {
            return;
        };
        if purchase.due().is_some_and(|due| due <= life_now)
            && let Some((_, word)) = purchase.steps.pop_front()
        {
            self.enter(reference, word, now);
        }
    }

    /// Sets a word and ends the time line.
    pub(crate) fn set(&mut self, reference: &str, word: &str, now: Timestamp) -> bool {
        let Some(purchase) = self.rows.get_mut(reference) else {
            return false;
        };
        purchase.epoch += 1;
        purchase.steps.clear();
        self.enter(reference, word.to_owned(), now);
        true
    }

    fn enter(&mut self, reference: &str, word: String, now: Timestamp) {
        let Some(purchase) = self.rows.get_mut(reference) else {
            return;
        };
        self.by_change
            .remove(&(purchase.updated(), purchase.id.clone()));
        purchase.enter(word, now);
        let place = (purchase.updated(), purchase.id.clone());
        self.by_change
            .insert(place, Arc::clone(&purchase.reference));
    }

    pub(crate) fn kept(&self, key: &str) -> Option<&Kept> {
        self.kept.get(key)
    }

    pub(crate) fn keep(&mut self, key: String, kept: Kept, kept_max: usize) {
        if self.kept.insert(key.clone(), kept).is_none() {
            self.kept_order.push_back(key);
        }
        while self.kept_order.len() > kept_max.max(1) {
            if let Some(oldest) = self.kept_order.pop_front() {
                self.kept.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn draft(id: &str) -> Draft {
        Draft {
            id: id.to_owned(),
            reference: format!("ref-{id}"),
            scenario: Scenario::Paid,
            life: crate::life::time_line(&[(0, "a"), (1000, "b"), (2000, "c")], Scenario::Paid),
            facts: json!({}),
        }
    }

    #[test]
    fn the_oldest_purchase_is_dropped() {
        let mut book = Book::default();
        let now = Timestamp::UNIX_EPOCH;
        for (number, id) in ["1", "2", "3"].iter().enumerate() {
            book.insert(draft(id), number as u64, 2, Duration::ZERO, now);
        }
        assert!(book.find("ref-1").is_none());
        let ids: Vec<_> = book
            .newest_first()
            .map(|purchase| purchase.id.clone())
            .collect();
        assert_eq!(ids, ["3", "2"]);
        assert_eq!(book.changed_from(Timestamp::MIN, "").count(), 2);
    }

    #[test]
    fn a_word_set_by_hand_ends_the_time_line() {
        let mut book = Book::default();
        let now = Timestamp::UNIX_EPOCH;
        book.insert(draft("1"), 1, 9, Duration::ZERO, now);
        book.step("ref-1", Duration::from_millis(1500), now);
        assert_eq!(book.find("ref-1").unwrap().word(), "b");
        assert!(book.set("ref-1", "x", now));
        book.step("ref-1", Duration::from_secs(60), now);
        assert_eq!(book.find("ref-1").unwrap().word(), "x");
        assert!(!book.set("ref-2", "x", now));
    }
}
