//! Groups, faults and silence, with a store that waits for a sign before each commit.

use std::{panic::panic_any, sync::mpsc as blocking};

use tokio::time::Instant;

use super::*;
use crate::{
    purchase::{Cause, PurchaseId, Status, Timestamp},
    testing,
};

/// A store that waits for a sign before each commit and tells how large the group was.
struct Slow {
    go: blocking::Receiver<Act>,
    sizes: mpsc::UnboundedSender<usize>,
}

enum Act {
    Succeed,
    /// Commits a transition, which observers hear of.
    Tell,
    Fail,
    Panic,
}

/// A panic's message that cannot even be dropped: no guard around an observer holds it.
struct Undroppable;

impl Drop for Undroppable {
    fn drop(&mut self) {
        panic!("as told");
    }
}

fn transition() -> Arc<Committed> {
    let status = Status::pending(Timestamp::default());
    Arc::new(Committed {
        position: Position(1),
        purchase: testing::record(PurchaseId::from_u128(1), "a", "carbon", status).purchase,
        from_state: None,
        cause: Cause::Create,
    })
}

impl BlockingStore for Slow {
    fn commit(&mut self, changes: Vec<Change>) -> Result<Group, JournalError> {
        self.sizes.send(changes.len()).unwrap();
        let committed = match self.go.recv().unwrap() {
            Act::Succeed => Vec::new(),
            Act::Tell => vec![transition()],
            Act::Fail => return Err(JournalError::unavailable("as told")),
            Act::Panic => panic!("as told"),
        };
        Ok(Group {
            answers: (changes.iter())
                .map(|_| Ok(CommitAnswer::Written(Written::Done)))
                .collect(),
            committed,
            head: Position(0),
            wrote: true,
            failed: None,
        })
    }

    fn probe(&mut self) -> Result<(), JournalError> {
        self.sizes.send(0).unwrap();
        match self.go.recv().unwrap() {
            Act::Succeed | Act::Tell => Ok(()),
            Act::Fail | Act::Panic => Err(JournalError::unavailable("as told")),
        }
    }

    fn close(&mut self) {}
}

struct Bench {
    committer: Arc<Committer>,
    go: blocking::Sender<Act>,
    sizes: mpsc::UnboundedReceiver<usize>,
}

fn bench() -> Bench {
    let (go, told) = blocking::channel();
    let (tell, sizes) = mpsc::unbounded_channel();
    let store = Slow {
        go: told,
        sizes: tell,
    };
    let published = Arc::new(Published::new(Position(0)));
    Bench {
        committer: Arc::new(Committer::start(Blocks::new(store), published)),
        go,
        sizes,
    }
}

impl Bench {
    /// More signs than a test can use: a store that waits for one would hold up its end.
    fn let_all_succeed(&self) {
        for _ in 0..10_000 {
            self.go.send(Act::Succeed).unwrap();
        }
    }

