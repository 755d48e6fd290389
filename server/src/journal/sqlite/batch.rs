//! Reads of single records, together: what arrives while a read is under way is the next read, and
//! whoever asks for the same purchase shares an answer. 50,000 resumes are a few hundred reads.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    journal::{JournalError, Record},
    purchase::PurchaseId,
};

/// Records read at once.
const RECORDS_MAX: usize = 256;

/// What is read of one purchase.
pub(super) type Answer = Result<Option<Record>, JournalError>;

/// Who waits for which record.
pub(super) type Asked = HashMap<PurchaseId, Vec<oneshot::Sender<Answer>>>;

/// Records that are asked for.
#[derive(Debug, Default)]
pub(super) struct Batch(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    asked: Asked,
    /// Whether somebody is reading, who will read these as well.
    reading: bool,
}

impl Batch {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a record. Where the second is true, the caller has to begin to read.
    pub(super) fn ask(&self, purchase: PurchaseId) -> (oneshot::Receiver<Answer>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.asked.entry(purchase).or_default().push(sender);
        let begins = !std::mem::replace(&mut waiting.reading, true);
        (receiver, begins)
    }

    /// Takes what to read next. `None` where nothing is left: then whoever asks next begins.
    ///
    /// What is taken is read after it was asked for, so that everybody reads their own writes.
    pub(super) fn take(&self) -> Option<Asked> {
        let mut waiting = self.lock();
        if waiting.asked.is_empty() {
            waiting.reading = false;
            return None;
        }
        if waiting.asked.len() <= RECORDS_MAX {
            return Some(std::mem::take(&mut waiting.asked));
        }
        let ids: Vec<PurchaseId> = waiting.asked.keys().take(RECORDS_MAX).copied().collect();
        Some(
            ids.into_iter()
                .filter_map(|id| waiting.asked.remove_entry(&id))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_for_the_same_record_share_a_read_and_one_reads_at_a_time() {
        let batch = Batch::default();
        let id = PurchaseId::from_u128;
        let (_first, begins) = batch.ask(id(1));
        let (_second, begins_again) = batch.ask(id(1));
        let (_third, _) = batch.ask(id(2));
        assert!(begins && !begins_again);
        let asked = batch.take().unwrap();
        assert_eq!((asked.len(), asked[&id(1)].len()), (2, 2));
        let (_fourth, begins) = batch.ask(id(1));
        assert!(!begins, "the one who reads goes on");
        assert_eq!(batch.take().unwrap().len(), 1);
        assert!(batch.take().is_none());
        assert!(batch.ask(id(1)).1, "nobody is reading any more");
    }

    #[test]
    fn a_read_is_bounded() {
        let batch = Batch::default();
        let kept: Vec<_> = (0..1_000)
            .map(|bits| batch.ask(PurchaseId::from_u128(bits)))
            .collect();
        let mut sizes = Vec::new();
        while let Some(asked) = batch.take() {
            sizes.push(asked.len());
        }
        assert_eq!(sizes, [256, 256, 256, 232]);
        drop(kept);
    }
}
