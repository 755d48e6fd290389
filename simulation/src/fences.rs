//! The judge of leases: it knows the owner of each account at each moment, as no process does, and holds
//! polls and commits against it.

use std::sync::{Arc, Mutex};

use tillwatch_server::{
    journal::{JournalError, ReplicaId, Write, Written, memory::MemoryJournal},
    purchase::{AccountName, Cause},
};

/// The figures of leases in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Leases that were taken from another owner, or after one.
    pub takeovers: u64,
    /// Polls that began, each under the newest take.
    pub polls: u64,
    /// Writes that the store refused, since another has taken the account.
    pub refused: u64,
}

/// The judge of one run. Clones are the same.
#[derive(Debug, Clone)]
pub struct Fences {
    /// The store itself.
    store: Arc<MemoryJournal>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    tally: Tally,
    violations: Vec<String>,
}

/// A write as it was when it began.
#[derive(Debug)]
pub enum Judged {
    /// It may be done.
    Fair,
    /// Another has taken the account: it must not be done.
    Passed(String),
}

impl Fences {
    /// A judge over this store.
    pub fn new(store: Arc<MemoryJournal>) -> Self {
        Self {
            store,
            seen: Arc::default(),
        }
    }

    /// The figures so far, and the broken promises.
    pub fn seen(&self) -> (Tally, Vec<String>) {
        let seen = self.seen.lock().unwrap();
        (seen.tally, seen.violations.clone())
    }

    fn violation(&self, text: String) {
        self.seen.lock().unwrap().violations.push(text);
    }

    /// Promise P1: a poll begins.
    pub fn polls(&self, replica: &ReplicaId, account: &str) {
        let (owner, number) = self.store.owner(&AccountName::new(account));
        self.seen.lock().unwrap().tally.polls += 1;
        if owner.as_ref() != Some(replica) {
            let replica = replica.as_str();
            self.violation(format!(
                "P1: {replica} asks {account}, whose owner is {owner:?} by take {number}"
            ));
        }
    }

    /// A lease was taken from another owner, or after one.
    pub fn taken_over(&self) {
        self.seen.lock().unwrap().tally.takeovers += 1;
    }

    /// Looks at a write that is about to begin.
    pub fn judge(&self, replica: &ReplicaId, write: &Write) -> Judged {
        let (fence, is_poll) = match write {
            Write::Append {
                fence, transition, ..
            } => (fence.as_ref(), transition.cause == Cause::Poll),
            Write::Put { fence, .. } => (fence.as_ref(), false),
            _any_process_s => (None, false),
        };
        let name = replica.as_str();
        let Some(fence) = fence else {
            if is_poll {
                self.violation(format!(
                    "P1: {name} commits a poll without a fence: {write:?}"
                ));
            }
            return Judged::Fair;
        };
        let (_, number) = self.store.owner(&fence.account);
        match fence.number < number {
            true => Judged::Passed(format!(
                "{name} under {fence:?}, although take {number} is made"
            )),
            false => Judged::Fair,
        }
    }

    /// A write that was looked at has ended.
    pub fn written(&self, judged: Judged, written: &Result<Written, JournalError>) {
        if matches!(written, Ok(Written::Fenced)) {
            self.seen.lock().unwrap().tally.refused += 1;
        }
        if let (Judged::Passed(text), Ok(Written::Done)) = (judged, written) {
            self.violation(format!("P1: committed by {text}"));
        }
    }
}