    /// Starts so many writes and lets them get as far as they can.
    async fn write(&self, count: usize) -> Vec<JoinHandle<Result<Written, JournalError>>> {
        let put = || Write::Put {
            key: String::new(),
            fence: None,
            value: String::new(),
        };
        let writers: Vec<_> = (0..count)
            .map(|_| {
                let committer = Arc::clone(&self.committer);
                tokio::spawn(async move { committer.write(put()).await })
            })
            .collect();
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        writers
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_commit_is_the_next_group() {
    let mut bench = bench();
    let first = bench.write(1).await;
    assert_eq!(bench.sizes.recv().await, Some(1), "no wait when idle");
    let others = bench.write(600).await;
    bench.let_all_succeed();
    assert_eq!(bench.sizes.recv().await, Some(512));
    assert_eq!(bench.sizes.recv().await, Some(88));
    for writer in first.into_iter().chain(others) {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
    assert_eq!(bench.committer.published().commits(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let mut bench = bench();
    let first = bench.write(1).await;
    assert_eq!(bench.sizes.recv().await, Some(1));
    let others = bench.write(QUEUE_MAX + 300).await;
    let free = bench.committer.queue.capacity();
    bench.let_all_succeed();
    assert_eq!(free, 0, "300 wait outside");
    for writer in first.into_iter().chain(others) {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_is_followed_by_a_probe_each_second() {
    let mut bench = bench();
    let mut available = bench.committer.published().available();
    let start = Instant::now();
    for act in [Act::Fail, Act::Fail, Act::Fail, Act::Succeed] {
        bench.go.send(act).unwrap();
    }
    let writers = bench.write(3).await;
    for writer in writers {
        let error = writer.await.unwrap().unwrap_err();
        assert!(!*available.borrow(), "{error}");
    }
    available.wait_for(|available| *available).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 3);
    let mut sizes = Vec::new();
    while let Ok(size) = bench.sizes.try_recv() {
        sizes.push(size);
    }
    assert_eq!(sizes, [3, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_succeeds_ends_the_fault_before_the_probe() {
    let bench = bench();
    let start = Instant::now();
    for act in [Act::Panic, Act::Succeed] {
        bench.go.send(act).unwrap();
    }
    for (is_ok, available) in [(false, false), (true, true)] {
        for writer in bench.write(2).await {
            assert_eq!(writer.await.unwrap().is_ok(), is_ok);
        }
        assert_eq!(*bench.committer.published().available().borrow(), available);
    }
    assert!(start.elapsed() < PROBE_INTERVAL);
}

/// Nobody waits for ever: the writers of that moment are told, the journal counts as away until it has
/// worked again, and the restart is counted.
#[tokio::test(start_paused = true)]
async fn a_panic_of_the_task_that_commits_hangs_no_writer_and_is_seen() {
    let bench = bench();
    let published = Arc::clone(bench.committer.published());
    let mut available = published.available();
    published
        .observers
        .add(Hears::Purchases, Arc::new(|_| panic_any(Undroppable)));
    bench.go.send(Act::Tell).unwrap();
    let start = Instant::now();
    for writer in bench.write(3).await {
        let told = writer.await.unwrap();
        assert!(
            matches!(told, Err(JournalError::Unavailable(_))),
            "{told:?}"
        );
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(published.restarts(), 1);
    assert!(!*available.borrow_and_update());
    let waiting = bench.write(3).await;
    bench.let_all_succeed();
    for writer in waiting {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
    assert_eq!(start.elapsed(), PROBE_INTERVAL);
    assert!(*available.borrow_and_update());
    assert_eq!(published.restarts(), 1);
}

#[tokio::test(start_paused = true)]
async fn close_commits_what_has_arrived() {
    let mut bench = bench();
    let first = bench.write(1).await;
    assert_eq!(bench.sizes.recv().await, Some(1));
    let others = bench.write(10).await;
    bench.let_all_succeed();
    bench.committer.close().await;
    for writer in first.into_iter().chain(others) {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
    for writer in bench.write(1).await {
        assert!(writer.await.unwrap().is_err());
    }
}

/// Lets the tasks of a paused clock get as far as they can at this moment.
async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_under_way_for_five_seconds_is_a_journal_that_is_away() {
    let mut bench = bench();
    let published = Arc::clone(bench.committer.published());
    let mut available = published.available();
    let own = bench.write(1).await;
    assert_eq!(bench.sizes.recv().await, Some(1));
    let queued = bench.write(3).await;
    tokio::time::advance(SILENT_AFTER - Duration::from_millis(1)).await;
    settle().await;
    assert!(*available.borrow_and_update(), "not yet");
    assert_eq!(published.under_way.lasts().as_millis(), 4_999);
    tokio::time::advance(Duration::from_millis(1)).await;
    settle().await;
    let is_available = *available.borrow_and_update();
    let late = bench.write(2).await;
    let refused: Vec<_> = queued.into_iter().chain(late).collect();
    let answered = refused.iter().all(JoinHandle::is_finished);
    let is_kept = !own[0].is_finished();
    // This comes before any assertion: a store that waits would hold up the end of a failing test.
    bench.let_all_succeed();
    assert!(!is_available);
    assert!(answered, "a writer is told at once");
    for writer in refused {
        let error = writer.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
    }
    assert!(is_kept, "a write under way may still be done");
    for writer in own {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
    assert!(*available.borrow_and_update(), "back with the commit");
    assert_eq!(published.under_way.lasts(), Duration::ZERO);
    for writer in bench.write(1).await {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_journal_closes_on_a_disk_that_was_silent() {
    let mut bench = bench();
    let own = bench.write(1).await;
    assert_eq!(bench.sizes.recv().await, Some(1));
    tokio::time::advance(SILENT_AFTER).await;
    settle().await;
    let committer = Arc::clone(&bench.committer);
    let closing = tokio::spawn(async move { committer.close().await });
    settle().await;
    bench.let_all_succeed();
    closing.await.unwrap();
    for writer in own {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_committer_that_waits_for_its_disk_or_for_writes_makes_progress() {
    let mut bench = bench();
    let committer = Arc::clone(&bench.committer);
    // For a minute it is asked each ten seconds.
    let beats = async || {
        let before = committer.progress().beats();
        for _ in 0..6 {
            tokio::time::advance(Duration::from_secs(10)).await;
            committer.progress().ask();
            settle().await;
        }
        committer.progress().beats() - before
    };
    settle().await;
    assert_eq!(beats().await, 6, "idle");
    let own = bench.write(1).await;
    assert_eq!(bench.sizes.recv().await, Some(1));
    let silent = beats().await;
    bench.let_all_succeed();
    assert_eq!(silent, 6, "a minute without an answer of the disk");
    for writer in own {
        assert_eq!(writer.await.unwrap().unwrap(), Written::Done);
    }
}
