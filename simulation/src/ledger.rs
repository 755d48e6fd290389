//! The providers' ledger: everything that they were sent, sold and said, for the checker.

use std::collections::BTreeMap;

use tillwatch_server::{
    journal::ReplicaId,
    purchase::{Finality, State, Timestamp},
};

/// One purchase that a provider sold, on its way through the provider's words.
#[derive(Debug, Clone)]
pub struct Sold {
    /// The seller.
    pub provider: &'static str,
    /// The provider's name for it.
    pub reference: String,
    /// The order's mark, which is its idempotency key as well.
    pub mark: String,
    /// The time at which each word begins.
    pub walk: Vec<(Timestamp, String)>,
}

impl Sold {
    /// The step of the walk at a time.
    pub fn step(&self, now: Timestamp) -> usize {
        let begun = self.walk.iter().filter(|(began, _)| *began <= now).count();
        begun.saturating_sub(1)
    }

    /// The word at a time.
    pub fn word(&self, now: Timestamp) -> &str {
        &self.walk[self.step(now)].1
    }
}

/// One create that reached a provider.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The provider.
    pub provider: &'static str,
    /// The order's mark.
    pub mark: String,
    /// The provider's own idempotency key, if it takes one.
    pub key: String,
    /// The time of its arrival.
    pub at: Timestamp,
    /// True if the account was turned away before the order was looked at.
    pub turned_away: bool,
    /// True if the provider said that it will not have this order.
    pub refused: bool,
}

/// The meaning of an answer by the status table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// A state.
    Definite(State, Finality),
    /// A word without a row.
    Unmapped,
    /// Nothing about the purchase.
    Nothing,
}

/// One answer about a purchase.
#[derive(Debug, Clone)]
pub struct Given {
    /// The provider's name for the purchase.
    pub reference: String,
    /// The time at which it left.
    pub at: Timestamp,
    /// Its meaning.
    pub meaning: Meaning,
    /// Its stamp, which some providers show.
    pub stamp: Option<Timestamp>,
    /// True if it is a row of a page, and not an answer to a read of this purchase alone.
    pub is_row: bool,
}

/// The pages of one provider's lists that were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pages {
    /// Rounds: pages that no full page of the same list came before.
    pub sweeps: u64,
    /// Pages.
    pub pages: u64,
    /// Rows on them.
    pub rows: u64,
}

impl Pages {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.sweeps += other.sweeps;
        self.pages += other.pages;
        self.rows += other.rows;
    }
}

/// All that the providers know and remember.
#[derive(Default)]
pub struct Ledger {
    /// Everything sold, by provider and reference.
    pub sold: BTreeMap<(&'static str, String), Sold>,
    /// Creates that arrived, the oldest first.
    pub sent: Vec<Sent>,
    /// Answers that were given, the oldest first.
    pub given: Vec<Given>,
    /// The times of all requests.
    pub requests: BTreeMap<&'static str, Vec<Timestamp>>,
    /// The same of each of several processes, by its name.
    pub requests_of: BTreeMap<(&'static str, ReplicaId), Vec<Timestamp>>,
    /// The lists' pages.
    pub pages: BTreeMap<&'static str, Pages>,
    /// Promises that were seen broken while it happened.
    pub violations: Vec<String>,
}

impl Ledger {
    /// The purchase of a mark.
    pub fn of_mark(&self, provider: &str, mark: &str) -> Option<&Sold> {
        (self.sold.values()).find(|sold| sold.provider == provider && sold.mark == mark)
    }
}
