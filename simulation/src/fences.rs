//! The judge of leases: it knows the owner of each account at each moment, as no process does, and holds
//! polls and commits against it.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tillwatch_server::{
    journal::{
        Fence, JournalError, Lease, Look, Ownership, ReplicaId, Write, Written,
        memory::{MemoryJournal, MemoryOwnership},
    },
    purchase::{AccountName, Cause},
};

use crate::store::Life;

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

/// The leases as a process that can die or be stopped sees them.
#[derive(Debug)]
pub struct MortalOwnership {
    inner: MemoryOwnership,
    life: Life,
    fences: Fences,
    random: Mutex<StdRng>,
}

impl MortalOwnership {
    /// The leases as the process `life` sees them.
    pub fn new(inner: MemoryOwnership, life: Life, fences: Fences, seed: u64) -> Self {
        Self {
            inner,
            life,
            fences,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// The way to the store and back: usually short, now and then too long.
    async fn pass(&self) {
        let wait = {
            let mut random = self.random.lock().unwrap();
            let slow = if random.random_bool(0.01) { 200 } else { 1 };
            random.random_range(0..=8) * slow
        };
        tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
        self.life.go_on().await;
    }
}

#[async_trait]
impl Ownership for MortalOwnership {
    fn is_shared(&self) -> bool {
        true
    }

    fn replica(&self) -> &ReplicaId {
        self.inner.replica()
    }

    async fn look(&self, renewed: &[Fence]) -> Result<Look, JournalError> {
        self.pass().await;
        let look = self.inner.look(renewed).await;
        self.pass().await;
        look
    }

    async fn take(
        &self,
        account: &AccountName,
        seen: Option<&Lease>,
    ) -> Result<Option<Fence>, JournalError> {
        self.pass().await;
        let taken = self.inner.take(account, seen).await;
        if let Ok(Some(fence)) = &taken
            && fence.number > 1
        {
            self.fences.seen.lock().unwrap().tally.takeovers += 1;
        }
        self.pass().await;
        taken
    }

    async fn release(&self, fence: &Fence) -> Result<(), JournalError> {
        self.pass().await;
        self.inner.release(fence).await
    }

    async fn leave(&self) -> Result<(), JournalError> {
        self.pass().await;
        self.inner.leave().await
    }
}
