//! Small reads, together: questions that arrive while a read is under way are the next read, and
//! equal questions share an answer. 50,000 resumes are a few hundred reads.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::JournalError;

/// Questions answered by one read.
const READ_MAX: usize = 256;

/// The answer to each question: the value found, or that its row cannot be read.
pub(super) type Found<K, T> = HashMap<K, Result<T, JournalError>>;

/// The waiters for each answer.
type Asked<K, T> = HashMap<K, Vec<oneshot::Sender<Result<T, JournalError>>>>;

/// The open questions of one kind.
#[derive(Debug)]
pub(super) struct Questions<K, T> {
    requests: Mutex<Requests<K, T>>,
    /// The time of a read from which on those who ask meanwhile are refused, if there is one.
    turn_max: Option<Duration>,
}

#[derive(Debug)]
struct Requests<K, T> {
    asked: Asked<K, T>,
    /// True if somebody is reading, and will read these as well.
    reading: bool,
}

impl<K, T> Default for Questions<K, T> {
    fn default() -> Self {
        Self {
            requests: Mutex::new(Requests {
                asked: HashMap::new(),
                reading: false,
            }),
            turn_max: None,
        }
    }
}

impl<K: Clone + Eq + Hash, T> Questions<K, T> {
    /// Questions of a store whose reads can hang: nobody waits for longer than this until it is their turn.
    pub(super) fn with_turns_within(longest: Duration) -> Self {
        Self {
            turn_max: Some(longest),
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Requests<K, T>> {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one thing. If the second value is true, the caller has to begin to read.
    fn ask(&self, key: K) -> (oneshot::Receiver<Result<T, JournalError>>, bool) {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        waiting.asked.entry(key).or_default().push(sender);
        let begins = !std::mem::replace(&mut waiting.reading, true);
        (receiver, begins)
    }

    /// Takes the questions to read next. `None` if nothing is left: then the next asker begins.
    ///
    /// A question is read after it was asked, so that everybody reads their own writes.
    fn take(&self) -> Option<Asked<K, T>> {
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

impl<K, T> Questions<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + 'static,
{
    /// Asks for one thing. If nobody is reading, begins a task that reads everything that is asked for.
    ///
    /// # Cancel safety
    /// A question whose asker has gone away is still read.
    pub(super) async fn answer<R>(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        key: K,
        read: impl Fn(Vec<K>) -> R + Send + 'static,
    ) -> Result<T, JournalError>
    where
        R: Future<Output = Result<Found<K, T>, JournalError>> + Send,
    {
        let (answer, begins) = self.ask(key);
        if begins {
            let questions = Arc::clone(self);
            tasks.spawn(async move {
                while let Some(asked) = questions.take() {
                    let reading = read(asked.keys().cloned().collect());
                    let found = questions.in_turn(reading).await;
                    tell(asked, &found);
                }
            });
        }
        answer
            .await
            .unwrap_or_else(|_| Err(JournalError::unavailable("it is closed")))
    }

    /// Waits for a read, and refuses those who ask meanwhile if it takes too long.
    async fn in_turn<F>(&self, reading: impl Future<Output = F>) -> F {
        let Some(turn_max) = self.turn_max else {
            return reading.await;
        };
        let mut reading = std::pin::pin!(reading);
        loop {
            match tokio::time::timeout(turn_max, &mut reading).await {
                Ok(found) => return found,
                Err(_) => {
                    let waiting = std::mem::take(&mut self.lock().asked);
                    let busy = "the read before it takes too long";
                    tell(waiting, &Err(JournalError::unavailable(busy)));
                }
            }
        }
    }
}

/// Answers everybody who has asked.
fn tell<K: Eq + Hash, T: Clone>(asked: Asked<K, T>, found: &Result<Found<K, T>, JournalError>) {
    for (key, senders) in asked {
        let answer = match found {
            Ok(found) => found.get(&key).cloned(),
            Err(error) => Some(Err(error.clone())),
        };
        let answer = answer.unwrap_or_else(|| Err(JournalError::unavailable("it was not read")));
        for sender in senders {
            // An asker that has stopped waiting needs no answer.
            drop(sender.send(answer.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_for_the_same_share_a_read_and_one_reads_at_a_time() {
        let questions = Questions::<u32, ()>::default();
        let (_first, begins) = questions.ask(1);
        let (_second, begins_again) = questions.ask(1);
        let (_third, _) = questions.ask(2);
        assert!(begins && !begins_again);
        let asked = questions.take().unwrap();
        assert_eq!((asked.len(), asked[&1].len()), (2, 2));
        let (_fourth, begins) = questions.ask(1);
        assert!(!begins, "the one who reads goes on");
        assert_eq!(questions.take().unwrap().len(), 1);
        assert!(questions.take().is_none());
        assert!(questions.ask(1).1, "nobody is reading any more");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_while_a_read_hangs_is_refused_in_time_and_the_next_is_answered() {
        let questions = Questions::<u32, u32>::with_turns_within(Duration::from_secs(2));
        let (questions, tasks) = (Arc::new(questions), TaskTracker::new());
        let read = |asked: Vec<u32>| async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(asked.into_iter().map(|one| (one, Ok(one))).collect())
        };
        let began = tokio::time::Instant::now();
        let first = questions.answer(&tasks, 1, read);
        let second = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let answer = questions.answer(&tasks, 2, read).await;
            (answer, began.elapsed())
        };
        let (first, (second, waited)) = tokio::join!(first, second);
        assert_eq!(first.unwrap(), 1);
        assert!(matches!(second, Err(JournalError::Unavailable(_))));
        assert_eq!(waited.as_secs(), 2);
        assert_eq!(questions.answer(&tasks, 3, read).await.unwrap(), 3);
    }

    #[test]
    fn a_read_is_bounded() {
        let questions = Questions::<u32, ()>::default();
        let kept: Vec<_> = (0..1_000).map(|number| questions.ask(number)).collect();
        let mut sizes = Vec::new();
        while let Some(asked) = questions.take() {
            sizes.push(asked.len());
        }
        assert_eq!(sizes, [256, 256, 256, 232]);
        drop(kept);
    }
}
