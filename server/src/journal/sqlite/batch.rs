//! Small reads, together: questions that arrive while a read is under way are the next read, and
//! equal questions share an answer. 50,000 resumes are a few hundred reads.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::journal::JournalError;

/// Questions answered by one read.
const READ_MAX: usize = 256;

/// The waiters for each answer.
pub(super) type Asked<K, T> = HashMap<K, Vec<oneshot::Sender<Result<T, JournalError>>>>;

/// The open questions of one kind.
#[derive(Debug)]
pub(super) struct Batch<K, T>(Mutex<Requests<K, T>>);

#[derive(Debug)]
struct Requests<K, T> {
    asked: Asked<K, T>,
    /// True if somebody is reading, and will read these as well.
    reading: bool,
}

impl<K, T> Default for Batch<K, T> {
    fn default() -> Self {
        Self(Mutex::new(Requests {
            asked: HashMap::new(),
            reading: false,
        }))
    }
}

impl<K: Clone + Eq + Hash, T> Batch<K, T> {
    fn lock(&self) -> MutexGuard<'_, Requests<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one thing. If the second value is true, the caller has to begin to read.
    pub(super) fn ask(&self, key: K) -> (oneshot::Receiver<Result<T, JournalError>>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.asked.entry(key).or_default().push(sender);
        let begins = !std::mem::replace(&mut waiting.reading, true);
        (receiver, begins)
    }

    /// Takes the questions to read next. `None` if nothing is left: then the next asker begins.
    ///
    /// A question is read after it was asked, so that everybody reads their own writes.
    pub(super) fn take(&self) -> Option<Asked<K, T>> {
        let mut waiting = self.lock();
        if waiting.asked.is_empty() {
            waiting.reading = false;
            return None;
        }
        if waiting.asked.len() <= READ_MAX {
            return Some(std::mem::take(&mut waiting.asked));
        }
        let keys: Vec<K> = waiting.asked.keys().take(READ_MAX).cloned().collect();
        Some(
            keys.into_iter()
                .filter_map(|key| waiting.asked.remove_entry(&key))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_for_the_same_share_a_read_and_one_reads_at_a_time() {
        let batch = Batch::<u32, ()>::default();
        let (_first, begins) = batch.ask(1);
        let (_second, begins_again) = batch.ask(1);
        let (_third, _) = batch.ask(2);
        assert!(begins && !begins_again);
        let asked = batch.take().unwrap();
        assert_eq!((asked.len(), asked[&1].len()), (2, 2));
        let (_fourth, begins) = batch.ask(1);
        assert!(!begins, "the one who reads goes on");
        assert_eq!(batch.take().unwrap().len(), 1);
        assert!(batch.take().is_none());
        assert!(batch.ask(1).1, "nobody is reading any more");
    }

    #[test]
    fn a_read_is_bounded() {
        let batch = Batch::<u32, ()>::default();
        let kept: Vec<_> = (0..1_000).map(|number| batch.ask(number)).collect();
        let mut sizes = Vec::new();
        while let Some(asked) = batch.take() {
            sizes.push(asked.len());
        }
        assert_eq!(sizes, [256, 256, 256, 232]);
        drop(kept);
    }
}
